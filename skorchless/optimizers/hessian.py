r"""Matrices of curvature and their inverses, for all weights of each model of a stack.

With row curvatures :math:`w_i` of the loss at the current weights,

.. math:: B = \frac{1}{\sum_i s_i} \sum_i s_i w_i \tilde x_i \tilde x_i^\top
              + \mathrm{diag}(\lambda^{(2)}), \qquad P = B^{-1}.

For squared error over all rows it is the Hessian, and a step of :math:`-P g` ends at the optimum.
For softmax at zero it is within a factor of Böhning's bound (1992); evaluated where the weights
are, it follows the curvature as rows become certain. The whole Hessian of a softmax model couples
the weights of all outputs,

.. math:: H = \tfrac{1}{S} \sum_i s_i\, \ell_i'' \otimes \tilde x_i \tilde x_i^\top
              + \mathrm{diag}(\lambda^{(2)}), \qquad
          \ell_i'' = \mathrm{diag}(p_i) - p_i p_i^\top

in the order of outputs: all weights of the first, then all of the second.
"""

from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, float64

from skorchless.data.base import slices
from skorchless.data.dense import wide_rows

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
        """Return what `Preconditioner.solve_singular` does."""
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
    """B as Cholesky factors, of unit diagonal so that the columns' scales cost no digits.

    Parameters
    ----------
    matrix : Tensor
        The data's part: of shape ``(M, D + 1, D + 1)``, or ``(1, D + 1, D + 1)`` for all models,
        where it is the same for all outputs; ``(M * K, D + 1, D + 1)`` where each output has its
        own; or ``(M, K * (D + 1), K * (D + 1))`` where outputs are coupled.
    l2 : Tensor of shape (M, 1, D + 1)
        The penalty's part.
    noise : float
        Relative rounding error of the gradients: curvature below it cannot be told from none.
    outputs : int
        K.
    shift_invariant : bool
        Whether the data's part is flat along what all outputs have in common. There the inverse,
        which would be all rounding, is left out.

    Attributes
    ----------
    smallest_pivot : float
        The attribute of `Preconditioner`.
    """

    def __init__(
        self, matrix: Tensor, l2: Tensor, noise: float, outputs: int, shift_invariant: bool = False
    ) -> None:
        self.matrix, self.l2, self._outputs = matrix, l2, outputs
        self._shift_invariant = shift_invariant
        self._couples = matrix.shape[-1] > l2.shape[-1]
        self._problems = max(len(matrix), len(l2))
        whole = self._definite(matrix) if self._couples else matrix
        diagonal = self._diagonal(whole).reshape(self._problems, -1)
        self._scale = diagonal.rsqrt().nan_to_num_(nan=0.0, posinf=0.0)
        unit = whole * self._scale.unsqueeze(-1)
        unit.mul_(self._scale.unsqueeze(-2))
        unit.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)  # a trial far out, soon rejected
        unit.diagonal(dim1=-2, dim2=-1).fill_(1.0)
        self._lower, self._lifted, pivot, scale = self._cholesky(unit, noise, self._scale)
        self.smallest_pivot = pivot**2
        self._unit = unit if pivot == 0.0 or scale == 0.0 else None

    @property
    def lifted(self) -> Tensor:
        """The attribute of `Preconditioner`."""
        return self._lifted.view(len(self.l2), -1).any(dim=1)

    @cached_property
    def diagonal(self) -> Tensor:
        """The attribute of `Preconditioner`."""
        return self._diagonal(self.matrix)

    def _diagonal(self, matrix: Tensor) -> Tensor:
        """Of a matrix and the penalty's part, shape ``(M, 1, D + 1)`` or ``(M, K, D + 1)``."""
        models, _, columns = self.l2.shape
        diagonal = matrix.diagonal(dim1=-2, dim2=-1)
        return diagonal.reshape(min(len(matrix), models), -1, columns) + self.l2

    def _definite(self, matrix: Tensor) -> Tensor:
        """Coupled outputs with some curvature along what they have in common."""
        columns = self.l2.shape[-1]
        blocks = matrix.view(len(matrix), self._outputs, columns, self._outputs, columns)
        common = blocks.diagonal(dim1=1, dim2=3).sum(dim=-1).view(-1, 1, columns, 1, columns)
        return torch.add(blocks, common, alpha=1.0 / self._outputs**2).view_as(matrix)

    @staticmethod
    def _cholesky(unit: Tensor, noise: float, scale: Tensor) -> tuple[Tensor, Tensor, float, float]:
        """Factor matrices of unit diagonal; lift those that are singular to rounding.

        To those whose pivots are too small a multiple of the identity is added: `noise` first, and
        a hundred times more each time, until there is a factor.

        Returns
        -------
        lower : Tensor
            The factors.
        lifted : Tensor
            To which matrices something was added: zero for none.
        smallest : float
            The smallest pivot, or zero if any matrix was lifted.
        scale : float
            The smallest one, which is looked at together with the pivots.
        """
        least = (0.5 * noise) ** 0.5
        lower: Tensor
        lower, info = torch.linalg.cholesky_ex(unit)
        seen = info.amax(), lower.diagonal(dim1=-2, dim2=-1).amin(), scale.amin()
        failed, smallest, shortest = torch.stack(seen).tolist()
        if not failed and smallest > least:
            return lower, info, smallest, shortest
        lift = torch.zeros(unit.shape[0], dtype=unit.dtype, device=unit.device)
        while True:
            pivots = lower.diagonal(dim1=-2, dim2=-1).amin(dim=-1)
            sound = (info == 0) & (pivots > least)
            if bool(sound.all()):
                return lower, lift > 0, 0.0, shortest
            more = torch.where(lift > 0, 100.0 * lift, noise)
            lift = torch.where(sound, lift, more)
            eye = torch.eye(unit.shape[-1], dtype=unit.dtype, device=unit.device)
            lower, info = torch.linalg.cholesky_ex(unit + lift.view(-1, 1, 1) * eye)

    def _flat(self, vector: Tensor) -> Tensor:
        """From ``(M, K, D + 1)`` to rows that `matrix` is multiplied with.

        Where `shift_invariant`, they are what outputs do not have in common.
        """
        seen = apart(vector) if self._shift_invariant else vector
        return seen.reshape(self._problems, -1, self.matrix.shape[-1])

    def _of_models(self, flat: Tensor, like: Tensor) -> Tensor:
        """The way back from `_flat`."""
        vector = flat.reshape(like.shape)
        return apart(vector) if self._shift_invariant else vector

    def solve(self, gradient: Tensor) -> Tensor:
        """``P g``."""
        scale = self._scale.unsqueeze(1)
        columns = (self._flat(gradient) * scale).mT.contiguous()
        return self._of_models(torch.cholesky_solve(columns, self._lower).mT * scale, gradient)

    def solve_singular(self, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `Preconditioner.solve_singular` does, by eigenvalues."""
        models, outputs, columns = gradient.shape
        if self._unit is None:
            nothing = gradient.new_empty(models, 0, outputs, columns)
            return self.solve(gradient), nothing, gradient.new_empty(models)
        flat = self._flat(gradient)
        scale = torch.where(self._scale > 0, self._scale, 1.0).unsqueeze(1)
        unit = self._unit.clone()
        zero = (self._scale == 0) & (flat != 0).any(dim=1)
        unit.diagonal(dim1=-2, dim2=-1).mul_(~zero)
        values, vectors = torch.linalg.eigh(unit)
        values = values.unsqueeze(1)
        rounding = torch.finfo(values.dtype).eps * values[..., -1:].clamp(min=1.0)
        resolved = values > RESOLVED * values.shape[-1] * rounding
        along = (flat * scale) @ vectors
        solved = torch.where(resolved, along / torch.where(resolved, values, 1.0), 0.0)
        solved = self._of_models((solved @ vectors.mT) * scale, gradient)
        zeros = int((~resolved).sum(dim=-1).max())  # eigenvalues ascend
        parts = torch.where(resolved, 0.0, along)[..., :zeros]
        each = (vectors[..., :zeros].mT * scale).unsqueeze(1)
        rest = parts.unsqueeze(-1) * each  # (problems, rows of each, U, numbers of a row)
        if self._couples:
            rest = rest.view(models, zeros, outputs, columns)
        else:  # one output at a time
            own = torch.eye(outputs, dtype=rest.dtype, device=rest.device).unsqueeze(1)
            rest = rest.view(models, outputs, zeros, 1, columns) * own.unsqueeze(-1)
            rest = rest.flatten(1, 2)
        if self._shift_invariant:
            rest = rest - rest.mean(dim=2, keepdim=True)
        return solved, rest, rounding.view(models, -1).amin(dim=1)

    def product(self, weights: Tensor) -> Tensor:
        """``B v``."""
        return self._of_models(self._flat(weights) @ self.matrix, weights) + self.l2 * weights

    def block(self, models: Tensor, index: Tensor, outputs: int) -> Tensor:
        """Principal submatrices of B, as of `Preconditioner`.

        Where each output has a matrix of its own, within one output.
        """
        output, column = index // self.l2.shape[-1], index % self.l2.shape[-1]
        l2 = self.l2[models, 0].gather(1, column)
        matrix, of, place = self.matrix, models, column
        if self._couples:
            matrix, place = self._apart, index
        elif len(matrix) > len(self.l2):
            of = models * outputs + output[:, 0]
        elif len(matrix) == 1:
            of = torch.zeros_like(models)
        block = matrix[of.view(-1, 1, 1), place.unsqueeze(2), place.unsqueeze(1)]
        if self._couples:
            block.diagonal(dim1=1, dim2=2).add_(l2)
            return block
        return with_outputs(block, output, l2, outputs, self._shift_invariant)

    @cached_property
    def _apart(self) -> Tensor:
        """`matrix` between what outputs do not have in common, which is all that `product` sees."""
        size = self.matrix.shape[-1]
        rows = apart(self.matrix.view(len(self.matrix), self._outputs, -1))
        columns = rows.view(len(rows), size, size).mT.reshape(len(rows), self._outputs, -1)
        return apart(columns).view(len(rows), size, size)


def coupled_moments(rows: Tensor, weight: Tensor | None, p: Tensor) -> Tensor:
    r"""Sum of :math:`h_i\, p_i p_i^\top \otimes x_i x_i^\top` for each model.

    Parameters
    ----------
    rows : Tensor of shape (n, r)
    weight : Tensor of shape (1, n), optional
        Weights h of the rows, 1 by default.
    p : Tensor of shape (M, K, n)

    Returns
    -------
    moments : Tensor of shape (M, K r, K r)
    """
    models, outputs, _ = p.shape
    rank = rows.shape[1]
    moments: Tensor | None = None
    for start, stop in slices(len(rows), wide_rows(models * outputs * rank, rows.device)):
        columns = rows[start:stop].T.contiguous()
        weighted = scaled = p[..., start:stop].unsqueeze(2) * columns  # (M, K, r, rows)
        if weight is not None:
            weighted = scaled * weight[:, None, None, start:stop]
        product = weighted.flatten(1, 2) @ scaled.flatten(1, 2).mT
        moments = product if moments is None else moments.to(float64).add_(product)
    assert moments is not None
    return moments


def with_own_blocks(moments: Tensor, outputs: int) -> Tensor:
    r"""The same sums of :math:`(\mathrm{diag}(p_i) - p_i p_i^\top) \otimes x_i x_i^\top`.

    It takes over the moments that `coupled_moments` returned.
    """
    models, rank = len(moments), moments.shape[-1] // outputs
    # As p_k (1 - p_k) is the sum of p_k p_j over all others j, it needs no difference, which would
    # lose the digits of small ones.
    own = own_blocks(moments, outputs)
    own.zero_()
    of_others = moments.view(models, outputs, rank, outputs, rank).sum(dim=3)
    moments.neg_()
    own.copy_(of_others)
    return moments


def own_blocks(matrix: Tensor, outputs: int) -> Tensor:
    """Each output's own part of ``(M, K r, K r)``, a view of shape ``(M, K, r, r)``."""
    rank = matrix.shape[-1] // outputs
    blocks = matrix.view(len(matrix), outputs, rank, outputs, rank)
    return blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)


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
