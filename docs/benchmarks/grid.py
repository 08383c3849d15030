"""Cost of a search: ours beside GridSearchCV over the same and over scikit-learn's estimators.

    python docs/benchmarks/grid.py [--part small large ridge softmax] [--repeats 3] [--skorch]

Every search refits its best candidate on all rows. Each contender runs once before it is timed, so
that workers are warm; those that take a minute or so run only once, with the workers of the others.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegressionCV, Ridge, RidgeCV, SGDClassifier
from sklearn.model_selection import GridSearchCV
from tools import print_setting, print_table
from torch import nn

from skorchless import BatchedGridSearchCV, TorchLinearRegressor, TorchSoftmaxClassifier

RATES = np.logspace(-3, 0, 20)
EPOCHS, BATCH = 10, 64
STRENGTHS = np.logspace(-4, 4, 50)


def make_classes(n: int, d: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of noise in float32 with classes drawn from a softmax of them."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d))
    return X.astype(np.float32), (X @ rng.normal(size=(d, k)) + rng.gumbel(size=(n, k))).argmax(1)


def measure(runs: dict[str, Callable[[], Any]], repeats: dict[str, int]) -> dict[str, float]:
    """Median seconds of each run, which take turns; what is slow is run less often."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(max(repeats.values()) + 1):
        for name, run in runs.items():
            if turn > repeats[name]:
                continue
            start = time.perf_counter()
            run()
            if turn or repeats[name] == 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def skorch_search(X: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    """GridSearchCV over skorch, of the same passes."""
    from skorch import NeuralNetClassifier

    net = NeuralNetClassifier(
        nn.Linear(X.shape[1], int(y.max()) + 1),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        max_epochs=EPOCHS,
        batch_size=BATCH,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )
    search = GridSearchCV(net, {"lr": RATES.tolist()}, cv=5)
    return lambda: search.fit(X, y)


def rates(n: int, d: int, k: int, repeats: int, skorch: bool) -> None:
    """20 learning rates on 5 folds."""
    X, y = make_classes(n, d, k)
    ours = TorchSoftmaxClassifier(
        optimizer="sgd", batch_size=BATCH, max_iter=EPOCHS, tol=None, random_state=0
    )
    sgd = SGDClassifier(
        loss="log_loss", learning_rate="constant", max_iter=EPOCHS, tol=None, random_state=0
    )
    grid = {"learning_rate": RATES}
    runs: dict[str, Callable[[], Any]] = {
        "batched": lambda: BatchedGridSearchCV(ours, grid, cv=5).fit(X, y),
        "batched, n_jobs=2": lambda: BatchedGridSearchCV(ours, grid, cv=5, n_jobs=2).fit(X, y),
        "GridSearchCV(SGDClassifier, n_jobs=2)": lambda: GridSearchCV(
            sgd, {"eta0": RATES}, cv=5, n_jobs=2
        ).fit(X, y),
        "GridSearchCV(the same estimator)": lambda: GridSearchCV(ours, grid, cv=5).fit(X, y),
    }
    times = dict.fromkeys(runs, repeats)
    if n > 5000:
        times["GridSearchCV(SGDClassifier, n_jobs=2)"] = 0
        times["GridSearchCV(the same estimator)"] = 1
    if skorch:
        runs["GridSearchCV(skorch)"] = skorch_search(X, y)
        times["GridSearchCV(skorch)"] = 0
    report(f"{n}x{d}x{k}", measure(runs, times))


def ridge_alphas(repeats: int) -> None:
    """50 penalties of least squares on 5 folds."""
    n, d = 20000, 200
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d))
    y = X @ rng.normal(size=d) + rng.normal(size=n)
    grid = {"alpha": STRENGTHS / (0.8 * n)}
    runs = {
        "batched": lambda: BatchedGridSearchCV(TorchLinearRegressor(), grid, cv=5).fit(X, y),
        "GridSearchCV(Ridge)": lambda: GridSearchCV(Ridge(), {"alpha": STRENGTHS}, cv=5).fit(X, y),
        "RidgeCV(cv=None)": lambda: RidgeCV(alphas=STRENGTHS).fit(X, y),
    }
    times = {"batched": repeats, "GridSearchCV(Ridge)": 0, "RidgeCV(cv=None)": repeats}
    report(f"{n}x{d}, squared error", measure(runs, times))


def softmax_alphas(repeats: int) -> None:
    """50 penalties of softmax regression on 5 folds."""
    n, d, k = 20000, 100, 5
    X, y = make_classes(n, d, k)
    search = BatchedGridSearchCV(
        TorchSoftmaxClassifier(),
        {"alpha": 1.0 / (STRENGTHS * 0.8 * n)},
        cv=5,
        scoring="neg_log_loss",
    )
    peer = LogisticRegressionCV(
        Cs=STRENGTHS, cv=5, scoring="neg_log_loss", use_legacy_attributes=False
    )
    runs = {"batched": lambda: search.fit(X, y), "LogisticRegressionCV": lambda: peer.fit(X, y)}
    seconds = measure(runs, {"batched": repeats, "LogisticRegressionCV": 0})
    report(f"{n}x{d}x{k}", seconds)
    best = np.mean(peer.scores_, axis=0).max()
    print(f"Log loss of the best: {-search.best_score_:.6f}, LogisticRegressionCV {-best:.6f}\n")


def report(problem: str, seconds: dict[str, float]) -> None:
    """Print one problem's table; ratios are to the search of one process."""
    rows = [[name, f"{s:.3f}", f"{s / seconds['batched']:.1f}x"] for name, s in seconds.items()]
    print_table([problem, "seconds", "ratio"], rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", nargs="+", default=["small", "large", "ridge", "softmax"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--skorch", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print_setting()
    if "small" in args.part:
        rates(1000, 20, 3, args.repeats, args.skorch)
    if "large" in args.part:
        rates(20000, 50, 5, args.repeats, False)
    if "ridge" in args.part:
        ridge_alphas(args.repeats)
    if "softmax" in args.part:
        softmax_alphas(args.repeats)


if __name__ == "__main__":
    main()
