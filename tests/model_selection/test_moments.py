"""Second moments of folds: shared where the splits allow it, and never wrong."""

import warnings

import numpy as np
import pytest
from searches import assert_same, make_numbers, search_both
from sklearn.base import clone
from sklearn.model_selection import KFold, LeaveOneOut, PredefinedSplit, ShuffleSplit

from skorchless import BatchedGridSearchCV, TorchLinearRegressor
from skorchless.estimators import batched
from skorchless.model_selection import search
from skorchless.model_selection.moments import disjoint_parts

ALPHAS = {"alpha": [1e-3, 0.1, 1.0, 10.0]}


def splits_of(cv, n=40):
    return list(cv.split(np.zeros((n, 1)), np.zeros(n)))


@pytest.mark.parametrize(
    "cv, n_parts",
    [
        (KFold(4), 4),
        (LeaveOneOut(), 40),
        (PredefinedSplit([-1] * 10 + [0] * 15 + [1] * 15), 3),
        (ShuffleSplit(3, test_size=0.5, random_state=0), None),
    ],
)
def test_which_splits_are_parts(cv, n_parts):
    parts = disjoint_parts(splits_of(cv))
    assert (parts is None) == (n_parts is None)
    if parts is not None:
        assert len(parts) == n_parts
        assert sorted(np.concatenate(parts)) == list(range(40))


def test_repeated_rows_are_no_parts():
    rows = np.arange(10)
    assert disjoint_parts([(rows[5:], rows[:5]), (rows[:5], rows[5:])]) is not None
    assert disjoint_parts([(rows[5:], rows[:5]), (rows[4:9], rows[5:])]) is None
    assert disjoint_parts([(rows[5:], rows[:5]), (rows[5:], rows[:5])]) is None
    assert disjoint_parts([(rows[:5], rows[:5] + 20), (rows[5:], rows[:5])]) is None


@pytest.mark.parametrize("cv", [KFold(3), ShuffleSplit(3, random_state=0), LeaveOneOut()])
@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_scores_are_those_of_grid_search(cv, k, weighted):
    X, y = make_numbers(n=24, k=k)
    weight = (isinstance(cv, LeaveOneOut) + np.arange(24.0) % 4) if weighted else None
    params = {} if weight is None else {"sample_weight": weight}
    options = {"cv": cv, "scoring": "neg_mean_squared_error", "return_train_score": True}
    ours, theirs = search_both(TorchLinearRegressor(), ALPHAS, X, y, params, **options)
    assert_same(ours, theirs, atol=1e-9)


SCORINGS = [
    None,
    "r2",
    "neg_mean_squared_error",
    "neg_root_mean_squared_error",
    ["r2", "neg_mean_squared_error"],
    ["r2", "neg_mean_absolute_error"],
]


@pytest.mark.parametrize("scoring", SCORINGS, ids=str)
@pytest.mark.parametrize(
    "k, l1_ratio, fit_intercept, dtype",
    [(None, 0.4, True, np.float64), (3, 0.0, True, np.float32), (3, 0.4, False, np.float64)],
)
def test_penalties_are_scored_as_by_grid_search(scoring, k, l1_ratio, fit_intercept, dtype):
    X, y = make_numbers(n=60, k=k)
    X = (3.0 + X).astype(dtype)
    model = TorchLinearRegressor(l1_ratio=l1_ratio, fit_intercept=fit_intercept, tol=1e-9)
    cv = KFold(4, shuffle=True, random_state=0)
    options = {"cv": cv, "scoring": scoring, "return_train_score": True}
    if isinstance(scoring, list):
        options["refit"] = "r2"
    ours, theirs = search_both(model, ALPHAS, X, y, {}, **options)
    assert_same(ours, theirs, atol=1e-6)
    assert ours.converged_.all()


def test_no_fold_is_fitted_where_moments_are_enough(monkeypatch):
    def fitted(*_, **__):
        raise AssertionError

    X, y = make_numbers()
    grid = {"alpha": [1e-3, 0.1, 1.0], "l1_ratio": [0.0, 0.5]}
    with monkeypatch.context() as patch:
        patch.setattr(search, "evaluate_folds", fitted)
        patch.setattr(batched, "fit_stack", fitted)
        found = BatchedGridSearchCV(TorchLinearRegressor(), grid).fit(X, y)
    best = clone(found.best_estimator_).fit(X, y)
    np.testing.assert_allclose(found.best_estimator_.coef_, best.coef_, rtol=1e-6)
    assert found.best_estimator_.score(X, y) == pytest.approx(best.score(X, y))
    assert vars(found.best_estimator_).keys() == vars(best).keys()


@pytest.mark.parametrize(
    "change",
    [
        lambda X, y: (X, X[:, :2].sum(axis=1)),
        lambda X, y: (X, np.r_[np.zeros(20), y[20:]]),
        lambda X, y: (X + 1e6, y),
        lambda X, y: (X, y + 1e9),
        lambda X, y: (np.c_[X, X[:, 0] + 1e-7 * X[:, 1]], y),
        lambda X, y: (np.c_[X, np.ones(len(X))], y),
        lambda X, y: (X, np.full(len(X), 2.5)),
        lambda X, y: (X * 1e-170, y),
        lambda X, y: (X, y * 1e140),
    ],
    ids=[
        "no error is left",
        "targets of a fold do not vary",
        "means of 1e6",
        "the target's mean is 1e9",
        "nearly collinear",
        "constant column",
        "constant target",
        "tiny columns",
        "huge target",
    ],
)
@pytest.mark.parametrize("scoring", ["r2", "neg_mean_squared_error"])
@pytest.mark.parametrize("l1_ratio", [0.0, 1.0])
def test_where_moments_would_lose_digits(change, scoring, l1_ratio):
    X, y = change(*make_numbers(n=100))
    grid = {"alpha": [1e-12, 1e-6, 1e-2, 1.0]}
    model = TorchLinearRegressor(l1_ratio=l1_ratio, tol=1e-9)
    options = {"cv": 5, "scoring": scoring, "refit": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, theirs = search_both(model, grid, X, y, {}, **options)
    scores = (search.cv_results_["mean_test_score"] for search in (ours, theirs))
    spread = 1.0 if scoring == "r2" else y.var()
    np.testing.assert_allclose(*scores, rtol=1e-6, atol=1e-6 * spread)


def test_a_weighted_search_is_refitted_with_the_weights():
    X, y = make_numbers()
    weight = np.arange(len(X)) % 3.0
    found = BatchedGridSearchCV(TorchLinearRegressor(), ALPHAS).fit(X, y, sample_weight=weight)
    best = clone(found.best_estimator_).fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(found.best_estimator_.coef_, best.coef_, rtol=1e-9)


def test_the_refit_of_a_talkative_estimator_is_heard(capsys):
    BatchedGridSearchCV(TorchLinearRegressor(verbose=1), ALPHAS).fit(*make_numbers())
    assert "loss" in capsys.readouterr().out
