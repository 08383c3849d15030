"""How much memory this process may take, and what is too much of it for one matrix."""

import os
from collections.abc import Iterator
from pathlib import Path

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

#: More bytes than this are read where they lie and never copied ...
LARGE_BYTES = 2**29
#: ... or one in so many of all the memory there is, where that is less.
MEMORY_SHARE = 4
#: Below this nobody has to ask how much memory there is.
SMALL_BYTES = 2**24

CGROUPS = Path("/sys/fs/cgroup")


def is_large(n_bytes: int) -> bool:
    """Whether a matrix of so many bytes, in the dtype to compute in, is never held twice.

    Its container does not matter, so that a memory map and an array are trained on alike; nor does
    how much memory happens to be free. From 2 GiB of memory on, nor does the machine.
    """
    if n_bytes <= SMALL_BYTES:
        return False
    return n_bytes > LARGE_BYTES or n_bytes > memory_limit() // MEMORY_SHARE


def memory_limit() -> int:
    """Bytes that this process may take: what the machine has, or the least of its limits."""
    return min(_limits(), default=2**63)


def _limits() -> Iterator[int]:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if resource is not None:
        for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            soft, _ = resource.getrlimit(kind)
            if soft != resource.RLIM_INFINITY:
                yield soft
    for path in _cgroup_files():
        try:
            yield int(path.read_text())
        except (OSError, ValueError):  # no such group, or "max"
            continue


def _cgroup_files() -> Iterator[Path]:
    """Where the limits of this process's control group may stand, and those of a container."""
    yield CGROUPS / "memory.max"
    yield CGROUPS / "memory" / "memory.limit_in_bytes"
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if not controllers:
            yield CGROUPS / path.lstrip("/") / "memory.max"
        elif "memory" in controllers.split(","):
            yield CGROUPS / "memory" / path.lstrip("/") / "memory.limit_in_bytes"
