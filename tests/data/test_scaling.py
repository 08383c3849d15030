from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import float64

from skorchless.data import DenseLoader, Moments, Scaling

seeds = st.integers(0, 2**32)


def draw(seed, n=60, d=4):
    """Columns of any scale and offset, weights of any scale; the third column is constant."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * 10.0 ** rng.uniform(-4, 4, d) + rng.normal(size=d) * 10
    X[:, 2] = X[0, 2]
    return X, rng.exponential(size=n) * 10.0 ** rng.uniform(-3, 3)


def numpy_moments(X, weight):
    mean = np.average(X, axis=0, weights=weight)
    return mean, np.average((X - mean) ** 2, axis=0, weights=weight)


def assert_moments(moments, X, weight):
    mean, variance = numpy_moments(X, weight)
    assert moments.weight == pytest.approx(weight.sum())
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(moments.squares / moments.weight, variance, rtol=1e-9, atol=1e-20)


def scaling_of(X, weight=None, *, centre=True):
    X = torch.from_numpy(X)
    weight = None if weight is None else torch.from_numpy(weight)
    return Moments.of(X, weight).scaling(centre=centre, dtype=X.dtype)


def predict(X, weights):
    return X @ weights[..., :-1].mT + weights[..., -1].unsqueeze(-2)


def scaled(scaling, X):
    out = torch.empty_like(X)
    scaling.apply(X, out)
    return out


@given(seed=seeds, cuts=st.lists(st.integers(1, 59), max_size=6, unique=True))
def test_moments_of_merged_parts_are_those_of_the_whole(seed, cuts):
    X, weight = draw(seed)
    bounds = [0, *sorted(cuts), len(X)]
    merged = None
    for start, stop in pairwise(bounds):
        part = Moments.of(torch.from_numpy(X[start:stop]), torch.from_numpy(weight[start:stop]))
        merged = part if merged is None else merged.merge(part)
    assert_moments(merged, X, weight)


@pytest.mark.parametrize("chunk_bytes", [1, 500, 2**22])
@pytest.mark.parametrize("weighted", [True, False])
def test_column_moments_add_up_over_chunks(chunk_bytes, weighted, monkeypatch):
    monkeypatch.setattr("skorchless.data.limits.CHUNK_BYTES", chunk_bytes)
    X, weight = draw(0)
    weight = weight / weight.mean() if weighted else np.ones(len(X))
    loader = DenseLoader(
        torch.from_numpy(X),
        torch.zeros(len(X), 1, dtype=float64),
        torch.from_numpy(weight) if weighted else None,
        n_outputs=1,
        fit_intercept=True,
        batch_size=len(X),
        stack_width=1,
    )
    assert_moments(Moments.total(chunk.moments() for chunk in loader.chunks()), X, weight)


@given(seed=seeds)
def test_standardised_columns_have_mean_zero_and_deviation_one(seed):
    X, weight = draw(seed)
    rows = scaled(scaling_of(X, weight), torch.from_numpy(X)).numpy()
    mean, variance = numpy_moments(rows, weight)
    np.testing.assert_allclose(mean, 0.0, atol=1e-9)
    np.testing.assert_allclose(variance, [1, 1, 0, 1], rtol=1e-9)
    assert (rows[:, 2] == 0.0).all()


@given(seed=seeds)
def test_without_centring_columns_keep_their_zero(seed):
    X, weight = draw(seed)
    scaling = scaling_of(X, weight, centre=False)
    rows = scaled(scaling, torch.from_numpy(X)).numpy()
    assert (scaling.mean == 0.0).all()
    np.testing.assert_allclose(np.average(rows**2, axis=0, weights=weight), 1.0)


@given(seed=seeds, centre=st.booleans())
def test_standardising_and_folding_back_keep_the_predictions(seed, centre):
    X, weight = draw(seed)
    X, scaling = torch.from_numpy(X), scaling_of(X, weight, centre=centre)
    weights = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=float64)
    size = float(X.abs().max())
    expected = predict(X, weights)
    on_standard = scaling.to_scaled(weights)
    close = {"rtol": 0, "atol": 1e-12 * max(size, 1.0)}
    torch.testing.assert_close(predict(scaled(scaling, X), on_standard), expected, **close)
    torch.testing.assert_close(predict(X, scaling.from_scaled(on_standard)), expected, **close)


@given(seed=seeds)
def test_standardising_and_folding_back_are_inverse_where_columns_vary(seed):
    X, weight = draw(seed)
    X = X[:, [0, 1, 3]]
    scaling = scaling_of(X, weight)
    weights = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=float64)
    size = float(np.abs(X).max())
    back = scaling.from_scaled(scaling.to_scaled(weights))
    torch.testing.assert_close(back, weights, rtol=1e-12, atol=1e-12 * size)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, -3e8, 1e-8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [True, False])
def test_a_constant_column_gets_no_weight(value, dtype, weighted):
    X = torch.full((1000, 1), value, dtype=dtype)
    weight = torch.linspace(0.1, 1.7, 1000, dtype=dtype) if weighted else None
    scaling = Moments.of(X, weight).scaling(centre=True, dtype=dtype)
    assert scaling.inverse.tolist() == [0.0]
    assert scaling.to_scaled(torch.ones(1, 1, 2))[0, 0, 0] == 0.0
    assert scaling.from_scaled(torch.ones(1, 1, 2))[0, 0, 0] == 0.0


@pytest.mark.parametrize("n_chunks", [1, 7])
def test_a_huge_offset_costs_no_more_digits_than_it_must(n_chunks):
    rng = np.random.default_rng(0)
    X = 1e8 + rng.normal(size=(5000, 2))
    parts = [Moments.of(part, None) for part in torch.from_numpy(X).chunk(n_chunks)]
    moments = parts[0]
    for part in parts[1:]:
        moments = moments.merge(part)
    exact = X - 1e8
    scaling = moments.scaling(centre=True, dtype=float64)
    np.testing.assert_allclose(scaling.mean - 1e8, exact.mean(axis=0), atol=3e-8)
    np.testing.assert_allclose(1.0 / scaling.inverse, exact.std(axis=0), rtol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("power", [-30, -20, 20, 30])
def test_a_column_may_be_of_any_magnitude(dtype, power):
    X = 10.0**power * torch.randn(200, 1, generator=torch.Generator().manual_seed(0), dtype=dtype)
    scaling = Moments.of(X, None).scaling(centre=True, dtype=dtype)
    assert scaled(scaling, X).std(correction=0) == pytest.approx(1.0, rel=1e-3)


def test_centring_leaves_units_alone():
    X, weight = draw(1)
    scaling = scaling_of(X, weight)
    centred = scaling.centring()
    assert torch.equal(centred.mean, scaling.mean)
    assert centred.inverse.tolist() == [1.0, 1.0, 0.0, 1.0]


@given(seed=seeds)
def test_gradients_and_second_moments_go_with_the_weights(seed):
    """Both are those of standardised rows, whether rows are scaled before the sum or after it."""
    rng = np.random.default_rng(seed)
    X = torch.from_numpy(rng.normal(size=(30, 3)) * [1.0, 5.0, 0.2] + [1.0, -2.0, 0.5])
    residual = torch.from_numpy(rng.normal(size=(2, 30)))
    scaling = scaling_of(X.numpy())
    ones = torch.ones(30, 1, dtype=float64)
    plain, standard = torch.cat([X, ones], 1), torch.cat([scaled(scaling, X), ones], 1)
    torch.testing.assert_close(scaling.scale_gradient(residual @ plain), residual @ standard)
    gram = scaling.scale_gram(plain.T @ plain)
    torch.testing.assert_close(gram, standard.T @ standard, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("mean", "deviation", "is_mild"),
    [(1.0, 1.0, True), (1e3, 1.0, False), (0.0, 1e20, False), (0.0, 1e-20, False)],
)
def test_rows_are_left_alone_where_digits_allow(mean, deviation, is_mild):
    means, inverse = torch.tensor([0.0, mean, 5.0]), torch.tensor([1.0, 1.0 / deviation, 0.0])
    assert Scaling(means, inverse, torch.float32).is_mild is is_mild


def test_damped_columns_are_as_curved_as_their_penalty_and_data_together():
    deviation = torch.tensor([1e-30, 1e-3, 1.0, 1e30], dtype=float64)
    inverse = torch.cat([1.0 / deviation, torch.zeros(1, dtype=float64)])
    scaling = Scaling(torch.arange(5, dtype=float64), inverse, float64)
    damped = scaling.damped(1e-4)
    wanted = 1.0 / (deviation.square() + 1e-4).sqrt()
    torch.testing.assert_close(damped.inverse[:-1], wanted)
    assert damped.inverse[-1] == 0.0
    assert torch.equal(damped.mean, scaling.mean)
    assert torch.equal(scaling.damped(0.0).inverse, scaling.inverse)
