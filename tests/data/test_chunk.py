import pytest
import torch
from torch import float64

from skorchless.data.dense import DenseChunk

BATCHES, PARTS, ROWS, FEATURES, OUTPUTS = 2, 3, 4, 5, 6


def draw(weighted, ones):
    """The same rows twice: with their last column, and bare."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(BATCHES, PARTS, ROWS, FEATURES + 1, generator=generator, dtype=float64)
    X[..., -1] = ones
    target = torch.zeros(BATCHES, PARTS, 1, 1, ROWS, dtype=float64)
    weight = torch.rand(BATCHES, PARTS, 1, 1, ROWS, generator=generator, dtype=float64)
    weight = weight if weighted else None
    bare = DenseChunk(X[..., :-1].contiguous(), target, weight, ones=ones)
    return DenseChunk(X, target, weight), bare


def column_of_weights(chunk):
    """What multiplies the rows."""
    return 1.0 if chunk.weight is None else chunk.weight.view(-1, 1)


either = pytest.mark.parametrize("kind", [0, 1], ids=["packed", "bare"])
ones_or_zeros = pytest.mark.parametrize("ones", [1.0, 0.0])
weighted_or_not = pytest.mark.parametrize("weighted", [True, False])


@either
@ones_or_zeros
def test_a_batch_knows_its_products(kind, ones):
    chunks = draw(False, ones)
    weights = torch.randn(PARTS, OUTPUTS, FEATURES + 1, dtype=float64)
    residual = torch.randn(PARTS, OUTPUTS, ROWS, dtype=float64)
    for batch, X in zip(chunks[kind].batches, chunks[0].X, strict=True):
        raw = torch.full((PARTS, OUTPUTS, ROWS), torch.nan, dtype=float64)
        batch.matmul(weights, out=raw)
        torch.testing.assert_close(raw, weights @ X.mT)
        gradient = torch.full((PARTS, OUTPUTS, FEATURES + 1), torch.nan, dtype=float64)
        batch.rmatmul(residual, 0.3, out=gradient)
        torch.testing.assert_close(gradient, 0.3 * residual @ X)


@either
@ones_or_zeros
@weighted_or_not
@pytest.mark.parametrize("halved_from", [2, 512])
def test_gram_is_the_sum_of_outer_products(kind, ones, weighted, halved_from, monkeypatch):
    monkeypatch.setattr("skorchless.data.limits.PANEL", halved_from)
    chunks = draw(weighted, ones)
    rows, weight = chunks[0].rows, column_of_weights(chunks[0])
    torch.testing.assert_close(chunks[kind].gram(), (rows * weight).T @ rows)


@either
@ones_or_zeros
@weighted_or_not
def test_squares_and_numbers_are_summed(kind, ones, weighted, monkeypatch):
    monkeypatch.setattr("skorchless.data.limits.SQUARED_NUMBERS", 20)
    chunks = draw(weighted, ones)
    rows, weight = chunks[0].rows, column_of_weights(chunks[0])
    expected = torch.stack([(weight * rows.square()).sum(dim=0), (weight * rows).sum(dim=0)])
    torch.testing.assert_close(chunks[kind].squares(), expected)


@either
def test_features_are_all_but_the_last_column(kind):
    chunks = draw(False, 1.0)
    assert torch.equal(chunks[kind].features, chunks[0].rows[:, :-1])


@pytest.mark.parametrize("panel", [2, 512])
def test_second_moments_weigh_rows_for_each_model(panel, monkeypatch):
    monkeypatch.setattr("skorchless.data.limits.WIDE_ROWS", 7)
    monkeypatch.setattr("skorchless.data.limits.PANEL", panel)
    chunk = draw(False, 1.0)[0]
    share = torch.rand(2, len(chunk.rows), dtype=float64)
    expected = torch.einsum("mi,ij,ik->mjk", share, chunk.rows, chunk.rows)
    torch.testing.assert_close(chunk.second_moments(share), expected)
    diagonal = expected.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(chunk.second_squares(share), diagonal)


@pytest.mark.parametrize("panel", [3, 512])
def test_second_moments_of_float32_rows_keep_six_digits(panel, monkeypatch):
    monkeypatch.setattr("skorchless.data.limits.WIDE_ROWS", 500)
    monkeypatch.setattr("skorchless.data.limits.PANEL", panel)
    rows = torch.randn(1, 1, 5000, 8, generator=torch.Generator().manual_seed(0)) + 1.0
    chunk = DenseChunk(rows, torch.zeros(1, 1, 1, 1, 5000), None)
    share = torch.rand(2, 5000, dtype=float64)
    expected = torch.einsum("mi,ij,ik->mjk", share, chunk.rows.double(), chunk.rows.double())
    torch.testing.assert_close(chunk.second_moments(share), expected, rtol=1e-6, atol=0.0)


@weighted_or_not
def test_shares_add_up_to_the_mean_weight(weighted):
    chunk = draw(weighted, 1.0)[0]
    chunk.scale = [1.0 / len(chunk.rows)] * BATCHES
    mean = chunk.weight.mean().item() if weighted else 1.0
    assert chunk.shares().sum().item() == pytest.approx(mean)
