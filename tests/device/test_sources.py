"""Rows that a device has no room for are brought to it while it trains."""

import numpy as np
import pytest
import torch
from data.test_large import make_matrix
from data.test_streamed import N_ROWS, make_source, rows_of
from device.record import Record
from torch import float64

from skorchless import TorchLinearRegressor
from skorchless.data import LargeMatrix, Scaling, make_loader
from skorchless.data.scaling import Moments
from skorchless.estimators.checks import check_X

pytestmark = pytest.mark.usefixtures("everything_is_large")


@pytest.mark.parametrize("kind", ["array", "map", "Fortran map"])
@pytest.mark.parametrize("batch_size", [7, N_ROWS])
@pytest.mark.parametrize("shuffled", [True, False])
def test_rows_are_brought_to_a_device(kind, batch_size, shuffled, device, tmp_path):
    host = make_source(kind, batch_size, tmp_path)
    loader = make_loader(
        LargeMatrix(host.X.stored, float64, device),
        host.target.to(device),
        (torch.arange(N_ROWS, dtype=float64) + 1.0).to(device),
        n_outputs=2,
        fit_intercept=True,
        batch_size=batch_size,
        stack_width=2,
    )
    generator = torch.Generator().manual_seed(0) if shuffled else None
    rows = rows_of(loader, generator)
    assert rows.device == device
    assert rows.sort().values.tolist() == list(range(N_ROWS))


def test_rows_stay_on_the_host_where_a_device_has_no_room(device, monkeypatch, tmp_path):
    matrix, expected = make_matrix("map", tmp_path)
    moved = matrix.to(device)
    assert moved.is_here and torch.equal(moved[0:N_ROWS].cpu(), expected)
    module = torch.get_device_module(device)
    monkeypatch.setattr(module, "mem_get_info", lambda device=None: (1000, 1000))
    moved = matrix.to(device)
    assert not moved.is_here and moved[3:5].device == device


def test_a_device_that_does_not_tell_its_memory_is_tried(
    simulation, monkeypatch, tmp_path, little_room
):
    matrix, expected = make_matrix("map", tmp_path)
    device = torch.device("simulated", 0)
    monkeypatch.delattr(torch.get_device_module(device), "mem_get_info")
    assert matrix.to(device).is_here
    little_room(1000)
    moved = matrix.to(device)
    assert not moved.is_here
    assert torch.equal(moved[3:5].cpu(), expected[3:5])


def test_a_tensor_on_the_device_is_an_ordinary_one_however_large(device):
    X = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    estimator = TorchLinearRegressor()
    assert isinstance(check_X(estimator, X, reset=True), LargeMatrix)
    X = X.to(device)
    found = check_X(estimator, X, reset=True)
    assert found.data_ptr() == X.data_ptr()
    with Record(device) as record:
        check_X(estimator, X, reset=True)
    assert record.n_waits == 1, record
    # What has to be converted is converted as it is read.
    assert isinstance(check_X(estimator, X.half(), reset=True), LargeMatrix)


@pytest.mark.parametrize("optimizer", ["auto", "sgd"])
@pytest.mark.parametrize("tensors", [False, True], ids=["NumPy", "tensors"])
def test_an_ordinary_matrix_that_a_device_has_no_room_for(
    optimizer, tensors, little_room, monkeypatch
):
    monkeypatch.setattr("skorchless.data.limits.LARGE_BYTES", 2**40)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20000, 30))
    y = X.sum(axis=1)
    if tensors:
        X, y = torch.tensor(X), torch.tensor(y)
    parameters = {"optimizer": optimizer, "max_iter": 2, "tol": None, "random_state": 0}
    here = TorchLinearRegressor(**parameters, device="cpu").fit(X, y)
    little_room(X.nbytes * 3 // 2)
    there = TorchLinearRegressor(**parameters, device="simulated").fit(X, y)
    assert there.device_ == "simulated:0"
    np.testing.assert_allclose(there.coef_, here.coef_, rtol=1e-5)


def test_standardised_rows_are_brought_too(device, tmp_path):
    host = make_source("map", 64, tmp_path, weighted=False)
    mean, inverse = torch.tensor([100.0, 1e4, 3.0]), torch.tensor([0.01, 1e-5, 2.0])
    scaling = Scaling(mean.to(device), inverse.to(device), float64)
    layout = {"n_outputs": 2, "fit_intercept": True, "batch_size": 64, "stack_width": 2}
    there = make_loader(
        LargeMatrix(host.X.stored, float64, device), host.target.to(device), None, **layout
    )
    here = make_loader(host.X, host.target, None, **layout)
    found = [chunk.features.cpu().clone() for chunk in there.scaled(scaling).chunks()]
    expected = here.scaled(Scaling(mean, inverse, float64)).chunks()
    for rows, wanted in zip(found, (chunk.features for chunk in expected), strict=False):
        torch.testing.assert_close(rows[:7], wanted[:7])


@pytest.mark.parametrize("weighted", [False, True])
def test_statistics_of_columns_need_no_row_in_double(weighted, device):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(5000, 8, generator=generator)
    X *= torch.tensor([1.0, 1e-25, 1e25, 1.0, 1.0, 0.0, 1e-3, 1.0])  # squares leave float32
    X += torch.tensor([0.0, 0.0, 0.0, 1e4, -7.0, 3.0, 1.0, 0.0])
    X[:, 7] = 3e38 * X[:, 7].sign()  # differences leave it too
    weight = torch.rand(5000, generator=generator) if weighted else None
    here = Moments.of(X, weight)
    there = X.to(device), None if weight is None else weight.to(device)
    with Record(device) as record:
        found = Moments.of(*there)
    assert record.largest_double <= X.shape[1], record
    assert found.weight == pytest.approx(here.weight)
    deviation = (here.squares / here.weight).sqrt()
    assert deviation[5] == 0.0 and found.squares[5] == 0.0
    torch.testing.assert_close(found.squares.cpu(), here.squares, rtol=1e-5, atol=0.0)
    assert ((found.mean.cpu() - here.mean).abs() <= 1e-5 * deviation).all()
