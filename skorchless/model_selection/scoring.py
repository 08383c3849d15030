"""Scores of all fitted candidates of a fold, from one product with its rows."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from skorchless.estimators import TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.estimators.base import TorchLinearModel
from skorchless.estimators.together import has_own_way, predict_together
from skorchless.model_selection import _sklearn_private as private
from skorchless.model_selection.metrics import METRICS, OWN_METRICS, Truth

#: Raw predictions that are held at once, in bytes.
RAW_BYTES = 2**28


def score_together(
    finals: Sequence[TorchLinearModel],
    complete: Callable[[TorchLinearModel], Any],
    X: Any,
    rows: Any,
    y: Any,
    scorer: Any,
    params: dict[str, Any],
    error_score: Any,
) -> list[Any]:
    """Score candidates as ``GridSearchCV`` would, one after the other.

    Parameters
    ----------
    finals : sequence of TorchLinearModel
        Fitted last steps of one group.
    complete : callable
        Makes the whole fitted estimator of one of them.
    X, y : array-like
        Rows to score on, as the user has them, and targets.
    rows : array-like or None
        The same rows as they reach the last step; None if they do not.
    scorer : callable
        As the search resolved it.
    params : dict
        What is routed to the scorer.
    error_score : "raise" or float

    Returns
    -------
    scores : list
        A number a candidate, or a dict of them.
    """
    if not finals:
        return []
    scores: list[Any] = []
    for some, raw in _raw_predictions(finals, rows):
        fast = (
            None if raw is None else _fast_scores(some, complete(some[0]), raw, y, scorer, params)
        )
        if fast is not None:
            scores += fast
            continue
        for i, final in enumerate(some):
            if raw is None or not _answers_suffice(scorer):
                estimator, seen = complete(final), X
            else:
                estimator, seen = final, rows
            with _answering(final, rows, None if raw is None else raw[i].T):
                scores.append(private.score_one(estimator, seen, y, scorer, params, error_score))
    return scores


def _raw_predictions(
    finals: Sequence[TorchLinearModel], rows: Any
) -> Iterator[tuple[Sequence[TorchLinearModel], Any]]:
    """Some of the models with their raw predictions ``(M, K, n)``.

    None if the rows are bad, or if the models may predict from other rows than these.
    """
    if has_own_way(finals[0]):
        yield finals, None
        return
    shape = getattr(rows, "shape", (0, 1))
    each = finals[0].coef_.size // shape[-1] * 8 * shape[0]
    most = max(1, RAW_BYTES // max(each, 1))
    for first in range(0, len(finals), most):
        some = finals[first : first + most]
        try:
            raw = None if rows is None else predict_together(some, rows)
        except (ValueError, TypeError, MemoryError):  # each model will say so for itself
            raw = None
        yield some, raw


def _answers_suffice(scorer: Any) -> bool:
    """Whether the last step's answers are all that a scorer, or each of several, looks at."""
    several = private.scorers_of(scorer)
    parts = [scorer] if several is None else several.values()
    return all(private.needs_predictions_only(part) for part in parts)


@contextlib.contextmanager
def _answering(final: TorchLinearModel, rows: Any, raw: Any) -> Iterator[None]:
    """Let a model answer with predictions that it has made before, when it is asked for `rows`."""
    if raw is None:
        yield
        return
    ordinary = final._raw_predictions
    final._raw_predictions = lambda X: raw if X is rows else ordinary(X)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del final._raw_predictions


def _fast_scores(
    finals: Sequence[TorchLinearModel],
    estimator: Any,
    raw: Any,
    y: Any,
    scorer: Any,
    params: dict[str, Any],
) -> list[Any] | None:
    """Scores by our own metrics; None where scikit-learn's may say anything else."""
    if set(params) - {"sample_weight"} or (params and private.routing_enabled()):
        return None
    several = private.scorers_of(scorer)
    named = {"score": scorer} if several is None else several
    metrics = {name: _metric(estimator, part) for name, part in named.items()}
    if any(metric is None for metric in metrics.values()):
        return None
    truth = Truth.of(finals[0], y, params.get("sample_weight"))
    if truth is None or not np.isfinite(raw).all():
        return None
    columns = {}
    for name, metric in metrics.items():
        assert metric is not None
        column = metric(raw, truth)
        if column is None:
            return None
        columns[name] = column.tolist()
    if several is None:
        return list(columns["score"])
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _metric(estimator: Any, scorer: Any) -> Any:
    """Our own metric that gives what `scorer` gives, if there is one."""
    while isinstance(estimator, Pipeline):
        if private.is_estimators_own(scorer) and type(estimator).score is not Pipeline.score:
            return None
        estimator = estimator.steps[-1][1]
    if type(estimator) not in (TorchLinearRegressor, TorchSoftmaxClassifier):
        return None
    if private.is_estimators_own(scorer):
        return OWN_METRICS[type(estimator)]
    found = private.metric_of(scorer)
    return None if found is None else METRICS.get((type(estimator), *found))
