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


class Preconditioner(Protocol):
    """``B`` and its inverse ``P``, applied to tensors of shape ``(M, K, D + 1)``."""

    def solve(self, gradient: Tensor) -> Tensor:
        """``P g``."""

    def product(self, weights: Tensor) -> Tensor:
        """``B v``."""

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
        self.inverse = torch.where(curved, 1.0 / torch.where(curved, self.diagonal, 1.0), 0.0)

    def solve(self, gradient: Tensor) -> Tensor:
        """``P g``."""
        return self.inverse * gradient

    def product(self, weights: Tensor) -> Tensor:
        """``B v``."""
        seen = apart(weights) if self._shift_invariant else weights
        return (self.diagonal - self.l2) * seen + self.l2 * weights


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
        Steps stay in their span, so that least squares ends at the solution of least norm.
    noise : float
        Relative rounding error of the gradients: curvature below it cannot be told from none.
    shift_invariant : bool
        Whether the data's part is flat along what all outputs have in common.
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
        self._lower, self.lifted = self._cholesky(unit, noise)

    @staticmethod
    def _cholesky(unit: Tensor, noise: float) -> tuple[Tensor, Tensor]:
        """Factor matrices of unit diagonal; lift those that are singular to rounding.

        Returns the factors and which models' were lifted, by as little as makes it possible.
        """
        lift = torch.zeros(unit.shape[0], dtype=unit.dtype, device=unit.device)
        least = (0.5 * noise) ** 0.5
        lower: Tensor
        while True:
            lower, info = torch.linalg.cholesky_ex(unit)
            sound = (info == 0) & (lower.diagonal(dim1=-2, dim2=-1).amin(dim=-1) > least)
            if bool(sound.all()):
                return lower, lift > 0
            more = torch.where(lift > 0, 100.0 * lift, noise)
            lift = torch.where(sound, lift, more)
            unit.diagonal(dim1=-2, dim2=-1).copy_((1.0 + lift).unsqueeze(-1))

    def solve(self, gradient: Tensor) -> Tensor:
        """``P g``."""
        inside = gradient if self.basis is None else gradient @ self.basis
        scale = self._scale.unsqueeze(1)
        columns = (inside * scale).mT.contiguous()
        solved = torch.cholesky_solve(columns, self._lower).mT * scale
        return solved if self.basis is None else solved @ self.basis.T

    def product(self, weights: Tensor) -> Tensor:
        """``B v``."""
        seen = apart(weights) if self._shift_invariant else weights
        if self.basis is None:
            return seen @ self.matrix + self.l2 * weights
        return (seen @ self.basis) @ self.matrix @ self.basis.T + self.l2 * weights


def apart(weights: Tensor) -> Tensor:
    """What each output's weights do not have in common with the others'."""
    return weights - weights.mean(dim=1, keepdim=True)
