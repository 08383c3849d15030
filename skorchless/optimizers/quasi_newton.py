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
* stop: where the decrease that the model predicts, :math:`g^\top H g`, is small (see `descent`).
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from skorchless.optimizers.base import PassOutcome, Setup
from skorchless.optimizers.curvature import Curvature
from skorchless.optimizers.descent import Descent
from skorchless.optimizers.history import History, dot
from skorchless.optimizers.newton import newton_direction
from skorchless.optimizers.preconditioner import Factored, Preconditioner
from skorchless.optimizers.proximal import minimise_model
from skorchless.sources import Chunk
from skorchless.stack import WIDE

#: P is refreshed when the mean curvature has moved beyond these factors.
REFRESH_BELOW, REFRESH_ABOVE = 0.7, 1.4
#: How well the model plus L1 is minimised: where it is the objective itself, and elsewhere.
EXACT_MODEL, ROUGH_MODEL = 1e-6, 1e-2
#: Residual of a Newton direction, relative to the gradient, near the optimum and far from it.
FINE_NEWTON, ROUGH_NEWTON = 0.03, 0.3
#: Lengths of a first trial, where it costs next to nothing to know which is best.
LENGTHS = (1.0, 0.6, 1.5, 2.5)
#: After this many shorter and shorter trials in a row the history is forgotten, and curvature is
#: taken at its upper bound.
FORGET_AFTER = 5
#: Where rounding is near, a pass that does not divide the predicted decrease by this is the last:
#: of a preconditioner from all rows, and from a sample.
REFINING, REFINING_SAMPLED = 4.0, 1.5


class QuasiNewton:
    """Preconditioned L-BFGS for a stack of models, one trial step a pass.

    Squared error without L1 is solved to rounding whatever the tolerance: it costs few passes.
    """

    full_batch = True

    def __init__(self, setup: Setup) -> None:
        self.curvature = Curvature(setup.source, setup.objective)
        self.penalty = setup.objective.penalty
        self.shift_invariant = setup.objective.loss.shift_invariant
        self.exact = self.curvature.constant and not self.penalty.has_l1
        assert setup.constant_loss is not None
        tolerance = (0.0 if self.exact else 1.0) * setup.tolerance
        self._dtype, self._eps = setup.weights.dtype, torch.finfo(setup.weights.dtype).eps
        self.descent = Descent.at_start(
            tolerance.numpy(force=True), setup.constant_loss.numpy(force=True), self._eps
        )
        self.history = History()
        self._lengths = torch.tensor(LENGTHS, dtype=WIDE, device=setup.weights.device)
        self._batch_gradient: Tensor | None = None
        self._preconditioner: Preconditioner | None = None
        self._weights: Tensor | None = None

    def set_rate(self, rate: Tensor) -> None:
        """Nothing to take: the step length is found by line search."""

    def on_chunk(self, chunk: Chunk) -> None:
        """Add up second moments, where they need all rows, and see what it predicted."""
        self.curvature.see(chunk)

    def on_batch(self, weights: Tensor, gradient: Tensor) -> None:
        """Keep the gradient until the pass's objective is known."""
        self._batch_gradient = gradient.to(WIDE, copy=True)

    def on_pass(self, weights: Tensor, value: np.ndarray) -> PassOutcome:
        """Accept the trial or shorten the step, and move `weights` to the next trial."""
        assert self._batch_gradient is not None
        trial = weights.to(WIDE, copy=True)
        gradient = self._without_drift(self._batch_gradient, trial)
        if self._weights is None:
            accepted = np.ones(len(value), dtype=bool)
            self._weights, self._gradient = trial, gradient
            self._direction = torch.zeros_like(trial)
            self._measured_at = weights.clone()
            self._mean_curvature = np.zeros_like(value)
            self.descent.value = value
        else:
            accepted = self._judge(trial, value, gradient)
        if accepted.any():
            self._point = self._weights.to(self._dtype)
            if accepted.all() and not self.exact:  # which goes on to the line's minimum
                self.curvature.is_at(self._point)
            self._follow_curvature()
        self.descent.values.append(self.descent.value)
        confused = self.descent.rejected == FORGET_AFTER
        if confused.any():
            mask = self._mask(confused)
            self.history.forget(mask)
            self.curvature.shared_by_outputs()
            self._measure(cautious=mask)
        self._aim(accepted | confused)
        refining = REFINING if self.curvature.covers_all_rows else REFINING_SAMPLED
        converged = self.descent.converged(accepted, refining) | self._refine(accepted)
        if not converged.all():
            self._begin_search(accepted | confused)
        length = torch.from_numpy(self.descent.length).to(self._weights)
        weights.copy_(self._weights + length.view(-1, 1, 1) * self._direction)
        return PassOutcome(self._point, self.descent.value, converged, self.descent.stuck)

    def _without_drift(self, gradient: Tensor, weights: Tensor) -> Tensor:
        """The gradient, without the rounding along what all outputs have in common.

        Where a loss cannot tell, only the penalty has a slope there, and hardly any curvature.
        """
        if not self.shift_invariant:
            return gradient
        slope = self.penalty.l2.to(WIDE) * weights.mean(dim=1, keepdim=True)
        return gradient.add_(slope - gradient.mean(dim=1, keepdim=True))

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
        if self.exact:
            step, change = trial - self._weights, gradient - self._gradient
            beyond, gain = self._to_line_minimum(step, change, gradient)
            trial, gradient, value = trial + beyond * step, gradient + beyond * change, value - gain
        accepted = self.descent.accept(value)
        if accepted.any() and not self.curvature.has_hessian:
            self.history.add(self._mask(accepted), trial - self._weights, gradient - self._gradient)
        self._weights = self._choose(accepted, trial, self._weights)
        self._gradient = self._choose(accepted, gradient, self._gradient)
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

    def _follow_curvature(self) -> None:
        """Measure the preconditioner anew for models whose mean curvature has moved."""
        if self.curvature.constant and self._preconditioner is not None:
            return
        if self.curvature.is_hessian:
            self._measured_at = self._point
            self._measure()
            return
        before = self._mean_curvature
        mean = self.curvature.mean(self._point).numpy(force=True)
        moved = (mean < REFRESH_BELOW * before) | (mean > REFRESH_ABOVE * before)
        if moved.any() or self._preconditioner is None:
            self._measured_at = self._choose(moved, self._point, self._measured_at)
            self._mean_curvature = np.where(moved, mean, before)
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
        if self.penalty.has_l1:
            direction, slope = self._minimise_model(
                EXACT_MODEL if self.curvature.constant else ROUGH_MODEL
            )
            near = -slope <= self.descent.tolerance * self.descent.scale
            if near.any():  # to be sure before stopping
                exact_direction, exact_slope = self._minimise_model(EXACT_MODEL)
                direction = self._choose(near, exact_direction, direction)
                slope = np.where(near, exact_slope, slope)
        else:
            direction = self._solve()
            slope = dot(direction, self._gradient).view(-1).numpy(force=True)
        self._direction = self._choose(models, direction, self._direction)
        self.descent.aim(models, slope)

    def _begin_search(self, models: np.ndarray) -> None:
        """Choose the lengths of first trials along new directions, where rows are cheap to ask."""
        if not self.curvature.has_hessian or self.penalty.has_l1 or not models.any():
            return
        values = self.curvature.along(self._point, self._direction, self._lengths)
        best = self._lengths[values.argmin(dim=0)].numpy(force=True)
        self.descent.length = np.where(models, best, self.descent.length)

    def _solve(self) -> Tensor:
        """Minus the Hessian's inverse, or what is known of it, times the gradient."""
        assert self._preconditioner is not None
        unseen = self._unseen()
        gradient = self._gradient - self.penalty.l2 * unseen
        if self.curvature.is_hessian or not self.curvature.has_hessian:
            return self.history.solve(self._preconditioner, gradient).neg_().sub_(unseen)
        hessian = self.curvature.hessian(self._point)
        precondition = self._preconditioner.solve
        direction = newton_direction(hessian, precondition, gradient, self._accuracy())
        confused = self.descent.rejected >= FORGET_AFTER
        return self._choose(confused, -precondition(gradient), direction).sub_(unseen)

    def _unseen(self) -> Tensor:
        """What the penalty sees of the weights, but no row: Newton's step is to take it back.

        That is what all outputs have in common, where a loss cannot tell, and of few rows what
        stands on their span.
        """
        weights, basis = self._weights, self.curvature.basis
        assert weights is not None
        unseen = weights.new_zeros(()) if basis is None else weights - weights @ basis @ basis.T
        if self.shift_invariant:
            unseen = unseen + (weights - unseen).mean(dim=1, keepdim=True)
        return torch.where(self.penalty.l2 > 0.0, unseen, 0.0)

    def _accuracy(self) -> Tensor:
        """Residual that Newton directions may have, shape ``(M, 1, 1)``.

        Finer as the optimum comes near: the root of the decrease that was predicted last, in
        objectives (Eisenstat and Walker, 1996).
        """
        expected = np.sqrt(self.descent.decrease / self.descent.scale)
        accuracy = np.clip(expected, FINE_NEWTON, ROUGH_NEWTON)
        return torch.from_numpy(accuracy).to(self._gradient).view(-1, 1, 1)

    def _minimise_model(self, accuracy: float) -> tuple[Tensor, np.ndarray]:
        assert self._preconditioner is not None and self._weights is not None
        hessian: Callable[[Tensor], Tensor]
        exact = self.curvature.constant and self.curvature.covers_all_rows
        if exact or self.curvature.is_hessian:
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
        now = self.descent
        if not (self.exact and self.curvature.covers_all_rows):
            return np.zeros_like(accepted)
        last: np.ndarray = accepted & (now.decrease <= self._eps * np.abs(now.value))
        if not last.any() or not isinstance(self._preconditioner, Factored):
            return np.zeros_like(accepted)
        last &= ~self._preconditioner.lifted.numpy(force=True)
        self._weights = self._choose(last, self._weights + self._direction, self._weights)
        self._point = self._weights.to(self._dtype)
        now.value = np.where(last, now.value - 0.5 * now.decrease, now.value)
        return last

    def select(self, keep: Tensor) -> None:
        """Keep only some of the models."""
        assert self._weights is not None
        index = keep.numpy(force=True)
        self.descent.select(index)
        self._mean_curvature = self._mean_curvature[index]
        self._weights = self._weights.index_select(0, keep)
        self._gradient = self._gradient.index_select(0, keep)
        self._direction = self._direction.index_select(0, keep)
        self._point = self._point.index_select(0, keep)
        self._measured_at = self._measured_at.index_select(0, keep)
        self.history.select(keep)
        self.curvature.select(keep)
        self._measure()
