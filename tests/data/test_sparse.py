"""Sparse rows give what the same rows, filled in, would give."""

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import float64

from skorchless.data import DenseLoader, Moments, Scaling, SparseLoader, SparseRows

N_ROWS, N_COLUMNS, OUTPUTS = 50, 6, 2

batch_sizes = pytest.mark.parametrize("batch_size", [3, 25, 50])
chunk_sizes = pytest.mark.parametrize("chunk_numbers", [1, 100, 2**23])
orders = pytest.mark.parametrize("shuffled", [True, False], ids=["shuffled", "in order"])
scalings = pytest.mark.parametrize("scaled", [True, False], ids=["scaled", "plain"])


def draw_matrix(dtype=np.float64, n=N_ROWS):
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((n, N_COLUMNS)) < 0.3, rng.normal(2.0, 1.0, (n, N_COLUMNS)), 0)
    return scipy.sparse.csr_array(dense.astype(dtype))


def make_sources(batch_size=N_ROWS, *, fit_intercept=True, scaled=False, dtype=np.float64):
    """The same rows, sparse and dense."""
    rng, matrix = np.random.default_rng(1), draw_matrix(dtype)
    target, weight = rng.normal(size=(N_ROWS, OUTPUTS)), rng.uniform(0.5, 2.0, N_ROWS)
    rows = torch.from_numpy(matrix.toarray())
    layout = {
        "n_outputs": OUTPUTS,
        "fit_intercept": fit_intercept,
        "batch_size": batch_size,
        "stack_width": OUTPUTS,
    }
    given = torch.from_numpy(target).to(rows), torch.from_numpy(weight)
    sources = (
        SparseLoader(SparseRows.of(matrix), *given, **layout),
        DenseLoader(rows, *given, **layout),
    )
    if scaled:
        mean = torch.linspace(-1.0, 1.0, N_COLUMNS, dtype=float64)
        inverse = torch.linspace(0.0, 3.0, N_COLUMNS, dtype=float64)
        scaling = Scaling(mean, inverse, rows.dtype)
        sources = tuple(loader.scaled(scaling) for loader in sources)
    return sources


def products_of(loader, generator=None):
    """What each batch of a pass makes of some weights and of its own targets, and its scale."""
    weights = torch.linspace(-1.0, 1.0, OUTPUTS * (N_COLUMNS + 1), dtype=loader.dtype)
    weights = weights.view(1, OUTPUTS, -1)
    raw, gradient = [], torch.zeros(1, OUTPUTS, N_COLUMNS + 1, dtype=loader.dtype)
    for chunk in loader.chunks(generator):
        _, parts, rows = chunk.shape
        for batch, scale in zip(chunk.batches, chunk.scale, strict=True):
            out = torch.full((parts, OUTPUTS, rows), torch.nan, dtype=loader.dtype)
            batch.matmul(weights.expand(parts, -1, -1), out=out)
            pulled = torch.full((parts, OUTPUTS, N_COLUMNS + 1), torch.nan, dtype=loader.dtype)
            batch.rmatmul((batch.target * batch.weight).squeeze(1), scale, out=pulled)
            raw.append(out.movedim(0, 1).flatten(1))
            gradient = gradient + pulled.sum(dim=0)
            if chunk.ends:
                yield torch.cat(raw, dim=1), gradient
                raw, gradient = [], torch.zeros_like(gradient)


@batch_sizes
@chunk_sizes
@orders
@scalings
def test_a_pass_makes_the_products_of_dense_rows(
    batch_size, chunk_numbers, shuffled, scaled, monkeypatch
):
    monkeypatch.setattr("skorchless.data.limits.SPARSE_CHUNK_NUMBERS", chunk_numbers)
    monkeypatch.setattr("skorchless.data.limits.SPARSE_CHUNK_WEIGHTS", 0)
    sparse, dense = make_sources(batch_size, fit_intercept=not shuffled, scaled=scaled)
    assert sparse.n_batches == dense.n_batches
    passes = [
        list(products_of(loader, torch.Generator().manual_seed(0) if shuffled else None))
        for loader in (sparse, dense)
    ]
    assert len(passes[0]) == sparse.n_batches
    for (raw, gradient), (raw_of_dense, gradient_of_dense) in zip(*passes, strict=True):
        torch.testing.assert_close(raw, raw_of_dense)
        torch.testing.assert_close(gradient, gradient_of_dense)


@scalings
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("window", [1, 2**20])
@pytest.mark.parametrize("n_rows", [10, 1000])
def test_a_chunk_answers_as_a_dense_one(scaled, fit_intercept, window, n_rows, monkeypatch):
    monkeypatch.setattr("skorchless.data.limits.WINDOW_NUMBERS", window)
    sources = make_sources(fit_intercept=fit_intercept, scaled=scaled)
    sparse, dense = (loader.sample(n_rows) for loader in sources)
    assert len(sparse.shares()[0]) == min(n_rows, N_ROWS)
    share = torch.rand(3, len(sparse.shares()[0]), dtype=float64)
    for ask in (
        lambda chunk: chunk.target.squeeze(2).mT.reshape(-1, OUTPUTS),
        lambda chunk: chunk.shares(),
        lambda chunk: chunk.moments().mean,
        lambda chunk: chunk.moments().squares,
        lambda chunk: torch.tensor(chunk.moments().weight),
        lambda chunk: chunk.squares(),
        lambda chunk: chunk.gram(),
        lambda chunk: chunk.second_moments(share),
        lambda chunk: chunk.second_squares(share),
        lambda chunk: chunk.row_squares(),
        lambda chunk: chunk.wide_rows(),
    ):
        torch.testing.assert_close(ask(sparse), ask(dense))


def test_float32_stays_float32():
    sparse, dense = make_sources(dtype=np.float32, scaled=True)
    (raw, gradient), (raw_of_dense, gradient_of_dense) = next(
        zip(products_of(sparse), products_of(dense), strict=True)
    )
    assert raw.dtype == gradient.dtype == torch.float32
    torch.testing.assert_close(raw, raw_of_dense)
    torch.testing.assert_close(gradient, gradient_of_dense)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_rows", [50, 3000])
def test_a_column_of_one_number_does_not_vary(n_rows, weighted):
    """Also where its mean does not come out as that number to the last digit."""
    dense = np.tile([0.1, 1e6 / 3, 0.0, 1.0], (n_rows, 1))
    dense[-1, -1] = 0.0
    weight = torch.rand(n_rows, dtype=float64) + 0.1 if weighted else None
    loader = SparseLoader(
        SparseRows.of(scipy.sparse.csr_array(dense)),
        torch.ones(n_rows, 1, dtype=float64),
        weight,
        n_outputs=1,
        fit_intercept=True,
        batch_size=n_rows // 2,
        stack_width=1,
    )
    moments = Moments.total(chunk.moments() for chunk in loader.chunks())
    scaling = moments.scaling(centre=True, dtype=float64)
    assert (scaling.inverse > 0).tolist() == [False, False, False, True]


def test_order_and_duplicates_do_not_matter_and_stay_with_the_user():
    data = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    indices, indptr = np.array([2, 0, 2, 1, 1]), np.array([0, 3, 5])
    for array in (data, indices, indptr):
        array.flags.writeable = False
    matrix = scipy.sparse.csr_matrix((data, indices, indptr), shape=(2, 3))
    rows = SparseRows.of(matrix)
    assert rows.to_dense().tolist() == [[2.0, 0.0, 4.0], [0.0, 9.0, 0.0]]
    assert rows.matrix.nnz == 3
    assert matrix.nnz == 5 and matrix.indices.tolist() == [2, 0, 2, 1, 1]


@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_what_is_in_order_is_not_copied(index):
    matrix = draw_matrix()
    matrix.indices, matrix.indptr = matrix.indices.astype(index), matrix.indptr.astype(index)
    rows = SparseRows.of(matrix)
    assert np.shares_memory(rows.matrix.data, matrix.data)
    assert np.shares_memory(rows[3:45].matrix.data, matrix.data)
    assert rows.by_row.values().data_ptr() == matrix.data.ctypes.data
    torch.testing.assert_close(rows[3:45].to_dense(), rows.to_dense()[3:45])


def test_nothing_is_written_to_what_it_reads():
    matrix = draw_matrix()
    before = [matrix.data.copy(), matrix.indices.copy(), matrix.indptr.copy()]
    for array in (matrix.data, matrix.indices, matrix.indptr):
        array.flags.writeable = False
    rows = SparseRows.of(matrix)
    target = torch.zeros(N_ROWS, 1, dtype=float64)
    for batch_size in (7, N_ROWS):
        loader = SparseLoader(
            rows,
            target,
            None,
            n_outputs=1,
            fit_intercept=True,
            batch_size=batch_size,
            stack_width=1,
        )
        for chunk in loader.chunks(torch.Generator().manual_seed(0)):
            chunk.moments(), chunk.squares(), chunk.gram(), chunk.row_squares()
    for array, wanted in zip((matrix.data, matrix.indices, matrix.indptr), before, strict=True):
        np.testing.assert_array_equal(array, wanted)


def test_columns_far_from_zero_keep_their_digits_in_float32():
    """Means of ten thousand deviations: products are then made in double."""
    rng = np.random.default_rng(0)
    dense = (1e4 + rng.normal(size=(N_ROWS, 3))).astype(np.float32)
    rows = SparseRows.of(scipy.sparse.csr_array(dense))
    target = torch.zeros(N_ROWS, 1)
    layout = {"n_outputs": 1, "fit_intercept": True, "batch_size": N_ROWS, "stack_width": 1}
    plain = SparseLoader(rows, target, None, **layout)
    moments = next(plain.chunks()).moments()
    loader = plain.scaled(moments.scaling(centre=True, dtype=torch.float32))
    weights = torch.tensor([[[1.0, -2.0, 0.5, 0.25]]])
    raw = torch.empty(1, 1, N_ROWS)
    next(loader.chunks()).batches[0].matmul(weights, out=raw)
    wide = torch.from_numpy(dense.astype(np.float64))
    scaling = loader.scaling
    standardised = (wide - scaling.mean.double()) * scaling.inverse.double()
    expected = standardised @ weights[0, 0, :-1].double() + 0.25
    torch.testing.assert_close(raw[0, 0].double(), expected, rtol=1e-5, atol=1e-5)
