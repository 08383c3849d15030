r"""Sparse rows: held by SciPy, which cuts, permutes and transposes; multiplied by torch.

A product of a CSR tensor with a dense one uses every core, where SciPy's uses one. SciPy transposes
fifteen times as fast as torch, on the host.

Rows are standardised without being made dense. With means :math:`\mu` and inverse standard
deviations :math:`\rho` of the columns,

.. math:: \tilde X W^\top = X (\rho W)^\top + \mathbf 1 (b - \mu^\top \rho W)^\top, \qquad
          R \tilde X = \big(R X - (R \mathbf 1) \mu^\top\big) \rho

so scaling goes to the weights, and centring is a term of rank one. It costs a few operations per
weight, and pays: of rows with a hundred out of 100,000 columns, centred ones took 8 passes to
within a thousandth of the optimum where others took 21, since what all rows have in common is a
direction of far more curvature than any other.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Self

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor, float64

from skorchless.data import limits
from skorchless.data.base import Chunk, MatrixLoader, lay_out, room_for_targets, slices
from skorchless.data.scaling import Moments
from skorchless.stack import shared

# Once in a process torch warns that CSR tensors are in beta. A fit is not to touch the filters of
# warnings, which other threads share, so it is told here that this is known.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    _zero = torch.zeros(2, dtype=torch.int64, device="cpu")
    torch.sparse_csr_tensor(_zero, _zero[:0], _zero[:0], (1, 1), device="cpu")

#: Rows of the product that tells whether products on all threads are right.
PROBE_ROWS = 1024

DTYPES = {np.dtype(np.float32): torch.float32, np.dtype(np.float64): torch.float64}


class SparseRows:
    """A sparse matrix with the methods of a tensor that are needed here.

    Parameters
    ----------
    matrix : csr_array of shape (n, D)
        Of float32 or float64, indices sorted and without duplicates. On the host, never written to.
    device : torch.device
        Where products take place.
    """

    is_sparse = True

    def __init__(self, matrix: Any, device: torch.device) -> None:
        self.matrix, self.device = matrix, device
        self.shape: tuple[int, int] = matrix.shape
        self.dtype: torch.dtype = DTYPES[matrix.dtype]

    @classmethod
    def of(cls, matrix: Any) -> Self:
        """Wrap any CSR matrix, whose memory is shared if its indices are in order."""
        parts = (matrix.data, matrix.indices, matrix.indptr)
        rows = csr_array(parts, shape=matrix.shape)
        if not rows.has_canonical_format:
            rows = rows.copy()
            rows.sum_duplicates()
        return cls(rows, torch.device("cpu"))

    def __len__(self) -> int:
        return self.shape[0]

    def numel(self) -> int:
        """Return how many numbers are stored."""
        return int(self.matrix.nnz)

    def stored_weight(self, weight: Tensor) -> Tensor:
        """Sum the weights ``(n,)`` of the rows that store each column, ``(D,)``."""
        of_numbers = np.repeat(weight.numpy(force=True), np.diff(self.matrix.indptr))
        stored = np.bincount(self.matrix.indices, of_numbers, minlength=self.shape[1])
        return torch.from_numpy(stored).to(self.device)

    def index_select(self, dim: int, chosen: Tensor) -> "SparseRows":
        """Select rows or columns by index."""
        if dim == 0 and self.device.type != "cpu":
            return RowsOnDevice(self, chosen.cpu())
        index = chosen.numpy(force=True)
        return SparseRows(self.matrix[index] if dim == 0 else self.matrix[:, index], self.device)

    def __getitem__(self, run: slice) -> "SparseRows":
        """Select consecutive rows."""
        start, stop, _ = run.indices(len(self))
        if (start, stop) == (0, len(self)):
            return self
        if self.device.type != "cpu":
            return RowsOnDevice(self, torch.arange(start, stop, device="cpu"))
        first, last = self.matrix.indptr[start], self.matrix.indptr[stop]
        parts = (
            self.matrix.data[first:last],
            self.matrix.indices[first:last],
            self.matrix.indptr[start : stop + 1] - first,
        )
        return SparseRows(csr_array(parts, shape=(stop - start, self.shape[1])), self.device)

    def to(self, where: torch.device | torch.dtype) -> "SparseRows":
        """Return the same rows on another device, or in another precision."""
        if isinstance(where, torch.device):
            return SparseRows(self.matrix, where)
        wanted = np.dtype(np.float32 if where == torch.float32 else np.float64)
        return SparseRows(self.matrix.astype(wanted, copy=False), self.device)

    def with_noise(self, noise: Callable[[Tensor], Tensor]) -> "SparseRows":
        """Return the rows twice: plus what `noise` makes of the stored values, and minus it."""
        values = torch.from_numpy(self.matrix.data)
        errors = noise(values).numpy()
        both = [self.matrix.copy(), self.matrix.copy()]
        both[0].data += errors
        both[1].data -= errors
        return SparseRows.of(vstack(both, format="csr"))

    def to_dense(self) -> Tensor:
        """Return the rows, of which there are few, as a dense tensor in double precision."""
        if self.device.type == "cpu":
            return torch.from_numpy(self.matrix.toarray()).to(float64)
        n, d = self.shape
        rows, columns = self._row_numbers.long(), self.by_row.col_indices()
        filled = torch.zeros(n * d, dtype=float64, device=self.device)
        filled[rows * d + columns] = self.by_row.values().to(float64)
        return filled.view(n, d)

    @cached_property
    def by_row(self) -> Tensor:
        """Return the CSR tensor of shape ``(n, D)``."""
        return _csr_tensor(self.matrix, self.shape, self.device)

    @cached_property
    def by_column(self) -> Tensor:
        """Return the transpose, a CSR tensor of shape ``(D, n)``."""
        n, d = self.shape
        if self.device.type == "cpu":
            return _csr_tensor(self.matrix.tocsc(), (d, n), self.device)
        columns, values = self.by_row.col_indices(), self.by_row.values()
        order = columns.argsort(stable=True)
        every = torch.arange(d + 1, dtype=columns.dtype, device=self.device)
        starts = torch.searchsorted(columns[order], every).to(columns.dtype)
        return _as_csr(starts, self._row_numbers[order], values[order], (d, n))

    @property
    def _row_numbers(self) -> Tensor:
        """The row of each stored number, on a device other than the CPU."""
        starts = self.by_row.crow_indices()
        rows = torch.arange(len(self), dtype=starts.dtype, device=self.device)
        return rows.repeat_interleave(starts.diff(), output_size=self.numel())


class RowsOnDevice(SparseRows):
    """Some of the rows of a matrix that is on a device: they are selected and transposed there.

    Parameters
    ----------
    whole : SparseRows
        On a device other than the CPU.
    chosen : Tensor of int64, shape (n,)
        The numbers of the rows, on the host.
    """

    whole: SparseRows
    chosen: Tensor

    def __init__(self, whole: SparseRows, chosen: Tensor) -> None:
        if isinstance(whole, RowsOnDevice):
            chosen, whole = whole.chosen[chosen], whole.whole
        self.whole, self.chosen = whole, chosen
        self.shape = len(chosen), whole.shape[1]
        self.device, self.dtype = whole.device, whole.dtype

    @cached_property
    def matrix(self) -> Any:
        """Return the same rows on the host."""
        return self.whole.matrix[self.chosen.numpy()]

    def numel(self) -> int:
        """How many numbers are stored."""
        lengths = np.diff(self.whole.matrix.indptr)
        return int(lengths[self.chosen.numpy()].sum())

    @cached_property
    def by_row(self) -> Tensor:
        """Return the CSR tensor of shape ``(n, D)``."""
        whole = self.whole.by_row
        starts, rows, size = whole.crow_indices(), self.chosen.to(self.device), self.numel()
        first = starts[rows]
        lengths = starts[rows + 1] - first
        ends = lengths.cumsum(0).to(starts.dtype)
        begins = torch.cat([ends.new_zeros(1), ends])
        step = (first - begins[:-1]).repeat_interleave(lengths, output_size=size)
        places = step + torch.arange(size, dtype=step.dtype, device=self.device)
        columns, values = whole.col_indices()[places], whole.values()[places]
        return _as_csr(begins, columns, values, self.shape)


def _csr_tensor(compressed: Any, shape: tuple[int, int], device: torch.device) -> Tensor:
    """Make a tensor of SciPy's three arrays; they are shared on the CPU, and never written to."""
    arrays = (compressed.indptr, compressed.indices, compressed.data)
    indptr, indices, values = (shared(array).to(device) for array in arrays)
    return _as_csr(indptr, indices, values, shape)


def _as_csr(indptr: Tensor, indices: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Make a tensor of three arrays, which shares their memory."""
    return torch.sparse_csr_tensor(
        indptr, indices, values, shape, device=values.device, check_invariants=False
    )


@cache
def _probe() -> Tensor:
    """A unit matrix."""
    return torch.eye(PROBE_ROWS, dtype=float64, device="cpu").to_sparse_csr()


def are_right_on_threads() -> bool:
    """Return whether torch's sparse products are right on as many threads as it has.

    They leave rows out where OpenMP starts fewer threads than it was asked for, as it does with
    ``OMP_THREAD_LIMIT=1``, or after another library has called ``omp_set_dynamic(1)``.
    """
    ones = torch.ones(PROBE_ROWS, 1, dtype=float64, device="cpu")
    return bool(torch.equal(_probe() @ ones, ones))


def with_values(pattern: Tensor, values: Tensor) -> Tensor:
    """Return a CSR tensor with other values in the places of `pattern`'s."""
    return _as_csr(pattern.crow_indices(), pattern.col_indices(), values, pattern.shape)


@dataclass(eq=False)
class ColumnTransform:
    """Standardisation of the columns, and the constant last column.

    Attributes
    ----------
    mean, inverse : Tensor of shape (D, 1)
    ones : float
        1, or 0 for models without intercept.
    is_identity : bool
        Whether the columns are the user's.
    """

    mean: Tensor
    inverse: Tensor
    ones: float
    is_identity: bool = False


class SparseBatch:
    """A batch of sparse rows in one block.

    Parameters
    ----------
    rows : SparseRows
    columns : ColumnTransform
    target : Tensor of shape (1, 1, K, rows)
    weight : Tensor of shape (1, 1, 1, rows), or None
    """

    def __init__(
        self, rows: SparseRows, columns: ColumnTransform, target: Tensor, weight: Tensor | None
    ) -> None:
        self.rows, self.columns, self.target, self.weight = rows, columns, target, weight

    def matmul(self, weights: Tensor, out: Tensor) -> None:
        """Write raw predictions to `out`."""
        X, columns, flat = self.rows.by_row, self.columns, weights[0]
        coef, shift = flat[:, :-1].T, columns.ones * flat[:, -1]
        if columns.is_identity:
            coef = coef.contiguous()
        else:
            scaled = X.values().new_empty(coef.shape)
            coef = torch.mul(coef, columns.inverse, out=scaled)
            shift = shift - (columns.mean.T @ coef).view(-1)
        torch.add((X @ coef).T, shift.unsqueeze(1), out=out[0])

    def rmatmul(self, residual: Tensor, scale: float, out: Tensor) -> None:
        """Write gradients in the weights to `out`."""
        X_t, columns = self.rows.by_column, self.columns
        flat = residual[0].T.to(X_t.dtype).contiguous().mul_(scale)  # (rows, M * K)
        total = flat.sum(dim=0)
        gradient = X_t @ flat  # (D, M * K)
        if columns.is_identity:
            out[0, :, :-1].copy_(gradient.T)
        else:
            gradient.addr_(columns.mean.view(-1), total, alpha=-1.0)
            torch.mul(gradient.T, columns.inverse.T, out=out[0, :, :-1])
        torch.mul(total, columns.ones, out=out[0, :, -1])


@dataclass(eq=False)
class SparseChunk(Chunk):
    """A chunk of sparse rows.

    Attributes
    ----------
    rows : SparseRows
        Of all batches.
    columns : ColumnTransform
    size : int
        Rows of a batch.
    """

    rows: SparseRows
    columns: ColumnTransform
    size: int
    target: Tensor
    weight: Tensor | None
    scale: list[float]
    starts: bool = True
    ends: bool = True
    batches: list[SparseBatch] = field(init=False)

    def __post_init__(self) -> None:
        self.batches = [
            SparseBatch(
                self.rows[start:stop],
                self.columns,
                self.target[i],
                None if self.weight is None else self.weight[i],
            )
            for i, (start, stop) in enumerate(slices(len(self.rows), self.size))
        ]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the numbers of batches, row blocks per batch (one), and rows per block."""
        return len(self.batches), 1, self.size

    @property
    def n_columns(self) -> int:
        """Return the number of columns, with the constant one."""
        return self.rows.shape[1] + 1

    @cached_property
    def _weights(self) -> Tensor:
        """Weights of the rows, of shape ``(1, rows)``, in double."""
        if self.weight is None:
            return torch.ones(1, len(self.rows), dtype=float64, device=self.target.device)
        return self.weight.reshape(1, -1).to(float64)

    def moments(self) -> Moments:
        """Return weighted means and deviations of the columns, zeros that are not stored included.

        In a column that all rows store they are taken about its first number, as for dense rows.
        """
        X_t, weight = self.rows.by_column, self._weights.T
        total, starts = float(weight.sum()), X_t.crow_indices()
        stored = starts.diff()
        full = stored == len(self.rows)
        values = X_t.values().to(float64)
        first = values.new_zeros(len(full), 1)
        if full.any():
            first[full, 0] = values[starts[:-1][full]]
            values = values - first.view(-1).repeat_interleave(stored)
        offset = with_values(X_t, values) @ weight / (total or 1.0)  # (D, 1)
        deviations = values - offset.view(-1).repeat_interleave(stored)
        if self.weight is None:
            present = stored.to(float64).unsqueeze(1)
        else:
            present = with_values(X_t, torch.ones_like(values)) @ weight
        missing = torch.where(full.unsqueeze(1), 0.0, total - present).clamp_(min=0.0)
        squares = with_values(X_t, deviations.square_()) @ weight + missing * offset.square()
        columns = self.columns
        return Moments(
            total,
            ((first + offset - columns.mean) * columns.inverse).view(-1),
            (squares * columns.inverse.to(float64).square()).view(-1),
        )

    def largest(self) -> Tensor:
        """Return the largest magnitude of each column, before any scaling."""
        largest = abs(self.rows.matrix).max(axis=0).toarray()
        return torch.from_numpy(largest).to(self.target.device)

    def squares(self) -> Tensor:
        """Return weighted sums of squares and of numbers of each column."""
        return torch.cat(self._sums(self._weights))

    def second_squares(self, share: Tensor) -> Tensor:
        """Return sums of squares of each column with the weights `share` of each model."""
        return self._sums(share)[0]

    def _sums(self, share: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of squares and of rows with weights `share`, each of shape ``(M, D + 1)``."""
        X_t, columns = self.rows.by_column, self.columns
        share = share.to(float64)
        values, weights = X_t.values().to(float64), share.T.contiguous()
        mean, inverse = columns.mean.to(float64), columns.inverse.to(float64)
        total = share.sum(dim=1)
        first = with_values(X_t, values) @ weights  # (D, M)
        second = with_values(X_t, values.square()) @ weights
        second = (second - mean * (2.0 * first - mean * total)).clamp_(min=0.0) * inverse.square()
        first = (first - mean * total) * inverse
        last = columns.ones * total.unsqueeze(1)
        return torch.cat([second.T, last], dim=1), torch.cat([first.T, last], dim=1)

    def row_squares(self) -> Tensor:
        """Return the squared length of each row."""
        X, columns = self.rows.by_row, self.columns
        values = X.values().to(float64)
        mean, inverse = columns.mean.to(float64), columns.inverse.to(float64)
        # What a stored number adds to the squares that a row of zeros has.
        excess = values * (values - 2.0 * mean.view(-1)[X.col_indices().long()])
        squares = with_values(X, excess) @ inverse.square()
        of_zeros = (mean * inverse).square().sum()
        return (squares.view(-1) + of_zeros).clamp_(min=0.0) + columns.ones**2

    def gram(self) -> Tensor:
        """Return weighted second moments."""
        return self.second_moments(self._weights).squeeze(0)

    def wide_rows(self) -> Tensor:
        """Return the rows as a dense matrix in double precision."""
        return torch.cat([rows for rows, _ in self._blocks(self._weights)])

    def _blocks(self, share: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield blocks of rows, made dense in double precision, with their shares."""
        columns = self.columns
        numbers = limits.numbers_at_once(limits.WINDOW_NUMBERS, self.target.device)
        for start, stop in slices(len(self.rows), max(1, numbers // self.n_columns)):
            rows = self.rows[start:stop].to_dense()
            rows.sub_(columns.mean.T).mul_(columns.inverse.T)
            last = rows.new_full((len(rows), 1), columns.ones)
            yield torch.cat([rows, last], dim=1), share[:, start:stop].to(float64)


@dataclass(eq=False)
class SparseLoader(MatrixLoader[SparseRows, SparseChunk]):
    """Batches of a sparse ``X``; its parameters are those of `MatrixLoader`."""

    fits_chunk = True  # rows are standardised without a copy

    def __post_init__(self) -> None:
        super().__post_init__()
        mild = self.scaling is None or self.scaling.is_mild
        # Means of many deviations would cost the digits of single precision.
        self._rows = self.X if mild else self.X.to(float64)
        self._columns = self._transform()
        self._chunks: list[SparseChunk] = []
        a_row = self.X.numel() / max(self.n_rows, 1) + 2 * self.stack_width
        most = limits.numbers_at_once(limits.SPARSE_CHUNK_NUMBERS, self.device)
        numbers = max(most, limits.SPARSE_CHUNK_WEIGHTS * self.stack_width * self.n_columns)
        self._chunk_rows = max(1, int(numbers / a_row))

    def _transform(self) -> ColumnTransform:
        ones = float(self.fit_intercept)
        if self.scaling is None:
            inverse = torch.ones(self.X.shape[1], 1, dtype=self.dtype, device=self.device)
            return ColumnTransform(torch.zeros_like(inverse), inverse, ones, is_identity=True)
        mean, inverse = (
            values.unsqueeze(1).to(self._rows.dtype)
            for values in (self.scaling.mean, self.scaling.inverse)
        )
        return ColumnTransform(mean, inverse, ones)

    def chunks(self, generator: torch.Generator | None = None) -> Iterator[SparseChunk]:
        """Yield all rows, shuffled if there is a generator and more than one batch."""
        if self.n_batches == 1:
            if not self._chunks:
                self._chunks = list(self._pass(None))
            yield from self._chunks
        elif generator is None:
            yield from self._pass(None)
        else:
            yield from self._pass(torch.randperm(self.n_rows, generator=generator, device="cpu"))

    def rows(self, chosen: Tensor | None) -> SparseChunk:
        """Return rows by number in ascending order, or all of them, as one batch."""
        if chosen is None and self.n_batches == 1 and len(list(self.chunks())) == 1:
            return self._chunks[0]
        size = self.n_rows if chosen is None else len(chosen)
        return self._filled(chosen, 0, size, size)

    def _filled(self, order: Tensor | None, start: int, stop: int, size: int) -> SparseChunk:
        if order is None:
            rows, target = self._rows[start:stop], self.target[start:stop]
            weight = None if self.sample_weight is None else self.sample_weight[start:stop]
        else:
            rows = self._rows.index_select(0, order[start:stop])
            chosen = order[start:stop].to(self.device)
            target = self.target[chosen]
            weight = None if self.sample_weight is None else self.sample_weight[chosen]
        batches = (stop - start) // size
        out = room_for_targets((batches, 1, size), target, self.n_outputs, self.dtype)
        return SparseChunk(
            rows,
            self._columns,
            size,
            lay_out(target, out),
            None if weight is None else weight.view(batches, 1, 1, 1, size),
            [1.0 / size] * batches,
        )
