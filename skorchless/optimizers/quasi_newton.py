r"""The tuning-free rule: preconditioned L-BFGS whose preconditioner follows the curvature.

Per model, from the accepted weights W with gradient g:

* direction: :math:`d = -H g` by the two-loop recursion (Nocedal and Wright, 2006, algorithm 7.4)
  on :math:`H_0 = \gamma P`, :math:`\gamma = s^\top y / y^\top P y`. Where products with the rows
  cost next to nothing, the Hessian itself takes the pairs' place. With L1 the direction is the
  minimiser of the quadratic model plus penalty, found without reading data (proximal
  quasi-Newton; Lee, Sun and Saunders, 2014), so zeros are exact;
* step: 1, shortened by quadratic interpolation until the Armijo condition holds. Every trial is
  one pass, which brings the gradient as well. With the Hessian, the best of a few lengths comes
  first: Newton's steps fall short far from the optimum of classes that are nearly separable. For
  squared error, whose gradient is linear, the two
  gradients tell where on the line the minimum is, and that point is accepted: with exact steps
  L-BFGS makes the iterates of preconditioned conjugate gradients;
* :math:`P` is measured anew when the mean curvature has left ``[0.7, 1.4]`` times what it was;
* stop: the decrease that the model predicts, :math:`g^\top H g`, estimates how far the objective
  is above its minimum. Where progress is slow, H is too small along what remains; then the last
  passes' decreases, continued as a geometric series, say more. The estimate is that series, but
  at least 1 and at most 10 times the prediction, and 3 times that to be safe.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from skorchless.optimizers.base import PassOutcome, Setup
from skorchless.optimizers.curvature import Curvature
from skorchless.optimizers.history import History, dot
from skorchless.optimizers.newton import newton_direction
from skorchless.optimizers.preconditioner import Factored, Preconditioner
from skorchless.optimizers.proximal import minimise_model
from skorchless.sources import Chunk
from skorchless.stack import WIDE

ARMIJO = 1e-4
#: P is refreshed when the mean curvature has moved beyond these factors.
REFRESH_BELOW, REFRESH_ABOVE = 0.7, 1.4
#: How well the model plus L1 is minimised: where it is the objective itself, and elsewhere.
EXACT_MODEL, ROUGH_MODEL = 1e-6, 1e-2
#: Residual of a Newton direction, relative to the gradient.
ROUGH_NEWTON = 0.3
#: Lengths of a first trial, where it costs next to nothing to know which is best.
LENGTHS = (1.0, 0.6, 1.5, 2.5)
#: After this many shorter and shorter trials in a row the history is forgotten, and curvature is
#: taken at its upper bound ...
FORGET_AFTER = 5
#: ... and after this many the search has failed.
MOST_REJECTED = 15
#: Predicted decrease, in objectives, that rounding can hide from a search.
LITTLE = 1e-6
#: Passes in each of the two windows that the geometric series is read off: so many at least, and
#: one in so many of all. Slow progress comes in spurts, and between two looks like none.
WINDOW, WINDOW_SHARE = 5, 8
#: How far the series may raise the estimate, and what is added for safety.
MOST_RAISED, SAFETY = 10.0, 3.0
#: Where rounding is near, a pass that does not divide the predicted decrease by this is the last:
#: of a preconditioner from all rows, and from a sample.
REFINING, REFINING_SAMPLED = 4.0, 1.5


@dataclass
class Numbers:
    """What is one number a model, each of shape ``(M,)``, on the host: a device waits for none.

    Attributes
    ----------
    tolerance, constant_loss : ndarray
        When to stop.
    value : ndarray
        Objective at the accepted point.
    slope, length, rejected : ndarray
        Of the line search from it: slope at its start, length of the trial step, and trials that
        were too long.
    decrease, last_decrease : ndarray
        Predicted decrease, now and at the last accepted point.
    curvature : ndarray
        Mean curvature where the preconditioner was measured.
    """

    tolerance: np.ndarray
    constant_loss: np.ndarray
    value: np.ndarray
    slope: np.ndarray
    length: np.ndarray
    rejected: np.ndarray
    decrease: np.ndarray
    last_decrease: np.ndarray
    curvature: np.ndarray

    @classmethod
    def at_start(cls, tolerance: np.ndarray, constant_loss: np.ndarray) -> "Numbers":
        """Before the first pass."""
        zero, one = np.zeros(len(tolerance)), np.ones(len(tolerance))
        never = np.full(len(tolerance), np.inf)
        return cls(tolerance, constant_loss, never, zero, one, zero, never, never, zero)

    def select(self, keep: np.ndarray) -> "Numbers":
        """Of some of the models."""
        return Numbers(*(getattr(self, field.name)[keep] for field in fields(self)))


class QuasiNewton:
    """Preconditioned L-BFGS for a stack of models, one trial step a pass.

    Squared error without L1 is solved to rounding whatever the tolerance: it costs few passes.
    """

    full_batch = True

    def __init__(self, setup: Setup) -> None:
        self.curvature = Curvature(setup.source, setup.objective)
        self.penalty = setup.objective.penalty
        self.exact = self.curvature.constant and not self.penalty.has_l1
        assert setup.constant_loss is not None
        tolerance = (0.0 if self.exact else 1.0) * setup.tolerance
        self.numbers = Numbers.at_start(
            tolerance.numpy(force=True), setup.constant_loss.numpy(force=True)
        )
        self.history = History()
        self._dtype, self._eps = setup.weights.dtype, torch.finfo(setup.weights.dtype).eps
        self._lengths = torch.tensor(LENGTHS, dtype=WIDE, device=setup.weights.device)
        self._batch_gradient: Tensor | None = None
        self._values: list[np.ndarray] = []
        self._preconditioner: Preconditioner | None = None
        self._weights: Tensor | None = None

    def set_rate(self, rate: Tensor) -> None:
        """Nothing to take: the step length is found by line search."""

    def on_chunk(self, chunk: Chunk) -> None:
        """Add up second moments, where they need all rows."""
        if self.curvature.wants_pass:
            self.curvature.add(chunk)

    def on_batch(self, weights: Tensor, gradient: Tensor) -> None:
        """Keep the gradient until the pass's objective is known."""
        self._batch_gradient = gradient.to(WIDE, copy=True)

    def on_pass(self, weights: Tensor, value: np.ndarray) -> PassOutcome:
        """Accept the trial or shorten the step, and move `weights` to the next trial."""
        assert self._batch_gradient is not None
        trial, gradient = weights.to(WIDE, copy=True), self._batch_gradient
        if self._weights is None:
            accepted = np.ones(len(value), dtype=bool)
            self._weights, self._gradient = trial, gradient
            self._direction = torch.zeros_like(trial)
            self._measured_at = weights.clone()
            self.numbers.value = value
        else:
            accepted = self._judge(trial, value, gradient)
        if accepted.any():
            self._point = self._weights.to(self._dtype)
            self._follow_curvature()
        self._values.append(self.numbers.value)
        confused = self.numbers.rejected == FORGET_AFTER
        if confused.any():
            mask = self._mask(confused)
            self.history.forget(mask)
            self._measure(cautious=mask)
        self._aim(accepted | confused)
        converged = self._converged(accepted) | self._refine(accepted)
        stuck = self.numbers.rejected >= MOST_REJECTED
        length = torch.from_numpy(self.numbers.length).to(self._weights)
        weights.copy_(self._weights + length.view(-1, 1, 1) * self._direction)
        return PassOutcome(self._point, self.numbers.value, converged, stuck)

    def _mask(self, models: np.ndarray) -> Tensor:
        """`models` where the weights are."""
        return torch.from_numpy(models).to(self._measured_at.device)

    def _choose(self, models: np.ndarray, new: Tensor, old: Tensor) -> Tensor:
        """The `new` tensor for some of the models, the `old` one for the others."""
        if models.all():
            return new
        return torch.where(self._mask(models).view(-1, 1, 1), new, old) if models.any() else old

    def _judge(self, trial: Tensor, value: np.ndarray, gradient: Tensor) -> np.ndarray:
        """Make the trial the current point of the models that it is good for; return which."""
        assert self._weights is not None
        now = self.numbers
        if self.exact:
            step, change = trial - self._weights, gradient - self._gradient
            beyond, gain = self._to_line_minimum(step, change, gradient)
            trial, gradient, value = trial + beyond * step, gradient + beyond * change, value - gain
        bound = now.value + ARMIJO * now.length * now.slope
        accepted: np.ndarray = value <= bound + 4.0 * self._eps * np.abs(now.value)
        if accepted.any() and not self.curvature.has_hessian:
            self.history.add(self._mask(accepted), trial - self._weights, gradient - self._gradient)
        self._weights = self._choose(accepted, trial, self._weights)
        self._gradient = self._choose(accepted, gradient, self._gradient)
        if not accepted.all():
            now.length = np.where(accepted, 1.0, self._shortened(value))
        # Rounding alone must not make a curve rise.
        now.value = np.where(accepted, np.minimum(value, now.value), now.value)
        now.rejected = np.where(accepted, 0.0, now.rejected + 1.0)
        return accepted

    @staticmethod
    def _to_line_minimum(
        step: Tensor, change: Tensor, gradient: Tensor
    ) -> tuple[Tensor, np.ndarray]:
        """How many more steps it is to the least value on the line, and what that gains."""
        slope, curvature = dot(gradient, step), dot(change, step)
        curved = (curvature > 0) & slope.isfinite()
        beyond = torch.where(curved, -slope / torch.where(curved, curvature, 1.0), 0.0)
        gain = 0.5 * beyond.square() * torch.where(curved, curvature, 0.0)
        return beyond, gain.view(-1).numpy(force=True)

    def _shortened(self, value: np.ndarray) -> np.ndarray:
        """Minimise the parabola through value and slope at 0 and the value at the trial."""
        now = self.numbers
        t, slope = now.length, now.slope
        with np.errstate(all="ignore"):
            best = -0.5 * slope * t * t / (value - now.value - t * slope)
        best = np.where(np.isfinite(value) & np.isfinite(best), best, 0.0)
        shorter: np.ndarray = np.clip(best, 0.1 * t, 0.5 * t)
        return shorter

    def _follow_curvature(self) -> None:
        """Measure the preconditioner anew for models whose mean curvature has moved."""
        if self.curvature.constant and self._preconditioner is not None:
            return
        if self.curvature.is_hessian:
            self._measured_at = self._point
            self._measure()
            return
        before = self.numbers.curvature
        mean = self.curvature.mean(self._point).numpy(force=True)
        moved = (mean < REFRESH_BELOW * before) | (mean > REFRESH_ABOVE * before)
        if moved.any() or self._preconditioner is None:
            self._measured_at = self._choose(moved, self._point, self._measured_at)
            self.numbers.curvature = np.where(moved, mean, before)
            self._measure()

    def _measure(self, cautious: Tensor | None = None) -> None:
        """Measure the preconditioner where the models are to have theirs from."""
        self._preconditioner = None  # two at once would take twice the memory
        self._preconditioner = self.curvature.preconditioner(self._measured_at, cautious)

    def _aim(self, models: np.ndarray) -> None:
        """New directions for some of the models."""
        if not models.any():
            return
        assert self._preconditioner is not None
        now = self.numbers
        if self.penalty.has_l1:
            direction, slope = self._minimise_model(
                EXACT_MODEL if self.curvature.constant else ROUGH_MODEL
            )
            near = -slope <= now.tolerance * self._scale()
            if near.any():  # to be sure before stopping
                exact_direction, exact_slope = self._minimise_model(EXACT_MODEL)
                direction = self._choose(near, exact_direction, direction)
                slope = np.where(near, exact_slope, slope)
        else:
            direction = self._solve()
            slope = dot(direction, self._gradient).view(-1).numpy(force=True)
        self._direction = self._choose(models, direction, self._direction)
        now.slope = np.where(models, slope, now.slope)
        now.length = np.where(models, self._best_length(direction), now.length)
        now.last_decrease = np.where(models, now.decrease, now.last_decrease)
        now.decrease = np.where(models, -slope, now.decrease)

    def _best_length(self, direction: Tensor) -> np.ndarray | float:
        """The length that a search along the directions begins with."""
        if not self.curvature.has_hessian or self.penalty.has_l1:
            return 1.0
        values = self.curvature.along(self._point, direction, self._lengths)
        best: np.ndarray = self._lengths[values.argmin(dim=0)].numpy(force=True)
        return best

    def _solve(self) -> Tensor:
        """Minus the Hessian's inverse, or what is known of it, times the gradient."""
        assert self._preconditioner is not None and self._weights is not None
        if self.curvature.is_hessian or not self.curvature.has_hessian:
            return self.history.solve(self._preconditioner, self._gradient).neg_()
        hessian = self.curvature.hessian(self._point)
        precondition = self._preconditioner.solve
        direction = newton_direction(hessian, precondition, self._gradient, ROUGH_NEWTON)
        confused = self.numbers.rejected >= FORGET_AFTER
        return self._choose(confused, -precondition(self._gradient), direction)

    def _minimise_model(self, accuracy: float) -> tuple[Tensor, np.ndarray]:
        assert self._preconditioner is not None and self._weights is not None
        hessian: Callable[[Tensor], Tensor]
        if self.curvature.constant and self.curvature.covers_all_rows:
            hessian = self._preconditioner.product
        elif self.curvature.has_hessian:
            hessian = self.curvature.hessian(self._point)
        else:
            hessian = self.history.hessian(self._preconditioner)
        direction, slope = minimise_model(
            self._weights,
            self._gradient,
            hessian,
            self.penalty.l1.to(WIDE),
            self._preconditioner.diagonal,
            accuracy,
        )
        return direction, slope.numpy(force=True)

    def _refine(self, accepted: np.ndarray) -> np.ndarray:
        """Take the last step of least squares without a pass; return whose it was.

        The model is the objective itself there, so its value is known; and the step is so short
        that a pass could not tell the difference.
        """
        assert self._weights is not None
        now = self.numbers
        last: np.ndarray = accepted & (now.decrease <= self._eps * np.abs(now.value))
        solves = self.exact and self.curvature.covers_all_rows
        if not solves or not last.any() or not isinstance(self._preconditioner, Factored):
            return np.zeros_like(accepted)
        last &= ~self._preconditioner.lifted.numpy(force=True)
        self._weights = self._choose(last, self._weights + self._direction, self._weights)
        self._point = self._weights.to(self._dtype)
        now.value = np.where(last, now.value - 0.5 * now.decrease, now.value)
        return last

    def _scale(self) -> np.ndarray:
        """What a distance to the optimum is relative to."""
        scale: np.ndarray = np.maximum(
            np.abs(self.numbers.value), 1e-3 * self.numbers.constant_loss
        )
        return scale

    def _converged(self, accepted: np.ndarray) -> np.ndarray:
        now, scale = self.numbers, self._scale()
        reached = self._distance() <= now.tolerance * scale
        exact = now.decrease <= self._eps**2 * now.constant_loss
        refining = REFINING if self.curvature.covers_all_rows else REFINING_SAMPLED
        stagnant = accepted & (now.decrease * refining > now.last_decrease)
        at_rounding = stagnant & (now.decrease <= self._eps * scale)
        # A search that fails has met the limit of the arithmetic, if little was left to find.
        failed = (now.rejected >= MOST_REJECTED) & (now.decrease <= LITTLE * scale)
        idle = self._idle(accepted, scale)
        converged: np.ndarray = reached | exact | at_rounding | failed | idle
        return converged

    def _idle(self, accepted: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Whether the last passes together have moved the objective by no more than rounding."""
        if len(self._values) <= WINDOW:
            return np.zeros_like(accepted)
        moved = self._values[-1 - WINDOW] - self._values[-1]
        little = self.numbers.decrease <= LITTLE * scale
        idle: np.ndarray = accepted & (moved <= self._eps * scale) & little
        return idle

    def _distance(self) -> np.ndarray:
        """Estimate of how far each accepted objective is above its minimum, shape ``(M,)``."""
        decrease = self.numbers.decrease
        if len(self._values) <= 2 * WINDOW:
            return SAFETY * decrease
        window = max(WINDOW, len(self._values) // WINDOW_SHARE)
        first, middle, last = (self._values[-1 - i] for i in (2 * window, window, 0))
        earlier, recent = first - middle, middle - last
        slowing = earlier > recent
        series = recent**2 / np.where(slowing, earlier - recent, 1.0)
        series = np.where(slowing, series, np.inf)
        distance: np.ndarray = SAFETY * np.clip(series, decrease, MOST_RAISED * decrease)
        return distance

    def select(self, keep: Tensor) -> None:
        """Keep only some of the models."""
        assert self._weights is not None
        index = keep.numpy(force=True)
        self.numbers = self.numbers.select(index)
        self._values = [values[index] for values in self._values]
        self._weights = self._weights.index_select(0, keep)
        self._gradient = self._gradient.index_select(0, keep)
        self._direction = self._direction.index_select(0, keep)
        self._point = self._point.index_select(0, keep)
        self._measured_at = self._measured_at.index_select(0, keep)
        self.history.select(keep)
        self.curvature.select(keep)
        self._measure()
