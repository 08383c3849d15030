"""Whether the models that are returned keep what training has gained."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skorchless.engine import ModelResult
from skorchless.estimators.data import Data
from skorchless.losses import NullModel
from skorchless.objective import Objective
from skorchless.optimizers.descent import WORSE, stop_distance
from skorchless.reducer import Reducer
from skorchless.sources import Scaling, Source
from skorchless.sources.chunk import slices
from skorchless.stack import WIDE, pack

#: Numbers of a table that are evaluated at once.
BLOCK_NUMBERS = 2**22
#: What the returned coefficients' rounding may lose, in distances at which training stops, and in
#: roundings of the objective.
MOST_LOST, ROUNDING_OF_RETURNED = 8.0, 4.0
#: A smaller ``tol`` than this is not asked of coefficients that are rounded to their dtype.
LEAST_TOL = 1e-6
#: Losses below this one count as zero.
LEAST_LOSS = 1e-200


@dataclass
class Evaluation:
    """Objectives of weights on the user's columns, in double precision.

    Attributes
    ----------
    data : Data
        As the user has them.
    objective : Objective
    centring : Scaling, optional
        The centre of dense rows.
    rows_of : callable
        Makes a source of data, given the size of a batch and the mean weight.
    reducer : Reducer
    """

    data: Data
    objective: Objective
    centring: Scaling | None
    rows_of: Callable[..., Source]
    reducer: Reducer

    def values(self, weights: Sequence[np.ndarray | None]) -> np.ndarray:
        """Objectives of models, shape ``(M,)``; of missing ones that of no coefficients."""
        nothing = np.zeros((self.data.n_outputs, self.data.X.shape[1] + 1))
        stacked = np.stack([nothing if w is None else w for w in weights])
        values = self._of_stack(torch.from_numpy(stacked).to(self.data.X.device))
        found: np.ndarray = values.numpy(force=True)
        return found

    def _of_stack(self, weights: Tensor) -> Tensor:
        """Objectives of weights ``(M, K, D + 1)``.

        Dense rows are centred first, and what that does to the intercept is added up in extended
        precision: with large means the rounding of an intercept is just what is looked for.
        """
        data, centring, wide = self.data, self.centring, weights.to(WIDE)
        if centring is not None:
            mean = centring.mean.numpy(force=True).astype(np.longdouble)
            stored = wide.numpy(force=True).astype(np.longdouble)
            shifted = (stored[..., -1] + stored[..., :-1] @ mean).astype(np.float64)
            wide = pack(wide[..., :-1], torch.from_numpy(shifted).to(wide.device))
        total = torch.zeros(len(weights) + 1, dtype=WIDE, device=weights.device)
        rows = max(1, BLOCK_NUMBERS * len(data.X) // max(data.X.numel(), 1))
        for start, stop in slices(len(data.X), rows):
            block = data.between(start, stop).in_double()
            source = self.rows_of(block, batch_size=stop - start, mean_weight=None)
            source = source if centring is None else source.scaled(centring)
            weight = stop - start if block.weight is None else block.weight.sum()
            total[:-1] += self.objective.mean_loss(source.chunks(), wide) * weight
            total[-1] += weight
        self.reducer.sum_(total)
        mean_loss: Tensor = total[:-1] / total[-1]
        penalty = self.objective.penalty
        return mean_loss + penalty.value(weights) if penalty.is_active else mean_loss


def rounded(weights: Tensor, mean: Tensor, dtype: torch.dtype, *, fit_intercept: bool) -> Tensor:
    """Weights ``(..., D + 1)`` on columns of this `mean`, in `dtype`.

    The intercept makes up for what the rounding of coefficients does at the mean.
    """
    coarse = weights.to(dtype)
    lost = (weights[..., :-1] - coarse[..., :-1].to(WIDE)) @ mean
    coarse[..., -1] = (weights[..., -1] + lost).to(dtype) if fit_intercept else 0.0
    return coarse


def judge(
    results: Sequence[ModelResult],
    values: np.ndarray,
    tols: Sequence[float],
    null_model: NullModel,
    dtype: torch.dtype,
    *,
    has_units: bool,
) -> None:
    """Set `returned_objective` and `lost_digits`, with which a model has not converged.

    Digits are lost if rounding took back what training had gained, or left a model that is worse
    than the best constant one.

    Parameters
    ----------
    results : list of ModelResult
    values : ndarray of shape (M,)
        Objectives of the weights that are returned.
    tols : list of float
    null_model : NullModel
    dtype : torch.dtype
        Of the weights that are returned.
    has_units : bool
        Of the loss. If it has none, losses are differences of log-odds.
    """
    # No constant model is nearer to the best one than its intercept can be rounded.
    intercept = null_model.intercept.abs().amax(dim=1).numpy(force=True)
    of_intercepts = np.square(torch.finfo(dtype).eps * intercept)
    rounding = ROUNDING_OF_RETURNED * torch.finfo(WIDE).eps
    for result, value, tol, constant, of_intercept, log_odds in zip(
        results,
        values.tolist(),
        tols,
        null_model.loss.tolist(),
        of_intercepts.tolist(),
        intercept.tolist(),
        strict=True,
    ):
        if not result.loss_curve or result.diverged:
            continue
        reached = result.loss_curve[result.best_iter - 1]
        enough = np.array(max(tol, LEAST_TOL))
        near = stop_distance(enough, np.array(reached), np.array(constant))
        noise = rounding * (abs(value) if has_units else max(abs(value), 1.0))
        if constant - reached <= of_intercept:  # nothing to gain that rounding would not hide
            noise += min(of_intercept, LEAST_TOL * abs(reached))
        lost = value - reached > MOST_LOST * near + noise
        # A log loss is a difference of log-odds, which has their rounding.
        most = constant * WORSE + noise + LEAST_LOSS
        most += 0.0 if has_units else rounding * log_odds
        result.lost_digits = bool(lost or value > most)
        result.returned_objective = value
