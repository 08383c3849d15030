"""scikit-learn's private helpers that the searches need, and no others.

A search that gives GridSearchCV's results has to go GridSearchCV's ways, and those are not public.
All of them are named here; ``tests/model_selection/test_sklearn_private.py`` checks that they are
there and take what we pass, for every scikit-learn from 1.6 on.
"""

import inspect
from collections.abc import Callable
from typing import Any

from sklearn.base import _fit_context
from sklearn.metrics._scorer import _MultimetricScorer, _PassthroughScorer, _Scorer
from sklearn.model_selection._search import BaseSearchCV as BaseSearchCV
from sklearn.model_selection._validation import (
    _insert_error_scores,
    _score,
    _warn_or_raise_about_fit_failures,
)
from sklearn.utils import _safe_indexing
from sklearn.utils.metaestimators import _safe_split
from sklearn.utils.validation import _check_method_params

check_method_params = _check_method_params
fit_one_by_one: Callable[..., Any] = BaseSearchCV.fit.__wrapped__
fit_context = _fit_context
insert_error_scores = _insert_error_scores
safe_indexing = _safe_indexing
safe_split = _safe_split
score_one = _score
warn_or_raise_about_fit_failures = _warn_or_raise_about_fit_failures


def scorers_of(scorer: Any) -> dict[str, Any] | None:
    """The scorers by name of one for several metrics; None for any other scorer."""
    return dict(scorer._scorers) if isinstance(scorer, _MultimetricScorer) else None


def needs_predictions_only(scorer: Any) -> bool:
    """Whether a scorer looks at nothing but what the last step of a pipeline answers."""
    return type(scorer) is _Scorer


def is_estimators_own(scorer: Any) -> bool:
    """Whether a scorer only calls the estimator's ``score``."""
    return isinstance(scorer, _PassthroughScorer)


def metric_of(scorer: Any) -> tuple[Callable[..., Any], int, str] | None:
    """Metric, sign and response method of a scorer that adds nothing else to them."""
    if type(scorer) is not _Scorer or scorer._kwargs:
        return None
    response = scorer._response_method
    return scorer._score_func, scorer._sign, response if isinstance(response, str) else ""


def run_search(search: Any, evaluate: Callable[..., Any]) -> None:
    """Hand the candidates of a search to `evaluate`; without callbacks, which come with 1.9."""
    if "callback_ctx" in inspect.signature(search._run_search).parameters:
        nobody = search._init_callback_context(max_subtasks=None)
        search._run_search(evaluate, callback_ctx=nobody)
    else:
        search._run_search(evaluate)
