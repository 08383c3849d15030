r"""Preconditioners: the inverse of one curvature matrix that all outputs share (see also `joint`).

With row curvatures :math:`w_i` of the loss at the current weights,

.. math:: B = \frac{1}{\sum_i s_i} \sum_i s_i w_i \tilde x_i \tilde x_i^\top
              + \mathrm{diag}(\lambda^{(2)}), \qquad P = B^{-1}.

For squared error over all rows it is the Hessian, and a step of :math:`-P g` ends at the optimum.
For softmax at zero it is within a factor of Böhning's bound (1992); evaluated where the weights
are, it follows the curvature as rows become certain.
"""

from typing import Protocol

import torch
from torch import Tensor

#: Eigenvalues below this many roundings of the largest one, times their number, count as zero.
RESOLVED = 4.0


class Preconditioner(Protocol):
    """``B`` and its inverse ``P``, applied to tensors of shape ``(M, K, D + 1)``."""

    def solve(self, gradient: Tensor) -> Tensor:
        """``P g``."""

    def solve_singular(self, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``B^+ g``, where B may be singular to rounding.

        Returns
        -------
        solution : Tensor of shape (M, K, D + 1)
        rest : Tensor of shape (M, U, K, D + 1)
            Directions in which B is zero to rounding, each times the part of g along it.
        curvature : Tensor of shape (M,)
            B's curvature along them is less than this, in units in which B has a unit diagonal.
        """

    def product(self, weights: Tensor) -> Tensor:
        """``B v``."""

    def block(self, models: Tensor, index: Tensor, outputs: int) -> Tensor:
        """Principal submatrices of B.

        Parameters
        ----------
        models : Tensor of int, shape (m,)
            The model of each submatrix.
        index : Tensor of int, shape (m, a)
            Its rows and columns, as places among the model's ``K * (D + 1)`` weights.
        outputs : int
            K.

        Returns
        -------
        block : Tensor of shape (m, a, a)
            The caller may overwrite it.
        """

    @property
    def lifted(self) -> Tensor:
        """Which models' B was singular to rounding, and P made of a larger one, shape ``(M,)``."""

    @property
    def smallest_pivot(self) -> float:
        """Square of the smallest pivot of the models' factors, zero if B of one was singular."""

    @property
    def diagonal(self) -> Tensor:
        """Of B, shape ``(M, 1, D + 1)``, or ``(M, K, D + 1)`` where outputs differ."""


class Diagonal:
    """The diagonal of B alone.

    Parameters
    ----------
    diagonal : Tensor of shape (M, D + 1)
        The data's part.
    l2 : Tensor of shape (M, 1, D + 1)
        The penalty's part.
    shift_invariant : bool
        Whether the data's part is flat along what all outputs have in common.
    """

    def __init__(self, diagonal: Tensor, l2: Tensor, shift_invariant: bool = False) -> None:
        self.l2, self._shift_invariant = l2, shift_invariant
        self.diagonal = diagonal.unsqueeze(1) + l2
        curved = self.diagonal > 0
        self.smallest_pivot = 1.0
        self.inverse = torch.where(curved, 1.0 / torch.where(curved, self.diagonal, 1.0), 0.0)
        self.lifted = torch.zeros(len(l2), dtype=torch.bool, device=l2.device)

    def solve_singular(self, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As of `Preconditioner`."""
        rest = torch.where(self.inverse == 0, gradient, 0.0)
        return self.solve(gradient), rest.unsqueeze(1), torch.zeros_like(rest[:, 0, 0])

    def solve(self, gradient: Tensor) -> Tensor:
        """``P g``."""
        return self.inverse * gradient

    def product(self, weights: Tensor) -> Tensor:
        """``B v``."""
        seen = apart(weights) if self._shift_invariant else weights
        return (self.diagonal - self.l2) * seen + self.l2 * weights

    def block(self, models: Tensor, index: Tensor, outputs: int) -> Tensor:
        """Principal submatrices of B, as of `Preconditioner`."""
        output, column = index // self.l2.shape[-1], index % self.l2.shape[-1]
        l2 = self.l2[models, 0].gather(1, column)
        data = self.diagonal[models, 0].gather(1, column) - l2
        moments = torch.where(same(column), data.unsqueeze(2), 0.0)
        return with_outputs(moments, output, l2, outputs, self._shift_invariant)


class Factored:
    """B as a Cholesky factor, of unit diagonal so that the columns' scales cost no digits.

    Parameters
    ----------
    matrix : Tensor of shape (M, r, r)
        The data's part, in the coordinates of `basis`.
    l2 : Tensor of shape (M, 1, D + 1)
        The penalty's part.
    basis : Tensor of shape (D + 1, r), optional
        Orthonormal columns that span all rows, when these are fewer than the columns (r < D + 1).
    noise : float
        Relative rounding error of the gradients: curvature below it cannot be told from none.
    shift_invariant : bool
        Whether the data's part is flat along what all outputs have in common.

    Attributes
    ----------
    is_singular : bool
        Whether B of any model is singular to rounding.
    smallest_pivot : float
        As of `Preconditioner`.
    """

    def __init__(
        self,
        matrix: Tensor,
        l2: Tensor,
        basis: Tensor | None,
        noise: float,
        shift_invariant: bool = False,
    ) -> None:
        self.matrix, self.l2, self.basis = matrix, l2, basis
        self._shift_invariant = shift_invariant
        if basis is None:
            self.diagonal = matrix.diagonal(dim1=-2, dim2=-1).unsqueeze(1) + l2
            whole, diagonal = matrix, self.diagonal.squeeze(1)
        else:
            self.diagonal = ((basis @ matrix) * basis).sum(dim=-1).unsqueeze(1) + l2
            whole = matrix + (basis.T * l2) @ basis
            diagonal = whole.diagonal(dim1=-2, dim2=-1)
        self._scale = torch.where(diagonal > 0, diagonal.rsqrt(), 0.0)
        unit = whole * self._scale.unsqueeze(-1)
        unit.mul_(self._scale.unsqueeze(-2))
        unit.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)  # a trial far out, soon rejected
        unit.diagonal(dim1=-2, dim2=-1).fill_(1.0)
        self._lower, self._lifted, pivot = self._cholesky(unit, noise)
        self.smallest_pivot = pivot**2
        self.is_singular = pivot == 0.0 or not bool(self._scale.all())
        self._unit = unit if self.is_singular else None

    @property
    def lifted(self) -> Tensor:
        """As of `Preconditioner`."""
        return self._lifted.expand(len(self.l2))

    @staticmethod
    def _cholesky(unit: Tensor, noise: float) -> tuple[Tensor, Tensor, float]:
        """Factor matrices of unit diagonal; lift those that are singular to rounding.

        Returns the factors, which models' were lifted, by as little as makes it possible, and the
        smallest pivot of those that were not, or zero.
        """
        lift = torch.zeros(unit.shape[0], dtype=unit.dtype, device=unit.device)
        least = (0.5 * noise) ** 0.5
        lower: Tensor
        lower, info = torch.linalg.cholesky_ex(unit)
        pivots = lower.diagonal(dim1=-2, dim2=-1).amin(dim=-1)
        smallest = 0.0 if bool(info.any()) else float(pivots.min())
        if smallest > least:
            return lower, lift > 0, smallest
        while True:
            pivots = lower.diagonal(dim1=-2, dim2=-1).amin(dim=-1)
            sound = (info == 0) & (pivots > least)
            if bool(sound.all()):
                return lower, lift > 0, 0.0
            more = torch.where(lift > 0, 100.0 * lift, noise)
            lift = torch.where(sound, lift, more)
            eye = torch.eye(unit.shape[-1], dtype=unit.dtype, device=unit.device)
            lower, info = torch.linalg.cholesky_ex(unit + lift.view(-1, 1, 1) * eye)

    def solve(self, gradient: Tensor) -> Tensor:
        """``P g``."""
        inside = gradient if self.basis is None else gradient @ self.basis
        scale = self._scale.unsqueeze(1)
        columns = (inside * scale).mT.contiguous()
        solved = torch.cholesky_solve(columns, self._lower).mT * scale
        return solved if self.basis is None else solved @ self.basis.T

    def solve_singular(self, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As of `Preconditioner`, by eigenvalues."""
        models, outputs, columns = gradient.shape
        if self._unit is None:
            nothing = gradient.new_zeros(models, 0, outputs, columns)
            return self.solve(gradient), nothing, gradient.new_zeros(models)
        inside = gradient if self.basis is None else gradient @ self.basis
        scale = torch.where(self._scale > 0, self._scale, 1.0).unsqueeze(1)
        unit = self._unit.clone()
        flat = (self._scale == 0) & (inside != 0).any(dim=1)
        unit.diagonal(dim1=-2, dim2=-1).mul_(~flat)
        values, vectors = torch.linalg.eigh(unit)  # (M, r), (M, r, r)
        values = values.unsqueeze(1)
        rounding = torch.finfo(values.dtype).eps * values[..., -1:].clamp(min=1.0)
        resolved = values > RESOLVED * values.shape[-1] * rounding
        along = (inside * scale) @ vectors  # (M, K, r)
        solved = torch.where(resolved, along / torch.where(resolved, values, 1.0), 0.0)
        solved = (solved @ vectors.mT) * scale
        zeros = int((~resolved).sum(dim=-1).max())  # eigenvalues ascend
        parts = torch.where(resolved, 0.0, along)[..., :zeros]  # (M, K, U)
        each = (vectors[..., :zeros].mT * scale).unsqueeze(1)  # (M, 1, U, r)
        rest = parts.unsqueeze(-1) * each  # (M, K, U, r)
        if self.basis is not None:
            solved, rest = solved @ self.basis.T, rest @ self.basis.T
        # One output at a time.
        own = torch.eye(outputs, dtype=rest.dtype, device=rest.device).view(outputs, 1, outputs, 1)
        rest = (rest.unsqueeze(3) * own).flatten(1, 2)
        return solved, rest, rounding.amax(dim=(1, 2)).expand(models)

    def product(self, weights: Tensor) -> Tensor:
        """``B v``."""
        seen = apart(weights) if self._shift_invariant else weights
        if self.basis is None:
            return seen @ self.matrix + self.l2 * weights
        return (seen @ self.basis) @ self.matrix @ self.basis.T + self.l2 * weights

    def block(self, models: Tensor, index: Tensor, outputs: int) -> Tensor:
        """Principal submatrices of B, as of `Preconditioner`."""
        output, column = index // self.l2.shape[-1], index % self.l2.shape[-1]
        of = models if len(self.matrix) > 1 else torch.zeros_like(models)
        if self.basis is None:
            moments = self.matrix[of.view(-1, 1, 1), column.unsqueeze(2), column.unsqueeze(1)]
        else:
            rows = self.basis[column]
            moments = (rows @ self.matrix[of]) @ rows.mT
        l2 = self.l2[models, 0].gather(1, column)
        return with_outputs(moments, output, l2, outputs, self._shift_invariant)


class ByOutput:
    """One matrix for each output of a model, where outputs have nothing in common.

    Parameters
    ----------
    matrix : Tensor of shape (M * K, r, r)
    l2, basis, noise
        As of `Factored`.
    outputs : int
        K.
    """

    def __init__(
        self, matrix: Tensor, l2: Tensor, basis: Tensor | None, noise: float, outputs: int
    ) -> None:
        self._outputs = outputs
        self._factored = Factored(matrix, l2.repeat_interleave(outputs, dim=0), basis, noise)

    @property
    def lifted(self) -> Tensor:
        """As of `Preconditioner`."""
        return self._factored.lifted.view(-1, self._outputs).any(dim=1)

    @property
    def smallest_pivot(self) -> float:
        """As of `Preconditioner`."""
        return self._factored.smallest_pivot

    @property
    def diagonal(self) -> Tensor:
        """Of B, shape ``(M, K, D + 1)``."""
        diagonal = self._factored.diagonal
        return diagonal.view(-1, self._outputs, diagonal.shape[-1])

    def solve(self, gradient: Tensor) -> Tensor:
        """``P g``."""
        return self._factored.solve(gradient.flatten(0, 1).unsqueeze(1)).view_as(gradient)

    def solve_singular(self, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As of `Preconditioner`."""
        flat = gradient.flatten(0, 1).unsqueeze(1)  # (M * K, 1, D + 1)
        solved, rest, curvature = self._factored.solve_singular(flat)
        models, outputs, _ = gradient.shape
        rest = rest.squeeze(2).reshape(models, outputs, *rest.shape[1::2])  # (M, K, U, D + 1)
        own = torch.eye(self._outputs, dtype=rest.dtype, device=rest.device)
        rest = (rest.unsqueeze(3) * own.view(self._outputs, 1, -1, 1)).flatten(1, 2)
        least = curvature.view(-1, self._outputs).amin(dim=1)
        return solved.view_as(gradient), rest, least

    def product(self, weights: Tensor) -> Tensor:
        """``B v``."""
        return self._factored.product(weights.flatten(0, 1).unsqueeze(1)).view_as(weights)

    def block(self, models: Tensor, index: Tensor, outputs: int) -> Tensor:
        """Principal submatrices of B, as of `Preconditioner`, each within one output."""
        columns = self.diagonal.shape[-1]
        matrices = models * outputs + index[:, 0] // columns
        return self._factored.block(matrices, index % columns, 1)


def same(index: Tensor) -> Tensor:
    """Which pairs of entries of ``(m, a)`` are equal, shape ``(m, a, a)``."""
    return index.unsqueeze(1) == index.unsqueeze(2)


def with_outputs(
    moments: Tensor, output: Tensor, l2: Tensor, outputs: int, shift_invariant: bool
) -> Tensor:
    """Principal submatrices of B from second moments that all outputs share.

    Parameters
    ----------
    moments : Tensor of shape (m, a, a)
    output : Tensor of int, shape (m, a)
        Output of each row and column.
    l2 : Tensor of shape (m, a)
        The penalty's part of the diagonal.
    outputs : int
        K.
    shift_invariant : bool
        Whether the data's part is flat along what all outputs have in common.
    """
    if outputs > 1:
        share = same(output).to(moments.dtype)
        moments = moments * (share.sub_(1.0 / outputs) if shift_invariant else share)
    moments.diagonal(dim1=1, dim2=2).add_(l2)
    return moments


def apart(weights: Tensor) -> Tensor:
    """What each output's weights do not have in common with the others'."""
    return weights - weights.mean(dim=1, keepdim=True)
