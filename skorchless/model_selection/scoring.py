"""Scores of all fitted candidates of a fold, from one product with its rows."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from skorchless.estimators.base import TorchLinearModel
from skorchless.estimators.together import predict_together
from skorchless.model_selection import _sklearn_private as private
from skorchless.model_selection.groups import OURS
from skorchless.model_selection.metrics import METRICS, OWN_METRICS, Truth

#: Raw predictions that are held at once, in bytes.
RAW_BYTES = 2**28


class Part:
    """Some of the rows of a search, and what its scorer gets with them.

    Parameters
    ----------
    estimator : estimator
        Which is to be scored.
    X, y : array-like
        All rows.
    params : dict
        What is routed to the scorer, for all rows.
    rows : ndarray of int
        Which of them.
    train_rows : ndarray of int, optional
        Those that the estimator was fitted on, if others.

    Attributes
    ----------
    X, y, params
        Of these rows.
    """

    def __init__(
        self,
        estimator: Any,
        X: Any,
        y: Any,
        params: dict[str, Any],
        rows: np.ndarray,
        train_rows: np.ndarray | None = None,
    ) -> None:
        self._estimator, self._all = estimator, (X, y, params)
        self._rows, self._train_rows = rows, train_rows
        self.X, self.y, self.params = self.anew()

    def anew(self) -> tuple[Any, Any, dict[str, Any]]:
        """The same rows once more, for a scorer that may write to them."""
        X, y, params = self._all
        some_X, some_y = private.safe_split(self._estimator, X, y, self._rows, self._train_rows)
        return some_X, some_y, private.check_method_params(X, params=params, indices=self._rows)

    def targets_anew(self) -> Any:
        """The same targets once more, for a metric that may write to them."""
        y = self._all[1]
        return None if y is None else private.safe_indexing(y, self._rows)


def score_together(
    finals: Sequence[TorchLinearModel],
    complete: Callable[[TorchLinearModel], Any],
    part: Part,
    transformed: Any,
    scorer: Any,
    error_score: Any,
) -> list[Any] | None:
    """Score candidates as ``GridSearchCV`` would, one after the other.

    Parameters
    ----------
    finals : sequence of TorchLinearModel
        Fitted last steps of one group.
    complete : callable
        Makes the whole fitted estimator of one of them, to look at and to predict with.
    part : Part
        The rows to score on.
    transformed : array-like or None
        The same rows as they reach the last step; None if they do not.
    scorer : callable
        As the search resolved it.
    error_score : "raise" or float

    Returns
    -------
    scores : list or None
        A number a candidate, or a dict of them. None for a scorer that may look at more than
        predictions: it is to be called with the whole estimator of each.
    """
    scores: list[Any] = []
    for some, raw in _raw_predictions(finals, transformed):
        fast = None if raw is None else _fast_scores(some, complete(some[0]), raw, part, scorer)
        if fast is not None:
            scores += fast
            continue
        if not _answers_suffice(scorer):
            return None
        for i, final in enumerate(some):
            y, params = part.targets_anew(), part.params
            if raw is None:
                whole = complete(final)
                score = private.score_one(whole, part.X, y, scorer, params, error_score)
            else:
                with _answering(final, raw[i].T):
                    score = private.score_one(final, transformed, y, scorer, params, error_score)
            scores.append(score)
    return scores


def _raw_predictions(
    finals: Sequence[TorchLinearModel], rows: Any
) -> Iterator[tuple[Sequence[TorchLinearModel], Any]]:
    """Some of the models with their raw predictions ``(M, K, n)``.

    None if the rows are bad, or if the models are of a subclass, whose methods may do anything.
    """
    if type(finals[0]) not in OURS:
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
def _answering(final: TorchLinearModel, raw: Any) -> Iterator[None]:
    """Let a model answer with raw predictions that it has made before.

    Nobody but a scorer of scikit-learn's, which asks it about these rows only, may get hold of it
    meanwhile: its copies and later fits would answer the same.
    """
    final._raw_predictions = lambda X: raw  # type: ignore[method-assign]
    try:
        yield
    finally:
        del final._raw_predictions


def _fast_scores(
    finals: Sequence[TorchLinearModel],
    estimator: Any,
    raw: Any,
    part: Part,
    scorer: Any,
) -> list[Any] | None:
    """Scores by our own metrics; None where scikit-learn's may say anything else."""
    params = part.params
    if set(params) - {"sample_weight"} or (params and private.routing_enabled()):
        return None
    metrics = metrics_of(estimator, scorer)
    if metrics is None:
        return None
    truth = Truth.of(finals[0], part.y, params.get("sample_weight"))
    if truth is None or not np.isfinite(raw).all():
        return None
    columns = {name: metric(raw, truth) for name, metric in metrics.items()}
    if any(column is None for column in columns.values()):
        return None
    return by_candidate(columns, scorer)


def by_candidate(columns: dict[str, np.ndarray], scorer: Any) -> list[Any]:
    """The scores of each candidate, a number or a dict of them, as the `scorer` gives them."""
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    if private.scorers_of(scorer) is None:
        return [score for (score,) in rows]
    return [dict(zip(columns, row, strict=True)) for row in rows]


def metrics_of(estimator: Any, scorer: Any) -> dict[str, Any] | None:
    """Our own metrics, by name, that give what `scorer` gives; None unless there are all."""
    several = private.scorers_of(scorer)
    named = {"score": scorer} if several is None else several
    metrics = {name: _metric(estimator, one) for name, one in named.items()}
    return None if any(metric is None for metric in metrics.values()) else metrics


def _metric(estimator: Any, scorer: Any) -> Any:
    """Our own metric that gives what `scorer` gives, if there is one."""
    while isinstance(estimator, Pipeline):
        if private.is_estimators_own(scorer) and type(estimator).score is not Pipeline.score:
            return None
        estimator = estimator.steps[-1][1]
    if type(estimator) not in OURS:
        return None
    if private.is_estimators_own(scorer):
        return OWN_METRICS[type(estimator)]
    found = private.metric_of(scorer)
    return None if found is None else METRICS.get((type(estimator), *found))
