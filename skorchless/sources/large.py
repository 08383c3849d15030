"""A matrix too large to be copied, be it an array, a memory map or more than an accelerator holds.

It stands where a tensor would for those who ask for shape, dtype and device, or for some rows.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from skorchless.sources.chunk import slices
from skorchless.sources.limits import free_memory

#: Rows that are read at random lie in blocks of so many bytes: small ones mix the rows better,
#: large ones take a disk fewer seeks.
BLOCK_BYTES = 2**17
#: Bytes of such a block that lie together where columns do, not rows.
COLUMN_RUN_BYTES = 2**16
#: Rows are shuffled within blocks of so many bytes together.
WINDOW_BYTES = 2**26
#: A selection of rows of at most so many bytes is copied.
COPIED_BYTES = 2**27
#: Bytes that are checked, or moved to a device, at once.
RUN_BYTES = 2**24
#: Rows may take one in so many bytes of a device's free memory.
DEVICE_SHARE = 2


def block_permutation(
    n_rows: int, block_rows: int, window_blocks: int, generator: torch.Generator
) -> Tensor:
    """Blocks of rows in random order, and rows in random order within windows of some blocks."""
    blocks = torch.randperm(-(-n_rows // block_rows), generator=generator, device="cpu")
    within = torch.arange(block_rows, device="cpu")
    windows = []
    for some in torch.split(blocks, window_blocks):
        rows = (some.unsqueeze(1) * block_rows + within).view(-1)
        rows = rows[rows < n_rows]
        windows.append(rows[torch.randperm(len(rows), generator=generator, device="cpu")])
    return torch.cat(windows)


class LargeMatrix:
    """Rows of a matrix, converted and moved as they are read.

    Parameters
    ----------
    stored : Tensor of shape (N, D)
        As the user holds it, in any real dtype and with any strides; only read.
    dtype : torch.dtype
        What is computed in.
    device : torch.device, optional
        Where rows are wanted; where they are by default.
    chosen : Tensor of int64, shape (n,), optional
        Which rows there are, in ascending order; all by default.
    """

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
        """Rows and columns."""
        return len(self), self.stored.shape[1]

    def numel(self) -> int:
        """How many numbers."""
        return len(self) * self.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers, once they are all converted."""
        return self.numel() * self.dtype.itemsize

    def new_ones(self, *size: int, dtype: torch.dtype | None = None) -> Tensor:
        """Ones beside the rows, as of a tensor."""
        return torch.ones(*size, dtype=dtype or self.dtype, device=self.device)

    @property
    def is_here(self) -> bool:
        """Whether the rows are on the device where they are wanted."""
        return self.stored.device == self.device

    @property
    def lies_ready(self) -> bool:
        """Whether runs of rows can be computed with where they lie."""
        ready = self.stored.dtype == self.dtype and self.stored.is_contiguous()
        return ready and self.chosen is None and self.is_here

    def permutation(self, generator: torch.Generator) -> Tensor:
        """All rows by number, in an order that is random and reads few places at a time."""
        rows_lie_together = self.shape[1] == 1 or self.stored.stride(1) == 1
        if rows_lie_together:
            block = max(1, BLOCK_BYTES // self.row_bytes)
        else:
            block = COLUMN_RUN_BYTES // self.stored.element_size()
        window = max(1, WINDOW_BYTES // (block * self.row_bytes))
        return block_permutation(len(self), block, window, generator)

    def runs(self) -> Iterator[Tensor]:
        """All rows in their order, as they are stored, some at a time."""
        assert self.chosen is None
        for start, stop in slices(len(self), self._run_rows):
            yield self.stored[start:stop]

    def read(self, start: int, stop: int, out: Tensor) -> None:
        """Write consecutive rows to `out`."""
        if self.chosen is None:
            out.copy_(self.stored[start:stop])
        else:
            self.gather(torch.arange(start, stop, device="cpu"), out)

    def gather(self, rows: Tensor, out: Tensor) -> None:
        """Write some rows, by number, to `out`."""
        rows = self._in_stored(rows).to(self.stored.device)
        if self.stored.dtype == out.dtype and self.stored.device == out.device:
            torch.index_select(self.stored, 0, rows, out=out)
        else:
            out.copy_(self.stored.index_select(0, rows))

    def __getitem__(self, run: slice) -> Tensor:
        """Consecutive rows, to compute with."""
        start, stop, _ = run.indices(len(self))
        return self._copied(torch.arange(start, stop, device="cpu"))

    def index_select(self, axis: int, chosen: Tensor) -> "Tensor | LargeMatrix":
        """Some rows in ascending order: a copy where they are few, else another of these.

        Of columns always a copy, made of some rows at a time.
        """
        if axis == 1:
            return torch.cat([block.index_select(1, chosen) for block in self._blocks()])
        rows = chosen.cpu()
        if len(rows) * self.shape[1] * self.dtype.itemsize <= COPIED_BYTES:
            return self._copied(rows)
        return LargeMatrix(self.stored, self.dtype, self.device, self._in_stored(rows))

    def _blocks(self) -> Iterator[Tensor]:
        """All rows in their order, some at a time, to compute with."""
        for start, stop in slices(len(self), self._run_rows):
            yield self[start:stop]

    def to(self, where: torch.device | torch.dtype) -> "LargeMatrix":
        """To be computed with in another dtype, or on another device, if it fits there."""
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
        free = None if device.type == "cpu" else free_memory(device)
        if free is not None and self.stored.numel() * self.dtype.itemsize > free // DEVICE_SHARE:
            return None
        try:
            return torch.empty_like(self.stored, dtype=self.dtype, device=device)
        except torch.OutOfMemoryError:
            return None

    def _copied(self, rows: Tensor) -> Tensor:
        out = torch.empty(len(rows), self.shape[1], dtype=self.dtype, device=self.device)
        self.gather(rows, out)
        return out

    def _in_stored(self, rows: Tensor) -> Tensor:
        return rows if self.chosen is None else self.chosen.index_select(0, rows.cpu())

    @property
    def _run_rows(self) -> int:
        return max(1, RUN_BYTES // self.row_bytes)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in the dtype to compute in."""
        return self.shape[1] * self.dtype.itemsize
