"""A parameter that makes no sense is refused by ``fit``, before any work, in words that help."""

import re

import numpy as np
import pytest
import torch

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier

NAN, INF = float("nan"), float("inf")

# Of each parameter: what the message says is allowed, and what is not.
BAD = {
    "loss": ("'squared_error', 'huber'", ["hinge", None, 1]),
    "delta": ("(0", [0, -1.0, NAN, INF, "1", None]),
    "alpha": ("[0", [-1e-4, NAN, INF, "0.1", None, True]),
    "l1_ratio": ("[0.0, 1.0]", [-0.1, 1.1, NAN, "elasticnet", None]),
    "fit_intercept": ("bool", ["yes", 1, None]),
    "optimizer": ("'auto', 'sgd', 'adam'", ["lbfgs", None, torch.optim.SGD]),
    "learning_rate": ("(0", [0, -0.1, NAN, INF, "fast", None, True, [0.1]]),
    "schedule": ("'constant', 'invscaling', 'cosine', 'adaptive'", ["linear", None]),
    "momentum": ("[0.0, 1.0)", [-0.1, 1.0, NAN, "0.9", None]),
    "nesterov": ("bool", [1, "yes", None]),
    "betas": ("[0.0, 1.0)", [0.9, (0.9,), (0.9, 1.0), (-0.1, 0.9), ("a", "b"), None]),
    "batch_size": ("'auto'", [0, -1, 32.0, "full", True]),
    "max_iter": ("int", [0, -5, 10.0, NAN, "100", None]),
    "tol": ("[0", [-1e-4, NAN, INF, "tight", True]),
    "n_iter_no_change": ("int", [0, 2.5, "5", None]),
    "shuffle": ("bool", ["yes", 0, None]),
    "early_stopping": ("bool", ["yes", 1, None]),
    "validation_fraction": ("(0.0, 1.0)", [0.0, 1.0, -0.1, NAN, "half", None]),
    "class_weight": ("'balanced'", ["even", [1, 2], 2.0]),
    "warm_start": ("bool", ["yes", 1, None]),
    "device": ("torch.device", [None, 1.5, ["cpu"], True]),
    "distributed": ("bool", [2, "yes", None]),
    "random_state": ("RandomState", [-1, 0.5, "seed", np.random.default_rng(0)]),
    "verbose": ("int", [-1, 0.5, "loudly", None]),
}


class Untouchable:
    """Data that nobody may look at."""

    def __getattr__(self, name):
        raise AssertionError(f"the data was looked at: {name}")


CASES = [
    pytest.param(Estimator, name, id=f"{Estimator.__name__}-{name}")
    for Estimator in (TorchLinearRegressor, TorchSoftmaxClassifier)
    for name in Estimator().get_params()
]


@pytest.mark.parametrize(("Estimator", "name"), CASES)
def test_a_bad_parameter_is_refused_before_any_work(Estimator, name):
    allowed, values = BAD[name]
    for value in values:
        model = Estimator(**{name: value})
        with pytest.raises((ValueError, TypeError)) as caught:
            model.fit(Untouchable(), Untouchable())
        message = str(caught.value)
        for words in (name, repr(value), allowed, Estimator.__name__):
            assert words in message
        assert vars(model) == vars(Estimator(**{name: value}))


def test_partial_fit_refuses_a_bad_parameter_too(Estimator):
    classes = {} if Estimator is TorchLinearRegressor else {"classes": [0, 1]}
    with pytest.raises(ValueError, match=r"The 'alpha' parameter .* Got -1 instead"):
        Estimator(alpha=-1).partial_fit(Untouchable(), Untouchable(), **classes)


def test_nesterov_needs_momentum(Estimator, data):
    with pytest.raises(ValueError, match=r"'nesterov' .* 'momentum' .*nesterov=True and momentum="):
        Estimator(optimizer="sgd", nesterov=True).fit(*data)


def test_numbers_may_be_of_numpy(Estimator, data):
    model = Estimator(
        alpha=np.float32(0.01),
        l1_ratio=np.float64(0.5),
        fit_intercept=np.bool_(True),
        optimizer="adam",
        learning_rate=np.float64(0.01),
        betas=[0.9, 0.99],
        batch_size=np.int64(32),
        max_iter=np.int32(3),
        tol=None,
        random_state=np.int64(0),
        verbose=np.int64(0),
    ).fit(*data)
    assert model.n_iter_ == 3


@pytest.mark.filterwarnings("ignore:Parameters of this .* no effect")
def test_parameters_without_meaning_for_the_optimizer_are_ignored(Estimator, data):
    def coef(**parameters):
        return Estimator(learning_rate=0.01, max_iter=3, tol=None, **parameters).fit(*data).coef_

    adam, sgd = {"optimizer": "adam"}, {"optimizer": "sgd"}
    np.testing.assert_array_equal(coef(momentum=0.9, nesterov=True, **adam), coef(**adam))
    np.testing.assert_array_equal(coef(betas=(0.5, 0.5), **sgd), coef(**sgd))


def test_auto_with_a_number_for_the_learning_rate_is_adam(Estimator, data):
    numbers = {"learning_rate": 0.01, "max_iter": 3, "tol": None}
    model = Estimator(**numbers).fit(*data)
    adam = Estimator(optimizer="adam", **numbers).fit(*data)
    assert model.optimizer_ == adam.optimizer_ == "adam"
    assert model.learning_rate_ == 0.01
    np.testing.assert_array_equal(model.coef_, adam.coef_)


@pytest.mark.parametrize("class_weight", [{0: -1.0}, {0: NAN}, {1: INF}])
def test_class_weights_are_finite_and_not_negative(class_weight):
    X, y = np.eye(4), [0, 1, 0, 1]
    expected = "class_weight must be finite and not negative. Got " + re.escape(repr(class_weight))
    with pytest.raises(ValueError, match=expected):
        TorchSoftmaxClassifier(class_weight=class_weight).fit(X, y)


def test_class_weights_leave_something_to_learn_from():
    with pytest.raises(ValueError, match=r"Class weights must leave .* 0 for all labels in y\."):
        TorchSoftmaxClassifier(class_weight={0: 0, 1: 0}).fit(np.eye(4), [0, 1, 0, 1])


def test_class_weights_of_unknown_labels_are_refused():
    with pytest.raises(ValueError, match=r"The classes, \[0, 1\], are not in class_weight"):
        TorchSoftmaxClassifier(class_weight={"a": 2.0, "b": 1.0}).fit(np.eye(4), [0, 1, 0, 1])


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), "cpu:0", "auto"])
def test_the_cpu_by_any_name(Estimator, data, device):
    assert Estimator(device=device).fit(*data).device_.startswith("cpu")


@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda")])
def test_cuda_where_there_is_none_names_the_devices_there_are(Estimator, data, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"device='?cuda.* is not available.*\['cpu'\]"):
        Estimator(device=device).fit(*data)


@pytest.mark.parametrize("device", ["meta", "mps", "xpu", "vulkan"])
def test_a_device_that_is_not_here_is_refused(Estimator, data, device):
    with pytest.raises(ValueError, match=rf"device='{device}' is not available.*'cpu'"):
        Estimator(device=device).fit(*data)


@pytest.mark.parametrize("device", ["gpu", "", "cuda:x", -1])
def test_what_torch_does_not_know_as_a_device_is_refused(Estimator, data, device):
    with pytest.raises(ValueError, match=rf"device={device!r}.*'cpu'"):
        Estimator(device=device).fit(*data)
