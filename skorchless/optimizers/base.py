"""What the engine asks of an update rule."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass
class PassOutcome:
    """What a rule says at the end of a pass.

    Attributes
    ----------
    accepted : Tensor of shape (M, K, D + 1)
        The weights that curves, stopping and the result see.
    value : Tensor of shape (M,)
        The objective that goes with them.
    converged : Tensor of bool, shape (M,)
        Whether the rule itself knows that it is done.
    """

    accepted: Tensor
    value: Tensor
    converged: Tensor


class Rule(Protocol):
    """An update rule for a stack of models, stepping per batch or per pass.

    `weights` are the trial weights, which the rule moves in place. Everything it keeps leads with
    the axis of the models.
    """

    def set_rate(self, rate: Tensor) -> None:
        """Take the learning rates of the coming pass, of shape ``(M, 1, 1)``."""

    def on_batch(self, weights: Tensor, gradient: Tensor) -> None:
        """See the gradient of a batch at `weights`."""

    def on_pass(self, weights: Tensor, value: Tensor) -> PassOutcome:
        """See the objective of the pass, of shape ``(M,)``, after its last batch."""

    def select(self, keep: Tensor) -> None:
        """Keep only some of the models."""
