"""What is too much for one matrix."""

#: More bytes than this are read where they lie and never copied.
LARGE_BYTES = 2**29


def is_large(n_bytes: int) -> bool:
    """Whether a matrix of so many bytes, in the dtype to compute in, is never held twice.

    Its container does not matter, so that a memory map and an array are trained on alike.
    """
    return n_bytes > LARGE_BYTES
