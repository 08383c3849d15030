"""A canary: scikit-learn's private helpers are there and take what we pass."""

import inspect

import pytest
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV

from skorchless import BatchedGridSearchCV
from skorchless.model_selection import _sklearn_private as private

HELPERS = {
    private.check_method_params: ["X", "params", "indices"],
    private.fit_context: ["prefer_skip_nested_validation"],
    private.insert_error_scores: ["results", "error_score"],
    private.safe_indexing: ["X", "indices", "axis"],
    private.safe_split: ["estimator", "X", "y", "indices", "train_indices"],
    private.score_one: ["estimator", "X_test", "y_test", "scorer", "score_params", "error_score"],
    private.warn_or_raise_about_fit_failures: ["results", "error_score"],
}
METHODS = {
    "_get_scorers": ["self"],
    "_get_routed_params_for_fit": ["self", "params"],
    "_format_results": ["self", "candidate_params", "n_splits", "out", "more_results"],
    "_check_refit_for_multimetric": ["self", "scores"],
    "_select_best_index": ["refit", "refit_metric", "results"],
}


@pytest.mark.parametrize("helper", HELPERS, ids=lambda helper: helper.__name__)
def test_helpers_take_what_we_pass(helper):
    assert list(inspect.signature(helper).parameters) == HELPERS[helper]


@pytest.mark.parametrize("name", METHODS)
def test_methods_take_what_we_pass(name):
    assert list(inspect.signature(getattr(BatchedGridSearchCV, name)).parameters) == METHODS[name]


@pytest.mark.parametrize("peer", [GridSearchCV, RandomizedSearchCV])
def test_searches_hand_their_candidates_over(peer):
    names = list(inspect.signature(peer._run_search).parameters)
    assert names[:2] == ["self", "evaluate_candidates"]
    assert set(names[2:]) <= {"callback_ctx"}


def test_scorers_are_made_of_what_we_look_at():
    from sklearn.metrics import accuracy_score, get_scorer, make_scorer

    assert private.metric_of(get_scorer("accuracy")) == (accuracy_score, 1, "predict")
    assert private.metric_of(make_scorer(accuracy_score, normalize=False)) is None
    assert private.metric_of(accuracy_score) is None
