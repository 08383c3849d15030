"""Running out of memory, in words that help."""

import contextlib
import re
from collections.abc import Iterator

import torch

#: What torch says in a RuntimeError where it cannot get memory, each system in its own words.
WORDS = ("DefaultCPUAllocator", "std::bad_alloc", "Storage size calculation overflowed")

#: How torch, its CUDA allocator and NumPy tell what was asked for.
ASKED = re.compile(r"(?:tried|unable) to allocate (\d[\d.]*) ?(bytes|[KMGTPE]?i?B)", re.IGNORECASE)

CURE = (
    "Pass X as float32 or as a memory map, train with optimizer='adam' and a small batch_size, or "
    "pass fewer rows or columns at once."
)


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Raise MemoryError with the size that was asked for and a cure, whoever ran out of memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _ran_out(error) or CURE in str(error):
            raise
        raise MemoryError(f"{_asked_for(str(error))} {CURE}") from error


def _ran_out(error: Exception) -> bool:
    out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return out_of_memory or any(words in str(error) for words in WORDS)


def _asked_for(message: str) -> str:
    """How much memory there was not."""
    found = ASKED.search(message)
    if found is None:
        return f"There is not enough memory: {message}.".replace(": .", ".")
    size, unit = found.groups()
    if unit == "bytes":
        size, unit = f"{int(size) / 2**30:.3g}", "GiB"
    return f"There is not enough memory: {size} {unit} were asked for."
