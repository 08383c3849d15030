"""Mistakes that users make: the error names what is at fault and says what helps."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.base import clone
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skorchless import (
    BatchedGridSearchCV,
    BatchedRandomizedSearchCV,
    TorchLinearRegressor,
    TorchSoftmaxClassifier,
)


def message_of(call, kind=(ValueError, TypeError)):
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


# Arguments of the public methods.


class Subclass(TorchSoftmaxClassifier):
    """Has the fit of its base."""


def test_an_unknown_argument_names_the_estimator_and_fit(Estimator, data):
    wanted = f"{Estimator.__name__}.fit() got an unexpected keyword argument 'weights'"
    assert message_of(lambda: Estimator().fit(*data, weights=1), TypeError) == wanted
    search = BatchedGridSearchCV(Estimator(), {"alpha": [0.1, 1.0]}, error_score="raise")
    assert message_of(lambda: search.fit(*data, weights=1), TypeError) == wanted


def test_a_missing_argument_names_the_estimator_and_fit(Estimator, data):
    message = message_of(lambda: Estimator().fit(data[0]), TypeError)
    assert message.startswith(f"{Estimator.__name__}.fit() missing")


def test_a_subclass_has_the_fit_of_its_base():
    assert Subclass.fit is TorchSoftmaxClassifier.fit
    assert TorchSoftmaxClassifier.fit.__doc__ == TorchLinearRegressor.fit.__doc__
    model = Subclass().fit(np.eye(4), [0, 1, 0, 1])
    assert pickle.loads(pickle.dumps(clone(model))).fit(np.eye(4), [0, 1, 0, 1]).n_iter_


# Classes in the place of instances.


@pytest.mark.parametrize("piped", [False, True], ids=["alone", "piped"])
@pytest.mark.parametrize("Search", [BatchedGridSearchCV, BatchedRandomizedSearchCV])
def test_a_class_is_no_estimator(Estimator, data, Search, piped):
    estimator = (
        Pipeline([("scale", StandardScaler()), ("model", Estimator)]) if piped else Estimator
    )
    search = Search(estimator, {"model__alpha" if piped else "alpha": [0.1]})
    message = message_of(lambda: search.fit(*data), TypeError)
    assert message == f"{Search.__name__} needs an instance. Pass {Estimator.__name__}()."


# Devices.


@pytest.mark.parametrize(
    ("device", "meant"),
    [("gpu", "cuda"), ("GPU", "cuda"), ("gpu:1", "cuda:1"), ("CUDA", "cuda"), ("CPU", "cpu")],
)
def test_a_misspelt_device_is_guessed(Estimator, data, device, meant):
    message = message_of(lambda: Estimator(device=device).fit(*data), ValueError)
    assert f"device={device!r}" in message
    assert f"Did you mean {meant!r}?" in message


@pytest.mark.parametrize("device", ["fast", "cuda:x", "gpux"])
def test_a_device_that_resembles_none_is_not_guessed(Estimator, data, device):
    message = message_of(lambda: Estimator(device=device).fit(*data), ValueError)
    assert "Did you mean" not in message


@pytest.mark.parametrize(
    ("build", "why"),
    [(None, "CPU build of torch; install a CUDA build"), ("13.0", "torch finds no CUDA device")],
)
def test_cuda_that_is_not_there_says_why(Estimator, data, monkeypatch, build, why):
    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    message = message_of(lambda: Estimator(device="cuda").fit(*data), ValueError)
    for words in ("device='cuda' is not available", why, "device='auto' uses", "['cpu']"):
        assert words in message


# Targets.


@pytest.mark.parametrize(
    "container", [np.asarray, torch.as_tensor, pd.DataFrame, np.ndarray.tolist]
)
def test_one_hot_labels_are_recognised(container):
    labels = container(np.eye(3)[[0, 1, 2, 0]])
    message = message_of(lambda: TorchSoftmaxClassifier().fit(np.eye(4), labels), ValueError)
    assert "y should be a 1d array" in message
    assert "one-hot" in message
    assert ".argmax(y, axis=1)" in message or "y.argmax(axis=1)" in message


def test_several_labels_per_sample_have_a_cure():
    labels = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 0], [0, 0, 1]])
    message = message_of(lambda: TorchSoftmaxClassifier().fit(np.eye(4), labels), ValueError)
    assert "MultiOutputClassifier" in message


def test_validation_labels_that_are_one_hot_are_named():
    y, one_hot = [0, 1, 2, 0], np.eye(3)[[0, 1, 2, 0]]
    model = TorchSoftmaxClassifier()
    message = message_of(
        lambda: model.fit(np.eye(4), y, X_val=np.eye(4), y_val=one_hot), ValueError
    )
    assert "y_val.argmax(axis=1)" in message


@pytest.mark.parametrize("container", [np.asarray, pd.Series, np.ndarray.tolist])
def test_labels_are_no_targets_of_a_regressor(container):
    labels = container(np.array(["cat", "dog", "cat", "dog"]))
    message = message_of(lambda: TorchLinearRegressor().fit(np.eye(4), labels), ValueError)
    assert "could not convert string to float" in message
    assert "y must be numeric" in message
    assert "TorchSoftmaxClassifier" in message


# Columns that hold no numbers.

FRAME = pd.DataFrame({"size": [1.0, 2.0, 3.0, 4.0], "colour": ["red", "blue", "red", "blue"]})
ENCODE = "Encode it as numbers first, for example with OneHotEncoder in a ColumnTransformer"
WITH_TEXT = {
    "pandas": (FRAME, "column 'colour'"),
    "category": (FRAME.astype({"colour": "category"}), "column 'colour'"),
    "object": (FRAME.astype({"colour": object}), "column 'colour'"),
    "polars": (pl.DataFrame(FRAME.to_dict("list")), "column 'colour'"),
    "array": (FRAME.to_numpy(), "column 1"),
    "list": (FRAME.to_numpy().tolist(), "column 1"),
    "strings": (FRAME.to_numpy().astype(str), "column 1"),
}


@pytest.mark.parametrize("kind", WITH_TEXT)
def test_a_column_of_strings_is_named_with_the_cure(Estimator, kind):
    X, named = WITH_TEXT[kind]
    message = message_of(lambda: Estimator().fit(X, [0, 1, 1, 0]), ValueError)
    for words in ("Input X: could not convert string to float: ", "'red'", named, ENCODE):
        assert words in message


def test_a_column_of_strings_is_named_in_predict_and_in_x_val(Estimator):
    numbers = FRAME.assign(colour=[1.0, 2.0, 0.0, 1.0])
    y = [0, 1, 1, 0]
    model = Estimator().fit(numbers, y)
    assert "column 'colour'" in message_of(lambda: model.predict(FRAME), ValueError)
    message = message_of(lambda: Estimator().fit(numbers, y, X_val=FRAME, y_val=y), ValueError)
    assert "X_val" in message
    assert "column 'colour'" in message


def test_a_column_of_dates_is_named_with_the_cure(Estimator):
    X = pd.DataFrame({"size": [1.0, 2.0, 3.0, 4.0], "day": pd.date_range("2026-01-01", periods=4)})
    message = message_of(lambda: Estimator().fit(X, [0, 1, 1, 0]))
    assert "column 'day'" in message
    assert "datetime64" in message
    assert "Pass numbers" in message


# Divergence.


def test_a_loss_that_keeps_rising_names_the_rate_and_the_cures():
    X = np.random.default_rng(0).normal(size=(90, 4))
    model = TorchLinearRegressor(optimizer="sgd", learning_rate=10.0)
    message = message_of(lambda: model.fit(X, X.sum(axis=1)), ValueError)
    for words in ("kept rising until epoch", "learning rate of 10 ", "smaller learning_rate"):
        assert words in message
    piped = make_pipeline(
        StandardScaler(), TorchLinearRegressor(optimizer="sgd", learning_rate=10.0)
    )
    assert "learning_rate='auto'" in message_of(lambda: piped.fit(X, X.sum(axis=1)), ValueError)


# Parameters, missing values and starts.


def test_a_schedule_is_no_learning_rate(Estimator, data):
    message = message_of(lambda: Estimator(learning_rate="adaptive").fit(*data), ValueError)
    assert message.endswith("Got 'adaptive' instead. Did you mean schedule='adaptive'?")
    assert "Did you mean" not in message_of(lambda: Estimator(learning_rate="x").fit(*data))


def test_missing_values_in_a_tensor_tell_the_cure(Estimator, data):
    X, y = torch.tensor(data[0]), data[1]
    X[3, 1] = torch.nan
    message = message_of(lambda: Estimator().fit(X, y), ValueError)
    assert message == "Input X contains NaN. Leave out samples with missing values, or impute them."


def test_a_warm_start_with_other_columns_tells_the_cure(Estimator, data):
    X, y = data
    model = Estimator(warm_start=True).fit(X, y)
    message = message_of(lambda: model.fit(X[:, :3], y), ValueError)
    assert "this data needs" in message
    assert message.endswith("With warm_start=False, fit starts anew.")


def test_what_has_no_effect_whatever_the_optimizer_is_said_without_it():
    with pytest.warns(UserWarning, match="no effect") as caught:
        TorchLinearRegressor(l1_ratio=1.0).fit(np.eye(4), np.arange(4.0))
    [warning] = caught
    assert "quasi-Newton" not in str(warning.message)
