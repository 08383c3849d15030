"""``GridSearchCV`` and ``RandomizedSearchCV`` for our estimators: a fold's candidates at once."""

import time
import warnings
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, check_cv
from sklearn.utils import indexable
from sklearn.utils.parallel import Parallel, delayed

from skorchless.model_selection import _sklearn_private as private
from skorchless.model_selection.fold import Entry, Evaluation, evaluate_fold
from skorchless.model_selection.groups import check_ours, group
from skorchless.model_selection.messages import announce, report

Candidate = dict[str, Any]


class _BatchedSearch(private.Search):
    """`fit` of the searches; everything else is scikit-learn's."""

    loss_curves_: list[list[np.ndarray]]

    @private.fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Fit and score every candidate on every split, and refit the best one on all rows.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Rows.
        y : array-like or Tensor of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        **params : dict
            What to pass on to the estimator's ``fit``, the scorer and the splitter, as
            :class:`~sklearn.model_selection.GridSearchCV` does: without metadata routing
            ``groups`` goes to the splitter and the rest to ``fit``. What has a length of
            ``n_samples`` is split with the rows.

        Returns
        -------
        self : object
            The fitted search.

        Raises
        ------
        TypeError
            For an estimator that does not end in one of ours.
        ValueError
            If all fits fail, and with ``error_score="raise"`` if one does.
        """
        check_ours(self.estimator, type(self).__name__)
        scorer, refit_metric = self.resolve_scorers()
        X, y = indexable(X, y)
        params = private.check_method_params(X, params=params)
        routed = self.route(params)
        weight = params.get("sample_weight")
        task = {"X": X, "y": y, "metadata": None if weight is None else {"sample_weight": weight}}
        context = self.begin(**task)
        run = _Run(self, scorer, X, y, routed)
        self.run_search(run.evaluate, context)
        self.choose(refit_metric, run.results, run.out[0]["test_scores"])
        if self.refit:
            self._refit(run, context.subcontext(task_name="refit-with-best-params"), task)
        several = private.scorers_of(scorer)
        self.scorer_ = scorer if several is None else several
        self.cv_results_ = run.results
        self.loss_curves_ = run.loss_curves
        context.call_on_fit_task_end(estimator=self, **task)
        return self

    def _refit(self, run: "_Run", context: Any, task: dict[str, Any]) -> None:
        """An ordinary fit of the best candidate on all rows."""
        best = clone(run.estimator).set_params(**clone(self.best_params_, safe=False))
        with context.propagate_callback_context(best):
            context.call_on_fit_task_begin(estimator=self, **task)
            begun = time.time()
            best.fit(run.X, run.y, **run.routed.estimator.fit)
            self.refit_time_ = time.time() - begun
        self.best_estimator_ = best
        if hasattr(best, "feature_names_in_"):
            self.feature_names_in_ = best.feature_names_in_
        context.call_on_fit_task_end(estimator=self, **task)


class _Run:
    """One call of `fit`: what has been evaluated so far.

    Attributes
    ----------
    out : list of dict
        One a candidate and split, the splits of a candidate together.
    loss_curves : list of list of ndarray
    results : dict
        ``cv_results_``.
    """

    def __init__(self, search: Any, scorer: Any, X: Any, y: Any, routed: Any) -> None:
        self.search, self.scorer, self.X, self.y, self.routed = search, scorer, X, y, routed
        self.estimator = clone(search.estimator)
        self.split_params = routed.splitter.split
        self.cv = check_cv(search.cv, y, classifier=is_classifier(search.estimator))
        search.n_splits_ = self.cv.get_n_splits(X, y, **self.split_params)
        self.candidates: list[Candidate] = []
        self.out: list[dict[str, Any]] = []
        self.loss_curves: list[list[np.ndarray]] = []
        self.more: dict[str, list[Any]] = defaultdict(list)
        self.results: dict[str, Any] = {}

    def evaluate(
        self,
        candidate_params: Iterable[Candidate],
        cv: Any = None,
        more_results: dict[str, list[Any]] | None = None,
        callback_ctx: Any = None,
    ) -> dict[str, Any]:
        """Evaluate some candidates; return the results of all so far."""
        candidates = list(candidate_params)
        splits = self._splits(cv or self.cv)
        announce(self.search.verbose, len(candidates), len(splits))
        entries = self._entries(candidates, splits)
        if not entries:
            raise ValueError(
                "No fits were performed. Was the CV iterator empty? Were there no candidates?"
            )
        out = [entry.result for candidate in entries for entry in candidate]
        report(self.search.verbose, candidates, entries)
        if callback_ctx is not None and self.search.has_callbacks:
            self._tell(callback_ctx, len(out))
        self._warn(entries)
        private.warn_or_raise_about_fit_failures(out, self.search.error_score)
        if callable(self.search.scoring):
            private.insert_error_scores(out, self.search.error_score)
        self.candidates += candidates
        self.out += out
        self.loss_curves += [[entry.loss_curve for entry in candidate] for candidate in entries]
        for name, values in (more_results or {}).items():
            self.more[name] += values
        self.results = self.search.format_results(
            self.candidates, len(splits), self.out, self.more
        )
        return self.results

    def _splits(self, cv: Any) -> list[tuple[Any, Any]]:
        splits = list(cv.split(self.X, self.y, **self.split_params))
        if len(splits) != self.search.n_splits_:
            raise ValueError(
                "cv.split and cv.get_n_splits return inconsistent results. Expected "
                f"{self.search.n_splits_} splits, got {len(splits)}"
            )
        return splits

    def _entries(
        self, candidates: list[Candidate], splits: list[tuple[Any, Any]]
    ) -> list[tuple[Entry, ...]]:
        """One entry a candidate and split; folds are what workers share among themselves."""
        search = self.search
        evaluation = Evaluation(
            groups=group(self.estimator, candidates, type(search).__name__),
            scorer=self.scorer,
            fit_params=self.routed.estimator.fit,
            score_params=self.routed.scorer.score,
            return_train_score=search.return_train_score,
            error_score=search.error_score,
        )
        if not candidates:
            return []
        parallel = Parallel(n_jobs=search.n_jobs, pre_dispatch=search.pre_dispatch)
        folds = parallel(
            delayed(evaluate_fold)(evaluation, self.X, self.y, train, test)
            for train, test in splits
        )
        return list(zip(*folds, strict=True))

    def _tell(self, context: Any, n_evaluations: int) -> None:
        """Let callbacks know of each evaluation; those of a fold have ended together."""
        for task_id in range(n_evaluations):
            task = context.subcontext(task_name="candidate-split-evaluation", task_id=task_id)
            task.call_on_fit_task_begin(estimator=self.search)
            task.call_on_fit_task_end(estimator=self.search)

    def _warn(self, entries: list[tuple[Entry, ...]]) -> None:
        """One warning for all fits that would have warned for themselves."""
        cut_short = [i for i, candidate in enumerate(entries) if not _converged(candidate)]
        if cut_short:
            warnings.warn(
                f"{len(cut_short)} of {len(entries)} candidates made max_iter passes on a split "
                f"before tol was reached, the first being candidate {cut_short[0]}. Raise "
                "max_iter or tol, or set tol=None if a fixed number of passes is meant.",
                ConvergenceWarning,
                stacklevel=2,
            )


def _converged(candidate: tuple[Entry, ...]) -> bool:
    return all(entry.converged for entry in candidate)


class BatchedGridSearchCV(_BatchedSearch, GridSearchCV):
    """DOC"""


class BatchedRandomizedSearchCV(_BatchedSearch, RandomizedSearchCV):
    """DOC"""
