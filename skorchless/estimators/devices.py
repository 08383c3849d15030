"""Where to train."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from skorchless.estimators.parameters import Parameters, batch_rows, chosen_optimizer, shown
from skorchless.reducer import local_rank_device
from skorchless.stack import WIDE

#: Multiply-adds from which device="auto" moves to a GPU: of a pass over all rows, which launches
#: some forty kernels and waits for a few numbers, and of a step of SGD or Adam, which launches some
#: fifteen.
WORTH_A_PASS, WORTH_A_STEP = 2**24, 2**22


def available_devices() -> list[str]:
    """Names of the devices on this machine."""
    names = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    other = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if other is not None and other.type != "cuda":
        names += [f"{other.type}:{i}" for i in range(torch.accelerator.device_count())]
    return names


def resolve_device(
    device: str | int | torch.device,
    own: torch.device | None,
    *,
    worth_moving: bool = False,
    distributed: bool = False,
) -> torch.device:
    """The device to train on.

    CUDA is only asked for where the work would go there: asking initialises it, after which the
    process must not fork.

    Parameters
    ----------
    device : str, int or torch.device
        The estimator's parameter.
    own : torch.device or None
        Where X is, if it is a tensor.
    worth_moving : bool
        Whether there is so much work that "auto" takes it to CUDA, if that is there.
    distributed : bool
        Whether each rank of a group is to have a GPU of its own.

    Raises
    ------
    ValueError
        If there is no such device here, or no such device at all, or if it has no float64.
    """
    if isinstance(device, str) and device == "auto":
        if own is not None:
            return _with_double(own)
        if not worth_moving or not torch.cuda.is_available():
            return torch.device("cpu")
        return local_rank_device() if distributed else _numbered(torch.device("cuda"))
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"device={shown(device)} is not a device that torch knows.{_guess(device)} "
            f"Devices here: {available_devices()}."
        ) from error
    if chosen.type == "cpu":
        return chosen
    names = available_devices()
    if str(chosen) not in {*names, *(name.split(":")[0] for name in names)}:
        raise ValueError(
            f"device={str(chosen)!r} is not available{_reason(chosen)}. Devices here: {names}."
        )
    if chosen.index is None:
        own_gpu = distributed and chosen.type == "cuda"
        chosen = local_rank_device() if own_gpu else _numbered(chosen)
    return _with_double(chosen)


def _guess(device: str | int | torch.device) -> str:
    """The device that was meant by another spelling, if there is one."""
    if not isinstance(device, str):
        return ""
    meant = device.lower().replace("gpu", "cuda")
    try:
        torch.device(meant)
    except RuntimeError:
        return ""
    return f" Did you mean {meant!r}?"


def _reason(device: torch.device) -> str:
    """Why there is no CUDA device, and what takes one where there is one."""
    if device.type != "cuda" or torch.cuda.device_count():
        return ""
    is_cpu_build = torch.version.cuda is None and torch.version.hip is None
    why = (
        "this is a CPU build of torch; install a CUDA build"
        if is_cpu_build
        else "torch finds no CUDA device"
    )
    return f": {why}. device='auto' uses a GPU where there is one"


def _numbered(device: torch.device) -> torch.device:
    """The current one of the devices of a kind."""
    return torch.empty(0, device=device).device


@cache
def has_double(device: torch.device) -> bool:
    """Whether a device has float64, which Apple's and some others lack."""
    if device.type in ("cpu", "cuda"):
        return True
    try:
        torch.ones(1, dtype=WIDE, device=device)
    except (TypeError, RuntimeError):
        return False
    return True


def _with_double(device: torch.device) -> torch.device:
    """A device, if it has float64."""
    if not has_double(device):
        raise ValueError(
            f"Training on device {str(device)!r} is not possible: it has no float64, in which "
            "losses and statistics are summed. Set device='cpu'; the model can still predict "
            "tensors that are there."
        )
    return device


def where_double_is(*values: Any) -> list[Any]:
    """Tensors of devices without float64 on the CPU, and everything else as it is."""
    return [
        value.cpu() if isinstance(value, Tensor) and not has_double(value.device) else value
        for value in values
    ]


def is_worth_moving(parameters: Parameters, work: int, n_rows: int, *, one_pass: bool) -> bool:
    """Whether there is so much work between two decisions of the host that a GPU is faster.

    Parameters
    ----------
    parameters : dict
        Constructor parameters of an estimator.
    work : int
        Multiply-adds of a product with all rows.
    n_rows : int
    one_pass : bool
        Whether it is a call of ``partial_fit``, which takes steps whatever the optimizer.
    """
    if chosen_optimizer(parameters) == "quasi-newton" and not one_pass:
        return work >= WORTH_A_PASS
    return work * batch_rows(parameters, n_rows) >= WORTH_A_STEP * n_rows
