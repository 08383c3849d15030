r"""The tuning-free rule: preconditioned L-BFGS whose preconditioner follows the curvature.

Per model, from the accepted weights W with gradient g:

* direction: :math:`d = -H g` by the two-loop recursion (Nocedal and Wright, 2006, algorithm 7.4)
  on :math:`H_0 = \gamma P`, :math:`\gamma = s^\top y / y^\top P y`. With L1 the direction is the
  minimiser of the quadratic model plus penalty, found without reading data (proximal
  quasi-Newton; Lee, Sun and Saunders, 2014), so zeros are exact;
* step: 1, shortened by quadratic interpolation until the Armijo condition holds. Every trial is
  one pass, which brings the gradient as well;
* :math:`P` is measured anew when the mean curvature has left ``[0.7, 1.4]`` times what it was;
* stop: the decrease that the model predicts, :math:`g^\top H g`, estimates how far the objective
  is above its minimum. Where progress is slow, H is too small along what remains; then the last
  passes' decreases, continued as a geometric series, say more. The estimate is that series, but
  at least 1 and at most 10 times the prediction, and 3 times that to be safe.
"""

import torch
from torch import Tensor

from skorchless.optimizers.base import PassOutcome, Setup
from skorchless.optimizers.history import History
from skorchless.optimizers.preconditioner import Curvature, Factored, Preconditioner
from skorchless.optimizers.proximal import minimise_model
from skorchless.sources import Chunk
from skorchless.stack import WIDE

ARMIJO = 1e-4
#: P is refreshed when the mean curvature has moved beyond these factors.
REFRESH_BELOW, REFRESH_ABOVE = 0.7, 1.4
#: How well the model plus L1 is minimised: where it is the objective itself, and elsewhere.
EXACT_MODEL, ROUGH_MODEL = 1e-6, 1e-2
#: After this many shorter and shorter trials in a row the history is forgotten, and curvature is
#: taken at its upper bound ...
FORGET_AFTER = 5
#: ... and after this many the search has failed.
MOST_REJECTED = 15
#: Predicted decrease, in objectives, that rounding can hide from a search.
LITTLE = 1e-6
#: Passes in each of the two windows that the geometric series is read off.
WINDOW = 5
#: How far the series may raise the estimate, and what is added for safety.
MOST_RAISED, SAFETY = 10.0, 3.0
#: Where rounding is near, a pass that does not divide the predicted decrease by this is the last.
REFINING = 4.0


class QuasiNewton:
    """Preconditioned L-BFGS for a stack of models, one trial step a pass.

    Squared error without L1 is solved to rounding whatever the tolerance: it costs a pass or two.
    """

    full_batch = True

    def __init__(self, setup: Setup) -> None:
        self.curvature = Curvature(setup.source, setup.objective)
        self.penalty = setup.objective.penalty
        self.exact = self.curvature.constant and not self.penalty.has_l1
        self.tolerance = torch.zeros_like(setup.tolerance) if self.exact else setup.tolerance
        assert setup.constant_loss is not None
        self.constant_loss = setup.constant_loss
        self.history = History()
        self._batch_gradient: Tensor | None = None
        self._values: list[Tensor] = []
        self._preconditioner: Preconditioner | None = None
        self._started = False

    def set_rate(self, rate: Tensor) -> None:
        """Nothing to take: the step length is found by line search."""

    def on_chunk(self, chunk: Chunk) -> None:
        """Add up second moments, where they need all rows."""
        if self.curvature.wants_pass:
            self.curvature.add(chunk)

    def on_batch(self, weights: Tensor, gradient: Tensor) -> None:
        """Keep the gradient until the pass's objective is known."""
        self._batch_gradient = gradient.to(WIDE, copy=True)

    def on_pass(self, weights: Tensor, value: Tensor) -> PassOutcome:
        """Accept the trial or shorten the step, and move `weights` to the next trial."""
        assert self._batch_gradient is not None
        trial, gradient = weights.to(WIDE, copy=True), self._batch_gradient
        if self._started:
            accepted = self._sufficient(value)
            self._accept(accepted, trial, value, gradient)
            if not bool(accepted.all()):
                self._shorten(~accepted, value)
        else:
            accepted = torch.ones_like(value, dtype=torch.bool)
            self._start(trial, value, gradient, weights.dtype)
        self._follow_curvature()
        self._values = [*self._values[-2 * WINDOW :], self._value]
        confused = self._rejected == FORGET_AFTER
        if bool(confused.any()):
            self.history.forget(confused)
            self._preconditioner = self.curvature.preconditioner(
                self._measured_at.to(self._dtype), cautious=confused
            )
        self._aim(accepted | confused)
        converged = self._converged(accepted) | self._refine(accepted)
        stuck = self._rejected >= MOST_REJECTED
        outcome = PassOutcome(
            self._weights.to(weights.dtype), self._value.clone(), converged, stuck
        )
        weights.copy_(self._weights + self._length.view(-1, 1, 1) * self._direction)
        return outcome

    def _start(self, trial: Tensor, value: Tensor, gradient: Tensor, dtype: torch.dtype) -> None:
        self._started = True
        self._dtype, self._eps = dtype, torch.finfo(dtype).eps
        # the accepted point
        self._weights, self._value, self._gradient = trial, value, gradient
        # the line search from it
        self._direction = torch.zeros_like(trial)
        self._slope = torch.zeros_like(value)
        self._length = torch.ones_like(value)
        self._rejected = torch.zeros_like(value)
        # the predicted decrease, now and at the last accepted point
        self._decrease = torch.full_like(value, torch.inf)
        self._last_decrease = torch.full_like(value, torch.inf)
        # where the preconditioner was measured
        self._measured_at = trial
        self._measured_mean = torch.zeros_like(value)

    def _sufficient(self, value: Tensor) -> Tensor:
        """Armijo's condition, up to what rounding can do to the objective."""
        bound = self._value + ARMIJO * self._length * self._slope
        return value <= bound + 4.0 * self._eps * self._value.abs()

    def _accept(self, accepted: Tensor, trial: Tensor, value: Tensor, gradient: Tensor) -> None:
        """Make the trial of the `accepted` models their current point."""
        self.history.add(accepted, trial - self._weights, gradient - self._gradient)
        chosen = accepted.view(-1, 1, 1)
        self._weights = torch.where(chosen, trial, self._weights)
        self._gradient = torch.where(chosen, gradient, self._gradient)
        # Rounding alone must not make a curve rise.
        self._value = torch.where(accepted, torch.minimum(value, self._value), self._value)
        self._length = torch.where(accepted, 1.0, self._length)
        self._rejected = torch.where(accepted, 0.0, self._rejected)

    def _shorten(self, rejected: Tensor, value: Tensor) -> None:
        """Minimise the parabola through value and slope at 0 and the value at the trial."""
        t, slope = self._length, self._slope
        excess = value - self._value - t * slope
        best = torch.where(value.isfinite(), -0.5 * slope * t * t / excess, 0.0)
        shorter = torch.minimum(torch.maximum(best, 0.1 * t), 0.5 * t)
        self._length = torch.where(rejected, shorter, t)
        self._rejected = torch.where(rejected, self._rejected + 1.0, self._rejected)

    def _follow_curvature(self) -> None:
        """Measure the preconditioner anew for models whose mean curvature has moved."""
        if self.curvature.constant and bool((self._measured_mean > 0).all()):
            return
        mean = self.curvature.mean(self._weights.to(self._dtype))
        moved = (mean < REFRESH_BELOW * self._measured_mean) | (
            mean > REFRESH_ABOVE * self._measured_mean
        )
        if bool(moved.any()) or self._preconditioner is None:
            chosen = moved.view(-1, 1, 1)
            self._measured_at = torch.where(chosen, self._weights, self._measured_at)
            self._measured_mean = torch.where(moved, mean, self._measured_mean)
            self._preconditioner = self.curvature.preconditioner(self._measured_at.to(self._dtype))

    def _aim(self, models: Tensor) -> None:
        """New directions for some of the models."""
        if not bool(models.any()):
            return
        assert self._preconditioner is not None
        if self.penalty.has_l1:
            direction, slope = self._minimise_model(
                EXACT_MODEL if self.curvature.constant else ROUGH_MODEL
            )
            scale = torch.maximum(self._value.abs(), 1e-3 * self.constant_loss)
            near = -slope <= self.tolerance * scale
            if bool(near.any()):  # to be sure before stopping
                exact_direction, exact_slope = self._minimise_model(EXACT_MODEL)
                direction = torch.where(near.view(-1, 1, 1), exact_direction, direction)
                slope = torch.where(near, exact_slope, slope)
        else:
            direction = -self.history.solve(self._preconditioner, self._gradient)
            slope = (direction * self._gradient).sum(dim=(1, 2))
        self._direction = torch.where(models.view(-1, 1, 1), direction, self._direction)
        self._slope = torch.where(models, slope, self._slope)
        self._length = torch.where(models, 1.0, self._length)
        self._last_decrease = torch.where(models, self._decrease, self._last_decrease)
        self._decrease = torch.where(models, -slope, self._decrease)

    def _minimise_model(self, accuracy: float) -> tuple[Tensor, Tensor]:
        assert self._preconditioner is not None
        return minimise_model(
            self._weights,
            self._gradient,
            self.history.hessian(self._preconditioner),
            self.penalty.l1.to(WIDE),
            self._preconditioner.diagonal,
            accuracy,
        )

    def _refine(self, accepted: Tensor) -> Tensor:
        """Take the last step of least squares without a pass; return whose it was.

        The model is the objective itself there, so its value is known; and the step is so short
        that a pass could not tell the difference.
        """
        last = accepted & (self._decrease <= self._eps * self._value.abs())
        if not self.exact or not isinstance(self._preconditioner, Factored):
            return torch.zeros_like(accepted)
        last = last & ~self._preconditioner.lifted
        step = torch.where(last.view(-1, 1, 1), self._direction, 0.0)
        self._weights = self._weights + step
        self._value = torch.where(last, self._value - 0.5 * self._decrease, self._value)
        return last

    def _converged(self, accepted: Tensor) -> Tensor:
        scale = torch.maximum(self._value.abs(), 1e-3 * self.constant_loss)
        reached = self._distance() <= self.tolerance * scale
        exact = self._decrease <= self._eps**2 * self.constant_loss
        stagnant = accepted & (self._decrease * REFINING > self._last_decrease)
        at_rounding = stagnant & (self._decrease <= self._eps * scale)
        # A search that fails has met the limit of the arithmetic, if little was left to find.
        failed = (self._rejected >= MOST_REJECTED) & (self._decrease <= LITTLE * scale)
        return reached | exact | at_rounding | failed | self._idle(accepted, scale)

    def _idle(self, accepted: Tensor, scale: Tensor) -> Tensor:
        """Whether the last passes together have moved the objective by no more than rounding."""
        if len(self._values) <= WINDOW:
            return torch.zeros_like(accepted)
        moved = self._values[-1 - WINDOW] - self._values[-1]
        return accepted & (moved <= self._eps * scale) & (self._decrease <= LITTLE * scale)

    def _distance(self) -> Tensor:
        """Estimate of how far each accepted objective is above its minimum, shape ``(M,)``."""
        if len(self._values) <= 2 * WINDOW:
            return SAFETY * self._decrease
        first, middle, last = (self._values[-1 - i] for i in (2 * WINDOW, WINDOW, 0))
        earlier, recent = first - middle, middle - last
        slowing = earlier > recent
        series = recent.square() / torch.where(slowing, earlier - recent, 1.0)
        series = torch.where(slowing, series, torch.inf)
        most = MOST_RAISED * self._decrease
        return SAFETY * torch.minimum(torch.maximum(series, self._decrease), most)

    def select(self, keep: Tensor) -> None:
        """Keep only some of the models."""
        self._values = [values.index_select(0, keep) for values in self._values]
        for name in (
            "tolerance",
            "constant_loss",
            "_weights",
            "_value",
            "_gradient",
            "_direction",
            "_slope",
            "_length",
            "_rejected",
            "_decrease",
            "_last_decrease",
            "_measured_at",
            "_measured_mean",
        ):
            setattr(self, name, getattr(self, name).index_select(0, keep))
        self.history.select(keep)
        self.curvature.select(keep)
        self._preconditioner = self.curvature.preconditioner(self._measured_at.to(self._dtype))
