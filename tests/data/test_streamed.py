"""Large matrices bring the batches that dense ones bring, in an order of their own."""

import numpy as np
import pytest
import torch
from large import mapped
from torch import float64

from skorchless.data import DenseLoader, LargeMatrix, Scaling, make_loader

pytestmark = pytest.mark.usefixtures("everything_is_large")
N_ROWS = 500

batch_sizes = pytest.mark.parametrize("batch_size", [1, 7, 64, 300, N_ROWS])
kinds = pytest.mark.parametrize("kind", ["array", "map", "Fortran map", "chosen rows of a map"])


def numbers():
    number = torch.arange(N_ROWS, dtype=float64)
    return torch.stack([number, number**2, -number], dim=1)


def make_source(kind, batch_size, folder, *, weighted=True, scaling=None):
    """Rows whose number is in their features, targets and weights."""
    rows, number = numbers(), torch.arange(N_ROWS, dtype=float64)
    chosen = None
    if kind == "chosen rows of a map":  # every other row is none of ours
        rows = rows.repeat_interleave(2, dim=0)
        rows[1::2] = torch.nan
        chosen = torch.arange(0, 2 * N_ROWS, 2)
    if "map" in kind:
        rows = torch.from_numpy(
            mapped(rows.numpy(), folder, "F" if "Fortran" in kind else "C", "r+")
        )
    return make_loader(
        LargeMatrix(rows, float64, chosen=chosen),
        torch.stack([10.0 * number, 7.0 - number], dim=1),
        number + 1.0 if weighted else None,
        n_outputs=2,
        fit_intercept=True,
        batch_size=batch_size,
        stack_width=2,
        scaling=scaling,
    )


def rows_of(loader, generator=None):
    """Numbers of the rows of a pass; their targets and weights must be theirs."""
    numbers = []
    for chunk in loader.chunks(generator):
        number = chunk.features[:, 0].clone()
        target = chunk.target.squeeze(2).mT.reshape(len(number), 2)
        assert torch.equal(target, torch.stack([10.0 * number, 7.0 - number], dim=1))
        assert torch.equal(chunk.features[:, 2], -number)
        weight = chunk.weight.flatten() * loader.mean_weight
        torch.testing.assert_close(weight, number + 1.0)
        numbers.append(number)
    return torch.cat(numbers).long()


@kinds
@batch_sizes
def test_a_pass_in_order_brings_every_row(kind, batch_size, tmp_path):
    loader = make_source(kind, batch_size, tmp_path)
    assert rows_of(loader).tolist() == list(range(N_ROWS))


@kinds
@pytest.mark.parametrize("batch_size", [1, 7, 64, 300])
def test_a_shuffled_pass_brings_every_row_once(kind, batch_size, tmp_path):
    loader = make_source(kind, batch_size, tmp_path)
    generator = torch.Generator().manual_seed(0)
    first, second = rows_of(loader, generator), rows_of(loader, generator)
    for rows in (first, second):
        assert rows.sort().values.tolist() == list(range(N_ROWS))
    assert not torch.equal(first, second)
    assert first[:100].max() > 300, "rows come from all over the file"


def test_the_order_does_not_depend_on_the_container(tmp_path):
    orders = [
        rows_of(make_source(kind, 64, tmp_path), torch.Generator().manual_seed(0))
        for kind in ("array", "map")
    ]
    assert torch.equal(*orders)


@kinds
@pytest.mark.parametrize("batch_size", [7, N_ROWS])
def test_moments_and_gradients_are_those_of_a_dense_source(kind, batch_size, tmp_path):
    scaling = Scaling(torch.tensor([100.0, 1e4, 3.0]), torch.tensor([0.01, 1e-5, 2.0]), float64)
    for some in (None, scaling):
        streamed = make_source(kind, batch_size, tmp_path, scaling=some)
        dense = DenseLoader(
            numbers(),
            streamed.target,
            torch.arange(N_ROWS, dtype=float64) + 1.0,
            n_outputs=2,
            fit_intercept=True,
            batch_size=batch_size,
            stack_width=2,
            scaling=some,
        )
        found, expected = (
            sum(chunk.gram() * chunk.scale[0] for chunk in loader.chunks())
            for loader in (streamed, dense)
        )
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@kinds
def test_a_sample_is_the_one_of_a_dense_source(kind, tmp_path):
    dense = make_source("array", 7, tmp_path).sample(100)
    sample = make_source(kind, 7, tmp_path).sample(100)
    assert torch.equal(sample.rows, dense.rows)
    assert torch.equal(sample.target, dense.target)


@kinds
@pytest.mark.parametrize("shuffled", [True, False])
def test_a_pass_may_end_early_and_be_begun_again(kind, shuffled, tmp_path):
    loader = make_source(kind, 7, tmp_path)
    generator = torch.Generator().manual_seed(0) if shuffled else None
    begun = loader.chunks(generator)
    next(begun)
    begun.close()
    assert rows_of(loader, generator).sort().values.tolist() == list(range(N_ROWS))


def test_nothing_is_written_to_the_file(tmp_path):
    loader = make_source("map", 64, tmp_path)
    before = loader.X.stored.clone()
    rows_of(loader, torch.Generator().manual_seed(0))
    rows_of(loader)
    assert torch.equal(loader.X.stored, before)


def test_an_integer_file_is_trained_on_in_double(tmp_path):
    stored = torch.from_numpy(mapped(np.arange(300).reshape(-1, 3), tmp_path, mode="r+"))
    loader = make_loader(
        LargeMatrix(stored, float64),
        torch.zeros(100, 1, dtype=float64),
        None,
        n_outputs=1,
        fit_intercept=False,
        batch_size=100,
        stack_width=1,
    )
    rows = torch.cat([chunk.features.clone() for chunk in loader.chunks()])
    assert torch.equal(rows, stored.to(float64))
