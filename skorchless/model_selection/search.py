"""``GridSearchCV`` and ``RandomizedSearchCV`` for our estimators: a fold's candidates at once."""

import contextlib
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from numbers import Number
from typing import Any, Self, cast

import numpy as np
from joblib import effective_n_jobs
from sklearn.base import clone, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils.parallel import Parallel, delayed

from skorchless.estimators.base import TorchLinearModel, as_method_of
from skorchless.estimators.batched import BatchedFit, fit_all, has_own_way
from skorchless.estimators.callbacks import has_callbacks
from skorchless.estimators.checks import (
    as_numpy,
    check_indices,
    check_lengths,
    check_plain,
    check_y_classes,
    check_y_numeric,
    named,
    with_rows,
)
from skorchless.estimators.parameters import keep_quiet, unused
from skorchless.model_selection import _sklearn_private as private
from skorchless.model_selection.candidates import Group, check_ours, final_of, group_candidates
from skorchless.model_selection.evaluate import Result, Split, evaluate_folds, folds_at_once
from skorchless.model_selection.moments import FoldMoments
from skorchless.optimizers.least_squares import Comoments

#: Candidates that a warning names.
MOST_NAMED = 5

#: What `fit` takes beside X and y with a value for each row.
OF_ROWS = ("groups", "sample_weight")

Candidate = dict[str, Any]


class _BatchedSearch(private.BaseSearchCV):
    """`fit` of the searches; everything else is scikit-learn's."""

    _doc_link_module = TorchLinearModel._doc_link_module
    _doc_link_template = TorchLinearModel._doc_link_template

    loss_curves_: list[list[np.ndarray]]
    converged_: np.ndarray

    def __init_subclass__(cls, **options: Any) -> None:
        """Put the name of the public class into `fit`, for Python's errors of its arguments."""
        super().__init_subclass__(**options)
        if _BatchedSearch in cls.__bases__:
            fit = as_method_of(cls, _BatchedSearch.fit)
            checked = private.fit_context(prefer_skip_nested_validation=False)
            cls.fit = checked(fit)  # type: ignore[method-assign]

    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Fit and score every candidate on every split, and refit the best one on all samples.

        Parameters
        ----------
        X : array-like, sparse matrix or Tensor of shape (n_samples, n_features)
            Training data.
        y : array-like or Tensor of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        **params : dict
            Parameters for the estimator's ``fit``, the scorer and the splitter, as in
            :class:`~sklearn.model_selection.GridSearchCV`. Without metadata routing, ``groups`` is
            passed to the splitter and everything else to ``fit``. Values of length ``n_samples``
            are split along with the samples.

        Returns
        -------
        self : object
            The fitted search.

        Raises
        ------
        TypeError
            If a candidate does not end in an estimator of skorchless.
        ValueError
            If all fits fail, or if one does and ``error_score="raise"``.
        """
        final, name = final_of(self.estimator), type(self).__name__
        # Candidates may replace the last step of a pipeline.
        if not isinstance(self.estimator, Pipeline) or isinstance(final, type):
            check_ours(self.estimator, name)
        if has_callbacks(self):  # which follow each candidate
            return cast(Self, private.fit_one_by_one(self, X, y, **params))
        scorer, refit_metric = self._get_scorers()
        X, y, params = _checked(X, y, params)
        run = _Run(self, scorer, X, y, self._get_routed_params_for_fit(params))
        private.run_search(self, run.evaluate)
        first_scores = run.out[0]["test_scores"]
        self.multimetric_ = isinstance(first_scores, dict)
        if callable(self.scoring) and self.multimetric_:
            self._check_refit_for_multimetric(first_scores)
            refit_metric = self.refit
        if self.refit or not self.multimetric_:
            self.best_index_ = self._select_best_index(self.refit, refit_metric, run.results)
            if not callable(self.refit):
                self.best_score_ = run.results[f"mean_test_{refit_metric}"][self.best_index_]
            self.best_params_ = run.results["params"][self.best_index_]
        if self.refit:
            best = clone(run.estimator).set_params(**clone(self.best_params_, safe=False))
            begun = time.time()
            run.refit(best)
            self.refit_time_ = time.time() - begun
            self.best_estimator_ = best
            if hasattr(best, "feature_names_in_"):
                self.feature_names_in_ = best.feature_names_in_
        self.scorer_ = private.scorers_of(scorer) or scorer
        self.cv_results_ = run.results
        n_splits = self.n_splits_
        curves = [result["loss_curve"] for result in run.out]
        self.loss_curves_ = [curves[i : i + n_splits] for i in range(0, len(curves), n_splits)]
        self.converged_ = np.reshape([result["converged"] for result in run.out], (-1, n_splits))
        return self


class _Run:
    """One call of `fit`: what has been evaluated so far.

    Attributes
    ----------
    out : list of Result
        One a candidate and split, the splits of a candidate together.
    results : dict
        ``cv_results_``.
    moments : FoldMoments or None
        Of the samples, if the last candidates could be solved from them.
    """

    def __init__(self, search: Any, scorer: Any, X: Any, y: Any, routed: Any) -> None:
        self.search, self.scorer, self.X, self.y = search, scorer, X, y
        self.fit_params, self.score_params = routed.estimator.fit, routed.scorer.score
        self.estimator = clone(search.estimator)
        self.split_params = {
            name: as_numpy(value, name) for name, value in routed.splitter.split.items()
        }
        with self._splitting():
            target = as_numpy(y)  # no splitter of scikit-learn's reads tensors of a device
            self.cv = check_cv(search.cv, target, classifier=is_classifier(search.estimator))
            search.n_splits_ = self.cv.get_n_splits(X, target, **self.split_params)
        self.candidates: list[Candidate] = []
        self.out: list[Result] = []
        self.more: dict[str, list[Any]] = defaultdict(list)
        self.results: dict[str, Any] = {}
        self.moments: FoldMoments | None = None

    def evaluate(
        self,
        candidate_params: Iterable[Candidate],
        cv: Any = None,
        more_results: dict[str, list[Any]] | None = None,
        callback_ctx: Any = None,
    ) -> dict[str, Any]:
        """Evaluate some candidates; return the results of all so far."""
        search, candidates = self.search, list(candidate_params)
        with self._splitting():
            splits = list((cv or self.cv).split(self.X, as_numpy(self.y), **self.split_params))
        if len(splits) != search.n_splits_:
            raise ValueError(
                "cv.split and cv.get_n_splits return inconsistent results. Expected "
                f"{search.n_splits_} splits, got {len(splits)}"
            )
        if search.verbose > 0:
            print(
                f"Fitting {len(splits)} folds for each of {len(candidates)} candidates, totalling "
                f"{len(candidates) * len(splits)} fits"
            )
        groups = group_candidates(self.estimator, candidates, type(search).__name__)
        words = unused(final for group in groups for final in group.finals)
        if words:
            owner = type(search).__name__
            text = f"Parameters that have no effect in any candidate of this {owner}: {words}."
            warnings.warn(text, UserWarning, stacklevel=2)
        found = self._results(groups, splits)
        if not found:
            raise ValueError(
                "No fits were performed. Was the CV iterator empty? Were there no candidates?"
            )
        self._warn_not_converged(found)
        out = [*chain.from_iterable(found)]
        private.warn_or_raise_about_fit_failures(out, search.error_score)
        if callable(search.scoring):
            private.insert_error_scores(out, search.error_score)
        self.candidates += candidates
        self.out += out
        for name, values in (more_results or {}).items():
            self.more[name] += values
        self.results = search._format_results(self.candidates, len(splits), self.out, self.more)
        return self.results

    @contextlib.contextmanager
    def _splitting(self) -> Iterator[None]:
        """Let a splitter's error name what is no target, in the estimators' words."""
        try:
            yield
        except (ValueError, TypeError, IndexError):
            check = check_y_classes if is_classifier(self.search.estimator) else check_y_numeric
            check(self.y, "y")
            raise

    def _results(self, groups: Sequence[Group], splits: list[Split]) -> list[Sequence[Result]]:
        """Results of each candidate, one a split; workers share the folds."""
        search, train = self.search, self.search.return_train_score
        known: list[Comoments | None] = [None] * len(splits)
        found: dict[int, Sequence[Result]] = {}
        self.moments = FoldMoments.of(groups, self.X, self.y, splits, self.fit_params)
        if self.moments is not None:
            known = [*self.moments.others]
            for group in () if self.score_params else groups:
                found |= self.moments.evaluate(group, self.scorer, return_train_score=train)
        groups = [group.without(found) for group in groups if set(group.members) - found.keys()]
        if groups:
            at_once = folds_at_once(self.X, len(splits), effective_n_jobs(search.n_jobs))
            turns = [slice(i, i + at_once) for i in range(0, len(splits), at_once)]
            run = partial(
                evaluate_folds,
                scorer=self.scorer,
                fit_params=self.fit_params,
                score_params=self.score_params,
                return_train_score=train,
                error_score=search.error_score,
            )
            folds = Parallel(n_jobs=search.n_jobs, pre_dispatch=search.pre_dispatch)(
                delayed(run)(groups, self.X, self.y, splits[turn], known[turn]) for turn in turns
            )
            of_folds = [*chain.from_iterable(folds)]
            found |= {i: [of_fold[i] for of_fold in of_folds] for i in of_folds[0]}
        return [found[i] for i in sorted(found)]

    def refit(self, best: Any) -> None:
        """Fit the best candidate on all samples, from their second moments if they are known."""
        keep_quiet(final_of(best))
        moments = None if isinstance(best, Pipeline) else self.moments
        if moments is not None and not (best.verbose or has_own_way(best)):
            fit = BatchedFit([clone(best, safe=False)], moments.whole)
            fit.prepare(self.X, self.y, **self.fit_params)
            fit_all([fit])
            if fit.valid and fit.models[0].converged_:
                best.__dict__.update(fit.models[0].__dict__)
                return
        best.fit(self.X, self.y, **self.fit_params)

    def _warn_not_converged(self, found: list[Sequence[Result]]) -> None:
        """One warning for all fits that would have warned for themselves."""
        short = [
            i
            for i, results in enumerate(found)
            if any(result["fit_error"] is None and not result["converged"] for result in results)
        ]
        if short:
            named = ", ".join(str(i) for i in short[:MOST_NAMED])
            more = ", ..." if len(short) > MOST_NAMED else ""
            warnings.warn(
                f"{len(short)} of {len(found)} candidates did not converge on at least one "
                f"split: {named}{more} (see converged_). Fit one of them alone: its warning gives "
                "the reason and the cure. Often max_iter or tol must be raised.",
                ConvergenceWarning,
                stacklevel=2,
            )


def _checked(X: Any, y: Any, params: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """What `fit` takes, in containers that let samples be selected."""
    if X is None:
        raise TypeError("X is None. Pass the training data.")
    check_indices(X)
    X, y = with_rows(X, "X"), with_rows(y, "y")
    check_lengths(X, y, "y")
    if not (X.shape[0] if hasattr(X, "shape") else len(X)):
        raise ValueError("X has no samples. Pass at least one per split.")
    for name, value in params.items():
        check_plain(value, name)
        with named(name):
            if name.rpartition("__")[-1] in OF_ROWS and not isinstance(value, Number):
                with_rows(value, name)
            params |= private.check_method_params(X, params={name: value})
    return X, y, params


class BatchedGridSearchCV(_BatchedSearch, GridSearchCV):
    """Grid search that trains all candidates of a fold together.

    It replaces :class:`~sklearn.model_selection.GridSearchCV` and takes about as long as one fit
    per fold, because the candidates of a fold share its samples: one matrix product serves them
    all.

    Parameters
    ----------
    estimator : estimator
        `TorchLinearRegressor`, `TorchSoftmaxClassifier`, or a
        :class:`~sklearn.pipeline.Pipeline` that ends in one of them, or in a placeholder that the
        candidates replace by one. Candidates of a subclass that defines its own ``fit`` are fitted
        one after the other.
    param_grid : dict or list of dict
        Values to try for each parameter, as in
        :class:`~sklearn.model_selection.GridSearchCV`.
    scoring : str, callable, list, tuple or dict, default=None
        As in :class:`~sklearn.model_selection.GridSearchCV`. The scorers of
        scikit-learn's metrics share one prediction for all candidates of a fold; any other scorer
        receives an ordinary fitted estimator.
    n_jobs : int or None, default=None
        Number of worker processes. They share the folds.
    refit : bool, str or callable, default=True
        Whether to fit the best candidate on all samples. With several metrics, the name of the one
        that decides. A function receives ``cv_results_`` and returns the index of the best.
    cv : int, splitter or iterable, default=None
        Splitting strategy. By default there are 5 folds, stratified for classifiers.
    verbose : int, default=0
        If above 0, the number of fits is printed.
    pre_dispatch : int or str, default="2*n_jobs"
        Number of folds that are dispatched to workers at once.
    error_score : "raise" or float, default=nan
        Score of a candidate whose fit fails, for example because its learning rate makes it
        diverge. The other candidates are not affected.
    return_train_score : bool, default=False
        Whether ``cv_results_`` includes scores on the training data.

    Attributes
    ----------
    cv_results_ : dict of ndarray
        As in :class:`~sklearn.model_selection.GridSearchCV`. ``mean_fit_time`` is the time
        of all candidates that trained together, divided by their number.
    loss_curves_ : list of list of ndarray
        Loss curves of each candidate on each split, in the order of ``cv_results_["params"]``. If a
        fit failed, the curve ends there. A search with callbacks has none.
    converged_ : ndarray of bool, shape (n_candidates, n_splits)
        Whether each candidate converged on each split, in the same order. False if the fit failed.
        A search with callbacks has none.
    best_estimator_ : estimator
        Best candidate, fitted on all samples.
    best_score_, best_params_, best_index_
        Mean score, parameters and index of the best candidate.
    scorer_, n_splits_, refit_time_, multimetric_, classes_, n_features_in_, feature_names_in_
        As in :class:`~sklearn.model_selection.GridSearchCV`.

    See Also
    --------
    BatchedRandomizedSearchCV : Search over candidates that are drawn at random.

    Notes
    -----
    Candidates train together if they differ only in `alpha`, `l1_ratio`, `learning_rate`,
    `momentum`, `delta` or `tol`. Candidates that differ in anything else, in the last step or in
    the steps before it, form groups that train one after the other. Transformers are fitted once
    per fold for all candidates that share their settings. Each candidate receives the same batches
    and held-out samples as in a fit of its own. With an integer ``random_state`` the scores are
    therefore those of GridSearchCV: to rounding for ``"sgd"`` and ``"adam"``, and
    within ``tol`` for ``"auto"``.

    Fits that do not converge are reported in a single ``ConvergenceWarning``. The ``verbose`` of
    the estimator has an effect in the refit only.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skorchless import BatchedGridSearchCV, TorchSoftmaxClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> search = BatchedGridSearchCV(TorchSoftmaxClassifier(), {"alpha": [1e-4, 1e-2, 1.0]})
    >>> search.fit(X, y).best_params_
    {'alpha': 0.0001}
    """


class BatchedRandomizedSearchCV(_BatchedSearch, RandomizedSearchCV):
    """Randomized search that trains all candidates of a fold together.

    It replaces :class:`~sklearn.model_selection.RandomizedSearchCV` and takes about as long as one
    fit per fold, because the candidates of a fold share its samples: one matrix product serves them
    all.

    Parameters
    ----------
    estimator : estimator
        `TorchLinearRegressor`, `TorchSoftmaxClassifier`, or a
        :class:`~sklearn.pipeline.Pipeline` that ends in one of them, or in a placeholder that the
        candidates replace by one. Candidates of a subclass that defines its own ``fit`` are fitted
        one after the other.
    param_distributions : dict or list of dict
        Lists or distributions to draw the values of each parameter from.
    n_iter : int, default=10
        Number of candidates to draw.
    scoring : str, callable, list, tuple or dict, default=None
        As in :class:`~sklearn.model_selection.RandomizedSearchCV`. The scorers of
        scikit-learn's metrics share one prediction for all candidates of a fold; any other scorer
        receives an ordinary fitted estimator.
    n_jobs : int or None, default=None
        Number of worker processes. They share the folds.
    refit : bool, str or callable, default=True
        Whether to fit the best candidate on all samples. With several metrics, the name of the one
        that decides. A function receives ``cv_results_`` and returns the index of the best.
    cv : int, splitter or iterable, default=None
        Splitting strategy. By default there are 5 folds, stratified for classifiers.
    verbose : int, default=0
        If above 0, the number of fits is printed.
    pre_dispatch : int or str, default="2*n_jobs"
        Number of folds that are dispatched to workers at once.
    random_state : int, RandomState instance or None, default=None
        Seed for drawing the candidates. The estimator has its own ``random_state``.
    error_score : "raise" or float, default=nan
        Score of a candidate whose fit fails, for example because its learning rate makes it
        diverge. The other candidates are not affected.
    return_train_score : bool, default=False
        Whether ``cv_results_`` includes scores on the training data.

    Attributes
    ----------
    cv_results_ : dict of ndarray
        As in :class:`~sklearn.model_selection.RandomizedSearchCV`. ``mean_fit_time`` is the time
        of all candidates that trained together, divided by their number.
    loss_curves_ : list of list of ndarray
        Loss curves of each candidate on each split, in the order of ``cv_results_["params"]``. If a
        fit failed, the curve ends there. A search with callbacks has none.
    converged_ : ndarray of bool, shape (n_candidates, n_splits)
        Whether each candidate converged on each split, in the same order. False if the fit failed.
        A search with callbacks has none.
    best_estimator_ : estimator
        Best candidate, fitted on all samples.
    best_score_, best_params_, best_index_
        Mean score, parameters and index of the best candidate.
    scorer_, n_splits_, refit_time_, multimetric_, classes_, n_features_in_, feature_names_in_
        As in :class:`~sklearn.model_selection.RandomizedSearchCV`.

    See Also
    --------
    BatchedGridSearchCV : Search over all combinations of a grid.

    Notes
    -----
    Candidates train together if they differ only in `alpha`, `l1_ratio`, `learning_rate`,
    `momentum`, `delta` or `tol`. Candidates that differ in anything else, in the last step or in
    the steps before it, form groups that train one after the other. Transformers are fitted once
    per fold for all candidates that share their settings. Each candidate receives the same batches
    and held-out samples as in a fit of its own. With an integer ``random_state`` the scores are
    therefore those of RandomizedSearchCV: to rounding for ``"sgd"`` and ``"adam"``, and
    within ``tol`` for ``"auto"``.

    Fits that do not converge are reported in a single ``ConvergenceWarning``. The ``verbose`` of
    the estimator has an effect in the refit only.

    Examples
    --------
    >>> from scipy.stats import loguniform
    >>> from sklearn.datasets import load_iris
    >>> from skorchless import BatchedRandomizedSearchCV, TorchSoftmaxClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> search = BatchedRandomizedSearchCV(
    ...     TorchSoftmaxClassifier(), {"alpha": loguniform(1e-5, 1e-1)}, random_state=0
    ... )
    >>> len(search.fit(X, y).loss_curves_)
    10
    """
