"""What comes next is read by a thread, while what is there is used."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager

from skorchless.sources.stored import Stored

#: How many rows are used of a window, and from which to which they lie.
Window = tuple[int, int, int]


class RunReader:
    """Reads the next window of rows into memory, and lets go of the last.

    Parameters
    ----------
    stored : Stored
    windows : iterable of Window
    thread : Executor
    """

    def __init__(self, stored: Stored, windows: Iterable[Window], thread: Executor) -> None:
        self._stored, self._windows, self._thread = stored, iter(windows), thread
        self._used: Window | None = None
        self._next = self._read_on()
        self._left = 0
        self.advance(0)

    def advance(self, n_rows: int) -> None:
        """So many more rows have been used."""
        self._left -= n_rows
        while self._left <= 0 and self._next is not None:
            window, arrived = self._next
            if self._used is not None:
                self._thread.submit(self._stored.release, *self._used[1:])
            self._used, self._left = window, self._left + window[0]
            self._next = self._read_on()
            arrived.result()

    def _read_on(self) -> tuple[Window, Future[None]] | None:
        window = next(self._windows, None)
        if window is None:
            return None
        return window, self._thread.submit(self._stored.fetch, *window[1:])


@contextmanager
def run_reader(stored: Stored, windows: Iterable[Window]) -> Iterator[RunReader | None]:
    """A reader for as long as a pass takes; None where there is nothing to read."""
    if not stored.is_mapped:
        yield None
        return
    try:
        with ThreadPoolExecutor(max_workers=1) as thread:
            yield RunReader(stored, windows, thread)
    finally:
        stored.release()
