"""Where to train."""

import torch

from skorchless.estimators.parameters import shown
from skorchless.reducer import local_rank_device

#: Multiply-adds a pass from which moving to an accelerator pays.
WORTH_MOVING = 2**24


def available_devices() -> list[str]:
    """Names of the devices on this machine."""
    names = ["cpu"]
    names += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    other = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if other is not None and other.type != "cuda":
        names.append(other.type)
    return names


def resolve_device(
    device: str | int | torch.device,
    own: torch.device | None,
    work: int,
    *,
    distributed: bool = False,
) -> torch.device:
    """The device to train on.

    Parameters
    ----------
    device : str, int or torch.device
        The estimator's parameter.
    own : torch.device or None
        Where X is, if it is a tensor.
    work : int
        Multiply-adds a pass.
    distributed : bool
        Whether each rank of a group is to have a GPU of its own.

    Raises
    ------
    ValueError
        If there is no such device here, or no such device at all.
    """
    if isinstance(device, str) and device == "auto":
        if own is not None:
            return own
        worth = torch.cuda.is_available() and work >= WORTH_MOVING
        if not worth:
            return torch.device("cpu")
        if distributed:
            return local_rank_device()
        return torch.device("cuda", torch.cuda.current_device())
    names = available_devices()
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"device={shown(device)} is not a device that torch knows.{_guess(device)} "
            f"Devices here: {names}."
        ) from error
    known = {torch.device(name) for name in names} | {torch.device(n.split(":")[0]) for n in names}
    if chosen.type != "cpu" and chosen not in known:
        raise ValueError(
            f"device={str(chosen)!r} is not available{_reason(chosen)}. Devices here: {names}."
        )
    if chosen.type == "cuda" and chosen.index is None:
        chosen = torch.device("cuda", torch.cuda.current_device())
    return chosen


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


def check_dtype(device: torch.device) -> None:
    """Raise ValueError for a device without float64, in which sums are kept."""
    if device.type == "mps":
        raise ValueError(
            f"device={str(device)!r} has no float64, in which losses and statistics are summed. "
            "Set device='cpu'."
        )
