"""Rates, schedules and tolerances of the textbook rules, as users meet them."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import r2_score

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier

SCHEDULES = {
    "constant": lambda e: 1.0,
    "invscaling": lambda e: 1 / np.sqrt(1 + e),
    "cosine": lambda e: (1 + np.cos(np.pi * e / 12)) / 2,
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_rate_follows_its_schedule(schedule):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50, 3)), rng.normal(size=50)
    w, b = np.zeros(3), 0.0
    for epoch in range(12):
        for batch in np.split(np.arange(50), [20, 40]):
            error = X[batch] @ w + b - y[batch]
            rate = 0.1 * SCHEDULES[schedule](epoch) / len(batch)
            w, b = w - rate * X[batch].T @ error, b - rate * error.sum()

    model = TorchLinearRegressor(
        optimizer="sgd",
        learning_rate=0.1,
        schedule=schedule,
        batch_size=20,
        max_iter=12,
        tol=None,
        shuffle=False,
    ).fit(X, y)
    assert_allclose(model.coef_, w, rtol=1e-11)
    assert_allclose(model.intercept_, b, rtol=1e-11)
    assert model.learning_rate_ == 0.1


def printed_rates(text):
    words = [line.split() for line in text.splitlines()]
    return np.array([float(line[line.index("rate") + 1]) for line in words])


def test_an_adaptive_rate_is_divided_by_five_on_each_plateau(Estimator, data, capsys):
    X, y = data
    adaptive = {"schedule": "adaptive", "learning_rate": 0.5, "batch_size": 8, "random_state": 0}
    model = Estimator(optimizer="sgd", tol=1e-3, verbose=2, **adaptive).fit(X, y)
    rates = printed_rates(capsys.readouterr().out)
    assert len(rates) == model.n_iter_ < model.max_iter
    assert rates[0] == model.learning_rate_ == 0.5
    steps = rates[1:] / rates[:-1]
    assert set(steps.round(2)) == {1.0, 0.2}
    assert 1e-6 <= rates[-1] < 5e-6
    # Each rate is given its time.
    changes = np.flatnonzero(steps < 1) + 1
    assert (np.diff([0, *changes, len(rates)]) >= model.n_iter_no_change).all()


def test_an_adaptive_rate_ends_nearer_to_the_optimum(Estimator, data):
    X, y = data
    optimum = Estimator(alpha=0.01, tol=1e-10).fit(X, y)

    def distance(schedule):
        model = Estimator(
            alpha=0.01,
            optimizer="sgd",
            learning_rate=0.2,
            schedule=schedule,
            batch_size=8,
            n_iter_no_change=20,
            random_state=0,
        ).fit(X, y)
        return np.linalg.norm(model.coef_ - optimum.coef_)

    assert distance("adaptive") < 0.5 * distance("constant")


def entropy(y):
    shares = np.bincount(y) / len(y)
    return -(shares * np.log(shares)).sum()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("tol", "patience"), [(1e-2, 3), (1e-4, 5), (0.0, 2)])
def test_it_stops_when_the_loss_has_not_improved_for_long_enough(
    Estimator, data, optimizer, tol, patience
):
    X, y = data
    model = Estimator(
        optimizer=optimizer,
        learning_rate=0.1,
        batch_size=16,
        tol=tol,
        n_iter_no_change=patience,
        random_state=0,
    ).fit(X, y)
    threshold = tol * (np.var(y) / 2 if Estimator is TorchLinearRegressor else entropy(y))
    best, waited = np.inf, []
    for loss in model.loss_curve_:
        improved = loss < best - threshold
        waited.append(0 if improved else waited[-1] + 1)
        best = loss if improved else best
    assert waited[-1] == patience
    assert max(waited[:-1]) < patience


@pytest.mark.parametrize("loss", ["squared_error", "huber"])
def test_tol_is_relative_to_the_best_constant_model(loss):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 3))
    y = X @ [1.0, 2.0, 3.0] + rng.normal(size=90) + 1000
    sgd = {"optimizer": "sgd", "learning_rate": 0.1, "random_state": 0}

    def passes(factor):
        unit = {"delta": factor} if loss == "huber" else {}
        model = TorchLinearRegressor(loss=loss, max_iter=10**5, **unit, **sgd)
        return model.fit(X, factor * y, intercept_init=factor * 1000).n_iter_

    assert passes(1.0) == passes(2.0**-20) == passes(2.0**20)


@pytest.mark.parametrize("l1_ratio", [0.0, 0.5])
@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6])
def test_the_tuning_free_rule_ends_about_as_near_to_the_optimum_as_tol_says(
    Estimator, make_data, tol, l1_ratio
):
    X, y = make_data(n=400)
    X = X * np.geomspace(0.1, 10, 4) + 5
    parameters = {"alpha": 1e-3, "l1_ratio": l1_ratio}
    if Estimator is TorchLinearRegressor:
        parameters["loss"] = "huber"
    optimum = Estimator(tol=1e-9, **parameters).fit(X, y).loss_curve_[-1]
    model = Estimator(tol=tol, **parameters).fit(X, y)
    assert model.loss_curve_[-1] - optimum <= 10 * tol * optimum


def test_a_looser_tol_takes_no_more_passes(Estimator, make_data):
    X, y = make_data(n=400)
    huber = {"loss": "huber"} if Estimator is TorchLinearRegressor else {}
    passes = [Estimator(tol=tol, **huber).fit(X, y).n_iter_ for tol in (1e-1, 1e-3, 1e-9)]
    assert passes == sorted(passes)
    assert passes[0] < passes[-1]


def test_without_a_tol_all_passes_are_made(Estimator, data):
    for optimizer in ("sgd", "adam"):
        assert Estimator(optimizer=optimizer, max_iter=40, tol=None).fit(*data).n_iter_ == 40


def test_without_shuffling_the_seed_means_nothing(Estimator, data):
    def coef(**parameters):
        model = Estimator(optimizer="sgd", learning_rate=0.1, batch_size=16, max_iter=3, tol=None)
        return model.set_params(**parameters).fit(*data).coef_

    in_order = coef(shuffle=False, random_state=0)
    assert_array_equal(in_order, coef(shuffle=False, random_state=1))
    assert (in_order != coef(shuffle=True, random_state=0)).any()


def test_a_batch_of_all_rows_is_the_full_batch(Estimator, data):
    def coef(batch_size):
        model = Estimator(optimizer="sgd", learning_rate=0.1, max_iter=3, tol=None)
        return model.set_params(batch_size=batch_size).fit(*data).coef_

    full = coef(None)
    for batch_size in (90, 1000, "auto"):
        assert_array_equal(coef(batch_size), full)
    assert (coef(89) != full).any()


def test_a_batch_is_256_rows_by_default(Estimator, make_data):
    X, y = make_data(n=700)
    model = Estimator(optimizer="sgd", learning_rate=0.1, max_iter=2, tol=None, random_state=0)
    default = model.fit(X, y).coef_
    assert_array_equal(model.set_params(batch_size=256).fit(X, y).coef_, default)
    assert (model.set_params(batch_size=255).fit(X, y).coef_ != default).any()


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("batch_size", [None, 20_000])
def test_batches_may_be_larger_than_the_cache(weighted, batch_size):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30_000, 40)), rng.normal(size=30_000)
    weight = rng.uniform(1, 2, size=30_000) if weighted else np.ones(30_000)
    weight[:20_000] *= 2 / weight[:20_000].sum()  # as much as their number's share
    weight[20_000:] *= 1 / weight[20_000:].sum()
    w = np.zeros(40)
    for _ in range(2):
        for batch in np.split(np.arange(30_000), [20_000] if batch_size else []):
            share = weight[batch] / weight[batch].sum()
            w = w - 0.5 * X[batch].T @ (share * (X[batch] @ w - y[batch]))

    model = TorchLinearRegressor(
        fit_intercept=False,
        optimizer="sgd",
        learning_rate=0.5,
        batch_size=batch_size,
        max_iter=2,
        tol=None,
        shuffle=False,
    ).fit(X, y, weight)
    assert_allclose(model.coef_, w, rtol=1e-9)


BADLY_SCALED = {
    "scales": (np.geomspace(1e-4, 1e4, 5), 0.0),
    "offsets": (1.0, np.array([0.0, 10.0, -1000.0, 3e4, 1e5])),
}


@pytest.mark.parametrize("optimizer", ["auto", "sgd", "adam"])
@pytest.mark.parametrize("columns", BADLY_SCALED)
def test_automatic_rates_get_near_the_optimum_of_raw_columns(
    Estimator, make_data, optimizer, columns
):
    Z, y = make_data(n=600, d=5)
    scales, offsets = BADLY_SCALED[columns]
    parameters = {"alpha": 0.0, "random_state": 0}
    best = Estimator(tol=1e-12, alpha=0.0).fit(Z, y).loss_curve_[-1]
    model = Estimator(optimizer=optimizer, **parameters).fit(Z * scales + offsets, y)
    X = Z * scales + offsets
    if Estimator is TorchLinearRegressor:
        loss = 0.5 * np.mean((y - model.predict(X)) ** 2)
    else:
        loss = -np.mean(model.predict_log_proba(X)[np.arange(len(y)), y])
    assert best - 1e-9 <= loss <= 1.02 * best
    assert model.n_iter_ < model.max_iter


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("unit", [1e-4, 1e-20])
def test_automatic_rates_do_not_go_by_what_the_penalty_forbids(
    Estimator, make_data, optimizer, unit
):
    """A column that hardly varies takes a weight that costs more than all it can explain."""
    Z, y = make_data(n=600, d=5)
    X, parameters = Z * [unit, 1.0, 1.0, 1.0, 1.0], {"alpha": 1e-4, "random_state": 0}
    best = Estimator(tol=1e-12, **parameters).fit(X, y).loss_curve_[-1]
    model = Estimator(optimizer=optimizer, **parameters).fit(X, y)
    start = {"coef_init": model.coef_, "intercept_init": model.intercept_}
    found = Estimator(max_iter=1, tol=None, **parameters).fit(X, y, **start).loss_curve_[0]
    assert best - 1e-9 <= found <= 1.02 * best


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("factor", [1e-20, 1e-6, 1e6, 1e20])
@pytest.mark.parametrize("offset", [0, 1000])
def test_automatic_rates_do_not_depend_on_the_units_of_y(optimizer, factor, offset):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4))
    y = factor * (X @ rng.normal(size=4) + 0.1 * rng.normal(size=300) + offset)
    model = TorchLinearRegressor(optimizer=optimizer, random_state=0).fit(X, y)
    assert model.score(X, y) > 0.9
    assert model.n_iter_ < model.max_iter


@pytest.mark.parametrize("optimizer", ["auto", "sgd", "adam"])
def test_targets_of_different_units_are_all_learnt(optimizer):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4))
    Y = (X @ rng.normal(size=(4, 2)) + [0.0, 5.0]) * [1.0, 1e4]
    model = TorchLinearRegressor(optimizer=optimizer, random_state=0).fit(X, Y)
    assert (r2_score(Y, model.predict(X), multioutput="raw_values") > 0.9).all()


@pytest.mark.parametrize("optimizer", ["auto", "sgd", "adam"])
def test_a_constant_target_is_learnt(optimizer):
    X = np.random.default_rng(0).normal(size=(300, 4))
    model = TorchLinearRegressor(optimizer=optimizer, random_state=0).fit(X, np.full(300, 5.0))
    assert_allclose(model.predict(X), 5, rtol=0.02)


@pytest.mark.parametrize("nesterov", [False, True])
def test_automatic_rates_are_safe_with_momentum(Estimator, make_data, nesterov):
    X, y = make_data(n=600)
    sgd = {"optimizer": "sgd", "momentum": 0.9, "nesterov": nesterov, "batch_size": 32}
    model = Estimator(random_state=0, **sgd).fit(X, y)
    assert model.loss_curve_[-1] < 1.1 * Estimator(tol=1e-10).fit(X, y).loss_curve_[-1]


def test_huber_ignores_outliers():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    y = X @ [1.0, 2.0, 3.0]
    y[:20] += 1000
    model = TorchLinearRegressor(loss="huber", delta=0.01).fit(X, y)
    assert_allclose(model.coef_, [1, 2, 3], atol=0.01)


def test_separable_classes_without_a_penalty_end_well():
    X = np.r_[np.full((20, 2), -1.0), np.full((20, 2), 1.0)]
    X += 0.1 * np.random.default_rng(0).normal(size=(40, 2))
    y = np.repeat([0, 1], 20)
    model = TorchSoftmaxClassifier(alpha=0).fit(X, y)
    assert model.score(X, y) == 1
    assert np.isfinite(model.coef_).all()
