"""Which device a fit goes to, and that CUDA is left alone where it does not go there.

No device is needed: these look at the choice alone. `tests/device` trains on devices.
"""

import numpy as np
import pytest
import torch

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.estimators import runtime


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine with two GPUs, as far as names go; "cuda:1" is the current one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(runtime, "_numbered", lambda device: torch.device(device.type, 1))


@pytest.fixture
def untouched(monkeypatch):
    """Fails a test that asks CUDA, or any accelerator, whether it is there."""

    def asked():
        raise AssertionError("asked for a device, which initialises it")

    for module, name in [
        *((torch.cuda, name) for name in ("is_available", "device_count", "current_device")),
        (torch.accelerator, "is_available"),
    ]:
        monkeypatch.setattr(module, name, asked)


@pytest.mark.parametrize("device", ["auto", "cpu", torch.device("cpu")])
def test_a_small_fit_asks_for_no_device(Estimator, data, device, untouched):
    X, y = data
    model = Estimator(device=device).fit(X, y)
    assert model.device_ == "cpu"
    model.score(X, y)
    Estimator(device=device).fit(torch.tensor(X), torch.tensor(y)).predict(torch.tensor(X))


def test_work_that_is_worth_it_goes_to_the_current_gpu(two_gpus):
    def resolve(**how):
        return str(runtime.resolve_device("auto", None, **how))

    assert resolve() == resolve(worth_moving=False) == "cpu"
    assert resolve(worth_moving=True) == "cuda:1"


@pytest.mark.parametrize("device", ["auto", "cuda", torch.device("cuda")])
def test_each_rank_has_the_gpu_of_its_number(device, two_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    found = runtime.resolve_device(device, None, worth_moving=True, distributed=True)
    assert found == torch.device("cuda", 0)
    named = runtime.resolve_device("cuda:1", None, worth_moving=True, distributed=True)
    assert named == torch.device("cuda", 1)


def test_without_ranks_cuda_is_the_current_gpu(two_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert runtime.resolve_device("cuda", None) == torch.device("cuda", 1)


SGD = {"optimizer": "sgd", "learning_rate": 0.1}
WORTH = {
    "a pass over many rows": ({}, (10**6, 100), True),
    "a pass over few rows": ({}, (1000, 100), False),
    "small steps, however many": (SGD, (10**6, 100), False),
    "large steps": (SGD | {"batch_size": 65536}, (10**6, 100), True),
    "one step of all rows": (SGD | {"batch_size": None}, (10**6, 100), True),
    "steps of many features": (SGD, (10**4, 20000), True),
}


@pytest.mark.parametrize("case", WORTH)
def test_auto_goes_by_the_work_between_two_decisions(case):
    parameters, (n_rows, n_columns), worth = WORTH[case]
    parameters = TorchLinearRegressor(**parameters).get_params()
    work = n_rows * n_columns
    assert runtime.is_worth_moving(parameters, work, n_rows, one_pass=False) == worth


def test_a_pass_of_partial_fit_is_made_of_steps():
    parameters = TorchSoftmaxClassifier().get_params()
    assert runtime.is_worth_moving(parameters, 10**8, 10**6, one_pass=False)
    assert not runtime.is_worth_moving(parameters, 10**8, 10**6, one_pass=True)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_what_a_fit_says_of_its_work(method, monkeypatch):
    said = []

    def resolve(device, own, *, worth_moving=False, distributed=False):
        said.append((own, worth_moving, distributed))
        return torch.device("cpu")

    monkeypatch.setattr("skorchless.estimators.base.resolve_device", resolve)
    X = np.random.default_rng(0).normal(size=(2**15, 2**9)).astype(np.float32)
    getattr(TorchLinearRegressor(max_iter=1, tol=None), method)(X, X[:, 0])
    assert said == [(None, method == "fit", False)]
