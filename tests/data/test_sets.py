"""Sets of rows side by side: each gets the very batches that it would get alone."""

import pytest
import torch
from torch import float64

from skorchless.data import DenseLoader, make_loader

SETS, N_ROWS = 3, 50


def draw_set(seed):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(N_ROWS, 2, generator=generator, dtype=float64)
    weight = 0.1 + torch.rand(N_ROWS, generator=generator, dtype=float64)
    return X, torch.randint(4, (N_ROWS,), generator=generator), weight / weight.mean()


def layout(batch_size):
    return {"n_outputs": 4, "fit_intercept": True, "batch_size": batch_size, "stack_width": 8}


def batches_of(loader, generator):
    """Rows, targets, weights and scale of each batch and set, in the order of a pass."""
    for chunk in loader.chunks(generator):
        assert chunk.starts and chunk.ends
        for batch, scale in zip(chunk.batches, chunk.scale, strict=True):
            for X, target, weight in zip(batch.X, batch.target, batch.weight, strict=True):
                yield X.clone(), target.clone(), weight.clone(), scale


@pytest.mark.parametrize("batch_size", [1, 7, 25, 49, 50, 80])
@pytest.mark.parametrize("shuffled", [True, False], ids=["shuffled", "in order"])
@pytest.mark.parametrize("chunk_bytes", [1, 3000, 2**22])
def test_each_set_gets_the_batches_that_it_gets_alone(
    batch_size, shuffled, chunk_bytes, monkeypatch
):
    sets = [draw_set(seed) for seed in range(SETS)]
    together = make_loader(
        *(torch.cat(columns) for columns in zip(*sets, strict=True)),
        sets=SETS,
        **layout(SETS * min(batch_size, N_ROWS)),
    )
    seed = torch.Generator().manual_seed(4) if shuffled else None
    with monkeypatch.context() as patch:
        patch.setattr("skorchless.data.limits.CHUNK_BYTES", chunk_bytes)
        passes = [list(batches_of(together, seed)) for _ in range(2)]
    for i, one in enumerate(sets):
        alone = DenseLoader(*one, **layout(batch_size))
        seed = torch.Generator().manual_seed(4) if shuffled else None
        assert alone.n_batches == together.n_batches
        for found in passes:
            for ours, theirs in zip(found[i::SETS], batches_of(alone, seed), strict=True):
                for value, wanted in zip(ours, theirs, strict=True):
                    torch.testing.assert_close(value, wanted)


def test_one_set_needs_no_neighbours():
    assert type(make_loader(*draw_set(0), **layout(7))) is DenseLoader
