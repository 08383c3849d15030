"""When a model of the stack is done: no improvement, or the best validation loss is behind it."""

import numpy as np
import torch
from torch import Tensor

from skorchless.stack import select_models


class Patience:
    """Counts passes since a curve last improved by more than a threshold, model by model.

    Improvements add up: many small ones count as one as soon as together they pass the threshold.

    Parameters
    ----------
    threshold : ndarray of shape (M,)
        How much a value has to fall below the best one to count as an improvement.
    passes : int
        Passes without improvement until a model is stale.
    constant_loss : ndarray of shape (M,), optional
        With it the threshold is relative to what has been gained over the best constant model.
    """

    def __init__(
        self, threshold: np.ndarray, passes: int, constant_loss: np.ndarray | None = None
    ) -> None:
        self.threshold = threshold
        self.passes = passes
        self.constant_loss = constant_loss
        self.best = np.full(len(threshold), np.inf)
        self.waited = np.zeros(len(threshold), dtype=int)

    def update(self, value: np.ndarray, iterated: np.ndarray) -> np.ndarray:
        """Take in one pass's values, of shape ``(M,)``; return which models are stale.

        Only models that `iterated` have a new value.
        """
        threshold = self.threshold
        if self.constant_loss is not None:
            best = np.minimum(self.best, self.constant_loss)
            threshold = threshold * (self.constant_loss - best)
        improved = iterated & (value < self.best - threshold)
        self.waited = np.where(improved, 0, self.waited + iterated)
        self.best = np.where(improved, value, self.best)
        stale: np.ndarray = iterated & (self.waited >= self.passes)
        return stale

    def forgive(self, models: np.ndarray) -> None:
        """Let some models start waiting anew, as after a change of rate."""
        self.waited = np.where(models, 0, self.waited)

    def select(self, keep: Tensor) -> None:
        """Keep only some of the models."""
        select_models(self, keep)


class BestWeights:
    """The weights of the pass with the lowest loss that is watched, model by model.

    Parameters
    ----------
    weights : Tensor of shape (M, K, D + 1)
        Where training starts.
    rounding : float
        Of losses that differ by no more than this share of the lowest, the last one counts.
    """

    def __init__(self, weights: Tensor, rounding: float | None = None) -> None:
        self.rounding = rounding
        self.value = np.full(len(weights), np.inf)
        self.weights = weights.clone()
        self.n_iter = np.zeros(len(weights), dtype=int)

    def update(self, value: np.ndarray, weights: Tensor, n_iter: np.ndarray) -> None:
        """Take in one pass's values, of shape ``(M,)``, and the weights they belong to."""
        better = value < self.value
        if self.rounding is not None:
            better = value <= (1.0 + self.rounding) * self.value
        lowest = np.where(better, np.minimum(value, self.value), self.value)
        n_iter = np.where(better, n_iter, self.n_iter)
        if better.all():
            weights = weights.clone()
        elif not better.any():
            weights = self.weights
        else:
            mask = torch.from_numpy(better).to(weights.device).view(-1, 1, 1)
            weights = torch.where(mask, weights, self.weights)
        # At once: Ctrl-C does not come in between.
        self.value, self.n_iter, self.weights = lowest, n_iter, weights

    def select(self, keep: Tensor) -> None:
        """Keep only some of the models."""
        select_models(self, keep)
