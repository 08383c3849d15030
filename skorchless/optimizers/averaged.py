r"""Adam for rows that come once: the mean of steps that begin short and leave rare columns alone.

With steps of about constant length the weights end as far from the optimum as a step is long. Their
mean, the later ones counting more (Shamir and Zhang, 2013),

.. math:: \bar W_t = \bar W_{t-1} + \frac{p + 1}{t + p} (W_t - \bar W_{t-1}),

does not, and forgets where they began.

Adam moves every weight by about the rate, however little is known of it. Where a row is of many
columns in effect, :math:`N = \mathbb{E} \lVert x \rVert^2` of standardised ones, that moves
predictions too far, in two ways. Before the signs of the gradient mean anything, all weights err
at once: the t-th step is :math:`\min(1, 2 \sqrt{t / N})` of the rate. And a weight whose column
shows up in few batches moves as far in one of them as others in many: :math:`v_j` counts as
:math:`\sum_i v_i / N` at least.
"""

import numpy as np
import torch
from torch import Tensor

from skorchless.optimizers.base import PassOutcome, Setup
from skorchless.optimizers.step_size import mean_row_square
from skorchless.optimizers.textbook import Adam, State
from skorchless.stack import shared

#: p: how fast the beginning is forgotten.
FORGETTING = 3.0
#: Share of the rate, per root of t / N.
RISE = 2.0


class AveragedAdam(Adam):
    """Adam whose weights are the mean of all its steps, over all calls."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._columns_of_a_row = mean_row_square(setup.source, setup.objective.reducer)
        self._weights = setup.weights
        self.average = setup.weights.clone()

    def on_batch(self, weights: Tensor, gradient: Tensor) -> None:
        """Take one step."""
        super().on_batch(weights, gradient)
        self.average.lerp_(weights, (FORGETTING + 1.0) / (self.steps + FORGETTING))

    def _share_of_rate(self, steps: Tensor) -> Tensor:
        return (RISE * (steps / self._columns_of_a_row).sqrt()).clamp_(max=1.0)

    def _root_of_squares(self) -> Tensor:
        least = self.square.sum(dim=-1, keepdim=True).div_(self._columns_of_a_row)
        return torch.maximum(self.square, least, out=self._metric).sqrt_()

    def on_pass(self, weights: Tensor, value: np.ndarray) -> PassOutcome:
        """Accept the mean of the weights."""
        self._ahead = weights - self.average
        never = np.zeros(len(weights), dtype=bool)
        return PassOutcome(self.average.clone(), value, never, never, ~never)

    def state(self) -> State:
        """Adam's, and how far the weights are ahead of their mean."""
        return {**super().state(), "ahead": self._ahead.numpy(force=True)}

    def load_state(self, state: State) -> None:
        """Go on from the mean, with weights that are ahead of it."""
        super().load_state(state)
        if "ahead" in state:
            self._weights.add_(shared(state["ahead"]).to(self._weights))
