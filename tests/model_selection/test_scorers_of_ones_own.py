"""A function as scorer may do with what it gets as it likes, as in GridSearchCV."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from searches import SGD, assert_same, make_classes, make_numbers, search_both
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.metrics import get_scorer, make_scorer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skorchless import BatchedGridSearchCV, TorchLinearRegressor, TorchSoftmaxClassifier

ALPHAS = {"alpha": [0.01, 1.0, 10.0]}


def refits_a_copy(estimator, X, y):
    other = copy.deepcopy(estimator).fit(2.0 * X[::2], y[::2])
    return other.score(X, y)


def refits(estimator, X, y):
    before = estimator.score(X, y)
    estimator.fit(100.0 * X[::-2] + 1.0, y[::-2])
    return before


def refits_first(estimator, X, y):
    estimator.fit(2.0 * X[::2], y[::2])
    return estimator.score(X, y)


def pickles(estimator, X, y):
    return pickle.loads(pickle.dumps(estimator)).score(X, y)


def clones(estimator, X, y):
    return clone(estimator).fit(X, y).score(X, y)


def changes_coefficients(estimator, X, y):
    last = estimator[-1] if hasattr(estimator, "steps") else estimator
    last.coef_ = last.coef_ * 0.5
    return estimator.score(X, y)


def changes_coefficients_in_place(estimator, X, y):
    last = estimator[-1] if hasattr(estimator, "steps") else estimator
    last.coef_ *= 0.5
    return estimator.score(X, y)


def predicts_other_rows(estimator, X, y):
    return float(np.mean(estimator.predict(X[:-1] + 0.25) == estimator.predict(X[1:])))


def predicts_twice(estimator, X, y):
    first, second = estimator.predict(X), estimator.predict(X)
    first[:] = 0
    return float(np.mean(second + estimator.predict(X.copy())))


def overwrites_the_rows(estimator, X, y):
    score = estimator.score(X, y)
    X *= 0.5
    y[:] = y[::-1].copy()
    return score + estimator.score(X, y)


def lists_attributes(estimator, X, y):
    last = estimator[-1] if hasattr(estimator, "steps") else estimator
    return float(len(vars(last)))


SCORERS = [
    refits_a_copy,
    refits,
    refits_first,
    pickles,
    clones,
    changes_coefficients,
    changes_coefficients_in_place,
    predicts_other_rows,
    predicts_twice,
    overwrites_the_rows,
    lists_attributes,
]
MODELS = {
    "numbers": (TorchLinearRegressor, make_numbers),
    "classes": (TorchSoftmaxClassifier, make_classes),
}
each_model = pytest.mark.parametrize(("Estimator", "make_data"), MODELS.values(), ids=MODELS)


@pytest.mark.parametrize("scoring", SCORERS, ids=lambda scorer: scorer.__name__)
@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "in a pipeline"])
@each_model
def test_whatever_a_scorer_does_with_a_candidate(Estimator, make_data, wrapped, scoring):
    estimator, grid = Estimator(**SGD, learning_rate=0.05), ALPHAS
    if wrapped:
        estimator = make_pipeline(StandardScaler(), StandardScaler(with_std=False), estimator)
        grid = {f"{Estimator.__name__.lower()}__alpha": ALPHAS["alpha"]}
    options = {"cv": 2, "scoring": scoring, "return_train_score": True, "error_score": "raise"}
    assert_same(*search_both(estimator, grid, *make_data(), **options), atol=1e-12)


def test_one_of_several_scorers_may_be_a_function():
    scoring = {"first": "r2", "own": refits, "last": "neg_mean_squared_error"}
    estimator = make_pipeline(StandardScaler(), TorchLinearRegressor(**SGD, learning_rate=0.05))
    grid = {"torchlinearregressor__alpha": ALPHAS["alpha"]}
    options = {"scoring": scoring, "refit": "own", "cv": 2, "return_train_score": True}
    assert_same(*search_both(estimator, grid, *make_numbers(), **options), atol=1e-12)


def halves(y, found):
    y *= 0.5
    found *= 0.5
    return -float(np.abs(y - found).mean())


def test_a_metric_may_write_to_its_arrays():
    options = {"scoring": make_scorer(halves), "cv": 2, "return_train_score": True}
    model = TorchLinearRegressor(**SGD, learning_rate=0.05)
    assert_same(*search_both(model, ALPHAS, *make_numbers(), **options), atol=1e-12)


@pytest.mark.parametrize("scoring", [refits, get_scorer("explained_variance"), None], ids=str)
@pytest.mark.parametrize(
    "container", [pd.DataFrame, torch.tensor, np.ndarray.tolist], ids=["frame", "tensor", "list"]
)
def test_rows_of_every_kind_are_cut_for_each_candidate(container, scoring):
    X, y = make_numbers()
    if scoring is refits and container is np.ndarray.tolist:
        scoring = refits_lists
    if container is torch.tensor:
        y = torch.tensor(y)
        scoring = scores_tensors if scoring is refits else scoring
    model = TorchLinearRegressor(**SGD, learning_rate=0.05)
    options = {"cv": 2, "scoring": scoring}
    assert_same(*search_both(model, ALPHAS, container(X), y, **options), atol=1e-12)


def refits_lists(estimator, X, y):
    return refits(estimator, np.array(X), y)


def scores_tensors(estimator, X, y):
    before = estimator.score(X, y)
    X.mul_(0.5)
    y.zero_()
    estimator.fit(X[:10], y[:10] + X[:10, 0])
    return before


class Scoring(TorchLinearRegressor):
    """Its own score looks at a copy that is fitted to other rows."""

    def score(self, X, y, sample_weight=None):
        return pickle.loads(pickle.dumps(self)).fit(X, -y).predict(X).mean()


class Predicting(TorchLinearRegressor):
    """It forgets what it has learnt with every prediction."""

    def predict(self, X):
        found = super().predict(X)
        self.coef_ = self.coef_ * 0.5
        return found


@pytest.mark.parametrize("Estimator", [Scoring, Predicting])
@pytest.mark.parametrize("scoring", [None, "r2", "explained_variance"])
def test_a_subclasss_methods_may_do_so_too(Estimator, scoring):
    model = Estimator(**SGD, learning_rate=0.05)
    options = {"scoring": scoring, "cv": 2, "return_train_score": True}
    assert_same(*search_both(model, ALPHAS, *make_numbers(), **options), atol=1e-12)


class Locked(TransformerMixin, BaseEstimator):
    """It cannot be copied once it is fitted, as one that holds a connection."""

    def fit(self, X, y=None):
        self.mean_ = X.mean(axis=0)
        self.connection_ = iter_of_nothing()
        return self

    def transform(self, X):
        return X - self.mean_


def iter_of_nothing():
    yield


def test_transformers_that_cannot_be_copied_are_fitted_again():
    estimator = make_pipeline(Locked(), TorchLinearRegressor(**SGD, learning_rate=0.05))
    grid = {"torchlinearregressor__alpha": ALPHAS["alpha"]}
    assert_same(*search_both(estimator, grid, *make_numbers(), scoring=refits, cv=2), atol=1e-12)


def test_candidates_share_no_transformer():
    seen = []

    def keeps(estimator, X, y):
        seen.append(estimator)
        return 0.0

    grid = {"torchlinearregressor__alpha": ALPHAS["alpha"]}
    estimator = make_pipeline(StandardScaler(), TorchLinearRegressor())
    search = BatchedGridSearchCV(
        estimator, grid, scoring=keeps, cv=2, return_train_score=True, refit=False
    )
    search.fit(*make_numbers())
    # Each candidate is one object for the test rows and the training rows.
    assert len(seen) == 12
    assert len({id(one[0]) for one in seen}) == len({id(one[-1]) for one in seen}) == 6
