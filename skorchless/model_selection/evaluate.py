r"""Folds of a search: all candidates fitted on the training samples and scored on the others.

Conventions
-----------
``raw`` are raw predictions of M models, of shape ``(M, K, n)``. A metric for all of them gives one
score per model, of shape ``(M,)``, greater being better, and equal to scikit-learn's to rounding.
"""

import contextlib
import copy
import math
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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

from skorchless.estimators import TorchLinearRegressor, TorchSoftmaxClassifier, limits
from skorchless.estimators.base import TorchLinearModel
from skorchless.estimators.batched import BatchedFit, fit_all, has_own_way, predict_together
from skorchless.estimators.checks import as_numpy
from skorchless.model_selection import _sklearn_private as private
from skorchless.model_selection.candidates import (
    OURS,
    Group,
    final_of,
    fit_transformers,
    with_final,
)
from skorchless.optimizers.least_squares import Comoments

Split = tuple[np.ndarray, np.ndarray]

#: What is known of a candidate in a fold, in the form of scikit-learn's ``_fit_and_score``; also
#: ``loss_curve`` and ``converged``.
Result = dict[str, Any]


def evaluate_folds(
    groups: Sequence[Group],
    X: Any,
    y: Any,
    splits: Sequence[Split],
    moments: Sequence[Comoments | None],
    **options: Any,
) -> list[dict[int, Result]]:
    """Fit and score every candidate in some folds; in each by the candidates' places.

    Parameters
    ----------
    groups : sequence of Group
    X, y : array-like
        All samples.
    splits : sequence of pairs of ndarray of int
        For each fold which samples to fit and to score on.
    moments : sequence of (Comoments or None)
        Of the samples that each fold fits on, if they are known.
    **options
        Further parameters of `Fold`.
    """
    some = groups[0].estimator
    folds = [Fold(some, X, y, *each, **options) for each in zip(splits, moments, strict=True)]
    found: list[dict[int, Result]] = [{} for _ in folds]
    for group in groups:
        fits = [fold.prepare(group) for fold in folds]
        begun = time.time()
        fit_all([fit for fit, _, _ in fits])
        seconds = (time.time() - begun) / len(folds)
        for fold, results, (fit, fitted, preparing) in zip(folds, found, fits, strict=True):
            results.update(fold.score(group, fit, fitted, preparing + seconds))
    return found


def folds_at_once(X: Any, n_splits: int, n_jobs: int) -> int:
    """Return how many folds one call of `evaluate_folds` gets: a worker's share, if they are small.

    Steps that serve several folds need the samples of all of them in memory.
    """
    if not hasattr(X, "shape"):
        return 1
    n_bytes: int = math.prod(X.shape) * np.dtype(np.float64).itemsize
    return max(1, min(-(-n_splits // n_jobs), limits.SMALL_SAMPLES // max(n_bytes, 1)))


@dataclass(eq=False)
class Fold:
    """One split of a search.

    Parameters
    ----------
    estimator : estimator
        One of the candidates.
    X, y : array-like
        All samples.
    split : pair of ndarray of int
    moments : Comoments or None
        Of the samples to fit on.
    scorer : callable
        As the search resolved it.
    fit_params, score_params : dict
        For all samples.
    return_train_score : bool
    error_score : "raise" or float
    """

    estimator: Any
    X: Any
    y: Any
    split: Split
    moments: Comoments | None
    scorer: Any
    fit_params: dict[str, Any]
    score_params: dict[str, Any]
    return_train_score: bool
    error_score: Any

    def __post_init__(self) -> None:
        train, test = self.split
        self.parts = {"test_scores": test}
        if self.return_train_score:
            self.parts["train_scores"] = train
        self.fit_params = private.check_method_params(self.X, params=self.fit_params, indices=train)
        self.X_train, self.y_train, _ = self._cut(train)
        self.transformers: dict[Any, Any] = {}

    def _cut(self, rows: np.ndarray) -> tuple[Any, Any, dict[str, Any]]:
        """Some of the samples, and what is routed to the scorer with them, in new arrays."""
        train = None if rows is self.split[0] else self.split[0]
        X, y = private.safe_split(self.estimator, self.X, self.y, rows, train)
        return X, y, private.check_method_params(self.X, params=self.score_params, indices=rows)

    def prepare(self, group: Group) -> tuple[BatchedFit, Any, float]:
        """Bring the samples to the last steps of a group; errors are noted in the fit.

        Returns
        -------
        fit : BatchedFit
            Still to be fitted, unless the candidates have to be fitted one after the other.
        fitted : estimator
            Transforms samples; None if that has failed.
        seconds : float
        """
        begun, fitted = time.time(), None
        whole = group.estimator is group.finals[0]
        fit = BatchedFit(group.unfitted(), self.moments if whole else None)
        try:
            fitted = fit_transformers(
                group.estimator, self.X_train, self.y_train, self.fit_params, self.transformers
            )
            X, y, fit_params = final_of(fitted).received_
            if has_own_way(fit.models[0]):
                fit.fit_one_by_one(X, y, **fit_params)
            else:
                fit.prepare(X, y, **fit_params)
        except Exception as error:
            fit.errors = [error for _ in fit.models]
        return fit, fitted, time.time() - begun

    def score(
        self, group: Group, fit: BatchedFit, fitted: Any, seconds: float
    ) -> dict[int, Result]:
        """Score what has been fitted; one result a candidate."""
        errors = [error for error in fit.errors if error is not None]
        if errors and self.error_score == "raise":
            raise errors[0]
        names = private.scorers_of(self.scorer)
        failed = self.error_score if names is None else dict.fromkeys(names, self.error_score)
        results: list[Result] = [
            {
                "fit_error": error and "".join(traceback.format_exception(error)),
                "n_test_samples": len(self.parts["test_scores"]),
                "fit_time": seconds / len(fit.models),
                "score_time": 0.0,
                "loss_curve": getattr(model, "loss_curve_", np.empty(0)),
                "converged": error is None and getattr(model, "converged_", True),
                **dict.fromkeys(self.parts, failed),
            }
            for model, error in zip(fit.models, fit.errors, strict=True)
        ]
        if fit.valid:
            scores, score_time = self._scores(group, fitted, [fit.models[i] for i in fit.valid])
            for i, row in zip(fit.valid, scores, strict=True):
                results[i] |= {**row, "score_time": score_time / len(fit.valid)}
        return dict(zip(group.members, results, strict=True))

    def _scores(
        self, group: Group, fitted: Any, models: list[TorchLinearModel]
    ) -> tuple[list[dict[str, Any]], float]:
        """Scores of each candidate by part, and the seconds that the test samples took."""
        metrics = metrics_of(group.estimator, self.scorer)
        if metrics is not None:
            with contextlib.suppress(Exception):  # each candidate's scorer will say so for itself
                return self._scores_from_predictions(fitted, models, metrics)
        scores, seconds = [], 0.0
        for model in models:
            whole, row = self._whole(group, fitted, model), {}
            for name, rows in self.parts.items():
                begun = time.time()
                X, y, params = self._cut(rows)
                row[name] = private.score_one(whole, X, y, self.scorer, params, self.error_score)
                seconds += time.time() - begun if name == "test_scores" else 0.0
            scores.append(row)
        return scores, seconds

    def _scores_from_predictions(
        self, fitted: Any, models: list[TorchLinearModel], metrics: dict[str, Any]
    ) -> tuple[list[dict[str, Any]], float]:
        columns, seconds = [], []
        for part in self.parts.values():
            begun = time.time()
            X, _, params = self._cut(part)
            targets = partial(private.safe_indexing, self.y, part)
            scoring = self.scorer, metrics, params, self.error_score
            columns.append(score_from_predictions(models, fitted.predict(X), targets, *scoring))
            seconds.append(time.time() - begun)
        rows = [dict(zip(self.parts, row, strict=True)) for row in zip(*columns, strict=True)]
        return rows, seconds[0]

    def _whole(self, group: Group, fitted: Any, model: TorchLinearModel) -> Any:
        """A whole fitted estimator that shares nothing that a scorer could change for others."""
        try:
            transformers = copy.deepcopy(with_final(fitted, None))
        except Exception:  # what cannot be copied, say because it holds a connection, is made anew
            transformers = fit_transformers(
                group.estimator, self.X_train, self.y_train, self.fit_params, {}
            )
        return with_final(transformers, model)


# Scores of all fitted candidates of a fold, from one product with its samples.

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
