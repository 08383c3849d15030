"""Learning from rows as they come."""

import pickle
from functools import partial

import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_array_equal
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.metrics import log_loss, r2_score
from sklearn.preprocessing import StandardScaler

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier


def classes_for(Estimator):
    return {} if Estimator is TorchLinearRegressor else {"classes": [0, 1, 2]}


@pytest.mark.parametrize("optimizer", ["auto", "sgd", "adam"])
def test_raw_columns_are_learnt_chunk_by_chunk(Estimator, make_data, optimizer):
    Z, y = make_data(n=3000, d=5)
    X = Z * np.geomspace(1e-3, 1e3, 5) + [0.0, 5.0, -100.0, 0.0, 1e4]
    model = Estimator(optimizer=optimizer, random_state=0)
    for _ in range(5):
        for chunk in np.split(np.arange(3000), 10):
            model.partial_fit(X[chunk], y[chunk], **classes_for(Estimator))
    whole = Estimator().fit(X, y)
    assert model.score(X, y) > whole.score(X, y) - 0.02
    assert model.n_iter_ == model.best_iter_ == len(model.loss_curve_) == 50


def test_targets_in_any_units_are_learnt_chunk_by_chunk():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 3))
    Y = (X @ rng.normal(size=(3, 2)) + [0.0, 1000.0]) * [1.0, 1e3]
    model = TorchLinearRegressor(random_state=0)
    for _ in range(10):
        for chunk in np.split(np.arange(2000), 5):
            model.partial_fit(X[chunk], Y[chunk])
    assert (r2_score(Y, model.predict(X), multioutput="raw_values") > 0.9).all()


def test_an_automatic_pass_survives_columns_that_drift(Estimator, make_data):
    """Statistics run on: a chunk of another scale must not throw the model off."""
    Z, y = make_data(n=2000, d=3)
    model = Estimator(random_state=0)
    shifts = np.linspace(0, 50, 10)
    for shift, chunk in zip(shifts, np.split(np.arange(2000), 10), strict=True):
        for _ in range(5):
            model.partial_fit(Z[chunk] * (1 + shift), y[chunk], **classes_for(Estimator))
    assert np.isfinite(model.coef_).all()
    assert np.isfinite(model.loss_curve_).all()


def test_a_column_that_is_constant_at_first_is_learnt_later():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 2))
    y = X @ [1.0, 2.0]
    model = TorchLinearRegressor(random_state=0)
    first = X[:200] * [1, 0] + [0, 5]
    model.partial_fit(first, first @ [1.0, 2.0])
    for _ in range(60):
        model.partial_fit(X, y)
    assert model.score(X, y) > 0.99


def test_classes_may_arrive_one_by_one():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 100)
    X = rng.normal(size=(300, 2)) + 4 * np.array([[0, 0], [1, 0], [0, 1]])[y]
    model = TorchSoftmaxClassifier(random_state=0)
    for _ in range(60):
        for label in range(3):
            model.partial_fit(X[y == label], y[y == label], classes=[0, 1, 2])
    assert model.classes_.tolist() == [0, 1, 2]
    assert model.score(X, y) > 0.9


def test_weights_count_in_a_pass(Estimator, data):
    X, y = data
    weight = np.arange(len(X)) % 3
    model = Estimator(batch_size=None, random_state=0)
    model.partial_fit(X, y, weight, **classes_for(Estimator))
    repeated = Estimator(batch_size=None, random_state=0)
    repeated.partial_fit(X.repeat(weight, 0), y.repeat(weight), **classes_for(Estimator))
    np.testing.assert_allclose(model.coef_, repeated.coef_, rtol=1e-9)


def test_class_weights_count_in_a_pass():
    X = np.random.default_rng(0).normal(size=(60, 3))
    y = np.arange(60) % 2
    sgd = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": None}
    by_class = TorchSoftmaxClassifier(class_weight={0: 1, 1: 3}, **sgd)
    by_class.partial_fit(X, y, classes=[0, 1])
    by_row = TorchSoftmaxClassifier(**sgd).partial_fit(X, y, 1 + 2 * y, classes=[0, 1])
    np.testing.assert_allclose(by_class.coef_, by_row.coef_, rtol=1e-12)


def test_passes_go_on_from_a_fit(Estimator, data):
    X, y = data
    sgd = {"optimizer": "sgd", "learning_rate": 0.05, "batch_size": None, "tol": None}
    model = Estimator(max_iter=4, **sgd).fit(X, y)
    model.partial_fit(X, y).partial_fit(X, y)
    whole = Estimator(max_iter=6, **sgd).fit(X, y)
    np.testing.assert_allclose(model.coef_, whole.coef_, rtol=1e-12)
    np.testing.assert_allclose(model.loss_curve_, whole.loss_curve_, rtol=1e-12)
    assert model.n_iter_ == 6


def test_a_rate_that_is_changed_between_two_passes_is_obeyed(Estimator, data):
    X, y = data
    sgd = {"optimizer": "sgd", "batch_size": None}
    model = Estimator(learning_rate=0.1, **sgd).partial_fit(X, y, **classes_for(Estimator))
    start = {"coef_init": model.coef_, "intercept_init": model.intercept_}
    model.set_params(learning_rate=0.01).partial_fit(X, y)
    step = Estimator(learning_rate=0.01, max_iter=1, tol=None, **sgd).fit(X, y, **start)
    assert model.learning_rate_ == 0.01
    np.testing.assert_allclose(model.coef_, step.coef_, rtol=1e-12)


@pytest.mark.parametrize("change", ["sgd to adam", "adam to sgd", "auto to adam", "auto to sgd"])
def test_an_optimizer_that_is_changed_between_two_passes_starts_afresh(Estimator, data, change):
    X, y = data
    before, after = change.split(" to ")
    rate = "auto" if before == "auto" else 0.01
    model = Estimator(optimizer=before, learning_rate=rate, batch_size=None)
    model.partial_fit(X, y, **classes_for(Estimator))
    start = {"coef_init": model.coef_, "intercept_init": model.intercept_}
    model.set_params(optimizer=after, learning_rate=0.02).partial_fit(X, y)
    step = Estimator(
        optimizer=after, learning_rate=0.02, batch_size=None, max_iter=1, tol=None
    ).fit(X, y, **start)
    np.testing.assert_allclose(model.coef_, step.coef_, rtol=1e-12)


def test_early_stopping_has_no_place_in_a_pass(Estimator, data):
    model = Estimator(early_stopping=True)
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        model.partial_fit(*data, **classes_for(Estimator))


def test_balanced_classes_have_no_place_in_a_pass(data):
    model = TorchSoftmaxClassifier(class_weight="balanced")
    with pytest.raises(ValueError, match="partial_fit does not support class_weight='balanced'"):
        model.partial_fit(np.eye(3), [0, 1, 2], classes=[0, 1, 2])


def test_the_first_pass_needs_the_classes():
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        TorchSoftmaxClassifier().partial_fit(np.eye(3), [0, 1, 2])


def test_the_number_of_classes_is_no_list_of_them():
    with pytest.raises(ValueError, match=r"classes must list the labels, such as \[0, 1, 2\]"):
        TorchSoftmaxClassifier().partial_fit(np.eye(3), [0, 1, 2], classes=3)


def test_the_classes_may_be_said_again_but_not_changed():
    X, y = np.eye(3), [0, 1, 2]
    model = TorchSoftmaxClassifier().partial_fit(X, y, classes=[2, 1, 0])
    assert model.partial_fit(X, y, classes=np.array([0, 1, 2])).n_iter_ == 2
    with pytest.raises(ValueError, match="is not the same as on last call to partial_fit, was"):
        model.partial_fit(X, y, classes=[0, 1, 2, 3])
    assert model.n_iter_ == 2


def test_a_pass_after_a_failed_one_is_as_if_nothing_had_happened(Estimator, data):
    X, y = data
    model = Estimator(optimizer="sgd", learning_rate=0.01, batch_size=16, random_state=0)
    model.partial_fit(X, y, **classes_for(Estimator))
    with pytest.raises(ValueError, match="NaN"):
        model.partial_fit(np.full_like(X, np.nan), y)
    model.partial_fit(X, y)
    steady = Estimator(optimizer="sgd", learning_rate=0.01, batch_size=16, random_state=0)
    steady.partial_fit(X, y, **classes_for(Estimator)).partial_fit(X, y)
    assert_array_equal(model.coef_, steady.coef_)


@pytest.mark.parametrize("rate", ["auto", 0.01])
def test_a_model_may_be_put_aside_between_two_chunks(Estimator, make_data, rate):
    X, y = make_data(n=1000)
    model = Estimator(optimizer="adam", learning_rate=rate, random_state=0)
    steady = Estimator(optimizer="adam", learning_rate=rate, random_state=0)
    for chunk in np.split(np.arange(1000), 5):
        steady.partial_fit(X[chunk], y[chunk], **classes_for(Estimator))
        model.partial_fit(X[chunk], y[chunk], **classes_for(Estimator))
        model = pickle.loads(pickle.dumps(model))
    assert_array_equal(model.coef_, steady.coef_)


@pytest.mark.parametrize("order", ["at random", "sorted by y"])
def test_chunks_of_raw_columns_are_learnt_better_than_by_sgd_on_standardised_ones(
    Estimator, make_data, order
):
    Z, y = make_data(n=10_000, d=10)
    X = Z * np.geomspace(1e-3, 1e3, 10) + np.geomspace(1e2, 1e-2, 10)
    Z = StandardScaler().fit_transform(X)
    index = np.argsort(y, kind="stable") if order == "sorted by y" else np.arange(len(y))
    ours = Estimator(alpha=0.0, random_state=0)
    regression = Estimator is TorchLinearRegressor
    theirs = SGDRegressor if regression else partial(SGDClassifier, loss="log_loss")
    theirs = theirs(random_state=0)
    for chunk in np.array_split(index, 100):
        ours.partial_fit(X[chunk], y[chunk], **classes_for(Estimator))
        theirs.partial_fit(Z[chunk], y[chunk], **classes_for(Estimator))

    def loss(model, X):
        if regression:
            return np.mean((model.predict(X) - y) ** 2)
        return log_loss(y, model.predict_proba(X))

    assert loss(ours, X) < loss(theirs, Z)


@pytest.mark.parametrize("rows_a_call", [100, 1000, 4000])
@pytest.mark.parametrize("kind", ["many", "rare", "sparse"])
def test_a_few_steps_over_many_columns_are_no_worse_than_none(kind, rows_a_call):
    """Adam's steps, all of one length, ended at up to a hundred times the constant's error."""
    rng = np.random.default_rng(0)
    n, d = 4000, 2000 if kind == "sparse" else 300
    X = rng.normal(size=(n, d))
    if kind != "many":
        X = (rng.random((n, d)) < 0.9 / np.arange(1, d + 1)) * np.abs(X)
    y = X @ rng.normal(size=d) + rng.normal(size=n)
    rows = scipy.sparse.csr_array(X) if kind == "sparse" else X
    model = TorchLinearRegressor(random_state=0)
    for start in range(0, n, rows_a_call):
        model.partial_fit(rows[start : start + rows_a_call], y[start : start + rows_a_call])
    assert r2_score(y, model.predict(X)) > (0.2 if rows_a_call == 100 else -0.2)


@pytest.mark.parametrize("unit", [2.0**-70, 2.0**70])
def test_units_of_targets_are_nothing_but_units(unit):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3))
    y = X @ [1.0, -2.0, 0.5] + rng.normal(size=400)
    model, scaled = (TorchLinearRegressor(random_state=0) for _ in range(2))
    for chunk in np.split(np.arange(400), 4):
        model.partial_fit(X[chunk], y[chunk])
        scaled.partial_fit(X[chunk], unit * y[chunk])
    np.testing.assert_allclose(scaled.coef_, unit * model.coef_, rtol=1e-12)


def test_targets_whose_first_chunks_hardly_vary_are_learnt():
    """The rate goes by the deviation of all targets so far, not by one chunk's."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(5000, 3))
    y = 100.0 * X @ [1.0, -2.0, 0.5] + rng.normal(size=5000)
    model = TorchLinearRegressor(random_state=0).partial_fit(X[:50], 1e-3 * y[:50])
    for chunk in np.split(np.arange(5000), 20) * 5:
        model.partial_fit(X[chunk], y[chunk])
    assert model.score(X, y) > 0.95


def test_what_is_remembered_grows_with_columns_not_with_rows(Estimator, make_data):
    def size(n):
        model = Estimator().partial_fit(*make_data(n=n), **classes_for(Estimator))
        return len(pickle.dumps(model))

    assert size(5000) <= size(500) + 16


def left_to_learn(model, first, X, y, n_chunks=100):
    """After `first` and then X in chunks: the excess loss, as a share of a constant model's."""
    model.partial_fit(*first, **classes_for(type(model)))
    for chunk in np.array_split(np.arange(len(y)), n_chunks):
        model.partial_fit(X[chunk], y[chunk])

    def loss(model, X):
        if isinstance(model, TorchLinearRegressor):
            return np.mean((model.predict(X) - y) ** 2)
        return log_loss(y, model.predict_proba(X))

    best = loss(type(model)(alpha=0.0).fit(X, y), X)
    constant = loss(type(model)(alpha=0.0).fit(0 * X, y), X)
    return (loss(model, X) - best) / (constant - best)


@pytest.mark.parametrize("optimizer", ["auto", "sgd"])
@pytest.mark.parametrize(("first", "most"), [("hardly varies", 0.3), ("is far away", 1.5)])
def test_a_first_chunk_unlike_all_others_does_no_lasting_harm(
    Estimator, make_data, first, most, optimizer
):
    """If it is far away, the others hardly vary beside it, and little can be learnt from them."""
    X, y = make_data(n=10_000, d=20)
    start = X[:100] * 1e-6 if first == "hardly varies" else X[:100] + 1e4
    model = Estimator(optimizer=optimizer, random_state=0)
    assert left_to_learn(model, (start, y[:100]), X, y) < most


@pytest.mark.parametrize("optimizer", ["auto", "sgd"])
def test_a_first_row_does_not_decide_on_the_rate(Estimator, make_data, optimizer):
    """It shows no curvature; of columns that are nearly the same there is a lot."""
    Z, y = make_data(n=10_000, d=30)
    X = Z + 30.0 * Z[:, :1]
    model = Estimator(optimizer=optimizer, random_state=0)
    assert left_to_learn(model, (X[:1], y[:1]), X, y) < 2.0
