"""Which candidates train together, what is no candidate, and transformers that are shared."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from recorders import Recorder
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.model_selection.candidates import (
    check_ours,
    final_of,
    fit_transformers,
    group_candidates,
    settings_key,
    with_final,
)


def members(estimator, candidates):
    return [some.members for some in group_candidates(estimator, candidates, "BatchedGridSearchCV")]


def test_numbers_that_stack_make_one_group():
    candidates = [{"alpha": a, "learning_rate": r} for a in (0.0, 0.1) for r in (0.01, 1.0)]
    assert members(TorchSoftmaxClassifier(optimizer="sgd"), candidates) == [[0, 1, 2, 3]]


def test_automatic_rates_go_by_the_penalty():
    candidates = [{"alpha": a, "momentum": m} for a in (0.0, 0.1) for m in (0.0, 0.9)]
    assert members(TorchSoftmaxClassifier(optimizer="sgd"), candidates) == [[0, 1], [2, 3]]


def test_what_does_not_stack_splits_the_candidates_in_their_order():
    candidates = [{"batch_size": 8}, {"batch_size": None}, {"batch_size": 8, "alpha": 0.1}, {}]
    sgd = TorchSoftmaxClassifier(optimizer="sgd", learning_rate=0.1, batch_size=8)
    assert members(sgd, candidates) == [[0, 2, 3], [1]]


@pytest.mark.parametrize(
    "values, n_groups",
    [
        ([0, 0, 1], 2),
        ([True, 1], 2),
        ([np.random.RandomState(0), np.random.RandomState(0)], 1),
        ([np.random.RandomState(0), np.random.RandomState(1)], 2),
    ],
)
def test_settings_are_compared_by_what_they_are(values, n_groups):
    candidates = [{"random_state": value} for value in values]
    assert len(members(TorchLinearRegressor(), candidates)) == n_groups


def test_transformers_settings_make_groups_and_equal_ones_do_not():
    pipeline = make_pipeline(StandardScaler(), TorchSoftmaxClassifier())
    name = "torchsoftmaxclassifier__alpha"
    candidates = [
        {"standardscaler": StandardScaler(), name: 0.1},
        {"standardscaler": StandardScaler(), name: 0.2},
        {"standardscaler": StandardScaler(with_mean=False), name: 0.1},
        {"standardscaler": "passthrough", name: 0.1},
        {"standardscaler__with_mean": False, name: 0.3},
    ]
    found = members(pipeline, candidates)
    assert [0, 1] in found and [2, 4] in found and [3] in found
    assert sorted(i for some in found for i in some) == [0, 1, 2, 3, 4]


def test_finals_carry_their_candidates_parameters_and_nothing_is_shared():
    template = TorchSoftmaxClassifier(
        optimizer="sgd", learning_rate=0.1, random_state=np.random.RandomState(3)
    )
    candidates = [{"alpha": 0.1}, {"alpha": 0.2}]
    (found,) = group_candidates(template, candidates, "BatchedGridSearchCV")
    assert [final.alpha for final in found.finals] == [0.1, 0.2]
    assert template.alpha == TorchSoftmaxClassifier().alpha
    first, again = found.unfitted(), found.unfitted()
    first[0].random_state.uniform()
    assert first[0] is not again[0]
    assert again[0].random_state.uniform() == np.random.RandomState(3).uniform()


class Own(TorchSoftmaxClassifier):
    """A subclass with a setting that we know nothing of."""

    def __init__(self, taste="sweet", alpha=1e-4):
        super().__init__(alpha=alpha)
        self.taste = taste


def test_a_subclasss_own_settings_make_groups():
    candidates = [{"taste": "sweet", "alpha": 1.0}, {"taste": "sour"}, {"alpha": 2.0}]
    assert members(Own(), candidates) == [[0, 2], [1]]


def test_candidates_with_callbacks_are_a_group_of_their_own():
    pytest.importorskip("sklearn.callback")
    heard = TorchSoftmaxClassifier(alpha=1.0).set_callbacks(Recorder())
    pipeline = make_pipeline(TorchSoftmaxClassifier())
    candidates = [{"torchsoftmaxclassifier": last} for last in (TorchSoftmaxClassifier(), heard)]
    assert members(pipeline, candidates) == [[0], [1]]


@pytest.mark.parametrize(
    "other", [LogisticRegression(), Pipeline([("last", LogisticRegression())]), "nonsense"]
)
def test_what_is_not_ours_is_sent_to_scikit_learn(other):
    with pytest.raises(TypeError, match=r"Got .* Use scikit-learn's RandomizedSearchCV"):
        check_ours(other, "BatchedRandomizedSearchCV")


def test_unknown_parameters_are_named():
    with pytest.raises(ValueError, match="Invalid parameter 'temper'"):
        members(TorchLinearRegressor(), [{"temper": 1}])


# Pipelines.


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


def reached(estimator, X, y, params=(), made=None):
    """The fitted transformers, and what reaches the last step."""
    fitted = fit_transformers(estimator, X, y, dict(params), {} if made is None else made)
    return fitted, final_of(fitted).received_


def test_the_last_step_is_found_and_replaced_in_nested_pipelines(nested):
    assert isinstance(final_of(nested), TorchSoftmaxClassifier)
    other = TorchSoftmaxClassifier(alpha=1.0)
    changed = with_final(nested, other)
    assert final_of(changed) is other and final_of(nested) is not other
    assert changed["first"] is nested["first"]
    assert with_final(final_of(nested), other) is other


def test_rows_are_what_reaches_the_last_step(nested, classes):
    X, y = classes
    fitted, received = reached(nested, X, y)
    once = X + X.mean(axis=0)
    twice = once + 2.0 * once.mean(axis=0)
    np.testing.assert_allclose(received[0], twice)
    assert received[1] is y and received[2] == {}
    np.testing.assert_allclose(fitted.predict(X), twice)
    assert not hasattr(nested["first"], "mean_")


def test_no_pipeline_hands_on_what_it_gets(classes):
    X, y = classes
    fitted, received = reached(TorchSoftmaxClassifier(), X, y, {"coef_init": 1})
    assert received[0] is X and fitted.predict(X) is X
    assert received[2] == {"coef_init": 1}


def test_parameters_of_fit_reach_their_step(classes):
    X, y = classes
    weight = np.arange(1.0, len(X) + 1)
    pipeline = Pipeline([("shift", Shift()), ("last", TorchSoftmaxClassifier())])
    params = {"shift__sample_weight": weight, "last__sample_weight": weight}
    _, received = reached(pipeline, X, y, params)
    np.testing.assert_allclose(received[0], X + np.average(X, axis=0, weights=weight))
    assert_array_equal(received[2]["sample_weight"], weight)


def test_steps_are_fitted_once_for_equal_settings(nested, classes):
    made = {}
    for _ in range(3):
        reached(clone(nested), *classes, made=made)
    assert Shift.fits == 2
    reached(clone(nested).set_params(inner__second__by=3.0), *classes, made=made)
    assert Shift.fits == 3  # the first step is shared still
    reached(clone(nested).set_params(first__by=3.0), *classes, made=made)
    assert Shift.fits == 5
    reached(nested, *classes)
    assert Shift.fits == 7


def test_the_pipelines_own_memory_comes_back(classes):
    estimator = make_pipeline(StandardScaler(), TorchSoftmaxClassifier(), memory=None)
    fitted, _ = reached(estimator, *classes)
    assert fitted.memory is None and estimator.memory is None


def test_steps_of_equal_settings_and_other_weights_are_not_the_same(classes):
    X, y = classes
    weight = np.arange(1.0, len(X) + 1)
    steps = [("first", Shift()), ("second", Shift()), ("last", TorchSoftmaxClassifier())]
    one, other = (
        Pipeline(steps).set_params(**{name: "passthrough"}) for name in ("first", "second")
    )
    params, made = {"first__sample_weight": weight}, {}
    _, (plain, *_) = reached(one, X, y, {}, made)
    _, (weighted, *_) = reached(other, X, y, params, made)
    np.testing.assert_allclose(plain, X + X.mean(axis=0))
    np.testing.assert_allclose(weighted, X + np.average(X, axis=0, weights=weight))


def test_keys_are_equal_for_equal_settings_only():
    alike = [
        (1.0, 1.0),
        (None, None),
        (np.arange(3), np.arange(3)),
        (StandardScaler(), StandardScaler()),
        ({"a": [1, 2]}, {"a": [1, 2]}),
    ]
    assert all(settings_key(one) == settings_key(other) for one, other in alike)
    different = [
        (1, True),
        (1, 1.0),
        ("1", 1),
        (np.arange(3), np.arange(4)),
        (StandardScaler(), StandardScaler(with_std=False)),
        (StandardScaler(), StandardScaler),
        (Shift(np.ones(2)), Shift(np.zeros(2))),
    ]
    assert not any(settings_key(one) == settings_key(other) for one, other in different)


def test_what_cannot_be_hashed_is_only_equal_to_itself():
    functions = [lambda x: x, lambda x: x]
    assert settings_key(functions[0]) == settings_key(functions[0])
    assert settings_key(functions[0]) != settings_key(functions[1])
