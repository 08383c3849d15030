"""Least squares on float32 tables that are too large to be trained in double precision."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score

from skorchless import BatchedGridSearchCV, TorchLinearRegressor

#: How far an objective may be above its minimum, relative to it: the rounding of the dtype.
ROUNDING = 2.0 * float(np.finfo(np.float32).eps)


@pytest.fixture(autouse=True)
def _large(monkeypatch):
    monkeypatch.setattr("skorchless.estimators.limits.DOUBLE_NUMBERS", 0)
    monkeypatch.setattr("skorchless.data.limits.CHUNK_BYTES", 2**14)


def draw(n=6000, d=12, condition=1e2, offset=0.0, outputs=2):
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(d, d)))
    X = (rng.normal(size=(n, d)) * np.geomspace(1.0, 1.0 / condition, d)) @ basis
    X = (X + offset * X.std(axis=0)).astype(np.float32)
    y = X @ rng.normal(size=(d, outputs)) + rng.normal(size=(n, outputs)) + 3.0
    return X, y.astype(np.float32), rng.integers(1, 5, n).astype(float)


def objective(X, y, weight, alpha, coef, intercept):
    rest = X.astype(np.float64) @ coef.T.astype(np.float64) + intercept - y
    losses = np.square(rest).sum(axis=1)
    penalty = np.square(coef.astype(np.float64)).sum()
    return 0.5 * np.average(losses, weights=weight) + 0.5 * alpha * penalty


def assert_solved(model, X, y, weight=None):
    """The returned coefficients are at the minimum, as far as their dtype can tell."""
    total = len(X) if weight is None else weight.sum()
    size, wide = np.float64(np.abs(X).max()), y.astype(np.float64)
    ridge = Ridge(model.alpha * total / size**2, fit_intercept=model.fit_intercept, solver="svd")
    ridge.fit(X / size, wide, sample_weight=weight)
    rest = X, y, weight, model.alpha
    least = objective(*rest, ridge.coef_ / size, ridge.intercept_)
    assert objective(*rest, model.coef_, model.intercept_) - least <= ROUNDING * least
    assert model.loss_curve_[-1] == pytest.approx(least, rel=10 * ROUNDING)
    assert model.converged_
    assert model.coef_.dtype == np.float32


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 1e-3])
@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_the_minimum_is_reached_to_rounding(offset, alpha, fit_intercept, weighted):
    X, y, weight = draw(offset=offset)
    weight = weight if weighted else None
    model = TorchLinearRegressor(alpha=alpha, fit_intercept=fit_intercept).fit(X, y, weight)
    assert_solved(model, X, y, weight)
    assert model.n_iter_ == len(model.loss_curve_) == 1


@pytest.mark.parametrize("condition", [1e3, 1e4])
def test_refinement_goes_on_where_products_are_too_coarse(condition):
    X, y, _ = draw(condition=condition)
    assert_solved(TorchLinearRegressor().fit(X, y), X, y)


def test_means_of_many_deviations():
    X, y, _ = draw(offset=1e3, condition=3.0)
    assert_solved(TorchLinearRegressor().fit(X, y), X, y)


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15, 1e25])
def test_numbers_whose_squares_leave_the_range_of_single_precision(scale):
    X, y, _ = draw(condition=3.0)
    X = X * np.float32(scale)
    assert_solved(TorchLinearRegressor().fit(X, y), X, y)


def test_dependent_and_constant_columns():
    X, y, _ = draw(condition=3.0)
    X = np.hstack([X, X[:, :1] + X[:, 1:2], np.full_like(X[:, :1], 3.0)])
    model = TorchLinearRegressor().fit(X, y)
    alone = TorchLinearRegressor().fit(X[:, :12], y)
    assert model.converged_
    assert model.loss_curve_[-1] <= (1.0 + ROUNDING) * alone.loss_curve_[-1]


def test_targets_without_variance():
    X, y, _ = draw()
    model = TorchLinearRegressor().fit(X, np.full_like(y, 3.0))
    assert model.converged_
    np.testing.assert_array_equal(model.coef_, 0.0)
    np.testing.assert_array_equal(model.intercept_, 3.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_named_in_scikit_learns_words(bad):
    X, y, _ = draw()
    X[17, 3] = bad
    with pytest.raises(ValueError) as theirs:
        Ridge().fit(X, y)
    with pytest.raises(ValueError) as ours:
        TorchLinearRegressor().fit(X, y)
    first, *_ = str(theirs.value).splitlines()
    assert str(ours.value).splitlines()[0] == first


def test_numbers_whose_sum_leaves_the_range_are_finite():
    X, y, _ = draw(condition=3.0)
    X = X / np.abs(X).max() * np.float32(3e38)
    assert not np.isinf(X).any()
    TorchLinearRegressor().fit(X, y)


def test_candidates_of_a_search_that_moments_do_not_solve():
    """Nearly the same columns leave too few digits, so these candidates are fitted as a stack."""
    X, y, _ = draw()
    X[:, 1] = X[:, 0] + 1e-4 * X[:, 1]
    grid = {"alpha": [1e-12, 1e-11, 1e-10]}
    search = BatchedGridSearchCV(TorchLinearRegressor(), grid, cv=2, refit=False).fit(X, y)
    assert search.converged_.all()
    for alpha, score in zip(grid["alpha"], search.cv_results_["mean_test_score"], strict=True):
        alone = cross_val_score(TorchLinearRegressor(alpha=alpha), X, y, cv=2)
        assert score == pytest.approx(alone.mean(), abs=1e-6)


def test_a_light_outlier_in_the_first_row():
    X, y, _ = draw(outputs=1)
    plain = TorchLinearRegressor().fit(X[1:], y[1:, 0])
    weight = np.ones(len(X))
    y[0], weight[0] = 1e10, 1e-20
    model = TorchLinearRegressor().fit(X, y[:, 0], weight)
    np.testing.assert_allclose(model.coef_, plain.coef_, rtol=1e-3)
