"""What a device is asked to do: launches, waits of the host, and bytes either way, by the pass.

Each launch of a kernel costs a GPU some microseconds, and each wait of the host more than that,
however few the rows are. Bounds hold for every number of rows that one chunk takes.

To add a test, move X and y to the fixture `device`. For a whole fit use ``with Record(device) as
record``; for single passes use the fixture `passes`, which wraps the method of the training loop
that makes a pass. Compare ``record.n_kernels`` and ``record.n_waits`` with bounds, and give
``record`` as the message of the assertion: it prints the counts by line. The fixture `simulation`
is for what a CUDA device cannot do, such as having little memory.
"""

import numpy as np
import pytest
import torch
from device.record import Record
from scipy.sparse import random_array

from skorchless import (
    BatchedGridSearchCV,
    TorchLinearRegressor,
    TorchSoftmaxClassifier,
    training,
)
from skorchless.optimizers.first_order import Adam

LOSSES = {
    "squared error": (TorchLinearRegressor, {}, 0),
    "huber": (TorchLinearRegressor, {"loss": "huber"}, 0),
    "logistic": (TorchSoftmaxClassifier, {}, 2),
    "softmax": (TorchSoftmaxClassifier, {}, 5),
}
losses = pytest.mark.parametrize("loss", LOSSES)
N_COLUMNS = 30


def make(loss, n, d=N_COLUMNS):
    """Columns of several scales, float32, and targets with noise."""
    _, _, classes = LOSSES[loss]
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n, d, generator=generator)
    raw = X @ torch.randn(d, max(classes, 1), generator=generator)
    noise = -torch.rand(raw.shape, generator=generator).log().neg().log()
    y = (0.3 * raw + noise).argmax(dim=1) if classes else (raw + noise)[:, 0]
    return X * torch.linspace(0.2, 5.0, d), y


def estimator(loss, **parameters):
    Estimator, own, _ = LOSSES[loss]
    return Estimator(**own, **parameters)


class EachPass:
    """Kernels and waits of each pass of a fit."""

    def __init__(self, monkeypatch, device):
        self.record, self.kernels, self.waits = Record(device), [], []
        plain = training._Run.pass_over

        def counted(run, *rest):
            before = self.record.n_kernels, self.record.n_waits
            models = plain(run, *rest)
            self.kernels.append(self.record.n_kernels - before[0])
            self.waits.append(self.record.n_waits - before[1])
            return models

        monkeypatch.setattr(training._Run, "pass_over", counted)

    def fit(self, model, *rows):
        with self.record:
            model.fit(*rows)
        return self

    def assert_cheap(self, launches=40, waits=4):
        assert max(self.kernels) <= launches, self.record
        assert max(self.waits) <= waits, self.record


@pytest.fixture
def passes(monkeypatch, device):
    return EachPass(monkeypatch, device)


@losses
@pytest.mark.parametrize("n", [300, 2000, 20_000, 60_000])
def test_every_full_batch_pass(loss, n, passes, device):
    """The first, those that measure the curvature anew, and the last among them.

    Of few rows the whole Hessian is measured in each pass, of more the second moments of a sample.
    """
    X, y = (rows.to(device) for rows in make(loss, n))
    passes.fit(estimator(loss, max_iter=10, tol=1e-12), X, y)
    assert len(passes.kernels) > (1 if loss == "squared error" else 3)
    passes.assert_cheap()


@losses
@pytest.mark.parametrize("n", [2000, 20_000])
def test_a_full_batch_pass_with_l1(loss, n, passes, device):
    X, y = (rows.to(device) for rows in make(loss, n))
    passes.fit(estimator(loss, alpha=0.01, l1_ratio=1.0, max_iter=10, tol=1e-12), X, y)
    passes.assert_cheap()


@losses
@pytest.mark.parametrize("n", [300, 2000, 20_000, 60_000])
def test_a_full_batch_pass_with_weights(loss, n, passes, device):
    X, y = (rows.to(device) for rows in make(loss, n))
    weight = drawn_weights(y, True).to(device)
    passes.fit(estimator(loss, max_iter=10, tol=1e-12), X, y, weight)
    # Up to three of the launches are transfers. The last pass of a damped fit has the most.
    passes.assert_cheap(launches=41 if (loss, n) == ("huber", 2000) else 40)


def drawn_weights(y, weighted):
    """Weights of the rows, or none."""
    return torch.rand(len(y), generator=torch.Generator().manual_seed(0)) if weighted else None


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@losses
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "d"), [(3000, 40), (30_000, 40), (10_000, 900), (2000, 1500)])
def test_a_full_batch_pass_over_sparse_rows(loss, weighted, n, d, passes, device):
    """In the first pass they are transposed, and samples made dense."""
    generator = np.random.default_rng(0)
    X = random_array((n, d), density=0.03, rng=generator, dtype=np.float32).tocsr()
    raw = X @ generator.normal(size=(d, 5)) + generator.gumbel(size=(n, 5))
    classes = LOSSES[loss][2]
    y = raw[:, :classes].argmax(axis=1) if classes else raw[:, 0]
    weight = drawn_weights(y, weighted)
    weight = None if weight is None else weight.numpy()
    passes.fit(estimator(loss, max_iter=8, tol=1e-5, device=device), X, y, weight)
    assert max(passes.kernels[1:]) <= 40 and max(passes.waits) <= 4, passes.record
    assert passes.kernels[0] <= 125, passes.record


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_targets", [1, 3])
@pytest.mark.parametrize("n", [300, 2000, 20_000])
def test_a_full_batch_pass_with_outliers(n, n_targets, weighted, passes, device):
    """The last pass checks that it may end without the rows whose curvature a step takes away."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n, 30, generator=generator)
    y = X @ torch.randn(30, n_targets, generator=generator) + torch.randn(n, 1, generator=generator)
    y[::20] *= 100.0
    weight = drawn_weights(y, weighted)
    rows = (rows if rows is None else rows.to(device) for rows in (X, y.squeeze(1), weight))
    passes.fit(estimator("huber"), *rows)
    passes.assert_cheap(launches=40 if n_targets == 1 else 45)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("delta", [0.1, 0.001])
def test_a_full_batch_pass_with_hardly_any_curvature(delta, weighted, passes, device):
    """Few rows are nearer than `delta`, so that Hessians are singular, and damped and checked."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(300, 30, generator=generator)
    y = X @ torch.randn(30, generator=generator) + torch.randn(300, generator=generator)
    rows = (
        rows if rows is None else rows.to(device) for rows in (X, y, drawn_weights(y, weighted))
    )
    passes.fit(estimator("huber", delta=delta), *rows)
    passes.assert_cheap(launches=105, waits=10)
    over = sum(n > 40 or waits > 4 for n, waits in zip(passes.kernels, passes.waits, strict=True))
    assert over / len(passes.kernels) <= (0.15 if delta == 0.1 else 0.4), passes.record


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_the_end_for_separable_classes(n_classes, weighted, passes, device):
    """The last pass looks what may still be gained without outputs that are certain."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(2000, 30, generator=generator)
    raw = X @ torch.randn(30, n_classes, generator=generator)
    weight = drawn_weights(raw, weighted)
    rows = (rows if rows is None else rows.to(device) for rows in (X, raw.argmax(dim=1), weight))
    loss = "logistic" if n_classes == 2 else "softmax"
    passes.fit(estimator(loss, alpha=0.0), *rows)
    assert max(passes.kernels[:-1]) <= 40, passes.record
    passes.assert_cheap(launches=45)


def test_a_full_batch_pass_of_many_columns(passes, device):
    """Beyond 1024 columns the algebra between two passes is the device's, where each look waits.

    A CPU would take longer for one Cholesky factor than a GPU for all of these launches.
    """
    X, y = (rows.to(device) for rows in make("logistic", 3000, d=1100))
    passes.fit(estimator("logistic", max_iter=5, tol=None), X, y)
    passes.assert_cheap(launches=75)


@losses
def test_a_fit_beside_its_passes(loss, passes, device):
    """Checks of X and y, statistics of the columns, and what the returned model is worth."""
    X, y = (rows.to(device) for rows in make(loss, 20_000))
    passes.fit(estimator(loss), X, y)
    assert passes.record.n_kernels - sum(passes.kernels) <= 450, passes.record
    assert passes.record.n_waits - sum(passes.waits) <= 50, passes.record


BOUNDS = {"sgd": 11, "adam": 17}


def cost_of_epochs(model, epochs, X, y, device, simulation=None):
    """Kernels, waits and allocations of so many epochs more than two."""
    found = []
    for max_iter in (2, 2 + epochs):
        record = Record(device)
        before = simulation.allocations() if simulation else 0
        with record:
            model.set_params(max_iter=max_iter).fit(X, y)
        after = simulation.allocations() if simulation else 0
        found.append((record.n_kernels, record.n_waits, after - before))
    return [later - sooner for sooner, later in zip(*found, strict=True)]


def textbook(loss, optimizer, **parameters):
    return estimator(
        loss, optimizer=optimizer, learning_rate=1e-4, tol=None, random_state=0, **parameters
    )


@losses
@pytest.mark.parametrize("batch_size", [256, 1024])
@pytest.mark.parametrize("optimizer", BOUNDS)
def test_steps_of_the_textbook(loss, optimizer, batch_size, device):
    X, y = (rows.to(device) for rows in make(loss, 20_000))
    model = textbook(loss, optimizer, batch_size=batch_size)
    kernels, waits, _ = cost_of_epochs(model, 2, X, y, device)
    steps = 2 * -(-20_000 // batch_size)
    assert kernels / steps <= BOUNDS[optimizer]
    assert waits / 2 <= 2


@pytest.mark.parametrize("optimizer", BOUNDS)
def test_chunks_of_an_epoch_make_the_host_wait_no_more(optimizer, device, monkeypatch):
    X, y = (rows.to(device) for rows in make("softmax", 3000))
    waits = []
    for most in (10, 1024):  # batches of a chunk
        monkeypatch.setattr("skorchless.data.limits.MOST_BATCHES", most)
        model = textbook("softmax", optimizer, batch_size=50)
        waits.append(cost_of_epochs(model, 2, X, y, device)[1])
    assert waits[0] == waits[1]


SPECIAL = {
    "sgd": ("sgd", {}),
    "momentum": ("sgd", {"momentum": 0.9}),
    "nesterov": ("sgd", {"momentum": 0.9, "nesterov": True}),
    "adam": ("adam", {}),
    "l1 with sgd": ("sgd", {"alpha": 0.01, "l1_ratio": 1.0}),
    "elastic net with adam": ("adam", {"alpha": 0.01, "l1_ratio": 0.5}),
}


def test_a_counter_on_the_device_picks_the_corrections_of_adam(device, monkeypatch):
    """In groups of steps, always in the same places: these could be recorded and played again."""
    X, y = make("softmax", 4000)
    model = textbook("softmax", "adam", batch_size=25, max_iter=2)  # 320 steps
    places, plain = [], Adam.step

    def watched(rule, weights, gradient):
        plain(rule, weights, gradient)
        places.append(tuple(factor.data_ptr() for factor in rule._step_factors))

    here = model.fit(X, y).coef_
    monkeypatch.setattr(Adam, "step", watched)
    there = model.fit(X.to(device), y.to(device)).coef_
    assert len(places) == 320 and len(set(places)) == Adam.GROUP
    np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-6)


@losses
@pytest.mark.parametrize("special", SPECIAL)
def test_no_step_makes_a_tensor_or_sends_a_number(loss, special, simulation):
    """An epoch of 40 steps is as many allocations and waits as one of 10."""
    optimizer, parameters = SPECIAL[special]
    found = []
    for n in (1000, 4000):
        X, y = (rows.to("simulated") for rows in make(loss, n))
        model = textbook(loss, optimizer, batch_size=100, **parameters)
        found.append(cost_of_epochs(model, 1, X, y, "simulated", simulation)[1:])
    assert found[0] == found[1]


@losses
@pytest.mark.parametrize("way", ["auto", "sgd", "automatic adam"])
def test_rows_travel_once(loss, way, device):
    n = 20_000
    X, y = make(loss, n)
    parameters = {
        "auto": {"tol": 1e-8},
        "sgd": {"optimizer": "sgd", "learning_rate": 1e-4, "max_iter": 3, "tol": None},
        "automatic adam": {"optimizer": "adam", "max_iter": 3, "tol": None},
    }[way]
    model = estimator(loss, **parameters, device=device)
    with Record(device) as record:
        model.fit(X.numpy(), y.numpy())
    # X itself, and for each row its target, its weight and, each epoch, its number in the order.
    epochs = 0 if way == "auto" else 3
    assert record.sent.total() <= X.nbytes + n * 8 * (3 + epochs) + 2**18, record
    assert record.fetched.total() <= 2**18, record
    X, y = X.to(device), y.to(device)
    with Record(device) as record:
        model.set_params(device="auto").fit(X, y)
    assert record.sent.total() <= n * 8 * (1 + epochs) + 2**18, record
    assert record.fetched.total() <= 2**18, record
    assert not record.mixed, record


DOUBLE = {
    "auto": {},
    "to rounding": {"tol": 1e-12},
    "l1": {"alpha": 0.01, "l1_ratio": 0.7},
    "automatic adam": {"optimizer": "adam", "max_iter": 2, "tol": None},
    "adam": {"optimizer": "adam", "learning_rate": 1e-3, "max_iter": 2, "tol": None},
}


@losses
@pytest.mark.parametrize("way", DOUBLE)
@pytest.mark.parametrize("n", [2000, 20_000])
def test_no_row_is_turned_to_double(loss, way, n, device):
    """What is of the weights' size is in double precision, and their second moments.

    So is a number of each row and output where only that goes through an operation: weights,
    losses at the end of a fit.
    """
    X, y = (rows.to(device) for rows in make(loss, n))
    _, _, classes = LOSSES[loss]
    outputs = 1 if classes < 3 else classes
    with Record(device) as record:
        estimator(loss, **DOUBLE[way]).fit(X, y)
    second_moments = 4 * N_COLUMNS + (outputs * (N_COLUMNS + 1)) ** 2
    assert record.largest_double <= max(n * outputs, second_moments), record
    assert not record.mixed, record


@pytest.mark.parametrize("loss", ["logistic", "softmax"])
def test_a_grid_costs_as_many_launches_as_a_fit(loss, device):
    X, y = (rows.to(device) for rows in make(loss, 10_000, d=10))
    kernels = []
    for n_candidates in (2, 20):
        grid = {"alpha": np.logspace(-5, -2, n_candidates).tolist()}
        model = estimator(loss, optimizer="sgd", learning_rate=1e-3, max_iter=3, tol=None)
        with Record(device) as record:
            BatchedGridSearchCV(model, grid, cv=2, refit=False).fit(X, y)
        kernels.append(record.n_kernels)
    assert kernels[1] <= 1.5 * kernels[0]


@pytest.mark.parametrize("way", ["auto", "sgd"])
def test_sparse_rows_travel_once(way, device):
    X = random_array((5000, 400), density=0.02, rng=np.random.default_rng(0), dtype=np.float32)
    X = X.tocsr()
    y = np.asarray(X.sum(axis=1)).ravel()
    parameters = {"optimizer": "sgd", "learning_rate": 1e-3} if way == "sgd" else {}
    sent = []
    for max_iter in (1, 3):
        model = TorchLinearRegressor(
            **parameters, loss="huber", max_iter=max_iter, tol=None, device=device
        )
        with Record(device) as record:
            model.fit(X, y)
        sent.append(record.sent.total())
    # Each row's number in the order, once for its features and once for its target and weight.
    assert (sent[1] - sent[0]) / 2 <= 16 * len(y) + 2**14, record
    assert way == "auto" or record.fetched.total() <= 2**16, record
    stored = X.nnz * 8 + 8 * len(y)
    assert sent[0] <= stored + 8 * 4 * len(y) + 2**16, record
