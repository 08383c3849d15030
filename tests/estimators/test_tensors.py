"""Tensors among scikit-learn's own parts, before the estimator and behind it."""

import numpy as np
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from packaging.version import Version
from sklearn import config_context, metrics
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier

with_array_api = pytest.mark.skipif(
    Version(sklearn.__version__) < Version("1.9"),
    reason="scikit-learn's scaler and metrics take tensors in later versions",
)
ELSEWHERE = "meta"  # a device that every machine has, and from which nothing can be read


@with_array_api
@config_context(array_api_dispatch=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_scaler_of_tensors_goes_in_front(Estimator, make_data, dtype):
    X, y = make_data()
    X = torch.tensor(100 * X + 7).to(dtype)
    model = make_pipeline(StandardScaler(), Estimator()).fit(X, torch.tensor(y))
    assert isinstance(model[0].mean_, torch.Tensor)
    predictions = model.predict(X)
    assert isinstance(predictions, torch.Tensor)
    plain = make_pipeline(StandardScaler(), Estimator()).fit(X.numpy(), y)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    assert_allclose(predictions, plain.predict(X.numpy()), rtol=tolerance, atol=tolerance)
    assert model.score(X, torch.tensor(y)) == pytest.approx(plain.score(X.numpy(), y), abs=1e-4)


@with_array_api
@config_context(array_api_dispatch=True)
@pytest.mark.parametrize(
    "metric", [metrics.r2_score, metrics.mean_squared_error, metrics.mean_absolute_error]
)
def test_metrics_of_predicted_numbers_go_behind(metric):
    X = torch.tensor(np.random.default_rng(0).normal(size=(60, 3)))
    y = X @ torch.tensor([1.0, -1.0, 2.0], dtype=X.dtype) + 0.1 * torch.sin(9 * X[:, 0])
    predictions = TorchLinearRegressor().fit(X, y).predict(X)
    found = float(metric(y, predictions))
    with config_context(array_api_dispatch=False):
        assert found == pytest.approx(metric(y.numpy(), predictions.numpy()), rel=1e-9)


@with_array_api
@config_context(array_api_dispatch=True)
@pytest.mark.parametrize(
    ("metric", "method", "arguments"),
    [
        (metrics.accuracy_score, "predict", {}),
        (metrics.f1_score, "predict", {"average": "macro"}),
        (metrics.log_loss, "predict_proba", {}),
        (metrics.brier_score_loss, "predict_proba", {}),
    ],
)
def test_metrics_of_predicted_classes_go_behind(metric, method, arguments):
    X = torch.tensor(np.random.default_rng(0).normal(size=(90, 3)))
    y = (X + 0.8 * torch.cos(7 * X.flip(1))).argmax(dim=1)
    predictions = getattr(TorchSoftmaxClassifier(alpha=0.1).fit(X, y), method)(X)
    found = float(metric(y, predictions, **arguments))
    with config_context(array_api_dispatch=False):
        expected = metric(y.numpy(), predictions.numpy(), **arguments)
    assert found == pytest.approx(expected, rel=1e-6)  # scikit-learn counts in float32


@pytest.mark.parametrize("name", ["y", "sample_weight"])
def test_tensors_on_two_devices_are_refused_in_scikit_learns_words(Estimator, data, name):
    X, y = (torch.tensor(values) for values in data)
    arguments = {"y": y, "sample_weight": torch.ones(len(y))}
    arguments[name] = arguments[name].to(ELSEWHERE)
    with pytest.raises(
        ValueError, match=rf"Input arrays use different devices: cpu, meta \(X, {name}"
    ):
        Estimator().fit(X, **arguments)
    with pytest.raises(ValueError, match="Input arrays use different devices"):
        classes = {} if Estimator is TorchLinearRegressor else {"classes": [0, 1, 2]}
        Estimator().partial_fit(X, **arguments, **classes)


def test_scores_of_tensors_on_two_devices_are_refused(Estimator, data):
    X, y = (torch.tensor(values) for values in data)
    model = Estimator().fit(X, y)
    for rows in (X, X.numpy()):
        with pytest.raises(ValueError, match=r"different devices: cpu, meta \(X, y\)"):
            model.score(rows, y.to(ELSEWHERE))
        with pytest.raises(ValueError, match=r"different devices: cpu, meta \(X, sample_weight\)"):
            model.score(rows, y, torch.ones(len(y), device=ELSEWHERE))


def test_validation_data_on_another_device_are_refused(Estimator, data):
    X, y = (torch.tensor(values) for values in data)
    with pytest.raises(ValueError, match=r"different devices: cpu, meta \(X, X_val\)"):
        Estimator().fit(X, y, X_val=X.to(ELSEWHERE), y_val=y)
    with pytest.raises(ValueError, match=r"different devices: cpu, meta"):
        Estimator().fit(X, y, X_val=X, y_val=y.to(ELSEWHERE))


def test_everything_may_be_a_tensor(Estimator, data):
    X, y = (torch.tensor(values) for values in data)
    weight = torch.arange(1.0, len(y) + 1)
    sgd = {"early_stopping": True, "optimizer": "sgd", "max_iter": 5, "tol": None}
    tensors = Estimator(**sgd, random_state=0)
    tensors.fit(X, y, weight, X_val=X, y_val=y, sample_weight_val=weight)
    held_out = {"X_val": data[0], "y_val": data[1], "sample_weight_val": weight.numpy()}
    arrays = Estimator(**sgd, random_state=0).fit(*data, weight.numpy(), **held_out)
    assert_array_equal(tensors.coef_, arrays.coef_)
    assert_array_equal(tensors.validation_loss_curve_, arrays.validation_loss_curve_)
    assert tensors.score(X, y, weight) == pytest.approx(arrays.score(*data, weight.numpy()))
    start = torch.tensor(tensors.coef_), torch.tensor(tensors.intercept_)
    again = Estimator().fit(X, y, coef_init=start[0], intercept_init=start[1])
    assert again.n_iter_ >= 1


def test_weights_of_classes_for_tensors():
    X = torch.tensor(np.random.default_rng(0).normal(size=(90, 3)))
    y = torch.arange(90) % 3
    for class_weight in ("balanced", {0: 1.0, 1: 2.0, 2: 0.0}, {0: 1.0, 1: 2.0, 2: 0.5}):
        model = TorchSoftmaxClassifier(class_weight=class_weight)
        tensors = model.fit(X, y, torch.arange(1.0, 91)).coef_
        assert_array_equal(tensors, model.fit(X.numpy(), y.numpy(), np.arange(1.0, 91)).coef_)
