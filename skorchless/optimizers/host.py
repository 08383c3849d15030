"""The algebra between two passes on the CPU, where rows are on another device and weights are few.

A full-batch optimizer makes some hundred small operations between two passes, and often looks at
what came of them. A CPU makes them in less time than it takes to tell a GPU of them. So only what
goes through the rows stays where these are: the weights are sent there, and their gradient and
second moments are fetched.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from skorchless.optimizers.curvature import Curvature
from skorchless.sources import Source

#: Multiply-adds that a CPU makes about as fast as a GPU launches what they replace.
MOST_WORK = 2**24
#: The largest matrix that a CPU factors in the time of a few passes.
MOST_COLUMNS = 1024
#: Where second moments are a diagonal: operations between two passes with every weight.
OF_EACH_WEIGHT = 16


def home_of(source: Source, weights: Tensor) -> torch.device:
    """Where the algebra of these weights is made: on the CPU, or where the rows are.

    Parameters
    ----------
    source : Source
    weights : Tensor of shape (M, K, D + 1)
    """
    columns = weights.shape[-1]
    of_each = columns if source.affords_gram else OF_EACH_WEIGHT
    small = weights.numel() * of_each <= MOST_WORK
    small &= columns <= MOST_COLUMNS or not source.affords_gram
    return torch.device("cpu") if small else weights.device


class CurvatureElsewhere:
    """A `Curvature` whose rows are on another device than those who ask it.

    Numbers that it is asked about are sent, once each, and what it says of them is fetched. Which
    rows or outputs count, which only it asks for again, stays where it is.

    Parameters
    ----------
    curvature : Curvature
    device : torch.device
        Of the rows.
    """

    def __init__(self, curvature: Curvature, device: torch.device) -> None:
        self._curvature, self._device = curvature, device
        self._sent = WeakIdKeyDictionary()

    @classmethod
    def of(cls, curvature: Curvature, device: torch.device) -> Curvature:
        """What can be asked as a `Curvature` is."""
        elsewhere = device != curvature.home
        return cast("Curvature", cls(curvature, device)) if elsewhere else curvature

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._curvature, name)
        return partial(self._ask, value) if callable(value) else value

    def has(self, here: Tensor, there: Tensor) -> None:
        """The same numbers are there already."""
        self._sent[here] = there

    def _ask(self, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        named = {name: self._send(value) for name, value in named.items()}
        return self._fetch(method(*map(self._send, arguments), **named))

    def _send(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        if value not in self._sent:
            self._sent[value] = value.to(self._device)
        return self._sent[value]

    def _fetch(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.to(self._curvature.home)
        if isinstance(value, tuple):
            return tuple(map(self._fetch, value))
        return partial(self._ask, value) if callable(value) else value
