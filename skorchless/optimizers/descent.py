r"""How far the models of a stack have come down, and whether that is far enough.

The decrease that a rule's model predicts, :math:`g^\top H g`, estimates how far the objective is
above its minimum. Where progress is slow, H is too small along what remains; then the last passes'
decreases, continued as a geometric series, say more. The estimate is that series, but at least 1
and at most 30 times the prediction, and 3 times that to be safe.
"""

from dataclasses import dataclass, field, fields

import numpy as np

#: Share of the slope that an accepted step must gain (Armijo's condition).
ARMIJO = 1e-4
#: After this many shorter and shorter trials in a row the search has failed.
MOST_REJECTED = 15
#: Predicted decrease, in objectives, that rounding can hide from a search.
LITTLE = 1e-6
#: Passes in each of the two windows that the geometric series is read off: so many at least, and
#: one in so many of all. Slow progress comes in spurts, and between two looks like none.
WINDOW, WINDOW_SHARE = 5, 8
#: How far the series may raise the estimate, and what is added for safety.
MOST_RAISED, SAFETY = 30.0, 3.0


@dataclass
class Descent:
    """What is one number a model, each of shape ``(M,)``, on the host: a device waits for none.

    Attributes
    ----------
    eps : float
        Rounding of the weights' dtype.
    tolerance, constant_loss : ndarray
        When to stop.
    value : ndarray
        Objective at the accepted point.
    slope, length, rejected : ndarray
        Of the line search from it: slope at its start, length of the trial step, and trials that
        were too long.
    decrease, last_decrease : ndarray
        Predicted decrease, now and at the last accepted point.
    values : list of ndarray
        Objectives at the accepted points after each pass.
    """

    eps: float
    tolerance: np.ndarray
    constant_loss: np.ndarray
    value: np.ndarray
    slope: np.ndarray
    length: np.ndarray
    rejected: np.ndarray
    decrease: np.ndarray
    last_decrease: np.ndarray
    values: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def at_start(cls, tolerance: np.ndarray, constant_loss: np.ndarray, eps: float) -> "Descent":
        """Before the first pass."""
        zero, one = np.zeros(len(tolerance)), np.ones(len(tolerance))
        never = np.full(len(tolerance), np.inf)
        return cls(eps, tolerance, constant_loss, never, zero, one, zero, never, never)

    def select(self, keep: np.ndarray) -> None:
        """Keep only some of the models."""
        for of_each in fields(self):
            if of_each.type is np.ndarray:
                setattr(self, of_each.name, getattr(self, of_each.name)[keep])
        self.values = [values[keep] for values in self.values]

    @property
    def scale(self) -> np.ndarray:
        """What a distance to the optimum is relative to."""
        scale: np.ndarray = np.maximum(np.abs(self.value), 1e-3 * self.constant_loss)
        return scale

    @property
    def stuck(self) -> np.ndarray:
        """Whether a search has failed."""
        stuck: np.ndarray = self.rejected >= MOST_REJECTED
        return stuck

    def accept(self, value: np.ndarray) -> np.ndarray:
        """Take in the objectives at the trial points; return which are low enough.

        The others' next trials are shorter.
        """
        bound = self.value + ARMIJO * self.length * self.slope
        accepted: np.ndarray = value <= bound + 4.0 * self.eps * np.abs(self.value)
        if not accepted.all():
            self.length = np.where(accepted, self.length, self._shortened(value))
        # Rounding alone must not make a curve rise.
        self.value = np.where(accepted, np.minimum(value, self.value), self.value)
        self.rejected = np.where(accepted, 0.0, self.rejected + 1.0)
        return accepted

    def _shortened(self, value: np.ndarray) -> np.ndarray:
        """Minimise the parabola through value and slope at 0 and the value at the trial."""
        t, slope = self.length, self.slope
        with np.errstate(all="ignore"):
            best = -0.5 * slope * t * t / (value - self.value - t * slope)
        best = np.where(np.isfinite(value) & np.isfinite(best), best, 0.0)
        shorter: np.ndarray = np.clip(best, 0.1 * t, 0.5 * t)
        return shorter

    def aim(self, models: np.ndarray, slope: np.ndarray) -> None:
        """Begin a search along the new directions of some of the models, of this `slope`."""
        self.slope = np.where(models, slope, self.slope)
        self.length = np.where(models, 1.0, self.length)
        self.last_decrease = np.where(models, self.decrease, self.last_decrease)
        self.decrease = np.where(models, -slope, self.decrease)

    def converged(self, accepted: np.ndarray, refining: float) -> np.ndarray:
        """Whether each model is done.

        Parameters
        ----------
        accepted : ndarray of bool, shape (M,)
            Whose trials have just been accepted.
        refining : float
            Where rounding is near, a pass that does not divide the predicted decrease by this is
            the last.
        """
        scale = self.scale
        reached: np.ndarray = self.distance() <= self.tolerance * scale
        little = self.decrease <= LITTLE * scale
        if not little.any():  # nothing that rounding could hide
            return reached
        exact = self.decrease <= self.eps**2 * self.constant_loss
        stagnant = accepted & (self.decrease * refining > self.last_decrease)
        at_rounding = stagnant & (self.decrease <= self.eps * scale)
        # A search that fails has met the limit of the arithmetic, if little was left to find.
        failed = little & self.stuck
        idle = little & accepted & (self._last_gain() <= self.eps * scale)
        converged: np.ndarray = reached | exact | at_rounding | failed | idle
        return converged

    def _last_gain(self) -> np.ndarray | float:
        """By how much the last passes together have lowered the objectives."""
        if len(self.values) <= WINDOW:
            return np.inf
        gain: np.ndarray = self.values[-1 - WINDOW] - self.values[-1]
        return gain

    def distance(self) -> np.ndarray:
        """Estimate of how far each accepted objective is above its minimum, shape ``(M,)``."""
        decrease = self.decrease
        if len(self.values) <= 2 * WINDOW:
            return SAFETY * decrease
        window = max(WINDOW, len(self.values) // WINDOW_SHARE)
        first, middle, last = (self.values[-1 - i] for i in (2 * window, window, 0))
        earlier, recent = first - middle, middle - last
        slowing = earlier > recent
        series = recent**2 / np.where(slowing, earlier - recent, 1.0)
        series = np.where(slowing, series, np.inf)
        distance: np.ndarray = SAFETY * np.clip(series, decrease, MOST_RAISED * decrease)
        return distance
