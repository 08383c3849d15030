"""Closed forms beside Ridge and NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.linear_model import Ridge

from skorchless.optimizers.least_squares import BLOCK_ROWS, Comoments, of_others


def draw(seed, n=50, d=4, k=2, offset=0.0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) + offset
    y = X @ rng.normal(size=(d, k)) + rng.normal(size=(n, k)) + 3.0
    return X, y, rng.uniform(0.1, 2.0, n)


def comoments(X, y, weight=None):
    wrap = torch.from_numpy
    return Comoments.of(wrap(X), wrap(y), None if weight is None else wrap(weight))


@given(
    seed=st.integers(0, 2**16),
    alphas=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=4),
    fit_intercept=st.booleans(),
    weighted=st.booleans(),
    k=st.integers(1, 3),
    offset=st.sampled_from([0.0, 100.0]),
)
def test_every_alpha_is_ridges(seed, alphas, fit_intercept, weighted, k, offset):
    X, y, weight = draw(seed, k=k, offset=offset if fit_intercept else 0.0)
    weight = weight if weighted else None
    total = len(X) if weight is None else weight.sum()
    found = comoments(X, y, weight).solve(
        torch.tensor(alphas, dtype=torch.float64), fit_intercept=fit_intercept
    )
    share = np.full(len(X), 1 / total) if weight is None else weight / total
    for alpha, weights, value in zip(alphas, found.weights.numpy(), found.value, strict=True):
        ridge = Ridge(alpha=alpha * total, fit_intercept=fit_intercept, solver="svd")
        ridge.fit(X, y, sample_weight=weight)
        assert_allclose(weights[:, :-1], np.atleast_2d(ridge.coef_), rtol=1e-7, atol=1e-9)
        assert_allclose(weights[:, -1], ridge.intercept_, rtol=1e-7, atol=1e-9)
        rest = y - X @ weights[:, :-1].T - weights[:, -1]
        wanted = 0.5 * share @ (rest**2).sum(axis=1) + 0.5 * alpha * (weights[:, :-1] ** 2).sum()
        assert float(value) == pytest.approx(wanted, rel=1e-8)
    centre = share @ y if fit_intercept else 0.0
    constant = 0.5 * share @ ((y - centre) ** 2).sum(axis=1)
    assert float(found.constant_value) == pytest.approx(constant, rel=1e-9)


def test_what_a_change_of_the_solution_costs():
    """As the objective's own values tell, also where the intercept is large."""
    X, y, weight = draw(0, k=2, offset=100.0)
    moments, alpha = comoments(X, y, weight), torch.tensor([1e-3, 0.1], dtype=torch.float64)
    found = moments.solve(alpha, fit_intercept=True)
    change = 1e-3 * torch.randn(found.weights.shape, dtype=torch.float64)
    moved = (found.weights + change).numpy()
    share = weight / weight.sum()
    for a, coef, value, cost in zip(
        alpha, moved, found.value, moments.excess(change, alpha), strict=True
    ):
        rest = y - X @ coef[:, :-1].T - coef[:, -1]
        at = 0.5 * share @ (rest**2).sum(axis=1) + 0.5 * float(a) * (coef[:, :-1] ** 2).sum()
        assert float(cost) == pytest.approx(at - float(value), rel=1e-6)


def test_rows_beyond_a_block_count():
    X, y, weight = draw(0, n=BLOCK_ROWS + 10)
    found = comoments(X, y, weight)
    rows = np.hstack([X, y])
    mean = weight @ rows / weight.sum()
    assert_allclose(found.mean, mean, rtol=1e-10)
    centred = rows - mean
    assert_allclose(found.products, (centred.T * weight) @ centred, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("dtype", "digits"), [(torch.float64, 12), (torch.float32, 5)])
def test_products_of_rows_as_they_lie(dtype, digits, weighted):
    """Means of a few deviations cost no digit, nor does an offset of the targets."""
    X, y, weight = draw(0, n=BLOCK_ROWS + 10, d=70, offset=2.0)
    X, y = X.astype(np.float32), (y + 1e4).astype(np.float32)
    wanted = comoments(X, y, weight if weighted else None)
    share = torch.from_numpy(weight) if weighted else None
    rows, target = torch.from_numpy(X).to(dtype), torch.from_numpy(y).to(dtype)
    found = Comoments.in_own_precision(rows, target, share)
    assert found.weight == pytest.approx(wanted.weight, rel=1e-14)
    assert_allclose(found.mean, wanted.mean, rtol=10.0**-digits)
    size = wanted.products.diagonal().sqrt()
    error = (found.products - wanted.products) / torch.outer(size, size)
    assert error.abs().max() < 10.0**-digits


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_the_objective_of_models_without_coefficients(fit_intercept):
    X, y, weight = draw(0, offset=3.0)
    moments, share = comoments(X, y, weight), torch.from_numpy(weight / weight.sum())
    rows = torch.from_numpy(np.column_stack([X, np.full(len(X), fit_intercept)]))
    intercept = torch.tensor([[2.0, -1.0]], dtype=torch.float64) * fit_intercept

    def mean_loss(weights):
        return 0.5 * share @ (rows @ weights.T - torch.from_numpy(y)).square().sum(dim=1)

    start = torch.zeros(2, 5, dtype=torch.float64)
    start[:, -1] = intercept
    value, gradient, hessian = moments.at_constant(intercept, fit_intercept=fit_intercept)
    assert_allclose(value, [float(mean_loss(start))], rtol=1e-12)
    slope = torch.func.grad(mean_loss)(start)
    assert_allclose(gradient, slope.unsqueeze(0), rtol=1e-10, atol=1e-12)
    assert_allclose(hessian, (rows.T * share) @ rows, rtol=1e-10)
    found = moments.null_model(fit_intercept=fit_intercept)
    best = share.numpy() @ y if fit_intercept else np.zeros(2)
    assert_allclose(found.intercept, best[np.newaxis], rtol=1e-12)
    start[:, -1] = found.intercept
    assert_allclose(found.loss, [float(mean_loss(start))], rtol=1e-12)


@pytest.mark.parametrize("leave", [False, True])
@pytest.mark.parametrize("n_parts", [2, 5])
def test_the_others_are_all_rows_but_ones_own(n_parts, leave):
    X, y, weight = draw(1, offset=1e3)
    parts = np.array_split(np.random.default_rng(0).permutation(50), n_parts)
    some = [comoments(X[part], y[part], weight[part]) for part in parts[leave:]]
    others = comoments(X[parts[0]], y[parts[0]], weight[parts[0]]) if leave else None
    for part, found in zip(parts[leave:], of_others(some, others), strict=True):
        rest = np.setdiff1d(np.arange(50), part)
        wanted = comoments(X[rest], y[rest], weight[rest])
        assert found.weight == pytest.approx(wanted.weight)
        assert_allclose(found.mean, wanted.mean, rtol=1e-12)
        assert_allclose(found.products, wanted.products, rtol=1e-9, atol=1e-7)


def test_bad_conditioning_is_told():
    X, y, _ = draw(2)
    X[:, 1] = X[:, 0] + 1e-7 * X[:, 1]
    found = comoments(X, y).solve(
        torch.tensor([0.0, 1e-12, 1.0], dtype=torch.float64), fit_intercept=True
    )
    assert found.reliable.tolist() == [False, False, True]
    assert torch.isfinite(found.weights).all()


def test_a_constant_column_without_penalty_is_not_trusted():
    X, y, _ = draw(3)
    X[:, 2] = 7.0
    assert not comoments(X, y).solve(torch.zeros(1).double(), fit_intercept=True).reliable.any()
