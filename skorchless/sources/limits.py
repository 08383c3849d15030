"""What is too much for one matrix, and what is taken at once."""

import torch

#: More bytes than this are read where they lie and never copied.
LARGE_BYTES = 2**29

#: An accelerator is given rows of so many bytes at once, or this share of what it has free: each of
#: its operations costs a launch.
DEVICE_BYTES, DEVICE_SHARE = 2**30, 8
#: Numbers that are taken to double precision there at once.
DEVICE_NUMBERS = 2**25


def is_large(n_bytes: int) -> bool:
    """Whether a matrix of so many bytes, in the dtype to compute in, is never held twice.

    Its container does not matter, so that a memory map and an array are trained on alike.
    """
    return n_bytes > LARGE_BYTES


def free_memory(device: torch.device) -> int | None:
    """Bytes that an accelerator has left, those that torch keeps for later included.

    None for a kind of device that does not tell.
    """
    module = torch.get_device_module(device)
    if not hasattr(module, "mem_get_info"):
        return None
    free: int = module.mem_get_info(device)[0]
    if hasattr(module, "memory_reserved"):
        free += module.memory_reserved(device) - module.memory_allocated(device)
    return free


def bytes_at_once(on_cpu: int, device: torch.device) -> int:
    """Bytes of rows that go through an operation at once.

    `on_cpu` suits the cache of a CPU. An accelerator takes as many as its memory allows.
    """
    if device.type == "cpu":
        return on_cpu
    free = free_memory(device)
    return DEVICE_BYTES if free is None else max(1, min(DEVICE_BYTES, free // DEVICE_SHARE))


def numbers_at_once(on_cpu: int, device: torch.device) -> int:
    """Numbers of a block that is taken to double precision, or squared."""
    return on_cpu if device.type == "cpu" else max(on_cpu, DEVICE_NUMBERS)
