"""Several estimators fitted at once, and the short ways there."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.base import clone

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.estimators import batched, limits
from skorchless.estimators.batched import BatchedFit, fit_all, predict_together, stack_key

ATTRIBUTES = ("coef_", "intercept_", "loss_curve_", "n_iter_", "learning_rate_", "optimizer_")


def prepared(models, X, y, **fit_params):
    fit = BatchedFit(models)
    fit.prepare(X, y, **fit_params)
    return fit


def fit_together(models, X, y):
    fit = prepared(models, X, y)
    fit_all([fit])
    return fit.errors


def assert_as_alone(models, X, y, rtol=1e-10):
    for model in models:
        alone = clone(model).fit(X, y)
        for name in ATTRIBUTES:
            found, wanted = getattr(model, name), getattr(alone, name)
            if isinstance(wanted, str):
                assert found == wanted
            else:
                assert_allclose(found, wanted, rtol=rtol, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("optimizer", ["auto", "sgd", "adam"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_each_is_as_if_fitted_alone(Estimator, data, optimizer, early_stopping):
    X, y = data
    rate = "auto" if optimizer == "auto" else 0.05
    shared = {"optimizer": optimizer, "learning_rate": rate, "early_stopping": early_stopping}
    tol = 1e-6 if optimizer == "auto" else None  # at rounding it would be chance when one stops
    shared.update(random_state=1, max_iter=50, tol=tol, l1_ratio=0.5)
    models = [Estimator(alpha=alpha, **shared) for alpha in (0.3, 0.01, 0.1)]
    assert fit_together(models, X, y) == [None] * 3
    assert all(model.converged_ for model in models)
    assert_as_alone(models, X, y, rtol=1e-6)


def test_stacks_that_do_not_fit_are_split(Estimator, data, monkeypatch):
    X, y = data
    stacks, fit_stack = [], batched.fit_stack
    monkeypatch.setattr(
        batched, "fit_stack", lambda part: stacks.append(len(part.candidates)) or fit_stack(part)
    )
    sgd = {"optimizer": "sgd", "max_iter": 3, "tol": None, "batch_size": 16, "random_state": 0}
    models = [Estimator(**sgd, learning_rate=0.01 * i) for i in range(1, 6)]
    monkeypatch.setattr(limits, "STACK_BYTES", 1000)
    fit_together(models, X, y)
    assert sum(stacks) == 5 and max(stacks) < 5
    assert_as_alone(models, X, y)


# Several sets of rows.


def fit_sets(make_models, sets, **fit_params):
    """Fit the same models on each set of rows; return those of each."""
    models = [make_models() for _ in sets]
    fits = [prepared(m, *rows, **fit_params) for m, rows in zip(models, sets, strict=True)]
    fit_all(fits)
    return models, [fit.errors for fit in fits]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("schedule, tol", [("cosine", None), ("constant", 1e-2), ("adaptive", 0.1)])
def test_sets_of_as_many_rows_train_side_by_side(
    Estimator, make_data, stacks, optimizer, early_stopping, schedule, tol
):
    sets = [make_data(n=n, seed=seed) for seed, n in enumerate([60, 61, 60, 60])]
    shared = {"optimizer": optimizer, "schedule": schedule, "tol": tol, "random_state": 2}
    shared |= {"early_stopping": early_stopping, "batch_size": 16}
    shared["max_iter"] = 20 if tol is None else 1000

    def make_models():
        rates = [0.003, 0.1, 0.03]
        return [
            Estimator(learning_rate=rate, alpha=a, l1_ratio=0.5 if a else 0.0, **shared)
            for rate, a in zip(rates, [0.1, 0.0, 0.01], strict=True)
        ]

    models, _ = fit_sets(make_models, sets)
    assert stacks == [9, 3]
    assert all(model.converged_ for some in models for model in some)
    passes = {model.n_iter_ for some in models for model in some}
    assert passes == {20} if tol is None else len(passes) > 2
    for some, rows in zip(models, sets, strict=True):
        assert_as_alone(some, *rows, rtol=1e-6)


def test_a_model_that_diverges_on_one_set_leaves_the_others_alone(make_data, stacks):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)), rng.normal(size=40)
    sets = [(X, y), (1e3 * X, y)]

    def make_models():
        rates = [0.05, 1e-8]
        shared = {"optimizer": "sgd", "max_iter": 300, "tol": None, "random_state": 0}
        return [TorchLinearRegressor(learning_rate=rate, **shared) for rate in rates]

    models, ((first, second), (third, fourth)) = fit_sets(make_models, sets)
    assert stacks == [4]
    assert "infinite or NaN" in str(third)
    assert first is second is fourth is None
    assert_as_alone(models[0], *sets[0])
    assert_as_alone(models[1][1:], *sets[1])
    alone = clone(models[1][0])
    with pytest.raises(ValueError, match="infinite or NaN") as caught:
        alone.fit(*sets[1])
    assert str(caught.value) == str(third)


@pytest.mark.parametrize("option", ["automatic rate", "auto", "large steps", "large rows"])
def test_other_sets_train_one_after_the_other(Estimator, make_data, stacks, option, monkeypatch):
    shared, differ = (
        {"optimizer": "sgd", "learning_rate": 0.05, "max_iter": 3, "tol": None},
        "alpha",
    )
    if option == "automatic rate":
        shared["learning_rate"], differ = "auto", "momentum"
    elif option == "auto":
        shared.update(optimizer="auto", learning_rate="auto", tol=0.1, max_iter=100)
    elif option == "large steps":
        monkeypatch.setattr(limits, "SMALL_STEP", 100)
    else:
        monkeypatch.setattr(limits, "SMALL_SAMPLES", 100)
    sets = [make_data(seed=seed) for seed in range(2)]
    models, _ = fit_sets(
        lambda: [Estimator(**{differ: v}, random_state=0, **shared) for v in (0.1, 0.2)], sets
    )
    assert stacks == [2, 2]
    for some, rows in zip(models, sets, strict=True):
        assert_as_alone(some, *rows, rtol=1e-3 if option == "auto" else 1e-10)


def test_weights_count_within_their_set(Estimator, make_data):
    sets = [make_data(seed=seed) for seed in range(2)]
    weight = np.random.default_rng(0).uniform(0.1, 2.0, len(sets[0][0]))

    def make_models():
        sgd = {"optimizer": "sgd", "learning_rate": 0.05, "max_iter": 5, "tol": None}
        return [Estimator(random_state=0, batch_size=20, **sgd)]

    models = [make_models() for _ in sets]
    scales = (1.0, 1e3)
    fit_all(
        [
            prepared(m, *rows, sample_weight=scale * weight)
            for m, rows, scale in zip(models, sets, scales, strict=True)
        ]
    )
    for (model,), rows in zip(models, sets, strict=True):
        alone = clone(model).fit(*rows, weight)
        assert_allclose(model.coef_, alone.coef_, rtol=1e-10)


def test_raw_predictions_of_all(Estimator, data):
    X, y = data
    models = [Estimator(alpha=alpha).fit(X, y) for alpha in (0.1, 1.0)]
    raw = predict_together(models, X)
    for model, some in zip(models, raw, strict=True):
        assert_allclose(some.T, model._raw_predictions(X), rtol=1e-12)


def test_what_stacks():
    base = TorchLinearRegressor(alpha=0.1).get_params()
    for name, value in {"alpha": 1.0, "tol": 1e-2, "delta": 3.0, "momentum": 0.9}.items():
        assert stack_key({**base, name: value}) == stack_key(base), name
    for name, value in {
        "tol": None,
        "learning_rate": 0.1,
        "batch_size": 7,
        "loss": "huber",
        "alpha": 0.0,
    }.items():
        assert stack_key({**base, name: value}) != stack_key(base), name
    l1 = {"alpha": 0.1, "l1_ratio": 0.5}
    assert stack_key({**base, **l1}) != stack_key(base)
    sgd = {**base, "optimizer": "sgd"}
    assert stack_key({**sgd, **l1}) != stack_key(sgd)  # columns are scaled by the penalty too
    sgd["learning_rate"] = 0.1
    assert stack_key({**sgd, **l1}) == stack_key(sgd)


# The ways of alpha.


def regressors(n=9, **options):
    return [TorchLinearRegressor(alpha=a, **options) for a in np.logspace(-4, 1, n)]


@pytest.mark.parametrize("dtype, rtol", [(np.float64, 1e-8), (np.float32, 1e-4)])
@pytest.mark.parametrize("shape", [(80,), (80, 2)])
def test_closed_forms_are_single_fits(dtype, rtol, shape):
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(80, 5)) + 2.0).astype(dtype)
    y = rng.normal(size=shape).astype(dtype)
    models = regressors()
    fit_together(models, X, y)
    for model in models:
        alone = clone(model).fit(X, y)
        assert model.coef_.dtype == alone.coef_.dtype and model.coef_.shape == alone.coef_.shape
        assert_allclose(model.coef_, alone.coef_, rtol=rtol, atol=1e-6)
        assert_allclose(model.intercept_, alone.intercept_, rtol=rtol, atol=1e-6)
        assert model.loss_curve_[-1] == pytest.approx(alone.loss_curve_[-1], rel=rtol)
        assert model.loss_curve_[0] == pytest.approx(alone.loss_curve_[0], rel=rtol)


@pytest.mark.parametrize("case", ["few rows", "collinear", "scales"])
def test_what_is_badly_conditioned_is_refined(case):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(20, 40) if case == "few rows" else (80, 6))
    if case == "collinear":
        X[:, 1] = X[:, 0] + 1e-6 * X[:, 1]
    if case == "scales":
        X *= np.logspace(-4, 4, 6)
    y = X[:, 0] / X[:, 0].std() + rng.normal(size=len(X))
    models = [TorchLinearRegressor(alpha=alpha) for alpha in (0.0, 1e-9)]
    fit_together(models, X, y)
    for model in models:
        alone = clone(model).fit(X, y)
        assert_allclose(model.predict(X), alone.predict(X), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("l1_ratio, n, long", [(0.5, 12, 0), (0.0, 30, 0), (0.0, 30, np.inf)])
def test_a_path_ends_where_single_fits_do(monkeypatch, l1_ratio, n, long):
    monkeypatch.setattr(limits, "WORTH_A_PATH", 0)
    monkeypatch.setattr(limits, "LONG_PASS", long)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 5))
    y = (X @ rng.normal(size=(5, 3)) + rng.gumbel(size=(200, 3))).argmax(axis=1)
    shared = {"l1_ratio": l1_ratio, "tol": 1e-8}
    models = [TorchSoftmaxClassifier(alpha=a, **shared) for a in np.logspace(-4, 0, n)]
    models = [models[i] for i in rng.permutation(n)]
    fit_together(models, X, y)
    passes = 0
    for model in models:
        alone = clone(model).fit(X, y)
        passes += alone.n_iter_
        assert model.loss_curve_[-1] == pytest.approx(alone.loss_curve_[-1], rel=2e-8)
        assert_allclose(model.coef_, alone.coef_, atol=1e-3)
    assert sum(model.n_iter_ for model in models) < 0.8 * passes


@pytest.mark.parametrize("long", [0, np.inf])
def test_candidates_of_the_same_alpha_have_a_path_of_their_own(monkeypatch, long):
    monkeypatch.setattr(limits, "WORTH_A_PATH", 0)
    monkeypatch.setattr(limits, "LONG_PASS", long)
    monkeypatch.setattr(limits, "MANY_CANDIDATES", 3)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 3))
    y = X[:, 0] + rng.standard_t(2, size=100)
    shared = {"loss": "huber", "tol": 1e-10}
    models = [
        TorchLinearRegressor(alpha=alpha, delta=delta, **shared)
        for alpha in (0.1, 0.1, 0.01, 0.001, 0.1, 1.0)
        for delta in (0.1, 3.0)
    ]
    fit_together(models, X, y)
    for model in models:
        assert_allclose(model.coef_, clone(model).fit(X, y).coef_, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("l1_ratio", [0.5, 0.0])
def test_a_path_of_one_alpha(monkeypatch, l1_ratio):
    monkeypatch.setattr(limits, "WORTH_A_PATH", 0)
    monkeypatch.setattr(limits, "MANY_CANDIDATES", 2)
    X, y = np.random.default_rng(0).normal(size=(60, 3)), np.arange(60) % 3
    models = [TorchSoftmaxClassifier(alpha=0.1, l1_ratio=l1_ratio) for _ in range(3)]
    fit_together(models, X, y)
    for model in models:
        assert_allclose(model.coef_, clone(model).fit(X, y).coef_, atol=1e-4)


def test_models_that_moments_do_not_solve_share_no_larger_stack(monkeypatch):
    stacks, fit_stack = [], batched.fit_stack
    monkeypatch.setattr(
        batched, "fit_stack", lambda part: stacks.append(len(part.candidates)) or fit_stack(part)
    )
    monkeypatch.setattr(limits, "STACK_BYTES", 200_000)
    X = np.random.default_rng(0).normal(size=(60, 4))
    X[:, 1] = X[:, 0]
    models = [TorchLinearRegressor(alpha=alpha) for alpha in np.logspace(-14, -12, 40)]
    fit_together(models, X, X[:, 0] + X[:, 2])
    assert sum(stacks) == 40 and max(stacks) < 40


def test_measurements_are_shared_only_among_alike_models():
    import torch

    from skorchless.optimizers.hessian_estimator import cluster_by_curvature

    mean = torch.tensor([0.1, 0.4, 0.11, 0.39, 0.13])
    representatives, group = cluster_by_curvature(mean)
    ratio = mean / mean[representatives][group]
    assert len(representatives) < len(mean)
    assert (ratio < 1.4).all() and (ratio > 1 / 1.4).all()


def test_models_leave_a_stack_that_shares_measurements(monkeypatch):
    estimator = "skorchless.optimizers.hessian_estimator."
    for name in ("WORTH_SHARING", "CHEAP_PRODUCT"):
        monkeypatch.setattr(estimator + name, 0)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 5))
    y = (X @ rng.normal(size=(5, 3)) + rng.gumbel(size=(20_000, 3))).argmax(axis=1)
    models = [TorchSoftmaxClassifier(alpha=alpha, tol=1e-8) for alpha in (1e-6, 1e-3, 0.1, 10.0)]
    fit_together(models, X, y)
    assert len({model.n_iter_ for model in models}) > 1
    for model in models:
        alone = clone(model).fit(X, y)
        assert model.loss_curve_[-1] == pytest.approx(alone.loss_curve_[-1], rel=2e-8)
