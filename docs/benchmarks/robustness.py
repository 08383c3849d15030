"""Random hard problems: fits that end away from the optimum without a word, and false alarms.

    python docs/benchmarks/robustness.py --jobs 2
    python docs/benchmarks/robustness.py --problem 17

Estimators are as their constructors leave them but for loss, alpha, l1_ratio and fit_intercept.
Problem number i is always the same one. References are kept in a file, so that only the first run
pays for them. A gap is taken relative to max(|f|, f0/1000) and to f0 - f*, where f* is the optimum
and f0 the best constant model's objective, and the larger counts. f is that of the coefficients in
extended precision. Predictions in X's type have a gap of their own, relative to f0 - f*, beyond
what rounding costs the best constant model's predictions.

silent      a gap above 10 * tol, and no warning together with converged_ False
alarm       both gaps below tol, and a ConvergenceWarning
unholdable  no model in X's type is known whose gaps are both below 10 * tol

Models that X's type holds are judged as the fit is, by coefficients and by predictions. The
optimum with its coefficients rounded is only one of them: others near it may predict more
accurately, as their predictions are sums of smaller terms. These are sought by the same objective
with a small L2 penalty on the terms, of the size of what their rounding costs and of a hundredth
and a hundred times that, and each model is tried with intercepts up to two roundings away. If one
of these models, or the fit's own, is good enough, the problem counts as holdable.
"""

import argparse
import hashlib
import json
import os
import signal
import sqlite3
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from robustness_reference import EPS, VERSION, Problem, Reference, held_models, solve
from scipy.sparse import csr_array, issparse
from tools import print_table

TOL = 1e-4
#: Seconds of CPU time after which a fit counts as one without end, and as a slow one; and after
#: which a reference is given up.
NO_END, SLOW, NO_REFERENCE = 30, 20, 1200


class Draw:
    """Draws one problem; the defects that it got are named in `defects`."""

    def __init__(self, index: int, large: bool) -> None:
        self.rng = np.random.default_rng([2026, int(large), index])
        self.large = large
        self.defects: list[str] = []

    def chance(self, probability: float, name: str) -> bool:
        """Whether the problem gets this defect."""
        drawn = bool(self.rng.random() < probability)
        if drawn:
            self.defects.append(name)
        return drawn

    def log_uniform(self, low: float, high: float) -> float:
        """A number between powers of ten."""
        return float(10 ** self.rng.uniform(low, high))

    def problem(self) -> Problem:
        """Everything, in an order that never changes."""
        rng = self.rng
        loss = str(rng.choice(["squared_error", "huber", "log_loss", "log_loss"]))
        classes = 0
        if loss == "log_loss":
            classes = 2 if rng.random() < 0.5 else round(self.log_uniform(np.log10(3), 1.3))
        alpha = 0.0 if rng.random() < 0.35 else self.log_uniform(-6, 0)
        l1_ratio = float(rng.choice([0.0, 0.0, 1.0, rng.uniform(0.05, 0.95)])) if alpha else 0.0
        outputs = int(rng.integers(2, 5)) if loss != "log_loss" and rng.random() < 0.2 else 1
        fit_intercept = not self.chance(0.15, "no intercept")
        n, d = self.shape(max(classes, outputs), l1_ratio > 0)
        dtype = np.float32 if rng.random() < 0.4 else np.float64
        signal = self.columns(n, d)
        if classes:
            y = self.labels(signal, classes)
        else:
            y = self.targets(signal, outputs, loss == "huber").astype(dtype)
        X = self.units(signal).astype(dtype)
        if (X == 0).mean() > 0.5 or rng.random() < 0.1:
            X = csr_array(X)
        weight = self.weights(y, n)
        counted = y if weight is None else y[weight > 0]
        if not classes and np.ptp(counted) == 0:  # no loss to be relative to
            y = y + np.arange(n).reshape(-1, *[1] * (y.ndim - 1)).astype(dtype)
        return Problem(X, y, weight, loss, alpha, l1_ratio, fit_intercept, self.defects)

    def shape(self, outputs: int, l1: bool) -> tuple[int, int]:
        """Rows and columns that a reference can afford."""
        while True:
            if self.large:
                n, d = self.log_uniform(4.3, np.log10(120_000)), self.log_uniform(0.3, 1.5)
            else:
                n, d = self.log_uniform(0.8, 4.6), self.log_uniform(0, 2.3)
                if self.rng.random() < 0.15:
                    n = d * self.rng.uniform(0.1, 1)
            n, d = max(round(n), outputs + 2, 5), round(d)
            parameters = d * outputs
            work = n * parameters**2 + 10 * parameters**3
            affordable = n * parameters <= 1e7 and work <= (4e9 if self.large else 2e9)
            if affordable and parameters <= (300 if l1 else 800):
                return n, d

    def columns(self, n: int, d: int) -> np.ndarray:
        """Columns of about unit size, before units and offsets."""
        rng = self.rng
        X = rng.standard_normal((n, d))
        if self.chance(0.15, "few factors"):
            factors = int(rng.integers(1, 4))
            X += 3 * rng.standard_normal((n, factors)) @ rng.standard_normal((factors, d))
        if self.chance(0.12, "lognormal columns"):
            some = rng.random(d) < 0.5
            X[:, some] = np.exp(rng.uniform(0.5, 2.5) * X[:, some] / X[:, some].std(axis=0))
        if self.chance(0.12, "Cauchy columns"):
            some = rng.random(d) < 0.5
            X[:, some] = rng.standard_cauchy((n, int(some.sum())))
        if self.chance(0.15, "mostly zeros"):
            X[rng.random((n, d)) > rng.uniform(0.02, 0.5)] = 0
        if d >= 3 and self.chance(0.15, "one-hot columns"):
            levels = int(rng.integers(2, d + 1))
            X[:, :levels] = np.eye(levels)[rng.integers(levels, size=n)]
        if d >= 2 and self.chance(0.12, "constant columns"):
            some = rng.integers(d, size=max(1, d // 10))
            X[:, some] = rng.choice([0.0, 1.0, 7.3])
        if d >= 2 and self.chance(0.15, "duplicated columns"):
            X[:, rng.integers(d, size=1 + d // 5)] = X[:, rng.integers(d, size=1 + d // 5)]
        if d >= 3 and self.chance(0.25, "collinear columns"):
            some = rng.permutation(d)[: 1 + d // 3]
            rest = np.setdiff1d(np.arange(d), some)
            X[:, some] = X[:, rest] @ rng.standard_normal((len(rest), len(some)))
            if self.chance(0.7, "nearly"):
                X[:, some] += self.log_uniform(-6, -2) * rng.standard_normal((n, len(some)))
        if self.chance(0.12, "rows of unlike lengths"):
            X *= np.exp(rng.uniform(0.5, 2) * rng.standard_normal((n, 1)))
        return X

    def units(self, X: np.ndarray) -> np.ndarray:
        """Columns in units and with offsets of their own."""
        rng, d = self.rng, X.shape[1]
        if self.chance(0.25, "offsets"):
            deviation = np.median(np.abs(X - np.median(X, axis=0)), axis=0)
            deviation = np.where(deviation > 0, deviation, 1)
            some = rng.random(d) < rng.choice([0.3, 1.0])
            X = X + some * deviation * 10 ** rng.uniform(0, 6, d) * rng.choice([-1, 1], d)
        width = rng.choice([0, 2, 6], p=[0.4, 0.25, 0.35])
        if width:
            self.defects.append(f"scales 1e±{width}")
        return X * 10 ** rng.uniform(-width, width, d)

    def scores(self, X: np.ndarray, outputs: int) -> np.ndarray:
        """Linear predictions with a deviation of one."""
        coef = self.rng.standard_normal((X.shape[1], outputs))
        coef *= self.rng.random((X.shape[1], 1)) < self.rng.choice([0.2, 1.0])
        Z = X - X.mean(axis=0)
        deviation = Z.std(axis=0)
        scores = Z / np.where(deviation > 0, deviation, 1) @ coef
        deviation = scores.std(axis=0)
        return scores / np.where(deviation > 1e-9, deviation, 1)

    def labels(self, X: np.ndarray, classes: int) -> np.ndarray:
        """Classes of a softmax model: sharp or not, separable, nearly so, rare ones."""
        rng, n = self.rng, len(X)
        scores = self.log_uniform(-1, 1.5) * self.scores(X, classes)
        if self.chance(0.25, "unlike class sizes"):
            scores += rng.uniform(1, 5) * rng.standard_normal(classes)
        if not self.chance(0.25, "separable"):
            scores += rng.gumbel(size=scores.shape)
        y = scores.argmax(axis=1)
        if self.chance(0.2, "flipped labels"):
            flipped = rng.integers(n, size=int(rng.integers(1, 11)))
            y[flipped] = rng.integers(classes, size=len(flipped))
        if self.chance(0.5 if self.large else 0.15, "rare class"):
            y[y == classes - 1] = 0
            y[rng.integers(n, size=int(rng.integers(1, 6)))] = classes - 1
        some = rng.permutation(n)[:classes]
        missing = np.setdiff1d(np.arange(classes), y)
        y[some[: len(missing)]] = missing
        if len(np.unique(y)) < classes:
            y[some] = np.arange(classes)
        return y

    def targets(self, X: np.ndarray, outputs: int, huber: bool) -> np.ndarray:
        """Linear targets with noise, an offset, a unit, and outliers for Huber's loss."""
        rng, n = self.rng, len(X)
        noise = self.log_uniform(-3, 1)
        if self.chance(0.1, "no noise"):
            noise = 0.0
        draws = rng.standard_normal((n, outputs))
        if self.chance(0.15, "heavy tails in y"):
            draws = rng.standard_t(2, (n, outputs))
        y = self.scores(X, outputs) + noise * draws
        if huber:
            outliers = int(rng.integers(0, 5)) if self.chance(0.6, "outliers") else 0
            where = rng.integers(n, size=outliers)
            y[where] += (10 ** rng.uniform(3, 9, outliers) * rng.choice([-1, 1], outliers))[:, None]
        if self.chance(0.3, "offset of y"):
            y += self.log_uniform(0, 4)
        y = y * self.log_uniform(-3, 4)
        return y[:, 0] if outputs == 1 else y

    def weights(self, y: np.ndarray, n: int) -> np.ndarray | None:
        """No weights, or weights of some kind; at least two classes keep some."""
        rng = self.rng
        kinds = ["none", "of one size", "12 decades", "one row", "integers"]
        kind = rng.choice(kinds, p=[0.6, 0.1, 0.1, 0.1, 0.1])
        if kind == "none":
            return None
        self.defects.append(f"weights: {kind}")
        weight = rng.exponential(size=n)
        if kind == "12 decades":
            weight = 10 ** rng.uniform(-6, 6, n)
        elif kind == "one row":
            weight[rng.integers(n)] = n * self.log_uniform(2, 12)
        elif kind == "integers":
            weight = rng.poisson(1.0, n).astype(float)
            weight[np.unique(y if y.ndim == 1 else y[:, 0], return_index=True)[1][:2]] += 1
        return weight


def make(index: int, large: bool = False) -> Problem:
    """Problem number `index`, always the same."""
    return Draw(index, large).problem()


def describe(problem: Problem) -> str:
    """Shape, settings and defects on one line."""
    n, d = problem.X.shape
    outputs = problem.y.max() + 1 if problem.loss == "log_loss" else problem.y[0].size
    sparse = " CSR" if issparse(problem.X) else ""
    ratio = f", l1_ratio {problem.l1_ratio:.2g}" if problem.alpha else ""
    text = f"{n}x{d}x{outputs} {problem.X.dtype}{sparse}, alpha {problem.alpha:.1e}{ratio}"
    return ", ".join([text, *problem.defects])


def key(problem: Problem) -> str:
    """A hash of data and settings."""
    X = problem.X
    parts = [X.data, X.indices, X.indptr] if issparse(X) else [X]
    parts += [problem.y, np.zeros(0) if problem.sample_weight is None else problem.sample_weight]
    settings = (problem.loss, problem.alpha, problem.l1_ratio, problem.fit_intercept, X.shape)
    digest = hashlib.sha256(repr((VERSION, settings)).encode())
    for part in parts:
        digest.update(str(part.dtype).encode() + np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def reference(problem: Problem, cache: str) -> Reference:
    """The optimum, from the file where it is known."""
    with closing(sqlite3.connect(cache, timeout=60)) as file, file:
        file.execute("CREATE TABLE IF NOT EXISTS optima (key TEXT PRIMARY KEY, value TEXT)")
        known = file.execute("SELECT value FROM optima WHERE key = ?", [key(problem)]).fetchone()
    if known:
        return Reference(**json.loads(known[0]))
    found = solve(problem)
    with closing(sqlite3.connect(cache, timeout=60)) as file, file:
        values = [key(problem), json.dumps(asdict(found))]
        file.execute("INSERT OR REPLACE INTO optima VALUES (?, ?)", values)
    return found


@dataclass
class Outcome:
    """What one fit did, and how far from the optimum it ended."""

    index: int
    large: bool
    kind: str
    dtype: str
    description: str
    f: float = np.nan
    best: float = np.nan
    constant: float = np.nan
    gap: float = np.nan
    predicted_gap: float = np.nan
    #: The larger gap of the best model that X's type is known to hold; taken where a fit missed.
    held_gap: float = np.nan
    #: Gap of the reference itself.
    reference_error: float = np.nan
    #: By how much the reference ended above ours, as a gap.
    reference_above: float = 0.0
    warned: bool = False
    warning: str = ""
    converged: bool | None = None
    error: str = ""
    other_warnings: list[str] = field(default_factory=list)
    seconds: float = np.nan
    reference_seconds: float = np.nan
    n_iter: int = 0
    last_loss: float = np.nan

    @property
    def silent(self) -> bool:
        """Far from the optimum without a word."""
        told = self.warned and self.converged is False
        return bool(self.larger_gap > 10 * TOL) and self.judged and not told

    @property
    def alarm(self) -> bool:
        """A warning at the optimum."""
        return bool(self.larger_gap < TOL) and self.warned and self.judged

    @property
    def larger_gap(self) -> float:
        """Of the coefficients' and the predictions'."""
        return float(np.fmax(self.gap, self.predicted_gap))

    @property
    def unholdable(self) -> bool:
        """Whether no model in X's type is known that is near enough to the optimum."""
        return bool(self.held_gap > 10 * TOL)

    @property
    def judged(self) -> bool:
        """Whether the reference is good enough to judge by."""
        return self.reference_error < TOL / 10


def gap(f: float, best: float, constant: float, *, log_loss: bool) -> float:
    """The larger of the two relative distances, beyond the rounding of the objective.

    A log loss is a difference of log-odds, so it has the rounding of numbers of size one.
    """
    rounding = EPS * (max(constant, 1.0) if log_loss else constant)
    excess = f - best - 8 * rounding
    if not excess > 0:
        return 0.0 if np.isfinite(f) else np.inf
    gained = constant - best
    relative = excess / max(abs(f), constant / 1000)
    return max(relative, excess / gained) if gained > 1e3 * rounding else relative


def predicted_gap(problem: Problem, model: Any, best: float, constant: float) -> float:
    """What predictions lack of the gain, where there is one beyond the objective's rounding.

    What rounding to X's type may cost the best constant model's predictions does not count.
    """
    log_loss, rows = problem.loss == "log_loss", problem.rows
    raw = model.decision_function(problem.X) if log_loss else model.predict(problem.X)
    of_constant = np.finfo(problem.X.dtype).eps * rows.constant_model()
    excess = rows.objective_of_predictions(raw, model.coef_) - best - np.sum(of_constant**2)
    gained, rounding = constant - best, EPS * (max(constant, 1.0) if log_loss else constant)
    return float(max(excess, 0.0) / gained) if gained > 1e3 * rounding else 0.0


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after so many seconds of CPU time."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"no end in {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def fit(problem: Problem, outcome: Outcome) -> Any:
    """Fit ours, and note time, warnings and errors; the model, or None."""
    from sklearn.exceptions import ConvergenceWarning

    from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier

    settings: dict[str, Any] = {"alpha": problem.alpha, "l1_ratio": problem.l1_ratio}
    settings |= {"fit_intercept": problem.fit_intercept, "random_state": 0}
    if problem.loss == "log_loss":
        model = TorchSoftmaxClassifier(**settings)
    else:
        model = TorchLinearRegressor(loss=problem.loss, **settings)
    start = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with _time_limit(NO_END):
                model.fit(problem.X, problem.y, problem.sample_weight)
        except Exception as error:
            outcome.error = f"{type(error).__name__}: {error}"
    outcome.seconds = time.process_time() - start
    told = [w for w in caught if issubclass(w.category, ConvergenceWarning)]
    outcome.warned, outcome.warning = bool(told), "; ".join(str(w.message) for w in told)
    outcome.other_warnings = [
        f"{w.category.__name__}: {w.message}" for w in caught if w not in told
    ]
    return None if outcome.error else model


def run(task: tuple[int, bool, str]) -> Outcome:
    """Make one problem, solve it, fit it and compare."""
    index, large, cache = task
    problem = make(index, large)
    outcome = Outcome(index, large, problem.kind, str(problem.X.dtype), describe(problem))
    start = time.process_time()
    try:
        with np.errstate(all="ignore"), _time_limit(NO_REFERENCE):
            best = reference(problem, cache)
    except Exception as error:
        outcome.error = f"in the reference: {type(error).__name__}: {error}"
        return outcome
    outcome.reference_seconds = time.process_time() - start
    outcome.best, outcome.constant = best.best, best.constant
    relative = partial(gap, constant=best.constant, log_loss=problem.loss == "log_loss")
    outcome.reference_error = relative(best.best + best.error, best.best)
    model = fit(problem, outcome)
    if model is not None:
        with np.errstate(all="ignore"):
            outcome.f = problem.rows.objective_of_fitted(model.coef_, model.intercept_)
        outcome.n_iter, outcome.last_loss = int(model.n_iter_), float(model.loss_curve_[-1])
        outcome.converged = getattr(model, "converged_", None)
        if outcome.f < outcome.best:
            outcome.reference_above = relative(outcome.best, outcome.f)
            outcome.best = outcome.f
        outcome.gap = relative(outcome.f, outcome.best)
        with np.errstate(all="ignore"):
            outcome.predicted_gap = predicted_gap(problem, model, outcome.best, best.constant)
        if outcome.larger_gap > TOL:
            outcome.held_gap = min(outcome.larger_gap, held_gap(problem, outcome))
    return outcome


def held_gap(problem: Problem, outcome: Outcome) -> float:
    """The larger gap of the best model in X's type, or one that is below tol."""
    least = np.inf
    log_loss, best, constant = problem.loss == "log_loss", outcome.best, outcome.constant
    with np.errstate(all="ignore"):
        for model in held_models(problem):
            value = problem.rows.objective_of_fitted(model.coef_, model.intercept_)
            of_model = gap(value, best, constant, log_loss=log_loss)
            least = min(least, max(of_model, predicted_gap(problem, model, best, constant)))
            if least < TOL:
                break
    return float(least)


#: What is counted for each kind, and whose problems are listed.
COUNTS = {
    "silent": lambda o: o.silent and not o.unholdable,
    "silent, unholdable": lambda o: o.silent and o.unholdable,
    "alarm": lambda o: o.alarm,
    "error": lambda o: bool(o.error),
    "other warning": lambda o: bool(o.other_warnings),
    "slow": lambda o: o.seconds > SLOW,
    "not judged": lambda o: not o.judged,
    "reference above": lambda o: o.reference_above > 1e-8,
    "warned": lambda o: o.warned,
    "warned, unholdable": lambda o: o.warned and o.unholdable,
    "float64 > 1e-3": lambda o: o.judged and o.gap > 1e-3 and o.dtype == "float64",
    "float32 > 1e-3": lambda o: o.judged and o.gap > 1e-3 and o.dtype == "float32",
}


def report(outcomes: list[Outcome]) -> None:
    """Print a line for each offending problem, and a table by kind."""
    for name, counts in COUNTS.items():
        for o in outcomes:
            if counts(o) and " > " not in name:
                number = f"{o.index}{' --large' if o.large else ''}"
                text = o.error or "; ".join(o.other_warnings) or o.warning
                print(
                    f"{name}: {number} {o.kind}, gap {o.larger_gap:.1e} (held {o.held_gap:.1e}, "
                    f"reference {o.reference_error:.1e}), {o.n_iter} passes, {o.seconds:.1f} s, "
                    f"{o.description} {text[:200]!r}"
                )
    rows = []
    for kind in [*sorted({o.kind for o in outcomes}), "all"]:
        some = [o for o in outcomes if kind in (o.kind, "all")]
        judged = [o.gap for o in some if o.judged and not np.isnan(o.gap)]
        cells = [str(sum(map(counts, some))) for counts in COUNTS.values()]
        seconds = np.nansum([o.seconds for o in some])
        rows.append(
            [kind, str(len(some)), *cells, f"{max(judged, default=0):.0e}", f"{seconds:.0f}"]
        )
    print_table(["kind", "fits", *COUNTS, "worst gap", "seconds"], rows)


def main() -> None:
    """Run, report, and write what every fit did."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=3000, help="small problems")
    parser.add_argument("--large", type=int, default=30, help="large problems")
    parser.add_argument("--start", type=int, default=0, help="number of the first problem")
    parser.add_argument("--only", default="", help="part of a kind, as huber or binary/l1")
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--cache", default=str(Path(tempfile.gettempdir(), "robustness.sqlite")))
    parser.add_argument("--json", help="file for all outcomes")
    parser.add_argument("--problem", type=int, help="run this one alone, large if --large 1")
    options = parser.parse_args()
    if options.problem is None:
        small = range(options.start, options.start + options.count)
        tasks = [(i, False) for i in small] + [(i, True) for i in range(options.large)]
    else:
        tasks = [(options.problem, options.large == 1)]
    if options.only:
        tasks = [task for task in tasks if options.only in make(*task).kind]
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # for the processes to come
    outcomes = []
    with get_context("spawn").Pool(options.jobs) as pool:
        for outcome in pool.imap_unordered(run, [(*task, options.cache) for task in tasks]):
            outcomes.append(outcome)
            if len(outcomes) % 100 == 0:
                print(f"{len(outcomes)} of {len(tasks)}", file=sys.stderr)
    outcomes.sort(key=lambda o: (o.large, o.index))
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(o) for o in outcomes], indent=1))
    if options.problem is None:
        report(outcomes)
    else:
        for name, value in asdict(outcomes[0]).items():
            print(f"{name:18} {value}")


if __name__ == "__main__":
    main()
