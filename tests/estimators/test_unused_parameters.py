"""A parameter that the chosen optimizer or loss does not use is said, once, by ``fit``."""

import inspect
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skorchless import (
    BatchedGridSearchCV,
    BatchedRandomizedSearchCV,
    TorchLinearRegressor,
    TorchSoftmaxClassifier,
)
from skorchless.estimators.parameters import PARAMETERS, USED_WITH

SGD = {"optimizer": "sgd", "learning_rate": 0.01, "max_iter": 2, "tol": None, "random_state": 0}
ADAM = {**SGD, "optimizer": "adam"}

#: Of each parameter in the registry: another value than the default, settings that do not use it
#: and settings that do.
CASES = {
    "delta": (2.0, {}, {"loss": "huber"}),
    "l1_ratio": (0.5, {"alpha": 0.0}, {"alpha": 0.01}),
    "schedule": ("cosine", {}, SGD),
    "momentum": (0.9, ADAM, SGD),
    "nesterov": (True, ADAM, {**SGD, "momentum": 0.9}),
    "betas": ((0.5, 0.9), SGD, ADAM),
    "batch_size": (16, {}, ADAM),
    "shuffle": (False, {}, ADAM),
    "n_iter_no_change": (3, {}, {"early_stopping": True}),
    "validation_fraction": (0.2, {}, {"early_stopping": True}),
}


@pytest.fixture
def numbers():
    """X and targets for a regressor."""
    X = np.random.default_rng(0).normal(size=(90, 4))
    return X, X @ np.arange(4.0)


@pytest.fixture
def labels(numbers):
    """X and targets for a classifier."""
    X, y = numbers
    return X, np.digitize(y, np.quantile(y, [0.3, 0.6]))


def unused(call):
    """The texts of the warnings of unused parameters, whatever else is warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [w for w in caught if "no effect" in str(w.message)]


#: What the docstring of a parameter says of who uses it.
USERS = {
    "delta": ["huber"],
    "schedule": ["SGD", "Adam"],
    "momentum": ["SGD"],
    "nesterov": ["SGD"],
    "betas": ["Adam"],
    "batch_size": ["SGD", "Adam"],
    "shuffle": ["SGD", "Adam"],
    "n_iter_no_change": ["SGD", "Adam"],
    "validation_fraction": ["early stopping"],
}


@pytest.mark.pairs  # not all estimators have them all
@pytest.mark.parametrize("name", USERS)
def test_the_docstring_says_who_uses_it(Estimator, name):
    if name not in Estimator().get_params():
        pytest.skip("not a parameter of this estimator")
    parts = re.split(r"\n(\w+) : ", inspect.getdoc(Estimator).partition("Attributes\n")[0])
    text = parts[parts.index(name) + 1].lower().replace("_", " ")
    assert [user for user in USERS[name] if user.lower() not in text] == []


def test_every_entry_of_the_registry_is_tried():
    assert set(CASES) == set(USED_WITH) <= set(PARAMETERS)


@pytest.mark.pairs  # not all estimators have them all
@pytest.mark.parametrize("name", CASES)
def test_what_is_not_used_is_named_with_who_uses_it(Estimator, data, name):
    value, without, _ = CASES[name]
    if name not in Estimator().get_params():
        pytest.skip("not a parameter of this estimator")
    model = Estimator(**without, **{name: value})
    [warning] = unused(lambda: model.fit(*data))
    message = str(warning.message)
    assert warning.category is UserWarning
    assert warning.filename == __file__
    assert Estimator.__name__ in message
    assert f"{name} (used only with {USED_WITH[name][0]})" in message
    others = set(CASES) - {name}
    assert not [other for other in others if f"{other} (" in message]


@pytest.mark.pairs  # not all estimators have them all
@pytest.mark.parametrize("name", CASES)
def test_it_does_nothing_indeed(Estimator, data, name):
    value, without, _ = CASES[name]
    if name not in Estimator().get_params():
        pytest.skip("not a parameter of this estimator")
    plain = Estimator(**without).fit(*data)
    with pytest.warns(UserWarning, match="no effect"):
        model = Estimator(**without, **{name: value}).fit(*data)
    assert_array_equal(model.coef_, plain.coef_)


@pytest.mark.pairs  # not all estimators have them all
@pytest.mark.parametrize("name", CASES)
def test_what_is_used_is_not_warned_of(Estimator, data, name):
    value, _, settings = CASES[name]
    if name not in Estimator().get_params():
        pytest.skip("not a parameter of this estimator")
    assert unused(lambda: Estimator(**settings, **{name: value}).fit(*data)) == []


@pytest.mark.parametrize("optimizer", ["auto", "sgd", "adam"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_defaults_are_not_warned_of(Estimator, data, optimizer, early_stopping):
    model = Estimator(optimizer=optimizer, early_stopping=early_stopping, betas=[0.9, 0.999])
    assert unused(lambda: model.fit(*data)) == []


def test_a_number_for_the_learning_rate_makes_auto_adam(Estimator, data):
    numbers = {"learning_rate": 0.01, "max_iter": 2, "tol": None}
    assert unused(lambda: Estimator(betas=(0.5, 0.9), batch_size=8, **numbers).fit(*data)) == []
    [warning] = unused(lambda: Estimator(momentum=0.9, **numbers).fit(*data))
    assert "momentum (used only with optimizer='sgd')" in str(warning.message)


def test_several_are_named_in_one_warning(numbers):
    model = TorchLinearRegressor(momentum=0.9, delta=2.0, batch_size=8, max_iter=5)
    [warning] = unused(lambda: model.fit(*numbers))
    message = str(warning.message)
    assert all(f"{name} (used only with" in message for name in ("momentum", "delta", "batch_size"))


def test_only_fit_warns(Estimator, data):
    model = Estimator(**SGD).set_params(betas=(0.5, 0.9))
    assert unused(lambda: (clone(model), repr(model), model.get_params())) == []
    assert len(unused(lambda: model.fit(*data))) == 1
    assert unused(lambda: model.predict(data[0])) == []


def test_the_first_call_of_partial_fit_warns(numbers):
    model = TorchLinearRegressor(momentum=0.9, batch_size=8)
    [warning] = unused(lambda: model.partial_fit(*numbers))
    assert "momentum (" in str(warning.message)
    assert "batch_size (" not in str(warning.message)  # a pass is made by Adam, which uses it
    assert warning.filename == __file__
    assert unused(lambda: model.partial_fit(*numbers)) == []


def test_a_warning_that_is_an_error_leaves_the_estimator_as_it_was(Estimator, data):
    model = Estimator(momentum=0.9)
    with pytest.raises(UserWarning, match="momentum"):
        model.fit(*data)
    assert vars(model) == vars(clone(model))


def test_a_bad_parameter_is_an_error_and_no_warning(Estimator, data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="'batch_size' parameter"):
            Estimator(momentum=0.9, batch_size=0).fit(*data)


class OwnDefaults(TorchSoftmaxClassifier):
    """Has another default, which is none of the user's values."""

    def __init__(self, *, momentum=0.9, optimizer="auto"):
        self.momentum = momentum
        self.optimizer = optimizer


class OwnFit(TorchSoftmaxClassifier):
    """Is fitted by its own fit in a search too."""

    def fit(self, X, y):
        return super().fit(X, y)


class Unhashable(TorchSoftmaxClassifier):
    """Compares by its parameters."""

    def __eq__(self, other):
        return self.get_params() == other.get_params()


def test_a_subclass_that_cannot_be_hashed_warns_too(labels):
    model = clone(Unhashable(momentum=0.9))
    assert len(unused(lambda: model.fit(*labels))) == 1
    assert len(unused(lambda: BatchedGridSearchCV(model, {"alpha": [0.1]}).fit(*labels))) >= 1


def test_a_clone_whose_warning_was_an_error_warns_again(numbers):
    model = clone(TorchLinearRegressor(momentum=0.9))
    for _ in range(2):
        with pytest.raises(UserWarning, match="momentum"):
            model.fit(*numbers)


def test_a_default_of_a_subclass_is_not_warned_of(labels):
    assert unused(lambda: OwnDefaults().fit(*labels)) == []
    assert len(unused(lambda: OwnDefaults(momentum=0.5).fit(*labels))) == 1


@pytest.mark.parametrize("final", [TorchSoftmaxClassifier, OwnFit], ids=["ours", "own fit"])
@pytest.mark.parametrize("piped", [False, True], ids=["alone", "piped"])
@pytest.mark.parametrize("Search", [BatchedGridSearchCV, BatchedRandomizedSearchCV])
def test_a_search_warns_once(labels, final, piped, Search):
    model = final(max_iter=20, tol=1e-2)
    grid = {"optimizer": ["auto", "adam"], "momentum": [0.0, 0.5, 0.9]}
    if piped:
        model = make_pipeline(StandardScaler(), model)
        grid = {f"{final.__name__.lower()}__{name}": values for name, values in grid.items()}
    more = {"n_iter": 5, "random_state": 0} if Search is BatchedRandomizedSearchCV else {}
    [warning] = unused(lambda: Search(model, grid, cv=3, **more).fit(*labels))
    message = str(warning.message)
    assert Search.__name__ in message
    assert "momentum (used only with optimizer='sgd')" in message


@pytest.mark.parametrize(
    "grid",
    [
        {"momentum": [0.0, 0.5, 0.9]},
        {"momentum": [0.0, 0.9], "optimizer": ["sgd", "adam"]},
        {"alpha": [0.0, 0.1], "l1_ratio": [0.0, 0.5]},
    ],
    ids=["all use it", "some use it", "penalties"],
)
def test_a_search_in_which_a_candidate_uses_it_does_not_warn(numbers, grid):
    assert (
        unused(lambda: BatchedGridSearchCV(TorchLinearRegressor(**SGD), grid).fit(*numbers)) == []
    )


def test_a_candidate_with_a_bad_parameter_does_not_hide_the_others(numbers):
    grid = {"momentum": [0.5], "batch_size": ["auto", 0]}
    search = BatchedGridSearchCV(TorchLinearRegressor(), grid)
    [warning] = unused(lambda: search.fit(*numbers))
    assert "momentum (" in str(warning.message)
    assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [False, True]


SCRIPT = """
import warnings
warnings.resetwarnings()
warnings.simplefilter("default")
import numpy as np
from sklearn.model_selection import GridSearchCV
from skorchless import TorchLinearRegressor
X = np.random.default_rng(0).normal(size=(60, 3))
GridSearchCV(TorchLinearRegressor(), {"momentum": [0.5, 0.9]}, cv=3, refit=False).fit(X, X[:, 0])
"""


@pytest.mark.slow
def test_scikit_learns_grid_search_shows_it_once():
    """Python shows a warning of one place and one text once, so the text names no values."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("momentum (used only with") == 1


def test_the_text_is_the_same_for_all_candidates_of_scikit_learns_search(numbers):
    search = GridSearchCV(TorchLinearRegressor(), {"momentum": [0.5, 0.9]}, cv=3)
    assert len({str(w.message) for w in unused(lambda: search.fit(*numbers))}) == 1
