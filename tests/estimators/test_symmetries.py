"""What happens to the data happens to the coefficients."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier

TIGHT = {"alpha": 0.1, "tol": 1e-13}
both = pytest.mark.parametrize("Estimator", [TorchLinearRegressor, TorchSoftmaxClassifier])
penalties = pytest.mark.parametrize("l1_ratio", [0.0, 0.5])
seeds = st.integers(0, 2**16)


def make(Estimator, seed, n=40, d=5):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    y = X @ rng.normal(size=(d, 3)) + rng.gumbel(size=(n, 3))
    if Estimator is TorchLinearRegressor:
        return X, y[:, 0]
    labels = y.argmax(axis=1)
    labels[:3] = [0, 1, 2]
    return X, labels


def assert_same(actual, desired):
    assert_allclose(actual, desired, rtol=1e-6, atol=1e-6)


@both
@penalties
@given(seed=seeds, order=st.permutations(range(5)))
def test_permuting_columns_permutes_coefficients(Estimator, l1_ratio, seed, order):
    X, y = make(Estimator, seed)
    model = Estimator(l1_ratio=l1_ratio, **TIGHT).fit(X, y)
    permuted = Estimator(l1_ratio=l1_ratio, **TIGHT).fit(X[:, order], y)
    assert_same(permuted.coef_, model.coef_[..., order])
    assert_same(permuted.predict(X[:, order]), model.predict(X))


@both
@given(seed=seeds)
def test_permuting_rows_changes_nothing(Estimator, seed):
    X, y = make(Estimator, seed)
    order = np.random.default_rng(seed).permutation(len(X))
    model, permuted = Estimator(**TIGHT).fit(X, y), Estimator(**TIGHT).fit(X[order], y[order])
    assert_same(permuted.coef_, model.coef_)


@both
@penalties
@given(seed=seeds, times=st.integers(2, 4))
def test_repeating_all_rows_changes_nothing(Estimator, l1_ratio, seed, times):
    X, y = make(Estimator, seed)
    model = Estimator(l1_ratio=l1_ratio, **TIGHT).fit(X, y)
    repeated = Estimator(l1_ratio=l1_ratio, **TIGHT).fit(np.tile(X, (times, 1)), np.tile(y, times))
    assert_same(repeated.coef_, model.coef_)


@both
@given(seed=seeds, column=st.integers(0, 4))
def test_a_column_given_twice_shares_its_coefficient(Estimator, seed, column):
    X, y = make(Estimator, seed)
    model = Estimator(**TIGHT).fit(np.column_stack([X, X[:, column]]), y)
    assert_same(model.coef_[..., -1], model.coef_[..., column])


@both
@penalties
@given(seed=seeds, shift=st.lists(st.floats(-1e3, 1e3), min_size=5, max_size=5))
def test_shifting_columns_changes_no_coefficient(Estimator, l1_ratio, seed, shift):
    X, y = make(Estimator, seed)
    model = Estimator(l1_ratio=l1_ratio, **TIGHT).fit(X, y)
    shifted = Estimator(l1_ratio=l1_ratio, **TIGHT).fit(X + shift, y)
    assert_same(shifted.coef_, model.coef_)
    score = "decision_function" if Estimator is TorchSoftmaxClassifier else "predict"
    raw, raw_shifted = getattr(model, score)(X), getattr(shifted, score)(X + shift)
    if raw.ndim == 2:  # the logits of a row share a free constant
        raw, raw_shifted = raw - raw[:, :1], raw_shifted - raw_shifted[:, :1]
    assert_allclose(raw_shifted, raw, rtol=1e-5, atol=1e-5)


@penalties
@given(seed=seeds, shift=st.floats(-1e3, 1e3))
@pytest.mark.parametrize("loss", ["squared_error", "huber"])
def test_shifting_y_shifts_the_intercept(loss, l1_ratio, seed, shift):
    X, y = make(TorchLinearRegressor, seed)
    model = TorchLinearRegressor(loss=loss, l1_ratio=l1_ratio, **TIGHT).fit(X, y)
    shifted = TorchLinearRegressor(loss=loss, l1_ratio=l1_ratio, **TIGHT).fit(X, y + shift)
    assert_same(shifted.coef_, model.coef_)
    assert_same(shifted.intercept_, model.intercept_ + shift)


@given(seed=seeds, factor=st.floats(1e-6, 1e6))
def test_scaling_y_scales_the_model(seed, factor):
    X, y = make(TorchLinearRegressor, seed)
    model = TorchLinearRegressor(**TIGHT).fit(X, y)
    scaled = TorchLinearRegressor(**TIGHT).fit(X, factor * y)
    assert_same(scaled.coef_ / factor, model.coef_)
    assert_same(scaled.intercept_ / factor, model.intercept_)


@both
@given(seed=seeds, scales=st.lists(st.floats(1e-4, 1e4), min_size=5, max_size=5))
def test_scaling_columns_without_a_penalty_scales_coefficients(Estimator, seed, scales):
    X, y = make(Estimator, seed, n=120)
    model = Estimator(alpha=0, tol=1e-13).fit(X, y)
    scaled = Estimator(alpha=0, tol=1e-13).fit(X * scales, y)
    assert_allclose(scaled.coef_ * scales, model.coef_, rtol=1e-5, atol=1e-5)


@given(seed=seeds, order=st.permutations(range(3)))
def test_renaming_classes_renames_rows_of_coefficients(seed, order):
    X, y = make(TorchSoftmaxClassifier, seed)
    renamed = np.array(order)[y]
    model = TorchSoftmaxClassifier(**TIGHT).fit(X, y)
    other = TorchSoftmaxClassifier(**TIGHT).fit(X, renamed)
    assert_same(other.coef_[order], model.coef_)
    assert_same(other.predict_proba(X)[:, order], model.predict_proba(X))


@given(seed=seeds)
def test_swapping_two_classes_turns_the_sign(seed):
    X, y = make(TorchSoftmaxClassifier, seed)
    one = TorchSoftmaxClassifier(**TIGHT).fit(X, y == 0)
    other = TorchSoftmaxClassifier(**TIGHT).fit(X, y != 0)
    assert_same(other.coef_, -one.coef_)
    assert_same(other.intercept_, -one.intercept_)
    assert_array_equal(other.predict(X), ~one.predict(X))


@given(seed=seeds)
def test_targets_of_least_squares_do_not_touch_each_other(seed):
    X, first = make(TorchLinearRegressor, seed)
    second = 100 * first[::-1] ** 2
    together = TorchLinearRegressor(**TIGHT).fit(X, np.column_stack([first, second]))
    for column, y in enumerate([first, second]):
        assert_same(together.coef_[column], TorchLinearRegressor(**TIGHT).fit(X, y).coef_)
