r"""The commonest metrics for a stack of models at once, equal to scikit-learn's to rounding.

Conventions
-----------
``raw`` are raw predictions of shape ``(M, K, n)``, finite. A metric gives one score a model, of
shape ``(M,)``, greater being better; or None where scikit-learn would warn, raise or decide
otherwise, which is then left to it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    root_mean_squared_error,
)

from skorchless.estimators import TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.estimators.base import TorchLinearModel
from skorchless.estimators.data import relative_weights
from skorchless.estimators.inputs import as_numpy


@dataclass(eq=False)
class Truth:
    """Targets and weights of the rows to score on.

    Attributes
    ----------
    target : ndarray of shape (K, n), or (n,) with the numbers of the classes
    weight : ndarray of shape (n,), or None
    n_classes : int
        0 for numbers.
    """

    target: np.ndarray
    weight: np.ndarray | None
    n_classes: int

    @classmethod
    def of(cls, model: TorchLinearModel, y: Any, sample_weight: Any) -> Self | None:
        """What `model` is scored against; None for anything out of the ordinary."""
        y = np.asarray(as_numpy(y))
        if y.ndim == 0 or len(y) < 2:
            return None
        try:
            weight = as_numpy(relative_weights(sample_weight, len(y)))
        except (ValueError, TypeError):  # the scorer will say so for itself
            return None
        if isinstance(model, TorchSoftmaxClassifier):
            classes = model.classes_
            if y.ndim != 1 or y.dtype.kind != classes.dtype.kind or y.dtype.kind == "O":
                return None
            index = np.searchsorted(classes, y).clip(max=len(classes) - 1)
            return cls(index, weight, len(classes)) if (classes[index] == y).all() else None
        flat = model.coef_.ndim == 1
        if y.ndim != (1 if flat else 2) or y.dtype.kind not in "fiu":
            return None
        target = y.reshape(len(y), -1).T.astype(np.float64)
        if len(target) != len(np.atleast_2d(model.coef_)) or not np.isfinite(target).all():
            return None
        return cls(target, weight, 0)

    @cached_property
    def spread(self) -> np.ndarray:
        """Mean squared deviation of each target from its mean, shape ``(K,)``."""
        return self.mean(np.square(self.target - self.mean(self.target)[:, None]))

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean over the rows, which come last: as scikit-learn takes it, so that ties stay ties."""
        mean: np.ndarray = np.average(values, axis=-1, weights=self.weight)
        return mean


def accuracy(raw: np.ndarray, truth: Truth) -> np.ndarray:
    """Share of the rows whose class is right; of equal scores the first class wins."""
    if truth.n_classes == 2:
        return truth.mean((raw[:, 0] > 0) == truth.target)
    best, predicted = raw[:, 0], np.zeros(raw[:, 0].shape, dtype=np.intp)
    for k in range(1, raw.shape[1]):
        predicted[raw[:, k] > best] = k
        best = np.maximum(best, raw[:, k])
    return truth.mean(predicted == truth.target)


def negative_log_loss(raw: np.ndarray, truth: Truth) -> np.ndarray | None:
    """Mean logarithm of the right class's probability, which is kept off 0 and 1 by rounding."""
    if len(np.unique(truth.target)) != truth.n_classes:
        return None
    two_classes = truth.n_classes == 2
    if two_classes:
        raw = np.stack([np.zeros_like(raw[:, 0]), raw[:, 0]], axis=1)
    shifted = raw - raw.max(axis=1, keepdims=True)
    total = np.log(np.exp(shifted).sum(axis=1))
    if two_classes:  # scikit-learn takes the first class's probability from the second's
        p = np.exp(shifted[:, 1] - total)
        p = np.where(truth.target == 1, p, 1 - p)
    else:
        p = np.exp(shifted[:, truth.target, np.arange(len(truth.target))] - total)
    eps = np.finfo(raw.dtype).eps
    log_p = np.log(np.clip(p, eps, 1 - eps)).astype(np.float64)
    return truth.mean(log_p)


def _mean_squares(raw: np.ndarray, truth: Truth) -> np.ndarray:
    """Mean squared error of each output, shape ``(M, K)``."""
    error = raw - truth.target
    return truth.mean(np.square(error, out=error))


def r2(raw: np.ndarray, truth: Truth) -> np.ndarray | None:
    """One minus the mean squared error over the targets' variance, mean over outputs."""
    if not (truth.spread > 0).all():
        return None
    return r2_of(_mean_squares(raw, truth), truth.spread)


def r2_of(squares: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """The same from mean squared errors and variances."""
    mean: np.ndarray = (1.0 - squares / spread).mean(axis=1)
    return mean


def negative_mean_squared_error(raw: np.ndarray, truth: Truth) -> np.ndarray:
    """Mean squared error, mean over outputs."""
    return negative_mean(_mean_squares(raw, truth))


def negative_mean(squares: np.ndarray, _: np.ndarray | None = None) -> np.ndarray:
    """The same from mean squared errors."""
    mean: np.ndarray = -squares.mean(axis=1)
    return mean


def negative_root_mean_squared_error(raw: np.ndarray, truth: Truth) -> np.ndarray:
    """Root of the mean squared error of each output, mean over outputs."""
    return negative_mean_root(_mean_squares(raw, truth))


def negative_mean_root(squares: np.ndarray, _: np.ndarray | None = None) -> np.ndarray:
    """The same from mean squared errors."""
    mean: np.ndarray = -np.sqrt(squares).mean(axis=1)
    return mean


def negative_mean_absolute_error(raw: np.ndarray, truth: Truth) -> np.ndarray:
    """Mean absolute error, mean over outputs."""
    mean: np.ndarray = -truth.mean(np.abs(raw - truth.target)).mean(axis=1)
    return mean


#: What the estimators' own ``score`` gives.
OWN_METRICS: dict[type, Any] = {TorchLinearRegressor: r2, TorchSoftmaxClassifier: accuracy}

#: Estimator, metric, sign and response method of a scorer: our own metric.
METRICS: dict[Any, Any] = {
    (TorchSoftmaxClassifier, accuracy_score, 1, "predict"): accuracy,
    (TorchSoftmaxClassifier, log_loss, -1, "predict_proba"): negative_log_loss,
    (TorchLinearRegressor, r2_score, 1, "predict"): r2,
    (TorchLinearRegressor, mean_squared_error, -1, "predict"): negative_mean_squared_error,
    (TorchLinearRegressor, mean_absolute_error, -1, "predict"): negative_mean_absolute_error,
    (
        TorchLinearRegressor,
        root_mean_squared_error,
        -1,
        "predict",
    ): negative_root_mean_squared_error,
}

#: Scores from mean squared errors of shape ``(M, K)`` and variances of the targets.
MeanSquares = Callable[[np.ndarray, np.ndarray], np.ndarray]

#: Metrics that are functions of these.
OF_MEAN_SQUARES: dict[Any, MeanSquares] = {
    r2: r2_of,
    negative_mean_squared_error: negative_mean,
    negative_root_mean_squared_error: negative_mean_root,
}
