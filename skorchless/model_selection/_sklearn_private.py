"""scikit-learn's private helpers that the searches need, and no others.

A search that gives GridSearchCV's results has to go GridSearchCV's ways, and those are not public.
All of them are named here; ``tests/model_selection/test_sklearn_private.py`` checks that they are
there and take what we pass, for every scikit-learn from 1.6 on.
"""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any, Protocol, Self, TypeVar

from sklearn.base import _fit_context
from sklearn.metrics._scorer import _MultimetricScorer, _PassthroughScorer, _Scorer
from sklearn.model_selection._search import BaseSearchCV
from sklearn.model_selection._validation import (
    _insert_error_scores,
    _score,
    _warn_or_raise_about_fit_failures,
)
from sklearn.utils import _safe_indexing
from sklearn.utils.metadata_routing import _routing_enabled
from sklearn.utils.metaestimators import _safe_split
from sklearn.utils.validation import _check_method_params

Method = TypeVar("Method", bound=Callable[..., Any])


class SameMethod(Protocol):
    """A decorator that leaves a method's signature as it is."""

    def __call__(self, method: Method, /) -> Method: ...


check_method_params = _check_method_params
fit_context: Callable[..., SameMethod] = _fit_context
insert_error_scores = _insert_error_scores
routing_enabled = _routing_enabled
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


class Search(BaseSearchCV):
    """What the searches call of scikit-learn's own."""

    def _resolve_scorers(self) -> tuple[Any, str]:
        """The scorer, and the name of the metric that decides."""
        scorers, refit_metric = self._get_scorers()
        return scorers, refit_metric

    def _route(self, params: dict[str, Any]) -> Any:
        """Who gets which of the parameters of ``fit``."""
        return self._get_routed_params_for_fit(params)

    def _tabulate(
        self, candidates: list[dict[str, Any]], n_splits: int, out: list[dict[str, Any]], more: Any
    ) -> dict[str, Any]:
        """``cv_results_`` from one dict a candidate and split."""
        results: dict[str, Any] = self._format_results(candidates, n_splits, out, more)
        return results

    def _choose(self, refit_metric: str, results: dict[str, Any], first_scores: Any) -> None:
        """Set ``multimetric_`` and ``best_*``."""
        self.multimetric_ = isinstance(first_scores, dict)
        if callable(self.scoring) and self.multimetric_:
            self._check_refit_for_multimetric(first_scores)
            refit_metric = self.refit
        if self.refit or not self.multimetric_:
            self.best_index_ = self._select_best_index(self.refit, refit_metric, results)
            if not callable(self.refit):
                self.best_score_ = results[f"mean_test_{refit_metric}"][self.best_index_]
            self.best_params_ = results["params"][self.best_index_]

    def _begin(self, **task: Any) -> Any:
        """The callbacks' context of the whole search, where scikit-learn has callbacks."""
        if not hasattr(self, "_init_callback_context"):
            return _NoCallbacks()
        context = self._init_callback_context(max_subtasks=1 + (self.refit is not False))
        return context.call_on_fit_task_begin(estimator=self, **task)

    def _propose(self, evaluate: Callable[..., Any], context: Any) -> None:
        """Hand the candidates of the search to `evaluate`."""
        if "callback_ctx" in inspect.signature(self._run_search).parameters:
            self._run_search(evaluate, callback_ctx=context)
        else:
            self._run_search(evaluate)


class _NoCallbacks:
    """A context of callbacks for scikit-learn before 1.9, which has none."""

    def subcontext(self, **task: Any) -> Self:
        return self

    def call_on_fit_task_begin(self, **task: Any) -> Self:
        return self

    def call_on_fit_task_end(self, **task: Any) -> bool:
        return False

    def propagate_callback_context(self, estimator: Any) -> contextlib.nullcontext[None]:
        return contextlib.nullcontext()
