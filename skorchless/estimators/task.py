"""The problem that one call of the engine solves, and its result."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from skorchless.engine import ModelResult
from skorchless.estimators.data import Data
from skorchless.estimators.memory import Memory
from skorchless.reducer import ONE_PROCESS, Reducer


@dataclass(eq=False)
class Task:
    """What to train on and where to start.

    Attributes
    ----------
    data : Data
        On the device to train on.
    start : ndarray of shape (M, K, D + 1), or (1, K, D + 1) if all start alike
        Weights on the user's columns.
    generator : torch.Generator
    validation : Data, optional
    reducer : Reducer
        Who else trains the same model on rows of their own.
    """

    data: Data
    start: np.ndarray
    generator: torch.Generator
    validation: Data | None = None
    reducer: Reducer = ONE_PROCESS

    @classmethod
    def side_by_side(cls, tasks: Sequence["Task"], n_models: int) -> Self:
        """Several tasks of `n_models` models each, and with the same seed, as the sets of one."""
        shape = tasks[0].start.shape[1:]
        start = np.concatenate([np.broadcast_to(task.start, (n_models, *shape)) for task in tasks])
        held_out = [task.validation for task in tasks if task.validation is not None]
        return cls(
            Data.side_by_side([task.data for task in tasks]),
            start,
            tasks[0].generator,
            Data.side_by_side(held_out) if held_out else None,
        )


@dataclass(eq=False)
class Outcome:
    """What came of it, one entry a candidate, weights on the user's columns."""

    results: list[ModelResult]
    weights: list[np.ndarray | None]
    optimizer: str
    rates: np.ndarray
    interrupt: KeyboardInterrupt | None
    memory: Memory

    def failure(self, model: int, passes_before: int = 0) -> ValueError | None:
        """What to tell whoever wanted this model, if its loss or they left the finite numbers."""
        result, weights = self.results[model], self.weights[model]
        if not result.diverged and not result.blew_up:
            if weights is None or np.isfinite(weights).all():
                return None
            return ValueError(
                f"The coefficients exceed the range of {weights.dtype}: y is too large compared "
                "with X. Pass X or y in other units, or raise alpha."
            )
        if self.optimizer == "quasi-newton":
            return ValueError(
                "The loss is infinite or NaN at the initial coefficients. Check coef_init, and "
                "whether X, y or alpha are too large."
            )
        what = "became infinite or NaN in" if result.diverged else "kept rising until"
        return ValueError(
            f"The loss {what} epoch {result.n_iter + passes_before}: it diverges with a learning "
            f"rate of {result.rate:.6g} here. Use a smaller learning_rate or learning_rate='auto', "
            "or put a StandardScaler in front of the estimator."
        )
