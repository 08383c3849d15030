"""The tuning-free rule: it never goes up, and ends where it should."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from problems import as_target, candidate, draw_data, make, n_outputs
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import ElasticNet, LogisticRegression, Ridge
from torch import float64

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.estimators.problem import Dataset, FitProblem
from skorchless.estimators.solve import fit_stack
from skorchless.losses import LOSSES

each_loss = pytest.mark.parametrize("loss", LOSSES)
seeds = st.integers(0, 2**32)


@pytest.fixture(params=["Newton", "conjugate gradients", "pairs"], scope="module", autouse=True)
def way(request):
    """Where it is cheap the Hessian itself, or products with it; and what larger problems get."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "Newton":
            patch.setattr("skorchless.optimizers.hessian_estimator.CHEAP_HESSIAN", 0)
        if request.param == "pairs":
            patch.setattr("skorchless.optimizers.hessian_estimator.CHEAP_PRODUCT", 0)
        yield request.param


def stretch(data, seed):
    """The same rows in columns of any scale and offset."""
    rng = np.random.default_rng(seed)
    scale = torch.from_numpy(10.0 ** rng.uniform(-4, 4, data.X.shape[1]))
    offset = torch.from_numpy(rng.normal(size=data.X.shape[1]))
    return Dataset((data.X + offset) * scale, data.target, data.weight, data.n_outputs)


def fit(loss, data, **parameters):
    start = np.zeros((1, n_outputs(loss), data.X.shape[1] + 1), dtype=data.X.numpy().dtype)
    chosen = candidate("quasi-newton", delta=0.7, **parameters)
    outcome = fit_stack(FitProblem([chosen], loss, data, start, torch.Generator()))
    return outcome.results[0], torch.from_numpy(outcome.weights[0]).to(float64)


def objective(loss, data, weights, alpha, l1_ratio):
    """What the rule minimises, by formula."""
    raw = weights[:, :-1] @ data.X.to(float64).T + weights[:, -1:]
    target = as_target(data.target, n_outputs(loss)).to(float64)
    losses = make(loss, [0.7]).value(raw.unsqueeze(0), target)[0]
    weight = torch.ones_like(losses) if data.weight is None else data.weight.to(float64)
    coef = weights[:, :-1]
    penalty = l1_ratio * coef.abs().sum() + 0.5 * (1 - l1_ratio) * coef.square().sum()
    return float(weight @ losses / weight.sum() + alpha * penalty)


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(
    seed=seeds,
    alpha=st.sampled_from([0.0, 1e-4, 0.1]),
    l1_ratio=st.sampled_from([0.0, 0.5, 1.0]),
    weighted=st.booleans(),
    tol=st.sampled_from([1e-2, 1e-6]),
    n=st.sampled_from([5, 40]),
)
def test_the_curve_never_rises_and_ends_at_the_objective_of_the_weights(
    loss, dtype, seed, alpha, l1_ratio, weighted, tol, n
):
    data = stretch(draw_data(loss, seed, n=n, d=6, weighted=weighted), seed)
    # Estimators never train with a class that has no rows.
    assume(LOSSES[loss].is_regression or len(data.target.unique()) == max(n_outputs(loss), 2))
    weight = data.weight if data.weight is None else data.weight.to(dtype)
    target = data.target.to(dtype) if data.target.is_floating_point() else data.target
    data = Dataset(data.X.to(dtype), target, weight, data.n_outputs)
    result, weights = fit(loss, data, alpha=alpha, l1_ratio=l1_ratio, tol=tol, max_iter=60)
    curve = result.loss_curve
    assert all(np.diff(curve) <= 0.0)
    assert len(curve) == result.n_iter
    digits = 1e-9 if dtype == torch.float64 else 1e-4
    at_weights = objective(loss, data, weights, alpha, l1_ratio)
    at_start = objective(loss, data, torch.zeros_like(weights), alpha, l1_ratio)
    assert curve[-1] == pytest.approx(at_weights, rel=digits, abs=digits * at_start)


@each_loss
@pytest.mark.parametrize("l1_ratio", [0.0, 0.5])
@given(seed=seeds, alpha=st.sampled_from([1e-3, 0.1]))
def test_the_estimate_of_the_distance_is_honest(way, loss, l1_ratio, seed, alpha):
    """With tol the objective is near the one that many more passes find.

    Three times tol at most; with L1 on pairs, whose model of the rest is rough, up to ten.
    """
    data = stretch(draw_data(loss, seed, n=60, d=5), seed)
    parameters = {"alpha": alpha, "l1_ratio": l1_ratio}
    result, _ = fit(loss, data, tol=1e-4, **parameters)
    # Newton's passes are few, and with L1 each takes long.
    most = 200 if way == "pairs" else 30
    best, _ = fit(loss, data, tol=1e-9, max_iter=most, **parameters)
    assert result.converged
    gap = 1e-3 if way == "pairs" and l1_ratio > 0 else 3e-4
    assert result.loss_curve[-1] <= best.loss_curve[-1] * (1 + gap)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize(("n", "d"), [(60, 5), (12, 40), (6, 5), (5, 5)])
@given(seed=seeds, n_targets=st.sampled_from([1, 3]))
def test_least_squares_is_solved_to_rounding(fit_intercept, n, d, seed, n_targets):
    """With few rows, by the solution of least norm."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(n, d)) + rng.normal(size=d), rng.normal(size=(n, n_targets))
    model = TorchLinearRegressor(fit_intercept=fit_intercept).fit(X, y)
    x_mean, y_mean = X.mean(axis=0) * fit_intercept, y.mean(axis=0) * fit_intercept
    coef, _, _, singular = np.linalg.lstsq(X - x_mean, y - y_mean)
    kept = singular[singular > 1e-12 * singular[0]]
    digits = 1e-10 * (kept[0] / kept[-1]) ** 2  # as much as a matrix of products can tell
    np.testing.assert_allclose(model.coef_, coef.T, rtol=0, atol=digits * np.abs(coef).max())
    np.testing.assert_allclose(model.predict(X), (X - x_mean) @ coef + y_mean, atol=1e-9)


@given(seed=seeds)
def test_least_squares_needs_few_passes_in_any_units(seed):
    data = stretch(draw_data("squared_error", seed, n=80, d=6), seed)
    result, weights = fit("squared_error", data, alpha=0.0)
    X = np.column_stack([data.X.numpy(), np.ones(80)])
    residual = data.target.numpy() - X @ weights.numpy().T
    size = np.linalg.norm(X, axis=0)[:, None] * np.linalg.norm(data.target.numpy())
    assert (np.abs(X.T @ residual) <= 1e-9 * size).all()
    assert result.n_iter <= 4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_least_squares_of_many_columns_begins_with_a_sample(dtype, monkeypatch):
    """It takes more passes, and ends where all rows' second moments would have."""
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(20_000, 300)) @ np.diag(np.logspace(-2, 2, 300)) + 5.0).astype(dtype)
    y = (X @ rng.normal(size=(300, 2)) + rng.normal(size=(20_000, 2))).astype(dtype)
    weight = rng.uniform(0.5, 1.5, 20_000)
    exact = TorchLinearRegressor(alpha=1e-3).fit(X, y, weight)
    monkeypatch.setattr("skorchless.optimizers.hessian_estimator.PASS_WORK", 0)
    model = TorchLinearRegressor(alpha=1e-3).fit(X, y, weight)
    assert exact.n_iter_ <= 3 < model.n_iter_ <= (20 if dtype == np.float32 else 40)
    digits = 1e-5 if dtype == np.float32 else 1e-11
    size = np.abs(exact.coef_ * X.std(axis=0)).max()
    np.testing.assert_allclose(
        model.coef_ * X.std(axis=0), exact.coef_ * X.std(axis=0), rtol=0, atol=digits * size
    )
    assert (np.diff(model.loss_curve_) <= 0.0).all()


def test_softmax_with_l1_needs_few_passes():
    """What all classes have in common is free to move: only the penalty holds it."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 20))
    y = (X @ rng.normal(size=(20, 5)) + rng.gumbel(size=(4000, 5))).argmax(axis=1)
    model = TorchSoftmaxClassifier(alpha=1e-3, l1_ratio=1.0, tol=1e-8).fit(X, y)
    assert model.n_iter_ <= 20
    # no shift of a column's weights over the classes would cost less
    below = (model.coef_ < 0).sum(axis=0)
    above = (model.coef_ > 0).sum(axis=0)
    assert (np.maximum(below, above) <= 2.5).all()


@given(seed=seeds, alpha=st.sampled_from([1e-3, 0.1, 1.0]), l1_ratio=st.sampled_from([0.3, 1.0]))
def test_l1_ends_where_coordinate_descent_does_with_the_same_zeros(seed, alpha, l1_ratio):
    data = draw_data("squared_error", seed, n=60, d=8)
    X, y = data.X.numpy(), data.target.numpy()[:, 0]
    peer = ElasticNet(alpha=alpha, l1_ratio=l1_ratio, tol=1e-14, max_iter=100_000).fit(X, y)
    model = TorchLinearRegressor(alpha=alpha, l1_ratio=l1_ratio, tol=1e-13).fit(X, y)
    np.testing.assert_allclose(model.coef_, peer.coef_, rtol=0, atol=1e-5)
    np.testing.assert_allclose(model.intercept_, peer.intercept_, rtol=0, atol=1e-5)
    clear = np.abs(peer.coef_) > 1e-4
    assert (model.coef_[clear] != 0.0).all()
    assert np.count_nonzero(model.coef_) <= np.count_nonzero(peer.coef_) + 1


@pytest.mark.parametrize("n_classes", [2, 4])
def test_it_ends_where_others_do(n_classes):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 5))
    taste = X @ rng.normal(size=(5, n_classes)) + rng.normal(size=(150, n_classes))
    y = taste.argmax(axis=1)
    weight = rng.uniform(0.2, 2.0, 150)
    model = TorchSoftmaxClassifier(alpha=0.01, tol=1e-12).fit(X, y, weight)
    peer = LogisticRegression(C=1 / (0.01 * weight.sum()), tol=1e-10, max_iter=10_000)
    peer.fit(X, y, weight)
    np.testing.assert_allclose(model.coef_, peer.coef_, rtol=1e-4, atol=1e-5)
    ridge = Ridge(alpha=0.3 * weight.sum()).fit(X, taste, weight)
    model = TorchLinearRegressor(alpha=0.3).fit(X, taste, weight)
    np.testing.assert_allclose(model.coef_, ridge.coef_, rtol=1e-9)
    np.testing.assert_allclose(model.intercept_, ridge.intercept_, rtol=1e-9)


def test_nearly_separable_classes_take_longer_steps(way):
    """Newton's own steps take 9 passes on breast_cancer, and 12 on the rare class."""
    passes = (20, 20) if way == "pairs" else (7, 8)
    X, y = load_breast_cancer(return_X_y=True)
    assert TorchSoftmaxClassifier().fit(X, y).n_iter_ <= passes[0]
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 10))
    y = X @ rng.normal(size=10) > 9
    assert 0 < y.sum() < 40
    assert TorchSoftmaxClassifier().fit(X, y).n_iter_ <= passes[1]


@pytest.mark.parametrize("seed", range(4))
def test_heavy_tails_and_near_separation_do_not_end_it_early(way, seed):
    """Rough directions promise too little where one preconditioner hardly suits all classes."""
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 256, size=(190, 13)).astype(float)
    X[:, :3] = rng.standard_t(2, size=(190, 3))
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    y = (6 * Z @ rng.normal(size=(13, 8)) / np.sqrt(13) + rng.gumbel(size=(190, 8))).argmax(axis=1)
    model = TorchSoftmaxClassifier().fit(X, y)
    best = TorchSoftmaxClassifier(tol=1e-9, max_iter=10_000).fit(X, y)
    gap = model.loss_curve_[-1] / best.loss_curve_[-1] - 1.0
    assert gap <= (1e-3 if way == "pairs" else 5e-5)


def test_few_rows_with_columns_in_large_and_small_units_keep_the_small_ones():
    """In float32, where the small ones are below the rounding of the large ones."""
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(12, 20)) * np.repeat([1e6, 1.0], [5, 15])).astype(np.float32)
    y = X[:, -1] > 0
    narrow, wide = (TorchSoftmaxClassifier().fit(X.astype(t), y) for t in ("f4", "f8"))
    assert narrow.loss_curve_[-1] == pytest.approx(wide.loss_curve_[-1], rel=1e-3)
    assert narrow.score(X, y) == 1.0


@each_loss
def test_the_diagonal_alone_gets_there_too(loss, monkeypatch):
    data = draw_data(loss, seed=3, n=80, d=6)
    exact, weights = fit(loss, data, alpha=0.01, tol=1e-12, max_iter=2000)
    monkeypatch.setattr("skorchless.data.limits.MOST_FACTORED_COLUMNS", 2)
    diagonal, others = fit(loss, data, alpha=0.01, tol=1e-12, max_iter=2000)
    assert diagonal.loss_curve[-1] == pytest.approx(exact.loss_curve[-1], rel=1e-10)
    torch.testing.assert_close(others[:, :-1], weights[:, :-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("loss", ["squared_error", "huber"])
def test_a_column_that_looks_constant_in_a_sample_keeps_its_weight(loss):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 2))
    X[:, 1] = 0.1
    X[rng.choice(20_000, 6, replace=False), 1] += 1.0
    y = X @ [1.0, 5.0]
    weight = rng.uniform(0.5, 1.5, 20_000)
    model = TorchLinearRegressor(loss=loss, tol=1e-10).fit(X, y, weight)
    np.testing.assert_allclose(model.coef_, [1.0, 5.0], rtol=1e-3)


@pytest.mark.parametrize("power", [-30, -20, 20, 30])
@pytest.mark.parametrize("kind", [TorchLinearRegressor, TorchSoftmaxClassifier])
def test_columns_may_be_of_any_magnitude(power, kind):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 2)).astype(np.float32)
    y = X[:, 0] > 0.3
    plain = kind(alpha=0.0).fit(X, y)
    scaled = kind(alpha=0.0).fit(X * np.float32(10.0**power), y)
    assert scaled.loss_curve_[-1] == pytest.approx(plain.loss_curve_[-1], rel=0.1, abs=1e-3)


def test_a_start_far_out_comes_back():
    """Where every row is certain, and most are wrong, the Hessian is flat."""
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(60, 4)), rng.integers(0, 3, 60)
    far = np.array([[100.0] * 4, [-100.0] * 4, [0.0] * 4])
    model = TorchSoftmaxClassifier(max_iter=100).fit(X, y, coef_init=far)
    assert model.loss_curve_[-1] == pytest.approx(
        TorchSoftmaxClassifier().fit(X, y).loss_curve_[-1], rel=3e-4
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "d"), [(100, 6), (20, 60)])
def test_what_only_the_penalty_sees_of_a_start_is_taken_back(n, d, dtype):
    """What all classes have in common, and what stands on the span of few rows."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(n, d)).astype(dtype), np.arange(n) % 4
    start = 1e3 * rng.normal(size=d) + rng.normal(size=(4, d))
    model = TorchSoftmaxClassifier(alpha=1e-2).fit(X, y, coef_init=start)
    best = TorchSoftmaxClassifier(alpha=1e-2, tol=1e-7).fit(X, y)
    assert model.loss_curve_[-1] == pytest.approx(best.loss_curve_[-1], rel=1e-3)
    ridge = TorchLinearRegressor(alpha=1e-2).fit(X, X[:, 0], coef_init=start[0])
    best = TorchLinearRegressor(alpha=1e-2).fit(X, X[:, 0])
    np.testing.assert_allclose(
        ridge.coef_, best.coef_, rtol=0, atol=1e-2 if dtype == np.float32 else 1e-9
    )


@pytest.mark.parametrize("power", [4, 8, 12])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("alpha", [1e-16, 1e-12, 1e-4])
def test_a_penalty_that_is_next_to_nothing_makes_nothing_drift(power, dtype, alpha):
    X = np.random.default_rng(0).normal(size=(60, 4))
    plain = TorchSoftmaxClassifier(alpha=0.0).fit(X, np.arange(60) % 3)
    large = TorchSoftmaxClassifier(alpha=alpha)
    large.fit((X * 10.0**power).astype(dtype), np.arange(60) % 3)
    assert large.loss_curve_[-1] == pytest.approx(plain.loss_curve_[-1], rel=1e-4)


@pytest.mark.parametrize("coef", [1e308, -1e308, 1e200])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_start_too_far_out_is_an_error_and_no_endless_search(coef, classes):
    X = np.random.default_rng(0).normal(size=(50, 2))
    start = np.full((1 if classes == 2 else 3, 2), coef)
    start[0, 0] *= -1
    model = TorchSoftmaxClassifier()
    with pytest.raises(ValueError, match="finite"):
        model.fit(X, np.arange(50) % classes, coef_init=start)
