"""Default constructors on raw data: how far from the optimum, and with how many warnings.

    python docs/benchmarks/defaults.py

Every model minimises the same objective as ours (the penalty is translated) and is otherwise as
its constructor leaves it. Gap = (objective - best) / max(|best|, 1e-3); a `w` marks a warning.
"""

import argparse
import time
import warnings
from typing import Any

import numpy as np
from problems import Problem, bundled, synthetic
from reference import best_least_squares, best_softmax, gap, objective
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier, SGDRegressor
from tools import print_setting, print_table

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier

ALPHA = 1e-4


def contenders(problem: Problem) -> dict[str, Any]:
    """Ours by default, ours at a tight tolerance, and scikit-learn's."""
    if problem.classifies:
        return {
            "ours": TorchSoftmaxClassifier(),
            "ours, tol=1e-8": TorchSoftmaxClassifier(tol=1e-8),
            "closed form or lbfgs": LogisticRegression(C=1 / (ALPHA * len(problem.X))),
            "SGD*": SGDClassifier(loss="log_loss", alpha=ALPHA, random_state=0),
        }
    return {
        "ours": TorchLinearRegressor(),
        "ours, tol=1e-8": TorchLinearRegressor(tol=1e-8),
        "closed form or lbfgs": LinearRegression(),
        "SGD*": SGDRegressor(alpha=0.0, random_state=0),
    }


def measure(model: Any, problem: Problem, best: float, alpha: float) -> str:
    """Gap, milliseconds and warnings of one fit."""
    if problem.y.ndim > 1 and isinstance(model, SGDRegressor):
        return "no multi-output"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start = time.perf_counter()
        try:
            model.fit(problem.X, problem.y)
        except ValueError:
            return "diverged"
        milliseconds = 1e3 * (time.perf_counter() - start)
    with np.errstate(all="ignore"):
        value = objective(problem.X, problem.y, model.coef_, model.intercept_, alpha)
    return f"{gap(value, best):.0e}, {milliseconds:.0f} ms{' w' if caught else ''}"


def main() -> None:
    """Print the table."""
    rows = []
    for problem in [*bundled(), *synthetic()]:
        alpha = ALPHA if problem.classifies else 0.0
        if problem.classifies:
            best = best_softmax(problem.X, problem.y, alpha)
        else:
            best = best_least_squares(problem.X, problem.y)
        models = contenders(problem)
        cells = [measure(model, problem, best, alpha) for model in models.values()]
        rows.append([problem.name, *cells])
    print_setting()
    print_table(["problem", *models], rows)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    main()
