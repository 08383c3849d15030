r"""Preconditioners: the inverse of one curvature matrix that all outputs share.

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

from skorchless.objective import Objective, raw_predictions
from skorchless.sources import Chunk, DenseSource
from skorchless.stack import WIDE

#: From this many columns on only the diagonal of B is kept.
MOST_FACTORED_COLUMNS = 8000


class Preconditioner(Protocol):
    """``B`` and its inverse ``P``, applied to tensors of shape ``(M, K, D + 1)``."""

    def solve(self, gradient: Tensor) -> Tensor:
        """``P g``."""

    def product(self, weights: Tensor) -> Tensor:
        """``B v``."""


class Diagonal:
    """The diagonal of B alone.

    Parameters
    ----------
    diagonal : Tensor of shape (M, D + 1)
        The data's part.
    l2 : Tensor of shape (M, 1, D + 1)
        The penalty's part.
    """

    def __init__(self, diagonal: Tensor, l2: Tensor) -> None:
        self.diagonal = diagonal.unsqueeze(1) + l2
        curved = self.diagonal > 0
        self.inverse = torch.where(curved, 1.0 / torch.where(curved, self.diagonal, 1.0), 0.0)

    def solve(self, gradient: Tensor) -> Tensor:
        """``P g``."""
        return self.inverse * gradient

    def product(self, weights: Tensor) -> Tensor:
        """``B v``."""
        return self.diagonal * weights


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
    """

    def __init__(self, matrix: Tensor, l2: Tensor, basis: Tensor | None, noise: float) -> None:
        self.matrix, self.l2, self.basis = matrix, l2, basis
        if basis is None:
            whole = matrix + torch.diag_embed(l2.squeeze(1))
        else:
            whole = matrix + (basis.T * l2) @ basis
        whole = whole.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)  # a trial far out, soon rejected
        diagonal = whole.diagonal(dim1=-2, dim2=-1)
        curved = diagonal > 0
        self._scale = torch.where(curved, torch.where(curved, diagonal, 1.0).rsqrt(), 0.0)
        unit = whole * self._scale.unsqueeze(-1) * self._scale.unsqueeze(-2)
        unit = unit + torch.diag_embed((~curved).to(unit.dtype))
        self._lower, self.lifted = self._cholesky(unit, noise)

    @staticmethod
    def _cholesky(unit: Tensor, noise: float) -> tuple[Tensor, Tensor]:
        """Factor matrices of unit diagonal; lift those that are singular to rounding.

        Returns the factors and which models' were lifted, by as little as makes it possible.
        """
        eye = torch.eye(unit.shape[-1], dtype=unit.dtype, device=unit.device)
        lift = torch.zeros(len(unit), 1, 1, dtype=unit.dtype, device=unit.device)
        lower: Tensor
        while True:
            lower, info = torch.linalg.cholesky_ex(unit + lift * eye)
            pivots = lower.diagonal(dim1=-2, dim2=-1).square().amin(dim=-1)
            singular = (info > 0) | ~(pivots > 0.5 * noise)
            if not bool(singular.any()):
                return lower, lift.view(-1) > 0
            more = torch.where(lift > 0, 100.0 * lift, noise)
            lift = torch.where(singular.view(-1, 1, 1), more, lift)

    def solve(self, gradient: Tensor) -> Tensor:
        """``P g``."""
        inside = gradient if self.basis is None else gradient @ self.basis
        scale = self._scale.unsqueeze(1)
        columns = (inside * scale).mT.contiguous()
        solved = torch.cholesky_solve(columns, self._lower).mT * scale
        return solved if self.basis is None else solved @ self.basis.T

    def product(self, weights: Tensor) -> Tensor:
        """``B v``."""
        if self.basis is None:
            return weights @ self.matrix + self.l2 * weights
        return (weights @ self.basis) @ self.matrix @ self.basis.T + self.l2 * weights


class Curvature:
    """Measures the curvature of the loss, wherever the weights are.

    That takes max(8 d, 8192) rows at random. Where the curvature is constant (squared error) all
    rows are taken, once, as the first pass goes by, so that the preconditioner is exact.

    Parameters
    ----------
    source : DenseSource
        Rows as the weights see them.
    objective : Objective
    """

    def __init__(self, source: DenseSource, objective: Objective) -> None:
        self.source, self.objective = source, objective
        self.noise = float(torch.finfo(source.X.dtype).eps ** 0.8)
        self.constant = objective.loss.constant_curvature
        columns = source.n_columns
        self._diagonal = min(columns, source.n_rows) > MOST_FACTORED_COLUMNS
        few_rows = source.n_rows < columns and not self._diagonal
        self._basis = self._row_space() if few_rows else None
        self.wants_pass = self.constant and not few_rows and not self._diagonal
        self._gram: Tensor | None = None
        self._sample: Chunk | None = None
        if not self.wants_pass:
            self._sample = source.sample(max(8 * columns, 8192))

    def add(self, chunk: Chunk) -> None:
        """Add a chunk of the pass that `wants_pass` asks for."""
        gram = chunk.gram().mul_(chunk.scale[0])
        self._gram = gram if self._gram is None else self._gram.add_(gram)

    def mean(self, weights: Tensor) -> Tensor:
        """Mean curvature of each model over the sample, shape ``(M,)``."""
        if self._sample is None:
            return torch.ones(len(weights), dtype=WIDE, device=weights.device)
        return self._row_weights(self._sample, weights).sum(dim=-1).expand(len(weights))

    def preconditioner(self, weights: Tensor) -> Preconditioner:
        """The preconditioner at `weights`, of shape ``(M, K, D + 1)``."""
        l2 = self.objective.penalty.l2.to(WIDE)
        if self._sample is None:
            assert self._gram is not None
            self.wants_pass = False
            scaling = self.objective.scaling
            gram = self._gram if scaling is None else scaling.standardise_gram(self._gram)
            return Factored(gram.unsqueeze(0), l2, None, self.noise)
        moments = self._second_moments(self._sample, weights)
        if self._diagonal:
            return Diagonal(moments, l2)
        return Factored(moments, l2, self._basis, self.noise)

    def _row_weights(self, chunk: Chunk, weights: Tensor) -> Tensor:
        """Share of each row in the curvature, shape ``(M, rows)``, or ``(1, rows)`` for all."""
        if self.constant:
            curvature = chunk.X.new_ones(*chunk.X.shape[:2], 1, chunk.X.shape[2], dtype=WIDE)
        else:
            raw = raw_predictions(chunk, weights)  # (batches, parts, M, K, rows)
            curvature = self.objective.loss.curvature(raw, chunk.target).to(WIDE)
        if chunk.weight is not None:
            curvature = curvature * chunk.weight.squeeze(-2)
        scale = torch.tensor(chunk.scale, dtype=WIDE, device=curvature.device)
        curvature = curvature * scale.view(-1, 1, 1, 1)
        return curvature.movedim(2, 0).reshape(curvature.shape[2], -1)

    def _second_moments(self, chunk: Chunk, weights: Tensor) -> Tensor:
        rows = chunk.rows.to(WIDE)
        if self._basis is not None:
            rows = rows @ self._basis
        share = self._row_weights(chunk, weights)
        if self._diagonal:
            return share @ rows.square()  # (M, D + 1)
        return (rows.T * share.unsqueeze(1)) @ rows  # (M, r, r)

    def _row_space(self) -> Tensor:
        """Orthonormal basis of the span of all rows, the intercept a direction of its own."""
        rows = self.source.sample(self.source.n_rows).rows.to(WIDE)
        _, singular, directions = torch.linalg.svd(rows[:, :-1], full_matrices=False)
        eps = torch.finfo(self.source.X.dtype).eps
        cutoff = max(rows.shape) * eps * singular.max()
        directions = directions[singular > cutoff]
        basis = rows.new_zeros(rows.shape[1], len(directions) + 1)
        basis[:-1, :-1] = directions.T
        basis[-1, -1] = 1.0
        return basis
