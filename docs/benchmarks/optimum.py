"""Time to the optimum, beside scikit-learn's best solver for each problem.

    python docs/benchmarks/optimum.py [softmax] [squares] [l1] [scale] [sgd] [memory]

Without arguments all parts run. All contenders of a row minimise the same objective on the same
arrays; times are medians of five fits that take turns. Gap = (objective - best) / max(|best|,
1e-3), best being the least objective that we know, from a float64 fit run to exhaustion.
"""

import argparse
import multiprocessing
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from problems import labels, rows_of_condition
from reference import gap, objective
from scipy.linalg import lstsq
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import (
    ElasticNet,
    LinearRegression,
    LogisticRegression,
    Ridge,
    SGDClassifier,
)
from sklearn.preprocessing import StandardScaler
from tools import print_setting, print_table, side_by_side

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier

ALPHA = 1e-4
REPEATS = 5


def quiet(fit: Callable[[], object]) -> Callable[[], None]:
    """Without the warnings of a solver that stops short."""

    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit()

    return run


def compare(
    X: np.ndarray,
    y: np.ndarray,
    models: dict[str, Any],
    value: Callable[[Any], float],
    *,
    inputs: dict[str, np.ndarray] | None = None,
) -> list[list[str]]:
    """Milliseconds, gap and what our time goes into each contender's; the first is ours."""
    inputs = inputs or {}

    def fitting(name: str, model: Any) -> Callable[[], None]:
        return quiet(lambda: model.fit(inputs.get(name, X), y))

    runs = {name: fitting(name, model) for name, model in models.items()}
    seconds = side_by_side(runs, REPEATS)
    values = {name: value(model) for name, model in models.items() if name not in inputs}
    ours = next(iter(models))
    exact = type(models[ours])(**{**models[ours].get_params(), "tol": 1e-10, "max_iter": 10000})
    quiet(lambda: exact.fit(X.astype(np.float64), y))()
    best = min(*values.values(), value(exact))
    return [
        [
            name,
            f"{1e3 * seconds[name]:.1f}",
            f"{gap(values[name], best):.0e}" if name in values else "",
            f"{seconds[name] / seconds[ours]:.1f}x",
        ]
        for name in models
    ]


def print_rows(title: str, rows: list[list[str]]) -> None:
    """One problem's table."""
    print_table([title, "ms", "gap", "of our time"], rows)


#: Rows, columns, classes and condition number of the softmax problems.
SOFTMAX = [
    (60000, 784, 10, 1e4),
    (200000, 54, 7, 1e3),
    (60000, 784, 10, 1),
    (10000, 30, 100, 1),
]


def logistic(n: int, **parameters: Any) -> LogisticRegression:
    """LogisticRegression with our objective."""
    return LogisticRegression(C=1.0 / (ALPHA * n), **{"max_iter": 10000, **parameters})


def softmax_value(X: np.ndarray, y: np.ndarray) -> Callable[[Any], float]:
    """The objective of a fitted classifier."""
    return lambda model: objective(X, y, model.coef_, model.intercept_, ALPHA)


def softmax() -> None:
    """Softmax and binary, large and small."""
    rng = np.random.default_rng(1)
    for n, d, k, condition in SOFTMAX:
        X = rows_of_condition(rng, n, d, condition)
        y = labels(rng, X, k)
        models = {"ours": TorchSoftmaxClassifier(), "lbfgs": logistic(n)}
        title = f"{n}x{d}x{k}, condition {condition:.0e}"
        print_rows(title, compare(X, y, models, softmax_value(X, y)))
    X = rng.standard_normal((100000, 10))
    y = labels(rng, X, 2)
    models = {
        "ours": TorchSoftmaxClassifier(),
        "lbfgs": logistic(len(X)),
        "newton-cholesky": logistic(len(X), solver="newton-cholesky"),
    }
    print_rows("100000x10 binary, float64", compare(X, y, models, softmax_value(X, y)))
    for name, load in {"breast_cancer": load_breast_cancer, "digits": load_digits}.items():
        X, y = load(return_X_y=True)
        standardised = "lbfgs, standardised columns"
        models = {"ours": TorchSoftmaxClassifier(), standardised: logistic(len(X))}
        scaled = {standardised: StandardScaler().fit_transform(X)}
        print_rows(name, compare(X, y, models, softmax_value(X, y), inputs=scaled))


def squares() -> None:
    """Least squares in float32, and its coefficients' error against float64 `lstsq`."""
    rng = np.random.default_rng(2)
    for n, d, targets in [(200000, 100, 1), (200000, 100, 10), (60000, 784, 1)]:
        X = rows_of_condition(rng, n, d, 1e3)
        y = X @ rng.standard_normal((d, targets)).astype(np.float32)
        y += 3.0 + rng.standard_normal(y.shape, dtype=np.float32)
        y = y[:, 0] if targets == 1 else y
        models = {
            "ours": TorchLinearRegressor(),
            "Ridge, cholesky": Ridge(alpha=1e-6, solver="cholesky"),
            "LinearRegression": LinearRegression(),
        }
        seconds = side_by_side(
            {name: partial(model.fit, X, y) for name, model in models.items()}, REPEATS
        )
        wide = np.hstack([X.astype(np.float64), np.ones((n, 1))])
        exact = lstsq(wide, y.astype(np.float64))[0][:-1].T
        rows = [
            [
                name,
                f"{1e3 * seconds[name]:.1f}",
                f"{np.linalg.norm(model.coef_ - exact) / np.linalg.norm(exact):.0e}",
                f"{seconds[name] / seconds['ours']:.1f}x",
            ]
            for name, model in models.items()
        ]
        title = f"{n}x{d}, {targets} target{'s' if targets > 1 else ''}, float32"
        print_table([title, "ms", "error", "of our time"], rows)


def l1() -> None:
    """Elastic net with many zeros, softmax with L1."""
    rng = np.random.default_rng(3)
    X = rows_of_condition(rng, 50000, 500, 100, np.float64)
    coef = np.where(rng.random(500) < 0.1, rng.standard_normal(500), 0.0)
    y = X @ coef + rng.standard_normal(len(X))
    parameters = {"alpha": 0.05, "l1_ratio": 0.9}

    def elastic_net(model: Any) -> float:
        return objective(X, y, model.coef_, model.intercept_, **parameters)

    models = {"ours": TorchLinearRegressor(**parameters), "ElasticNet": ElasticNet(**parameters)}
    table = compare(X, y, models, elastic_net)
    zeros = [f"{np.mean(model.coef_ == 0):.0%} zeros" for model in models.values()]
    print_rows("50000x500 elastic net, float64", table)
    print(f"zeros: {', '.join(zeros)}\n")

    alpha = 1e-3
    digits, digit = load_digits(return_X_y=True)
    X = rows_of_condition(rng, 20000, 100, 100, np.float64)
    for name, rows, y in [
        ("20000x100x5 softmax", X, labels(rng, X, 5)),
        ("digits, standardised", StandardScaler().fit_transform(digits), digit),
    ]:

        def value(model: Any, X: np.ndarray = rows, y: np.ndarray = y) -> float:
            return objective(X, y, model.coef_, model.intercept_, alpha, 1.0)

        saga = {
            f"saga, tol {tol:.0e}": LogisticRegression(
                C=1.0 / (alpha * len(rows)), l1_ratio=1.0, solver="saga", tol=tol, max_iter=10000
            )
            for tol in (1e-2, 1e-3, 1e-4)
        }
        models = {"ours": TorchSoftmaxClassifier(alpha=alpha, l1_ratio=1.0), **saga}
        print_rows(f"{name}, L1", compare(rows, y, models, value))


def scale() -> None:
    """The same columns, and stretched by 10^U(-3, 3)."""
    rng = np.random.default_rng(4)
    X = rng.standard_normal((50000, 50))
    wild = X * 10 ** rng.uniform(-3, 3, 50)
    target = X @ rng.standard_normal(50) + rng.standard_normal(len(X))
    for title, model, y in [
        ("50000x50x5", TorchSoftmaxClassifier(alpha=0.0), labels(rng, X, 5)),
        ("50000x50 huber", TorchLinearRegressor(loss="huber"), target),
        ("50000x50", TorchLinearRegressor(), target),
    ]:
        raw = type(model)(**model.get_params())
        runs = {"plain": partial(model.fit, X, y), "wild": partial(raw.fit, wild, y)}
        seconds = side_by_side(runs, REPEATS)
        values = [float(m.loss_curve_[-1]) for m in (model, raw)]
        print_table(
            [title, "ms", "objective"],
            [
                ["columns of deviation 1", f"{1e3 * seconds['plain']:.1f}", f"{values[0]:.7f}"],
                ["times 10^U(-3, 3)", f"{1e3 * seconds['wild']:.1f}", f"{values[1]:.7f}"],
            ],
        )


def sgd() -> None:
    """SGD at its own game: 500000 x 100 binary."""
    rng = np.random.default_rng(5)
    X = rows_of_condition(rng, 500000, 100, 100)
    y = labels(rng, X, 2)
    parameters = {"loss": "log_loss", "alpha": ALPHA, "tol": None, "random_state": 0}
    models: dict[str, Any] = {
        "ours": TorchSoftmaxClassifier(),
        "SGDClassifier, 2 epochs": SGDClassifier(max_iter=2, **parameters),
    }
    for eta0 in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        models[f"5 epochs, eta0={eta0:g}, invscaling"] = SGDClassifier(
            max_iter=5, learning_rate="invscaling", eta0=eta0, **parameters
        )
    print_rows("500000x100 binary, float32", compare(X, y, models, softmax_value(X, y)))


def _peak(kind: str, n: int, d: int, k: int, dtype: str, queue: Any) -> None:
    """Share of X's own memory by which a fit raised the peak, after a small fit for warmth."""
    rng = np.random.default_rng(6)
    X = np.empty((n, d), dtype=dtype)
    for start in range(0, n, 10000):
        X[start : start + 10000] = rng.standard_normal((min(10000, n - start), d))
    y: Any = X[:, 0] + X[:, 1] if kind == "squares" else (X[:, :k] + 0.5).argmax(axis=1)
    model: Any = TorchLinearRegressor() if kind == "squares" else TorchSoftmaxClassifier()
    model.fit(X[:2000], y[:2000])
    # A new process inherits its parent's peak, so it is set back to what is resident now.
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_kib()
    model.fit(X, y)
    queue.put(1024 * (_peak_kib() - before) / X.nbytes)


def _peak_kib() -> int:
    """The most resident memory that this process has had since it was set back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def memory() -> None:
    """Peak memory of a fit beyond what was there before it, as a share of X."""
    context = multiprocessing.get_context("spawn")
    rows = []
    for kind, n, d, k, dtype in [
        ("softmax", 60000, 784, 10, "float32"),
        ("softmax", 400000, 200, 10, "float32"),
        ("softmax", 100000, 200, 3, "float64"),
        ("squares", 200000, 100, 1, "float32"),
        ("squares", 60000, 784, 1, "float32"),
    ]:
        queue = context.Queue()
        process = context.Process(target=_peak, args=(kind, n, d, k, dtype, queue))
        process.start()
        rows.append([f"{kind} {n}x{d}x{k} {dtype}", f"{queue.get():.0%}"])
        process.join()
    print_table(["peak beyond X", "of X"], rows)


PARTS = {
    "softmax": softmax,
    "squares": squares,
    "l1": l1,
    "scale": scale,
    "sgd": sgd,
    "memory": memory,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", nargs="*", choices=[[], *PARTS], help="all by default")
    print_setting()
    for part in parser.parse_args().part or PARTS:
        PARTS[part]()
