"""All sizes and thresholds of this folder, and how much goes through an operation at once.

Sizes are of a CPU with caches of some megabytes; they were measured on two cores with torch 2.13.
An accelerator takes as much as its memory allows, since each of its operations costs a launch.
"""

import torch

#: Bytes of a chunk of gathered rows. A larger one falls out of the cache; a smaller one pays its
#: fixed costs more often.
CHUNK_BYTES = 4 * 2**20
#: Bytes of a chunk of rows that are read in place. They leave no copy in the cache.
IN_PLACE_BYTES = 16 * 2**20
#: Numbers of a chunk of sparse rows, raw predictions and residuals included ...
SPARSE_CHUNK_NUMBERS = 2**23
#: ... or this many times the number of coefficients, which are read and written once per chunk.
SPARSE_CHUNK_WEIGHTS = 4
#: Batches of a chunk at most: views of each are made once and kept.
MOST_BATCHES = 1024
#: From this many classes on, targets are class numbers. One-hot targets would be as large as the
#: raw predictions, and read as often. Of fewer classes one-hot targets are faster on a CPU.
MANY_CLASSES = 32

#: A block of rows with fewer numbers is not worth a core of its own.
BLOCK_NUMBERS = 2**14
#: Blocks that a batch is cut into at most. Their number depends on the shape alone, not on the
#: number of threads, so that the same seed gives the same bits beside other jobs.
MOST_PARTS = 8
#: With this many rows of weights a single matrix product uses all cores. With fewer, blocks of rows
#: make it about 1.5 times as fast (1024 x 784 x 10).
WIDE_STACK = 48

#: Numbers whose squares are computed at once.
SQUARED_NUMBERS = 2**18
#: Rows whose second moments are added up in double precision at once.
WIDE_ROWS = 1024
#: Numbers of sparse rows that are made dense at once.
WINDOW_NUMBERS = 2**20
#: Rows of a symmetric product that are computed at once, from the diagonal on (in float32 on one
#: core, 100 columns take 0.85 of the time without, 200 columns 0.67 and 2000 columns 0.55).
PANEL = 64
#: With more columns, second moments of dense rows are not worth their memory and time.
MOST_FACTORED_COLUMNS = 8000
#: The same for sparse rows, whose second moments are dense.
MOST_DENSE_COLUMNS = 1000

#: Means, in standard deviations, and scales up to which weights may be scaled instead of rows.
MILD = {torch.float32: (8.0, 1e12), torch.float64: (1e4, 1e100)}

#: Matrices of more bytes, in the dtype to compute in, are read in place and never copied.
LARGE_BYTES = 2**29
#: Bytes of a block of rows of such a matrix, which are shuffled together: small blocks mix the rows
#: better, large ones need fewer seeks of a disk.
SHUFFLED_BLOCK_BYTES = 2**17
#: Bytes of a column in such a block, if the matrix is stored column by column.
COLUMN_RUN_BYTES = 2**16
#: Bytes of a window of blocks, in which rows are shuffled.
WINDOW_BYTES = 2**26
#: A selection of rows of at most this many bytes is copied.
COPIED_BYTES = 2**27
#: Bytes that are checked, or copied to a device, at once.
RUN_BYTES = 2**24

#: An accelerator is given this many bytes of rows at once, or this share of its free memory.
DEVICE_BYTES, CHUNK_SHARE = 2**30, 8
#: Numbers that are converted to double precision there at once.
DEVICE_NUMBERS = 2**25
#: The rows may take this share of its free memory.
ROWS_SHARE = 2


def is_large(n_bytes: int) -> bool:
    """Whether a matrix of so many bytes, in the dtype to compute in, is never copied.

    Memory maps and arrays of the same size are treated alike.
    """
    return n_bytes > LARGE_BYTES


def free_memory(device: torch.device) -> int | None:
    """Free bytes of an accelerator, with those that torch holds for reuse; None if unknown."""
    module = torch.get_device_module(device)
    if not hasattr(module, "mem_get_info"):
        return None
    free: int = module.mem_get_info(device)[0]
    if hasattr(module, "memory_reserved"):
        free += module.memory_reserved(device) - module.memory_allocated(device)
    return free


def bytes_at_once(on_cpu: int, device: torch.device) -> int:
    """Bytes of rows that go through an operation at once, `on_cpu` on a CPU."""
    if device.type == "cpu":
        return on_cpu
    free = free_memory(device)
    return DEVICE_BYTES if free is None else max(1, min(DEVICE_BYTES, free // CHUNK_SHARE))


def numbers_at_once(on_cpu: int, device: torch.device) -> int:
    """Numbers that are converted to double precision, or squared, at once."""
    return on_cpu if device.type == "cpu" else max(on_cpu, DEVICE_NUMBERS)
