"""When a model of the stack is done: no improvement, or the best validation loss is behind it."""

import numpy as np
import torch
from torch import Tensor


class Patience:
    """Counts passes since a curve last improved by more than a threshold, model by model.

    Improvements add up: many small ones count as one as soon as together they pass the threshold.

    Parameters
    ----------
    threshold : ndarray of shape (M,)
        How much a value has to fall below the best one to count as an improvement.
    passes : int
        Passes without improvement until a model is stale.
    """

    def __init__(self, threshold: np.ndarray, passes: int) -> None:
        self.threshold = threshold
        self.passes = passes
        self.best = np.full(len(threshold), np.inf)
        self.waited = np.zeros(len(threshold), dtype=int)

    def update(self, value: np.ndarray) -> np.ndarray:
        """Take in one pass's values, of shape ``(M,)``; return which models are stale."""
        improved = value < self.best - self.threshold
        self.waited = np.where(improved, 0, self.waited + 1)
        self.best = np.where(improved, value, self.best)
        return self.waited >= self.passes

    def forgive(self, models: np.ndarray) -> None:
        """Let some models start waiting anew, as after a change of rate."""
        self.waited = np.where(models, 0, self.waited)

    def select(self, keep: np.ndarray) -> None:
        """Keep only some of the models."""
        self.threshold, self.best, self.waited = (
            self.threshold[keep],
            self.best[keep],
            self.waited[keep],
        )


class BestWeights:
    """The weights of the pass with the lowest validation loss, model by model."""

    def __init__(self, weights: Tensor) -> None:
        self.value = np.full(len(weights), np.inf)
        self.weights = weights.clone()
        self.n_iter = np.zeros(len(weights), dtype=int)

    def update(self, value: np.ndarray, weights: Tensor, n_iter: int) -> None:
        """Take in one pass's values, of shape ``(M,)``, and the weights they belong to."""
        better = value < self.value
        self.value = np.where(better, value, self.value)
        self.n_iter = np.where(better, n_iter, self.n_iter)
        mask = torch.from_numpy(better).to(weights.device).view(-1, 1, 1)
        self.weights = torch.where(mask, weights, self.weights)

    def select(self, keep: np.ndarray) -> None:
        """Keep only some of the models."""
        self.value, self.n_iter = self.value[keep], self.n_iter[keep]
        index = torch.from_numpy(np.flatnonzero(keep)).to(self.weights.device)
        self.weights = self.weights.index_select(0, index)
