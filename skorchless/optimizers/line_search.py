r"""Line search, and the one place where the default optimizer says that a model has converged.

A model has converged when an accepted point, whose objective and gradient were evaluated on all
rows, is estimated to be near enough to the optimum. With a constant Hessian the estimate is
:math:`g^\top H^{-1} g`, which is twice the decrease that Newton's method predicts. With the loss's
own second derivative at that point it is the gap to the value of a dual point.
With curvature from a sample, from curvature pairs or from an upper bound the prediction can be too
small along some direction. Then it has to be confirmed by the decreases of the last accepted
points: continued as geometric series, over windows of several lengths, none of these may promise
more. Directions by products with the Hessian, on all rows but not to the last digit, have to be
confirmed by the last two decreases. Rejected trials, and steps that were damped, confirm nothing.
Squared error without L1, whose Hessian is constant, may end with one more Newton step that no pass
evaluates: it changes the objective by less than rounding.
"""

from collections.abc import Collection

import numpy as np
from torch import Tensor

from skorchless.stack import select_models

#: Share of the slope that an accepted step must gain (Armijo's condition).
ARMIJO = 1e-4
#: After this many rejected trials in a row, counted across new starts with more damping, the line
#: search has failed.
MAX_REJECTED = 18
#: Passes without a decrease above rounding after which the model cannot go further.
MOST_IDLE = 8
#: What a prediction of uncertain curvature is multiplied by.
SAFETY = 3.0
#: Lengths of the windows that the geometric series are read off: where directions come of products
#: with the Hessian, and elsewhere. There a window of an eighth of all points joins them, because
#: slow convergence is uneven.
NEWTON_WINDOWS, WINDOWS, WINDOW_SHARE = (1,), (1, 2, 5), 8
#: Objectives below this share of the best constant model's count as this share of it.
NEGLIGIBLE = 1e-3
#: A model is worse than the best constant one if its objective is above this multiple.
WORSE = 1.0 + 1e-6
#: However coarsely an objective is rounded, no more than this share of what there is to gain may be
#: missing, or this many times ``tol`` of it.
LEAST_MISSED, MOST_MISSED = 1e-4, 10.0
#: Error of an evaluated objective, in units of its rounding.
ROUNDING = 4.0


class LineSearch:
    """One number for each model of a stack, arrays of shape ``(M,)`` on the host.

    Parameters
    ----------
    tolerance, constant_loss : ndarray of shape (M,)
        ``tol``, and the objective of the best constant model.
    eps : float
        Rounding of the dtype that objectives are computed in.
    unit : float
        Smaller objectives have the rounding error of one of this size: 1 where losses are
        differences of log-odds, else 0.

    Attributes
    ----------
    value : ndarray
        Objective at the accepted point.
    slope, length, rejected : ndarray
        Of the line search: slope at its start, length of the trial step, and rejected trials.
    decrement, last_decrement : ndarray
        Minus the slope, at this search and at the one before: with the Hessian it is the square of
        the Newton decrement, twice the decrease that a full step is predicted to make.
    estimate : ndarray
        How far the objective at the accepted point is estimated to be above its minimum.
    rounding : ndarray
        Below this a change of the objective cannot be told from rounding.
    stop_distance : ndarray
        Distance to the optimum at which a model has converged.
    idle : ndarray
        Accepted points in a row that were no lower than rounding could tell.
    values : list of list of float
        Objectives at the accepted points of each model.
    """

    def __init__(
        self, tolerance: np.ndarray, constant_loss: np.ndarray, eps: float, unit: float
    ) -> None:
        self.tolerance, self.constant_loss, self.eps, self.unit = (
            tolerance,
            constant_loss,
            eps,
            unit,
        )
        # No array is changed in place, so that several attributes may begin as the same one.
        zero, never = np.zeros(len(tolerance)), np.full(len(tolerance), np.inf)
        self.slope = self.rejected = self.idle = self.rounding = self.stop_distance = zero
        self.value = self.decrement = self.last_decrement = self.estimate = never
        self.length = np.ones(len(tolerance))
        self.values: list[list[float]] = [[] for _ in tolerance]

    def select(self, keep: Tensor) -> None:
        """Keep only some of the models."""
        select_models(self, keep)
        self.values = [self.values[i] for i in keep.tolist()]

    def begin(self, value: np.ndarray) -> None:
        """Take the objectives at the starts."""
        self.value = value
        self.values = [[one] for one in value.tolist()]
        self._update_thresholds()

    def _update_thresholds(self) -> None:
        """Set what differences of the objective count at the accepted points."""
        self.rounding = ROUNDING * self.eps * np.maximum(np.abs(self.value), self.unit)
        distance = stop_distance(self.tolerance, self.value, self.constant_loss)
        self.stop_distance = np.maximum(distance, self.rounding)

    @property
    def stuck(self) -> np.ndarray:
        """Whether the model can go no further."""
        stuck: np.ndarray = (self.rejected >= MAX_REJECTED) | (self.idle >= MOST_IDLE)
        return stuck

    def accept(self, value: np.ndarray) -> np.ndarray:
        """Take in the objectives at the trial points; return which are low enough.

        The others' next trials are shorter.
        """
        bound = self.value + ARMIJO * self.length * self.slope
        accepted: np.ndarray = value <= bound + self.rounding
        if not accepted.all():
            self.length = np.where(accepted, self.length, self._shortened(value))
        same = accepted & (value >= self.value - self.rounding)
        self.idle = np.where(same, self.idle + 1.0, np.where(accepted, 0.0, self.idle))
        # Rounding alone must not make a curve rise.
        self.value = np.where(accepted, np.minimum(value, self.value), self.value)
        self.rejected = np.where(accepted, 0.0, self.rejected + 1.0)
        for i in np.flatnonzero(accepted).tolist():
            self.values[i].append(float(self.value[i]))
        self._update_thresholds()
        return accepted

    @np.errstate(all="ignore")
    def _shortened(self, value: np.ndarray) -> np.ndarray:
        """Minimise the parabola through value and slope at 0 and the value at the trial."""
        t, slope = self.length, self.slope
        best = -0.5 * slope * t * t / (value - self.value - t * slope)
        best = np.where(np.isfinite(value) & np.isfinite(best), best, 0.0)
        shorter: np.ndarray = np.clip(best, 0.1 * t, 0.5 * t)
        return shorter

    def begin_search(self, models: np.ndarray, slope: np.ndarray) -> None:
        """Begin a search along the new directions of some of the models, of this `slope`."""
        self.slope = np.where(models, slope, self.slope)
        self.length = np.where(models, 1.0, self.length)
        self.last_decrement = np.where(models, self.decrement, self.last_decrement)
        self.decrement = np.where(models, -slope, self.decrement)

    def converged(
        self,
        accepted: np.ndarray,
        estimate: np.ndarray,
        refining: float | None,
        solved: np.ndarray,
    ) -> np.ndarray:
        """Whether each model has converged: said here, and nowhere else.

        Parameters
        ----------
        accepted : ndarray of bool, shape (M,)
            Whose trials have just been accepted.
        estimate : ndarray of shape (M,)
            How far their objectives are above their minima.
        refining : float, optional
            Where given, a model goes on as long as each pass divides the predicted decrease by
            this, so that its coefficients are as accurate as its gradients are.
        solved : ndarray of bool, shape (M,)
            Whose Hessian is constant, and Newton step too short for the objective to tell.
        """
        self.estimate = np.where(accepted, estimate, self.estimate)
        converged: np.ndarray = self.estimate <= np.minimum(self.stop_distance, self._most_missing)
        if refining is None:
            converged &= accepted
        else:  # the estimate holds at the accepted point, also after a trial that was rejected
            improving = accepted & (self.decrement * refining <= self.last_decrement)
            improving &= self.decrement > self.eps**2 * self.constant_loss
            converged &= ~improving
        converged |= solved
        return converged

    @property
    def _most_missing(self) -> np.ndarray:
        """What may be missing to the minimum, however coarsely the objective is rounded.

        A large objective hides a small gain behind its rounding in single precision, but not the
        gradient of the gain. So the estimate must be small beside what there is to gain, unless it
        is as small as the rounding of the gradient makes it.
        """
        objective = np.maximum(np.abs(self.value), self.unit)
        gain = np.maximum(self.constant_loss - self.value, 0.0) + self.estimate
        of_gradient = ROUNDING * max(np.finfo(np.float64).eps, self.eps**1.5) * objective
        share = np.maximum(MOST_MISSED * self.tolerance, LEAST_MISSED)
        most: np.ndarray = np.maximum(share * gain, of_gradient)
        return most

    def distance_by_decreases(self, models: np.ndarray, *, newton: bool) -> np.ndarray:
        """Estimate of how far the objectives are above their minima, from uncertain curvature.

        Parameters
        ----------
        models : ndarray of bool, shape (M,)
            Which ones are asked for; infinite for the others.
        newton : bool
            Whether the directions come of products with the Hessian on all rows.

        Returns
        -------
        distance : ndarray of shape (M,)
        """
        distance = np.full(len(models), np.inf)
        for i in np.flatnonzero(models).tolist():
            values = self.values[i]
            windows = {*WINDOWS, (len(values) - 1) // WINDOW_SHARE}
            series = _series(values, NEWTON_WINDOWS if newton else windows, self.rounding[i])
            distance[i] = SAFETY * max(self.decrement[i], series)
        return distance


def stop_distance(
    tolerance: np.ndarray, value: np.ndarray, constant_loss: np.ndarray
) -> np.ndarray:
    """Distance to the optimum that `tol` allows.

    It is ``tol`` times the objective, or times what has been gained over the best constant model
    if that is less.
    """
    objective = np.maximum(np.abs(value), NEGLIGIBLE * constant_loss)
    gained = np.maximum(constant_loss - value, 0.0)
    distance: np.ndarray = tolerance * np.minimum(objective, gained)
    return distance


def _series(values: list[float], windows: Collection[int], rounding: float) -> float:
    """What decreases like the last ones would still add up to, at most over several windows."""
    passes = len(values) - 1
    most = 0.0
    for window in windows:
        if window < 1 or 2 * window > passes:
            continue
        first, middle, last = (values[-1 - i] for i in (2 * window, window, 0))
        earlier, recent = first - middle, middle - last
        if recent <= rounding:
            continue
        if recent >= earlier:
            return np.inf
        most = max(most, recent**2 / (earlier - recent))
    return most
