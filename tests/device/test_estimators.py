"""On an accelerator: the same models, and nothing of the device in what comes out."""

import os
import pickle
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from large import mapped
from numpy.testing import assert_allclose
from recorders import Recorder
from scipy.sparse import csr_array

import skorchless
from skorchless import BatchedGridSearchCV, TorchLinearRegressor, TorchSoftmaxClassifier

WAYS = {
    "auto": {"tol": 1e-12},
    "l1": {"tol": 1e-12, "alpha": 0.01, "l1_ratio": 1.0},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9},
    "adam": {"optimizer": "adam", "learning_rate": 0.05},
    "automatic sgd": {"optimizer": "sgd"},
    "automatic adam": {"optimizer": "adam"},
}
ways = pytest.mark.parametrize("way", WAYS)


def configured(Estimator, way, **parameters):
    textbook = {"batch_size": 16, "max_iter": 8, "tol": None, "random_state": 0}
    return Estimator(**{**({} if "tol" in WAYS[way] else textbook), **WAYS[way], **parameters})


def slow(Estimator, way, **parameters):
    """One that takes several passes, which least squares do not."""
    slower = {"loss": "huber"} if Estimator is TorchLinearRegressor else {}
    return configured(Estimator, way, **slower, **parameters, max_iter=4, tol=None)


def assert_same_model(there, here, rtol=1e-6, atol=1e-8):
    assert_allclose(there.coef_, here.coef_, rtol=rtol, atol=atol)
    assert_allclose(there.intercept_, here.intercept_, rtol=rtol, atol=atol)
    assert_allclose(there.loss_curve_[-1], here.loss_curve_[-1], rtol=rtol)


def on(device, *arrays):
    return [torch.tensor(array, device=device) for array in arrays]


@ways
def test_the_device_changes_nothing_but_rounding(Estimator, data, way, device):
    X, y = data
    weight = np.arange(1.0, len(X) + 1)
    there = configured(Estimator, way, device=device).fit(X, y, weight)
    here = configured(Estimator, way, device="cpu").fit(X, y, weight)
    assert there.device_ == str(device)
    assert_same_model(there, here)


@ways
def test_sparse_rows(Estimator, make_data, way, device):
    X, y = make_data(n=120, d=6)
    X[np.abs(X) < 0.7] = 0.0
    there = configured(Estimator, way, device=device).fit(csr_array(X), y)
    here = configured(Estimator, way, device="cpu").fit(csr_array(X), y)
    assert_same_model(there, here)


@pytest.mark.parametrize("way", ["auto", "l1", "sgd", "automatic adam"])
@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("has_room", [True, False])
def test_memory_maps(Estimator, make_data, way, has_room, device, tmp_path, monkeypatch):
    X, y = make_data(n=300, d=5)
    if not has_room:
        module = torch.get_device_module(device)
        monkeypatch.setattr(module, "mem_get_info", lambda device=None: (1000, 1000))
    there = configured(Estimator, way, device=device).fit(mapped(X, tmp_path), y)
    here = configured(Estimator, way, device="cpu").fit(X, y)
    assert_same_model(there, here, rtol=1e-5, atol=1e-7)


def test_tensors_are_answered_where_they_are(Estimator, data, device):
    X, y = data
    X_there, y_there = on(device, X, y)
    model = Estimator().fit(X_there, y_there)
    assert model.device_ == str(device)
    assert isinstance(model.coef_, np.ndarray)
    predictions = model.predict(X_there)
    assert predictions.device == X_there.device
    assert_allclose(predictions.cpu(), model.predict(X), rtol=1e-9)
    assert model.predict(torch.tensor(X)).device.type == "cpu"


def test_probabilities_of_tensors(device):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), rng.integers(0, 3, size=60)
    model = TorchSoftmaxClassifier(device=device).fit(X, y)
    (X_there,) = on(device, X)
    for method in ("decision_function", "predict_proba", "predict_log_proba"):
        there = getattr(model, method)(X_there)
        assert there.device == device
        assert_allclose(there.cpu(), getattr(model, method)(X), rtol=1e-9)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_a_score_of_tensors_on_the_device(Estimator, data, weighted, device):
    X, y = data
    weight = np.arange(len(X)) % 3 if weighted else None
    model = Estimator().fit(X, y)
    score = model.score(*on(device, X, y), None if weight is None else on(device, weight)[0])
    assert float(score) == pytest.approx(model.score(X, y, weight))


def test_tensors_on_two_devices_are_refused(Estimator, data, device):
    X, y = data
    with pytest.raises(ValueError, match=rf"different devices: {device}, cpu \(X, y\)"):
        Estimator().fit(*on(device, X), torch.tensor(y))


def test_a_device_by_any_name(Estimator, data, device):
    X, y = data
    (X_there,) = on(device, X)
    for name in (device.type, str(device), X_there.device, torch.device(device.type)):
        assert Estimator(device=name).fit(X, y).device_ == str(device)


def test_the_second_of_two_devices(Estimator, data, device):
    if torch.get_device_module(device).device_count() < 2:
        pytest.skip("needs two devices of a kind")
    second = torch.device(device.type, 1)
    X, y = data
    assert Estimator(device=second).fit(X, y).device_ == str(second)
    model = Estimator().fit(*on(second, X, y))
    assert model.device_ == str(second)
    assert model.predict(*on(second, X)).device == second


def test_a_device_of_a_number_that_is_not_there(Estimator, data, device):
    with pytest.raises(ValueError, match=rf"device='{device.type}:7' is not available.*{device}"):
        Estimator(device=f"{device.type}:7").fit(*data)


def test_tensors_are_trained_on_the_host_on_request(Estimator, data, device):
    X, y = data
    there = Estimator(device="cpu").fit(*on(device, X, y))
    assert there.device_ == "cpu"
    assert_same_model(there, Estimator(device="cpu").fit(X, y))


def test_passes_one_by_one_on_the_device(Estimator, data, device):
    X, y = data
    classes = {} if Estimator is TorchLinearRegressor else {"classes": [0, 1, 2]}
    whole = configured(Estimator, "adam", device=device, max_iter=3).fit(X, y)
    step = configured(Estimator, "adam", device=device).partial_fit(X, y, **classes)
    for _ in range(2):
        step = pickle.loads(pickle.dumps(step)).partial_fit(X, y)
    assert_allclose(step.coef_, whole.coef_, rtol=1e-9)


def test_automatic_passes_on_the_device(Estimator, data, device):
    X, y = data
    classes = {} if Estimator is TorchLinearRegressor else {"classes": [0, 1, 2]}
    models = [Estimator(device=where, random_state=0) for where in (device, "cpu")]
    for model in models:
        model.partial_fit(X[:50], y[:50], **classes).partial_fit(X[50:], y[50:])
    assert_same_model(*models)


@pytest.mark.parametrize("with_rows", [False, True], ids=["split", "X_val"])
def test_early_stopping_on_the_device(Estimator, make_data, with_rows, device):
    X, y = make_data(n=200)
    models = []
    for where in (device, torch.device("cpu")):
        rows = dict(zip(("X_val", "y_val"), on(where, X[150:], y[150:]), strict=True))
        model = configured(Estimator, "adam", early_stopping=True, max_iter=5)
        models.append(model.fit(*on(where, X, y), **(rows if with_rows else {})))
    assert_same_model(*models)
    there, here = (model.validation_loss_curve_ for model in models)
    assert_allclose(there, here, rtol=1e-9)


def test_class_weights_on_the_device(device):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(90, 3)), rng.integers(0, 3, size=90)
    there = TorchSoftmaxClassifier(class_weight="balanced").fit(*on(device, X, y))
    assert_same_model(there, TorchSoftmaxClassifier(class_weight="balanced").fit(X, y))


def test_labels_on_the_device_come_back_there(device):
    X = torch.randn(90, 4, generator=torch.Generator().manual_seed(0)).to(device)
    y = (X[:, 0] > 0).long() + 5
    predictions = TorchSoftmaxClassifier().fit(X, y).predict(X)
    assert predictions.device == X.device
    assert predictions.dtype == torch.int64
    assert (predictions == y).float().mean() > 0.9


@pytest.mark.parametrize("way", ["auto", "l1", "sgd", "adam"])
def test_many_classes_on_the_device(way, device):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(400, 3)), np.arange(400) % 40
    there = configured(TorchSoftmaxClassifier, way, device=device).fit(X, y)
    assert_same_model(there, configured(TorchSoftmaxClassifier, way, device="cpu").fit(X, y))


GRIDS = {
    "auto": {"alpha": [1e-3, 1e-2, 1e-1]},
    "l1": {"alpha": [1e-3, 1e-2], "l1_ratio": [0.5, 1.0]},
    "sgd": {"learning_rate": [0.01, 0.05]},
    "adam": {"learning_rate": [0.01, 0.05], "alpha": [0.0, 0.1]},
}


@pytest.mark.parametrize("way", GRIDS)
@pytest.mark.parametrize("tensors", [True, False], ids=["tensors", "NumPy"])
def test_searches_on_the_device(Estimator, make_data, way, tensors, device):
    X, y = make_data(n=150)
    searches = [
        BatchedGridSearchCV(configured(Estimator, way, device=where), GRIDS[way], cv=3)
        for where in ("auto" if tensors else device, "cpu")
    ]
    searches[0].fit(*(on(device, X, y) if tensors else (X, y)))
    there, here = (
        search.cv_results_["mean_test_score"]
        for search in searches
        if search is searches[0] or search.fit(X, y)
    )
    assert searches[0].best_estimator_.device_ == str(device)
    assert_allclose(there, here, rtol=1e-5)
    assert_same_model(*(search.best_estimator_ for search in searches), rtol=1e-5)


def test_a_search_with_a_scorer_and_weights_on_the_device(device):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(120, 3)), rng.integers(0, 2, size=120)
    weight = rng.random(120)
    results = []
    for where in (device, "cpu"):
        search = BatchedGridSearchCV(
            TorchSoftmaxClassifier(),
            {"alpha": [1e-2, 1e-1]},
            scoring=["neg_log_loss", "accuracy"],
            refit=False,
        )
        rows = on(where, X, y, weight)
        results.append(search.fit(rows[0], rows[1], sample_weight=rows[2]).cv_results_)
    for name in ("mean_test_neg_log_loss", "mean_test_accuracy"):
        assert_allclose(results[0][name], results[1][name], rtol=1e-7)


@ways
def test_callbacks_on_the_device(Estimator, data, way, device):
    pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks from 1.9 on")
    recorder = Recorder(stop_after=2)
    model = slow(Estimator, way, device=device)
    model.set_callbacks(recorder).fit(*data)
    assert model.n_iter_ == 2
    assert_allclose(recorder.models[-1].coef_, model.coef_)


class CtrlC(Recorder):
    """Interrupts the process in the middle of a pass."""

    def on_fit_task_end(self, estimator, context, **about):
        if context.task_name == "pass" and context.task_id == 1:
            signal.raise_signal(signal.SIGINT)
        return False


@ways
def test_an_interrupted_fit_keeps_its_last_pass(Estimator, data, way, device):
    pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks from 1.9 on")
    model = slow(Estimator, way, device=device)
    with pytest.raises(KeyboardInterrupt):
        model.set_callbacks(CtrlC()).fit(*data)
    assert model.n_iter_ == 2
    assert model.device_ == str(device)
    assert np.isfinite(model.coef_).all()


def test_a_model_trained_on_the_device_predicts_where_there_is_none(device, tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(90, 4)), rng.integers(0, 3, size=90)
    model = TorchSoftmaxClassifier(device=str(device)).fit(X, y)
    (tmp_path / "model").write_bytes(pickle.dumps(model))
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "predictions.npy", model.predict(X))
    program = """
import pickle, numpy as np, torch
assert not torch.accelerator.is_available()
model = pickle.load(open("model", "rb"))
assert np.array_equal(model.predict(np.load("X.npy")), np.load("predictions.npy"))
"""
    package = str(Path(skorchless.__file__).parents[1])
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": package}
    subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, timeout=300
    )


@ways
def test_only_deterministic_operations_are_asked_for(Estimator, data, way, device, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        weight = np.arange(1.0, len(data[0]) + 1)
        configured(Estimator, way, device=device).fit(*on(device, *data, weight))
    finally:
        torch.use_deterministic_algorithms(False)


def test_huber_with_deterministic_operations(device):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3))
    y = X.sum(axis=1) + 0.01 * rng.standard_t(2, size=80)
    torch.use_deterministic_algorithms(True)
    try:
        for optimizer in ("auto", "adam"):
            model = TorchLinearRegressor(
                loss="huber", delta=1e-3, optimizer=optimizer, max_iter=20, tol=None
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(*on(device, X, y))
    finally:
        torch.use_deterministic_algorithms(False)


def test_what_needs_float64_is_refused_in_words_whose_advice_helps(
    Estimator, make_data, without_double
):
    X, y = make_data(dtype=np.float32)
    with pytest.raises(ValueError, match=r"simulated:0.*no float64.*device='cpu'"):
        Estimator(device=without_double).fit(X, y)
    tensors = on(without_double, X, y)
    with pytest.raises(ValueError, match=r"simulated:0.*no float64.*device='cpu'"):
        Estimator().fit(*tensors)
    weight = torch.ones(len(X), device=without_double)
    there = Estimator(device="cpu").fit(*tensors, weight)
    assert_same_model(there, Estimator().fit(X, y))


def test_a_device_without_float64_predicts_and_scores(Estimator, make_data, without_double):
    X, y = make_data(dtype=np.float32)
    model = Estimator().fit(X, y)
    X_there, y_there = on(without_double, X, y)
    predictions = model.predict(X_there)
    assert predictions.device == without_double
    assert_allclose(predictions.cpu(), model.predict(X), rtol=1e-5, atol=1e-6)
    for weight in (None, torch.ones(len(X), device=without_double)):
        score = model.score(X_there, y_there, weight)
        assert score == pytest.approx(model.score(X, y), rel=1e-6)
    if Estimator is TorchSoftmaxClassifier:
        probabilities = model.predict_proba(X_there)
        assert_allclose(probabilities.cpu(), model.predict_proba(X), rtol=1e-4, atol=1e-6)


@pytest.mark.cuda
def test_numpy_stays_on_the_cpu_unless_the_work_is_worth_it(Estimator, make_data):
    assert Estimator().fit(*make_data()).device_ == "cpu"
    X, y = make_data(n=100_000, d=200, dtype=np.float32)
    assert Estimator(max_iter=2, tol=None).fit(X, y).device_ == "cuda:0"


@pytest.mark.cuda
def test_the_generators_of_the_device_are_not_moved(Estimator, data):
    before = torch.cuda.get_rng_state_all()
    configured(Estimator, "sgd", device="cuda").fit(*data)
    for state, state_before in zip(torch.cuda.get_rng_state_all(), before, strict=True):
        assert torch.equal(state, state_before)


@pytest.mark.cuda
def test_reduced_precision_of_products_changes_nothing(Estimator, make_data):
    X, y = make_data(n=300, d=40, dtype=np.float32)
    plain = configured(Estimator, "sgd", device="cuda").fit(X, y).coef_
    torch.set_float32_matmul_precision("medium")
    try:
        reduced = configured(Estimator, "sgd", device="cuda").fit(X, y).coef_
    finally:
        torch.set_float32_matmul_precision("highest")
    assert_allclose(reduced, plain, rtol=1e-5, atol=1e-6)
