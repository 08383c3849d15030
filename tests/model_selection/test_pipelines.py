"""Transformers are fitted once for all that share them, by the pipeline itself."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skorchless import TorchSoftmaxClassifier
from skorchless.model_selection.pipelines import (
    FittedSteps,
    final_name,
    final_of,
    rows_of,
    token,
    with_final,
)


class Shift(TransformerMixin, BaseEstimator):
    """Adds the mean of what it was fitted on, and counts its fits."""

    fits = 0

    def __init__(self, by=1.0):
        self.by = by

    def fit(self, X, y=None, sample_weight=None):
        Shift.fits += 1
        self.mean_ = np.average(X, axis=0, weights=sample_weight)
        return self

    def transform(self, X):
        return X + self.by * self.mean_


@pytest.fixture(autouse=True)
def counter():
    Shift.fits = 0


@pytest.fixture
def nested():
    inner = Pipeline([("second", Shift(2.0)), ("last", TorchSoftmaxClassifier())])
    return Pipeline([("first", Shift()), ("inner", inner)])


def test_the_last_step_is_found_and_replaced_in_nested_pipelines(nested):
    assert final_name(nested) == "inner__last__"
    assert final_name(TorchSoftmaxClassifier()) == ""
    assert isinstance(final_of(nested), TorchSoftmaxClassifier)
    other = TorchSoftmaxClassifier(alpha=1.0)
    changed = with_final(nested, other)
    assert final_of(changed) is other and final_of(nested) is not other
    assert changed["first"] is nested["first"]
    assert with_final(final_of(nested), other) is other


def test_rows_are_what_reaches_the_last_step(nested, classes):
    X, y = classes
    rows = rows_of(nested, X, y, {}, FittedSteps())
    once = X + X.mean(axis=0)
    twice = once + 2.0 * once.mean(axis=0)
    np.testing.assert_allclose(rows.X, twice)
    assert rows.y is y and rows.fit_params == {}
    np.testing.assert_allclose(rows.transform(X), twice)
    assert not hasattr(nested["first"], "mean_")


def test_no_pipeline_hands_on_what_it_gets(classes):
    X, y = classes
    rows = rows_of(TorchSoftmaxClassifier(), X, y, {"coef_init": 1}, FittedSteps())
    assert rows.X is X and rows.transform(X) is X
    assert rows.fit_params == {"coef_init": 1}


def test_parameters_of_fit_reach_their_step(classes):
    X, y = classes
    weight = np.arange(1.0, len(X) + 1)
    pipeline = Pipeline([("shift", Shift()), ("last", TorchSoftmaxClassifier())])
    params = {"shift__sample_weight": weight, "last__sample_weight": weight}
    rows = rows_of(pipeline, X, y, params, FittedSteps())
    np.testing.assert_allclose(rows.X, X + np.average(X, axis=0, weights=weight))
    assert_array_equal(rows.fit_params["sample_weight"], weight)


def test_steps_are_fitted_once_for_equal_settings(nested, classes):
    steps = FittedSteps()
    for _ in range(3):
        rows_of(clone(nested), *classes, {}, steps)
    assert Shift.fits == 2
    rows_of(clone(nested).set_params(inner__second__by=3.0), *classes, {}, steps)
    assert Shift.fits == 3  # the first step is shared still
    rows_of(clone(nested).set_params(first__by=3.0), *classes, {}, steps)
    assert Shift.fits == 5
    rows_of(nested, *classes, {}, FittedSteps())
    assert Shift.fits == 7


def test_the_pipelines_own_memory_comes_back(classes):
    fitted = make_pipeline(StandardScaler(), TorchSoftmaxClassifier(), memory=None)
    rows = rows_of(fitted, *classes, {}, FittedSteps())
    assert rows.fitted.memory is None and fitted.memory is None


def test_tokens_are_equal_for_equal_settings_only():
    alike = [
        (1.0, 1.0),
        (None, None),
        (np.arange(3), np.arange(3)),
        (StandardScaler(), StandardScaler()),
        ({"a": [1, 2]}, {"a": [1, 2]}),
    ]
    assert all(token(one) == token(other) for one, other in alike)
    different = [
        (1, True),
        (1, 1.0),
        ("1", 1),
        (np.arange(3), np.arange(4)),
        (StandardScaler(), StandardScaler(with_std=False)),
        (StandardScaler(), StandardScaler),
        (Shift(np.ones(2)), Shift(np.zeros(2))),
    ]
    assert not any(token(one) == token(other) for one, other in different)


def test_what_cannot_be_hashed_is_only_equal_to_itself():
    functions = [lambda x: x, lambda x: x]
    assert token(functions[0]) == token(functions[0])
    assert token(functions[0]) != token(functions[1])
