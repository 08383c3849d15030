"""Folds of a search: all candidates fitted on the training samples and scored on the others."""

import contextlib
import copy
import math
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, r2_score
from sklearn.pipeline import Pipeline

from skorchless.estimators import TorchSoftmaxClassifier, limits
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
        if metrics_of(group.estimator, self.scorer) is not None:
            with contextlib.suppress(Exception):  # each candidate's scorer will say so for itself
                return self._scores_from_predictions(fitted, models)
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
        self, fitted: Any, models: list[TorchLinearModel]
    ) -> tuple[list[dict[str, Any]], float]:
        """Scores of models whose scorers see predictions only, from one product for each part."""
        scores: list[dict[str, Any]] = [{} for _ in models]
        seconds = []
        for name, rows in self.parts.items():
            begun = time.time()
            X, _, params = self._cut(rows)
            X = fitted.predict(X)
            # Predictions are in NumPy; scikit-learn's metrics do not mix it with other devices.
            params = {key: as_numpy(value, key) for key, value in params.items()}
            for row, model in zip(scores, with_predictions(models, X), strict=True):
                y = as_numpy(private.safe_indexing(self.y, rows))  # which a metric may write to
                row[name] = private.score_one(model, X, y, self.scorer, params, self.error_score)
            seconds.append(time.time() - begun)
        return scores, seconds[0]

    def _whole(self, group: Group, fitted: Any, model: TorchLinearModel) -> Any:
        """A whole fitted estimator that shares nothing that a scorer could change for others."""
        try:
            transformers = copy.deepcopy(with_final(fitted, None))
        except Exception:  # what cannot be copied, say because it holds a connection, is made anew
            transformers = fit_transformers(
                group.estimator, self.X_train, self.y_train, self.fit_params, {}
            )
        return with_final(transformers, model)


#: Raw predictions that are held at once, in bytes.
RAW_BYTES = 2**28


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


def with_predictions(models: Sequence[TorchLinearModel], X: Any) -> Iterator[TorchLinearModel]:
    """Yield copies of fitted models that have predicted `X` already, from one product.

    Parameters
    ----------
    models : sequence of TorchLinearModel
        Last steps of one group.
    X : array-like
        The samples as they reach the last step.
    """
    size = getattr(X, "shape", (0, 1))
    most = max(1, RAW_BYTES // max(models[0].coef_.size // size[-1] * 8 * size[0], 1))
    for start in range(0, len(models), most):
        some = models[start : start + most]
        for model, raw in zip(some, predict_together(some, X), strict=True):
            predicted = object.__new__(type(model))
            predicted.__dict__.update(model.__dict__, _raw_predictions=lambda X, raw=raw.T: raw)
            yield predicted
