r"""Sparse rows: held by SciPy, which cuts, permutes and transposes; multiplied by torch.

A product of a CSR tensor with a dense one uses every core, where SciPy's uses one. Turning rows
into columns is the other way round: SciPy does it fifteen times as fast as torch, on the host.
"""

import warnings
from functools import cache, cached_property
from typing import Any, Self

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from skorchless.stack import WIDE, shared

#: Numbers that dense copies of some rows may have.
WINDOW_NUMBERS = 2**20

# Once in a process torch warns that CSR tensors are in beta. A fit is not to touch the filters of
# warnings, which other threads share, so it is told here that this is known.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    _zero = torch.zeros(2, dtype=torch.int64, device="cpu")
    torch.sparse_csr_tensor(_zero, _zero[:0], _zero[:0], (1, 1), device="cpu")

#: Rows of a product that tells whether those of all threads are right.
PROBE_ROWS = 1024

DTYPES = {np.dtype(np.float32): torch.float32, np.dtype(np.float64): torch.float64}


class SparseRows:
    """A matrix of sparse rows that is asked what a tensor would be asked.

    Parameters
    ----------
    matrix : csr_array of shape (n, D)
        Of float32 or float64, indices sorted and without duplicates. On the host, never written to.
    device : torch.device
        Where products take place.
    """

    def __init__(self, matrix: Any, device: torch.device) -> None:
        self.matrix, self.device = matrix, device

    @classmethod
    def of(cls, matrix: Any) -> Self:
        """Of any CSR matrix, whose memory is shared where its indices are in order."""
        parts = (matrix.data, matrix.indices, matrix.indptr)
        rows = csr_array(parts, shape=matrix.shape)
        if not rows.has_canonical_format:
            rows = rows.copy()
            rows.sum_duplicates()
        return cls(rows, torch.device("cpu"))

    def __len__(self) -> int:
        return int(self.matrix.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        n, d = self.matrix.shape
        return int(n), int(d)

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in."""
        return DTYPES[self.matrix.dtype]

    def numel(self) -> int:
        """How many numbers a product reads: those that are stored."""
        return int(self.matrix.nnz)

    def stored_weight(self, weight: Tensor) -> Tensor:
        """Sum of the weights, of shape ``(n,)``, of the rows that store each column, ``(D,)``."""
        of_numbers = np.repeat(weight.numpy(force=True), np.diff(self.matrix.indptr))
        stored = np.bincount(self.matrix.indices, of_numbers, minlength=self.shape[1])
        return torch.from_numpy(stored).to(self.device)

    def index_select(self, dim: int, chosen: Tensor) -> "SparseRows":
        """Some of the rows, or of the columns, by index."""
        if dim == 0 and self.device.type != "cpu":
            return RowsThere(self, chosen.cpu())
        index = chosen.numpy(force=True)
        return SparseRows(self.matrix[index] if dim == 0 else self.matrix[:, index], self.device)

    def between(self, start: int, stop: int) -> "SparseRows":
        """Consecutive rows."""
        if (start, stop) == (0, len(self)):
            return self
        if self.device.type != "cpu":
            return RowsThere(self, torch.arange(start, stop, device="cpu"))
        first, last = self.matrix.indptr[start], self.matrix.indptr[stop]
        parts = (
            self.matrix.data[first:last],
            self.matrix.indices[first:last],
            self.matrix.indptr[start : stop + 1] - first,
        )
        return SparseRows(csr_array(parts, shape=(stop - start, self.shape[1])), self.device)

    def to(self, where: torch.device | torch.dtype) -> "SparseRows":
        """The same on another device, or in another precision."""
        if isinstance(where, torch.device):
            return SparseRows(self.matrix, where)
        wanted = np.dtype(np.float32 if where == torch.float32 else np.float64)
        return SparseRows(self.matrix.astype(wanted, copy=False), self.device)

    def dense(self) -> Tensor:
        """All of them as a dense tensor in double precision: for few rows."""
        if self.device.type == "cpu":
            return torch.from_numpy(self.matrix.toarray()).to(WIDE)
        n, d = self.shape
        rows, columns = self._row_numbers.long(), self.by_row.col_indices()
        filled = torch.zeros(n * d, dtype=WIDE, device=self.device)
        filled[rows * d + columns] = self.by_row.values().to(WIDE)
        return filled.view(n, d)

    @cached_property
    def by_row(self) -> Tensor:
        """The CSR tensor of shape ``(n, D)``."""
        return _csr_tensor(self.matrix, self.shape, self.device)

    @cached_property
    def by_column(self) -> Tensor:
        """The CSR tensor of shape ``(D, n)``: the transpose."""
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
        """The row of each stored number, on a device that is no CPU."""
        starts = self.by_row.crow_indices()
        rows = torch.arange(len(self), dtype=starts.dtype, device=self.device)
        return rows.repeat_interleave(starts.diff(), output_size=self.numel())


class RowsThere(SparseRows):
    """Some of the rows that a device has: they are cut and turned there, and do not travel again.

    Parameters
    ----------
    whole : SparseRows
        On a device that is no CPU.
    chosen : Tensor of int64, shape (n,)
        Which of them, on the host.
    """

    def __init__(self, whole: SparseRows, chosen: Tensor) -> None:
        self.whole: SparseRows = whole
        self.chosen: Tensor = chosen
        self.device = whole.device
        if isinstance(whole, RowsThere):
            self.whole, self.chosen = whole.whole, whole.chosen[chosen]

    @cached_property
    def matrix(self) -> Any:
        """The same rows on the host."""
        return self.whole.matrix[self.chosen.numpy()]

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self), self.whole.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in."""
        return self.whole.dtype

    @cached_property
    def _numbers(self) -> int:
        lengths = np.diff(self.whole.matrix.indptr)
        return int(lengths[self.chosen.numpy()].sum())

    def numel(self) -> int:
        """How many numbers are stored."""
        return self._numbers

    @cached_property
    def by_row(self) -> Tensor:
        """The CSR tensor of shape ``(n, D)``."""
        whole = self.whole.by_row
        starts, rows = whole.crow_indices(), self.chosen.to(self.device)
        first = starts[rows]
        lengths = starts[rows + 1] - first
        ends = lengths.cumsum(0).to(starts.dtype)
        begins = torch.cat([ends.new_zeros(1), ends])
        step = (first - begins[:-1]).repeat_interleave(lengths, output_size=self.numel())
        places = step + torch.arange(self.numel(), dtype=step.dtype, device=self.device)
        columns, values = whole.col_indices()[places], whole.values()[places]
        return _as_csr(begins, columns, values, self.shape)


def _csr_tensor(compressed: Any, shape: tuple[int, int], device: torch.device) -> Tensor:
    """SciPy's three arrays as a tensor; they are shared on the CPU, and never written to."""
    arrays = (compressed.indptr, compressed.indices, compressed.data)
    indptr, indices, values = (shared(array).to(device) for array in arrays)
    return _as_csr(indptr, indices, values, shape)


def _as_csr(indptr: Tensor, indices: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The three arrays as a tensor, which shares their memory."""
    return torch.sparse_csr_tensor(
        indptr, indices, values, shape, device=values.device, check_invariants=False
    )


@cache
def _probe() -> Tensor:
    """A unit matrix."""
    rows = torch.arange(PROBE_ROWS + 1, device="cpu")
    ones = torch.ones(PROBE_ROWS, dtype=WIDE, device="cpu")
    shape = (PROBE_ROWS, PROBE_ROWS)
    return torch.sparse_csr_tensor(
        rows, rows[:-1], ones, shape, device="cpu", check_invariants=False
    )


def are_right_on_threads() -> bool:
    """Whether torch's sparse products are right on as many threads as it has.

    They leave rows out where OpenMP starts fewer threads than it was asked for, as it does with
    ``OMP_THREAD_LIMIT=1``, or after another library has called ``omp_set_dynamic(1)``.
    """
    ones = torch.ones(PROBE_ROWS, 1, dtype=WIDE, device="cpu")
    return bool(torch.equal(_probe() @ ones, ones))


def with_values(pattern: Tensor, values: Tensor) -> Tensor:
    """A CSR tensor with other values in the places of `pattern`'s."""
    return _as_csr(pattern.crow_indices(), pattern.col_indices(), values, pattern.shape)
