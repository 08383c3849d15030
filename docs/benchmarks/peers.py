"""Fits and searches beside the fastest packages for each, as far as they are installed.

    python docs/benchmarks/peers.py [--only REGEX] [--json FILE]
    python docs/benchmarks/peers.py --show FILE

The first prints the table, and keeps all figures in FILE, to which a run of other rows adds. The
second prints the table of such a file. Every contender runs in a process of its own, as some change
the threads of the whole process, with the loosest of its tolerances that ends near enough to the
optimum. Times are medians of three runs, after one that pays for what is compiled.
"""

import argparse
import importlib
import importlib.util
import json
import re
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from problems import (
    classification,
    embeddings,
    labels,
    largest_alpha,
    regression,
    rows_of_condition,
)
from reference import objective

# Packages that compute are imported where they are used: no contender is to share its process with
# another's threads.

REPEATS = 3
#: Runs that take more seconds than this are not repeated.
LONG = 4.0
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8)
#: Gaps to the optimum that are near enough: relative ones of objectives and of coefficients, and of
#: the best mean loss of a search, which hardly depends on how exact the fits are.
OF_FITS, OF_SEARCHES = 1e-4, 1e-2
FOLDS = 5
OURS = "skorchless"


class Task(NamedTuple):
    """What is fitted: one penalty or several, which are searched."""

    X: Any
    y: np.ndarray
    alpha: Any = 1e-4
    l1_ratio: float = 0.0

    @property
    def classifies(self) -> bool:
        """Whether y holds classes."""
        return self.y.dtype.kind != "f"

    @property
    def n_training(self) -> int:
        """Samples of one fit."""
        return len(self.y) * (FOLDS - 1) // FOLDS if np.ndim(self.alpha) else len(self.y)

    @property
    def C(self) -> Any:
        """The inverse penalties of scikit-learn's classifiers."""
        return 1.0 / (self.n_training * self.alpha)

    @property
    def held_out(self) -> np.ndarray:
        """Which samples are the validation part of a sweep."""
        return np.arange(len(self.y)) >= self.n_training


#: What a run returns: coefficients and intercept, or the mean loss of the best candidate.
Outcome = tuple[np.ndarray, np.ndarray] | float
Run = Callable[[], Outcome]


def fitted(model: Any, task: Task) -> Run:
    """Fitting an estimator."""

    def run() -> Outcome:
        model.fit(task.X, task.y)
        return model.coef_, model.intercept_

    return run


# Contenders of fits.


def ours(task: Task, tol: float) -> Run:
    """The estimators of this package."""
    from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier

    kind = TorchSoftmaxClassifier if task.classifies else TorchLinearRegressor
    return fitted(kind(alpha=task.alpha, l1_ratio=task.l1_ratio, tol=tol), task)


def logistic_regression(solver: str, module: str = "sklearn.linear_model") -> Callable[..., Run]:
    """LogisticRegression with one of its solvers, or one with the same interface."""

    def start(task: Task, tol: float) -> Run:
        kind = importlib.import_module(module).LogisticRegression
        options = {"C": task.C, "tol": tol, "solver": solver, "max_iter": 10_000}
        if task.l1_ratio:
            options["l1_ratio"] = task.l1_ratio
        if solver == "liblinear":  # it penalises the intercept
            options["intercept_scaling"] = 10.0
        return fitted(kind(**options), task)

    return start


def ridge(module: str) -> Callable[..., Run]:
    """Ridge, almost without a penalty."""

    def start(task: Task, tol: float) -> Run:
        kind = importlib.import_module(module).Ridge
        return fitted(kind(alpha=1e-6, solver="auto" if module != SKLEARN else "cholesky"), task)

    return start


def normal_equations(task: Task, tol: float) -> Run:
    """The means, the second moments and a Cholesky factor in the dtype of X."""
    from scipy.linalg import cho_factor, cho_solve

    def run() -> Outcome:
        mean, target = task.X.mean(axis=0), task.y.mean(axis=0)
        centred = task.X - mean
        coef = cho_solve(cho_factor(centred.T @ centred), centred.T @ (task.y - target))
        return coef.T, target - mean @ coef

    return run


def elastic_net(task: Task, tol: float) -> Run:
    """scikit-learn's coordinate descent."""
    from sklearn.linear_model import ElasticNet

    return fitted(ElasticNet(alpha=task.alpha, l1_ratio=task.l1_ratio, tol=tol), task)


def celer(task: Task, tol: float) -> Run:
    """Working sets and extrapolation."""
    import celer

    if task.classifies:
        return fitted(celer.LogisticRegression(C=task.C, tol=tol), task)
    if task.l1_ratio == 1.0:
        return fitted(celer.Lasso(alpha=task.alpha, tol=tol), task)
    return fitted(celer.ElasticNet(alpha=task.alpha, l1_ratio=task.l1_ratio, tol=tol), task)


def skglm(task: Task, tol: float) -> Run:
    """Working sets and Anderson's acceleration."""
    import skglm

    if task.classifies:
        return fitted(skglm.SparseLogisticRegression(alpha=task.alpha, tol=tol), task)
    return fitted(skglm.ElasticNet(alpha=task.alpha, l1_ratio=task.l1_ratio, tol=tol), task)


def cyanure(task: Task, tol: float) -> Run:
    """Variance reduction and quasi-Newton steps."""
    from cyanure.estimators import Classifier

    loss = "multiclass-logistic" if task.y.max() > 1 else "logistic"
    penalty = "l1" if task.l1_ratio else "l2"
    options = {"lambda_1": task.alpha, "tol": tol, "max_iter": 10_000, "verbose": False}
    model = Classifier(loss=loss, penalty=penalty, **options)

    def run() -> Outcome:
        model.fit(task.X, task.y)
        return model.coef_ if loss == "logistic" else model.coef_.T, model.intercept_

    return run


def glum(task: Task, tol: float) -> Run:
    """Generalised linear models by second-order steps."""
    from glum import GeneralizedLinearRegressor

    family = "binomial" if task.classifies else "normal"
    options = {"gradient_tol": tol, "max_iter": 10_000, "family": family}
    return fitted(
        GeneralizedLinearRegressor(alpha=task.alpha, l1_ratio=task.l1_ratio, **options), task
    )


def glmnet(task: Task, tol: float) -> Run:
    """Coordinate descent in Fortran."""
    import glmnet

    kind = glmnet.LogitNet if task.classifies else glmnet.ElasticNet
    l1, l2 = task.alpha * task.l1_ratio, task.alpha * (1.0 - task.l1_ratio)
    if not task.classifies:  # it divides y by its deviation, and L2 is not of the same degree
        l2 *= task.y.std()
    model = kind(
        alpha=l1 / (l1 + l2), lambda_path=[l1 + l2], standardize=False, n_splits=0, tol=tol
    )

    def run() -> Outcome:
        model.fit(task.X, task.y)
        return model.coef_path_[..., 0], model.intercept_path_[..., 0]

    return run


def snapml(task: Task, tol: float) -> Run:
    """Dual coordinate descent on threads; it penalises the intercept."""
    import snapml

    model = snapml.LogisticRegression(
        regularizer=task.alpha * len(task.y),
        tol=tol,
        max_iter=10_000,
        fit_intercept=True,
        intercept_scaling=10.0,
        n_jobs=2,
    )
    return fitted(model, task)


def torch_lbfgs(task: Task, tol: float) -> Run:
    """The loop that people write around torch.optim.LBFGS."""
    import torch

    X, y = torch.from_numpy(task.X), torch.from_numpy(task.y)
    alphas = np.sort(np.atleast_1d(task.alpha))[::-1]
    held_out = torch.from_numpy(task.held_out)
    rows, classes = (X[~held_out], y[~held_out]) if len(alphas) > 1 else (X, y)
    outputs = 1 if y.max() == 1 else int(y.max()) + 1

    def loss_of(raw: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        if outputs > 1:
            return torch.nn.functional.cross_entropy(raw, classes)
        target = classes.to(raw.dtype)
        return torch.nn.functional.binary_cross_entropy_with_logits(raw[:, 0], target)

    def run() -> Outcome:
        layer = torch.nn.Linear(X.shape[1], outputs, dtype=X.dtype)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        losses = []
        for alpha in alphas:  # each penalty starts from the one before
            optimizer = torch.optim.LBFGS(
                layer.parameters(),
                max_iter=10_000,
                tolerance_grad=tol,
                tolerance_change=0.0,
                line_search_fn="strong_wolfe",
            )

            def closure(alpha: float = alpha, optimizer: Any = optimizer) -> torch.Tensor:
                optimizer.zero_grad()
                loss = loss_of(layer(rows), classes) + 0.5 * alpha * layer.weight.square().sum()
                loss.backward()
                return loss

            optimizer.step(closure)
            if len(alphas) > 1:
                with torch.no_grad():
                    losses.append(float(loss_of(layer(X[held_out]), y[held_out])))
        if losses:
            return min(losses)
        return layer.weight.detach().numpy(), layer.bias.detach().numpy()

    return run


def jax_scipy(task: Task, tol: float) -> Run:
    """SciPy's L-BFGS-B with gradients of a compiled objective."""
    import jax
    from scipy.optimize import minimize

    X, y = jax.numpy.asarray(task.X), jax.numpy.asarray(task.y)
    shape = (int(task.y.max()) + 1, task.X.shape[1] + 1)

    @jax.jit
    @jax.value_and_grad
    def value_and_gradient(flat: Any) -> Any:
        weights = flat.reshape(shape)
        logits = X @ weights[:, :-1].T + weights[:, -1]
        chosen = jax.numpy.take_along_axis(logits, y[:, None], axis=1)[:, 0]
        loss = (jax.nn.logsumexp(logits, axis=1) - chosen).mean()
        return loss + 0.5 * task.alpha * (weights[:, :-1] ** 2).sum()

    def in_double(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = value_and_gradient(flat.astype(task.X.dtype))
        return float(value), np.asarray(gradient, dtype=np.float64)

    def run() -> Outcome:
        options = {"maxiter": 10_000, "gtol": tol, "ftol": 0.0}
        start = np.zeros(shape[0] * shape[1])
        found = minimize(in_double, start, jac=True, method="L-BFGS-B", options=options)
        weights = found.x.reshape(shape)
        return weights[:, :-1], weights[:, -1]

    return run


# Contenders of searches.


def our_search(task: Task, tol: float) -> Run:
    """BatchedGridSearchCV, in folds."""
    from skorchless import BatchedGridSearchCV, TorchLinearRegressor, TorchSoftmaxClassifier

    kind = TorchSoftmaxClassifier if task.classifies else TorchLinearRegressor
    scoring = "neg_log_loss" if task.classifies else "neg_mean_squared_error"
    model = kind(l1_ratio=task.l1_ratio, tol=tol)
    search = BatchedGridSearchCV(model, {"alpha": task.alpha}, cv=FOLDS, scoring=scoring)
    return lambda: -float(search.fit(task.X, task.y).best_score_)


def our_sweep(task: Task, tol: float) -> Run:
    """BatchedGridSearchCV with one validation part."""
    from sklearn.model_selection import PredefinedSplit

    from skorchless import BatchedGridSearchCV, TorchSoftmaxClassifier

    search = BatchedGridSearchCV(
        TorchSoftmaxClassifier(tol=tol),
        {"alpha": task.alpha},
        cv=PredefinedSplit(np.where(task.held_out, 0, -1)),
        scoring="neg_log_loss",
        refit=False,
    )
    return lambda: -float(search.fit(task.X, task.y).cv_results_["mean_test_score"].max())


def logistic_sweep(task: Task, tol: float) -> Run:
    """LogisticRegression once for each penalty, started from the one before."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    held_out = task.held_out

    def run() -> Outcome:
        model, losses = LogisticRegression(tol=tol, max_iter=10_000, warm_start=True), []
        for C in np.sort(task.C):
            model.set_params(C=C).fit(task.X[~held_out], task.y[~held_out])
            losses.append(log_loss(task.y[held_out], model.predict_proba(task.X[held_out])))
        return float(min(losses))

    return run


def ridge_by_hand(task: Task, tol: float) -> Run:
    """Second moments of each part, eigenvalues of the others' sum, predictions of each part."""
    targets = task.y.reshape(len(task.y), -1)
    parts = np.array_split(np.arange(len(targets)), FOLDS)

    def solve(gram: np.ndarray, products: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients ``(d, penalties * targets)`` from sums over rows with a column of ones."""
        mean, target = gram[-1, :-1] / n, products[-1] / n
        values, vectors = np.linalg.eigh(gram[:-1, :-1] - n * np.outer(mean, mean))
        rotated = vectors.T @ (products[:-1] - n * np.outer(mean, target))
        damped = rotated[:, None, :] / (values[:, None] + task.alpha * n)[:, :, None]
        coef = vectors @ damped.reshape(len(values), -1)
        return coef, np.tile(target, len(task.alpha)) - mean @ coef

    def run() -> Outcome:
        sums = []
        for part in parts:
            X = np.column_stack([task.X[part], np.ones(len(part))])
            sums.append((X.T @ X, X.T @ targets[part], len(part)))
        errors = np.zeros(len(task.alpha))
        whole = [sum(terms) for terms in zip(*sums, strict=True)]
        for part, own in zip(parts, sums, strict=True):
            rest = [total - term for total, term in zip(whole, own, strict=True)]
            coef, intercept = solve(*rest)
            raw = (task.X[part] @ coef + intercept).reshape(len(part), len(errors), -1)
            raw -= targets[part, None]
            errors += np.square(raw, out=raw).mean(axis=(0, 2)) / FOLDS
        solve(*whole)  # the refit
        return float(errors.min())

    return run


def ridge_cv(task: Task, tol: float) -> Run:
    """RidgeCV, which leaves out one sample at a time."""
    from sklearn.linear_model import RidgeCV

    model = RidgeCV(alphas=task.alpha * task.n_training, scoring="neg_mean_squared_error")
    return lambda: -float(model.fit(task.X, task.y).best_score_)


def elastic_net_cv(n_jobs: int) -> Callable[..., Run]:
    """LassoCV or ElasticNetCV."""

    def start(task: Task, tol: float) -> Run:
        from sklearn.linear_model import ElasticNetCV

        model = ElasticNetCV(
            alphas=task.alpha, l1_ratio=task.l1_ratio, cv=FOLDS, n_jobs=n_jobs, tol=tol
        )
        return lambda: float(model.fit(task.X, task.y).mse_path_.mean(axis=-1).min())

    return start


def logistic_cv(task: Task, tol: float) -> Run:
    """LogisticRegressionCV."""
    from sklearn.linear_model import LogisticRegressionCV

    model = LogisticRegressionCV(
        Cs=task.C, cv=FOLDS, scoring="neg_log_loss", tol=tol, max_iter=10_000
    )

    def run() -> Outcome:
        model.fit(task.X, task.y)
        scores = model.scores_
        scores = next(iter(scores.values())) if isinstance(scores, dict) else scores
        return -float(np.mean(scores, axis=0).max())

    return run


# Contenders of the textbook loop.

EPOCHS, BATCH, RATE = 5, 256, 0.01


def our_sgd(task: Task, tol: float) -> Run:
    """The textbook mode."""
    from skorchless import TorchSoftmaxClassifier

    model = TorchSoftmaxClassifier(
        optimizer="sgd",
        learning_rate=RATE,
        alpha=0.0,
        batch_size=BATCH,
        max_iter=EPOCHS,
        tol=None,
        random_state=0,
    )
    return fitted(model, task)


def sgd_by_hand(task: Task, tol: float) -> Run:
    """Slices of a permutation, and the gradient of the softmax without autograd."""
    import torch

    X, y = torch.from_numpy(task.X), torch.from_numpy(task.y)

    def run() -> Outcome:
        coef, intercept = torch.zeros(int(y.max()) + 1, X.shape[1]), torch.zeros(int(y.max()) + 1)
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(X)).split(BATCH):
                rows = X[chosen]
                residual = torch.softmax(torch.addmm(intercept, rows, coef.T), dim=1)
                residual[torch.arange(len(rows)), y[chosen]] -= 1.0
                coef.addmm_(residual.T, rows, alpha=-RATE / len(rows))
                intercept.sub_(residual.sum(dim=0), alpha=RATE / len(rows))
        return coef.numpy(), intercept.numpy()

    return run


def sgd_loop(task: Task, tol: float) -> Run:
    """The loop of step.py, with autograd and torch.optim.SGD."""
    from step import by_hand, shuffled

    def run() -> Outcome:
        by_hand(task.X, task.y, "sgd", EPOCHS, lambda X, y: shuffled(X, y, BATCH))
        return 0.0

    return run


def sgd_keras(task: Task, tol: float) -> Run:
    """One dense layer of Keras, on torch."""
    import os

    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    def run() -> Outcome:
        model = keras.Sequential([keras.layers.Dense(int(task.y.max()) + 1)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer=keras.optimizers.SGD(RATE), loss=loss)
        model.fit(task.X, task.y, batch_size=BATCH, epochs=EPOCHS, verbose=0)
        return 0.0

    return run


def sgd_classifier(task: Task, tol: float) -> Run:
    """SGDClassifier, which takes one row at a time and one class against the rest."""
    from sklearn.linear_model import SGDClassifier

    model = SGDClassifier(loss="log_loss", alpha=1e-4, max_iter=EPOCHS, tol=None, random_state=0)
    return fitted(model, task)


# The registry.

SKLEARN, SKLEARNEX = "sklearn.linear_model", "sklearnex.linear_model"


class Contender(NamedTuple):
    """How it starts, the package that it needs beside ours, and the tolerances that it is given.

    What `compiles` runs on a few samples first.
    """

    start: Callable[[Task, float], Run]
    package: str = "scikit-learn"
    tolerances: tuple[float, ...] = TOLERANCES
    compiles: bool = False


ONCE = (1e-4,)  # what has no tolerance, or is meant to run with its default
CONTENDERS = {
    OURS: Contender(ours, tolerances=ONCE),
    "lbfgs": Contender(logistic_regression("lbfgs")),
    "newton-cg": Contender(logistic_regression("newton-cg")),
    "newton-cholesky": Contender(logistic_regression("newton-cholesky")),
    "saga": Contender(logistic_regression("saga")),
    "liblinear": Contender(logistic_regression("liblinear")),
    "sklearnex lbfgs": Contender(logistic_regression("lbfgs", SKLEARNEX), "scikit-learn-intelex"),
    "Ridge": Contender(ridge(SKLEARN), tolerances=ONCE),
    "sklearnex Ridge": Contender(ridge(SKLEARNEX), "scikit-learn-intelex", ONCE),
    "normal equations": Contender(normal_equations, "numpy", ONCE),
    "ElasticNet": Contender(elastic_net),
    "celer": Contender(celer, "celer"),
    "skglm": Contender(skglm, "skglm", compiles=True),
    "cyanure": Contender(cyanure, "cyanure"),
    "glum": Contender(glum, "glum"),
    "glmnet": Contender(glmnet, "python-glmnet"),
    "snapml": Contender(snapml, "snapml"),
    "torch.optim.LBFGS": Contender(torch_lbfgs, "torch"),
    "jax": Contender(jax_scipy, "jax"),
    "by hand": Contender(ridge_by_hand, "numpy", ONCE),
    "RidgeCV": Contender(ridge_cv, tolerances=ONCE),
    "ElasticNetCV": Contender(elastic_net_cv(1), tolerances=ONCE),
    "ElasticNetCV n_jobs=2": Contender(elastic_net_cv(2), tolerances=ONCE),
    "LogisticRegressionCV": Contender(logistic_cv, tolerances=ONCE),
    "LogisticRegression": Contender(logistic_sweep, tolerances=ONCE),
    "gradient by hand": Contender(sgd_by_hand, "torch", ONCE),
    "loop with autograd": Contender(sgd_loop, "torch", ONCE),
    "Keras": Contender(sgd_keras, "keras", ONCE),
    "SGDClassifier": Contender(sgd_classifier, tolerances=ONCE),
}


@dataclass(frozen=True)
class Work:
    """A row: what is fitted, by whom beside us, and how it is judged.

    Attributes
    ----------
    make : callable
        Returns the task.
    peers : tuple of str
    start : callable
        Of ours.
    near : float
        The gap that is near enough.
    limit : float
        Seconds that each contender's process may take.
    """

    make: Callable[[], Task]
    peers: tuple[str, ...]
    start: Callable[[Task, float], Run] = ours
    near: float = OF_FITS
    limit: float = 60.0


def softmax(n: int, d: int, k: int, condition: float, dtype: type = np.float32) -> Task:
    """Rows of a condition number and classes drawn from a softmax of them."""
    rng = np.random.default_rng(1)
    X = rows_of_condition(rng, n, d, condition, dtype)
    return Task(X, labels(rng, X, k))


def squares(n: int, d: int, targets: int) -> Task:
    """Least squares without a penalty."""
    rng = np.random.default_rng(2)
    X = rows_of_condition(rng, n, d, 1e2)
    y = X @ rng.standard_normal((d, targets)).astype(np.float32)
    y += 3.0 + rng.standard_normal(y.shape, dtype=np.float32)
    return Task(X, y[:, 0] if targets == 1 else y, 0.0)


def sparse_model(data: tuple[Any, Any], share: float, l1_ratio: float, path: int = 0) -> Task:
    """A penalty that is a share of the largest, or so many down to a thousandth of it."""
    largest = largest_alpha(*data, l1_ratio)
    alpha = largest * np.geomspace(1.0, 1e-3, path) if path else share * largest
    return Task(*data, alpha, l1_ratio)


def text(k: int) -> Task:
    """The rows of scale_sparse.py; of two classes, the first ten and the others."""
    from scale_sparse import make_text

    X, y = make_text()
    return Task(X, y if k == 20 else (y < 10) * 1)


def table(name: str) -> Task:
    """Bundled data as they come."""
    from sklearn import datasets

    return Task(*getattr(datasets, f"load_{name}")(return_X_y=True))


def probes(n: int, d: int, k: int, path: int = 0) -> Task:
    """Classes of embeddings."""
    return Task(*embeddings(n, d, k), np.logspace(-7, -2, path) if path else 1e-6)


def works() -> dict[str, Work]:
    """All rows by name."""

    def search(data: Callable[[], Task], *peers: str) -> Work:
        return Work(data, peers, our_search, OF_SEARCHES)

    many = ("lbfgs", "sklearnex lbfgs", "torch.optim.LBFGS")
    found = {
        "softmax 60000x784x10, condition 1e4": Work(
            lambda: softmax(60_000, 784, 10, 1e4),
            (*many, "jax", "cyanure"),
        ),
        "softmax 200000x54x7, condition 1e3": Work(
            lambda: softmax(200_000, 54, 7, 1e3),
            (*many, "newton-cholesky", "saga", "jax", "cyanure"),
        ),
        "softmax 60000x784x10, condition 1": Work(lambda: softmax(60_000, 784, 10, 1.0), many),
        "binary 500000x30": Work(
            lambda: softmax(500_000, 30, 2, 1e2),
            (*many, "newton-cholesky", "glum", "cyanure", "snapml"),
        ),
        "binary 20000x2000, condition 1e3": Work(
            lambda: softmax(20_000, 2000, 2, 1e3), ("lbfgs", "sklearnex lbfgs", "newton-cg")
        ),
    }
    for targets in (1, 10):
        found[f"least squares 200000x100, {targets} target{'s' * (targets > 1)}"] = Work(
            lambda targets=targets: squares(200_000, 100, targets),
            ("Ridge", "sklearnex Ridge", "normal equations"),
        )
    for n, d in [(50_000, 500), (2000, 10_000)]:
        for name, share, l1_ratio in [("elastic net", 0.1, 0.9), ("lasso", 0.05, 1.0)]:
            found[f"{name} {n}x{d}"] = Work(
                lambda n=n, d=d, rest=(share, l1_ratio): sparse_model(regression(n, d), *rest),
                ("ElasticNet", "skglm", "celer", "glum", "glmnet"),
            )
    found["L1 logistic 20000x1000"] = Work(
        lambda: sparse_model(classification(20_000, 1000, 2), 0.05, 1.0),
        ("liblinear", "saga", "skglm", "celer", "cyanure"),
    )
    found["L1 softmax 20000x100x5"] = Work(
        lambda: sparse_model(classification(20_000, 100, 5), 0.05, 1.0),
        ("saga", "cyanure", "glmnet"),
    )
    found["sparse rows 20000x100000x20"] = Work(lambda: text(20), ("lbfgs", "saga", "cyanure"))
    found["sparse rows 20000x100000, binary"] = Work(
        lambda: text(2), ("lbfgs", "saga", "liblinear", "cyanure")
    )
    for name in ("iris", "wine", "breast_cancer"):
        found[f"{name}, raw"] = Work(lambda name=name: table(name), ("newton-cholesky", "cyanure"))
    found["SGD 60000x784x10, 5 epochs"] = Work(
        lambda: softmax(60_000, 784, 10, 1.0),
        ("gradient by hand", "loop with autograd", "Keras", "SGDClassifier"),
        our_sgd,
        np.inf,
    )
    for targets in (1, 100):
        found[f"ridge, 50 x 5, 20000x200, {targets} target{'s' * (targets > 1)}"] = search(
            lambda targets=targets: Task(
                *regression(20_000, 200, targets), np.logspace(-4, 4, 50) / 16_000
            ),
            "by hand",
            "RidgeCV",
        )
    for n, d in [(20_000, 200), (1000, 2000)]:
        for name, l1_ratio in [("lasso", 1.0), ("elastic net", 0.5)]:
            found[f"{name}, 50 x 5, {n}x{d}"] = search(
                lambda n=n, d=d, l1_ratio=l1_ratio: sparse_model(
                    regression(n, d), 0.0, l1_ratio, path=50
                ),
                "ElasticNetCV",
                "ElasticNetCV n_jobs=2",
            )
    for k in (2, 5):
        found[f"softmax, 50 x 5, 20000x100x{k}"] = search(
            lambda k=k: softmax(20_000, 100, k, 1e2)._replace(alpha=np.logspace(-6, 0, 50)),
            "LogisticRegressionCV",
        )
    for n in (1000, 10_000, 100_000, 1_000_000):
        found[f"softmax {n}x50x5"] = Work(
            lambda n=n: softmax(n, 50, 5, 1e2), ("lbfgs", "newton-cholesky")
        )
    for n, d, k in [(50_000, 512, 100), (10_000, 768, 1000)]:
        found[f"probe {n}x{d}x{k}"] = Work(
            lambda n=n, d=d, k=k: probes(n, d, k), ("lbfgs", "torch.optim.LBFGS"), limit=150.0
        )
        found[f"probe {n}x{d}x{k}, 30 penalties"] = Work(
            lambda n=n, d=d, k=k: probes(n, d, k, path=30),
            ("LogisticRegression", "torch.optim.LBFGS"),
            our_sweep,
            OF_SEARCHES,
            limit=150.0,
        )
    return found


WORKS = works()


# Measuring.


def timed(run: Run) -> tuple[float, Outcome]:
    """Seconds and outcome of one run."""
    begun = time.perf_counter()
    outcome = run()
    return time.perf_counter() - begun, outcome


def distance(task: Task, outcome: Outcome, best: Any) -> float:
    """Relative gap to the best objective or loss, or relative error of coefficients."""
    if isinstance(best, float) and best == 0.0:  # nothing to compare with
        return 0.0
    if not isinstance(outcome, tuple):
        return outcome / best - 1.0
    if task.alpha == 0.0 and not task.classifies:
        return float(np.linalg.norm(outcome[0] - best) / np.linalg.norm(best))
    return objective(task.X, task.y, *outcome, task.alpha, task.l1_ratio) / best - 1.0


def reference(name: str) -> Any:
    """The optimum of a fit, the coefficients of least squares, the best loss of our search."""
    work = WORKS[name]
    task = work.make()
    if work.start is our_sgd:
        return 0.0
    if work.start is not ours:
        return work.start(task, 1e-4)()
    if task.alpha == 0.0:
        X, y = task.X.astype(np.float64), task.y.astype(np.float64)
        return np.linalg.lstsq(X - X.mean(axis=0), y - y.mean(axis=0))[0].T
    return objective(task.X, task.y, *ours(task, 1e-6)(), task.alpha, task.l1_ratio)


def measure(name: str, contender: str, best: Any) -> dict[str, float]:
    """Seconds, gap and tolerance of one contender."""
    work, (start, _, tolerances, compiles) = WORKS[name], CONTENDERS[contender]
    task = work.make()
    if compiles:
        start(task._replace(X=task.X[:200], y=task.y[:200]), 0.1)()
    for tol in tolerances if work.near < np.inf else ONCE:
        run = (work.start if contender == OURS else start)(task, tol)
        first, outcome = timed(run)
        gap = distance(task, outcome, best)
        if gap <= work.near:
            break
    seconds = [first] if first > LONG else [timed(run)[0] for _ in range(REPEATS)]
    return {"seconds": statistics.median(seconds), "gap": gap, "tol": tol}


def in_child(pipe: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Send what it returns; nothing where it fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe.send(work(*arguments))


def alone(limit: float, work: Callable[..., Any], *arguments: Any) -> Any:
    """Call it in a process of its own; None where that takes too long or fails."""
    context = get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=in_child, args=(sending, work, arguments))
    process.start()
    sending.close()
    try:
        return receiving.recv() if receiving.poll(limit) else None
    except EOFError:
        return None
    finally:
        process.kill()
        process.join()


def is_installed(contender: str) -> bool:
    """Whether its package is there."""
    try:
        return bool(version(CONTENDERS[contender].package))
    except importlib.metadata.PackageNotFoundError:
        return False


def compare(name: str) -> dict[str, Any]:
    """Figures of ours and of the others; None of those that were too slow or failed."""
    work = WORKS[name]
    best = alone(4.0 * work.limit, reference, name)
    return {
        contender: alone(work.limit, measure, name, contender, best)
        for contender in (OURS, *filter(is_installed, work.peers))
    }


def show(results: dict[str, Any]) -> None:
    """Print the table of a run."""
    from tools import print_table

    print(results["setting"], "\n")
    rows = []
    for name, figures in results["works"].items():
        near = {
            contender: found
            for contender, found in figures.items()
            if found is not None and found["gap"] <= WORKS[name].near
        }
        if OURS not in near:
            rows.append([name, "", "", ", ".join(figures)])
            continue
        mine = near.pop(OURS)["seconds"]
        times = sorted((found["seconds"] / mine, contender) for contender, found in near.items())
        cells = [f"{contender} {ratio:.{2 if ratio < 10 else 0}f}" for ratio, contender in times]
        others = [contender for contender in figures if contender not in (OURS, *near)]
        rows.append([name, f"{1e3 * mine:.1f}", ", ".join(cells), ", ".join(others)])
    print_table(["work", "ours, ms", "others, times ours", "too slow or too far"], rows)
    if results["unmeasured"]:
        print(f"Not installed, so not measured: {', '.join(results['unmeasured'])}.")


def setting() -> str:
    """Versions of what is compared."""
    from tools import setting

    packages = {contender.package for contender in CONTENDERS.values()}
    packages -= {"scikit-learn", "torch", "numpy"}
    names = sorted({c.package for name, c in CONTENDERS.items() if is_installed(name)} & packages)
    return ", ".join([setting(), *(f"{name} {version(name)}" for name in names)])


def main() -> None:
    """Measure the rows that are asked for, or show what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="regular expression of rows' names")
    parser.add_argument("--json", type=Path, help="file that keeps the figures")
    parser.add_argument("--show", type=Path, help="print the table of such a file")
    arguments = parser.parse_args()
    if arguments.show:
        show(json.loads(arguments.show.read_text()))
        return
    kept = arguments.json and arguments.json.exists()
    earlier = json.loads(arguments.json.read_text())["works"] if kept else {}
    unmeasured = sorted({c.package for name, c in CONTENDERS.items() if not is_installed(name)})
    results = {"setting": setting(), "unmeasured": unmeasured, "works": earlier}
    for name in WORKS:
        if re.search(arguments.only, name):
            results["works"][name] = compare(name)
            print(name, results["works"][name], flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    results["works"] = {name: results["works"][name] for name in WORKS if name in results["works"]}
    print()
    show(results)


if __name__ == "__main__":
    main()
