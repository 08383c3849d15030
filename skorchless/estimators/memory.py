"""What ``partial_fit`` remembers.

Pickles refer to `Memory` by the name of this module, which therefore stays.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, float64

from skorchless.data import Moments
from skorchless.estimators import limits
from skorchless.optimizers import State
from skorchless.stack import pack, shared

KeptMoments = tuple[float, np.ndarray, np.ndarray]


@dataclass(eq=False)
class Memory:
    """What ``partial_fit`` keeps between its calls, as NumPy and numbers.

    Attributes
    ----------
    passes : int
        How many there were: where the schedule goes on.
    generator : ndarray of uint8
        State of the private generator.
    rule : dict of ndarray
        State of the optimizer.
    moments, targets : tuple of float, ndarray, ndarray, or None
        Running weight, means and squared deviations of the columns, where the estimator scales,
        and of numeric targets.
    stored : ndarray of shape (D + 1,), optional
        Weight so far of the rows that store each column, and of all, where the estimator scales.
    rates : ndarray of shape (M,), optional
        Learning rates, where the estimator chooses them.
    mean_weight : float, optional
        Mean weight of the first call's rows, which all later weights are relative to.
    weight_unit : int
        Weights are counted in two to this power.
    optimizer : str
        The optimizer whose state this is.
    """

    passes: int = 0
    mean_weight: float | None = None
    weight_unit: int = 0
    optimizer: str = ""
    generator: np.ndarray | None = None
    rule: State = field(default_factory=dict)
    moments: KeptMoments | None = None
    targets: KeptMoments | None = None
    stored: np.ndarray | None = None
    rates: np.ndarray | None = None


def kept(moments: Moments | None) -> KeptMoments | None:
    """Moments as they are kept."""
    if moments is None:
        return None
    return moments.weight, moments.mean.numpy(force=True), moments.squares.numpy(force=True)


def go_on(earlier: KeptMoments | None, moments: Moments) -> Moments:
    """Earlier moments with those of more rows."""
    return moments if earlier is None else _restored(earlier, moments).merge(moments)


def clip_rescaled_coef(
    weights: Tensor, earlier: KeptMoments | None, moments: Moments | None, *, centre: bool
) -> Tensor:
    """Weights of columns that turn out to vary far more than they did, held back.

    What was learnt where a column varied by a millionth may be a million times too large, and once
    it varies by one, steps that suit it would not lead back. So no weight grows by more than
    MOST_GROWTH deviations a call. Predictions for the mean of the earlier rows stay as they are.

    Parameters
    ----------
    weights : Tensor of shape (M, K, D + 1)
        On the user's columns.
    earlier, moments : KeptMoments and Moments, or None
        Of the rows so far, without and with those to come.
    centre : bool
        Whether columns vary about their mean rather than zero.
    """
    if earlier is None or moments is None:
        return weights
    before = _restored(earlier, moments).scaling(centre=centre, dtype=float64)
    now = moments.scaling(centre=centre, dtype=float64)
    varied = before.inverse > 0
    growth = torch.where(varied, before.inverse, 1.0) / torch.where(varied, now.inverse, 1.0)
    wide = weights.to(float64)
    coef, intercept = wide[..., :-1], wide[..., -1]
    held = torch.where(growth > limits.MOST_GROWTH, coef * (limits.MOST_GROWTH / growth), coef)
    return pack(held, intercept + (coef - held) @ before.mean)


def _restored(earlier: KeptMoments, like: Moments) -> Moments:
    """Moments that were kept, where others are."""
    weight, *tensors = earlier
    mean, squares = (shared(values).to(like.mean.device) for values in tensors)
    return Moments(weight, mean, squares)
