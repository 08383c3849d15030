"""Our searches beside scikit-learn's, on data that is quick to learn."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from skorchless import BatchedGridSearchCV

SGD = {"optimizer": "sgd", "max_iter": 4, "tol": None, "batch_size": 16, "random_state": 0}


def make_classes(n=90, d=4, k=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    return X, (X @ rng.normal(size=(d, k)) + rng.gumbel(size=(n, k))).argmax(axis=1)


def make_numbers(n=90, d=4, k=None, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    shape = (n,) if k is None else (n, k)
    y = X @ rng.normal(size=(d, *shape[1:])) + 0.5 * rng.normal(size=shape) + 1.0
    return X, y


def assert_same(ours, theirs, atol=1e-6):
    """Same keys, same parameters, scores to `atol`, and a best candidate that is as good."""
    assert set(ours.cv_results_) == set(theirs.cv_results_)
    assert ours.cv_results_["params"] == theirs.cv_results_["params"]
    for key, wanted in theirs.cv_results_.items():
        found = ours.cv_results_[key]
        assert np.shape(found) == np.shape(wanted), key
        if "_test_" in key or "_train_" in key:
            if key.startswith("rank"):
                continue
            np.testing.assert_allclose(found, wanted, rtol=0, atol=atol, err_msg=key)
    assert ours.multimetric_ == theirs.multimetric_
    assert ours.n_splits_ == theirs.n_splits_
    assert hasattr(ours, "best_params_") == hasattr(theirs, "best_params_")
    if hasattr(theirs, "best_score_"):
        assert ours.best_score_ == pytest.approx(theirs.best_score_, abs=atol)
        metric = ours.refit if ours.multimetric_ else "score"
        means = theirs.cv_results_[f"mean_test_{metric}"]
        assert means[ours.best_index_] == pytest.approx(means[theirs.best_index_], abs=atol)


def search_both(estimator, grid, X, y, fit_params=None, **options):
    """Fit both searches; return ours and theirs."""
    fit_params = fit_params or {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs = GridSearchCV(estimator, grid, **options).fit(X, y, **fit_params)
        ours = BatchedGridSearchCV(estimator, grid, **options).fit(X, y, **fit_params)
    return ours, theirs
