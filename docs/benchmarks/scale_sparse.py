"""Sparse rows: time to an objective and memory, beside SGDClassifier and LogisticRegression.

20000 rows with about a hundred out of 100,000 columns, as unevenly used as words are, and 20
classes. All minimise the softmax objective with alpha = 1e-4, except that SGDClassifier fits one
logit a class, against the rest; what it finds is put into the same objective.
"""

import multiprocessing
import resource
import time
import warnings
from typing import Any

import numpy as np
from reference import gap
from scipy.sparse import csr_array
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression, SGDClassifier
from tools import print_table

from skorchless import TorchSoftmaxClassifier

ROWS, COLUMNS, NONZEROS, CLASSES = 20_000, 100_000, 100, 20
ALPHA, NEAR = 1e-4, 1e-3
MEBIBYTE = 2**20


def make_text(n: int = ROWS, dtype: str = "float64") -> tuple[csr_array, np.ndarray]:
    """Rows whose columns come as often as words do, and classes drawn from a softmax of them."""
    rng = np.random.default_rng(0)
    frequency = np.cumsum((1.0 + np.arange(COLUMNS)) ** -0.75)
    columns = np.searchsorted(frequency / frequency[-1], rng.random(n * NONZEROS))
    values = 0.6 * np.abs(rng.standard_normal(n * NONZEROS))
    X = csr_array((values, columns, np.arange(0, n * NONZEROS + 1, NONZEROS)), (n, COLUMNS))
    X.sum_duplicates()
    X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)  # SGD* needs 32
    scores = X @ rng.standard_normal((COLUMNS, CLASSES))
    scores *= 5.0 / scores.std()
    return X.astype(dtype), (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)


def objective(X: csr_array, y: np.ndarray, model: Any) -> float:
    """Penalised mean loss, in double."""
    coef = model.coef_.astype(np.float64)
    log_p = log_softmax(X.astype(np.float64) @ coef.T + model.intercept_, axis=1)
    return -float(log_p[np.arange(len(y)), y].mean()) + 0.5 * ALPHA * float((coef**2).sum())


def timed(model: Any, X: csr_array, y: np.ndarray) -> tuple[float, float]:
    """Seconds of a fit, and the objective it ends at."""
    start = time.perf_counter()
    model.fit(X, y)
    return time.perf_counter() - start, objective(X, y, model)


def ours(**parameters: Any) -> TorchSoftmaxClassifier:
    return TorchSoftmaxClassifier(alpha=ALPHA, **parameters)


def lbfgs(**parameters: Any) -> LogisticRegression:
    return LogisticRegression(C=1.0 / (ALPHA * ROWS), **parameters)


def sgd() -> SGDClassifier:
    return SGDClassifier(loss="log_loss", alpha=ALPHA, max_iter=5, tol=None, random_state=0)


def compare_times(dtype: str, most: int) -> None:
    """Print seconds and objectives."""
    X, y = make_text(dtype=dtype)
    tight = ours(tol=1e-8, max_iter=60).fit(X, y)
    best = objective(X, y, tight)
    passes_near = 1 + int(np.argmax(tight.loss_curve_ < best * (1.0 + NEAR)))
    contenders = {"SGDClassifier, 5 epochs": sgd}
    _, of_sgd = timed(sgd(), X, y)
    passes_below = 1 + int(np.argmax(tight.loss_curve_ < of_sgd))
    contenders[f"ours, {passes_below} passes"] = lambda: ours(max_iter=passes_below, tol=None)
    contenders[f"ours, {passes_near} passes"] = lambda: ours(max_iter=passes_near, tol=None)
    contenders["ours"] = ours
    for iterations in (most // 2, most):
        name = f"LogisticRegression, lbfgs, {iterations} iterations at most"
        contenders[name] = lambda n=iterations: lbfgs(max_iter=n)
    rows = []
    for name, make in contenders.items():
        repeats = 1 if name.startswith("Log") else 3
        runs = sorted(timed(make(), X, y) for _ in range(repeats))
        seconds, value = runs[repeats // 2]
        rows.append([name, f"{seconds:.2f}", f"{value:.5f}", f"{gap(value, best):.0e}"])
    print_table([f"{X.shape[0]}x{X.shape[1]}x{CLASSES}, {dtype}", "s", "objective", "gap"], rows)


def peak() -> float:
    """The most memory that this process has had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def growth_of(name: str, dtype: str) -> float:
    """Bytes by which a fit raises the peak of a process that has the data and has fitted before."""
    X, y = make_text(dtype=dtype)
    model = ours() if name == "ours" else lbfgs(max_iter=20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        type(model)(max_iter=2).fit(X[:200, :50], y[:200])
        held = np.ones(max(0, int(peak()) - resident()) // 8)  # what was freed must not hide growth
        before = peak()
        model.fit(X, y)
    del held
    return peak() - before


def resident() -> int:
    """Memory that this process has now, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def compare_memory(dtype: str) -> None:
    """Print by how much fits raise the peak of a process of their own."""
    X, _ = make_text(dtype=dtype)
    own = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
    weights = CLASSES * (COLUMNS + 1) * X.dtype.itemsize
    rows = []
    for name in ("ours", "LogisticRegression, lbfgs"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            grown = pool.apply(growth_of, (name, dtype))
        more = f"{(grown - 3 * own) / weights:.0f}"  # the user's is the fourth
        rows.append([name, f"{grown / MEBIBYTE:.0f}", more])
    sizes = f"CSR of {own / MEBIBYTE:.0f} MiB, weights of {weights / MEBIBYTE:.0f} MiB, {dtype}"
    print_table([sizes, "peak grows by, MiB", "of it weights beyond 4 CSR"], rows)


def times_and_memory() -> None:
    """Print both tables in both precisions."""
    for dtype in ("float64", "float32"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compare_times(dtype, most=100)
            compare_memory(dtype)
