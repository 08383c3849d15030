"""The public surface as a type checker sees it; mypy reads this file, and pytest runs it."""

import tomllib
from pathlib import Path
from typing import assert_type

import numpy as np
import pytest
import torch

import skorchless
from skorchless import (
    BatchedGridSearchCV,
    BatchedRandomizedSearchCV,
    LossCurveDisplay,
    TorchLinearRegressor,
    TorchSoftmaxClassifier,
)

X = np.random.default_rng(0).normal(size=(40, 3))
y = X[:, 0] > 0


class OfMyOwn(TorchLinearRegressor):
    """A subclass, which methods return as such."""


def test_every_public_name_is_in_here() -> None:
    assert set(skorchless.__all__) <= set(globals())


def test_the_types_are_shipped() -> None:
    assert (Path(skorchless.__file__).parent / "py.typed").exists()
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    shipped = tomllib.loads(project)["tool"]["setuptools"]["package-data"]
    assert shipped == {"skorchless": ["py.typed"]}


def test_the_version_is_a_string() -> None:
    assert_type(skorchless.__version__, str)
    assert skorchless.__version__


def test_fitting_returns_the_estimator() -> None:
    assert_type(TorchLinearRegressor(alpha=0.1).fit(X, y), TorchLinearRegressor)
    assert_type(TorchLinearRegressor().partial_fit(X, y), TorchLinearRegressor)
    assert_type(TorchSoftmaxClassifier(max_iter=50, tol=None).fit(X, y), TorchSoftmaxClassifier)
    classes = [False, True]
    fresh = TorchSoftmaxClassifier().partial_fit(X, y, classes=classes)
    assert_type(fresh, TorchSoftmaxClassifier)
    mine = OfMyOwn().fit(X, y)
    assert_type(mine, OfMyOwn)
    assert type(mine) is OfMyOwn


def test_parameters_take_what_they_are_documented_to() -> None:
    TorchLinearRegressor(
        loss="huber",
        delta=2,
        learning_rate=0.1,
        betas=(0.8, 0.9),
        batch_size=None,
        tol=None,
        device=torch.device("cpu"),
        random_state=np.random.RandomState(0),
        verbose=1,
    )
    TorchSoftmaxClassifier(
        learning_rate="auto", batch_size="auto", class_weight={0: 1.0, 1: 2.0}, device="cpu"
    )
    TorchSoftmaxClassifier(class_weight="balanced", batch_size=32)


def test_fitted_attributes_have_types() -> None:
    model = TorchSoftmaxClassifier().fit(X, y, X_val=X, y_val=y)
    assert_type(model.classes_, np.ndarray)
    assert_type(model.coef_, np.ndarray)
    assert_type(model.loss_curve_, np.ndarray)
    assert_type(model.validation_loss_curve_, np.ndarray)
    assert_type(model.n_features_in_, int)
    assert_type(model.n_iter_, int)
    assert_type(model.best_iter_, int)
    assert_type(model.learning_rate_, float)
    assert_type(model.optimizer_, str)
    assert_type(model.device_, str)
    assert isinstance(model.n_iter_, int)
    assert isinstance(model.learning_rate_, float)
    assert isinstance(model.optimizer_, str)


def test_what_methods_give() -> None:
    regressor, classifier = TorchLinearRegressor().fit(X, y), TorchSoftmaxClassifier().fit(X, y)
    assert_type(regressor.score(X, y), float)
    assert_type(classifier.score(X, y, np.ones(40)), float)
    assert_type(regressor.to_torch(), torch.nn.Module)
    assert_type(classifier.to_torch(), torch.nn.Module)
    assert isinstance(regressor.score(X, y), float)
    assert isinstance(classifier.to_torch(), torch.nn.Module)


def test_searches_are_searches() -> None:
    model = TorchSoftmaxClassifier(optimizer="sgd", learning_rate=0.1, max_iter=3, tol=None)
    grid = BatchedGridSearchCV(model, {"alpha": [0.0, 1.0]}, cv=2).fit(X, y)
    assert_type(grid, BatchedGridSearchCV)
    assert_type(grid.loss_curves_, list[list[np.ndarray]])
    drawn = BatchedRandomizedSearchCV(model, {"alpha": [0.0, 1.0]}, n_iter=2, cv=2).fit(X, y)
    assert_type(drawn, BatchedRandomizedSearchCV)
    assert isinstance(grid.loss_curves_[0][0], np.ndarray)


def test_a_display_is_a_display() -> None:
    model = TorchLinearRegressor().fit(X, y)
    drawn = LossCurveDisplay.from_estimator(model, name="mine", scale="log")
    assert_type(drawn, LossCurveDisplay)
    assert_type(LossCurveDisplay(loss_curves=[[2.0, 1.0]]).plot(), LossCurveDisplay)


def test_a_mistake_is_one_to_the_type_checker_too() -> None:
    with pytest.raises(TypeError):
        TorchLinearRegressor(alhpa=0.1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        TorchSoftmaxClassifier(loss="huber")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        TorchLinearRegressor("huber")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        TorchLinearRegressor().fit(X, y, None, X)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        TorchSoftmaxClassifier(alpha="strong").fit(X, y)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scale"):
        LossCurveDisplay(loss_curves=[[1.0]]).plot(scale="symlog")
