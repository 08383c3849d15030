"""Subclasses of ours in the searches: what they do in their own way is done in their own way."""

import warnings

import numpy as np
import pytest
from scipy.stats import loguniform
from searches import SGD, assert_same, make_classes, make_numbers, search_both
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import RandomizedSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skorchless import (
    BatchedGridSearchCV,
    BatchedRandomizedSearchCV,
    TorchLinearRegressor,
    TorchSoftmaxClassifier,
)


class Standardized(TorchSoftmaxClassifier):
    """Fits and predicts on standardized columns."""

    def fit(self, X, y, sample_weight=None, power=1.0):
        self.scale_ = np.std(X, axis=0) ** power
        return super().fit(X / self.scale_, y, sample_weight)

    def decision_function(self, X):
        return super().decision_function(X / self.scale_)

    def predict_log_proba(self, X):
        return super().predict_log_proba(X / self.scale_)


class FewerColumns(TorchSoftmaxClassifier):
    """Uses the first columns only."""

    def __init__(self, n_columns=2, alpha=1e-4):
        super().__init__(alpha=alpha, **SGD)
        self.n_columns = n_columns

    def fit(self, X, y):
        return super().fit(X[:, : self.n_columns], y)

    def decision_function(self, X):
        return super().decision_function(X[:, : self.n_columns])

    def predict_log_proba(self, X):
        return super().predict_log_proba(X[:, : self.n_columns])


class Majority(TorchSoftmaxClassifier):
    """Learns nothing but a class, and has no coefficients."""

    def fit(self, X, y):
        self.classes_, counts = np.unique(y, return_counts=True)
        if self.alpha > 5:
            raise ValueError("too much")
        self.chosen_ = self.classes_[counts.argmax() if self.alpha < 1 else counts.argmin()]
        return self

    def predict(self, X):
        return np.full(len(X), self.chosen_)


class Taught(TorchSoftmaxClassifier):
    """Learns what another model says, which is a parameter that its fit writes to."""

    def __init__(self, teacher=None, alpha=1e-4):
        super().__init__(alpha=alpha, **SGD)
        self.teacher = teacher

    def fit(self, X, y):
        assert not hasattr(self.teacher, "coef_")
        return super().fit(X, self.teacher.fit(X, y).predict(X))


class Cautious(TorchSoftmaxClassifier):
    """Answers in its own way."""

    def predict(self, X):
        return np.where(self.predict_proba(X).max(axis=1) < 0.5, 0, super().predict(X))

    def predict_proba(self, X):
        return 0.5 * super().predict_proba(X) + 0.5 / len(self.classes_)

    def score(self, X, y, sample_weight=None):
        return accuracy_score(y, self.predict(X), sample_weight=sample_weight) - 1.0


class Halved(TorchLinearRegressor):
    """Fits half the targets, squared errors and all."""

    def fit(self, X, y, sample_weight=None):
        return super().fit(X, y / 2, sample_weight)


class ByProxy(TorchSoftmaxClassifier):
    """Begins its training in its own way, below its fit."""

    def _fit(self, comm, X, y, *rest):
        return super()._fit(comm, X, (y == 0).astype(int), *rest)


class Nothing(BaseEstimator):
    """Holds a place."""

    def fit(self, X, y=None):
        return self

    def score(self, X, y=None):
        return 0.0


class Ridge(TorchLinearRegressor):
    """Has one parameter, and the defaults of ours for all others."""

    def __init__(self, alpha=1.0):
        self.alpha = alpha


class Logistic(TorchSoftmaxClassifier):
    """Sets all others itself."""

    def __init__(self, alpha=1.0):
        super().__init__(alpha=alpha, **SGD)


RATES = {"learning_rate": [0.01, 0.3], "alpha": [0.0, 1.0]}
ALPHAS = {"alpha": [0.0, 1.0]}
OWN = {
    "standardized": (Standardized(**SGD), RATES),
    "fewer columns": (FewerColumns(), {**ALPHAS, "n_columns": [1, 3]}),
    "majority": (Majority(), ALPHAS),
    "taught": (Taught(TorchSoftmaxClassifier(**SGD)), ALPHAS),
    "cautious": (Cautious(**SGD), RATES),
    "by proxy": (ByProxy(**SGD), RATES),
    "logistic": (Logistic(), ALPHAS),
}
SCORINGS = {
    "own": None,
    "accuracy": "accuracy",
    "several": ["accuracy", "balanced_accuracy"],
    "a function": lambda estimator, X, y: accuracy_score(y, estimator.predict(X)),
}


def in_units(X):
    return X * np.geomspace(0.1, 10, X.shape[1])


@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "in a pipeline"])
@pytest.mark.parametrize("name", OWN)
def test_a_subclass_is_fitted_and_asked_in_its_own_way(name, wrapped, scoring):
    model, grid = OWN[name]
    X, y = make_classes()
    X = in_units(X)
    if wrapped:
        model = Pipeline([("scale", StandardScaler(with_std=False)), ("last", model)])
        grid = {f"last__{key}": values for key, values in grid.items()}
    options = {"scoring": SCORINGS[scoring], "cv": 3, "return_train_score": True}
    options["refit"] = "accuracy" if scoring == "several" else True
    ours, theirs = search_both(model, grid, X, y, **options)
    assert_same(ours, theirs, atol=1e-12)
    assert np.array_equal(ours.predict(X), theirs.predict(X))
    scores = np.array([value for key, value in theirs.cv_results_.items() if "mean_test" in key])
    assert np.ptp(scores, axis=-1).any()  # it matters which candidate it is


@pytest.mark.parametrize("name", ["standardized", "fewer columns", "cautious"])
def test_probabilities_are_its_own(name, classes):
    model, grid = OWN[name]
    assert_same(*search_both(model, grid, *classes, scoring="neg_log_loss", cv=3), atol=1e-12)


def test_candidates_drawn_at_random_are_fitted_in_its_own_way(classes):
    X, y = in_units(classes[0]), classes[1]
    options = {"n_iter": 4, "random_state": 0, "cv": 3}
    space = {"learning_rate": loguniform(1e-2, 1)}
    theirs = RandomizedSearchCV(Standardized(**SGD), space, **options).fit(X, y)
    ours = BatchedRandomizedSearchCV(Standardized(**SGD), space, **options).fit(X, y)
    assert_same(ours, theirs, atol=1e-12)


def test_numbers_are_fitted_in_its_own_way_too(numbers):
    weight = np.arange(len(numbers[0])) % 3 + 1.0
    for params in ({}, {"sample_weight": weight}):
        found = search_both(Halved(), {"alpha": [0.1, 1.0]}, *numbers, params, cv=3)
        assert_same(*found, atol=1e-12)
        assert found[0].best_score_ < 0.9


def test_its_own_parameters_of_fit_reach_it(classes):
    X, y = in_units(classes[0]), classes[1]
    ours, theirs = search_both(Standardized(**SGD), RATES, X, y, {"power": 0.5}, cv=3)
    assert_same(ours, theirs, atol=1e-12)
    assert np.array_equal(ours.best_estimator_.scale_, np.std(X, axis=0) ** 0.5)


def test_its_own_errors_are_the_candidates(classes):
    grid = {"alpha": [0.0, 10.0]}
    failed = pytest.warns(FitFailedWarning, match="(?s)3 fits failed.*ValueError: too much")
    with pytest.warns(UserWarning, match="non-finite"), failed:
        ours, theirs = search_both(Majority(), grid, *classes, cv=3)
    assert_same(ours, theirs, atol=0)
    assert np.isnan(ours.cv_results_["mean_test_score"]).tolist() == [False, True]
    assert not ours.converged_[1].any()
    with pytest.raises(ValueError, match="too much"):
        BatchedGridSearchCV(Majority(), grid, error_score="raise").fit(*classes)


def test_curves_and_convergence_are_those_of_its_own_fit(classes):
    X, y = in_units(classes[0]), classes[1]
    splits = [(np.arange(60), np.arange(60, 90))]
    model = Standardized(tol=1e-9, alpha=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search = BatchedGridSearchCV(model, {"max_iter": [1, 500]}, cv=splits).fit(X, y)
    assert search.converged_.tolist() == [[False], [True]]
    for count, [curve] in zip([1, 500], search.loss_curves_, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            single = clone(model).set_params(max_iter=count).fit(X[:60], y[:60])
        assert np.array_equal(curve, single.loss_curve_)


def test_a_subclass_without_a_fit_of_its_own_trains_in_a_stack(classes, stacks):
    BatchedGridSearchCV(Cautious(**SGD), RATES, cv=2, refit=False).fit(*classes)
    assert stacks == [8]
    stacks.clear()
    BatchedGridSearchCV(Standardized(**SGD), RATES, cv=2, refit=False).fit(*classes)
    assert stacks == []


@pytest.mark.parametrize("make", [Ridge, Logistic])
def test_a_subclass_may_have_fewer_parameters(make):
    X, y = make_numbers() if make is Ridge else make_classes()
    same = TorchLinearRegressor(alpha=0.5) if make is Ridge else Logistic(0.5)
    assert np.array_equal(make(0.5).fit(X, y).coef_, same.fit(X, y).coef_)
    assert make(0.5).get_params() == {"alpha": 0.5}
    grid = {"alpha": [0.01, 0.5]}
    assert_same(*search_both(make(), grid, X, y, cv=3), atol=1e-9)
    pipeline = make_pipeline(StandardScaler(), make())
    grid = {f"{make.__name__.lower()}__alpha": [0.01, 0.5]}
    assert_same(*search_both(pipeline, grid, X, y, cv=3), atol=1e-9)


class Weighted(TorchLinearRegressor):
    """Has a parameter that of ours the classifier alone has."""

    def __init__(self, class_weight="none", alpha=1.0):
        super().__init__(alpha=alpha)
        self.class_weight = class_weight


class Lossy(TorchSoftmaxClassifier):
    """Has parameters that of ours the regressor alone has."""

    def __init__(self, loss="hinge", delta=-1, alpha=1.0):
        super().__init__(alpha=alpha, **SGD)
        self.loss, self.delta = loss, delta


@pytest.mark.parametrize("make", [Weighted, Lossy])
def test_a_subclasss_own_parameters_are_its_own_business(make):
    X, y = make_numbers() if make is Weighted else make_classes()
    same = TorchLinearRegressor(alpha=1.0) if make is Weighted else Logistic(1.0)
    assert np.array_equal(make().fit(X, y).coef_, same.fit(X, y).coef_)
    name = "class_weight" if make is Weighted else "loss"
    grid = {"alpha": [0.01, 0.5], name: ["one", "other"]}
    assert_same(*search_both(make(), grid, X, y, cv=3), atol=1e-9)


# A pipeline whose last step is a placeholder.

PLACEHOLDERS = {
    "another": LogisticRegression(),
    "nothing much": Nothing(),
    "ours of the other kind": TorchLinearRegressor(),
}


@pytest.mark.parametrize("name", PLACEHOLDERS)
def test_a_placeholder_is_replaced(name, classes, stacks):
    pipeline = Pipeline([("scale", StandardScaler()), ("model", PLACEHOLDERS[name])])
    last = TorchSoftmaxClassifier(learning_rate=0.1, **SGD)
    grid = {"model": [last], "model__alpha": [0.0, 1.0], "scale__with_mean": [True, False]}
    ours, theirs = search_both(pipeline, grid, *classes, cv=3)
    assert_same(ours, theirs, atol=1e-12)
    assert type(ours.best_estimator_[-1]) is TorchSoftmaxClassifier
    assert stacks == [6, 6]
    assert not hasattr(last, "coef_")


@pytest.mark.parametrize("placeholder", [None, "passthrough"])
def test_nothing_at_all_is_a_placeholder_too(placeholder, classes):
    pipeline = Pipeline([("scale", StandardScaler()), ("model", placeholder)])
    grid = [
        {"model": [TorchSoftmaxClassifier(**SGD)], "model__learning_rate": [0.01, 0.1]},
        {"model": [Logistic()], "model__alpha": [0.01, 0.1]},
    ]
    options = {"scoring": "accuracy", "cv": 3}
    assert_same(*search_both(pipeline, grid, *classes, **options), atol=1e-12)


def test_a_placeholder_in_a_pipeline_in_a_pipeline(classes):
    inner = Pipeline([("shift", StandardScaler(with_std=False)), ("model", None)])
    pipeline = Pipeline([("scale", StandardScaler()), ("inner", inner)])
    grid = {"inner__model": [TorchSoftmaxClassifier(**SGD)], "inner__model__alpha": [0.0, 1.0]}
    options = {"scoring": "accuracy", "cv": 3}
    assert_same(*search_both(pipeline, grid, *classes, **options), atol=1e-12)


def test_a_placeholder_that_stays_is_refused_by_name(classes):
    pipeline = Pipeline([("scale", StandardScaler()), ("model", LogisticRegression())])
    for grid in ({"model__C": [1.0]}, {"model": [TorchSoftmaxClassifier(), LogisticRegression()]}):
        with pytest.raises(TypeError, match=r"Got LogisticRegression\(\). Use scikit-learn's Grid"):
            BatchedGridSearchCV(pipeline, grid).fit(*classes)


# Parameters of fit that nobody knows.


@pytest.mark.parametrize("name", ["colour", "reducer", "X_validation"])
@pytest.mark.parametrize("make", [TorchSoftmaxClassifier, Logistic, Standardized])
def test_an_unknown_parameter_of_fit_is_the_fits(make, name, classes):
    with pytest.raises(TypeError) as alone:
        make().fit(*classes, **{name: 1})
    search = BatchedGridSearchCV(make(), ALPHAS, error_score="raise")
    with pytest.raises(TypeError) as searched:
        search.fit(*classes, **{name: 1})
    assert str(searched.value) == str(alone.value)
    pipeline = BatchedGridSearchCV(make_pipeline(make()), {}, error_score="raise")
    with pytest.raises(TypeError) as wrapped:
        pipeline.fit(*classes, **{f"{make.__name__.lower()}__{name}": 1})
    assert str(wrapped.value) == str(alone.value)


def test_it_is_named_where_all_fits_fail(classes):
    with pytest.raises(
        ValueError, match=r"(?s)All the 10 fits failed.*\.fit\(\) got an unexpected"
    ):
        BatchedGridSearchCV(TorchSoftmaxClassifier(), ALPHAS).fit(*classes, colour=1)


def test_a_parameter_without_a_default_keeps_the_inherited_one():
    class Penalised(TorchLinearRegressor):
        def __init__(self, alpha):
            super().__init__(alpha=alpha)

    class Rough(Penalised):
        def __init__(self, tol=1e-2):
            self.tol = tol

    X, y = make_numbers()
    same = TorchLinearRegressor(tol=1e-2).fit(X, y)
    assert np.array_equal(Rough().fit(X, y).coef_, same.coef_)
