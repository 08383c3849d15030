"""What X and y may be held in, and in which precision the answer comes."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier


def nested_list(X):
    return X.tolist()


def negative_strides(X):
    return X[::-1, ::-1].copy()[::-1, ::-1]


def strided(X):
    return np.repeat(X, 2, axis=1)[:, ::2]


def strided_tensor(X):
    return torch.tensor(np.repeat(X, 2, axis=1))[:, ::2]


def transposed_tensor(X):
    return torch.tensor(X.T.copy()).T


def big_endian(X):
    return X.astype(">f8")


FORMS = [
    nested_list,
    np.asfortranarray,
    negative_strides,
    strided,
    big_endian,
    pd.DataFrame,
    pl.DataFrame,
    torch.tensor,
    strided_tensor,
    transposed_tensor,
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("optimizer", ["auto", "sgd"])
def test_the_form_of_x_changes_nothing(Estimator, data, form, optimizer):
    X, y = data
    model = Estimator(optimizer=optimizer, learning_rate="auto", max_iter=5, tol=None)
    plain, formed = model.fit(X, y).coef_, model.fit(form(X), y).coef_
    assert type(formed) is np.ndarray
    assert_array_equal(formed, plain)
    assert_allclose(model.predict(form(X)), model.fit(X, y).predict(X), rtol=1e-13)


def reversed_in_memory(y):
    return y[::-1].copy()[::-1]


def field_of_records(y):
    records = np.zeros(len(y), dtype=[("flag", "i1"), ("y", y.dtype)])
    records["y"] = y
    return records["y"]


@pytest.mark.parametrize(
    "form",
    [
        np.ndarray.tolist,
        reversed_in_memory,
        field_of_records,
        pd.Series,
        pl.Series,
        torch.tensor,
    ],
    ids=["list", "reversed", "records", "pandas", "polars", "torch"],
)
def test_the_form_of_y_and_of_weights_changes_nothing(Estimator, data, form):
    X, y = data
    weight = np.arange(len(X)) % 3.0
    plain = Estimator().fit(X, y, weight, X_val=X, y_val=y, sample_weight_val=weight)
    formed = Estimator().fit(
        X, form(y), form(weight), X_val=X, y_val=form(y), sample_weight_val=form(weight)
    )
    assert_array_equal(formed.coef_, plain.coef_)
    assert_array_equal(formed.validation_loss_curve_, plain.validation_loss_curve_)
    assert formed.score(X, form(y)) == plain.score(X, y)


def test_a_polars_frame_brings_the_names_of_its_columns(Estimator, data):
    X, y = data
    model = Estimator().fit(pl.DataFrame(X, schema=list("abcd")), y)
    assert model.feature_names_in_.tolist() == list("abcd")


def test_two_targets_may_be_a_frame():
    X, Y = np.random.default_rng(0).normal(size=(2, 30, 2))
    plain = TorchLinearRegressor().fit(X, Y).coef_
    for form in (pd.DataFrame, pl.DataFrame, np.asfortranarray, torch.tensor, np.ndarray.tolist):
        assert_array_equal(TorchLinearRegressor().fit(X, form(Y)).coef_, plain)


def test_torch_in_torch_out(Estimator, data):
    X, y = data
    plain = Estimator().fit(X, y)
    model = Estimator().fit(torch.tensor(X), torch.tensor(y), torch.ones(len(y)))
    assert_array_equal(model.coef_, plain.coef_)
    for name in ("coef_", "intercept_", "loss_curve_"):
        assert isinstance(getattr(model, name), np.ndarray | np.floating)
    assert model.score(torch.tensor(X), torch.tensor(y)) == pytest.approx(plain.score(X, y))

    methods = ["predict"]
    if Estimator is TorchSoftmaxClassifier:
        methods += ["decision_function", "predict_proba", "predict_log_proba"]
    for method in methods:
        tensors, arrays = getattr(model, method)(torch.tensor(X)), getattr(model, method)(X)
        assert isinstance(tensors, torch.Tensor)
        assert not tensors.requires_grad
        assert isinstance(arrays, np.ndarray)
        assert tensors.numpy().dtype == arrays.dtype
        assert_allclose(tensors, arrays, rtol=1e-12)


@pytest.mark.parametrize(
    ("given", "computed"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.int64, torch.float64),
        (torch.uint8, torch.float64),
        (torch.bool, torch.float64),
    ],
    ids=str,
)
def test_the_precision_of_tensors(Estimator, data, given, computed):
    X, y = data
    X = (torch.tensor(X).sign() + 1).to(given)
    model = Estimator().fit(X, y)
    assert model.coef_.dtype == torch.empty(0, dtype=computed).numpy().dtype
    output = model.decision_function(X) if Estimator is TorchSoftmaxClassifier else model.predict(X)
    assert output.dtype == computed
    wide = Estimator().fit(X.to(computed), y)
    assert_array_equal(model.coef_, wide.coef_)


@pytest.mark.parametrize(
    ("given", "computed"),
    [
        (np.float16, np.float32),
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.int32, np.float64),
        (np.int64, np.float64),
        (np.bool_, np.float64),
    ],
)
def test_the_precision_of_arrays(Estimator, data, given, computed):
    X, y = data
    X = (np.sign(X) + 1).astype(given)
    y = y.astype(np.float32) if Estimator is TorchLinearRegressor else y
    model = Estimator().fit(X, y)
    outputs = [model.coef_, model.intercept_]
    if Estimator is TorchSoftmaxClassifier:
        outputs += [model.decision_function(X), model.predict_proba(X), model.predict_log_proba(X)]
    else:
        outputs += [model.predict(X)]
    assert {output.dtype.type for output in outputs} == {computed}


def test_predictions_come_in_the_precision_of_their_own_x():
    X = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    model = TorchLinearRegressor().fit(X, X[:, 0])
    assert model.predict(X.astype(np.float64)).dtype == np.float64
    model.fit(X.astype(np.float64), X[:, 0])
    assert model.predict(X).dtype == np.float32


def test_float32_is_as_good_as_it_gets(Estimator, make_data):
    X, y = make_data(n=500)
    precise = Estimator(tol=1e-12).fit(X, y)
    model = Estimator(tol=1e-12).fit(X.astype(np.float32), y)
    assert model.coef_.dtype == np.float32
    assert_allclose(model.coef_, precise.coef_, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_the_score_of_tensors_in_any_precision(dtype):
    X = torch.tensor(np.random.default_rng(0).normal(size=(60, 3))).to(dtype)
    y, labels = X[:, 0], (X[:, 0] > 0).to(dtype)
    tracked = X.clone().requires_grad_()
    assert TorchLinearRegressor().fit(X, y).score(tracked, tracked[:, 0]) > 0.99
    assert TorchSoftmaxClassifier().fit(X, labels).score(tracked, labels) > 0.9


def test_gradients_end_at_the_estimator(Estimator, data):
    X, y = data
    tracked = torch.tensor(X, requires_grad=True)
    model = Estimator().fit(tracked, y)
    assert not model.predict(tracked).requires_grad
    assert tracked.grad is None
    assert_array_equal(model.coef_, Estimator().fit(X, y).coef_)


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([3, 1, 2]),
        torch.tensor([3, 1, 2], dtype=torch.int32),
        torch.tensor([0, 5, 255], dtype=torch.uint8),
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([False, True]),
    ],
    ids=lambda labels: str(labels.dtype),
)
def test_labels_that_are_tensors_come_back_as_such(labels):
    X = torch.tensor(np.random.default_rng(0).normal(size=(90, 4)))
    y = labels[torch.arange(90) % len(labels)]
    model = TorchSoftmaxClassifier().fit(X, y)
    assert_array_equal(model.classes_, labels.sort().values)
    predictions = model.predict(X)
    assert predictions.dtype == labels.dtype
    assert set(predictions.tolist()) <= set(labels.tolist())
    assert_array_equal(predictions, model.predict(X.numpy()))


def test_labels_that_are_strings_come_as_numpy():
    X = torch.tensor(np.random.default_rng(0).normal(size=(90, 4)))
    y = np.array(["a", "b", "c"])[np.arange(90) % 3]
    model = TorchSoftmaxClassifier().fit(X, y)
    predictions = model.predict(X)
    assert isinstance(predictions, np.ndarray)
    assert_array_equal(predictions, model.predict(X.numpy()))
    assert isinstance(model.predict_proba(X), torch.Tensor)


LABELS = {
    "strings": ["b", "a", "c"],
    "objects": np.array(["b", "a", "c"], dtype=object),
    "integers": [-7, 40, 3],
    "booleans": [True, False],
    "whole floats": [2.0, 1.0],
}


@pytest.mark.parametrize("labels", LABELS)
def test_labels_may_be_anything(labels):
    labels = np.asarray(LABELS[labels])
    X = np.random.default_rng(0).normal(size=(90, 4))
    y = np.resize(labels, 90)
    X[:, 0] += 5 * (y == labels[0])
    model = TorchSoftmaxClassifier().fit(X, y)
    assert_array_equal(model.classes_, np.unique(labels))
    assert model.classes_.dtype == labels.dtype
    predictions = model.predict(X)
    assert predictions.dtype == labels.dtype
    assert ((predictions == labels[0]) == (y == labels[0])).mean() > 0.9
