"""With L1 and many columns, fits of a few columns at a time end at the optimum over all of them."""

import sys
import warnings

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.special import log_softmax, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet
from sklearn.model_selection import GridSearchCV

from skorchless import BatchedGridSearchCV, TorchLinearRegressor, TorchSoftmaxClassifier

#: Enough columns for fits to begin with a part of them.
SHAPE = (400, 1200)
DELTA = 1.3


def rows(seed, shape=SHAPE):
    """Columns in units of their own, some of them nearly copies of others, and a signal."""
    rng = np.random.default_rng(seed)
    n, d = shape
    X = rng.normal(size=shape)
    X[:, d // 2 : d // 2 + 60] = X[:, :60] + 0.3 * rng.normal(size=(n, 60))
    X += rng.normal(size=d)
    return X, X[:, :20] @ rng.normal(size=(20, 3)), rng


def regression(seed, outputs=None):
    X, signal, rng = rows(seed)
    y = signal + rng.standard_t(3, size=signal.shape)
    return X, y[:, 0] if outputs is None else y[:, :outputs]


def classification(seed, n_classes):
    X, signal, rng = rows(seed)
    logits = np.column_stack([0.6 * signal, np.zeros(len(X))])[:, -n_classes:]
    return X, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


def loss_and_residual(model, X, y):
    """Losses of the rows, and their derivatives in the raw predictions, ``(n, K)``."""
    if isinstance(model, TorchSoftmaxClassifier):
        raw = model.decision_function(X)
        raw = np.column_stack([np.zeros(len(raw)), raw]) if raw.ndim == 1 else raw
        own = np.eye(raw.shape[1])[y]
        residual = softmax(raw, axis=1) - own
        losses = -(log_softmax(raw, axis=1) * own).sum(axis=1)
        return losses, residual if len(model.coef_) > 1 else residual[:, 1:]
    error = (model.predict(X) - y).reshape(len(y), -1)
    if model.loss == "squared_error":
        return 0.5 * np.square(error).sum(axis=1), error
    size = np.abs(error)
    losses = np.where(size <= model.delta, 0.5 * size**2, model.delta * (size - 0.5 * model.delta))
    return losses.sum(axis=1), np.clip(error, -model.delta, model.delta)


def objective_and_bound(model, X, y, weight=None):
    """The objective, and how far it can be above the optimum since it is convex.

    That is no more than the sum over all coefficients of the least slope that the penalty leaves,
    times the distance to the optimum's coefficient.
    """
    losses, residual = loss_and_residual(model, X, y)
    share = np.full(len(X), 1 / len(X)) if weight is None else weight / weight.sum()
    coef = np.atleast_2d(model.coef_)
    l1, l2 = model.alpha * model.l1_ratio, model.alpha * (1 - model.l1_ratio)
    objective = share @ losses + l1 * np.abs(coef).sum() + l2 / 2 * np.square(coef).sum()
    slope = (share[:, np.newaxis] * residual).T @ X + l2 * coef
    at_zero = np.maximum(np.abs(slope) - l1, 0)
    slope = np.where(coef == 0, at_zero, np.abs(slope + l1 * np.sign(coef)))
    return objective, 2 * objective * slope.max() / l1


KINDS = {
    "lasso": (TorchLinearRegressor(alpha=0.1, l1_ratio=1.0), regression, None),
    "elastic net": (TorchLinearRegressor(alpha=0.2, l1_ratio=0.5), regression, None),
    "two targets": (TorchLinearRegressor(alpha=0.2, l1_ratio=0.9), regression, 2),
    "huber": (
        TorchLinearRegressor(loss="huber", delta=DELTA, alpha=0.05, l1_ratio=0.9),
        regression,
        None,
    ),
    "two classes": (TorchSoftmaxClassifier(alpha=0.02, l1_ratio=1.0), classification, 2),
    "four classes": (TorchSoftmaxClassifier(alpha=0.02, l1_ratio=0.9), classification, 4),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def made(kind, seed=0, **parameters):
    model, make, outputs = KINDS[kind]
    X, y = make(seed, outputs)
    return type(model)(**{**model.get_params(), **parameters}), X, y


@each_kind
def test_no_column_violates_the_conditions_of_the_optimum(kind):
    model, X, y = made(kind, tol=1e-9)
    objective, bound = objective_and_bound(model.fit(X, y), X, y)
    assert model.converged_
    assert bound <= 1e-4 * objective
    assert 0 < np.count_nonzero(model.coef_) < model.coef_.size / 4


@each_kind
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_the_default_is_within_tol_of_the_optimum(kind, weighted):
    model, X, y = made(kind, seed=1)
    weight = np.random.default_rng(0).exponential(size=len(X)) ** 2 if weighted else None
    exact = made(kind, seed=1, tol=1e-9)[0].fit(X, y, sample_weight=weight)
    optimum, bound = objective_and_bound(exact, X, y, weight)
    objective, _ = objective_and_bound(model.fit(X, y, sample_weight=weight), X, y, weight)
    assert model.converged_
    assert bound <= 1e-4 * optimum
    assert objective - optimum <= 1.1e-4 * optimum
    np.testing.assert_allclose(model.loss_curve_[-1], objective, rtol=1e-9)
    assert len(model.loss_curve_) == model.n_iter_
    assert np.all(np.diff(model.loss_curve_) <= 0)


@each_kind
def test_sparse_rows_give_the_same_model(kind):
    model, X, y = made(kind)
    X = np.where(X > 2.5, X, 0.0)
    dense = model.fit(X, y).coef_
    sparse_model = made(kind)[0].fit(sparse.csr_array(X), y)
    same, _ = objective_and_bound(model, X, y)
    assert objective_and_bound(sparse_model, X, y)[0] == pytest.approx(same, rel=2e-4)
    assert sparse_model.coef_.shape == dense.shape


@pytest.mark.parametrize("kind", ["elastic net", "four classes"])
def test_a_memory_map_gives_the_same_model(kind, tmp_path, everything_is_large):
    model, X, y = made(kind)
    in_memory, _ = objective_and_bound(model.fit(X, y), X, y)
    path = tmp_path / "X.npy"
    np.save(path, X)
    mapped = made(kind)[0].fit(np.load(path, mmap_mode="r"), y)
    assert objective_and_bound(mapped, X, y)[0] == pytest.approx(in_memory, rel=2e-4)


@each_kind
def test_single_precision_ends_at_the_optimum_too(kind):
    model, X, y = made(kind)
    optimum, _ = objective_and_bound(model.fit(X, y), X, y)
    single = made(kind)[0].fit(X.astype(np.float32), y)
    assert single.coef_.dtype == np.float32
    assert single.converged_
    assert objective_and_bound(single, X, y)[0] == pytest.approx(optimum, rel=2e-4)


weakest = pytest.param(1e-3, marks=pytest.mark.slow)


@pytest.mark.parametrize("share", [weakest, 1e-2, 0.1, 0.9, 1.0, 1.5])
def test_as_many_columns_as_the_penalty_leaves(share):
    """From most of the rows' number down to no column at all."""
    X, y = regression(2)
    alpha = share * np.abs((X - X.mean(axis=0)).T @ (y - y.mean())).max() / len(X)
    model = TorchLinearRegressor(alpha=alpha, l1_ratio=0.95).fit(X, y)
    net = ElasticNet(alpha=alpha, l1_ratio=0.95, tol=1e-8, max_iter=10**5).fit(X, y)
    ours, theirs = (objective_and_bound(fitted, X, y)[0] for fitted in (model, net_like(net)))
    gain = 0.5 * y.var() - theirs
    assert model.converged_
    assert ours - theirs <= 2e-4 * min(theirs, gain) + 1e-12 * theirs
    assert (np.count_nonzero(model.coef_) == 0) == (share > 1)


def net_like(net):
    """scikit-learn's coefficients as a model of ours."""
    model = TorchLinearRegressor(alpha=net.alpha, l1_ratio=net.l1_ratio)
    model.__dict__.update(coef_=net.coef_, intercept_=net.intercept_, n_features_in_=len(net.coef_))
    return model


def test_columns_in_units_of_their_own():
    X, y = regression(3)
    X = X * 10.0 ** np.random.default_rng(0).uniform(-3, 3, size=X.shape[1])
    model = TorchLinearRegressor(alpha=0.1, l1_ratio=1.0, tol=1e-9).fit(X, y)
    objective, bound = objective_and_bound(model, X, y)
    assert model.converged_
    assert bound <= 1e-4 * objective


def test_it_goes_on_from_where_it_is_told_to_start():
    model, X, y = made("two classes", warm_start=True)
    first = model.fit(X, y).n_iter_
    coef = model.coef_
    assert model.fit(X, y).n_iter_ < first
    np.testing.assert_array_equal(model.coef_ != 0, coef != 0)


@pytest.mark.parametrize("max_iter", [1, 3])
def test_iterations_are_those_of_all_rounds(max_iter):
    model, X, y = made("four classes", max_iter=max_iter)
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        model.fit(X, y)
    assert model.n_iter_ == len(model.loss_curve_) == max_iter
    assert not model.converged_


def test_each_iteration_is_told_once(capsys):
    model, X, y = made("four classes", verbose=1)
    model.fit(X, y)
    told = capsys.readouterr().out.splitlines()
    assert [int(line.split()[1]) for line in told] == list(range(1, model.n_iter_ + 1))
    losses = [float(line.split()[3]) for line in told]
    np.testing.assert_allclose(losses, model.loss_curve_, rtol=1e-5)


def test_validation_losses_are_those_of_all_iterations():
    model, X, y = made("four classes")
    model.fit(X[:300], y[:300], X_val=X[300:], y_val=y[300:])
    assert len(model.validation_loss_curve_) == model.n_iter_
    validation = loss_and_residual(model, X[300:], y[300:])[0].mean()
    assert model.validation_loss_curve_[-1] == pytest.approx(validation)


class InterruptedOutput:
    """A terminal on which somebody presses Ctrl-C as soon as some lines are written."""

    def __init__(self, lines):
        self.left = lines

    def write(self, text):
        self.left -= text.count("\n")
        if not self.left:
            raise KeyboardInterrupt

    def flush(self):
        pass


@pytest.mark.parametrize("iterations", [2, 6])
def test_ctrl_c_keeps_the_last_accepted_point(iterations, monkeypatch):
    model, X, y = made("four classes", verbose=1)
    monkeypatch.setattr(sys, "stdout", InterruptedOutput(iterations))
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert model.n_iter_ == len(model.loss_curve_) == iterations
    assert not model.converged_
    assert model.loss_curve_[-1] == pytest.approx(objective_and_bound(model, X, y)[0])


def test_a_search_scores_as_one_fit_at_a_time():
    X, y = regression(4)
    alphas = {"alpha": np.geomspace(0.05, 1.0, 6)}
    model = TorchLinearRegressor(l1_ratio=1.0, tol=1e-9)
    one_by_one = GridSearchCV(model, alphas, cv=2).fit(X, y)
    batched = BatchedGridSearchCV(model, alphas, cv=2).fit(X, y)
    scores = "mean_test_score"
    np.testing.assert_allclose(batched.cv_results_[scores], one_by_one.cv_results_[scores], 1e-6)


def test_bits_do_not_depend_on_the_container():
    X, y = regression(5)
    model = TorchLinearRegressor(alpha=0.1, l1_ratio=1.0)
    coef = model.fit(X, y).coef_
    np.testing.assert_array_equal(model.fit(torch.from_numpy(X), y).coef_, coef)


def test_nothing_is_said_of_fits_that_end_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in KINDS:
            model, X, y = made(kind, seed=6)
            model.fit(X, y)
