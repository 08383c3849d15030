"""Our own times, passes and objectives on the workloads of all benchmarks, as JSON.

    python docs/benchmarks/baseline.py write before.json [--only REGEX] [--repeats 5]
    python docs/benchmarks/baseline.py compare before.json after.json

`write` runs the workloads of step.py, defaults.py, optimum.py, grid.py and scale.py without their
contenders. `compare` prints the ratio of two such files, after to before, so that a change can be
held against what was there. Two files can be compared only if one quiet machine wrote both.
"""

import argparse
import json
import re
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import grid
import numpy as np
import optimum
import scale_sparse
import step
from problems import bundled, labels, rows_of_condition, synthetic
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.preprocessing import StandardScaler
from tools import PAUSE, print_table

from skorchless import BatchedGridSearchCV, TorchLinearRegressor, TorchSoftmaxClassifier

#: A workload: fits once and returns the fitted estimator or search.
Workload = Callable[[], Any]
#: Workloads that take less than so many seconds are repeated twice as often.
SHORT = 0.1


def fit(model: Any, X: Any, y: np.ndarray) -> Workload:
    """Fitting `model`, as a workload."""
    return lambda: model.fit(X, y)


def steps() -> Iterator[tuple[str, Workload]]:
    """The textbook loops of step.py."""
    for name, (n, d, classes, batch, passes) in step.SIZES.items():
        X, y = step.make_data(n, d, classes)
        for optimizer in ("sgd", "adam"):
            run = (X, y, optimizer, batch, passes)
            yield f"step: {name}, {optimizer}", lambda run=run: step.ours(*run)


def defaults() -> Iterator[tuple[str, Workload]]:
    """The tables of defaults.py."""
    for problem in [*bundled(), *synthetic()]:
        model = TorchSoftmaxClassifier() if problem.classifies else TorchLinearRegressor()
        yield f"defaults: {problem.name}", fit(model, problem.X, problem.y)


def optima() -> Iterator[tuple[str, Workload]]:
    """The problems of optimum.py."""
    rng = np.random.default_rng(1)
    for n, d, k, condition in optimum.SOFTMAX:
        X = rows_of_condition(rng, n, d, condition)
        y = labels(rng, X, k)
        name = f"optimum: softmax {n}x{d}x{k}, condition {condition:.0e}"
        yield name, fit(TorchSoftmaxClassifier(), X, y)
    X = rng.standard_normal((100000, 10))
    y = labels(rng, X, 2)
    yield "optimum: binary 100000x10, float64", fit(TorchSoftmaxClassifier(), X, y)
    for load in (load_breast_cancer, load_digits):
        yield f"optimum: {load.__name__[5:]}", fit(TorchSoftmaxClassifier(), *load(return_X_y=True))
    rng = np.random.default_rng(2)
    for n, d, targets in [(200000, 100, 1), (200000, 100, 10), (60000, 784, 1)]:
        X = rows_of_condition(rng, n, d, 1e3)
        Y = X @ rng.standard_normal((d, targets)).astype(np.float32)
        Y += rng.standard_normal(Y.shape, dtype=np.float32)
        name = f"optimum: squares {n}x{d}, {targets} targets"
        yield name, fit(TorchLinearRegressor(), X, Y)
    rng = np.random.default_rng(3)
    X = rows_of_condition(rng, 50000, 500, 100, np.float64)
    coef = np.where(rng.random(500) < 0.1, rng.standard_normal(500), 0.0)
    target = X @ coef + rng.standard_normal(len(X))
    elastic_net = TorchLinearRegressor(alpha=0.05, l1_ratio=0.9)
    yield "optimum: elastic net 50000x500", fit(elastic_net, X, target)
    X = rows_of_condition(rng, 20000, 100, 100, np.float64)
    lasso = TorchSoftmaxClassifier(alpha=1e-3, l1_ratio=1.0)
    yield "optimum: L1 softmax 20000x100x5", fit(lasso, X, labels(rng, X, 5))
    digits, digit = load_digits(return_X_y=True)
    yield "optimum: L1 digits", fit(lasso, StandardScaler().fit_transform(digits), digit)
    rng = np.random.default_rng(4)
    X = rng.standard_normal((50000, 50)) * 10 ** rng.uniform(-3, 3, 50)
    target = X @ (rng.standard_normal(50) / X.std(axis=0)) + rng.standard_normal(len(X))
    y = labels(rng, X / X.std(axis=0), 5)
    yield "optimum: raw 50000x50x5", fit(TorchSoftmaxClassifier(alpha=0.0), X, y)
    yield "optimum: raw 50000x50 huber", fit(TorchLinearRegressor(loss="huber"), X, target)
    rng = np.random.default_rng(5)
    X = rows_of_condition(rng, 500000, 100, 100)
    y = labels(rng, X, 2)
    yield "optimum: binary 500000x100", fit(TorchSoftmaxClassifier(), X, y)


def grids() -> Iterator[tuple[str, Workload]]:
    """The searches of grid.py."""
    for n, d, k in [(1000, 20, 3), (20000, 50, 5)]:
        sgd = TorchSoftmaxClassifier(
            optimizer="sgd", batch_size=grid.BATCH, max_iter=grid.EPOCHS, tol=None, random_state=0
        )
        search = BatchedGridSearchCV(sgd, {"learning_rate": grid.RATES}, cv=5)
        yield f"grid: {n}x{d}x{k}", fit(search, *grid.make_classes(n, d, k))
    n, d = 20000, 200
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d))
    target = X @ rng.normal(size=d) + rng.normal(size=n)
    alphas = {"alpha": grid.STRENGTHS / (0.8 * n)}
    ridge = BatchedGridSearchCV(TorchLinearRegressor(), alphas, cv=5)
    yield "grid: ridge 20000x200", fit(ridge, X, target)
    alphas = {"alpha": 1.0 / (grid.STRENGTHS * 0.8 * n)}
    softmax = BatchedGridSearchCV(TorchSoftmaxClassifier(), alphas, cv=5, scoring="neg_log_loss")
    yield "grid: softmax 20000x100x5", fit(softmax, *grid.make_classes(n, 100, 5))


def scale() -> Iterator[tuple[str, Workload]]:
    """The sparse rows of scale.py, and binary ones."""
    X, y = scale_sparse.make_text()
    yield "scale: sparse 20000x100000x20", fit(TorchSoftmaxClassifier(), X, y)
    yield "scale: sparse 20000x100000, binary", fit(TorchSoftmaxClassifier(), X, (y < 10) * 1)


def measure(run: Workload, repeats: int) -> dict[str, float]:
    """Median milliseconds, passes and the last objective of one workload."""
    seconds: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = run()
        while len(seconds) < repeats * (2 if sum(seconds) < SHORT * repeats else 1):
            time.sleep(PAUSE)
            start = time.perf_counter()
            model = run()
            seconds.append(time.perf_counter() - start)
    fitted = getattr(model, "best_estimator_", model)
    return {
        "ms": 1e3 * median(seconds),
        "passes": fitted.n_iter_,
        "objective": float(fitted.loss_curve_[-1]),
    }


def write(path: Path, only: str, repeats: int) -> None:
    """Measure all workloads whose names match `only`."""
    table = {}
    for part in (steps, defaults, optima, grids, scale):
        for name, run in part():
            if re.search(only, name):
                table[name] = measure(run, repeats)
                print(name, table[name], flush=True)
    path.write_text(json.dumps(table, indent=1) + "\n")


def compare(before: Path, after: Path) -> None:
    """Print the ratios of two files, and their geometric mean for each benchmark."""
    old, new = json.loads(before.read_text()), json.loads(after.read_text())
    rows, ratios = [], dict[str, list[float]]()
    for name in old:
        if name not in new:
            continue
        ratio = new[name]["ms"] / old[name]["ms"]
        ratios.setdefault(name.split(":")[0], []).append(ratio)
        change = new[name]["objective"] - old[name]["objective"]
        rows.append(
            [
                name,
                f"{old[name]['ms']:.1f}",
                f"{new[name]['ms']:.1f}",
                f"{ratio:.2f}",
                f"{old[name]['passes']} -> {new[name]['passes']}",
                f"{change / max(abs(old[name]['objective']), 1e-3):+.0e}",
            ]
        )
    rows += [
        [f"{part}: mean", "", "", f"{geometric_mean(r):.2f}", "", ""] for part, r in ratios.items()
    ]
    print_table(["workload", "before, ms", "after, ms", "ratio", "passes", "objective"], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write")
    writing.add_argument("path", type=Path)
    writing.add_argument("--only", default="")
    writing.add_argument("--repeats", type=int, default=5)
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "write":
        write(arguments.path, arguments.only, arguments.repeats)
    else:
        compare(arguments.before, arguments.after)
