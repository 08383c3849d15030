"""A fitted model is small, and it goes anywhere: to disk, to other machines, to other libraries."""

import copy
import os
import pickle
import pickletools
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, LogisticRegression

import skorchless
from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier


def test_a_pickle_takes_two_kilobytes_beside_its_loss_curve():
    X = np.random.default_rng(0).normal(size=(300, 5))
    model = TorchSoftmaxClassifier().fit(X, np.arange(300) % 3)
    assert len(pickle.dumps(model)) - model.loss_curve_.nbytes <= 2048


TRIPS = {
    "pickle": lambda model, folder: pickle.loads(pickle.dumps(model)),
    "deepcopy": lambda model, folder: copy.deepcopy(model),
    "joblib": lambda model, folder: joblib.load(joblib.dump(model, folder / "model")[0]),
    "memory map": lambda model, folder: joblib.load(
        joblib.dump(model, folder / "model")[0], mmap_mode="r"
    ),
}


@pytest.mark.parametrize("trip", TRIPS)
def test_a_round_trip_changes_nothing(Estimator, data, tmp_path, trip):
    X, y = data
    model = Estimator(optimizer="sgd", learning_rate=0.1, max_iter=5, tol=None).fit(X, y)
    restored = TRIPS[trip](model, tmp_path)
    assert restored.get_params() == model.get_params()
    assert vars(restored).keys() == vars(model).keys()
    assert_array_equal(restored.coef_, model.coef_)
    assert_array_equal(restored.loss_curve_, model.loss_curve_)
    assert_array_equal(restored.predict(X), model.predict(X))
    restored.fit(X, y)
    restored.partial_fit(X, y)


def test_a_clone_has_the_parameters_and_not_the_fit(Estimator, data):
    model = Estimator(alpha=0.5, max_iter=50, device=torch.device("cpu")).fit(*data)
    fresh = clone(model)
    assert fresh.get_params() == model.get_params()
    assert vars(fresh) == vars(Estimator(**model.get_params()))


def test_a_fitted_model_holds_nothing_of_torch(Estimator, data):
    model = Estimator(optimizer="adam", learning_rate=0.1).partial_fit(
        *data, **({} if Estimator is TorchLinearRegressor else {"classes": [0, 1, 2]})
    )
    for state in (model, Estimator().fit(torch.tensor(data[0]), data[1])):
        strings = [argument for _, argument, _ in pickletools.genops(pickle.dumps(state))]
        assert not [text for text in strings if isinstance(text, str) and text.startswith("torch")]


@pytest.mark.slow
def test_a_model_from_a_gpu_predicts_where_there_is_none(Estimator, data, tmp_path):
    X, y = data
    model = Estimator().fit(X, y)
    model.device, model.device_ = "cuda", "cuda:0"
    (tmp_path / "model").write_bytes(pickle.dumps(model))
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "predictions.npy", model.predict(X))
    program = """
import pickle, numpy as np, torch
assert not torch.cuda.is_available()
model = pickle.load(open("model", "rb"))
assert model.device_ == "cuda:0"
X, predictions = np.load("X.npy"), np.load("predictions.npy")
assert np.array_equal(model.predict(X), predictions)
assert np.allclose(model.predict(torch.tensor(X)).numpy(), predictions)
assert np.array_equal(model.to_sklearn().predict(X), predictions)
model.to_torch()(torch.tensor(X))
"""
    package = str(Path(skorchless.__file__).parents[1])
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": package}
    subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, timeout=300
    )


def test_unpickling_and_predicting_ask_for_no_device(Estimator, data, monkeypatch):
    X, y = data
    model = Estimator().fit(X, y)
    model.device_ = "cuda:0"
    pickled, predictions = pickle.dumps(model), model.predict(X)

    def no_device(*args, **kwargs):
        raise RuntimeError("no CUDA here")

    for name in ("is_available", "device_count", "current_device", "_lazy_init"):
        monkeypatch.setattr(torch.cuda, name, no_device)
    assert_array_equal(pickle.loads(pickled).predict(X), predictions)


@pytest.mark.parametrize("shape", [(90,), (90, 1), (90, 2)])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_a_regressor_in_other_libraries(shape, fit_intercept):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(90, 4)), rng.normal(size=shape)
    model = TorchLinearRegressor(fit_intercept=fit_intercept).fit(X, y)
    predictions = model.predict(X)
    assert predictions.shape == shape

    other = model.to_sklearn()
    assert type(other) is LinearRegression
    assert_allclose(other.predict(X), predictions, rtol=1e-14)
    assert other.coef_.shape == model.coef_.shape
    assert np.shape(other.intercept_) == np.shape(model.intercept_)

    module = model.to_torch()
    assert isinstance(module, torch.nn.Module)
    assert_allclose(module(torch.tensor(X)).detach(), predictions, rtol=1e-12, atol=1e-14)


LABELS = {
    "two numbers": np.array([3, 7]),
    "three numbers": np.array([0, 1, 2]),
    "two words": np.array(["no", "yes"]),
    "three words": np.array(["high", "low", "middle"]),
    "booleans": np.array([False, True]),
}


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_a_classifier_in_other_libraries(labels, fit_intercept):
    labels = LABELS[labels]
    X = np.random.default_rng(0).normal(size=(90, 4))
    model = TorchSoftmaxClassifier(fit_intercept=fit_intercept).fit(X, np.resize(labels, 90))
    assert model.classes_.dtype == labels.dtype

    other = model.to_sklearn()
    assert type(other) is LogisticRegression
    assert_array_equal(other.predict(X), model.predict(X))
    assert_allclose(other.predict_proba(X), model.predict_proba(X), rtol=1e-12)
    assert_allclose(other.decision_function(X), model.decision_function(X), rtol=1e-12)

    logits = model.to_torch()(torch.tensor(X)).detach()
    assert logits.shape == (90, len(labels))
    assert_allclose(logits.softmax(dim=1), model.predict_proba(X), rtol=1e-12)
    assert_array_equal(labels[logits.argmax(dim=1)], model.predict(X))


def test_what_is_handed_out_is_a_copy(Estimator, data):
    X, y = data
    model = Estimator().fit(X, y)
    predictions = model.predict(X)
    model.to_sklearn().coef_[:] = 0
    with torch.no_grad():
        for parameter in model.to_torch().parameters():
            parameter.zero_()
    assert_array_equal(model.predict(X), predictions)


def test_a_module_can_be_trained_on(Estimator, make_data):
    X, y = make_data(dtype=np.float32)
    module = Estimator().fit(X, y).to_torch()
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    module(torch.tensor(X)).square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


def test_names_of_columns_travel_to_scikit_learn(Estimator, data):
    X, y = data
    frame = pd.DataFrame(X, columns=list("abcd"))
    other = Estimator().fit(frame, y).to_sklearn()
    assert other.feature_names_in_.tolist() == list("abcd")
    assert other.n_features_in_ == 4
    assert_array_equal(other.predict(frame), Estimator().fit(frame, y).predict(frame))
