"""Rows as the user holds them, in an array or in a mapped file that is not to become resident."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skorchless.sources.chunk import slices
from skorchless.sources.paging import Pages

#: One byte that is read may make so many resident, where the kernel keeps a file in huge pages ...
HUGE_PAGE = 2**21
#: ... so pages are let go of after so many places in the file.
MOST_PLACES = 32
#: Runs of bytes that are no further apart than this are read as one.
NEAR_BYTES = 2**16


class Stored:
    """Rows of a matrix, which is only read.

    Parameters
    ----------
    rows : Tensor of shape (N, D)
        Of any real dtype and any strides.
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self.rows_lie_together = rows.shape[1] == 1 or rows.stride(1) == 1
        self.pages: Pages | None = None
        if rows.device.type == "cpu":
            self.pages = Pages.of(rows.data_ptr(), int(self._bytes(0, len(rows))[1]))

    @property
    def is_mapped(self) -> bool:
        """Whether the rows are in a file, and leave memory again."""
        return self.pages is not None

    def read(self, start: int, stop: int, out: Tensor) -> None:
        """Write consecutive rows to `out`."""
        for columns in self._column_groups():
            out[:, columns].copy_(self.rows[start:stop, columns])
            self._leave(columns)

    def gather(self, rows: Tensor, out: Tensor) -> None:
        """Write some rows, by number, to `out`."""
        rows = rows.to(self.rows.device)
        for columns in self._column_groups():
            some, part = self.rows[:, columns], out[:, columns]
            if some.dtype == out.dtype and some.device == out.device:
                torch.index_select(some, 0, rows, out=part)
            else:
                part.copy_(some.index_select(0, rows))
            self._leave(columns)

    def copy(self, rows: Tensor, out: Tensor) -> None:
        """The same from places all over the file, none of which becomes resident."""
        if self.pages is None or not self.rows_lie_together:
            self.gather(rows, out)
            return
        first, last = self._bytes(rows.numpy(), rows.numpy() + 1)
        gap = first[1:] - last[:-1]
        apart = np.flatnonzero((gap < 0) | (gap > NEAR_BYTES))
        self.pages.announce(first[np.append(0, apart + 1)], last[np.append(apart, len(last) - 1)])
        place = first // HUGE_PAGE
        visit = np.cumsum(place[1:] != place[:-1]) // MOST_PLACES
        cuts = [0, *(np.flatnonzero(np.diff(visit, prepend=0)) + 1).tolist(), len(rows)]
        for start, stop in pairwise(cuts):
            self.gather(rows[start:stop], out[start:stop])
            self.pages.release()

    def fetch(self, start: int, stop: int) -> None:
        """Read consecutive rows into memory."""
        if self.pages is not None and self.rows_lie_together:
            self.pages.fetch(*self._bytes(start, stop))

    def release(self, start: int = 0, stop: int | None = None) -> None:
        """Let go of what consecutive rows have made resident."""
        if self.pages is not None:
            first, last = self._bytes(start, len(self.rows) if stop is None else stop)
            self.pages.release(max(0, first - HUGE_PAGE), last)

    def _bytes(self, start: Any, stop: Any) -> tuple[Any, Any]:
        """First byte of rows from `start` on, and the one after those up to `stop`."""
        item = self.rows.element_size()
        step, width = self.rows.stride(0) * item, self.rows.stride(1) * item
        return start * step, (stop - 1) * step + (self.rows.shape[1] - 1) * width + item

    def _column_groups(self) -> list[slice]:
        """Columns that are read together: where they lie apart, each makes pages resident."""
        columns = self.rows.shape[1]
        if self.rows_lie_together or self.pages is None:
            return [slice(0, columns)]
        return [slice(*group) for group in slices(columns, MOST_PLACES)]

    def _leave(self, columns: slice) -> None:
        """Let go of columns that lie together."""
        if not self.rows_lie_together and self.pages is not None:
            self.pages.release()
