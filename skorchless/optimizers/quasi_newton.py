r"""The default optimizer: preconditioned L-BFGS whose preconditioner follows the curvature.

Per model, from the accepted weights W with gradient g:

* direction: :math:`d = -H g` by the two-loop recursion (Nocedal and Wright, 2006, algorithm 7.4)
  on :math:`H_0 = \gamma P`, :math:`\gamma = s^\top y / y^\top P y`. Where products with the rows
  cost next to nothing, the Hessian itself is used instead of the pairs. With L1 the direction is
  the minimiser of the quadratic model plus penalty, found without reading data (proximal
  quasi-Newton; Lee, Sun and Saunders, 2014), so zeros are exact;
* step: 1, shortened by quadratic interpolation until the Armijo condition holds. Every trial is
  one pass, which brings the gradient as well. With the Hessian, the best of a few lengths comes
  first: Newton's steps fall short far from the optimum of classes that are nearly separable;
* after `SHORTENED` rejected trials, or a short step, a multiple of the curvature of a quadratic
  that lies above the loss is added to the Hessian (Levenberg, 1944; Marquardt, 1963), ten times
  more each time, and removed again as first trials are accepted. The pairs are forgotten;
* :math:`P` is measured anew when the mean curvature has moved so far that it pays;
* a start whose objective is above the best constant model's is replaced by that model;
* stop: where the objective is estimated to be near enough to its minimum (see `line_search`).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, float64

from skorchless.data import Chunk
from skorchless.optimizers.base import Setup, Step
from skorchless.optimizers.conjugate_gradients import conjugate_gradients
from skorchless.optimizers.hessian import Preconditioner
from skorchless.optimizers.hessian_estimator import HessianEstimator, algebra_device
from skorchless.optimizers.lbfgs import LBFGSMemory, dot
from skorchless.optimizers.line_search import WORSE, LineSearch
from skorchless.optimizers.proximal_newton import Block, Operator, minimise_model
from skorchless.stack import select_models

#: P is measured anew where the mean curvature has moved by a factor r of at least this ...
REFRESH = 1.4
#: ... that saves more passes than it costs: about this many times ``r - 1``.
PASSES_SAVED = 3.5
#: How well the model plus L1 is minimised: where it is the objective itself, and elsewhere.
EXACT_MODEL, ROUGH_MODEL = 1e-6, 1e-2
#: What may be missing to the model's minimum in any case, relative to the distance at which a model
#: has converged: where the quadratic model is the objective itself, and elsewhere.
NEGLIGIBLE_EXACT, NEGLIGIBLE = 1e-5, 1e-2
#: A quadratic model that can be decreased by so many times the objective, which is not negative,
#: is no model of it.
MOST_GAIN = 10.0
#: Residual of a Newton direction, relative to the gradient, near the optimum and far from it.
FINE_NEWTON, ROUGH_NEWTON = 0.03, 0.3
#: Lengths of a first trial, where it costs next to nothing to know which is best, and of the next
#: one if that is rejected.
LENGTHS = (1.0, 0.6, 1.5, 2.5)
SHORT_LENGTHS = tuple(10.0 ** (-0.3 * i) for i in range(1, 20))
#: Rejected trials in a row after which the Hessian is damped, or damped more.
SHORTENED = 3
#: The first damping, as a share of the upper bound of the curvature; the factor by which it grows
#: and shrinks; the share below which there is none at first; and the least with which a model is
#: damped once more.
FIRST_DAMPING, DAMPING_FACTOR, LEAST_DAMPING, RESTART_DAMPING = 1e-3, 10.0, 1e-7, 1e-10
#: More damping than this only makes steps too short to be seen.
MOST_DAMPING = 1e12
#: An accepted step shorter than this, after a rejected trial, asks for more damping; 1 is the whole
#: Newton step.
SHORT = 0.2
#: What can be gained along a direction is no matter below this share of the distance to stop at.
LITTLE = 1e-3
#: Less than that is left out of an estimate where what is kept does not determine the coefficients.
VERY_LITTLE = LITTLE**2
#: After more steps than this an end is checked with the Hessian of all rows, if that is affordable,
#: and P is measured anew however much that costs.
MANY_STEPS = 12
#: After more steps than this, and than a model has weights, the Hessian of all rows is taken in any
#: case, if it is affordable.
SLOW = 50
#: Most rounds in which outputs of rows are left out of an estimate.
MOST_LEFT_OUT = 8
#: Error of a sum over rows, in units of the rounding of its terms' sizes.
GRADIENT_ROUNDING = 32.0
#: Squares of pivots of Cholesky factors, of matrices of unit diagonal, below which columns count as
#: dependent: solutions lose nearly all of their digits, or half of them.
SINGULAR, NEARLY_SINGULAR = 1e-12, 1e-9
#: Curvature that rounding hides may be as small as this share of it.
HIDDEN = 1e-4
#: Least squares go on while a pass divides the predicted decrease by this.
REFINING = 4.0


class DependentColumns(Exception):
    """The second derivative at the start is nearly singular, and `Setup` refuses that."""


class QuasiNewton:
    """Preconditioned L-BFGS for a stack of models, one trial step a pass.

    Squared error without L1 is solved to rounding whatever the tolerance: it costs few passes.

    Attributes
    ----------
    singular : bool
        Whether a measure of the curvature was singular to rounding: columns may be dependent.
    """

    full_batch = True

    def __init__(self, setup: Setup) -> None:
        device = algebra_device(setup.loader, setup.weights)
        self._algebra_device = device
        # It is this optimizer's part, in double precision and without the rows.
        setup.objective.has_penalty = False
        self.penalty = setup.objective.penalty.in_double(device)
        self.curvature = HessianEstimator(setup.loader, setup.objective, self.penalty)
        self.shift_invariant = setup.objective.loss.shift_invariant
        self.solves_squares = self.curvature.constant and not self.penalty.has_l1
        assert setup.constant_loss is not None and setup.constant_weights is not None
        self._dtype, self._eps = setup.weights.dtype, torch.finfo(setup.weights.dtype).eps
        self._constant_weights: Tensor | None = setup.constant_weights.to(device)
        self.line_search = LineSearch(
            setup.tolerance.numpy(force=True),
            setup.constant_loss.numpy(force=True),
            self._eps,
            # In single precision it is the mean of so many rows that their errors cancel.
            unit=0.0 if setup.objective.loss.is_regression or self._dtype != float64 else 1.0,
        )
        self._damping = np.zeros(len(setup.weights))
        self._first_damping = np.full(len(setup.weights), FIRST_DAMPING)
        self.history = LBFGSMemory()
        self.singular = False
        self._refuses_dependent = setup.refuses_dependent
        self._batch_gradient: Tensor
        self._trial = setup.weights.to(device, float64, copy=True)
        self._preconditioner: Preconditioner | None = None
        self._weights: Tensor | None = None

    @property
    def started(self) -> bool:
        """Whether the objective at the start is known, so that the next pass is an iteration."""
        return self._weights is not None

    def set_learning_rate(self, rate: Tensor) -> None:
        """Nothing to take: the step length is found by line search."""

    def on_chunk(self, chunk: Chunk) -> None:
        """Add up second moments, where they need all rows, and see what it predicted."""
        self.curvature.see(chunk)

    def begin_at(self, weights: Tensor, value: Tensor, gradient: Tensor, hessian: Tensor) -> None:
        """Make the first step of squared error from what a pass at `weights` would have brought.

        Parameters
        ----------
        weights : Tensor of shape (M, K, D + 1)
            Moved to the first trial.
        value, gradient, hessian : Tensor
            Of the mean loss, as the chunks' columns have them.
        """
        scaling = self.curvature.objective.scaling
        self.curvature.see_sum(hessian)
        self.step(weights, gradient if scaling is None else scaling.scale_gradient(gradient))
        self.end_epoch(weights, value)

    def step(self, weights: Tensor, gradient: Tensor) -> None:
        """Keep the gradient until the pass's objective is known."""
        self._batch_gradient = gradient

    def end_epoch(self, weights: Tensor, value: Tensor) -> Step:
        """Accept the trial or shorten the step, and move `weights` to the next trial."""
        trial = self._trial
        (gradient, loss), mean = self.curvature.read(
            weights, self._batch_gradient, value, damped=self._may_be_damped
        )
        self._batch_gradient = self._with_penalty(gradient, trial)
        objective = (loss + self.penalty.value(trial)).numpy(force=True)
        if self._weights is None:
            if self._replaces_start(weights, objective):
                never = np.zeros(len(objective), dtype=bool)
                return Step(trial.to(self._dtype), objective, never, never, ~never)
            accepted = self._begin(trial, objective)
        else:
            accepted = self._accept_or_reject(trial, objective)
        assert self._weights is not None
        damped = self._damp_where_trials_fail()
        if accepted.any():
            self._point = self._weights.to(self._dtype)
            if accepted.all():
                self.curvature.is_at(self._point, weights)
        self._follow_curvature(mean, accepted, anew=bool(damped.any()))
        aims = accepted | damped
        distance = self._update_directions(aims)
        refining = REFINING if self.solves_squares else None
        solved = self._is_solved(accepted, distance)
        converged = self.line_search.converged(accepted, distance, refining, solved)
        if solved.any():
            self._take_last_step(solved)
        if not converged.all():
            self._choose_length(aims, LENGTHS)
            self._choose_length(~(aims | converged), SHORT_LENGTHS)
            length: Tensor | float = float(self.line_search.length[0])
            if len(accepted) > 1:  # one number needs no transfer
                lengths = torch.from_numpy(self.line_search.length)
                length = lengths.to(self._weights).view(-1, 1, 1)
            trial = (self._weights + length * self._direction).to(self._dtype)
            weights.copy_(trial)
            self._trial = trial.to(float64)
        return Step(
            self._point, self.line_search.value, converged, self.line_search.stuck, accepted
        )

    def _begin(self, start: Tensor, value: np.ndarray) -> np.ndarray:
        """Take the starts as the current points; return that all are."""
        self._weights, self._gradient = start, self._batch_gradient
        self._direction = torch.zeros_like(start)
        # Steps add nothing to what all outputs have in common.
        self._has_unseen = self.shift_invariant and bool(start.sum(dim=1).any())
        self._measured_at = start.to(self._dtype)
        self._mean_curvature = np.zeros_like(value)
        self.line_search.begin(value)
        return np.ones(len(value), dtype=bool)

    def _update_directions(self, models: np.ndarray) -> np.ndarray:
        """New directions for some of the models.

        Returns
        -------
        distance : ndarray of shape (M,)
            How far the objectives are above their minima; infinite where that is not known.
        """
        distance, hidden = self._compute_directions(models)
        if hidden.any():  # more is to be gained where no curvature is seen: damped steps go there
            self._damp_more(hidden)
            self._measure()
            self._compute_directions(hidden)
        if self.curvature.is_exact and self._damping.any():
            near = models & ~hidden & (self._damping > 0.0)
            near &= self.line_search.decrement <= self.line_search.stop_distance
            if near.any():
                undamped = np.minimum(distance, self._undamped_distance())
                distance = np.where(near, undamped, distance)
        if not self.curvature.has_hessian_products:
            doubtful = models & (distance <= self.line_search.stop_distance)
            if not self.curvature.misses_columns:
                doubtful &= self._took_steps(MANY_STEPS)
            slow = self._took_steps(max(SLOW, self._direction[0].numel()))
            if (doubtful | slow).any() and self.curvature.take_all_rows():
                self._measure()
                distance, _ = self._compute_directions(models)
        # No objective is negative, so none is further above its minimum than its own value.
        bounded: np.ndarray = np.minimum(distance, self.line_search.value)
        return bounded

    def _replaces_start(self, weights: Tensor, value: np.ndarray) -> bool:
        """Put the best constant model in the place of starts that are worse, if there are any."""
        if self._constant_weights is None:
            return False
        constant, self._constant_weights = self._constant_weights, None
        worse = np.isfinite(value) & (value > WORSE * self.line_search.constant_loss)
        # A constant model that is no lower than its own loss says is all rounding.
        worse &= value > self.line_search.constant_loss + np.finfo(np.float64).tiny
        if not worse.any():
            return False
        mask, start = torch.from_numpy(worse).to(self._algebra_device), self._trial
        moved = torch.where(mask.view(-1, 1, 1), constant.to(float64), start)
        if torch.equal(moved, start):
            return False
        weights.copy_(moved)
        self._trial = moved
        return True

    def _damp_where_trials_fail(self) -> np.ndarray:
        """Damp the Hessians of models whose trials fail; return which models these are.

        They begin anew from their accepted points.
        """
        rejected = self.line_search.rejected
        if self.solves_squares or not rejected.any():
            return np.zeros(len(rejected), dtype=bool)
        damps: np.ndarray = (rejected > 0) & (rejected % SHORTENED == 0)
        if damps.any():
            self._damp_more(damps)
        return damps

    def _damp_more(self, models: np.ndarray) -> None:
        """Damp the Hessians of some models, or damp them more."""
        more = np.clip(DAMPING_FACTOR * self._damping, self._first_damping, MOST_DAMPING)
        self._damping = np.where(models, more, self._damping)
        self.history.forget(self._mask(models))
        self.curvature.take_whole_hessian()

    @property
    def _may_be_damped(self) -> bool:
        """Whether any Hessian is damped, or will be if the step that is tried is short."""
        return bool(self._damping.any() or self.line_search.rejected.any())

    def _adapt_damping(self, accepted: np.ndarray, rejected: np.ndarray) -> None:
        """Damp less where the first trial was good enough, and more where only a short step was."""
        if self._damping.any():
            good = accepted & (rejected == 0)
            less = self._damping / DAMPING_FACTOR
            ends = less < np.minimum(LEAST_DAMPING, self._first_damping / DAMPING_FACTOR)
            # A model that has to be damped once more begins with the last damping that was good.
            first = np.where(good & ends, self._damping, self._first_damping)
            self._first_damping = np.maximum(first, RESTART_DAMPING)
            self._damping = np.where(good, np.where(ends, 0.0, less), self._damping)
        if not rejected.any():
            return
        short = accepted & (rejected > 0) & (self.line_search.length < SHORT)
        if short.any() and self.curvature.has_hessian_products:
            self._damp_more(short)

    def _with_penalty(self, gradient: Tensor, weights: Tensor) -> Tensor:
        """Gradient of the objective, without the rounding along what all outputs have in common.

        Where a loss cannot tell, only the penalty has a slope there, and hardly any curvature.
        """
        if self.shift_invariant:
            gradient = gradient - gradient.mean(dim=1, keepdim=True)
        return torch.addcmul(gradient, self.penalty.l2, weights)

    def _mask(self, models: np.ndarray) -> Tensor:
        """`models` where the weights are."""
        return torch.from_numpy(models).to(self._measured_at.device)

    def _choose(self, models: np.ndarray, new: Tensor, old: Tensor) -> Tensor:
        """The `new` tensor for some of the models, the `old` one for the others."""
        if models.all():
            return new
        return torch.where(self._mask(models).view(-1, 1, 1), new, old) if models.any() else old

    def _accept_or_reject(self, trial: Tensor, value: np.ndarray) -> np.ndarray:
        """Make the trial the current point of the models that it is good for; return which."""
        assert self._weights is not None
        rejected, gradient = self.line_search.rejected, self._batch_gradient
        accepted = self.line_search.accept(value)
        if accepted.any() and not self.curvature.has_hessian_products:
            self.history.add(self._mask(accepted), trial - self._weights, gradient - self._gradient)
        self._weights = self._choose(accepted, trial, self._weights)
        self._gradient = self._choose(accepted, gradient, self._gradient)
        self._adapt_damping(accepted, rejected)
        return accepted

    def _follow_curvature(self, mean: Tensor | None, accepted: np.ndarray, *, anew: bool) -> None:
        """Measure the preconditioner of models whose mean curvature has moved, or of all `anew`.

        `mean` is that of the last trials.
        """
        if self.curvature.constant and self._preconditioner is not None:
            if anew:
                self._measure()
            return
        if self.curvature.factors_hessian:
            self._measure()
            return
        before = self._mean_curvature
        moved, now = np.zeros_like(accepted), before
        if mean is not None:
            now = mean.numpy(force=True)
            # After many steps the mean has told too little of how the curvature has moved.
            worth_it = max(REFRESH, 1.0 + self.curvature.cost / PASSES_SAVED)
            factor = np.where(self._took_steps(MANY_STEPS), REFRESH, worth_it)
            moved = accepted & ((factor * now < before) | (now > factor * before))
        if moved.any() or anew or self._preconditioner is None:
            self._measured_at = self._choose(moved, self._point, self._measured_at)
            self._mean_curvature = np.where(moved, now, before)
            self._measure()

    def _measure(self) -> None:
        """Measure the preconditioner where the models are to have theirs from.

        A Hessian says something of the accepted points only if it is measured there.
        """
        if self.curvature.factors_hessian:
            self._measured_at = self._point
        self._preconditioner = None  # two at once would take twice the memory
        damping = None
        if self._damping.any():
            damping = torch.from_numpy(self._damping).to(self._measured_at.device)
        self._preconditioner = self.curvature.preconditioner(self._measured_at, damping)
        self.singular = self.singular or self._preconditioner.smallest_pivot == 0.0
        if self._refuses_dependent and len(self.line_search.values[0]) == 1:
            # Least squares refine what a nearly singular matrix solves badly.
            least = SINGULAR if self.curvature.constant else NEARLY_SINGULAR
            if self._preconditioner.smallest_pivot < least:
                columns = self.curvature.of_columns(self._measured_at)
                if columns is None or columns.smallest_pivot < least:
                    raise DependentColumns

    def _compute_directions(self, models: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """New directions for some of the models, by the present measure of the curvature.

        Returns
        -------
        distance : ndarray of shape (M,)
            How far the objectives are above their minima; infinite where that is not known.
        hidden : ndarray of bool, shape (M,)
            Of which models rounding may hide more of the decrease than it shows.
        """
        unknown = np.full(len(models), np.inf)
        if not models.any():
            return unknown, models
        assert self._preconditioner is not None
        if self.penalty.has_l1:
            operator = self._operator(self._preconditioner)
            direction, slope, missing = self._minimise_model(
                operator, EXACT_MODEL if self.curvature.constant else ROUGH_MODEL
            )
            near = -slope <= self.line_search.stop_distance
            if near.any() and not self.curvature.constant:  # to be sure before stopping
                exact = self._minimise_model(operator, EXACT_MODEL, direction)
                exact_direction, exact_slope, exact_missing = exact
                direction = self._choose(near, exact_direction, direction)
                slope = np.where(near, exact_slope, slope)
                missing = np.where(near, exact_missing, missing)
            missing = np.where(near, missing, 0.0)
        else:
            direction, slope, missing = self._solve()
        self._direction = self._choose(models, direction, self._direction)
        self.line_search.begin_search(models, slope)
        sure = models & (self._damping == 0.0)
        distance = unknown
        if self.curvature.is_exact:
            hessian = self._preconditioner
            distance = self._distance_by_hessian(hessian, direction, slope, missing, sure)
            distance = np.where(models, distance, unknown)
        hidden = np.zeros_like(models)
        if self.curvature.objective.loss.is_regression and not self.solves_squares:
            most = np.maximum(self.line_search.decrement, self.line_search.stop_distance)
            hidden = sure & (missing > most) & (distance > self.line_search.stop_distance)
        if self.curvature.is_exact:
            return distance, hidden
        promised = self.line_search.decrement + missing
        sure &= promised <= self.line_search.stop_distance
        return self.line_search.distance_by_decreases(
            sure, newton=self.curvature.has_hessian_products
        ), hidden

    def _took_steps(self, number: int) -> np.ndarray:
        """Which models have taken more steps than this."""
        return np.array([len(values) > number for values in self.line_search.values])

    def _undamped_distance(self) -> np.ndarray:
        """How far the objectives are above their minima by the Hessians without damping."""
        hessian = self.curvature.preconditioner(self._measured_at)
        every = np.ones(len(self._damping), dtype=bool)
        return self._distance_by_hessian(hessian, *self._step_by(hessian, self._gradient), every)

    def _step_by(
        self, hessian: Preconditioner, gradient: Tensor
    ) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """Newton's direction by a whole Hessian, its slope, and what that may lack.

        All three are those of `_solve`, or with L1 of `_minimise_model`.
        """
        if self.penalty.has_l1:
            operator = self._operator(hessian)
            return self._minimise_model(operator, EXACT_MODEL, self._direction)
        target, unseen = self._without_unseen(gradient)
        direction, missing = self._solve_exactly(hessian, target)
        if unseen is not None:
            direction = direction - unseen
        return direction, dot(direction, gradient).view(-1).numpy(force=True), missing

    def _distance_by_hessian(
        self,
        hessian: Preconditioner,
        direction: Tensor,
        slope: np.ndarray,
        missing: np.ndarray,
        models: np.ndarray,
    ) -> np.ndarray:
        """How far the objectives are above their minima, by Newton steps with the whole Hessians.

        Twice the decrease that such a step predicts says when it is worth while to look for a dual
        point: the gap to its value is an upper bound, however the curvature changes. In a log loss
        without L1, outputs of rows that a step gives no probability may also be left out. What they
        have is counted: no more can be gained from them. With L1, where the quadratic model is not
        minimised to the last digit, the prediction itself is an upper bound if the step is short
        enough for the model.
        """
        assert self._weights is not None
        distance: np.ndarray = np.where(models, missing - slope, np.inf)
        near = models & ((-slope <= self.line_search.stop_distance) | (missing > 0))
        if self.curvature.constant or not near.any():
            return distance
        if self.penalty.has_l1:
            excess = self.curvature.excess(self._point, direction)
            lasts = excess <= LITTLE * self.line_search.stop_distance
            return np.where(near & ~lasts, np.inf, distance)
        rounds = 1 if self.curvature.objective.loss.is_regression else MOST_LEFT_OUT
        negligible = torch.from_numpy(LITTLE * self.line_search.stop_distance).to(direction)
        kept, least = None, np.full(len(models), np.inf)
        for _ in range(rounds):
            if kept is not None:
                hessian = self.curvature.preconditioner(self._point, kept=kept)
            if kept is not None or self.curvature.precision != self._dtype:
                gradient = self.curvature.gradient(self._point, kept)
                gradient = self._with_penalty(gradient, self._weights)
                direction, _, _ = self._step_by(hessian, gradient)
            gap, feasible, dual = self._duality_gap(direction, kept)
            least = np.where(feasible, np.minimum(least, gap), least)
            far = near & ~feasible & (gap <= self.line_search.stop_distance)
            if not far.any():
                break
            likely = self.curvature.matters(dual, negligible)
            if kept is not None and bool((likely | ~kept).all()):
                break
            kept = likely if kept is None else kept & likely
        return np.where(near, least, distance)

    def _duality_gap(
        self, direction: Tensor, kept: Tensor | None
    ) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """Evaluate the dual points that Newton steps give, without L1.

        Returns
        -------
        gap : ndarray of shape (M,)
            The objectives less the values of the dual points.
        feasible : ndarray of bool, shape (M,)
            Whether weights that are not penalised leave no more than rounding in the way of that.
        dual : Tensor of shape (M, K, n)
            The dual variables of the rows.
        """
        assert self._weights is not None
        l2 = self.penalty.l2
        gap, slope, dual = self.curvature.duality_gap(self._point, direction, kept)
        sizes = self.curvature.column_sizes
        # Probabilities are differences of ones; other slopes are of raw predictions.
        size = torch.ones_like(l2[:, :, :1])
        if self.curvature.objective.loss.is_regression:
            size = (self._weights.abs() * sizes).sum(dim=2, keepdim=True).amax(dim=1, keepdim=True)
            largest = np.sqrt(2.0 * np.maximum(self.line_search.value, 0.0))
            size = size + torch.from_numpy(largest).to(size).view(-1, 1, 1)
        rounding = (GRADIENT_ROUNDING * torch.finfo(self.curvature.precision).eps) * size * sizes
        rest = torch.addcmul(slope, l2, self._weights + direction)
        rest = torch.where(rest.abs() <= rounding, 0.0, rest)
        free = ((l2 == 0) & (rest != 0)).any(dim=2).any(dim=1)
        # What the quadratic penalty has to hold has a price.
        squares = torch.where(l2 > 0, (l2 * direction - rest).square() / l2, 0.0)
        gap = gap + 0.5 * squares.sum(dim=(1, 2)).numpy(force=True)
        return gap, ~free.numpy(force=True), dual

    def _choose_length(self, models: np.ndarray, lengths: Sequence[float]) -> None:
        """Choose the best of some lengths for some of the models, where rows are cheap to ask."""
        if not self.curvature.has_hessian_products or self.penalty.has_l1 or not models.any():
            return
        tried = torch.tensor(lengths, dtype=float64, device=self._algebra_device)
        values = self.curvature.along(self._point, self._direction, tried)
        best = tried[values.argmin(dim=0)].numpy(force=True)
        self.line_search.length = np.where(models, best, self.line_search.length)

    def _solve(self) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """Minus the Hessian's inverse, or what is known of it, times the gradient.

        Returns
        -------
        direction : Tensor of shape (M, K, D + 1)
        slope : ndarray of shape (M,)
        missing : ndarray of shape (M,)
            What the slope may lack because a singular Hessian was made definite.
        """
        assert self._preconditioner is not None
        if self.curvature.is_exact:
            return self._step_by(self._preconditioner, self._gradient)
        gradient, unseen = self._without_unseen(self._gradient)
        if self.curvature.has_hessian_products:
            direction = self._solve_roughly(gradient, self._accuracy())
        else:
            direction = self.history.solve(self._preconditioner, gradient).neg_()
        if unseen is not None:
            direction = direction - unseen
        slope = dot(direction, self._gradient).view(-1).numpy(force=True)
        return direction, slope, np.zeros(len(slope))

    def _solve_exactly(
        self, preconditioner: Preconditioner, gradient: Tensor
    ) -> tuple[Tensor, np.ndarray]:
        """Solve with the Hessian, which may be singular to rounding.

        Returns
        -------
        direction : Tensor of shape (M, K, D + 1)
        missing : ndarray of shape (M,)
            What the slope may lack of directions in which there is a slope, but the curvature
            cannot be told from zero: it may be far smaller than rounding lets us see. But no more
            can be gained than the losses of the rows that these directions move, nor, where they
            move none, than what the penalty's curvature allows. Where raw predictions are log-odds,
            a step along each of these directions changes none that matters by more than one.
        """
        solution, rest, curvature = preconditioner.solve_singular(gradient)
        if not rest.shape[1]:
            return solution.neg(), np.zeros(len(gradient))
        slope = (gradient.unsqueeze(1) * rest).sum(dim=(2, 3))  # (M, U)
        if not bool((slope > 0).any()):
            return solution.neg(), np.zeros(len(gradient))
        missing = torch.where(slope > 0, slope / (HIDDEN * curvature).unsqueeze(1), 0.0)
        if self.solves_squares:
            return -solution, missing.sum(dim=1).numpy(force=True)
        little = LITTLE * torch.from_numpy(self.line_search.stop_distance).to(slope)
        counts = missing > little.unsqueeze(1)
        rest = torch.where(counts.view(*counts.shape, 1, 1), rest, 0.0)  # the others are rounding
        gain, largest, limiting = self.curvature.changes(self._point, rest, little)
        # Where no row is moved, the penalty's own curvature is all that there is.
        pull = (self.penalty.l2.unsqueeze(1) * rest.square()).sum(dim=(2, 3))
        penalised = (largest == 0) & (pull > 0)
        length = torch.where(penalised, slope / torch.where(penalised, pull, 1.0), 0.0)
        missing = torch.where(penalised, 0.0, missing).sum(dim=1)
        missing = torch.minimum(missing, gain) + (length * slope).sum(dim=1)
        if not self.curvature.objective.loss.is_regression:
            moving = (largest > 0) & (limiting > 0)
            length = torch.where(moving, 1.0 / torch.where(moving, limiting, 1.0), length)
        solution = solution + (length.view(*length.shape, 1, 1) * rest).sum(dim=1)
        return -solution, missing.numpy(force=True)

    def _solve_roughly(self, gradient: Tensor, accuracy: Tensor) -> Tensor:
        """Solve with products with the Hessian, by preconditioned conjugate gradients."""
        assert self._preconditioner is not None
        hessian = self.curvature.hessian(self._point)
        precondition = self._preconditioner.solve
        direction, _ = conjugate_gradients(hessian, precondition, -gradient, accuracy)
        damped = self._damping > 0.0
        if not damped.any():
            return direction
        return self._choose(damped, -precondition(gradient), direction)

    def _without_unseen(self, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        """Take from a gradient what the penalty sees of the weights, but no row.

        That is what all outputs have in common, where a loss cannot tell.

        Returns
        -------
        gradient : Tensor of shape (M, K, D + 1)
            The rest.
        unseen : Tensor of shape (M, 1, D + 1), or None
            Such a part of the weights, if there is any: Newton's step is to take it back.
        """
        if not self._has_unseen:
            return gradient, None
        assert self._weights is not None
        unseen = torch.where(self.penalty.l2 > 0.0, self._weights.mean(dim=1, keepdim=True), 0.0)
        return gradient - self.penalty.l2 * unseen, unseen

    @np.errstate(all="ignore")
    def _accuracy(self) -> Tensor:
        """Residual that Newton directions may have, shape ``(M, 1, 1)``.

        Finer as the optimum comes near: the root of the decrease that was predicted last, in
        objectives (Eisenstat and Walker, 1996).
        """
        expected = np.sqrt(self.line_search.decrement / np.abs(self.line_search.value))
        expected = np.nan_to_num(expected, nan=ROUGH_NEWTON)
        accuracy = np.clip(expected, FINE_NEWTON, ROUGH_NEWTON)
        return torch.from_numpy(accuracy).to(self._gradient).view(-1, 1, 1)

    def _minimise_model(
        self, operator: Operator, accuracy: float, rough: Tensor | None = None
    ) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """Direction to the minimiser of the quadratic model plus L1, see `minimise_model`."""
        assert self._weights is not None
        share = NEGLIGIBLE_EXACT if self.curvature.constant else NEGLIGIBLE
        l1 = self.penalty.l1
        negligible, gainable = (
            torch.from_numpy(decrease).to(l1)
            for decrease in (
                share * self.line_search.stop_distance,
                MOST_GAIN * self.line_search.value,
            )
        )
        direction, slope, missing = minimise_model(
            self._weights, self._gradient, operator, l1, accuracy, negligible, gainable, rough
        )
        return direction, slope.numpy(force=True), missing.numpy(force=True)

    def _operator(self, known: Preconditioner) -> Operator:
        """The matrix of the quadratic model to which L1 is added."""
        product: Callable[[Tensor], Tensor]
        block: Block | None
        solve = None
        if self.curvature.is_exact:
            product, block = known.product, known.block
            curved = bool((known.diagonal > 0).all()) and not bool(known.lifted.any())
            if curved and not self.shift_invariant:
                solve = known.solve
        elif self.curvature.has_hessian_products and not self._damping.any():
            product, block = self.curvature.hessian(self._point), None
        else:
            product, block = self.history.model(known)
        return Operator(
            product,
            known.diagonal,
            block,
            separate=self.curvature.is_exact and not self.shift_invariant,
            solve=solve,
            flat=self.penalty.l2 == 0.0 if self.shift_invariant else None,
        )

    def _is_solved(self, accepted: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """Which least squares are solved but for a step that changes no digit of the objective."""
        assert self._preconditioner is not None
        if not (self.solves_squares and self.curvature.is_exact):
            return np.zeros_like(accepted)
        now = self.line_search
        solved: np.ndarray = accepted & (now.decrement <= self._eps * np.abs(now.value))
        solved &= (distance <= now.stop_distance) & ~self._preconditioner.lifted.numpy(force=True)
        return solved

    def _take_last_step(self, models: np.ndarray) -> None:
        """Take the Newton step without a pass: coefficients become as accurate as the gradient."""
        assert self._weights is not None
        self._weights = self._choose(models, self._weights + self._direction, self._weights)
        self._point = self._weights.to(self._dtype)

    def select(self, keep: Tensor) -> None:
        """Keep only some of the models."""
        self.line_search.select(keep)
        keep = keep.to(self._algebra_device)
        self.penalty.select(keep)
        select_models(self, keep)
        if self._weights is not None:  # else starts were not finite, or others are replaced
            self.history.select(keep)
            self.curvature.select(keep)
            self._measure()
