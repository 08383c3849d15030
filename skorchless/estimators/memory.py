"""What ``partial_fit`` remembers."""

from dataclasses import dataclass, field

import numpy as np

from skorchless.optimizers import State


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
    moments : tuple of float, ndarray, ndarray, or None
        Running weight, means and squared deviations of the columns, where the estimator scales.
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
    moments: tuple[float, np.ndarray, np.ndarray] | None = None
    rates: np.ndarray | None = None
