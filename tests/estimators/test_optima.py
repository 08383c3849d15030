"""In double precision the estimators end where scikit-learn's and SciPy's solvers do."""

import numpy as np
import pytest
import sklearn
from packaging.version import Version
from scipy.optimize import minimize
from scipy.special import huber
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.linear_model import ElasticNet, LinearRegression, LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier

rng = np.random.default_rng(0)
X = rng.normal(size=(120, 6)) * np.geomspace(0.1, 10, 6) + np.arange(6)
Y = X @ rng.normal(size=(6, 2)) + 0.5 * rng.standard_t(df=2, size=(120, 2)) + [3, -1]
y = Y[:, 0]
weights = pytest.mark.parametrize(
    "weight", [None, rng.uniform(0, 3, size=120)], ids=["unweighted", "weighted"]
)
intercepts = pytest.mark.parametrize("fit_intercept", [True, False])
targets = pytest.mark.parametrize("target", [y, Y], ids=["one target", "two targets"])


def assert_close(actual, desired, rtol=1e-5):
    """Coefficients, as vectors, within `rtol` of each other."""
    assert np.shape(actual) == np.shape(desired)
    assert np.linalg.norm(actual - desired) <= rtol * np.linalg.norm(desired)


def assert_same_optimum(model, reference, rtol=1e-5):
    assert_close(model.coef_, reference.coef_, rtol)
    if model.fit_intercept:
        assert_close(model.intercept_, reference.intercept_, rtol)
    else:
        assert not np.any(model.intercept_)


@weights
@intercepts
@targets
def test_ridge(target, fit_intercept, weight):
    model = TorchLinearRegressor(alpha=0.1, fit_intercept=fit_intercept, tol=1e-12)
    total = len(X) if weight is None else weight.sum()
    ridge = Ridge(alpha=0.1 * total, fit_intercept=fit_intercept)
    assert_same_optimum(
        model.fit(X, target, weight), ridge.fit(X, target, sample_weight=weight), rtol=1e-9
    )


@weights
@intercepts
@pytest.mark.parametrize("l1_ratio", [0.3, 1.0])
def test_elastic_net(l1_ratio, fit_intercept, weight):
    penalty = {"alpha": 0.3, "l1_ratio": l1_ratio, "fit_intercept": fit_intercept}
    model = TorchLinearRegressor(**penalty, tol=1e-12).fit(X, y, weight)
    net = ElasticNet(**penalty, tol=1e-14, max_iter=10**6).fit(X, y, sample_weight=weight)
    assert_same_optimum(model, net)
    np.testing.assert_array_equal(model.coef_ == 0, net.coef_ == 0)


@pytest.mark.parametrize("n_rows", [3, 30, 300])
def test_elastic_net_of_columns_of_any_scale_takes_few_passes(n_rows):
    most = 50 if n_rows == 3 else 30
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(n_rows, 60)) * 10 ** generator.uniform(-3, 3, size=60)
    goal = generator.normal(size=n_rows)
    model = TorchLinearRegressor(alpha=0.01, l1_ratio=0.5, max_iter=most).fit(rows, goal)
    assert model.n_iter_ < most


@pytest.mark.parametrize(
    "textbook",
    [
        {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9},
        {"optimizer": "adam", "learning_rate": 0.01},
    ],
    ids=["sgd", "adam"],
)
def test_textbook_rules_at_rest_are_at_the_lasso(textbook):
    Z = StandardScaler().fit_transform(X)
    lasso = ElasticNet(alpha=0.5, l1_ratio=1.0, tol=1e-14, max_iter=10**6).fit(Z, y)
    model = TorchLinearRegressor(
        alpha=0.5, l1_ratio=1.0, batch_size=None, max_iter=6000, tol=None, **textbook
    ).fit(Z, y)
    np.testing.assert_allclose(model.coef_, lasso.coef_, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(model.coef_ == 0, lasso.coef_ == 0)
    assert 0 < (lasso.coef_ == 0).sum() < 6


@weights
@targets
def test_least_squares(target, weight):
    root = np.sqrt(np.ones(len(X)) if weight is None else weight)[:, None]
    rows = np.column_stack([X, np.ones(len(X))])
    solution = np.linalg.lstsq(root * rows, root * target.reshape(len(X), -1))[0]
    model = TorchLinearRegressor(tol=1e-12).fit(X, target, weight)
    found = np.column_stack([np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)])
    assert_close(found, solution.T, rtol=1e-9)


@targets
def test_least_squares_without_intercept(target):
    model = TorchLinearRegressor(fit_intercept=False, tol=1e-12).fit(X, target)
    assert_close(model.coef_, np.linalg.lstsq(X, target)[0].T, rtol=1e-9)
    assert not np.any(model.intercept_)


def test_least_squares_is_solved_to_rounding_whatever_tol_is():
    tight, loose = TorchLinearRegressor(tol=1e-12), TorchLinearRegressor(tol=0.5)
    assert_close(loose.fit(X, Y).coef_, tight.fit(X, Y).coef_, rtol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_least_squares_in_float32_knows_when_only_rounding_is_left(seed):
    """Whatever cancels: far from the origin without intercept, or of scales far apart."""
    generator = np.random.default_rng(seed)
    far = generator.normal(size=(30, 2)) + 1e4 * generator.normal(size=2)
    wide = generator.normal(size=(8, 60)) * 10 ** generator.uniform(-3, 3, size=60)
    for rows, parameters in ((far, {"fit_intercept": False}), (wide, {"alpha": 0.01})):
        goal = generator.normal(size=len(rows)) + 100
        model = TorchLinearRegressor(**parameters)
        model.fit(rows.astype(np.float32), goal.astype(np.float32))
        assert model.n_iter_ < model.max_iter


@targets
def test_fewer_rows_than_columns_give_the_least_norm(target):
    wide, few = X[:24].reshape(8, 18), target[:8]
    alone = TorchLinearRegressor(fit_intercept=False, tol=1e-12).fit(wide, few)
    assert_close(alone.coef_, np.linalg.lstsq(wide, few)[0].T, rtol=1e-7)
    centred = TorchLinearRegressor(tol=1e-12).fit(wide, few)
    assert_same_optimum(centred, LinearRegression().fit(wide, few), rtol=1e-7)


@weights
@targets
def test_huber(target, weight):
    delta, alpha = 0.7, 0.02
    shares = np.full(len(X), 1 / len(X)) if weight is None else weight / weight.sum()
    rows = np.column_stack([X, np.ones(len(X))])
    goal = target.reshape(len(X), -1)

    def objective(flat):
        W = flat.reshape(goal.shape[1], 7)
        error = rows @ W.T - goal
        penalised = W * [1, 1, 1, 1, 1, 1, 0]
        value = shares @ huber(delta, error).sum(axis=1) + alpha / 2 * np.sum(penalised**2)
        gradient = (shares[:, None] * error.clip(-delta, delta)).T @ rows + alpha * penalised
        return value, gradient.ravel()

    start = np.linalg.lstsq(rows, goal)[0].T.ravel()
    optimum = minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-9}).x
    model = TorchLinearRegressor(loss="huber", delta=delta, alpha=alpha, tol=1e-12)
    model.fit(X, target, weight)
    found = np.column_stack([np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)])
    assert_close(found, optimum.reshape(found.shape))


PROBLEMS = {
    name: (StandardScaler().fit_transform(data), labels)
    for name, (data, labels) in {
        "two classes": load_breast_cancer(return_X_y=True),
        "three classes": load_wine(return_X_y=True),
    }.items()
}
problems = pytest.mark.parametrize("problem", PROBLEMS)


def logistic(alpha, total, solver="newton-cholesky", **parameters):
    return LogisticRegression(
        C=1 / (alpha * total), solver=solver, tol=1e-12, max_iter=10**5, **parameters
    )


@problems
@intercepts
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_logistic_regression(problem, weighted, fit_intercept):
    X, labels = PROBLEMS[problem]
    weight = np.random.default_rng(0).uniform(0, 3, size=len(X)) if weighted else np.ones(len(X))
    alpha = 1e-3
    model = TorchSoftmaxClassifier(alpha=alpha, fit_intercept=fit_intercept, tol=1e-12)
    reference = logistic(alpha, weight.sum(), fit_intercept=fit_intercept)
    assert_same_optimum(
        model.fit(X, labels, weight if weighted else None),
        reference.fit(X, labels, weight if weighted else None),
    )


@problems
def test_logistic_regression_by_lbfgs(problem):
    X, labels = PROBLEMS[problem]
    model = TorchSoftmaxClassifier(alpha=1e-2, tol=1e-12).fit(X, labels)
    assert_same_optimum(model, logistic(1e-2, len(X), solver="lbfgs").fit(X, labels))


@problems
@pytest.mark.parametrize("class_weight", ["balanced", {0: 0.5, 1: 3.0, 2: 1.0}], ids=type)
def test_class_weight(problem, class_weight):
    X, labels = PROBLEMS[problem]
    if class_weight == "balanced":
        total = len(X)
    else:
        class_weight = {label: class_weight[label] for label in np.unique(labels)}
        total = sum(class_weight[label] for label in labels)
    model = TorchSoftmaxClassifier(alpha=1e-3, class_weight=class_weight, tol=1e-12)
    reference = logistic(1e-3, total, class_weight=class_weight)
    assert_same_optimum(model.fit(X, labels), reference.fit(X, labels))


@problems
@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
def test_l1_logistic_regression(problem, l1_ratio):
    X, labels = PROBLEMS[problem]
    X, labels = X[::2, :10], labels[::2]
    model = TorchSoftmaxClassifier(alpha=0.02, l1_ratio=l1_ratio, tol=1e-12).fit(X, labels)
    elastic_net = {"l1_ratio": l1_ratio}
    if Version(sklearn.__version__) < Version("1.8"):  # which needs no name for it
        elastic_net["penalty"] = "elasticnet"
    saga = logistic(0.02, len(X), solver="saga", random_state=0, **elastic_net).fit(X, labels)
    assert_close(model.coef_, saga.coef_)
    np.testing.assert_array_equal(model.coef_ == 0, saga.coef_ == 0)
    assert (model.coef_ == 0).any()
    assert_close(model.predict_proba(X), saga.predict_proba(X))


def test_columns_as_they_come_reach_the_optimum_of_scaled_ones():
    """Without a penalty the scales of the columns change nothing but the coefficients' units."""
    generator = np.random.default_rng(1)
    Z = generator.normal(size=(400, 5))
    labels = (Z @ generator.normal(size=(5, 3)) + generator.gumbel(size=(400, 3))).argmax(axis=1)
    scales, offsets = np.geomspace(1e-4, 1e4, 5), np.array([1e-2, 0.0, 3e4, -100.0, 1e5])
    scaled = TorchSoftmaxClassifier(alpha=0, tol=1e-12).fit(Z, labels)
    raw = TorchSoftmaxClassifier(alpha=0, tol=1e-12).fit(Z * scales + offsets, labels)
    assert_close(raw.coef_ * scales, scaled.coef_)
