"""Fits and searches with L1, beside the libraries that are made for them.

    python docs/benchmarks/peers.py            # those of the contenders that are installed

Every contender runs in a process of its own, as some change the threads of the whole process. Each
has the loosest of its tolerances that ends within a ten-thousandth of the best objective that
anybody found. Times are medians of three fits, after one that pays for what is compiled.
"""

import argparse
import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

import numpy as np
from scipy.special import logsumexp
from tools import print_setting, print_table

REPEATS = 3
#: Largest gap, relative to the best objective.
NEAR_ENOUGH = 1e-4
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8)
#: Fits that take longer than this are not repeated.
LONG = 20.0

Model = tuple[np.ndarray, np.ndarray]


def sparse_signal(n: int, d: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Independent columns, and raw predictions of a few of them, shape ``(n, outputs)``."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d))
    return X, X[:, : d // 20] @ rng.standard_normal((d // 20, outputs))


def regression(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and a noisy target."""
    X, signal = sparse_signal(n, d, 1)
    return X, signal[:, 0] + signal.std() / 3 * np.random.default_rng(1).standard_normal(n)


def classification(n: int, d: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and classes."""
    X, signal = sparse_signal(n, d, n_classes)
    noise = np.random.default_rng(1).gumbel(size=signal.shape)
    return X, (3.0 * signal / signal.std() + noise).argmax(axis=1)


def largest_alpha(X: np.ndarray, y: np.ndarray, l1_ratio: float) -> float:
    """The least alpha that leaves no coefficient."""
    target = y[:, np.newaxis] if y.dtype.kind == "f" else np.eye(y.max() + 1)[y]
    if y.dtype.kind != "f" and y.max() == 1:
        target = target[:, 1:]
    covariance = X.T @ (target - target.mean(axis=0)) / len(X)
    return float(np.abs(covariance).max() / l1_ratio)


def objective(X: np.ndarray, y: np.ndarray, model: Model, alpha: float, l1_ratio: float) -> float:
    """Mean loss plus penalty."""
    coef, intercept = np.atleast_2d(model[0]), np.atleast_1d(model[1])
    raw = X @ coef.T + intercept
    if y.dtype.kind == "f":
        loss = 0.5 * np.square(y - raw[:, 0]).mean()
    else:
        raw = np.column_stack([np.zeros(len(raw)), raw]) if raw.shape[1] == 1 else raw
        loss = (logsumexp(raw, axis=1) - raw[np.arange(len(y)), y]).mean()
    l2 = alpha * (1 - l1_ratio) / 2 * np.square(coef).sum()
    return float(loss + alpha * l1_ratio * np.abs(coef).sum() + l2)


def estimator(library: str, y: np.ndarray, alpha: float, l1_ratio: float, tol: float) -> Any:
    """The estimator of a library for this objective."""
    classifies, inverse = y.dtype.kind != "f", 1.0 / (len(y) * alpha)
    if library == "skorchless":
        import skorchless

        if classifies:
            return skorchless.TorchSoftmaxClassifier(alpha=alpha, l1_ratio=l1_ratio, tol=tol)
        return skorchless.TorchLinearRegressor(alpha=alpha, l1_ratio=l1_ratio, tol=tol)
    if library in ("skglm", "celer"):
        module = importlib.import_module(library)
        if classifies and library == "skglm":
            return module.SparseLogisticRegression(alpha=alpha, tol=tol)
        if classifies:
            return module.LogisticRegression(C=inverse, tol=tol)
        if l1_ratio == 1.0:
            return module.Lasso(alpha=alpha, tol=tol)
        return module.ElasticNet(alpha=alpha, l1_ratio=l1_ratio, tol=tol)
    from sklearn import linear_model

    if library == "ElasticNet":
        return linear_model.ElasticNet(alpha=alpha, l1_ratio=l1_ratio, tol=tol, max_iter=10**4)
    options = {"intercept_scaling": 10.0} if library == "liblinear" else {"max_iter": 10**4}
    return linear_model.LogisticRegression(
        penalty="l1", solver=library, C=inverse, tol=tol, **options
    )


REGRESSION = ("skorchless", "ElasticNet", "skglm", "celer")
#: Data, their sizes, share of the largest alpha, l1_ratio, and who can fit them.
FITS: dict[str, tuple[Callable[..., Any], tuple[int, ...], float, float, tuple[str, ...]]] = {
    "elastic net 2000x10000": (regression, (2000, 10_000), 0.1, 0.9, REGRESSION),
    "lasso 2000x10000": (regression, (2000, 10_000), 0.05, 1.0, REGRESSION),
    "elastic net 50000x500": (regression, (50_000, 500), 0.1, 0.9, REGRESSION),
    "lasso 50000x500": (regression, (50_000, 500), 0.05, 1.0, REGRESSION),
    "L1 logistic 20000x1000": (
        classification,
        (20_000, 1000, 2),
        0.05,
        1.0,
        ("skorchless", "liblinear", "saga", "skglm", "celer"),
    ),
    "L1 softmax 20000x100x5": (
        classification,
        (20_000, 100, 5),
        0.05,
        1.0,
        ("skorchless", "saga"),
    ),
}


def timed(run: Callable[[], Any]) -> float:
    """Median seconds."""
    begun = time.perf_counter()
    run()
    first = time.perf_counter() - begun
    if first > LONG:
        return first
    seconds = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def fit(job: str, library: str, tol: float) -> tuple[float, float]:
    """Seconds and objective of one contender."""
    make, size, share, l1_ratio, _ = FITS[job]
    X, y = make(*size)
    alpha = share * largest_alpha(X, y, l1_ratio)
    model = estimator(library, y, alpha, l1_ratio, tol)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seconds = timed(lambda: model.fit(X, y))
    return seconds, objective(X, y, (model.coef_, model.intercept_), alpha, l1_ratio)


#: Rows, columns and l1_ratio of searches over 50 penalties in 5 folds.
SEARCHES = {
    "lasso, 50 x 5, 20000x200": (20_000, 200, 1.0),
    "elastic net, 50 x 5, 20000x200": (20_000, 200, 0.5),
    "lasso, 50 x 5, 1000x2000": (1000, 2000, 1.0),
    "elastic net, 50 x 5, 1000x2000": (1000, 2000, 0.5),
}


def search(job: str, library: str, _: float) -> tuple[float, float]:
    """Seconds and best mean squared error of one contender."""
    n, d, l1_ratio = SEARCHES[job]
    X, y = regression(n, d)
    alphas = np.geomspace(1.0, 1e-3, 50) * largest_alpha(X, y, l1_ratio)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if library == "skorchless":
            import skorchless

            model = skorchless.TorchLinearRegressor(l1_ratio=l1_ratio)
            grid = skorchless.BatchedGridSearchCV(
                model, {"alpha": alphas}, cv=5, scoring="neg_mean_squared_error"
            )
            return timed(lambda: grid.fit(X, y)), -grid.best_score_
        from sklearn.linear_model import ElasticNetCV, LassoCV

        jobs = int(library.split("=")[1])
        if l1_ratio == 1.0:
            path = LassoCV(alphas=alphas, cv=5, n_jobs=jobs)
        else:
            path = ElasticNetCV(alphas=alphas, l1_ratio=l1_ratio, cv=5, n_jobs=jobs)
        return timed(lambda: path.fit(X, y)), float(path.mse_path_.mean(axis=1).min())


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """Call it in a process of its own."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def installed(library: str) -> bool:
    """Whether a contender is there; all but these belong to scikit-learn."""
    return library not in ("skglm", "celer") or importlib.util.find_spec(library) is not None


def compare_fits(name: str) -> list[list[str]]:
    """Lines of the table."""
    *_, contenders = FITS[name]
    _, best = alone(fit, name, "skorchless", 1e-9)
    ours, lines = np.nan, []
    for library in filter(installed, contenders):
        tolerances = (1e-4,) if library == "skorchless" else TOLERANCES
        for tol in tolerances:
            seconds, value = alone(fit, name, library, tol)
            if value - best <= NEAR_ENOUGH * best:
                break
        ours = seconds if library == "skorchless" else ours
        gap = f"{(value - best) / best:.0e}"
        lines.append(
            [name, library, f"{tol:.0e}", f"{1e3 * seconds:.0f}", gap, f"{seconds / ours:.2f}"]
        )
    return lines


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="part of a line's name")
    only = parser.parse_args().only
    print_setting()
    lines = [line for name in FITS if only in name for line in compare_fits(name)]
    print_table(["fit", "library", "tol", "ms", "gap", "times ours"], lines)
    lines = []
    for name in SEARCHES:
        if only not in name:
            continue
        ours = np.nan
        for library in ("skorchless", "scikit-learn, n_jobs=1", "scikit-learn, n_jobs=2"):
            seconds, error = alone(search, name, library, 0.0)
            ours = seconds if library == "skorchless" else ours
            cells = [f"{1e3 * seconds:.0f}", f"{error:.6g}", f"{seconds / ours:.2f}"]
            lines.append([name, library, *cells])
    print_table(["search", "library", "ms", "best error", "times ours"], lines)


if __name__ == "__main__":
    main()
