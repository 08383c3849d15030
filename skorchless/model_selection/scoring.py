r"""Scores of all fitted candidates of a fold, from one product with its samples.

Conventions
-----------
``raw`` are raw predictions of M models, of shape ``(M, K, n)``. A metric for all of them gives one
score a model, of shape ``(M,)``, greater being better, and equal to scikit-learn's to rounding.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    log_loss,
    mean_squared_error,
    r2_score,
    root_mean_squared_error,
)
from sklearn.pipeline import Pipeline

from skorchless.estimators import TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.estimators.base import TorchLinearModel
from skorchless.estimators.batched import predict_together
from skorchless.estimators.checks import as_numpy
from skorchless.model_selection import _sklearn_private as private
from skorchless.model_selection.candidates import OURS

#: Raw predictions that are held at once, in bytes.
RAW_BYTES = 2**28


def accuracy(raw: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Share of the samples whose class is right; of equal scores the first class wins."""
    found = raw[:, 0] > 0 if raw.shape[1] == 1 else raw.argmax(axis=1)
    share: np.ndarray = np.mean(found == index, axis=1)
    return share


def negative_log_loss(raw: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Mean logarithm of the right class's probability, which is kept off 0 and 1 by rounding."""
    two_classes = raw.shape[1] == 1
    if two_classes:
        raw = np.stack([np.zeros_like(raw[:, 0]), raw[:, 0]], axis=1)
    shifted = raw - raw.max(axis=1, keepdims=True)
    total = np.log(np.exp(shifted).sum(axis=1))
    if two_classes:  # scikit-learn takes the first class's probability from the second's
        p = np.exp(shifted[:, 1] - total)
        p = np.where(index == 1, p, 1 - p)
    else:
        p = np.exp(shifted[:, index, np.arange(len(index))] - total)
    eps = np.finfo(raw.dtype).eps
    mean: np.ndarray = np.log(np.clip(p, eps, 1 - eps)).astype(np.float64).mean(axis=1)
    return mean


#: Metrics of classes, from raw predictions and the number of each sample's class.
OF_CLASSES: dict[Any, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    (accuracy_score, 1, "predict"): accuracy,
    (log_loss, -1, "predict_proba"): negative_log_loss,
}

#: Metrics of numbers, from mean squared errors ``(M, K)`` and the variance of each target.
OF_MEAN_SQUARES: dict[Any, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    (r2_score, 1, "predict"): lambda squares, variance: (1.0 - squares / variance).mean(axis=1),
    (mean_squared_error, -1, "predict"): lambda squares, _: -squares.mean(axis=1),
    (root_mean_squared_error, -1, "predict"): lambda squares, _: -np.sqrt(squares).mean(axis=1),
}


def metrics_of(estimator: Any, scorer: Any) -> dict[str, Any] | None:
    """Return what each scorer computes, by name, if it sees predictions of our last step only.

    That is the metric, its sign and the method that makes the predictions; None for a scorer with
    parameters of its own.

    Parameters
    ----------
    estimator : estimator
        A candidate.
    scorer : callable
        As the search resolved it.
    """
    scores_itself = False
    while isinstance(estimator, Pipeline):
        scores_itself |= type(estimator).score is not Pipeline.score
        estimator = estimator.steps[-1][1]
    if type(estimator) not in OURS:
        return None
    metrics: dict[str, Any] = {}
    for name, one in (private.scorers_of(scorer) or {"score": scorer}).items():
        if private.is_estimators_own(one) and not scores_itself:
            classifies = type(estimator) is TorchSoftmaxClassifier
            metrics[name] = (accuracy_score if classifies else r2_score, 1, "predict")
        elif private.needs_predictions_only(one):
            metrics[name] = private.metric_of(one)
        else:
            return None
    return metrics


def score_from_predictions(
    finals: Sequence[TorchLinearModel],
    X: Any,
    targets: Callable[[], Any],
    scorer: Any,
    metrics: dict[str, Any],
    params: dict[str, Any],
    error_score: Any,
) -> list[Any]:
    """Score candidates from one product with the samples.

    Parameters
    ----------
    finals : sequence of TorchLinearModel
        Fitted last steps of one group.
    X : array-like
        The samples as they reach the last step.
    targets : callable
        Makes the targets, anew for each metric that may write to them.
    scorer : callable
    metrics : dict
        What it computes, as `metrics_of` says.
    params : dict
        Of the scorer.
    error_score : "raise" or float
    """
    scores: list[Any] = []
    # Predictions are in NumPy, which scikit-learn's metrics do not mix with tensors of a device.
    params = {name: as_numpy(value, name) for name, value in params.items()}
    size = getattr(X, "shape", (0, 1))
    most = max(1, RAW_BYTES // max(finals[0].coef_.size // size[-1] * 8 * size[0], 1))
    for start in range(0, len(finals), most):
        some = finals[start : start + most]
        raw = predict_together(some, X)
        columns = None if params else _columns(some[0], metrics, raw, as_numpy(targets()))
        if columns is not None:
            scores += by_candidate(columns, scorer)
            continue
        for final, own in zip(some, raw, strict=True):
            answers = object.__new__(type(final))
            answers.__dict__.update(final.__dict__, _raw_predictions=lambda X, raw=own.T: raw)
            y = as_numpy(targets())
            scores.append(private.score_one(answers, X, y, scorer, params, error_score))
    return scores


def _columns(
    model: TorchLinearModel, metrics: dict[str, Any], raw: np.ndarray, y: Any
) -> dict[str, np.ndarray] | None:
    """Scores by name from our metrics; None where scikit-learn's may give anything else."""
    table: dict[Any, Any]
    y = np.asarray(y)
    if isinstance(model, TorchLinearRegressor):
        if y.dtype.kind not in "fiu" or y.shape != (raw.shape[2], *model.coef_.shape[:-1]):
            return None
        target = y.reshape(len(y), -1).T.astype(np.float64)
        table, facts = OF_MEAN_SQUARES, (np.square(raw - target).mean(axis=2), target.var(axis=1))
        usual = np.isfinite(facts[0]).all() and (facts[1] > 0).all()
    else:
        classes = model.classes_
        if y.ndim != 1 or y.dtype.kind != classes.dtype.kind or y.dtype.kind in "Of":
            return None
        index = np.searchsorted(classes, y).clip(max=len(classes) - 1)
        table, facts = OF_CLASSES, (raw, index)
        usual = (classes[index] == y).all() and len(np.unique(index)) == len(classes)
    if not usual or not set(metrics.values()) <= table.keys():
        return None
    return {name: table[metric](*facts) for name, metric in metrics.items()}


def by_candidate(columns: dict[str, np.ndarray], scorer: Any) -> list[Any]:
    """Return the scores of each candidate, a number or a dict of them, as the `scorer` does."""
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    if private.scorers_of(scorer) is None:
        return [score for (score,) in rows]
    return [dict(zip(columns, row, strict=True)) for row in rows]
