"""Estimators that train together on the same samples, each as it would train alone."""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline, KroghInterpolator
from torch import Tensor, float64

from skorchless.data import Matrix, affords_gram
from skorchless.data.limits import WIDE_ROWS
from skorchless.estimators import checks, limits
from skorchless.estimators.base import TorchLinearModel
from skorchless.estimators.callbacks import has_callbacks
from skorchless.estimators.evaluation import may_cancel, raw_predictions, rounded
from skorchless.estimators.memory import Memory
from skorchless.estimators.parameters import (
    Parameters,
    check_parameters,
    chosen_optimizer,
    keep_quiet,
)
from skorchless.estimators.problem import FitProblem, FitResult
from skorchless.estimators.runtime import memory_errors, own_settings
from skorchless.estimators.solve import fit_stack
from skorchless.losses import NullModel
from skorchless.optimizers.hessian_estimator import sample_size
from skorchless.optimizers.lbfgs import pairs_of
from skorchless.optimizers.least_squares import Comoments
from skorchless.optimizers.line_search import stop_distance
from skorchless.training import TrainingResult

#: Parameters that every model of a stack has for itself, as long as they are numbers.
STACKED = ("learning_rate", "alpha", "l1_ratio", "momentum", "delta", "tol")


#: The methods of a fit and a prediction that training together bypasses.
BYPASSED = ("fit", "_fit", "_train", "_raw_predictions")


def has_own_way(model: TorchLinearModel) -> bool:
    """Whether a stack would bypass a subclass's own way to fit or predict, or callbacks."""
    ours = next(base for base in type(model).__mro__ if TorchLinearModel in base.__bases__)
    return has_callbacks(model) or any(
        getattr(type(model), name) is not getattr(ours, name) for name in BYPASSED
    )


def stack_key(parameters: Parameters) -> Parameters:
    """Return what two candidates must have in common for one stack to train both.

    Parameters
    ----------
    parameters : dict
        Constructor parameters of an estimator.

    Returns
    -------
    key : dict
        The parameters that do not stack, and of those that do whether they are numbers. For the
        quasi-Newton method also whether there is L1, without which squared error is solved exactly,
        and whether there is any penalty, without which dependent columns are trained apart.
        For the others, where they choose their rates, the penalty: columns are scaled by it too.
    """
    key = {name: value for name, value in parameters.items() if name not in STACKED}
    for name in STACKED:
        value = parameters.get(name)
        key[name] = value if value is None or isinstance(value, str) else "a number"
    if chosen_optimizer(parameters) == "quasi-newton":
        key["has L1"] = bool(parameters["alpha"]) and bool(parameters["l1_ratio"])
        key["has a penalty"] = bool(parameters["alpha"])
    elif parameters["learning_rate"] == "auto":
        key |= {name: parameters[name] for name in ("alpha", "l1_ratio")}
    return key


class BatchedFit:
    """Estimators of one `stack_key` that are fitted on the same samples.

    Parameters
    ----------
    models : list of TorchLinearModel
        Not fitted yet.
    moments : Comoments, optional
        Of the samples, if they are known.

    Attributes
    ----------
    errors : list of (Exception or None)
        What each model's own ``fit`` would have raised; such a model is not fitted.
    problem : FitProblem or None
        The one of the first valid model, once they are prepared; the others share its data.
    """

    def __init__(
        self, models: Sequence[TorchLinearModel], moments: Comoments | None = None
    ) -> None:
        self.models, self.moments = models, moments
        self.errors: list[Exception | None] = [None] * len(models)
        self.problem: FitProblem | None = None

    @property
    def valid(self) -> list[int]:
        """Numbers of the models that nothing is wrong with so far."""
        return [i for i, error in enumerate(self.errors) if error is None]

    @memory_errors()
    def prepare(self, X: Any, y: Any, **fit_params: Any) -> None:
        """Check the models' parameters and the samples that `fit_all` will fit them on.

        Parameters
        ----------
        X, y, **fit_params
            As ``fit`` takes them.

        Raises
        ------
        Exception
            Whatever every ``fit`` would raise alike, because X or y are invalid.
        """
        for i, model in enumerate(self.models):
            try:
                check_parameters(model)
            except (ValueError, TypeError, NotImplementedError) as error:
                self.errors[i] = error
        if not self.valid:
            return
        first = self.models[self.valid[0]]
        try:
            inspect.signature(first.fit).bind(X, y, **fit_params)
        except TypeError as error:
            raise TypeError(f"{first.fit.__qualname__}() {error}") from error
        own = set(vars(first))
        self.problem = first._prepare(X, y, **fit_params)
        learned = {name: value for name, value in vars(first).items() if name not in own}
        for model in self.models:
            model.__dict__.update(learned)

    def fit_one_by_one(self, X: Any, y: Any, **fit_params: Any) -> None:
        """Fit each model by its own ``fit``."""
        for i, model in enumerate(self.models):
            keep_quiet(model)
            try:
                model.fit(X, y, **fit_params)
            except Exception as error:
                self.errors[i] = error


def fit_all(fits: Sequence[BatchedFit]) -> None:
    """Fit the same estimators on several sets of samples, such as the folds of a search.

    Each model gets the attributes, to rounding, that its own ``fit`` would have given it: the same
    batches, the same held-out samples, and an end of its own. An error of one does not affect the
    others. Where steps are little work, sets of the same size train side by side.
    """
    alike: dict[Any, list[BatchedFit]] = {}
    for fit in fits:
        if fit.problem is not None:
            alike.setdefault(_size_of(fit.problem), []).append(fit)
    for some in alike.values():
        problems = [
            replace(fit.problem, candidates=[fit.models[i]._parameters() for i in fit.valid])
            for fit in some
            if fit.problem is not None
        ]
        if _share_steps(problems):
            members = [(fit, i) for fit in some for i in fit.valid]
            _fit_stack(members, FitProblem.side_by_side(problems))
            continue
        for fit, problem in zip(some, problems, strict=True):
            _fit_stack([(fit, i) for i in fit.valid], problem)


def _fit_stack(members: Sequence[tuple[BatchedFit, int]], problem: FitProblem) -> None:
    """Train some of the models of one or more fits, and set their attributes or errors."""
    models = [fit.models[i] for fit, i in members]
    try:
        with memory_errors():
            outcome = fit_candidates(problem, members[0][0].moments)
        if outcome.interrupt is not None:
            raise outcome.interrupt
        for place, ((fit, i), model) in enumerate(zip(members, models, strict=True)):
            fit.errors[i] = outcome.failure(place)
            if fit.errors[i] is None:
                model._set_fitted_attributes(outcome, problem, place)
            else:
                model.loss_curve_ = np.array(outcome.results[place].loss_curve)
    except Exception as error:
        for fit, i in members:
            fit.errors[i] = error


def _models_a_stack(problem: FitProblem) -> int:
    """How many models one stack may have so that its state stays within limits.STACK_BYTES.

    The samples themselves are not counted: there is one copy of them whatever the stack. A chunk's
    raw predictions are bounded by themselves.
    """
    data = problem.data
    n, columns = data.X.shape[0], data.X.shape[1] + 1
    weights = data.n_outputs * columns
    numbers = limits.OPTIMIZER_COPIES * weights
    if problem.full_batch:
        rank = min(n, columns)
        numbers += 3 * pairs_of(weights) * weights
        numbers += rank * (4 * rank + WIDE_ROWS) if affords_gram(data.X) else columns
        numbers += min(n, sample_size(columns)) * 4 * data.n_outputs
    return max(1, limits.STACK_BYTES // (float64.itemsize * numbers))


def _share_steps(problems: Sequence[FitProblem]) -> bool:
    """Whether the same candidates train on data of one size in steps that serve all of them.

    Learning rates have to be numbers, since what is chosen automatically depends on the samples. It
    pays where a step is little work.
    """
    n, first = len(problems), problems[0]
    X = first.data.X
    return (
        n > 1
        and not first.auto_rate
        and isinstance(X, Tensor)
        and first.batch_size * X.shape[1] * first.stack_width <= limits.SMALL_STEP
        and n * X.nbytes <= limits.SMALL_SAMPLES
        and n * len(first.candidates) <= _models_a_stack(first)
    )


def _size_of(problem: FitProblem) -> tuple[object, ...]:
    """What problems must have in common for their samples to lie side by side."""
    held_out = None if problem.validation is None else len(problem.validation.X)
    return problem.data.X.shape, problem.data.X.dtype, problem.data.n_outputs, held_out


@memory_errors()
@np.errstate(all="ignore")
def predict_together(models: Sequence[TorchLinearModel], X: Any) -> np.ndarray:
    """Raw predictions of fitted estimators from one product.

    Parameters
    ----------
    models : sequence of TorchLinearModel
        Fitted on the same columns and targets.
    X : array-like, sparse matrix or Tensor of shape (n_samples, n_features)

    Returns
    -------
    raw : ndarray of shape (M, K, n_samples)
        In the precision that each model alone would predict in.
    """
    coef = np.stack([np.atleast_2d(model.coef_) for model in models])  # (M, K, D)
    intercept = np.stack([np.atleast_1d(model.intercept_) for model in models])
    raw = raw_predictions(models[0], X, coef.reshape(-1, coef.shape[2]), intercept.reshape(-1))
    by_model = np.ascontiguousarray(checks.as_numpy(raw).T)
    shaped: np.ndarray = by_model.reshape(*coef.shape[:2], -1)
    return shaped


# Candidates of which only the optimum matters, not the way there.


def fit_candidates(problem: FitProblem, moments: Comoments | None = None) -> FitResult:
    """Train candidates of one `stack_key`, as `fit_stack` does, but in the fastest way.

    Squared error is solved from second moments, and large problems along the path of their optima.

    Parameters
    ----------
    problem : FitProblem
    moments : Comoments, optional
        Of the data, if they are known.
    """
    candidates, X = problem.candidates, problem.data.X
    free = _only_the_optimum_matters(problem.shared) and problem.validation is None
    if not free or problem.start.any() or (len(candidates) == 1 and moments is None):
        return _fit_stacks(problem)
    if may_use_moments(candidates, X):
        return _solve_or_fit(problem, moments)
    if X.numel() * problem.stack_width <= limits.WORTH_A_PATH:
        return _fit_stacks(problem)
    others = [tuple(c.get(name) for name in STACKED if name != "alpha") for c in candidates]
    paths = [[i for i, one in enumerate(others) if one == each] for each in dict.fromkeys(others)]
    outcomes = [_fit_along_path(_some_of(problem, path)) for path in paths]
    return FitResult.joined(outcomes, np.concatenate(paths))


def _fit_stacks(problem: FitProblem) -> FitResult:
    """Train candidates in as few stacks as memory allows."""
    state, outcomes = problem.generator.get_state(), []
    for part in _parts(problem):
        problem.generator.set_state(state)
        outcomes.append(fit_stack(_some_of(problem, part)))
        if outcomes[-1].interrupt is not None:
            raise outcomes[-1].interrupt
    return FitResult.joined(outcomes, np.arange(len(problem.candidates)))


def _parts(problem: FitProblem) -> list[np.ndarray]:
    """Numbers of the candidates, as many together as memory allows."""
    count, most = len(problem.candidates), _models_a_stack(problem)
    return np.split(np.arange(count), range(most, count, most))


def _some_of(problem: FitProblem, which: Sequence[int] | np.ndarray) -> FitProblem:
    """The problem of some of the candidates."""
    candidates, start = [problem.candidates[i] for i in which], problem.start
    start = start if len(start) == 1 else start[which]
    return replace(problem, candidates=candidates, start=start)


def _only_the_optimum_matters(parameters: Parameters) -> bool:
    """Whether neither the start of a fit nor its iterations matter."""
    return (
        chosen_optimizer(parameters) == "quasi-newton"
        and not parameters["early_stopping"]
        and parameters["tol"] is not None
        and parameters["max_iter"] >= limits.FEW_PASSES
    )


def _fit_along_path(problem: FitProblem) -> FitResult:
    """Train candidates that differ in alpha alone, each from near its optimum.

    Optima change smoothly with the logarithm of alpha, so most candidates start from a spline
    through the optima of the others. Where passes are long, these are trained one after the other,
    from the strongest penalty to the weakest: each starts where the parabola through the last three
    optima leads. With L1 all are trained so, but each starts from the last optimum, with which it
    shares most of its zeros.
    """
    with_l1, alpha = bool(problem.shared["l1_ratio"]), problem.values("alpha")
    if not alpha.all() or (len(alpha) < limits.MANY_CANDIDATES and not with_l1):
        return _fit_stacks(problem)
    size = -np.log(alpha)
    _, order = np.unique(size, return_index=True)
    long = problem.data.X.numel() * problem.data.n_outputs > limits.LONG_PASS
    every = 1 if with_l1 else limits.EVERY_LONG if long else limits.EVERY_SHORT
    nodes = np.append(order[:-1:every], order[-1])
    turns = [np.array([i]) for i in nodes] if with_l1 or long else [nodes]
    known, optima = list[int](), list[np.ndarray]()

    def train(turn: np.ndarray, kind: Any, last: int) -> FitResult:
        """Train some candidates, from a curve of this kind through the last optima."""
        part = _some_of(problem, turn)
        if optima[-last:]:
            start = kind(size[known[-last:]], np.stack(optima[-last:]))(size[turn])
            part = replace(part, start=start)
        outcome = _fit_stacks(part)
        for place, (i, optimum) in enumerate(zip(turn, outcome.weights, strict=True)):
            if optimum is not None and outcome.failure(place) is None:
                known.append(i)
                optima.append(optimum)
        return outcome

    outcomes = [train(turn, KroghInterpolator, 1 if with_l1 else 3) for turn in turns]
    rest = np.setdiff1d(np.arange(len(size)), nodes)
    if len(rest):
        kind = CubicSpline if len(known) > 1 else KroghInterpolator
        outcomes.append(train(rest, kind, len(nodes)))
    return FitResult.joined(outcomes, np.concatenate([*turns, rest]))


def _solve_or_fit(problem: FitProblem, moments: Comoments | None) -> FitResult:
    """Solve candidates from second moments, and fit those for which that would lose digits."""
    data, X, candidates = problem.data, problem.data.X, problem.candidates

    def solve() -> tuple[FitResult, np.ndarray]:
        known = moments or Comoments.of(X, data.target, data.weight)
        parts = [
            solve_from_moments([candidates[i] for i in part], known, X.dtype)
            for part in _parts(problem)
        ]
        fits = FitResult.joined([fit for fit, _ in parts], np.arange(len(candidates)))
        return fits, np.concatenate([of_part for _, of_part in parts])

    found, solved = own_settings(X.device, X.numel() * X.shape[1], solve)
    rest = np.flatnonzero(~solved).tolist()
    if not rest:
        return found
    others = _fit_stacks(_some_of(problem, rest))
    for place, i in enumerate(rest):
        found.results[i], found.weights[i] = others.results[place], others.weights[place]
    return replace(found, interrupt=others.interrupt)


def may_use_moments(candidates: Sequence[Parameters], X: Matrix) -> bool:
    """Whether fits of all penalties can be solved from the same second moments."""
    common = candidates[0]
    with_l1 = [bool(c["alpha"] and c["l1_ratio"]) for c in candidates]
    return (
        common.get("loss") == "squared_error"
        and _only_the_optimum_matters(common)
        and affords_gram(X)
        and (not any(with_l1) or (all(with_l1) and X.shape[1] <= limits.MOST_L1_COLUMNS))
    )


@np.errstate(all="ignore")
def solve_from_moments(
    candidates: Sequence[Parameters], moments: Comoments, dtype: torch.dtype
) -> tuple[FitResult, np.ndarray]:
    """Solve all candidates in the `dtype` of the samples.

    Parameters
    ----------
    candidates : sequence of dict
        That `may_use_moments`.
    moments : Comoments
    dtype : torch.dtype

    Returns
    -------
    outcome : FitResult
    solved : ndarray of bool, shape (M,)
        Whether each is as good as a fit of its own.
    """
    alpha, l1_ratio, tol = (
        torch.tensor(
            [float(c[name]) for c in candidates], dtype=float64, device=moments.mean.device
        )
        for name in ("alpha", "l1_ratio", "tol")
    )
    fit_intercept = bool(candidates[0]["fit_intercept"])
    if bool((alpha * l1_ratio).any()):
        found = moments.solve_with_l1(alpha, l1_ratio, tol, fit_intercept=fit_intercept)
    else:
        found = moments.solve(alpha, fit_intercept=fit_intercept)
    d = len(moments.mean) - moments.n_outputs
    mean, variance = moments.mean[:d], moments.products.diagonal()[:d] / moments.weight
    stored = rounded(found.weights, mean, dtype, fit_intercept=fit_intercept)
    lost = moments.excess(stored.to(float64) - found.weights, alpha * (1.0 - l1_ratio))
    value, tols = found.value.numpy(force=True), tol.numpy(force=True)
    enough = stop_distance(tols, value, np.full_like(value, float(found.constant_value)))
    results = [
        TrainingResult(loss_curve=[value], n_iter=1, best_iter=1, rate=1.0, converged=True)
        for value in value.tolist()
    ]
    weights: list[np.ndarray | None] = list(stored.numpy(force=True))
    null_model = NullModel(stored[..., -1], found.constant_value.expand(len(alpha)))
    size = moments.sizes().numpy(force=True)
    solved = found.reliable.numpy(force=True) & (lost.numpy(force=True) <= enough)
    solved &= ~may_cancel(results, weights, size, tols.tolist(), null_model, is_regression=True)
    # With large means a single fit would evaluate the coefficients that it returns.
    large = (mean.square() > limits.LARGE_MEAN**2 * variance) & (variance > 0)
    solved &= not bool(large.any())
    rates = np.ones(len(candidates))
    return FitResult(results, weights, "quasi-newton", rates, None, Memory()), solved
