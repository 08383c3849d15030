"""Candidates that differ in their penalties: from second moments, or along the path of optima."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from skorchless.engine import ModelResult
from skorchless.estimators.candidates import Parameters, chosen_optimizer
from skorchless.estimators.evaluation import LARGE_MEAN, may_cancel, rounded
from skorchless.estimators.memory import Memory
from skorchless.estimators.settings import own_settings
from skorchless.estimators.task import Outcome, Task
from skorchless.estimators.training import fit_stack
from skorchless.estimators.working_columns import Watch
from skorchless.losses import NullModel
from skorchless.optimizers.descent import stop_distance
from skorchless.optimizers.least_squares import Comoments
from skorchless.restoring import without_numpy_warnings
from skorchless.sources import Matrix, affords_gram
from skorchless.stack import WIDE

#: Of so many candidates in the order of alpha one is fitted from scratch.
STRIDE = 5
#: Columns up to which second moments of all serve fits with L1.
MOST_COLUMNS = 2500
#: Multiply-adds a pass from which one product with the rows is dearer than all else.
WORTH_A_PATH = 2**24
#: Fitted neighbours that the others' starts are interpolated from.
NEIGHBOURS = 4
#: Fewer passes than this would show where a fit started.
FEW_PASSES = 100


@without_numpy_warnings
def fit_candidates(
    candidates: Sequence[Parameters], loss_name: str, task: Task, watch: Watch | None = None
) -> Outcome:
    """Train M candidates on the same data, as `fit_stack` does, the shortest way.

    Parameters
    ----------
    candidates : sequence of dict
        Constructor parameters with the same `stack_key`.
    loss_name : str
        A name in LOSSES.
    task : Task
    watch : callable, optional
        As of `fit_stack`: who wants to see the passes gets to see those of single fits.
    """
    shared = candidates[0]
    free = watch is None and task.validation is None and _only_its_optimum_matters(shared)
    if free and (len(candidates) > 1 or task.comoments is not None):
        if may_use_moments(candidates, task.data.X) and not task.start.any():
            return _from_moments(candidates, loss_name, task)
        if _is_worth_a_path(len(candidates), task) and _follow_a_path(candidates):
            return _along_path(candidates, loss_name, task)
    return fit_stack(candidates, loss_name, task, watch=watch)


def _is_worth_a_path(n_candidates: int, task: Task) -> bool:
    work = task.data.X.numel() * task.data.n_outputs * n_candidates
    return n_candidates > STRIDE and work > WORTH_A_PATH


def may_use_moments(candidates: Sequence[Parameters], X: Matrix) -> bool:
    """Whether fits of all penalties can be solved from the same second moments."""
    shared = candidates[0]
    with_l1 = [bool(c["alpha"] and c["l1_ratio"]) for c in candidates]
    return (
        shared.get("loss") == "squared_error"
        and not shared["early_stopping"]
        and _only_its_optimum_matters(shared)
        and affords_gram(X)
        and (not any(with_l1) or (all(with_l1) and X.shape[1] <= MOST_COLUMNS))
    )


def _only_its_optimum_matters(parameters: Parameters) -> bool:
    """Whether the way there, on which passes may run out, is no matter."""
    return (
        chosen_optimizer(parameters) == "quasi-newton"
        and parameters["tol"] is not None
        and parameters["max_iter"] >= FEW_PASSES
    )


def _follow_a_path(candidates: Sequence[Parameters]) -> bool:
    others = {tuple(c.get(name) for name in ("l1_ratio", "delta", "tol")) for c in candidates}
    return len(others) == 1 and all(c["alpha"] > 0 for c in candidates)


def comoments_of(task: Task) -> Comoments:
    """Second moments of a task's rows and targets."""
    return Comoments.of(task.data.X, task.data.target, task.data.weight)


def _from_moments(candidates: Sequence[Parameters], loss_name: str, task: Task) -> Outcome:
    """Candidates solved from second moments, and the others by fits of their own.

    These are the ones whose conditioning asks for refinement, or whose coefficients, rounded to X's
    dtype, may lose what they have gained: their fits say so.
    """
    X = task.data.X

    def solve() -> tuple[Outcome, np.ndarray]:
        moments = comoments_of(task) if task.comoments is None else task.comoments
        return solve_from_moments(candidates, moments, X.dtype)

    found, solved = own_settings(X.device, X.numel() * X.shape[1], solve)
    if solved.all():
        return found
    rest = np.flatnonzero(~solved)
    others = fit_stack([candidates[i] for i in rest.tolist()], loss_name, task)
    for place, i in enumerate(rest):
        found.results[i], found.weights[i] = others.results[place], others.weights[place]
    return replace(found, interrupt=others.interrupt)


def solve_from_moments(
    candidates: Sequence[Parameters], moments: Comoments, dtype: torch.dtype
) -> tuple[Outcome, np.ndarray]:
    """Models of all candidates in the `dtype` of the rows, and which of them are solved.

    Parameters
    ----------
    candidates : sequence of dict
        That `may_use_moments`.
    moments : Comoments
    dtype : torch.dtype

    Returns
    -------
    outcome : Outcome
    solved : ndarray of bool, shape (M,)
    """
    alpha, l1_ratio, tol = (
        torch.tensor([float(c[name]) for c in candidates], dtype=WIDE, device=moments.mean.device)
        for name in ("alpha", "l1_ratio", "tol")
    )
    fit_intercept = bool(candidates[0]["fit_intercept"])
    if bool((alpha * l1_ratio).any()):
        found = moments.solve_with_l1(alpha, l1_ratio, tol, fit_intercept=fit_intercept)
    else:
        found = moments.solve(alpha, fit_intercept=fit_intercept)
    mean = moments.mean[: -moments.n_outputs]
    stored = rounded(found.weights, mean, dtype, fit_intercept=fit_intercept)
    change = stored.to(WIDE) - found.weights
    lost = moments.excess(change, alpha * (1.0 - l1_ratio)).numpy(force=True)
    value, constant = found.value.numpy(force=True), float(found.constant_value)
    enough = stop_distance(tol.numpy(force=True), value, np.full_like(value, constant))
    results = [
        ModelResult(loss_curve=[value], n_iter=1, best_iter=1, rate=1.0, converged=True)
        for value in found.value.tolist()
    ]
    weights: list[np.ndarray | None] = list(stored.numpy(force=True))
    null_model = NullModel(stored[..., -1], found.constant_value.expand(len(alpha)))
    size, tols = moments.sizes().numpy(force=True), tol.numpy(force=True)
    cancels = may_cancel(results, weights, size, tols, null_model, has_units=True)
    solved = found.reliable.numpy(force=True) & (lost <= enough) & ~cancels
    solved &= not _has_large_means(moments)
    rates = np.ones(len(candidates))
    return Outcome(results, weights, "quasi-newton", rates, None, Memory()), solved


def _has_large_means(moments: Comoments) -> bool:
    """Whether a single fit would evaluate the coefficients that it returns."""
    variance = (moments.products.diagonal() / moments.weight)[: -moments.n_outputs]
    means = moments.mean[: -moments.n_outputs]
    return bool((means.square() > LARGE_MEAN**2 * variance).logical_and(variance > 0).any())


def _along_path(candidates: Sequence[Parameters], loss_name: str, task: Task) -> Outcome:
    """Some candidates from scratch; the others begin between the optima of their neighbours."""
    log_alpha = np.log([float(c["alpha"]) for c in candidates])
    order = np.argsort(log_alpha, kind="stable")
    first = order[np.unique([*range(0, len(order), STRIDE), len(order) - 1])]
    rest = np.setdiff1d(order, first)
    milestones = fit_stack([candidates[i] for i in first], loss_name, task)
    if milestones.interrupt is not None:
        raise milestones.interrupt
    start = task.start
    if all(result.converged and not result.diverged for result in milestones.results):
        optima = np.stack([weights for weights in milestones.weights if weights is not None])
        start = interpolate(log_alpha[first], optima, log_alpha[rest])
    between = fit_stack(
        [candidates[i] for i in rest],
        loss_name,
        Task(task.data, start, task.generator, task.validation),
    )
    place = np.argsort(np.concatenate([first, rest]))
    results, weights = milestones.results + between.results, milestones.weights + between.weights
    return Outcome(
        [results[i] for i in place],
        [weights[i] for i in place],
        between.optimizer,
        np.concatenate([milestones.rates, between.rates])[place],
        between.interrupt,
        Memory(),
    )


def interpolate(known: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Lagrange's polynomials through the nearest `known` points on both sides.

    Parameters
    ----------
    known : ndarray of shape (m,)
        Increasing.
    values : ndarray of shape (m, ...)
    wanted : ndarray of shape (M,)
        Points between the first and the last of `known`.

    Returns
    -------
    values : ndarray of shape (M, ...)
    """
    distinct, index = np.unique(known, return_index=True)
    found = np.empty((len(wanted), *values.shape[1:]), dtype=values.dtype)
    for i, x in enumerate(wanted):
        middle = int(np.searchsorted(distinct, x))
        low, high = max(0, middle - NEIGHBOURS // 2), middle + NEIGHBOURS // 2
        near = distinct[low:high]
        gaps = [np.delete(near, j) for j in range(len(near))]
        basis = [np.prod((x - g) / (point - g)) for point, g in zip(near, gaps, strict=True)]
        found[i] = np.tensordot(np.array(basis), values[index[low:high]], axes=1)
    return found
