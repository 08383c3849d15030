r"""The whole Hessian of a softmax model, all outputs together, where that is little work.

.. math:: H = \tfrac{1}{S} \sum_i s_i\, \ell_i'' \otimes \tilde x_i \tilde x_i^\top
              + \mathrm{diag}(\lambda^{(2)}), \qquad
          \ell_i'' = \mathrm{diag}(p_i) - p_i p_i^\top

with the weights in the order of outputs: all of the first, then all of the second. Since
:math:`\ell_i''` maps what all outputs have in common to zero, H has there the penalty's part alone,
and its inverse would be all rounding.
"""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from skorchless.optimizers.preconditioner import Factored, apart
from skorchless.sources.base import slices
from skorchless.sources.dense import wide_rows


def joint_moments(rows: Tensor, share: Tensor, p: Tensor) -> Tensor:
    r"""Sum of :math:`h_i (\mathrm{diag}(p_i) - p_i p_i^\top) \otimes x_i x_i^\top` for each model.

    Parameters
    ----------
    rows : Tensor of shape (n, r)
    share : Tensor of shape (M, n) or (1, n)
        Weights h of the rows.
    p : Tensor of shape (M, K, n)

    Returns
    -------
    moments : Tensor of shape (M, K r, K r)
    """
    models, outputs, _ = p.shape
    rank = rows.shape[1]
    moments = rows.new_zeros(models, outputs * rank, outputs * rank)
    for start, stop in slices(len(rows), wide_rows(models * outputs * rank, rows.device)):
        inside = rows[start:stop]
        columns, h = inside.T.contiguous(), share[:, None, None, start:stop]
        scaled = p[..., start:stop].unsqueeze(2) * columns  # (M, K, r, rows)
        weighted = scaled * h
        moments.baddbmm_(weighted.flatten(1, 2), scaled.flatten(1, 2).mT, alpha=-1.0)
    # As p_k (1 - p_k) is the sum of p_k p_j over all others j, it needs no difference, which would
    # lose the digits of small ones.
    own = own_blocks(moments, outputs)
    own.zero_()
    own.copy_(moments.view(models, outputs, rank, outputs, rank).sum(dim=3).neg_())
    return moments


def own_blocks(matrix: Tensor, outputs: int) -> Tensor:
    """Each output's own part of ``(M, K r, K r)``, a view of shape ``(M, K, r, r)``."""
    rank = matrix.shape[-1] // outputs
    blocks = matrix.view(len(matrix), outputs, rank, outputs, rank)
    return blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)


class Joint:
    """A `Preconditioner` of one matrix for all weights of a model.

    Parameters
    ----------
    matrix : Tensor of shape (M, K r, K r)
        The data's part, in the coordinates of `basis`.
    l2 : Tensor of shape (M, 1, D + 1)
        The penalty's part.
    basis : Tensor of shape (D + 1, r), optional
        As of `Factored`, the same for every output.
    noise : float
        As of `Factored`.
    outputs : int
        K.
    """

    def __init__(
        self, matrix: Tensor, l2: Tensor, basis: Tensor | None, noise: float, outputs: int
    ) -> None:
        self.matrix, self.l2, self.basis, self.outputs = matrix, l2, basis, outputs
        own = own_blocks(matrix, outputs)
        # Definite also along what outputs have in common, which `solve` sets apart.
        common = (own.sum(dim=1) / outputs**2).view(len(l2), 1, own.shape[-1], 1, own.shape[-1])
        blocks = matrix.view(len(l2), outputs, own.shape[-1], outputs, own.shape[-1]) + common
        whole = blocks.view_as(matrix)
        small = torch.diag_embed(l2) if basis is None else (basis.T * l2) @ basis
        own_blocks(whole, outputs).add_(small.view(len(l2), 1, *small.shape[-2:]))
        nothing = matrix.new_zeros(len(matrix), 1, matrix.shape[-1])
        self._factored = Factored(whole, nothing, None, noise)

    @property
    def lifted(self) -> Tensor:
        """As of `Preconditioner`."""
        return self._factored.lifted

    @property
    def smallest_pivot(self) -> float:
        """As of `Preconditioner`."""
        return self._factored.smallest_pivot

    @property
    def diagonal(self) -> Tensor:
        """Of B, shape ``(M, K, D + 1)``."""
        own = own_blocks(self.matrix, self.outputs)
        if self.basis is None:
            return own.diagonal(dim1=-2, dim2=-1) + self.l2
        return ((self.basis @ own) * self.basis).sum(dim=-1) + self.l2

    def solve(self, gradient: Tensor) -> Tensor:
        """``P g`` of what outputs do not have in common."""
        return apart(self._in_coordinates(self._factored.solve, apart(gradient)))

    def solve_singular(self, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As of `Preconditioner`."""
        if not self._factored.is_singular:
            models, outputs, columns = gradient.shape
            nothing = gradient.new_zeros(models, 0, outputs, columns)
            return self.solve(gradient), nothing, gradient.new_zeros(models)
        inside = apart(gradient) if self.basis is None else apart(gradient) @ self.basis
        solved, rest, curvature = self._factored.solve_singular(inside.flatten(1).unsqueeze(1))
        solved = solved.view_as(inside)
        rest = rest.view(len(rest), rest.shape[1], *inside.shape[1:])
        if self.basis is not None:
            solved, rest = solved @ self.basis.T, rest @ self.basis.T
        return apart(solved), rest - rest.mean(dim=2, keepdim=True), curvature

    def product(self, weights: Tensor) -> Tensor:
        """``B v``."""
        data = self._in_coordinates(lambda flat: flat @ self.matrix, apart(weights))
        return apart(data) + self.l2 * weights

    def block(self, models: Tensor, index: Tensor, outputs: int) -> Tensor:
        """Principal submatrices of B, as of `Preconditioner`."""
        output, column = index // self.l2.shape[-1], index % self.l2.shape[-1]
        matrix = self._apart
        if self.basis is None:
            block = matrix[models.view(-1, 1, 1), index.unsqueeze(2), index.unsqueeze(1)]
        else:
            own = one_hot(output, outputs).to(self.basis.dtype)
            rows = (own.unsqueeze(3) * self.basis[column].unsqueeze(2)).flatten(2)
            block = (rows @ matrix[models]) @ rows.mT
        block.diagonal(dim1=1, dim2=2).add_(self.l2[models, 0].gather(1, column))
        return block

    @cached_property
    def _apart(self) -> Tensor:
        """`matrix` between what outputs do not have in common, which is all that `product` sees."""
        size = self.matrix.shape[-1]
        rows = apart(self.matrix.view(len(self.matrix), self.outputs, -1))
        columns = rows.view(len(rows), size, size).mT.reshape(len(rows), self.outputs, -1)
        return apart(columns).view(len(rows), size, size)

    def _in_coordinates(self, of_all: Callable[[Tensor], Tensor], vector: Tensor) -> Tensor:
        """What `of_all` makes of all coordinates together, ``(M, 1, K r)``."""
        inside = vector if self.basis is None else vector @ self.basis
        result = of_all(inside.flatten(1).unsqueeze(1)).view_as(inside)
        return result if self.basis is None else result @ self.basis.T
