"""Searches of squared error with L1, which are solved from second moments, against single fits."""

import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet
from sklearn.model_selection import GridSearchCV, KFold, ShuffleSplit

from skorchless import BatchedGridSearchCV, TorchLinearRegressor

SHARES = np.geomspace(1.2, 1e-3, 8)


def table(n, d, *, kind="independent", outputs=None, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    if kind == "trends":
        X = X.cumsum(axis=1)
    elif kind == "copies":
        X[:, d // 2 :] = X[:, : d - d // 2]
    elif kind == "constant columns":
        X[:, ::3] = 7.0
    elif kind == "units":
        X = X * 10.0 ** rng.uniform(-4, 4, size=d)
    size = X[:, 1:9].std(axis=0)
    signal = X[:, 1:9] / np.where(size > 0, size, np.inf) @ rng.normal(size=(8, outputs or 1))
    y = signal + rng.normal(size=signal.shape) + 5.0
    return X + 3.0, y if outputs else y[:, 0]


def alphas(X, y, l1_ratio):
    covariance = np.abs((X - X.mean(axis=0)).T @ (y - y.mean(axis=0))) / len(X)
    return SHARES * covariance.max() / l1_ratio


def searched(model, grid, X, y, **fit_params):
    """Scores of both searches, candidates in rows and folds in columns."""
    splits = KFold(3)
    scores = []
    for Search in (GridSearchCV, BatchedGridSearchCV):
        search = Search(model, grid, cv=splits, scoring="neg_mean_squared_error")
        search.fit(X, y, **fit_params)
        scores.append(np.array([search.cv_results_[f"split{i}_test_score"] for i in range(3)]).T)
    return scores


KINDS = ["independent", "trends", "copies", "constant columns", "units"]


@pytest.mark.parametrize("l1_ratio", [1.0, 0.4])
@pytest.mark.parametrize("shape", [(90, 20), (60, 80)], ids=["tall", "wide"])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_single_fits(kind, shape, l1_ratio):
    X, y = table(*shape, kind=kind)
    model = TorchLinearRegressor(l1_ratio=l1_ratio, tol=1e-9)
    one_by_one, batched = searched(model, {"alpha": alphas(X, y, l1_ratio)}, X, y)
    np.testing.assert_allclose(batched, one_by_one, rtol=5e-5)


@pytest.mark.parametrize(
    "parameters, fit_params, outputs",
    [
        ({"fit_intercept": False}, {}, None),
        ({}, {"sample_weight": np.arange(90.0) % 4}, None),
        ({}, {}, 3),
    ],
    ids=["no intercept", "weights", "three outputs"],
)
def test_scores_are_those_of_single_fits_of_every_kind(parameters, fit_params, outputs):
    X, y = table(90, 20, outputs=outputs)
    model = TorchLinearRegressor(tol=1e-9, **parameters)
    grid = {"alpha": alphas(X, y, 0.5)[::2], "l1_ratio": [0.5, 1.0]}
    one_by_one, batched = searched(model, grid, X, y, **fit_params)
    np.testing.assert_allclose(batched, one_by_one, rtol=5e-5)


@pytest.mark.parametrize("layout", [np.float32, sparse.csr_array], ids=["float32", "CSR"])
def test_other_containers_score_alike(layout):
    X, y = table(90, 20)
    grid = {"alpha": alphas(X, y, 1.0)}
    scores = [
        searched(TorchLinearRegressor(l1_ratio=1.0), grid, rows, y)[1]
        for rows in (X, layout(X) if layout is sparse.csr_array else X.astype(layout))
    ]
    np.testing.assert_allclose(*scores, rtol=1e-3)


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-8])
@pytest.mark.parametrize("kind", [*KINDS, "no noise"])
def test_each_candidate_is_within_tol_of_its_optimum(kind, tol):
    """Seen in the training scores, which scikit-learn's coordinate descent cannot beat by more."""
    X, y = table(150, 30, kind=kind, seed=1)
    y = X[:, :5] @ np.arange(1.0, 6.0) if kind == "no noise" else y
    grid = {"alpha": alphas(X, y, 0.9)}
    models = []

    def keep(model, X, y):
        models.append((model.alpha, len(X), model.coef_, model.intercept_))
        return 0.0

    split = ShuffleSplit(1, random_state=0)
    search = BatchedGridSearchCV(
        TorchLinearRegressor(l1_ratio=0.9, tol=tol), grid, cv=split, scoring=keep, refit=False
    )
    search.fit(X, y)
    train = next(split.split(X))[0]
    X, y = X[train], y[train]

    def objective(alpha, coef, intercept):
        penalty = alpha * (0.9 * np.abs(coef).sum() + 0.05 * coef @ coef)
        return 0.5 * np.square(y - X @ coef - intercept).mean() + penalty

    for alpha, _, coef, intercept in models:
        net = ElasticNet(alpha=alpha, l1_ratio=0.9, tol=1e-10, max_iter=10**6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            net.fit(X, y)
        best = objective(alpha, net.coef_, net.intercept_)
        constant = 0.5 * y.var()
        enough = tol * min(max(best, 1e-3 * constant), max(constant - best, 0.0))
        assert objective(alpha, coef, intercept) - best <= enough + 1e-13 * best


def test_a_single_row_to_fit_on_leaves_no_coefficient():
    X, y = np.array([[0.1], [-0.1]]), np.array([0.6, 0.1])
    grid = {"alpha": [0.1, 1.0]}
    search = BatchedGridSearchCV(TorchLinearRegressor(l1_ratio=0.5), grid, cv=2)
    search.set_params(scoring="neg_mean_squared_error").fit(X, y)
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], -0.25)
