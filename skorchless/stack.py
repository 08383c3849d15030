"""The stack axis: M models on top of each other, each a scikit-learn ``coef_`` array.

Conventions
-----------
M : models in the stack, K : outputs (columns of y, or logits), D : features.

* weights and gradients: ``(M, K, D + 1)``, the intercept in the last column,
* hyper-parameters: ``(M, 1, 1)``,
* raw predictions and their gradients: ``(parts, M, K, rows)``, samples last.

``parts`` splits a batch into row blocks, so that one batched product gives every core a block.
Where sets of rows train side by side, each with M models of its own, it is one row block of each
set, and weights are ``(sets * M, K, D + 1)``, set by set.
"""

import secrets
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def stack(
    values: Sequence[float] | np.ndarray, *, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Put one hyper-parameter of M models into a tensor of shape ``(M, 1, 1)``."""
    return torch.as_tensor(values, dtype=dtype, device=device).view(-1, 1, 1)


def shared(array: np.ndarray) -> Tensor:
    """A tensor that shares an array's memory, read-only or not: it is never to be written to."""
    return torch.from_numpy(array if array.flags.writeable else np.asarray(_Writeable(array)))


class _Writeable:
    """An array that says of itself that it may be written to: torch warns of those that may not.

    To silence the warning would touch the filters of the process, and so of other threads.
    """

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def select_models(holder: object, keep: Tensor) -> None:
    """Keep only some of the models in all tensors and arrays that an object holds.

    Parameters
    ----------
    holder : object
        All of its attributes that are tensors or arrays lead with the axis of the models.
    keep : Tensor of int or bool
        Numbers of the models that stay, or whether each does.
    """
    for name, value in list(vars(holder).items()):
        if isinstance(value, np.ndarray):
            setattr(holder, name, value[keep.numpy(force=True)])
        elif isinstance(value, Tensor):
            setattr(holder, name, value[keep.to(value.device)])


def pack(coef: Tensor, intercept: Tensor) -> Tensor:
    """Join coefficients ``(M, K, D)`` and intercepts ``(M, K)`` into weights ``(M, K, D + 1)``."""
    return torch.cat([coef, intercept.unsqueeze(-1)], dim=-1)


def median(values: Tensor, dim: int) -> Tensor:
    """The lower median along an axis. torch's own is not deterministic on every device."""
    return values.sort(dim=dim).values.select(dim, (values.shape[dim] - 1) // 2)


def private_generator(random_state: int | np.random.RandomState | None) -> torch.Generator:
    """A CPU generator of our own: the global ones are neither read nor moved.

    Batches are drawn on the CPU whatever the device, so a seed means the same batches everywhere.
    """
    if random_state is None:
        seed = secrets.randbits(63)
    elif isinstance(random_state, np.random.RandomState):
        seed = int(random_state.randint(np.iinfo(np.int32).max))
    else:
        seed = int(random_state)
    return torch.Generator(device="cpu").manual_seed(seed)
