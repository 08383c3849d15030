"""A fit ends at the optimum, or it says that it does not.

The cases are those in which a fit once ended elsewhere without a word. Optima come from
`references.py`. All warnings are errors here, so that a fit that ends right also ends quietly.
"""

import contextlib
import re
import signal
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from references import Problem
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import KFold

from skorchless import BatchedGridSearchCV, TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.data import SparseRows
from skorchless.estimators.problem import Dataset

FLOATS = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
HUBER = {"loss": "huber"}


@contextlib.contextmanager
def at_most(seconds):
    """Interrupt what takes more of the processor's time, on one thread: others may be busy."""

    def interrupt(*_):
        raise TimeoutError(f"This takes more than {seconds} s.")

    before, threads = signal.signal(signal.SIGPROF, interrupt), torch.get_num_threads()
    torch.set_num_threads(1)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)
        torch.set_num_threads(threads)


def fit_right(model, X, y, sample_weight=None, gap=1e-3, seconds=60, **start):
    """Fit without a warning; check that the model is at the optimum and that it says so."""
    with at_most(seconds):
        model.fit(X, y, sample_weight, **start)
    assert Problem(model, X, y, sample_weight).gap(model) <= gap
    assert model.converged_
    return model


def fit_exactly(model, X, y, sample_weight=None, **start):
    """The same where the lowest objective is zero because a model can tell every target."""
    model.fit(X, y, sample_weight, **start)
    problem = Problem(model, X, y, sample_weight)
    assert problem.objective(model.coef_, model.intercept_) <= 1e-3 * problem.constant / 1000
    assert model.converged_
    return model


def fit_with_warnings(model, X, y, sample_weight=None):
    """Fit; return the messages of its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, y, sample_weight)
    assert all(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    return [str(warning.message) for warning in caught]


def objective(model, X, y):
    """Of the coefficients that are returned."""
    return Problem(model, X, y).objective(model.coef_, model.intercept_)


# A rare class among many rows (S1).


def rare_class(seed, n_rare, n=100_000):
    """Two columns that tell nothing of the few rows of class 1."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(n, 2)), np.zeros(n, dtype=int)
    y[rng.choice(n, n_rare, replace=False)] = 1
    return X, y


@pytest.mark.parametrize(
    ("n_rare", "seed"),
    [(2, 0), (2, 1), (5, 2), (10, 4), (40, 0)],
)
def test_a_rare_class_has_its_share_of_the_probability(n_rare, seed):
    X, y = rare_class(seed, n_rare)
    model = fit_right(TorchSoftmaxClassifier(), X, y)
    assert_allclose(model.predict_proba(X).mean(axis=0)[1], n_rare / len(X), rtol=0.1)


def test_a_rare_class_in_the_rows_that_a_head_start_misses():
    X = np.random.default_rng(0).normal(size=(100_000, 2))
    y = np.zeros(len(X), dtype=int)
    y[[1, 50_000]] = 1
    model = fit_right(TorchSoftmaxClassifier(random_state=0), X, y)
    assert -11 < model.intercept_[0] < -10.6


@pytest.mark.parametrize("seed", [0, 2])
@pytest.mark.parametrize(
    "kind", ["sparse", "float32", "unpenalised", "little L1", "much L1", "weights"]
)
def test_a_rare_class_in_data_of_every_kind(kind, seed):
    X, y = rare_class(seed, 5)
    weight = None
    if kind == "sparse":
        X = csr_array(X * (np.abs(X) > 1))
    elif kind == "float32":
        X = X.astype(np.float32)
    elif kind == "weights":
        weight = np.random.default_rng(1).uniform(0.5, 1.5, len(y))
    penalty = {
        "unpenalised": {"alpha": 0.0},
        "little L1": {"alpha": 1e-6, "l1_ratio": 1.0},
        "much L1": {"alpha": 1e-4, "l1_ratio": 1.0},
    }
    fit_right(TorchSoftmaxClassifier(**penalty.get(kind, {})), X, y, weight)


@pytest.mark.parametrize("n_rare", [1, 2, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_rare_third_class_has_its_share_of_the_probability(n_rare, seed):
    """With an intercept each class has the mean probability of its share of the rows."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(200_000, 2))
    y = (X[:, 0] + rng.logistic(size=len(X)) > 0).astype(int)
    y[rng.choice(len(X), n_rare, replace=False)] = 2
    model = TorchSoftmaxClassifier().fit(X, y)
    share = model.predict_proba(X).mean(axis=0)[2] * len(X) / n_rare
    assert 0.5 < share < 2
    assert model.converged_


def start_of(model, coef, intercept):
    if isinstance(model, TorchLinearRegressor):
        return {"coef_init": np.full(3, coef), "intercept_init": intercept}
    return {"coef_init": np.full((1, 3), coef), "intercept_init": [intercept]}


@pytest.mark.parametrize(
    ("coef", "intercept"), [(0.0, -1e5), (0.0, 1e5), (1e3, 0.0), (-1e3, 1e3)], ids=str
)
@pytest.mark.parametrize(
    "model",
    [
        TorchSoftmaxClassifier(),
        TorchSoftmaxClassifier(alpha=1e-3, l1_ratio=1.0),
        TorchLinearRegressor(**HUBER),
        TorchLinearRegressor(),
    ],
    ids=["classes", "classes and L1", "huber", "squared error"],
)
@FLOATS
def test_a_start_that_is_far_out_ends_at_the_optimum(model, coef, intercept, dtype):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3)).astype(dtype)
    score = X @ [1, -1, 0.5] + rng.logistic(size=200)
    y = (score > 0).astype(int) if isinstance(model, TorchSoftmaxClassifier) else score
    fit_right(model, X, y, **start_of(model, coef, intercept))


# Classes that are nearly separable, among many rows (S2).


@pytest.mark.parametrize(
    ("seed", "n_flipped", "dtype"),
    [
        *((seed, 10, np.float64) for seed in range(4)),
        (2, 3, np.float64),
        (0, 10, np.float32),
        (3, 10, np.float32),
    ],
    ids=str,
)
def test_nearly_separable_classes(seed, n_flipped, dtype):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(100_000, 3))
    y = (X[:, 0] > 0).astype(int)
    y[rng.choice(len(X), n_flipped, replace=False)] ^= 1
    fit_right(TorchSoftmaxClassifier(alpha=0), X.astype(dtype), y)


def test_three_nearly_separable_classes():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(100_000, 3))
    y = np.digitize(X[:, 0], [-0.5, 0.5])
    y[rng.choice(len(X), 10, replace=False)] = rng.integers(0, 3, 10)
    fit_right(TorchSoftmaxClassifier(alpha=0), X, y)


# Gross outliers (S3), and what `adam` and `partial_fit` make of them (S14).


def with_outliers(n, outliers, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    y = X @ [1, 2, 3, 4] + 1
    y[3 : 3 + len(outliers)] = outliers
    return X, y


def huber_optimum(X, y):
    """Coefficients; beyond Huber's bend it does not matter how far away an outlier is."""
    near = np.clip(y, -40, 40)
    problem = Problem(TorchLinearRegressor(**HUBER), X, near)
    (coef,), (intercept,) = problem.optimum
    moved = y != near
    assert (np.abs(X @ coef + intercept - near)[moved] > 1).all()
    return coef


OUTLIERS = pytest.mark.parametrize(
    ("n", "outliers"),
    [(50, [1e7]), (20, [99999.0]), (300, [1e9]), (50, [-1e7, 1e5, -1e9])],
    ids=str,
)


@OUTLIERS
@pytest.mark.parametrize("seed", [0, 1])
@FLOATS
def test_huber_does_not_mind_how_gross_an_outlier_is(n, outliers, seed, dtype):
    X, y = with_outliers(n, outliers, seed)
    model = TorchLinearRegressor(**HUBER).fit(X.astype(dtype), y.astype(dtype))
    assert_allclose(model.coef_, huber_optimum(X, y), rtol=0, atol=0.05)
    assert model.converged_


@OUTLIERS
@pytest.mark.parametrize("seed", [0, 1])
def test_adam_does_not_mind_how_gross_an_outlier_is(n, outliers, seed):
    X, y = with_outliers(n, outliers, seed)
    model = TorchLinearRegressor(**HUBER, optimizer="adam", random_state=0).fit(X, y)
    assert_allclose(model.coef_, huber_optimum(X, y), rtol=0, atol=0.1)


@pytest.mark.parametrize("call", [0, 1, 10])
@pytest.mark.parametrize("outlier", [1e9, -1e5])
def test_partial_fit_recovers_from_a_gross_outlier(call, outlier):
    rng = np.random.default_rng(0)
    model = TorchLinearRegressor(**HUBER, random_state=0)
    for number in range(150):
        X = rng.normal(size=(50, 3))
        y = X @ [1, 2, 3] + 1
        if number == call:
            y[7] = outlier
        model.partial_fit(X, y)
    X = rng.normal(size=(1000, 3))
    assert model.score(X, X @ [1, 2, 3] + 1) > 0.99


@pytest.mark.parametrize("n", [20, 100, 256])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_adam_with_its_own_rate_learns_from_few_rows(n, seed):
    """With at most 256 rows an epoch is one step, whose loss is the objective before it."""
    X = np.random.default_rng(seed).normal(size=(n, 3))
    y = X @ [1, 2, 3] + 1
    model = TorchLinearRegressor(optimizer="adam", random_state=0).fit(X, y)
    assert model.score(X, y) > 0.999
    end = Problem(model, X, y).objective(model.coef_, model.intercept_)
    assert end <= model.loss_curve_.min() * (1 + 1e-9)


# Rejected steps are no convergence (S4).


@FLOATS
@pytest.mark.parametrize(("n", "seed"), [(40, 1), (40, 4), (80, 0), (80, 1)])
def test_huber_with_large_targets(n, seed, dtype):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 5))
    y = 1e4 * (X @ rng.normal(size=5) + rng.standard_t(3, size=n))
    fit_right(TorchLinearRegressor(**HUBER), X.astype(dtype), y.astype(dtype), gap=2e-4)


def growing_sizes(seed, n, d, spread=2.0, middle=10.0):
    """Sizes over `d` + 1 years, as of towns: all columns nearly the same, most rows small."""
    rng = np.random.default_rng(seed)
    size = np.exp(spread * rng.normal(size=n) + middle)
    growth = 0.01 * rng.normal(size=(n, 1)) + 0.002 * rng.normal(size=(n, d + 1))
    sizes = size[:, None] * np.exp(np.cumsum(growth, axis=1))
    return sizes[:, :-1], sizes[:, -1] * np.exp(0.01 * rng.normal(size=n))


@pytest.mark.parametrize("seed", range(4))
def test_huber_on_sizes_of_towns(seed):
    fit_right(TorchLinearRegressor(**HUBER), *growing_sizes(seed, 150, 14))


@pytest.mark.parametrize("seed", range(4))
def test_huber_on_sizes_of_towns_in_single_precision(seed):
    """Whose optimum float32 may not hold."""
    X, y = (array.astype(np.float32) for array in growing_sizes(seed, 150, 14))
    model = TorchLinearRegressor(**HUBER)
    messages = fit_with_warnings(model, X, y)
    problem = Problem(model, X, y)
    held = problem.gap_of(*(value.astype(np.float32) for value in problem.optimum))
    if messages:
        assert held > 1e-4
        assert not model.converged_
    else:
        assert problem.gap(model) <= 1e-3
        assert model.converged_


# Classes in columns that are nearly the same and far from normal (S5).


def sizes_or_not(seed, n=600):
    rng = np.random.default_rng(seed)
    size = np.exp(3 * rng.normal(size=n) + 14)
    growth = 0.01 * rng.normal(size=n)
    y = rng.integers(0, 4, size=n)
    base = np.where(y < 2, size, rng.normal(size=n) + 1.5)
    steps = growth[:, None] + 0.002 * rng.normal(size=(n, 18))
    return base[:, None] * np.exp(np.cumsum(steps, axis=1)), y


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 3])
def test_sizes_over_many_decades_end_at_the_optimum_or_say_that_they_do_not(seed):
    """Rounding of the largest rows hides what the smallest ones ask for."""
    X, y = sizes_or_not(seed)
    model = TorchSoftmaxClassifier()
    messages = fit_with_warnings(model, X, y)
    gap = Problem(model, X, y).gap(model)
    assert model.converged_ == (not messages)
    assert gap <= (1e-3 if model.converged_ else 0.03)


@pytest.mark.slow
def test_no_candidate_of_a_search_changes_another():
    """The first one meets rows that are certain and wrong, the second one never does."""
    X, y = sizes_or_not(1, n=300)
    alphas = [1e-4, 1e18]
    search = BatchedGridSearchCV(TorchSoftmaxClassifier(), {"alpha": alphas}, cv=KFold(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.set_params(refit=False).fit(X, y)
    assert search.converged_[1].all()
    for split, (train, _) in enumerate(KFold(2).split(X)):
        problem = Problem(TorchSoftmaxClassifier(alpha=alphas[1]), X[train], y[train])
        assert problem.best < 0.999 * problem.constant
        assert_allclose(search.loss_curves_[1][split][-1], problem.best, rtol=1e-3)


@pytest.mark.parametrize("seed", [2, 3, 14, 27, 49])
def test_levels_that_have_one_class_end_quietly(seed):
    """Rare levels tell the class for sure; without a penalty their coefficients have no end."""
    rng = np.random.default_rng(seed)
    levels = ((40, 1.6), (30, 1.3))
    cols = [np.eye(m)[np.minimum(rng.zipf(a, 600), m) - 1] for m, a in levels]
    X = np.hstack([*cols, rng.normal(size=(600, 2))])
    size = X.std(axis=0)
    size[size == 0] = 1
    score = (X - X.mean(axis=0)) / size @ rng.normal(size=72)
    y = (score + 0.3 * rng.normal(size=600) > 0).astype(int)
    model = TorchSoftmaxClassifier(alpha=0).fit(X, y)
    assert model.converged_
    assert model.n_iter_ <= 20
    # With next to no penalty the optimum is finite, and no lower.
    bounded = TorchSoftmaxClassifier(alpha=1e-9, tol=1e-8).fit(X, y)
    end = log_loss(y, model.predict_proba(X))
    assert end <= (1 + 1e-4) * log_loss(y, bounded.predict_proba(X))


# One row that is far from all others: certain soon, it holds up the rest until then.


def one_far(n, d, size, cell, seed=0):
    """Two classes; the first row, or one cell of it, is far on the side of its class."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    y = (X[:, 0] + 0.5 * rng.logistic(size=n) > 0).astype(int)
    if cell is None:
        X[0] *= size * np.sign(X[0, 0])
    else:
        X[0, cell] = size
    y[0] = 1
    return X, y


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("alpha", [0.0, 1e-4])
@pytest.mark.parametrize("size", [1e4, 1e6, 1e8])
@pytest.mark.parametrize(("n", "d", "cell"), [(1000, 2, None), (1000, 5, 0), (20_000, 5, 0)])
def test_one_row_far_away_does_not_end_a_fit(n, d, cell, size, alpha, seed):
    """The optimum of the other rows is nearly one of all, as one row weighs next to nothing."""
    X, y = one_far(n, d, size, cell, seed)
    model = TorchSoftmaxClassifier(alpha=alpha).fit(X, y)
    others = TorchSoftmaxClassifier(alpha=alpha).fit(X[1:], y[1:])
    of_others = objective(others, X[1:], y[1:])
    assert model.converged_
    # A change of the direction that the others hardly see puts the far row on its side.
    assert objective(model, X, y) <= of_others + 10.0 / n


@pytest.mark.parametrize("model", [TorchLinearRegressor(), TorchLinearRegressor(**HUBER)])
def test_a_candidate_without_a_penalty_is_solved_beside_others_that_have_one(model):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(90, 5))
    y = X @ rng.normal(size=5) + 0.3 * rng.normal(size=90)
    X = np.column_stack([X, X[:, 0] + 1e-11 * rng.normal(size=90)])
    search = BatchedGridSearchCV(model, {"alpha": [0.0, 1e-4]}, cv=KFold(3), refit=False)
    curves = search.fit(X, y).loss_curves_[0]
    for split, (train, _) in enumerate(KFold(3).split(X)):
        alone = clone(model).set_params(alpha=0.0).fit(X[train], y[train])
        assert curves[split][-1] == pytest.approx(alone.loss_curve_[-1], rel=1e-4)


@pytest.mark.parametrize("alphas", [[1e-4], [1e-4, 1e-3]], ids=len)
@pytest.mark.parametrize("mean", [0.0, 1e6, 1.7e9])
def test_a_search_says_of_each_fit_what_the_fit_says(mean, alphas):
    """Also where all penalties are solved for at once."""
    rng = np.random.default_rng(0)
    X = (mean + 1e3 * rng.random((200, 3))).astype(np.float32)
    y = (X.astype(float) @ [1e-3, 2e-3, -1e-3] + rng.normal(size=200)).astype(np.float32)
    search = BatchedGridSearchCV(TorchLinearRegressor(), {"alpha": alphas}, cv=KFold(3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        search.set_params(refit=False).fit(X, y)
    for i, alpha in enumerate(alphas):
        for split, (train, _) in enumerate(KFold(3).split(X)):
            model = TorchLinearRegressor(alpha=alpha)
            fit_with_warnings(model, X[train], y[train])
            assert model.converged_ == search.converged_[i, split]
    assert bool(caught) == (not search.converged_.all())


# Single precision (S6, S9, S10).


@pytest.mark.parametrize("seed", range(4))
def test_least_squares_in_single_precision_with_columns_that_are_nearly_sums_of_others(seed):
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(100, 20))
    means = [Z[:, j::3].mean(axis=1) + 3e-5 * rng.normal(size=100) for j in range(3)]
    X = np.column_stack([Z, *means]).astype(np.float32)
    y = (Z @ rng.normal(size=20) / np.sqrt(20) + 0.03 * rng.normal(size=100)).astype(np.float32)
    model = fit_right(TorchLinearRegressor(), X, y)
    end = Problem(model, X, y).objective(model.coef_, model.intercept_)
    assert model.loss_curve_[-1] == pytest.approx(end, rel=1e-2)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("is_sparse", [False, True])
def test_noise_is_relative_and_has_no_mean(is_sparse, weighted):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 4)) * (rng.random((30, 4)) > 0.5)
    rows = SparseRows.of(csr_array(X)) if is_sparse else torch.from_numpy(X)
    weight = torch.from_numpy(rng.random(30)) if weighted else None
    data = Dataset(rows, torch.arange(30), weight, 1).with_noise(2.0**-10)
    noisy = data.X.matrix.toarray() if is_sparse else data.X.numpy()
    assert_allclose(np.abs(noisy[:30] - X), 2.0**-10 * np.abs(X), rtol=1e-9)
    assert_array_equal((noisy[:30] - X) + (noisy[30:] - X), 0)
    assert 0 < ((noisy[:30] - X) * X > 0).sum() < (X != 0).sum()
    assert_array_equal(data.target, np.tile(np.arange(30), 2))
    assert (data.weight is None) == (weight is None)
    if weighted:
        assert_array_equal(data.weight, np.tile(weight, 2))


def ordered_classes(seed, n=93, n_classes=7):
    """Classes that are intervals of the first column, nearly."""
    rng = np.random.default_rng(seed)
    t = np.exp(0.6 * rng.normal(size=n) + 8.7)
    X = np.column_stack([t, 7 * rng.normal(size=n) + 4]).astype(np.float32)
    bounds = np.quantile(np.log(t), np.arange(1, n_classes) / n_classes)
    return X, np.digitize(np.log(t) + 0.03 * rng.normal(size=n), bounds)


@FLOATS
@pytest.mark.parametrize("seed", range(4))
def test_nearly_separable_classes_of_few_rows(seed, dtype):
    X, y = ordered_classes(seed)
    fit_right(TorchSoftmaxClassifier(), X.astype(dtype), y, gap=2e-4)


@pytest.mark.parametrize("n", [4, 10, 50])
@pytest.mark.parametrize("offset", [1e6, 8e6])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_column_that_varies_in_its_last_digits_counts(n, offset, sign):
    """Column, slope and intercept are whole numbers that float32 holds."""
    k = np.arange(n)
    X, y = sign * (offset + k)[:, None].astype(np.float32), (3.0 * k).astype(np.float32)
    model = TorchLinearRegressor()
    messages = fit_with_warnings(model, X, y)
    assert_array_equal(model.coef_, np.float32([3 * sign]))
    assert model.intercept_ == np.float32(-3 * offset)
    # Above 2**24 float32 holds even numbers only, and so do the terms of predictions.
    assert bool(messages) == (model.score(X, y) < 1 - 1e-3)
    assert model.converged_ == (not messages)


def numbers_far_from_zero(seed):
    """A column 1e7 standard deviations from zero, as far as float32 holds it."""
    rng = np.random.default_rng(seed)
    X = (1e9 + 100 * rng.normal(size=(60, 1))).astype(np.float32)
    score = (X[:, 0].astype(np.float64) - 1e9) / 60
    return X, score, rng


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("Model", [TorchLinearRegressor, TorchSoftmaxClassifier])
def test_an_optimum_that_single_precision_does_not_hold_is_told(Model, seed):
    X, score, rng = numbers_far_from_zero(seed)
    noise = rng.normal(size=60)
    y = score + 0.1 * noise if Model is TorchLinearRegressor else (score + noise > 0).astype(int)
    y = y.astype(np.float32) if Model is TorchLinearRegressor else y
    model = Model(alpha=0)
    messages = fit_with_warnings(model, X, y)
    gap = Problem(model, X, y).gap(model)
    if gap > 1e-3:
        assert len(messages) == 1
        assert "float32" in messages[0]
        assert "float64" in messages[0]
        assert not model.converged_
    else:
        assert not messages
        assert model.converged_
    fit_right(Model(alpha=0), X.astype(np.float64), y.astype(np.float64))


def test_some_optimum_is_not_held_by_single_precision():
    """The test before this one meets cases that are to be told."""
    X, score, rng = numbers_far_from_zero(0)
    y = (score + 0.1 * rng.normal(size=60)).astype(np.float32)
    problem = Problem(TorchLinearRegressor(), X, y)
    slope = problem.optimum[0].astype(np.float32)
    near = np.float32(np.mean(y - X.astype(np.float64) @ slope[0].astype(np.float64)))
    assert problem.gap_of(slope, near) > 1e-2


# Fewer rows than columns (S7, S17).


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        *((size, np.float32) for size in (1e5, 1e7, 1e10)),
        *((size, np.float64) for size in (1e12, 1e14, 1e16)),
    ],
    ids=str,
)
@pytest.mark.parametrize("loss", ["squared_error", "huber"])
def test_a_column_in_large_units_does_not_hide_the_others(size, dtype, loss, seed):
    rng = np.random.default_rng(seed)
    one_of_each = np.eye(50)[rng.permutation(50)[:40]]
    X = np.column_stack([rng.lognormal(size=40) * size, one_of_each]).astype(dtype)
    y = rng.normal(size=40).astype(dtype)
    fit_exactly(TorchLinearRegressor(loss=loss), X, y)
    fit_right(TorchLinearRegressor(loss=loss, alpha=1e-4), X, y)


def far_and_wide(seed, offset, n=10, d=15):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) + offset, rng.normal(size=n)


def least_norm(X, y):
    """Coefficients of least norm that tell every target, without what rounding adds to the rank."""
    mean = X.mean(axis=0)
    return np.linalg.pinv(X - mean, rcond=1e-8) @ (y - y.mean())


OFFSETS = pytest.mark.parametrize("offset", [1.0, 1e2, 1e3, 1e4, 1e5], ids="{:g}".format)


@OFFSETS
@pytest.mark.parametrize("seed", [48, 0, 1])
@pytest.mark.parametrize("shape", [(10, 15), (20, 60), (15, 15)], ids=str)
def test_wide_tables_far_from_zero_are_solved_with_the_least_norm(offset, seed, shape):
    X, y = far_and_wide(seed, offset, *shape)
    model = fit_exactly(TorchLinearRegressor(), X, y)
    assert model.score(X, y) == pytest.approx(1)
    wanted = least_norm(X, y)
    assert np.linalg.norm(model.coef_ - wanted) <= 1e-6 * np.linalg.norm(wanted)


@OFFSETS
@pytest.mark.parametrize("seed", [48, 0, 1])
@pytest.mark.parametrize("kind", ["sparse", "huber", "weights", "two targets"])
def test_wide_tables_far_from_zero_of_every_kind(offset, kind, seed):
    X, y = far_and_wide(seed, offset)
    weight = np.arange(1.0, 11) if kind == "weights" else None
    loss = "huber" if kind == "huber" else "squared_error"
    target = np.column_stack([y, y[::-1]]) if kind == "two targets" else y
    rows = csr_array(X) if kind == "sparse" else X
    fit_exactly(TorchLinearRegressor(loss=loss), rows, target, weight)


@OFFSETS
@pytest.mark.parametrize("seed", [48, 0, 1])
def test_wide_tables_far_from_zero_in_single_precision(offset, seed):
    X, y = (array.astype(np.float32) for array in far_and_wide(seed, offset))
    model = TorchLinearRegressor()
    if offset <= 1e3:
        fit_exactly(model, X, y)
        return
    messages = fit_with_warnings(model, X, y)
    problem = Problem(model, X, y)
    end = problem.objective(model.coef_, model.intercept_)
    assert end < problem.constant / 2
    assert bool(messages) == (end > 1e-6 * problem.constant)
    assert model.converged_ is not bool(messages)


@OFFSETS
@pytest.mark.parametrize("seed", [48, 0, 1])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_wide_classes_far_from_zero_are_separated(offset, seed, n_classes):
    X, _ = far_and_wide(seed, offset)
    y = np.arange(len(X)) % n_classes
    model = fit_exactly(TorchSoftmaxClassifier(alpha=0), X, y)
    assert_array_equal(model.predict(X), y)


def test_a_search_over_wide_tables_far_from_zero_scores_as_one_near_zero():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(24, 40))
    y = X[:, 0] + 0.1 * rng.normal(size=24)
    scores = [
        BatchedGridSearchCV(TorchLinearRegressor(), {"alpha": [0.0, 1e-3]}, cv=KFold(4))
        .fit(X + offset, y)
        .cv_results_["mean_test_score"]
        for offset in (0, 1e3, 1e5)
    ]
    assert_allclose(scores[1:], [scores[0]] * 2, rtol=0, atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_many_classes_of_which_some_are_separable(seed):
    """Some logits go to infinity, others do not, and rows have a part in both."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(40, 5))
    y = (X @ rng.normal(size=(5, 12)) + rng.gumbel(size=(40, 12))).argmax(axis=1)
    y = np.unique(y, return_inverse=True)[1]
    model = TorchSoftmaxClassifier(alpha=0.0).fit(X, y)
    assert model.converged_
    rows, reached = np.column_stack([X, np.ones(len(X))]), log_loss(y, model.predict_proba(X))

    def loss(flat):
        raw = rows @ flat.reshape(rows.shape[1], -1)
        raw -= logsumexp(raw, axis=1, keepdims=True)
        residual = np.exp(raw)
        residual[range(len(y)), y] -= 1.0
        return -raw[range(len(y)), y].mean(), (rows.T @ residual / len(y)).ravel()

    there = np.vstack([model.coef_.T, model.intercept_]).ravel()
    further = minimize(loss, there, jac=True, method="BFGS", options={"gtol": 1e-12})
    assert reached - further.fun <= 1e-3 * max(reached, 1e-3)


# L1 where columns are nearly the same or classes nearly separable (S8).


@pytest.mark.parametrize("shape", [(112, 32), (100, 7)], ids=str)
@pytest.mark.parametrize("alpha", [0.1, 1e4])
@pytest.mark.parametrize("seed", [0, 1])
def test_elastic_net_on_sizes_of_towns(shape, alpha, seed):
    X, y = growing_sizes(seed, *shape)
    fit_right(TorchLinearRegressor(alpha=alpha, l1_ratio=0.5), X, y, seconds=10)


@FLOATS
@pytest.mark.parametrize(("alpha", "l1_ratio", "seed"), [(1e-4, 1.0, 0), (1e-3, 0.5, 3)])
def test_l1_with_classes_that_are_nearly_separable(alpha, l1_ratio, seed, dtype):
    X, y = ordered_classes(seed)
    model = TorchSoftmaxClassifier(alpha=alpha, l1_ratio=l1_ratio)
    fit_right(model, X.astype(dtype), y, seconds=10)


def test_l1_with_a_small_tolerance_ends_soon():
    X, y = ordered_classes(3)
    model = TorchSoftmaxClassifier(alpha=1e-3, l1_ratio=1.0, tol=1e-9)
    fit_right(model, X.astype(np.float64), y, gap=1e-7, seconds=15)


def test_l1_with_classes_in_a_walk():
    rng = np.random.default_rng(2)
    walk = np.cumsum(rng.normal(size=(100, 7)), axis=1) + rng.normal(size=(100, 1))
    score = walk[:, -1] + walk[:, 3] + 0.5 * rng.normal(size=100)
    y = np.digitize(score, np.quantile(score, [0.25, 0.5, 0.75]))
    model = TorchSoftmaxClassifier(alpha=1e-3, l1_ratio=1.0)
    fit_right(model, 1e3 * np.exp(0.05 * walk), y, seconds=10)


# Tables of less than full rank (S11).


def dependent_columns(n=60, seed=0):
    """Forty columns of rank twenty."""
    rng = np.random.default_rng(seed)
    X = rng.random((n, 40))
    X[:, 20:] = X[:, :20] @ rng.random((20, 20))
    return X, rng.normal(size=n), rng


def assert_near(found, wanted, rtol):
    assert np.linalg.norm(found - wanted) <= rtol * np.linalg.norm(wanted)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("units", [1.0, np.geomspace(0.1, 10, 40)], ids=["one unit", "units"])
def test_dependent_columns_have_the_least_norm(seed, fit_intercept, units):
    X, y, rng = dependent_columns(seed=seed)
    X = X * units
    y = np.column_stack([y, rng.normal(size=60)])
    model = TorchLinearRegressor(fit_intercept=fit_intercept)
    fit_right(model, X, y[:, 0]) if fit_intercept else model.fit(X, y[:, 0])
    wanted = LinearRegression(fit_intercept=fit_intercept).fit(X, y)
    assert_near(model.coef_, wanted.coef_[0], rtol=1e-8)
    assert_near(model.fit(X, y).coef_, wanted.coef_, rtol=1e-8)


def test_dependent_columns_and_the_order_of_rows_and_columns():
    X, y, rng = dependent_columns()
    coef = fit_right(TorchLinearRegressor(), X, y).coef_
    for _ in range(3):
        rows, columns = rng.permutation(60), rng.permutation(40)
        assert_near(TorchLinearRegressor().fit(X[rows], y[rows]).coef_, coef, rtol=1e-9)
        moved = TorchLinearRegressor().fit(np.ascontiguousarray(X[:, columns]), y)
        assert_near(moved.coef_, coef[columns], rtol=1e-9)


def test_dependent_columns_with_weights_that_are_repetition():
    X, y, rng = dependent_columns()
    weight = rng.integers(1, 4, size=60)
    weighted = fit_right(TorchLinearRegressor(), X, y, weight)
    repeated = TorchLinearRegressor().fit(X.repeat(weight, axis=0), y.repeat(weight))
    assert_near(weighted.coef_, repeated.coef_, rtol=1e-9)


def test_dependent_columns_dense_and_sparse():
    X, y, rng = dependent_columns()
    X[:, :20] *= rng.random((60, 20)) < 0.5
    X[:, 20:] = X[:, :20] @ rng.random((20, 20))
    dense = fit_right(TorchLinearRegressor(), X, y)
    sparse = fit_right(TorchLinearRegressor(), csr_array(X), y)
    assert_near(sparse.coef_, dense.coef_, rtol=1e-9)


@pytest.mark.parametrize("n_copies", [2, 5])
def test_copies_of_a_column_share_its_coefficient(n_copies):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50, 4)) * [1.0, 10.0, 0.1, 1.0], rng.normal(size=50)
    once = TorchLinearRegressor().fit(X, y).coef_
    copied = np.column_stack([X, *[X[:, 0]] * (n_copies - 1)])
    coef = fit_right(TorchLinearRegressor(), copied, y).coef_
    assert_allclose(coef[[0, *range(4, len(coef))]], once[0] / n_copies, rtol=1e-9)
    assert_allclose(coef[1:4], once[1:], rtol=1e-9)


def test_dependent_columns_beside_one_in_large_units_are_predicted_right():
    X, y, rng = dependent_columns()
    X = np.column_stack([X, 1e6 * rng.normal(size=60)])
    y = y + 3e-6 * X[:, -1]
    model = fit_right(TorchLinearRegressor(), X, y)
    (coef,), (intercept,) = Problem(model, X, y).optimum
    assert_allclose(model.predict(X), X @ coef + intercept, rtol=0, atol=1e-6)


# Columns that are dependent but for a little.

LOSSES = pytest.mark.parametrize("loss", ["squared_error", "huber", "classes"])


def estimator_and_target(loss, raw, rng):
    """An estimator without a penalty, and its target for rows of these raw predictions."""
    if loss == "classes":
        noisy = np.column_stack([raw, -raw, 0 * raw]) + rng.gumbel(size=(len(raw), 3))
        return TorchSoftmaxClassifier(alpha=0.0), noisy.argmax(axis=1)
    y = raw + rng.standard_t(2, size=len(raw))
    return TorchLinearRegressor(loss=loss), y.astype(raw.dtype)


@LOSSES
@pytest.mark.parametrize("units", [1.0, [1e-4, 1e3, 1.0, 1e5]], ids=["one unit", "units"])
@pytest.mark.parametrize("distance", [1e-4, 1e-6, 1e-8])
def test_nearly_dependent_columns_are_told_apart(distance, units, loss):
    """What is lowest on the columns of a regular matrix is lowest on their linear combinations."""
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(300, 4))
    model, y = estimator_and_target(loss, Z @ [1.0, -1.0, 0.5, 2.0], rng)
    X = Z.copy()
    X[:, 3] = X[:, :3] @ [1.0, 2.0, -1.0] + distance * Z[:, 3]
    X *= units
    wanted = objective(clone(model).fit(Z, y), Z, y)
    assert objective(model.fit(X, y), X, y) == pytest.approx(wanted, rel=2e-4)
    assert model.converged_


@LOSSES
@pytest.mark.parametrize("seed", range(3))
def test_columns_that_are_dependent_but_for_rounding(loss, seed):
    """In float32 the optimum needs coefficients that float32 may not be able to hold."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(200, 5)).astype(np.float32)
    X[:, 4] = X[:, :4].sum(axis=1)
    model, y = estimator_and_target(loss, X @ np.float32([1, -1, 0.5, 2, 0]), rng)
    span, _ = np.linalg.qr(X.astype(np.float64))
    best = objective(clone(model).fit(span, y), span, y)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, y)
    found = objective(model, X, y)
    assert found <= 1.001 * best or (caught and not model.converged_)
    # The column that follows from the others is worth next to nothing.
    assert found <= 1.05 * objective(clone(model).fit(X[:, :4], y), X[:, :4], y)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("Estimator", [TorchLinearRegressor, TorchSoftmaxClassifier])
def test_columns_that_follow_from_others_far_from_zero_are_no_alarm(Estimator, seed):
    """What rounding leaves of their difference is no column, so that nothing has been lost."""
    rng = np.random.default_rng(seed)
    X = 1e4 + rng.normal(size=(300, 4))
    X = np.column_stack([X, X @ rng.normal(size=(4, 3)), X[:, 0]])
    y = (X[:, :4] - 1e4) @ rng.normal(size=4) + rng.normal(size=300)
    if Estimator is TorchSoftmaxClassifier:
        y = np.digitize(y, [-1.0, 0.0, 1.0])
    model = Estimator().fit(X, y)
    assert model.converged_
    kept = Estimator().fit(X[:, :4] - 1e4, y)
    assert objective(model, X, y) <= objective(kept, X[:, :4] - 1e4, y) * (1 + 1e-3)


def two_far_columns():
    """Two columns far from zero whose difference is all rounding, and targets of both."""
    rng = np.random.default_rng(0)
    x, noise = 1e6 + rng.normal(size=400), rng.normal(size=400)
    X = np.column_stack([x, np.where(noise > 0, np.nextafter(x, 2e6), x), noise])
    y = x - 1e6 + noise + 2.0 * (noise > 0) + rng.normal(size=400)
    return X, y


def test_dependent_columns_of_few_digits_keep_what_coefficients_can_hold():
    """Their sum is what counts."""
    X, y = two_far_columns()
    model = TorchLinearRegressor()
    fit_with_warnings(model, X, y)
    one = TorchLinearRegressor().fit(X[:, 1:], y)
    assert objective(model, X, y) <= 1.02 * objective(one, X[:, 1:], y)


def test_lost_digits_are_told_with_the_objective_that_is_left():
    X, y = two_far_columns()
    model = TorchLinearRegressor()
    (message,) = fit_with_warnings(model, X, y)
    told = re.search(r"The objective of the returned model is ([0-9.e+-]+);", str(message))
    assert float(told[1]) == pytest.approx(objective(model, X, y), rel=1e-4)
    assert not model.converged_


def test_an_interrupt_of_the_search_for_what_coefficients_can_hold_is_one(monkeypatch):
    def interrupted(*_):
        return SimpleNamespace(interrupt=KeyboardInterrupt())

    monkeypatch.setattr("skorchless.estimators.solve.fit_stack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        TorchLinearRegressor().fit(*two_far_columns())


# Models that are right in exact arithmetic, but not as they predict.


def one_digit_apart(n, offset, dtype, seed=0):
    """Two columns far from zero that differ by one unit in their last place, or not at all."""
    rng = np.random.default_rng(seed)
    column = (offset + rng.normal(size=n)).astype(dtype)
    differs = rng.permutation(np.arange(n) % 2)
    above = np.nextafter(column, dtype(np.inf))
    return np.column_stack([column, np.where(differs == 1, above, column)]), differs


def loss_as_predicted(model, X, y):
    """Mean loss of what `predict` or `predict_proba` returns, in double precision."""
    if isinstance(model, TorchSoftmaxClassifier):
        with np.errstate(divide="ignore"):
            chosen = np.log(model.predict_proba(X)[np.arange(len(y)), y].astype(np.float64))
        return -chosen.mean()
    error = np.abs(model.predict(X).astype(np.float64) - y)
    inside = np.minimum(error, 1.0 if model.loss == "huber" else np.inf)
    return (inside * (error - inside / 2)).mean()


def is_kept(model, X, y):
    """Whether predictions of y, 0 or 1, are about as good as the loss curve promises."""
    share = np.mean(y)
    constant = share * (1 - share) / 2
    if isinstance(model, TorchSoftmaxClassifier):
        constant = log_loss(y, np.full(len(y), share))
    reached = model.loss_curve_[-1]
    distance = 2e-3 * min(max(reached, constant / 1000), constant - reached)
    return loss_as_predicted(model, X, y) <= reached + distance + 1e-6 * reached


PREDICTING = {
    "squared error": TorchLinearRegressor(),
    "huber": TorchLinearRegressor(**HUBER),
    "classes": TorchSoftmaxClassifier(alpha=0),
    "squared error, penalised": TorchLinearRegressor(alpha=1e-30),
    "huber, penalised": TorchLinearRegressor(alpha=1e-30, **HUBER),
    "classes, penalised": TorchSoftmaxClassifier(alpha=1e-30),
}


@FLOATS
@pytest.mark.parametrize("convert", [np.asarray, csr_array], ids=["dense", "sparse"])
@pytest.mark.parametrize(("n", "seed"), [(5, 0), (5, 1), (50, 0)])
@pytest.mark.parametrize("offset", [1e2, 1e6])
@pytest.mark.parametrize("kind", PREDICTING)
def test_a_model_that_does_not_predict_what_training_gained_says_so(
    kind, offset, n, seed, convert, dtype
):
    X, y = one_digit_apart(n, offset, dtype, seed)
    X, model = convert(X), clone(PREDICTING[kind])
    messages = fit_with_warnings(model, X, y)
    assert model.converged_ == (not messages)
    if not messages:
        assert is_kept(model, X, y)


@pytest.mark.parametrize("kind", list(PREDICTING)[:3])
def test_predictions_that_lose_what_training_gained_are_told(kind):
    X, y = one_digit_apart(50 if kind == "classes" else 5, 1e6, np.float64)
    model = clone(PREDICTING[kind])
    (message,) = fit_with_warnings(model, X, y)
    assert not is_kept(model, X, y)
    told = re.search(r"The objective of the returned model is ([0-9.e+-]+);", message)
    assert float(told[1]) == pytest.approx(loss_as_predicted(model, X, y), rel=0.5)
    # The cure that it names is one.
    fit_exactly(clone(model), X - X[:1], y)


@FLOATS
def test_a_search_tells_of_a_refit_that_does_not_predict_what_it_gained(dtype):
    X, y = one_digit_apart(50, 1e6, dtype)
    search = BatchedGridSearchCV(TorchSoftmaxClassifier(), {"alpha": [0.0]}, cv=KFold(2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        search.fit(X, y)
    assert not is_kept(search.best_estimator_, X, y)
    assert not search.best_estimator_.converged_
    assert any("did not converge: float" in str(warning.message) for warning in caught)


def test_penalties_that_are_solved_for_at_once_tell_what_predictions_lose():
    X, y = one_digit_apart(50, 1e6, np.float64)
    search = BatchedGridSearchCV(TorchLinearRegressor(), {"alpha": [1e-30, 1e-29]}, cv=KFold(3))
    with pytest.warns(ConvergenceWarning, match="2 of 2 candidates did not converge"):
        search.set_params(refit=False).fit(X, y.astype(float))
    assert not search.converged_.any()


@pytest.mark.parametrize("mean", [1e2, 1e4])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", list(PREDICTING)[:3])
def test_single_precision_far_from_zero_is_no_alarm(kind, seed, mean):
    """Rounding of predictions is far less than what training has gained."""
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(300, 3))
    score = Z @ [1.0, 2.0, -1.0] + rng.logistic(size=300)
    X = (mean + Z).astype(np.float32)
    model = clone(PREDICTING[kind])
    model.fit(X, (score > 0).astype(int) if kind == "classes" else score.astype(np.float32))
    assert model.converged_


# One row that weighs more than all others (S12).


@pytest.mark.parametrize("heavy", [1e6, 1e12])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("loss", ["huber", "squared_error", "classes"])
def test_one_row_with_nearly_all_the_weight(loss, heavy, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(80_000, 3))
    y = X @ [1, 2, 3] + rng.normal(size=len(X))
    y[1] = 10
    weight = np.ones(len(X))
    weight[1] = heavy
    if loss == "classes":
        fit_right(TorchSoftmaxClassifier(), X, (y > 0).astype(int), weight)
        return
    model = fit_right(TorchLinearRegressor(loss=loss), X, y, weight)
    if heavy == 1e12:
        assert model.predict(X[1:2]) == pytest.approx(10, abs=1e-3)


# Columns in units whose squares leave the range of numbers (S13).


@pytest.mark.parametrize(
    ("unit", "dtype"),
    [
        *((float(f"1e{power}"), np.float64) for power in (-305, -200, -160, -155, 155, 160, 300)),
        *((float(f"1e{power}"), np.float32) for power in (-37, -25, 15, 25, 35)),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["squared error", "huber", "classes"])
def test_columns_in_extreme_units_are_solved(unit, dtype, kind):
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(60, 3))
    score = Z @ [1, 2, 3] + 2 * rng.logistic(size=60)
    y = (score > 0).astype(int) if kind == "classes" else score
    model = {
        "squared error": TorchLinearRegressor(),
        "huber": TorchLinearRegressor(**HUBER),
        "classes": TorchSoftmaxClassifier(alpha=0),
    }[kind]
    wanted = Problem(model, Z, y).optimum[0][0]
    model.fit((Z * [1, unit, 1]).astype(dtype), y)
    assert model.converged_
    found = np.float64(np.ravel(model.coef_)) * [1, unit, 1]
    assert_allclose(found, wanted, rtol=0, atol=0.02 * np.linalg.norm(wanted))


# Few passes (S15), and what a fit says about its end.


def learnable(kind, n=120, seed=0, scale=(1.0, 30.0, 0.1)):
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(n, 3))
    score = Z @ [1.0, -2.0, 0.5] + rng.logistic(size=n) + 1
    X = Z * scale + 5
    if kind == "three classes":
        return X, np.digitize(score, [0, 2])
    return X, (score > 0).astype(int) if kind == "two classes" else score


MODELS = {
    "squared error": TorchLinearRegressor(),
    "elastic net": TorchLinearRegressor(alpha=0.1, l1_ratio=0.5),
    "huber": TorchLinearRegressor(**HUBER),
    "huber and L1": TorchLinearRegressor(**HUBER, alpha=0.01, l1_ratio=1.0),
    "two classes": TorchSoftmaxClassifier(),
    "three classes": TorchSoftmaxClassifier(),
    "three classes and L1": TorchSoftmaxClassifier(alpha=1e-3, l1_ratio=1.0),
}


@pytest.fixture(params=MODELS)
def kind(request):
    return request.param


def model_and_data(kind, **parameters):
    model = clone(MODELS[kind]).set_params(**parameters)
    return model, *learnable(kind.removesuffix(" and L1"))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_one_pass_is_a_step(kind):
    model, X, y = model_and_data(kind, max_iter=1)
    problem = Problem(model, X, y)
    model.fit(X, y)
    assert model.n_iter_ == 1 == len(model.loss_curve_)
    shapes = np.zeros_like(model.coef_), np.zeros_like(model.intercept_)
    assert problem.objective(model.coef_, model.intercept_) < problem.objective(*shapes)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_single_passes_that_go_on_from_each_other_reach_the_optimum(kind):
    model, X, y = model_and_data(kind, max_iter=1, warm_start=True)
    problem = Problem(model, X, y)
    ends = []
    for _ in range(300):
        model.fit(X, y)
        assert model.n_iter_ == 1
        ends.append(problem.objective(model.coef_, model.intercept_))
        if problem.gap(model) <= 1e-3:
            break
    assert problem.gap(model) <= 1e-3
    assert (np.diff(ends) <= 1e-12 * ends[0]).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("max_iter", [1, 2, 3, 7])
def test_there_are_no_more_passes_than_asked_for(kind, max_iter):
    model, X, y = model_and_data(kind, max_iter=max_iter, tol=1e-14)
    model.fit(X, y)
    assert len(model.loss_curve_) == model.n_iter_ <= max_iter


@FLOATS
def test_the_loss_curve_never_rises_and_ends_at_the_returned_coefficients(kind, dtype):
    model, X, y = model_and_data(kind)
    X = X.astype(dtype)
    weight = np.linspace(0.5, 2, len(X))
    for rows in (X, csr_array(X)):
        fit_right(model, rows, y, weight)
        assert (np.diff(model.loss_curve_) <= 0).all()
        end = Problem(model, rows, y, weight).objective(model.coef_, model.intercept_)
        assert_allclose(model.loss_curve_[-1], end, rtol=1e-6 if dtype is np.float64 else 1e-4)


@pytest.mark.slow
def test_the_loss_curve_is_true_where_the_way_is_hard():
    X, y = sizes_or_not(0, n=200)
    model = TorchSoftmaxClassifier(alpha=0.1)
    fit_with_warnings(model, X, y)
    assert (np.diff(model.loss_curve_) <= 0).all()
    end = Problem(model, X, y).objective(model.coef_, model.intercept_)
    assert_allclose(model.loss_curve_[-1], end, rtol=1e-6)


def test_a_fit_says_whether_it_converged(kind):
    model, X, y = model_and_data(kind)
    assert model.fit(X, y).converged_ is True
    assert model.set_params(tol=None, max_iter=2).fit(X, y).converged_ is True


@pytest.mark.parametrize("kind", ["huber", "two classes", "three classes"], indirect=True)
def test_a_fit_that_reaches_max_iter_has_not_converged(kind):
    model, X, y = model_and_data(kind, max_iter=2, tol=1e-12)
    with pytest.warns(ConvergenceWarning, match="max_iter=2"):
        model.fit(X, y)
    assert model.converged_ is False


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("learning_rate", [0.05, "auto"])
def test_the_textbook_optimizers_say_whether_they_converged(kind, optimizer, learning_rate):
    textbook = {"optimizer": optimizer, "learning_rate": learning_rate, "random_state": 0}
    model, X, y = model_and_data(kind, **textbook)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    assert model.set_params(tol=1e-2).fit(X, y).converged_ is True
    assert model.set_params(tol=None, max_iter=2).fit(X, y).converged_ is True
    with pytest.warns(ConvergenceWarning, match="max_iter=2"):
        model.set_params(tol=1e-9).fit(X, y)
    assert model.converged_ is False


@pytest.mark.parametrize("kind", ["huber", "three classes"], indirect=True)
def test_a_search_that_reaches_max_iter_says_so_once(kind):
    model, X, y = model_and_data(kind, max_iter=2, tol=1e-12)
    search = BatchedGridSearchCV(model, {"alpha": [1e-4, 1e-3]}, cv=3, refit=False)
    with pytest.warns(ConvergenceWarning) as caught:
        search.fit(X, y)
    assert len(caught) == 1


# Many classes, most of them rare (S16).


def zipf_classes(n, n_classes=30, d=10):
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1.0, n_classes + 1) ** 2
    y = rng.choice(n_classes, n, p=share / share.sum())
    X = rng.normal(size=(n, d)) + 2 * rng.normal(size=(n_classes, d))[y]
    return X, np.unique(y, return_inverse=True)[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "lognormal"])
def test_many_classes_end_soon(kind):
    """With an intercept each class has the mean probability of its share of the rows."""
    X, y = zipf_classes(20_000)
    X = np.exp(X) if kind == "lognormal" else X
    with at_most(30):
        model = TorchSoftmaxClassifier().fit(X, y)
    assert_allclose(
        model.predict_proba(X).mean(axis=0), np.bincount(y) / len(y), rtol=0.2, atol=2e-5
    )
    assert model.converged_


def test_many_classes_end_at_the_optimum():
    X, y = zipf_classes(1_000, n_classes=15)
    fit_right(TorchSoftmaxClassifier(), np.exp(X), y)


def test_classes_that_are_separable_on_several_scales_do_not_end_on_a_plateau():
    """Far out, along a nearly flat way, the loss is half of what it is here."""
    t = np.linspace(0, 1, 80)[:, np.newaxis]
    X = np.exp(-0.5 * np.square((t - np.linspace(0, 1, 9)) / 0.3))
    words = "10000222211100000000111112121222210000000000001112222222222222222000000000022222222"
    y = np.array(list(words[:80]), dtype=int)
    with pytest.warns(ConvergenceWarning):
        model = TorchSoftmaxClassifier(alpha=0, max_iter=200).fit(X, y)
    assert not model.converged_
    assert log_loss(y, model.predict_proba(X)) > 0.02


def test_polynomials_with_separable_classes_end_at_the_optimum_or_say_that_they_do_not():
    rng = np.random.default_rng(38)
    t = np.sort(rng.uniform(-1, 1, 60))
    X = np.polynomial.legendre.legvander(t, 9)[:, 1:]
    y = np.digitize(np.sin(4 * t) + 0.3 * rng.normal(size=60), [0.0])
    model = TorchSoftmaxClassifier(alpha=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y)
        start = {"coef_init": model.coef_, "intercept_init": model.intercept_}
        on = TorchSoftmaxClassifier(alpha=0, tol=1e-9, max_iter=300).fit(X, y, **start)
    missing = model.loss_curve_[-1] - min(on.loss_curve_)
    assert not model.converged_ or missing <= 1e-3 * min(on.loss_curve_)


def test_an_end_after_many_steps_is_checked_where_all_rows_tell_the_curvature():
    """Heavy tails: the steps by pairs slow down long before the optimum."""
    rng = np.random.default_rng(31)
    X = rng.standard_t(1.5, (9_000, 480))
    score = np.clip(X, -3, 3) @ rng.standard_normal(480)
    y = (score / score.std() + 0.3 * rng.logistic(size=9_000) > 0).astype(int)
    model, exact = (TorchSoftmaxClassifier(alpha=1e-6, tol=tol).fit(X, y) for tol in (1e-4, 1e-8))
    assert model.converged_
    best = exact.loss_curve_[-1]
    assert model.loss_curve_[-1] - best <= 1e-3 * min(best, np.log(2) - best)


def test_rounding_of_a_large_objective_hides_no_gain_in_single_precision():
    """Gross outliers carry nearly all of the objective, and the other rows all there is to gain."""
    rng = np.random.default_rng(14)
    X = rng.standard_normal((20_000, 250)).astype(np.float32)  # too many to train in double
    y = X @ rng.standard_normal(250) / 16 + 0.3 * rng.standard_normal(20_000)
    outliers = rng.random(20_000) < 0.05
    y[outliers] += 1e6 * rng.standard_cauchy(outliers.sum())
    model = TorchLinearRegressor(loss="huber", alpha=0).fit(X, y)
    exact = TorchLinearRegressor(loss="huber", alpha=0, tol=1e-9).fit(X.astype(float), y)

    def losses(predicted):
        error = np.abs(y - predicted)
        return np.where(error <= 1, error**2 / 2, error - 0.5)

    best, constant = losses(exact.predict(X)), losses(np.median(y))
    missing = (losses(X.astype(float) @ model.coef_ + model.intercept_) - best).mean()
    assert model.converged_
    assert missing <= 1e-3 * (constant - best).mean()
