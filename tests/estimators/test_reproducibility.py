"""One seed, one model; and nothing outside the estimator is read, moved or written to."""

import contextlib
import pickle
import random

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier

WAYS = {
    "auto": {},
    "l1": {"alpha": 0.01, "l1_ratio": 1.0},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9},
    "adam": {"optimizer": "adam", "learning_rate": 0.05},
    "automatic sgd": {"optimizer": "sgd"},
    "early stopping": {"optimizer": "sgd", "learning_rate": 0.05, "early_stopping": True},
}
ways = pytest.mark.parametrize("way", WAYS)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def configured(Estimator, way, **parameters):
    batches = {"batch_size": 16} if "optimizer" in WAYS[way] else {}
    return Estimator(**{**batches, "max_iter": 8, "tol": None, **WAYS[way], **parameters})


def classes_for(Estimator):
    return {} if Estimator is TorchLinearRegressor else {"classes": [0, 1, 2]}


def assert_identical(one, other):
    for name in ("coef_", "intercept_", "loss_curve_"):
        first, second = np.asarray(getattr(one, name)), np.asarray(getattr(other, name))
        assert first.dtype == second.dtype
        assert_array_equal(first, second)
    assert one.n_iter_ == other.n_iter_


@ways
@dtypes
def test_two_fits_with_one_seed_are_identical(Estimator, make_data, way, dtype):
    X, y = make_data(n=300, dtype=dtype)
    model, again = (configured(Estimator, way, random_state=7).fit(X, y) for _ in range(2))
    assert_identical(model, again)
    assert_identical(model, model.fit(X, y))


def test_large_data_is_reproducible_too(Estimator, make_data):
    X, y = make_data(n=30_000, d=40, dtype=np.float32)
    sgd = {"batch_size": 1024, "max_iter": 2, "random_state": 0}
    for way, parameters in {"auto": {"max_iter": 4}, "sgd": sgd}.items():
        one, other = (configured(Estimator, way, **parameters).fit(X, y) for _ in range(2))
        assert_identical(one, other)


def test_another_seed_shuffles_otherwise(Estimator, data):
    one, other = (configured(Estimator, "sgd", random_state=seed).fit(*data) for seed in (0, 1))
    assert (one.coef_ != other.coef_).any()


def test_a_random_state_instance_is_a_seed_that_moves_on(Estimator, data):
    def coefs(states):
        return [configured(Estimator, "sgd", random_state=s).fit(*data).coef_ for s in states]

    first, second = coefs([np.random.RandomState(0)] * 2)
    again, _ = coefs([np.random.RandomState(0)] * 2)
    assert_array_equal(first, again)
    assert (first != second).any()


def global_states():
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return [torch.get_rng_state().tolist(), kind, keys.tolist(), rest, random.getstate()]


@ways
@pytest.mark.parametrize("random_state", [None, 0])
def test_the_global_generators_are_not_moved(Estimator, data, way, random_state):
    X, y = data
    before = global_states()
    model = configured(Estimator, way, random_state=random_state).fit(X, y)
    if not model.early_stopping:
        model.partial_fit(X, y)
    model.predict(X)
    model.to_torch()
    model.to_sklearn()
    assert global_states() == before


def test_the_global_generators_are_not_read(Estimator, data):
    """Without a seed two fits differ, whatever the global generators are seeded with."""
    coefs = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        random.seed(0)
        coefs.append(configured(Estimator, "sgd", random_state=None).fit(*data).coef_)
    assert (coefs[0] != coefs[1]).any()


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def to_memory_map(array, path):
    array.tofile(path)
    return np.memmap(path, dtype=array.dtype, mode="r", shape=array.shape)


CONTAINERS = {
    "array": lambda array, path: array.copy(),
    "read-only array": lambda array, path: read_only(array),
    "memory map": to_memory_map,
    "Fortran order": lambda array, path: np.asfortranarray(array),
    "tensor": lambda array, path: torch.tensor(array),
    "frame": lambda array, path: pd.DataFrame(array) if array.ndim == 2 else pd.Series(array),
    "list": lambda array, path: array.tolist(),
}


@ways
@pytest.mark.parametrize("container", CONTAINERS)
def test_inputs_are_unchanged_to_the_byte(Estimator, data, tmp_path, way, container):
    X, y = data
    weight = np.arange(len(X)) % 4 + 0.5
    weight[::7] = 0
    inputs = {
        "X": X,
        "y": y,
        "sample_weight": weight,
        "X_val": X[::2],
        "y_val": y[::2],
        "sample_weight_val": weight[::2],
    }
    before = {name: value.tobytes() for name, value in inputs.items()}
    passed = {name: CONTAINERS[container](value, tmp_path / name) for name, value in inputs.items()}
    start = np.full_like(Estimator().fit(X, y).coef_, 0.1)
    model = configured(Estimator, way).fit(**passed, coef_init=start)
    model.predict(passed["X"])
    if not model.early_stopping:
        model.partial_fit(passed["X"], passed["y"], passed["sample_weight"])
    for name, value in inputs.items():
        assert np.asarray(passed[name]).astype(value.dtype).tobytes() == before[name]
    assert (start == 0.1).all()


def test_coefficients_are_no_views_of_the_start(Estimator, data):
    start = np.zeros_like(Estimator().fit(*data).coef_)
    model = configured(Estimator, "sgd").fit(*data, coef_init=start)
    assert not np.shares_memory(model.coef_, start)
    old = model.set_params(warm_start=True).coef_
    kept = old.copy()
    assert not np.shares_memory(model.fit(*data).coef_, old)
    assert_array_equal(old, kept)


# Global settings of torch.


@contextlib.contextmanager
def setting(name, value, default):
    """Set ``torch.set_<name>``, and see that nobody else does."""
    getattr(torch, f"set_{name}")(value)
    try:
        yield
        assert getattr(torch, f"get_{name}")() == value
    finally:
        getattr(torch, f"set_{name}")(default)


@contextlib.contextmanager
def mode(context):
    """Enter one of torch's own contexts, and see that nobody leaves it."""

    def state():
        return (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
        )

    with context():
        before = state()
        yield
        assert state() == before


SETTINGS = {
    "default dtype double": lambda: setting("default_dtype", torch.float64, torch.float32),
    "default dtype half": lambda: setting("default_dtype", torch.float16, torch.float32),
    "default device meta": lambda: setting("default_device", torch.device("meta"), None),
    "medium matmul precision": lambda: setting("float32_matmul_precision", "medium", "highest"),
    "autocast": lambda: mode(lambda: torch.autocast("cpu", dtype=torch.bfloat16)),
    "inference mode": lambda: mode(torch.inference_mode),
    "no gradients": lambda: mode(torch.no_grad),
    "gradients": lambda: mode(torch.enable_grad),
}


@ways
@dtypes
@pytest.mark.parametrize("container", [np.asarray, torch.tensor], ids=["numpy", "torch"])
def test_global_settings_of_torch_change_nothing(Estimator, make_data, way, dtype, container):
    X, y = make_data(dtype=dtype)
    weight = np.arange(1.0, len(X) + 1)
    X = container(X)

    def run():
        model = configured(Estimator, way, random_state=0).fit(X, y, weight, X_val=X, y_val=y)
        return model, model.predict(X), model.to_torch()

    model, predictions, module = run()
    for name in SETTINGS:
        with SETTINGS[name]():
            other, other_predictions, other_module = run()
            score = model.score(X, y)
        assert_identical(model, other)
        assert_array_equal(model.validation_loss_curve_, other.validation_loss_curve_)
        assert type(other_predictions) is type(predictions)
        assert other_predictions.dtype == predictions.dtype
        assert_array_equal(np.asarray(other_predictions), np.asarray(predictions))
        assert score == model.score(X, y)
        weights = zip(module.parameters(), other_module.parameters(), strict=True)
        assert all(torch.equal(one, other_one) for one, other_one in weights), name


# Passes one by one.

PASSES = {
    "sgd": {"optimizer": "sgd", "learning_rate": 0.05},
    "momentum": {"optimizer": "sgd", "learning_rate": 0.02, "momentum": 0.9},
    "nesterov": {"optimizer": "sgd", "learning_rate": 0.02, "momentum": 0.9, "nesterov": True},
    "adam": {"optimizer": "adam", "learning_rate": 0.05},
    "adam by auto": {"learning_rate": 0.05},
    "sgd, l1": {"optimizer": "sgd", "learning_rate": 0.05, "alpha": 0.1, "l1_ratio": 0.5},
    "adam, l1": {"optimizer": "adam", "learning_rate": 0.05, "alpha": 0.1, "l1_ratio": 0.5},
    "full batch": {"optimizer": "adam", "learning_rate": 0.05, "batch_size": None},
    "in order": {"optimizer": "sgd", "learning_rate": 0.05, "shuffle": False},
}


@dtypes
@pytest.mark.parametrize("schedule", ["constant", "invscaling", "cosine", "adaptive"])
@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_calls_of_partial_fit_are_passes_of_fit(
    Estimator, make_data, dtype, schedule, passes, weighted
):
    X, y = make_data(dtype=dtype)
    weight = np.arange(1.0, len(X) + 1) if weighted else None
    parameters = {"batch_size": 16, **PASSES[passes]}
    model = Estimator(schedule=schedule, max_iter=5, tol=None, random_state=3, **parameters)
    whole = model.fit(X, y, weight)

    step = Estimator(**model.get_params()).partial_fit(X, y, weight, **classes_for(Estimator))
    for _ in range(4):
        step = pickle.loads(pickle.dumps(step)).partial_fit(X, y, weight)
    assert_identical(step, whole)


def test_calls_of_partial_fit_without_a_seed_go_on_with_one_generator(Estimator, data):
    """A fresh seed each time would repeat or skip rows; the generator's state is kept instead."""
    model = Estimator(optimizer="sgd", learning_rate=0.01, batch_size=16)
    model.partial_fit(*data, **classes_for(Estimator))
    one, other = (pickle.loads(pickle.dumps(model)).partial_fit(*data) for _ in range(2))
    assert_identical(one, other)


def test_fit_keeps_no_optimizer_state(Estimator, data):
    parameters = {"optimizer": "adam", "learning_rate": 0.01, "max_iter": 3, "tol": None}
    model = Estimator(random_state=0, **parameters)
    model.partial_fit(*data, **classes_for(Estimator)).fit(*data)
    fresh = Estimator(random_state=0, **parameters).fit(*data)
    assert vars(model).keys() == vars(fresh).keys()
    assert_identical(model, fresh)
    assert len(pickle.dumps(model)) == len(pickle.dumps(fresh))


def test_the_seed_means_the_same_for_both_kinds_of_labels(data):
    X = np.random.default_rng(0).normal(size=(90, 4))
    numbers = np.arange(90) % 3
    words = np.array(["a", "b", "c"])[numbers]
    one, other = (
        configured(TorchSoftmaxClassifier, "sgd", random_state=0).fit(X, y)
        for y in (numbers, words)
    )
    assert_identical(one, other)
