r"""The span of the rows, where there are no more of them than columns or columns are dependent.

Without L1 the optimum then lies in this span: with an L2 penalty, or where the solution of least
norm is asked for, weights orthogonal to all centred rows are zero. With an orthonormal basis Q of
the span, :math:`w = Q v`, the penalty is :math:`\|w\|^2 = \|v\|^2`, and the problem in v has as
many columns as the rows have dimensions (Hastie and Tibshirani, 2004).

Without any penalty the basis of the span need not be orthonormal. The one that makes the rows'
coordinates orthogonal leaves no two of them nearly dependent, whatever the columns are.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, float64

from skorchless.data import Matrix
from skorchless.stack import pack

#: Columns whose sizes are within this factor are factored together: within it a factorisation
#: keeps the digits of the small ones.
LEVEL = 1e5


@dataclass(frozen=True, eq=False)
class RowSpace:
    """Rows in the coordinates of a basis of their span.

    Parameters
    ----------
    mean, rest : Tensor of shape (D,)
        The centre of the rows is the sum of both: `rest` is what rounding leaves of the first.
    basis : Tensor of shape (D, r)
        On the user's columns.
    inverse : Tensor of shape (r, D)
        Gives the coordinates of weights in the span.
    """

    mean: Tensor
    rest: Tensor
    basis: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, rows: Tensor, *, centre: bool, orthonormal: bool) -> Self:
        """Of `rows` of shape ``(n, D)`` in double precision.

        The basis is `orthonormal`, or else the rows' coordinates are orthogonal.
        """
        mean = rows.mean(dim=0) if centre else rows.new_zeros(rows.shape[1])
        centred = rows - mean
        rest = centred.mean(dim=0) if centre else torch.zeros_like(mean)
        centred -= rest
        basis = spanning_directions(centred)
        if orthonormal:
            return cls(mean, rest, basis, basis.T)
        inside = centred @ basis
        size = torch.linalg.vector_norm(inside, dim=0)
        upper = torch.linalg.qr(inside / size, mode="r").R
        inverse = (upper * size) @ basis.T
        basis = torch.linalg.solve_triangular(upper, basis / size, upper=True, left=False)
        return cls(mean, rest, basis, inverse)

    def along_principal_axes(self, rows: Tensor) -> "RowSpace":
        """Turn the basis so that the coordinates of the rows are orthogonal."""
        upper = torch.linalg.qr(self.rows(rows), mode="r").R
        axes = torch.linalg.svd(upper).Vh
        return RowSpace(self.mean, self.rest, self.basis @ axes.mT, axes @ self.inverse)

    def held(self, X: Matrix, dtype: torch.dtype) -> Tensor:
        """Which coordinates weights in `dtype` can hold on the columns of X, shape ``(r,)``.

        Weights on nearly dependent columns are large and cancel: of the others, rounding changes
        the predictions by more than the coordinate itself does.
        """
        size = as_dense(X).square().mean(dim=0).sqrt()
        moved = (self.basis.abs() * size.unsqueeze(1)).square().sum(dim=0).sqrt()
        coordinate = self.rows(X).square().mean(dim=0).sqrt()
        return torch.finfo(dtype).eps * moved < coordinate

    def rows(self, X: Matrix) -> Tensor:
        """X of shape ``(n, D)`` in the coordinates of the basis, shape ``(n, r)``."""
        return (as_dense(X) - self.mean - self.rest) @ self.basis

    def reduce(self, weights: Tensor) -> Tensor:
        """Weights ``(M, K, D + 1)`` in the coordinates of the basis, ``(M, K, r + 1)``."""
        coef = weights[..., :-1]
        return pack(coef @ self.inverse.T, weights[..., -1] + coef @ self.mean + coef @ self.rest)

    def fold_back(self, weights: Tensor) -> Tensor:
        """Weights ``(M, K, r + 1)`` on the user's columns, ``(M, K, D + 1)``."""
        wide = weights.to(float64)
        coef = wide[..., :-1] @ self.basis.T
        return pack(coef, wide[..., -1] - coef @ self.rest - coef @ self.mean)


def as_dense(X: Matrix) -> Tensor:
    """Return X as a dense tensor in double precision."""
    return X[:].to_dense().to(float64)


def spanning_directions(rows: Tensor) -> Tensor:
    """Orthonormal basis of the span of `rows`, in the units of their columns.

    Which directions there are is decided on columns of unit size, so that one column in large
    units hides no other. From the largest columns to the smallest, each level adds the directions
    in which rows differ although they agree in all larger columns.

    Parameters
    ----------
    rows : Tensor of shape (n, D), in double precision

    Returns
    -------
    basis : Tensor of shape (D, r)
    """
    rounding = torch.finfo(rows.dtype).eps * max(rows.shape)
    if len(rows) > rows.shape[1]:
        rows = torch.linalg.qr(rows, mode="r").R
    size = _size(rows)
    varies = size > 0
    rows = rows[:, varies]
    unit = rows / size[varies]
    left, singular, _ = torch.linalg.svd(unit, full_matrices=False)
    # As many rows as directions: none is left in which they only differ by rounding.
    rows = left[:, singular > rounding * torch.linalg.matrix_norm(unit)].T @ rows
    within = _directions_by_level(rows, rounding)
    basis = rows.new_zeros(len(size), within.shape[1])
    basis[varies] = within
    return basis


def _directions_by_level(rows: Tensor, rounding: float) -> Tensor:
    """As `spanning_directions`, of rows of full rank and columns of which none is zero."""
    if not len(rows):
        return rows.new_zeros(rows.shape[1], 0)
    size = _size(rows)
    order = size.argsort(descending=True, stable=True)
    basis, seen = rows.new_zeros(rows.shape[1], 0), rows.new_zeros(len(rows), 0)
    largest = rows.new_zeros(())
    while len(order) and seen.shape[1] < len(rows):
        level = int((size[order] * LEVEL >= size[order[0]]).sum())
        unit = rows[:, order[:level]] / size[order[:level]]
        left, singular, _ = torch.linalg.svd(_beside(seen, unit), full_matrices=False)
        largest = torch.maximum(largest, torch.linalg.matrix_norm(unit))
        left = left[:, singular > rounding * largest]
        found = rows.new_zeros(rows.shape[1], left.shape[1])
        found[order] = rows[:, order].T @ left  # the larger columns are zero: rows agree in these
        basis = torch.cat([basis, _orthonormal(_beside(basis, found))], dim=1)
        seen = torch.cat([seen, left], dim=1)
        order = order[level:]
    return basis


def _size(rows: Tensor) -> Tensor:
    """Root of each column's mean square, also where squares leave the range."""
    largest = rows.abs().amax(dim=0)
    finite = torch.where(largest > 0, largest, 1.0)
    return torch.where(largest > 0, finite * (rows / finite).square().mean(dim=0).sqrt(), 0.0)


def _beside(basis: Tensor, vectors: Tensor) -> Tensor:
    """What `vectors` have that the orthonormal `basis` does not."""
    for _ in range(2):  # twice is enough
        vectors = vectors - basis @ (basis.T @ vectors)
    return vectors


def _orthonormal(vectors: Tensor) -> Tensor:
    size = vectors.abs().amax(dim=0)
    orthonormal: Tensor = torch.linalg.qr(vectors / torch.where(size > 0, size, 1.0)).Q
    return orthonormal
