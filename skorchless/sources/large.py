"""A matrix too large to be copied, be it an array, a memory map or more than an accelerator holds.

It stands where a tensor would for those who ask for shape, dtype and device, or for some rows.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from skorchless.sources.chunk import slices
from skorchless.sources.reading import Window, run_reader
from skorchless.sources.stored import Stored

#: Rows that are read at random lie in blocks of so many bytes: small ones mix the rows better,
#: large ones take a disk fewer seeks.
BLOCK_BYTES = 2**17
#: Bytes of such a block that lie together where columns do, not rows.
COLUMN_RUN_BYTES = 2**16
#: What is in memory at a time, and as much again that is being read.
WINDOW_BYTES = 2**26
#: A selection of rows of at most so many bytes is copied.
COPIED_BYTES = 2**27
#: Bytes that are checked, or moved to a device, at once.
RUN_BYTES = 2**24
#: Share of a device's free memory that the rows may take.
DEVICE_SHARE = 2


class LargeMatrix:
    """Rows of a matrix, converted and moved as they are read.

    Parameters
    ----------
    stored : Stored
        As the user holds it.
    dtype : torch.dtype
        What is computed in.
    device : torch.device, optional
        Where rows are wanted; where they are by default.
    chosen : Tensor of int64, shape (n,), optional
        Which rows there are, in ascending order; all by default.
    """

    def __init__(
        self,
        stored: Stored,
        dtype: torch.dtype,
        device: torch.device | None = None,
        chosen: Tensor | None = None,
    ) -> None:
        self.stored, self.dtype, self.chosen = stored, dtype, chosen
        self.device = stored.rows.device if device is None else device

    def __len__(self) -> int:
        return len(self.stored.rows) if self.chosen is None else len(self.chosen)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self), self.stored.rows.shape[1]

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
        return self.stored.rows.device == self.device

    @property
    def lies_ready(self) -> bool:
        """Whether runs of rows can be computed with where they lie."""
        rows = self.stored.rows
        return (
            self.chosen is None
            and self.is_here
            and rows.dtype == self.dtype
            and rows.is_contiguous()
        )

    @property
    def block_rows(self) -> int:
        """Rows that are read together when rows are read at random."""
        if self.stored.rows_lie_together:
            return max(1, BLOCK_BYTES // self._row_bytes)
        return COLUMN_RUN_BYTES // self.stored.rows.element_size()

    @property
    def window_blocks(self) -> int:
        """Blocks that rows are shuffled over."""
        return max(1, WINDOW_BYTES // (self.block_rows * self._row_bytes))

    def windows(self) -> Iterator[Window]:
        """What is read together when rows are read in their order."""
        share = len(self) / len(self.stored.rows)
        for start, stop in slices(len(self), max(1, int(share * WINDOW_BYTES / self._row_bytes))):
            if self.chosen is None:
                yield stop - start, start, stop
            else:
                yield stop - start, int(self.chosen[start]), int(self.chosen[stop - 1]) + 1

    def runs(self) -> Iterator[Tensor]:
        """All rows in their order, as they are stored, some at a time and the next being read."""
        assert self.chosen is None
        with run_reader(self.stored, self.windows()) as reader:
            for start, stop in slices(len(self), max(1, RUN_BYTES // self._row_bytes)):
                yield self.stored.rows[start:stop]
                if reader is not None:
                    reader.advance(stop - start)

    def read(self, start: int, stop: int, out: Tensor) -> None:
        """Write consecutive rows to `out`."""
        if self.chosen is None:
            self.stored.read(start, stop, out)
        else:
            self.stored.gather(self.chosen[start:stop], out)

    def gather(self, rows: Tensor, out: Tensor) -> None:
        """Write some rows, by number, to `out`."""
        self.stored.gather(self._in_stored(rows), out)

    def copy(self, rows: Tensor, out: Tensor) -> None:
        """The same from places all over the file, none of which becomes resident."""
        self.stored.copy(self._in_stored(rows), out)

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
        for start, stop in slices(len(self), max(1, RUN_BYTES // self._row_bytes)):
            yield self[start:stop]

    def to(self, where: torch.device | torch.dtype) -> "LargeMatrix":
        """To be computed with in another dtype, or on another device, if it fits there."""
        if isinstance(where, torch.dtype):
            return LargeMatrix(self.stored, where, self.device, self.chosen)
        stored = self.stored
        if where != stored.rows.device and self._fits(where):
            moved, done = torch.empty_like(stored.rows, dtype=self.dtype, device=where), 0
            for run in LargeMatrix(stored, self.dtype).runs():
                moved[done : done + len(run)].copy_(run)
                done += len(run)
            stored = Stored(moved)
        return LargeMatrix(stored, self.dtype, where, self.chosen)

    def _fits(self, device: torch.device) -> bool:
        free, _ = torch.cuda.mem_get_info(device) if device.type == "cuda" else (2**63, 0)
        return self.stored.rows.numel() * self.dtype.itemsize <= free // DEVICE_SHARE

    def _copied(self, rows: Tensor) -> Tensor:
        out = torch.empty(len(rows), self.shape[1], dtype=self.dtype, device=self.device)
        self.copy(rows, out)
        return out

    def _in_stored(self, rows: Tensor) -> Tensor:
        return rows if self.chosen is None else self.chosen.index_select(0, rows.cpu())

    @property
    def _row_bytes(self) -> int:
        return self.shape[1] * self.dtype.itemsize
