"""Where training starts: at zero, at given coefficients, or where it ended last time."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError

from skorchless import TorchLinearRegressor

SGD = {"optimizer": "sgd", "learning_rate": 0.05, "batch_size": None, "tol": None}


def flat(model):
    return np.append(model.coef_, model.intercept_)


def start_of(Estimator, number):
    if Estimator is TorchLinearRegressor:
        return {"coef_init": np.full(4, number), "intercept_init": number}
    return {"coef_init": np.full((3, 4), number), "intercept_init": np.full(3, number)}


def test_it_starts_at_zero(Estimator, data):
    X, y = data
    model = Estimator(max_iter=3, **SGD)
    assert_array_equal(model.fit(X, y).coef_, model.fit(X, y, **start_of(Estimator, 0.0)).coef_)


@pytest.mark.parametrize("optimizer", ["auto", "sgd", "adam"])
def test_it_starts_where_it_is_told(Estimator, data, optimizer):
    X, y = data
    optimum = Estimator(alpha=0.1, tol=1e-12).fit(X, y)
    batches = {} if optimizer == "auto" else {"batch_size": None}
    model = Estimator(alpha=0.1, optimizer=optimizer, max_iter=1, tol=None, **batches)
    model.fit(X, y, coef_init=optimum.coef_, intercept_init=optimum.intercept_)
    assert model.loss_curve_[0] == pytest.approx(optimum.loss_curve_[-1], rel=1e-10)
    assert model.n_iter_ == 1


def test_the_intercept_alone_may_be_told(Estimator, data):
    X, y = data
    intercept = start_of(Estimator, 0.7)["intercept_init"]
    model = Estimator(max_iter=3, **SGD).fit(X, y, intercept_init=intercept)
    both = Estimator(max_iter=3, **SGD)
    both.fit(X, y, coef_init=start_of(Estimator, 0.0)["coef_init"], intercept_init=intercept)
    assert_array_equal(flat(model), flat(both))


def test_a_start_may_be_a_scikit_learn_model(Estimator, data):
    X, y = data
    other = Estimator().fit(X, y).to_sklearn()
    model = Estimator(max_iter=1, **SGD)
    model.fit(X, y, coef_init=other.coef_, intercept_init=other.intercept_)
    assert np.abs(flat(model) - np.append(other.coef_, other.intercept_)).max() < 0.01


def test_any_start_ends_at_the_same_optimum(Estimator, data):
    X, y = data
    model = Estimator(alpha=0.1, tol=1e-12)
    coef = model.fit(X, y).coef_
    far = model.fit(X, y, **start_of(Estimator, 10.0)).coef_
    assert_allclose(far, coef, rtol=1e-6, atol=1e-6)


def test_a_cold_fit_forgets_the_last_one(Estimator, data):
    X, y = data
    model = Estimator(max_iter=3, **SGD)
    first = flat(model.fit(X, y))
    assert_array_equal(flat(model.fit(X, y)), first)


def test_a_warm_fit_goes_on(Estimator, data):
    X, y = data
    warm = Estimator(max_iter=3, warm_start=True, **SGD).fit(X, y).fit(X, y)
    whole = Estimator(max_iter=6, **SGD).fit(X, y)
    assert_allclose(flat(warm), flat(whole), rtol=1e-12)
    assert_allclose(warm.loss_curve_, whole.loss_curve_[3:], rtol=1e-12)
    assert warm.n_iter_ == 3


def test_a_warm_fit_starts_with_fresh_optimizer_state(Estimator, data):
    X, y = data
    momentum = {**SGD, "momentum": 0.9}
    warm = Estimator(max_iter=3, warm_start=True, **momentum).fit(X, y)
    half = {"coef_init": warm.coef_, "intercept_init": warm.intercept_}
    warm.fit(X, y)
    assert_array_equal(flat(warm), flat(Estimator(max_iter=3, **momentum).fit(X, y, **half)))


def test_a_warm_fit_at_the_optimum_stays_there(Estimator, data):
    X, y = data
    model = Estimator(alpha=0.1, warm_start=True).fit(X, y)
    n_iter, coef = model.n_iter_, model.coef_
    assert model.fit(X, y).n_iter_ <= min(n_iter, 3)
    assert_allclose(model.coef_, coef, rtol=0.01, atol=0.01)


def test_a_path_of_penalties_by_warm_starts(Estimator, data):
    X, y = data
    warm = Estimator(l1_ratio=1.0, warm_start=True, tol=1e-10)
    for alpha in (0.3, 0.1, 0.03):
        warm.set_params(alpha=alpha).fit(X, y)
        cold = Estimator(alpha=alpha, l1_ratio=1.0, tol=1e-10).fit(X, y)
        assert_allclose(warm.coef_, cold.coef_, rtol=1e-4, atol=1e-4)
        assert_array_equal(warm.coef_ == 0, cold.coef_ == 0)


def test_given_coefficients_win_over_a_warm_start(Estimator, data):
    X, y = data
    start = start_of(Estimator, 0.3)
    warm = Estimator(max_iter=3, warm_start=True, **SGD).fit(X, y).fit(X, y, **start)
    assert_array_equal(flat(warm), flat(Estimator(max_iter=3, **SGD).fit(X, y, **start)))


def test_warm_starts_may_change_precision(Estimator, make_data):
    X, y = make_data(dtype=np.float64)
    model = Estimator(warm_start=True).fit(X, y)
    assert model.fit(X.astype(np.float32), y).coef_.dtype == np.float32


def test_a_warm_start_needs_no_more_than_coefficients(Estimator, data):
    X, y = data
    coef = Estimator(alpha=0.1).fit(X, y).coef_ + 0.1
    model = Estimator(warm_start=True, max_iter=3, **SGD)
    model.coef_ = coef
    plain = Estimator(max_iter=3, **SGD).fit(X, y, coef_init=coef)
    assert_array_equal(flat(model.fit(X, y)), flat(plain))


def test_one_pass_goes_on_from_coefficients_that_were_set(Estimator, data):
    X, y = data
    classes = {} if Estimator is TorchLinearRegressor else {"classes": np.unique(y)}
    coef = Estimator(alpha=0.1).fit(X, y).coef_ + 0.1
    model = Estimator(**SGD)
    model.coef_ = coef
    plain = Estimator(max_iter=1, **SGD).fit(X, y, coef_init=coef)
    assert_array_equal(flat(model.partial_fit(X, y, **classes)), flat(plain))
    again = Estimator(max_iter=2, **SGD).fit(X, y, coef_init=coef)
    assert_array_equal(flat(model.partial_fit(X, y)), flat(again))


@pytest.mark.parametrize("missing", ["intercept_", "coef_", "classes_"])
def test_predicting_needs_all_that_a_fit_sets(Estimator, data, missing):
    X, y = data
    model = Estimator().fit(X, y)
    if hasattr(model, missing):
        delattr(model, missing)
        for call in (lambda: model.predict(X), model.to_sklearn, model.to_torch):
            with pytest.raises(NotFittedError, match=f"This {Estimator.__name__} instance"):
                call()


def test_a_start_that_is_replaced_costs_least_squares_no_accuracy_of_their_hessian():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 5))
    y = X.sum(axis=1) + rng.normal(size=len(X))
    model = TorchLinearRegressor().fit(X, y, coef_init=np.full(5, 1e3))
    assert model.n_iter_ == 1
