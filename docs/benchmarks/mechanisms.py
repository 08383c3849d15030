"""What each mechanism of the default solver is worth: the benchmarks with it switched off.

    python docs/benchmarks/mechanisms.py [--only REGEX] [--workloads REGEX]

Each row is one mechanism: the code lines that would go with it, and the CPU time without it
relative to the time with it (geometric mean over the workloads that change by more than noise, and
the largest one). Both sides of a ratio run in turns in the same process. What a mechanism does for
problems that are hard is not measured here, but by robustness.py.
"""

import argparse
import inspect
import re
import signal
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any
from unittest import mock

import baseline
import numpy as np
from problems import largest_alpha, regression
from size import Size
from sklearn.datasets import load_digits, load_iris
from tools import print_setting, print_table

import skorchless.estimators.batched as batched
import skorchless.estimators.limits as limits
import skorchless.estimators.reduction as reduction
import skorchless.estimators.solve as training
import skorchless.model_selection.moments as moments
import skorchless.optimizers.hessian_estimator as curvature
import skorchless.optimizers.lbfgs as history
import skorchless.optimizers.proximal_newton as proximal_newton
import skorchless.optimizers.quasi_newton as quasi_newton
from skorchless import BatchedGridSearchCV, TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.data import BatchLoader

#: Ratios of times nearer to 1 than this are noise.
NOISE = 1.15
#: A workload is repeated until it has taken so many seconds of CPU time, at most so many times.
ENOUGH, MOST = 0.6, 9
#: A run without the mechanism is given up after so many times the time with it, or so many seconds.
MOST_RATIO, LEAST_LIMIT = 20, 2


@dataclass(frozen=True)
class Mechanism:
    """A part of the solver, and what switches it off.

    Attributes
    ----------
    name : str
    patches : tuple of (object, str, object)
        Attributes and the values that they have while it is off.
    parts : tuple of object
        Functions and classes that would go with it.
    """

    name: str
    patches: tuple[tuple[Any, str, Any], ...]
    parts: tuple[Any, ...] = ()

    def lines(self) -> int:
        """Code lines of the parts."""
        sources = (textwrap.dedent(inspect.getsource(part)) for part in self.parts)
        return sum(Size.of_source(source).lines for source in sources)


def no(*_: object, **__: object) -> bool:
    """Answer no to everything."""
    return False


def nothing(*_: object, **__: object) -> None:
    """Do nothing."""


def affords_every_row(loader: BatchLoader) -> bool:
    """Whether second moments of all rows are affordable, however much work they are."""
    return loader.n_rows >= loader.n_columns - 1 and loader.affords_gram


def only_whole_hessian(init: Callable[..., None]) -> Callable[..., None]:
    """`HessianEstimator.__init__` without products with the Hessian where it is not factored."""

    def __init__(self: Any, *arguments: Any) -> None:
        init(self, *arguments)
        self.has_hessian_products = self.factors_hessian

    return __init__


HessianEstimator, QuasiNewton = curvature.HessianEstimator, quasi_newton.QuasiNewton
MECHANISMS = [
    Mechanism("curvature pairs", ((history.LBFGSMemory, "add", nothing),), (history,)),
    Mechanism(
        "conjugate gradients with the Hessian",
        ((HessianEstimator, "__init__", only_whole_hessian(HessianEstimator.__init__)),),
        (
            quasi_newton.conjugate_gradients,
            HessianEstimator.hessian,
            QuasiNewton._solve_roughly,
            QuasiNewton._accuracy,
        ),
    ),
    Mechanism(
        "whole Hessian",
        ((HessianEstimator, "_affords_hessian", no),),
        (curvature.coupled_moments, curvature.with_own_blocks),
    ),
    Mechanism(
        "any Hessian on all rows",
        ((curvature, "CHEAP_PRODUCT", 0),),
    ),
    Mechanism(
        "best of several lengths",
        ((QuasiNewton, "_choose_length", nothing),),
        (QuasiNewton._choose_length, HessianEstimator.along),
    ),
    Mechanism(
        "curvature shared by alike models",
        ((curvature, "WORTH_SHARING", np.inf),),
        (curvature.cluster_by_curvature, HessianEstimator._measure),
    ),
    Mechanism(
        "start at the optimum of fewer rows",
        ((limits, "HEAD_ROWS", np.inf),),
        (training._better_start, training._enough_rows, training.head_of, training._start_from),
    ),
    Mechanism(
        "squares of columns that a sample misses",
        ((HessianEstimator, "_with_missed", lambda self, moments, total: moments),),
        (HessianEstimator._with_missed,),
    ),
    Mechanism(
        "curvature measured anew as it moves",
        ((quasi_newton, "REFRESH", np.inf),),
    ),
    Mechanism(
        "all rows where an end is in doubt",
        ((HessianEstimator, "take_all_rows", no),),
        (HessianEstimator.take_all_rows,),
    ),
    Mechanism(
        "damping",
        ((QuasiNewton, "_damp_more", nothing),),
        (
            QuasiNewton._damp_more,
            QuasiNewton._adapt_damping,
            QuasiNewton._undamped_distance,
            HessianEstimator._majorizer,
        ),
    ),
    Mechanism(
        "worse starts replaced by the constant model",
        ((QuasiNewton, "_replaces_start", no),),
        (QuasiNewton._replaces_start,),
    ),
    Mechanism(
        "moments of a sample for wide least squares",
        tuple((module, "takes_every_row", affords_every_row) for module in (curvature, training)),
        (curvature.takes_every_row,),
    ),
    Mechanism(
        "first step of least squares from second moments",
        ((training, "_second_moments", nothing),),
        (training._second_moments, QuasiNewton.begin_at),
    ),
    Mechanism(
        "small float32 tables in double precision",
        ((limits, "DOUBLE_NUMBERS", 0),),
    ),
    Mechanism(
        "proximal steps before Newton's method",
        ((proximal_newton, "MOST_STEPS", 0),),
        (proximal_newton._proximal_steps, proximal_newton.largest_eigenvalue),
    ),
    Mechanism(
        "rounds over columns",
        ((training, "_is_worth_rounds", no),),
        (reduction.violations, reduction.Rounds),
    ),
    Mechanism(
        "searches from second moments",
        ((batched, "may_use_moments", no), (moments, "may_use_moments", no)),
        (batched._solve_or_fit, batched.solve_from_moments, batched.may_use_moments, moments),
    ),
    Mechanism(
        "searches along alpha",
        ((limits, "WORTH_A_PATH", np.inf),),
        (batched._fit_along_path,),
    ),
]


def workloads() -> Iterator[tuple[str, baseline.Workload]]:
    """The workloads of defaults.py, optimum.py, grid.py and scale.py, and L1 on small and wide."""
    for part in (baseline.defaults, baseline.optima, baseline.grids, baseline.scale):
        yield from part()
    for n, d, k in [(200, 30, 5), (93, 2, 7)]:
        rng = np.random.default_rng(0)
        X = rng.standard_normal((n, 2)) @ rng.standard_normal((2, d))
        X += 0.05 * rng.standard_normal(X.shape)
        lasso = TorchSoftmaxClassifier(alpha=1e-3, l1_ratio=1.0)
        yield f"L1: softmax {n}x{d}x{k}", baseline.fit(lasso, X, rng.integers(0, k, n))
    X, y = regression(2000, 10000)
    for divisor in (2, 5, 20):
        alpha = largest_alpha(X, y, 1.0) / divisor
        lasso = TorchLinearRegressor(alpha=alpha, l1_ratio=1.0)
        yield f"L1: lasso 2000x10000, largest alpha / {divisor}", baseline.fit(lasso, X, y)
    X, y = regression(20000, 200)
    strengths = largest_alpha(X, y, 1.0) * np.logspace(0, -3, 50)
    search = BatchedGridSearchCV(TorchLinearRegressor(l1_ratio=1.0), {"alpha": strengths})
    yield "grid: lasso 20000x200", baseline.fit(search, X, y)
    for load in (load_iris, load_digits):
        X, y = load(return_X_y=True)
        search = BatchedGridSearchCV(TorchSoftmaxClassifier(), {"alpha": np.logspace(-6, 0, 7)})
        yield f"grid: softmax {load.__name__[5:]}", baseline.fit(search, X, y)


def seconds(run: baseline.Workload) -> float:
    """CPU time of one run."""
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run()
    return time.process_time() - start


def ratio(run: baseline.Workload, mechanism: Mechanism) -> float:
    """Time without the mechanism relative to the time with it, the least of several each."""
    with_it, without = [], []
    while (sum(with_it) < ENOUGH and len(with_it) < MOST) or len(with_it) < 2:
        with_it.append(seconds(run))
        undo = [mock.patch.object(*patch) for patch in mechanism.patches]
        for patch in undo:
            patch.start()
        limit = max(LEAST_LIMIT, int(MOST_RATIO * with_it[-1]))
        signal.alarm(limit)
        try:
            without.append(seconds(run))
        except TimeoutError:
            return float(limit) / min(with_it)
        finally:
            signal.alarm(0)
            for patch in undo:
                patch.stop()
    return min(without) / min(with_it)


def give_up(*_: object) -> None:
    """End a run that takes too long."""
    raise TimeoutError


def main(only: str, which: str) -> None:
    """Print the table."""
    signal.signal(signal.SIGALRM, give_up)
    runs = [(name, run) for name, run in workloads() if re.search(which, name)]
    rows = []
    for mechanism in MECHANISMS:
        if not re.search(only, mechanism.name):
            continue
        ratios = {}
        for name, run in runs:
            ratios[name] = ratio(run, mechanism)
            if not 1 / NOISE <= ratios[name] <= NOISE:
                print(f"{mechanism.name}: {name} {ratios[name]:.2f}", flush=True)
        changed = [r for r in ratios.values() if not 1 / NOISE <= r <= NOISE]
        worst = max(ratios, key=ratios.__getitem__)
        rows.append(
            [
                mechanism.name,
                str(mechanism.lines()),
                f"{geometric_mean(changed) if changed else 1.0:.2f}",
                f"{ratios[worst]:.2f}, {worst}",
            ]
        )
        print(rows[-1], flush=True)
    print_setting()
    print_table(["mechanism", "lines", "time without it", "most, and where"], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--workloads", default="")
    arguments = parser.parse_args()
    main(arguments.only, arguments.workloads)
