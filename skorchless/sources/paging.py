"""Pages of a mapped file: read before they are needed, let go of once they have been used.

Pages that a process has read from a mapped file count as its resident memory until they are let go
of. That loses nothing where the map is shared: the file still has them, and so has the kernel's
cache while there is room. Everything here is advice: where the system does not take it, nothing
happens.
"""

import ctypes
import mmap
import os
from functools import cache
from typing import Any

import numpy as np

#: Linux 5.14's advice to map pages now, as reading them would.
POPULATE_READ = 22
#: Linux's number of the call that takes advice on many runs of bytes, and how many at most.
PROCESS_MADVISE, MOST_VECTORS = 440, 1024


class Pages:
    """The pages of a shared map that a matrix lies in.

    Parameters
    ----------
    address : int
        Of the matrix.
    n_bytes : int
        From its first to its last number.
    """

    def __init__(self, address: int, n_bytes: int) -> None:
        self.address, self.n_bytes = address, n_bytes

    @classmethod
    def of(cls, address: int, n_bytes: int) -> "Pages | None":
        """Those of a matrix, or None if it does not lie in a map whose pages can be let go of."""
        return cls(address, n_bytes) if _is_shared_map(address, address + n_bytes) else None

    def fetch(self, first: int, last: int) -> None:
        """Read a run of bytes, and wait for it."""
        self._advise(first, last, mmap.MADV_WILLNEED)
        self._advise(first, last, POPULATE_READ)

    def release(self, first: int = 0, last: int | None = None) -> None:
        """Let go of a run of bytes, or of all."""
        self._advise(first, self.n_bytes if last is None else last, mmap.MADV_DONTNEED)

    def announce(self, first: np.ndarray, last: np.ndarray) -> None:
        """Have the kernel read runs of bytes, without waiting for them.

        Parameters
        ----------
        first, last : ndarray of int64, shape (n,)
            The bounds of each.
        """
        begin = (self.address + first) // mmap.PAGESIZE * mmap.PAGESIZE
        runs = np.stack([begin, self.address + last - begin], axis=1)
        try:
            process = os.pidfd_open(os.getpid())
        except OSError:  # a sandbox that does not have it
            return
        try:
            for start in range(0, len(runs), MOST_VECTORS):
                some = runs[start : start + MOST_VECTORS]
                place, advice = ctypes.c_void_p(some.ctypes.data), mmap.MADV_WILLNEED
                _libc().syscall(PROCESS_MADVISE, process, place, len(some), advice, 0)
        finally:
            os.close(process)

    def _advise(self, first: int, last: int, advice: int) -> None:
        begin = (self.address + first) // mmap.PAGESIZE * mmap.PAGESIZE
        length = self.address + last - begin
        _libc().madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), advice)


def _is_shared_map(first: int, last: int) -> bool:
    """Whether one shared map holds all addresses from `first` to `last`."""
    try:
        with open("/proc/self/maps") as maps:
            for line in maps:
                bounds, permissions, _ = line.split(maxsplit=2)
                low, high = (int(bound, 16) for bound in bounds.split("-"))
                if low <= first and last <= high:
                    return permissions.endswith("s")
    except OSError:  # not Linux
        pass
    return False


@cache
def _libc() -> Any:
    return ctypes.CDLL(None)
