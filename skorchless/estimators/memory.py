"""What ``partial_fit`` remembers."""

from dataclasses import dataclass, field

import numpy as np
import torch

from skorchless.optimizers import State
from skorchless.sources import Moments

KeptMoments = tuple[float, np.ndarray, np.ndarray]


@dataclass
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
    rates : ndarray of shape (M,), optional
        Learning rates, where the estimator chooses them.
    mean_weight : float, optional
        Mean weight of the first call's rows, which all later weights are relative to.
    optimizer : str
        The rule whose state this is.
    """

    passes: int = 0
    mean_weight: float | None = None
    optimizer: str = ""
    generator: np.ndarray | None = None
    rule: State = field(default_factory=dict)
    moments: KeptMoments | None = None
    targets: KeptMoments | None = None
    rates: np.ndarray | None = None


def kept(moments: Moments | None) -> KeptMoments | None:
    """Moments as they are kept."""
    if moments is None:
        return None
    return moments.weight, moments.mean.numpy(force=True), moments.squares.numpy(force=True)


def go_on(earlier: KeptMoments | None, moments: Moments) -> Moments:
    """Earlier moments with those of more rows."""
    if earlier is None:
        return moments
    weight, *tensors = earlier
    mean, squares = (torch.from_numpy(values).to(moments.mean.device) for values in tensors)
    return Moments(weight, mean, squares).merge(moments)
