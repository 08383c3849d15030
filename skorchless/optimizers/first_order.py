r"""The textbook mini-batch optimizers, update for update as in :mod:`torch.optim`.

Both take a gradient step and then the penalty's proximal step in the metric of that step; in any
other metric L1 converges to the wrong point.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, float64

from skorchless.data import Chunk
from skorchless.optimizers.base import Setup, Step
from skorchless.optimizers.learning_rates import mean_row_square
from skorchless.stack import select_models, shared

#: Optimizer state as it is kept between calls of ``partial_fit``: NumPy, so that it pickles small.
State = dict[str, np.ndarray]

#: p: how fast the beginning is forgotten.
FORGETTING = 3.0
#: Share of the rate, per root of t / N.
RISE = 2.0


class FirstOrderOptimizer(ABC):
    """An optimizer that steps per batch, accepts every pass and can be put aside between two."""

    full_batch = False
    started = True

    def __init__(self, setup: Setup) -> None:
        self.penalty = setup.objective.penalty

    @abstractmethod
    def set_learning_rate(self, rate: Tensor) -> None:
        """Take the learning rates of the coming pass, of shape ``(M, 1, 1)``."""

    @abstractmethod
    def step(self, weights: Tensor, gradient: Tensor) -> None:
        """Take one step, in place."""

    def on_chunk(self, chunk: Chunk) -> None:  # noqa: B027 (nothing to do is the usual case)
        """Gradients are all that it needs."""

    def end_epoch(self, weights: Tensor, value: Tensor) -> Step:
        """Accept the weights as they are."""
        never = np.zeros(len(weights), dtype=bool)
        return Step(weights.clone(), value.numpy(), never, never, ~never)

    @abstractmethod
    def select(self, keep: Tensor) -> None:
        """Keep only some of the models."""

    @abstractmethod
    def state_dict(self) -> State:
        """What `load_state_dict` needs to go on as if nothing had happened."""

    @abstractmethod
    def load_state_dict(self, state: State) -> None:
        """Go on from a state that `state_dict` returned."""


class SGD(FirstOrderOptimizer):
    r"""Stochastic gradient descent with momentum, as :class:`torch.optim.SGD`.

    .. math:: v \leftarrow \mu v + g, \qquad W \leftarrow W - \eta v

    or, with Nesterov's momentum, :math:`W \leftarrow W - \eta (g + \mu v)`.

    The proximal metric is :math:`\eta / (1 - \mu)`: at rest :math:`v = g / (1 - \mu)`, so this
    threshold, and no other, leaves the optimum where it is.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.momentum = setup.momentum
        self.nesterov = setup.nesterov
        moves_on = bool(self.momentum.any())
        self.velocity = torch.zeros_like(setup.weights) if moves_on else None
        self._ahead = torch.empty_like(setup.weights)

    def set_learning_rate(self, rate: Tensor) -> None:
        """Take the learning rates of the coming pass, of shape ``(M, 1, 1)``."""
        self._minus_rate = -rate
        self._metric = rate / (1.0 - self.momentum)

    def step(self, weights: Tensor, gradient: Tensor) -> None:
        """Take one step."""
        if self.velocity is not None:
            self.velocity.mul_(self.momentum).add_(gradient)
            if self.nesterov:
                gradient = torch.addcmul(gradient, self.velocity, self.momentum, out=self._ahead)
            else:
                gradient = self.velocity
        weights.addcmul_(gradient, self._minus_rate)
        self.penalty.prox_(weights, self._metric)

    def select(self, keep: Tensor) -> None:
        """Keep only some of the models."""
        select_models(self, keep)

    def state_dict(self) -> State:
        """The velocity."""
        return {} if self.velocity is None else {"velocity": self.velocity.numpy(force=True)}

    def load_state_dict(self, state: State) -> None:
        """Go on with a velocity."""
        if self.velocity is not None and "velocity" in state:
            self.velocity.copy_(shared(state["velocity"]))


class Adam(FirstOrderOptimizer):
    r"""Adam (Kingma and Ba, 2015), as :class:`torch.optim.Adam`.

    .. math::

        m \leftarrow \beta_1 m + (1 - \beta_1) g, \qquad
        v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \qquad
        W \leftarrow W - \frac{\eta}{\sqrt{\hat v} + \epsilon} \hat m

    with :math:`\hat m = m / (1 - \beta_1^t)`, :math:`\hat v = v / (1 - \beta_2^t)` and
    :math:`\epsilon = 10^{-8}`, of the targets' size where rates
    are in units of it. The proximal metric is :math:`\eta / (\sqrt{\hat v} + \epsilon)`,
    weight by weight.
    """

    EPS = 1e-8
    #: Numbers that change from step to step are made for this many steps at once, as tensors: one
    #: made or a Python number passed at every step costs as much as the update. On an accelerator a
    #: counter there picks those of each group of steps, always into the same place, so that steps
    #: that are recorded, as in a CUDA graph, can be played again.
    AHEAD, GROUP = 128, 8

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        like = setup.weights
        self.betas = setup.betas
        self._eps = self.EPS if setup.units is None else self.EPS * setup.units
        self.steps = 0
        self.mean = torch.zeros_like(like)
        self.square = torch.zeros_like(like)
        self._metric, self._step = torch.empty_like(like), torch.empty_like(like)
        self._decay = torch.as_tensor(self.betas[1], dtype=like.dtype, device=like.device)
        self._rate: Tensor | None = None
        self._table: Tensor | None = None

    def set_learning_rate(self, rate: Tensor) -> None:
        """Take the learning rates of the coming pass, of shape ``(M, 1, 1)``."""
        if rate is not self._rate:
            self._rate = rate
            self._corrections = self._correct(rate)

    def _correct(self, rate: Tensor) -> Iterator[Sequence[Tensor]]:
        """What `_factors` makes for each coming step."""
        steps, on_cpu = self.steps, rate.device.type == "cpu"
        while True:
            t = torch.arange(steps + 1, steps + 1 + self.AHEAD, dtype=float64, device=rate.device)
            minus_correction, rates, *others = self._factors(t, rate)
            others = [factor.expand_as(rates) for factor in (minus_correction, *others)]
            table = torch.stack([others[0], rates, *others[1:]], dim=1)
            if on_cpu:  # where walking through them costs less than picking
                yield from zip(*(each.unbind() for each in table.unbind(dim=1)), strict=True)
            else:
                if self._table is None:
                    self._table, self._now = table, torch.empty_like(table[: self.GROUP])
                    self._counter = torch.empty(self.GROUP, dtype=torch.int64, device=rate.device)
                self._table.copy_(table)
                torch.arange(self.GROUP, out=self._counter, device=rate.device)
                group = [factors.unbind() for factors in self._now.unbind()]
                for _ in range(self.AHEAD // self.GROUP):
                    torch.index_select(self._table, 0, self._counter, out=self._now)
                    self._counter.add_(self.GROUP)
                    yield from group
            steps += self.AHEAD

    def _factors(self, t: Tensor, rate: Tensor) -> list[Tensor]:
        """Minus the factor of m, rate and epsilon of steps t, corrections included."""
        first = (-1.0 / (1.0 - self.betas[0] ** t)).to(rate).view(-1, 1, 1, 1)
        second = (1.0 - self.betas[1] ** t).sqrt()
        shared = (second * self._share_of_rate(t)).to(rate).view(-1, 1, 1, 1)
        return [first, shared * rate, second.to(rate).view(-1, 1, 1, 1) * self._eps]

    def step(self, weights: Tensor, gradient: Tensor) -> None:
        """Take one step."""
        factors = self._step_factors = next(self._corrections)
        minus_correction, rate, eps = factors[:3]
        self.steps += 1
        self.mean.lerp_(gradient, 1.0 - self.betas[0])
        self.square.mul_(self._decay).addcmul_(gradient, gradient, value=1.0 - self.betas[1])
        # rate / (sqrt(v_hat) + epsilon), the correction of v moved out of the root
        metric = self._root_of_squares().add_(eps)
        torch.div(rate, metric, out=metric)
        weights.addcmul_(torch.mul(self.mean, minus_correction, out=self._step), metric)
        self.penalty.prox_(weights, metric)

    def _share_of_rate(self, steps: Tensor) -> Tensor:
        """What share of the rate steps of these numbers take."""
        return torch.ones_like(steps)

    def _root_of_squares(self) -> Tensor:
        """What the steps of each weight are divided by, in a tensor that may be written to."""
        return torch.sqrt(self.square, out=self._metric)

    def select(self, keep: Tensor) -> None:
        """Keep only some of the models."""
        self.mean = self.mean.index_select(0, keep)
        self.square = self.square.index_select(0, keep)
        self._metric, self._step = torch.empty_like(self.mean), torch.empty_like(self.mean)
        self._rate = self._table = None

    def state_dict(self) -> State:
        """Both moments and the number of steps."""
        return {
            "mean": self.mean.numpy(force=True),
            "square": self.square.numpy(force=True),
            "steps": np.array(self.steps),
        }

    def load_state_dict(self, state: State) -> None:
        """Go on with both moments."""
        self.mean.copy_(shared(state["mean"]))
        self.square.copy_(shared(state["square"]))
        self.steps = int(state["steps"])
        self._rate = None


class AveragedAdam(Adam):
    r"""Adam for rows that come once: the mean of its steps, over all calls.

    Steps begin short and leave rare columns alone. With steps of about constant length the weights
    end as far from the optimum as a step is long. Their mean, the later ones counting more (Shamir
    and Zhang, 2013),

    .. math:: \bar W_t = \bar W_{t-1} + \frac{p + 1}{t + p} (W_t - \bar W_{t-1}),

    does not, and forgets where they began.

    Adam moves every weight by about the rate, however little is known of it. Where a row is of many
    columns in effect, :math:`N = \mathbb{E} \lVert x \rVert^2` of standardised ones, that moves
    predictions too far, in two ways. Before the signs of the gradient mean anything, all weights
    err at once: the t-th step is :math:`\min(1, 2 \sqrt{t / N})` of the rate. And a weight whose
    column shows up in few batches moves as far in one of them as others in many: :math:`v_j` counts
    as :math:`\sum_i v_i / N` at least.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._columns_of_a_row = mean_row_square(setup.loader, setup.objective.comm)
        self._weights = setup.weights
        self.average = setup.weights.clone()

    def step(self, weights: Tensor, gradient: Tensor) -> None:
        """Take one step."""
        super().step(weights, gradient)
        self.average.lerp_(weights, self._step_factors[3])

    def _factors(self, t: Tensor, rate: Tensor) -> list[Tensor]:
        share = ((FORGETTING + 1.0) / (t + FORGETTING)).to(rate).view(-1, 1, 1, 1)
        return [*super()._factors(t, rate), share]

    def _share_of_rate(self, steps: Tensor) -> Tensor:
        return (RISE * (steps / self._columns_of_a_row).sqrt()).clamp_(max=1.0)

    def _root_of_squares(self) -> Tensor:
        least = self.square.sum(dim=-1, keepdim=True).div_(self._columns_of_a_row)
        return torch.maximum(self.square, least, out=self._metric).sqrt_()

    def end_epoch(self, weights: Tensor, value: Tensor) -> Step:
        """Accept the mean of the weights."""
        self._ahead = weights - self.average
        never = np.zeros(len(weights), dtype=bool)
        return Step(self.average.clone(), value.numpy(), never, never, ~never)

    def state_dict(self) -> State:
        """Adam's, and how far the weights are ahead of their mean."""
        return {**super().state_dict(), "ahead": self._ahead.numpy(force=True)}

    def load_state_dict(self, state: State) -> None:
        """Go on from the mean, with weights that are ahead of it."""
        super().load_state_dict(state)
        if "ahead" in state:
            self._weights.add_(shared(state["ahead"]).to(self._weights))
