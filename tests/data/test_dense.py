import numpy as np
import pytest
import torch
from problems import draw_data
from torch import float64

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.data import DenseLoader, Scaling
from skorchless.estimators.checks import as_tensor

N_ROWS = 50

batch_sizes = pytest.mark.parametrize("batch_size", [1, 3, 7, 25, 49, 50, 80])
# From one row a chunk, over chunks smaller and larger than a batch, to all rows in one.
chunk_sizes = pytest.mark.parametrize("chunk_bytes", [1, 300, 1000, 2**22])
orders = pytest.mark.parametrize("shuffled", [True, False], ids=["shuffled", "in order"])


@pytest.fixture
def set_chunk_bytes(monkeypatch):
    return lambda n_bytes: monkeypatch.setattr("skorchless.data.limits.CHUNK_BYTES", n_bytes)


@pytest.fixture(params=[1, 2**14], ids=["in blocks", "in one"])
def blocks(request, monkeypatch):
    """Batches cut into row blocks for several cores, or whole."""
    monkeypatch.setattr("skorchless.data.limits.BLOCK_NUMBERS", request.param)


def make_source(batch_size, *, fit_intercept=True, scaling=None, weight=None):
    """Rows whose number is in their features, targets and weights."""
    number = torch.arange(N_ROWS, dtype=float64)
    weight = (number + 1.0) / ((N_ROWS + 1.0) / 2.0) if weight is None else weight
    return DenseLoader(
        torch.stack([number, number**2, -number], dim=1),
        torch.stack([10.0 * number, 7.0 - number], dim=1),
        weight,
        n_outputs=2,
        fit_intercept=fit_intercept,
        batch_size=batch_size,
        stack_width=2,
        scaling=scaling,
    )


def batches_of(loader, generator=None):
    """Features, targets and weights of each batch of a pass, however many chunks it spans."""
    parts = []
    for chunk in loader.chunks(generator):
        n_batches, n_parts, n_rows = chunk.shape
        X = chunk.features.reshape(n_batches, n_parts * n_rows, -1)
        target = chunk.target.squeeze(2).mT.reshape(n_batches, n_parts * n_rows, -1)
        weight = chunk.weight.reshape(n_batches, n_parts * n_rows)
        assert len(chunk.scale) == n_batches
        for batch in zip(X.clone(), target.clone(), weight.clone(), chunk.scale, strict=True):
            parts = [batch] if chunk.starts else [*parts, batch]
            if chunk.ends:
                X, target, weight, scale = zip(*parts, strict=True)
                assert len(set(scale)) == 1
                yield torch.cat(X), torch.cat(target), torch.cat(weight), scale[0]


@batch_sizes
@chunk_sizes
@orders
@pytest.mark.usefixtures("blocks")
def test_a_pass_brings_every_row_once_in_batches_of_the_right_size(
    batch_size, chunk_bytes, shuffled, set_chunk_bytes
):
    set_chunk_bytes(chunk_bytes)
    loader = make_source(batch_size)
    generator = torch.Generator().manual_seed(0) if shuffled else None
    expected = torch.arange(N_ROWS)
    if shuffled and batch_size < N_ROWS:
        expected = torch.randperm(N_ROWS, generator=torch.Generator().manual_seed(0))
    batches = list(batches_of(loader, generator))
    rows = torch.cat([X[:, 0] for X, *_ in batches])
    assert rows.tolist() == expected.tolist()
    assert loader.n_batches == len(batches)
    for (X, target, weight, scale), number in zip(batches, expected.split(batch_size), strict=True):
        number = number.to(float64)
        assert scale == 1.0 / len(number)
        assert torch.equal(X, torch.stack([number, number**2, -number], dim=1))
        assert torch.equal(target, torch.stack([10.0 * number, 7.0 - number], dim=1))
        torch.testing.assert_close(weight, (number + 1.0) / ((N_ROWS + 1.0) / 2.0))


@chunk_sizes
def test_each_pass_has_an_order_of_its_own(chunk_bytes, set_chunk_bytes):
    set_chunk_bytes(chunk_bytes)
    loader, generator = make_source(10), torch.Generator().manual_seed(3)
    passes = [torch.cat([X[:, 0] for X, *_ in batches_of(loader, generator)]) for _ in range(2)]
    generator.manual_seed(3)
    for rows in passes:
        assert torch.equal(rows.long(), torch.randperm(N_ROWS, generator=generator))


def test_one_batch_draws_no_numbers():
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    list(make_source(N_ROWS).chunks(generator))
    assert torch.equal(generator.get_state(), before)


@chunk_sizes
@batch_sizes
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_the_intercepts_column_is_one_or_zero(
    chunk_bytes, batch_size, fit_intercept, set_chunk_bytes
):
    set_chunk_bytes(chunk_bytes)
    for chunk in make_source(batch_size, fit_intercept=fit_intercept).chunks():
        column = chunk.rows[:, -1] if chunk.ones is None else torch.tensor(chunk.ones)
        assert (column == float(fit_intercept)).all()


@chunk_sizes
@batch_sizes
@orders
def test_a_scaling_is_applied_to_every_row(batch_size, chunk_bytes, shuffled, set_chunk_bytes):
    set_chunk_bytes(chunk_bytes)
    mean, inverse = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 0.0, 2.0])
    loader = make_source(batch_size).scaled(Scaling(mean, inverse, float64))
    generator = torch.Generator().manual_seed(0) if shuffled else None
    for X, target, *_ in batches_of(loader, generator):
        number = 7.0 - target[:, 1]
        plain = torch.stack([number, number**2, -number], dim=1)
        torch.testing.assert_close(X, (plain - mean) * inverse)


@chunk_sizes
def test_classes_become_one_hot(chunk_bytes, set_chunk_bytes):
    set_chunk_bytes(chunk_bytes)
    labels = torch.randint(4, (N_ROWS,), generator=torch.Generator().manual_seed(0))
    X = labels.unsqueeze(1).to(float64)
    loader = DenseLoader(
        X, labels, None, n_outputs=4, fit_intercept=True, batch_size=N_ROWS, stack_width=4
    )
    for chunk in loader.chunks():
        target = chunk.target.squeeze(2).mT.reshape(-1, 4)
        assert torch.equal(target.argmax(dim=1), chunk.features[:, 0].long())
        assert torch.equal(target.sum(dim=1), torch.ones(len(target)).to(float64))
        assert torch.equal(target.amax(dim=1), torch.ones(len(target)).to(float64))


@pytest.mark.parametrize("n_rows", [5, 24])
def test_a_sample_brings_whole_rows(n_rows):
    chunk = make_source(7).sample(n_rows)
    number = chunk.features[:, 0]
    rows = len(number)
    assert 1 < number.unique().numel() == rows <= n_rows
    assert torch.equal(chunk.features[:, 1], number**2)
    assert torch.equal(chunk.target.squeeze(2).mT.reshape(rows, 2)[:, 1], 7.0 - number)
    # Each stands for a whole number of equal shares of the weight.
    shares = chunk.shares().flatten() * n_rows
    torch.testing.assert_close(shares, shares.round(), rtol=0, atol=1e-6)
    assert float(chunk.shares().sum()) == pytest.approx(1.0)


def test_a_row_of_most_of_the_weight_is_in_every_sample():
    weight = torch.ones(N_ROWS, dtype=torch.float64)
    weight[17] = 1e9
    chunk = make_source(7, weight=weight).sample(5)
    assert 17.0 in chunk.features[:, 0].tolist()
    assert float(chunk.shares().max()) > 0.9


@pytest.mark.parametrize("n_rows", [25, 50, 1000])
def test_a_large_sample_is_all_rows(n_rows):
    assert torch.equal(make_source(7).sample(n_rows).features[:, 0].long(), torch.arange(N_ROWS))


def test_a_sample_is_the_same_each_time():
    first, second = (make_source(7).sample(9).rows for _ in range(2))
    assert torch.equal(first, second)


@chunk_sizes
@orders
@pytest.mark.parametrize("scaled", [True, False])
def test_nothing_is_written_to_what_it_reads(chunk_bytes, shuffled, scaled, set_chunk_bytes):
    set_chunk_bytes(chunk_bytes)
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(N_ROWS, 3)), rng.normal(size=(N_ROWS, 1)), rng.uniform(size=N_ROWS)
    for array in arrays:
        array.flags.writeable = False
    before = [array.tobytes() for array in arrays]
    loader = DenseLoader(
        *map(as_tensor, arrays),
        n_outputs=1,
        fit_intercept=True,
        batch_size=20 if shuffled else N_ROWS,
        stack_width=1,
    )
    if scaled:
        loader = loader.scaled(Scaling(torch.ones(3), torch.full((3,), 2.0), float64))
    generator = torch.Generator() if shuffled else None
    for chunk in loader.chunks(generator):
        chunk.gram()
    loader.sample(10)
    assert [array.tobytes() for array in arrays] == before


@pytest.mark.parametrize(
    "parameters",
    [
        {"optimizer": "sgd", "learning_rate": 0.05, "batch_size": 12},
        {"optimizer": "adam", "learning_rate": 0.05, "batch_size": None},
        {"optimizer": "sgd", "batch_size": 12},
        {"optimizer": "auto"},
    ],
    ids=str,
)
@pytest.mark.parametrize("loss", ["squared_error", "softmax"])
@pytest.mark.parametrize("weighted", [True, False])
def test_training_is_the_same_whatever_the_chunks(parameters, loss, weighted, set_chunk_bytes):
    data = draw_data(loss, seed=0, n=200, d=6, weighted=weighted)
    kind = TorchLinearRegressor if loss == "squared_error" else TorchSoftmaxClassifier
    model = kind(alpha=0.1, l1_ratio=0.5, tol=1e-12, max_iter=20, random_state=0, **parameters)
    if parameters["optimizer"] != "auto":
        model.set_params(tol=None)
    coefs = []
    for n_bytes in (1000, 5000, 2**22):
        set_chunk_bytes(n_bytes)
        weight = data.weight.numpy() if weighted else None
        model.fit(data.X.numpy(), data.target.numpy(), weight)
        coefs.append(np.column_stack([model.coef_, model.intercept_]))
    tight = 1e-6 if parameters["optimizer"] == "auto" else 1e-11
    np.testing.assert_allclose(coefs[0], coefs[2], rtol=0, atol=tight)
    np.testing.assert_allclose(coefs[1], coefs[2], rtol=0, atol=tight)
