"""On a CUDA device: the same models, and nothing of the device in what comes out."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import skorchless
from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier

pytestmark = pytest.mark.cuda

WAYS = {
    "auto": {"tol": 1e-12},
    "l1": {"tol": 1e-12, "alpha": 0.01, "l1_ratio": 1.0},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9},
    "adam": {"optimizer": "adam", "learning_rate": 0.05},
}


def configured(Estimator, way, **parameters):
    textbook = {"batch_size": 16, "max_iter": 8, "tol": None, "random_state": 0}
    return Estimator(**{**({} if "tol" in WAYS[way] else textbook), **WAYS[way], **parameters})


@pytest.mark.parametrize("way", WAYS)
def test_the_device_changes_nothing_but_rounding(Estimator, data, way):
    X, y = data
    weight = np.arange(1.0, len(X) + 1)
    there = configured(Estimator, way, device="cuda").fit(X, y, weight)
    here = configured(Estimator, way, device="cpu").fit(X, y, weight)
    assert there.device_ == "cuda:0"
    assert_allclose(there.coef_, here.coef_, rtol=1e-6, atol=1e-8)
    assert_allclose(there.intercept_, here.intercept_, rtol=1e-6, atol=1e-8)


def test_tensors_are_answered_where_they_are(Estimator, data):
    X, y = data
    on_gpu = torch.tensor(X, device="cuda")
    model = Estimator().fit(on_gpu, torch.tensor(y, device="cuda"))
    assert model.device_ == "cuda:0"
    assert isinstance(model.coef_, np.ndarray)
    predictions = model.predict(on_gpu)
    assert predictions.device == on_gpu.device
    assert_allclose(predictions.cpu(), model.predict(X), rtol=1e-9)
    assert model.predict(torch.tensor(X)).device.type == "cpu"


def test_a_score_of_tensors_on_the_device(Estimator, data):
    X, y = data
    model = Estimator().fit(X, y)
    score = model.score(torch.tensor(X, device="cuda"), torch.tensor(y, device="cuda"))
    assert float(score) == pytest.approx(model.score(X, y))


def test_numpy_stays_on_the_cpu_unless_the_work_is_worth_it(Estimator, make_data):
    assert Estimator().fit(*make_data()).device_ == "cpu"
    X, y = make_data(n=100_000, d=200, dtype=np.float32)
    assert Estimator(max_iter=2, tol=None).fit(X, y).device_ == "cuda:0"


def test_tensors_on_two_devices_are_refused(Estimator, data):
    X, y = data
    with pytest.raises(ValueError, match=r"different devices: cuda:0, cpu \(X, y\)"):
        Estimator().fit(torch.tensor(X, device="cuda"), torch.tensor(y))


def test_passes_one_by_one_on_the_device(Estimator, data):
    X, y = data
    classes = {} if Estimator is TorchLinearRegressor else {"classes": [0, 1, 2]}
    whole = configured(Estimator, "adam", device="cuda", max_iter=3).fit(X, y)
    step = configured(Estimator, "adam", device="cuda").partial_fit(X, y, **classes)
    for _ in range(2):
        step = pickle.loads(pickle.dumps(step)).partial_fit(X, y)
    assert_allclose(step.coef_, whole.coef_, rtol=1e-9)


def test_the_generators_of_the_device_are_not_moved(Estimator, data):
    before = torch.cuda.get_rng_state_all()
    configured(Estimator, "sgd", device="cuda").fit(*data)
    for state, state_before in zip(torch.cuda.get_rng_state_all(), before, strict=True):
        assert torch.equal(state, state_before)


def test_reduced_precision_of_products_changes_nothing(Estimator, make_data):
    X, y = make_data(n=300, d=40, dtype=np.float32)
    plain = configured(Estimator, "sgd", device="cuda").fit(X, y).coef_
    torch.set_float32_matmul_precision("medium")
    try:
        reduced = configured(Estimator, "sgd", device="cuda").fit(X, y).coef_
    finally:
        torch.set_float32_matmul_precision("highest")
    assert_allclose(reduced, plain, rtol=1e-5, atol=1e-6)


def test_a_model_trained_on_the_device_predicts_where_there_is_none(Estimator, data, tmp_path):
    X, y = data
    model = Estimator(device="cuda").fit(X, y)
    (tmp_path / "model").write_bytes(pickle.dumps(model))
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "predictions.npy", model.predict(X))
    program = """
import pickle, numpy as np, torch
assert not torch.cuda.is_available()
model = pickle.load(open("model", "rb"))
assert np.array_equal(model.predict(np.load("X.npy")), np.load("predictions.npy"))
"""
    package = str(Path(skorchless.__file__).parents[1])
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": package}
    subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, timeout=300
    )


def test_labels_on_the_device_come_back_there():
    X = torch.randn(90, 4, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    y = (X[:, 0] > 0).long() + 5
    predictions = TorchSoftmaxClassifier().fit(X, y).predict(X)
    assert predictions.device == X.device
    assert predictions.dtype == torch.int64
    assert (predictions == y).float().mean() > 0.9
