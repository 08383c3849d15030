r"""The mean of an optimizer's steps, which is nearer to the optimum than the last of them.

With steps of about constant length the weights end as far from the optimum as a step is long. Their
mean, the later ones counting more (Shamir and Zhang, 2013),

.. math:: \bar W_t = \bar W_{t-1} + \frac{p + 1}{t + p} (W_t - \bar W_{t-1}),

does not, and forgets where they began.
"""

import numpy as np
import torch
from torch import Tensor

from skorchless.optimizers.base import PassOutcome, Setup
from skorchless.optimizers.textbook import Adam, State

#: p: how fast the beginning is forgotten.
FORGETTING = 3.0


class AveragedAdam(Adam):
    """Adam whose weights are the mean of all its steps, over all calls."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._weights = setup.weights
        self.average = setup.weights.clone()

    def on_batch(self, weights: Tensor, gradient: Tensor) -> None:
        """Take one step."""
        super().on_batch(weights, gradient)
        self.average.lerp_(weights, (FORGETTING + 1.0) / (self.steps + FORGETTING))

    def on_pass(self, weights: Tensor, value: np.ndarray) -> PassOutcome:
        """Accept the mean of the weights."""
        self._ahead = weights - self.average
        never = np.zeros(len(weights), dtype=bool)
        return PassOutcome(self.average.clone(), value, never, never)

    def state(self) -> State:
        """Adam's, and how far the weights are ahead of their mean."""
        return {**super().state(), "ahead": self._ahead.numpy(force=True)}

    def load_state(self, state: State) -> None:
        """Go on from the mean, with weights that are ahead of it."""
        super().load_state(state)
        if "ahead" in state:
            self._weights.add_(torch.from_numpy(state["ahead"]).to(self._weights))
