"""A matrix that is too large to be copied: an array, a memory map, or more than a device holds.

It stands in for a tensor where only its shape, dtype and device, or some of its rows, are needed.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from skorchless.data import limits
from skorchless.data.base import slices


class LargeMatrix:
    """Rows of a matrix, which are converted and moved when they are read.

    Parameters
    ----------
    stored : Tensor of shape (N, D)
        The user's memory, in any real dtype and with any strides; only read.
    dtype : torch.dtype
        What is computed in.
    device : torch.device, optional
        Where rows are wanted; where they are by default.
    chosen : Tensor of int64, shape (n,), optional
        Which rows there are, in ascending order; all by default.
    """

    is_sparse = False

    def __init__(
        self,
        stored: Tensor,
        dtype: torch.dtype,
        device: torch.device | None = None,
        chosen: Tensor | None = None,
    ) -> None:
        self.stored, self.dtype, self.chosen = stored, dtype, chosen
        self.device = stored.device if device is None else device

    def __len__(self) -> int:
        return len(self.stored) if self.chosen is None else len(self.chosen)

    @property
    def shape(self) -> tuple[int, int]:
        """Return the numbers of rows and columns."""
        return len(self), self.stored.shape[1]

    def numel(self) -> int:
        """Return how many numbers there are."""
        return len(self) * self.shape[1]

    @property
    def is_here(self) -> bool:
        """Whether the rows are on the device where they are wanted."""
        return self.stored.device == self.device

    @property
    def lies_ready(self) -> bool:
        """Whether consecutive rows can be computed with in place."""
        ready = self.stored.dtype == self.dtype and self.stored.is_contiguous()
        return ready and self.chosen is None and self.is_here

    def permutation(self, generator: torch.Generator) -> Tensor:
        """Return a random order of all rows that reads few places of the memory at a time."""
        rows_lie_together = self.shape[1] == 1 or self.stored.stride(1) == 1
        if rows_lie_together:
            block = max(1, limits.SHUFFLED_BLOCK_BYTES // self.row_bytes)
        else:
            block = limits.COLUMN_RUN_BYTES // self.stored.element_size()
        window = max(1, limits.WINDOW_BYTES // (block * self.row_bytes))
        return block_permutation(len(self), block, window, generator)

    def runs(self) -> Iterator[Tensor]:
        """Yield all rows in their order, as they are stored, some at a time."""
        assert self.chosen is None
        for start, stop in slices(len(self), self._run_rows):
            yield self.stored[start:stop]

    def read(self, rows: slice | Tensor, out: Tensor) -> None:
        """Write consecutive rows, or rows by number, to `out`."""
        if isinstance(rows, slice) and self.chosen is None:
            out.copy_(self.stored[rows])
            return
        if isinstance(rows, slice):
            rows = torch.arange(len(self), device="cpu")[rows]
        rows = self._in_stored(rows).to(self.stored.device)
        if self.stored.dtype == out.dtype and self.stored.device == out.device:
            torch.index_select(self.stored, 0, rows, out=out)
        else:
            out.copy_(self.stored.index_select(0, rows))

    def __getitem__(self, run: slice) -> Tensor:
        """Copy consecutive rows, to compute with."""
        return self._copied(run, len(range(*run.indices(len(self)))))

    def index_select(self, axis: int, chosen: Tensor) -> "Tensor | LargeMatrix":
        """Select rows in ascending order, or columns.

        Rows are copied where they are few. Columns are always copied, some rows at a time.
        """
        if axis == 1:
            runs = slices(len(self), self._run_rows)
            return torch.cat([self[start:stop].index_select(1, chosen) for start, stop in runs])
        rows = chosen.cpu()
        if len(rows) * self.row_bytes <= limits.COPIED_BYTES:
            return self._copied(rows, len(rows))
        return LargeMatrix(self.stored, self.dtype, self.device, self._in_stored(rows))

    def to(self, where: torch.device | torch.dtype) -> "LargeMatrix":
        """Return the same rows for another dtype, or for another device, on it if they fit."""
        if isinstance(where, torch.dtype):
            return LargeMatrix(self.stored, where, self.device, self.chosen)
        stored = self.stored
        if where != stored.device and (moved := self._room(where)) is not None:
            for start, stop in slices(len(stored), self._run_rows):
                moved[start:stop].copy_(self.stored[start:stop])
            stored = moved
        return LargeMatrix(stored, self.dtype, where, self.chosen)

    def _room(self, device: torch.device) -> Tensor | None:
        """Memory of a device for all rows; None if it has too little."""
        free = None if device.type == "cpu" else limits.free_memory(device)
        n_bytes = self.stored.numel() * self.dtype.itemsize
        if free is not None and n_bytes > free // limits.ROWS_SHARE:
            return None
        try:
            return torch.empty_like(self.stored, dtype=self.dtype, device=device)
        except torch.OutOfMemoryError:
            return None

    def _copied(self, rows: slice | Tensor, n_rows: int) -> Tensor:
        out = torch.empty(n_rows, self.shape[1], dtype=self.dtype, device=self.device)
        self.read(rows, out)
        return out

    def _in_stored(self, rows: Tensor) -> Tensor:
        return rows if self.chosen is None else self.chosen.index_select(0, rows.cpu())

    @property
    def _run_rows(self) -> int:
        return max(1, limits.RUN_BYTES // self.row_bytes)

    @property
    def row_bytes(self) -> int:
        """Return the bytes of a row in the dtype to compute in."""
        return self.shape[1] * self.dtype.itemsize


def block_permutation(
    n_rows: int, block_rows: int, window_blocks: int, generator: torch.Generator
) -> Tensor:
    """Return blocks of rows in random order, with the rows shuffled in windows of some blocks."""
    blocks = torch.randperm(-(-n_rows // block_rows), generator=generator, device="cpu")
    within = torch.arange(block_rows, device="cpu")
    windows = []
    for some in torch.split(blocks, window_blocks):
        rows = (some.unsqueeze(1) * block_rows + within).view(-1)
        rows = rows[rows < n_rows]
        windows.append(rows[torch.randperm(len(rows), generator=generator, device="cpu")])
    return torch.cat(windows)
