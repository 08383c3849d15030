"""From a user's parameters and checked data to one call of the training loop, and back."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, float64

from skorchless.data import BatchLoader, Moments, Scaling, SparseRows, affords_gram
from skorchless.data.base import by_weight
from skorchless.estimators import limits
from skorchless.estimators.evaluation import Returned
from skorchless.estimators.memory import clip_rescaled_coef, go_on, kept
from skorchless.estimators.problem import Dataset, FitProblem, FitResult
from skorchless.estimators.reduction import MakeObserver, Rounds, RowSpace, as_dense, violations
from skorchless.estimators.runtime import own_settings
from skorchless.losses import NullModel, rough_median
from skorchless.objective import LinearObjective
from skorchless.optimizers import (
    AveragedAdam,
    DependentColumns,
    FirstOrderOptimizer,
    Optimizer,
    QuasiNewton,
    Setup,
    safe_rates,
    target_moments,
    target_units,
)
from skorchless.optimizers.hessian_estimator import takes_every_row
from skorchless.optimizers.learning_rates import ADAPTIVE_FLOOR
from skorchless.optimizers.least_squares import Comoments
from skorchless.stack import shared
from skorchless.training import TrainingConfig, train


# Losses and weights that leave the range of numbers are noticed, and told in words of our own.
@np.errstate(all="ignore")
def fit_stack(problem: FitProblem, make_observer: MakeObserver | None = None) -> FitResult:
    """Train candidates on the same data.

    Parameters
    ----------
    problem : FitProblem
    make_observer : callable, optional
        Makes the observer of the training, given a function that converts weights of the training
        to those on the user's columns.
    """
    return own_settings(problem.data.X.device, problem.work, partial(_run, problem, make_observer))


def _run(problem: FitProblem, make_observer: MakeObserver | None) -> FitResult:
    """Train on a few columns at a time, where L1 leaves few of them, or on all."""
    if not _is_worth_rounds(problem):
        return _run_at_once(problem, make_observer)
    return Rounds(problem, _violations_of(problem), _run_at_once, make_observer).run()


def _is_worth_rounds(problem: FitProblem) -> bool:
    """Whether L1 is likely to leave so few columns that rounds of a part of them are faster.

    Not where early stopping wants to see the way of all columns to the optimum.
    """
    if not problem.full_batch or problem.early_stopping or problem.shared["tol"] is None:
        return False
    many = problem.data.X.shape[1] >= limits.LEAST_COLUMNS
    return many and all(c["alpha"] and c["l1_ratio"] for c in problem.candidates)


def _violations_of(problem: FitProblem) -> Callable[[np.ndarray], tuple[Tensor, Tensor]]:
    """How far weights violate the conditions of the optimum in all columns."""
    problem = _in_training_precision(problem)[0]
    plain = problem.loader()
    scaling = _measure_columns(problem, plain).scaling
    assert scaling is not None
    _, rows, objective = _scaled(problem, plain, scaling)
    return partial(violations, problem, rows, objective, scaling)


def _run_at_once(problem: FitProblem, make_observer: MakeObserver | None) -> FitResult:
    """Choose the start, the precision and the coordinates, and train."""
    dtype = problem.data.X.dtype
    if not problem.full_batch:
        return _train(Returned(problem, dtype), problem, make_observer)
    if not problem.start.any():
        problem = replace(problem, start=_better_start(problem))
    problem, is_small = _in_training_precision(problem)
    returned = Returned(problem, dtype, is_small)
    wide = problem.shard.total <= problem.data.X.shape[1] and not problem.penalty().has_l1
    if not (wide and affords_gram(problem.data.X, problem.shard.total)):
        try:
            outcome = _train(returned, problem, make_observer)
        except DependentColumns:
            pass
        else:
            stuck = any(result.stuck for result in outcome.results) and outcome.interrupt is None
            if stuck and problem.loss.constant_hessian and _may_reduce(problem):
                return _along_principal_axes(returned, make_observer, outcome)
            return outcome
    return _train(*_in_row_space(returned), make_observer)


def _along_principal_axes(
    returned: Returned, make_observer: MakeObserver | None, outcome: FitResult
) -> FitResult:
    """Train models of squared error again whose optimum rounding hides, and keep what converges.

    Along the principal axes of the rows second moments are diagonal, whatever their condition.
    """
    again = _train(*_in_row_space(returned, principal=True), make_observer)
    for i, (before, after) in enumerate(zip(outcome.results, again.results, strict=True)):
        if before.stuck and after.converged:
            outcome.results[i], outcome.weights[i] = after, again.weights[i]
    return replace(outcome, interrupt=again.interrupt)


def _better_start(problem: FitProblem) -> np.ndarray:
    """Weights that are nearer to the optimum than zero, where it pays to look for some first."""
    if _gains_from_head_start(problem):
        head = head_of(problem)
        if head is not None:
            return _start_from(fit_stack(head), problem)
    start = problem.start
    for delta in _larger_deltas(problem):
        rough = _roughly(problem, start=start)
        smoother = [{**c, "delta": max(delta, float(c["delta"]))} for c in rough.candidates]
        start = _start_from(fit_stack(replace(rough, candidates=smoother)), problem)
    return start


def _gains_from_head_start(problem: FitProblem) -> bool:
    """Whether a share of the rows is enough to tell roughly where the optimum is.

    Not where a single pass ends there, nor where early stopping wants to see the whole way.
    """
    if problem.early_stopping or not _enough_rows(problem):
        return False
    return not problem.loss.constant_hessian or problem.penalty().has_l1


def _larger_deltas(problem: FitProblem) -> list[float]:
    """Huber's delta where the optimum is sought first, if it is small beside the targets.

    The loss is then nearly the absolute error, with a kink at each row; the optimum moves
    steadily as delta shrinks from where the loss is nearly squared error.
    """
    if problem.loss_name != "huber" or problem.early_stopping:
        return []
    least = float(problem.values("delta").min())
    target = problem.data.target.to(float64)
    centre = rough_median(target, problem.comm)
    spread = float(rough_median((target - centre).abs(), problem.comm).max())
    steps = int(np.floor(np.log10(max(spread, least) / least)))
    return [least * 10.0**i for i in range(steps, 0, -1)] if steps > 1 else []


def _enough_rows(problem: FitProblem) -> int:
    """Rows that tell roughly where the optimum is; 0 if these are not far fewer than all."""
    data, columns = problem.data, problem.data.X.shape[1]
    least = max(limits.HEAD_ROWS, limits.HEAD_ROWS_A_WEIGHT * data.n_outputs * (columns + 1))
    most = limits.HEAD_BYTES // (columns * data.X.dtype.itemsize)
    enough = min(problem.shard.total // limits.HEAD_SHARE, most)
    return enough if enough >= least else 0


def head_of(problem: FitProblem) -> FitProblem | None:
    """The same problem with so many of the rows, by weight, and of every class some.

    Each process chooses from its own rows. None if a few rows have nearly all the weight.
    """
    data, n_rows = problem.data, problem.shard.total
    share = _enough_rows(problem) / n_rows
    weight, classifies = data.relative_weight(), not problem.loss.is_regression
    labels = data.target.view(-1).long() if classifies else torch.zeros_like(weight).long()
    counts = torch.bincount(labels)
    chosen, weights = [], []
    for label in counts.nonzero().view(-1).tolist():
        rows = (labels == label).nonzero().view(-1)
        wanted = max(math.ceil(share * len(rows)), min(len(rows), limits.LEAST_ROWS_OF_A_CLASS))
        of_class, stands_for = by_weight(weight[rows], wanted)
        chosen.append(rows[of_class.to(rows.device)])
        weights.append(stands_for.to(rows.device))
    empty = torch.zeros(0, dtype=torch.long, device=weight.device)
    rows, order = torch.cat([empty, *chosen]).sort()
    distinct = torch.tensor(float(len(rows)), dtype=float64, device="cpu")
    problem.comm.all_reduce_(distinct)
    if float(distinct) < limits.LEAST_DISTINCT * share * n_rows:
        return None
    head = replace(data.take(rows), weight=torch.cat([empty.to(float64), *weights])[order])
    return _roughly(problem, data=head)


def _roughly(problem: FitProblem, **changes: Any) -> FitProblem:
    """The same problem, changed, whose candidates are content to be near their optimum."""
    most = min(problem.shared["max_iter"], limits.HEAD_ITERATIONS)
    near = {"tol": limits.HEAD_TOL, "max_iter": most}
    candidates = [{**candidate, **near} for candidate in problem.candidates]
    return replace(problem, candidates=candidates, validation=None, **changes)


def _start_from(head: FitResult, problem: FitProblem) -> np.ndarray:
    """Weights to start from, ``(M, K, D + 1)``; a model that failed begins where it would have."""
    if head.interrupt is not None:
        raise head.interrupt
    zeros = np.zeros_like(problem.start[0])
    return np.stack([zeros if weights is None else weights for weights in head.weights])


def _in_training_precision(problem: FitProblem) -> tuple[FitProblem, bool]:
    """A small table in double precision, which hardly costs more on a CPU; whether it is small."""
    X = problem.data.X
    numbers = sum(problem.comm.all_gather_object(X.numel()))
    is_small = numbers <= limits.DOUBLE_NUMBERS and X.device.type == "cpu"
    if is_small and numbers * problem.stack_width <= limits.DOUBLE_WORK and X.dtype != float64:
        return problem.with_rows(Dataset.in_double), is_small
    return problem, is_small


def _in_row_space(returned: Returned, *, principal: bool = False) -> tuple[Returned, FitProblem]:
    """The problem in the coordinates of a basis of the rows' span."""
    problem = returned.problem
    rows = problem.comm.all_gather_rows(as_dense(problem.data.X))
    space = RowSpace.of(rows, centre=problem.fit_intercept, orthonormal=problem.has_penalty)
    if principal:
        space = space.along_principal_axes(rows)
    start = space.reduce(torch.from_numpy(problem.start).to(space.basis)).numpy(force=True)
    reduced = problem.with_rows(
        lambda data: replace(data, X=space.rows(data.X).to(data.X.dtype)), start=start
    )
    return replace(returned, row_space=space), reduced


def _train(
    returned: Returned, problem: FitProblem, make_observer: MakeObserver | None
) -> FitResult:
    """Train in the coordinates and the precision of `problem`."""
    generator = _generator(problem)
    plain = problem.loader()
    statistics = _measure_columns(problem, plain) if problem.auto_rate else Statistics()
    moments, scaling = statistics.moments, statistics.scaling
    loader, rows, objective = _scaled(problem, plain, scaling)
    sums = _second_moments(problem, plain, objective)
    weights = _starting_weights(problem, statistics)
    rates = _rates(problem, loader, objective)
    statistics = replace(statistics, targets=_measure_targets(problem, loader))
    units = _start_near_targets(problem, statistics.targets, weights)
    may_reduce = returned.row_space is None and _may_reduce(problem)
    optimizer = _make_optimizer(problem, loader, objective, weights, units, may_reduce, sums)
    returned = replace(returned, scaling=scaling, moments=moments)
    results, interrupt = train(
        rows,
        objective,
        optimizer,
        weights,
        _training_config(problem, rates, units),
        generator=generator if problem.shared["shuffle"] else None,
        validation=_validation_rows(problem, scaling, objective),
        observer=None if make_observer is None else make_observer(returned.fold_back),
    )
    if interrupt is not None and (problem.is_partial_fit or problem.comm.size > 1):
        raise interrupt  # half a pass is none, and no rank may be ahead of the others
    folded = [returned.fold_back(result.weights) for result in results]
    memory = problem.memory
    if isinstance(optimizer, QuasiNewton):
        try:
            folded = returned.check(results, folded, fit_stack, singular=optimizer.singular)
        except KeyboardInterrupt as stopped:  # the models are trained, though none replaced them
            if problem.comm.size > 1:
                raise
            interrupt = stopped
    elif problem.is_partial_fit:
        assert isinstance(optimizer, FirstOrderOptimizer)
        memory = replace(
            memory,
            passes=memory.passes + 1,
            generator=generator.get_state().numpy(),
            rule={name: value.copy() for name, value in optimizer.state_dict().items()},
            **statistics.kept(),
            rates=rates if problem.auto_rate else None,
            mean_weight=plain.mean_weight,
            optimizer=problem.state_key,
        )
    return FitResult(results, folded, problem.optimizer, rates, interrupt, memory)


def _validation_rows(
    problem: FitProblem, scaling: Scaling | None, objective: LinearObjective
) -> BatchLoader | None:
    """Rows to validate on, if there are any, on the columns of the objective."""
    if problem.validation is None:
        return None
    rows = problem.loader(problem.validation)
    return rows if scaling is None or objective.scaling is not None else rows.scaled(scaling)


def _second_moments(
    problem: FitProblem, loader: BatchLoader, objective: LinearObjective
) -> Comoments | None:
    """Second moments of all rows and targets, where they spare squared error its first pass.

    That is so for large tables whose columns need not be centred before they are multiplied.
    """
    data = problem.data
    if (
        not problem.loss.constant_hessian
        or objective.scaling is None
        or problem.start.any()
        or problem.validation is not None
        or problem.comm.size > 1
        or data.n_outputs > data.X.shape[1]
        or isinstance(data.X, SparseRows)
        or data.X.device.type != "cpu"
        or not takes_every_row(loader)
    ):
        return None
    found = Comoments.in_own_precision(data.X, data.target, data.weight)
    if not bool(found.products.isfinite().all()):
        return None
    intercept, loss = found.null_model(fit_intercept=problem.fit_intercept)
    models = problem.n_models
    problem.null_model = NullModel(intercept.expand(models, -1), loss.expand(models))
    return found


def _generator(problem: FitProblem) -> torch.Generator:
    """What shuffles: a new generator, or one in the state where the last call left it."""
    if problem.memory.generator is None:
        return problem.generator
    generator = torch.Generator(device="cpu")
    generator.set_state(torch.from_numpy(problem.memory.generator.copy()))
    return generator


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of the columns, of all calls of ``partial_fit`` so far; None without scaling.

    Attributes
    ----------
    moments : Moments, optional
        Of all rows, or of a sample where that is enough.
    scaling : Scaling, optional
    stored : Tensor of shape (D + 1,), optional
        Weight of the rows that store each column, and of all, for optimizers that step per batch.
    targets : Moments, optional
        Of numeric targets, where Adam's rates are chosen here.
    """

    moments: Moments | None = None
    scaling: Scaling | None = None
    stored: Tensor | None = None
    targets: Moments | None = None

    def kept(self) -> dict[str, Any]:
        """Those that ``partial_fit`` keeps, in NumPy."""
        stored = None if self.stored is None else self.stored.numpy(force=True)
        return {"moments": kept(self.moments), "targets": kept(self.targets), "stored": stored}


def _measure_columns(problem: FitProblem, loader: BatchLoader) -> Statistics:
    """Measure what the columns are standardised by."""
    data, memory = problem.data, problem.memory
    moments = _moments(problem, loader)
    scaling = moments.scaling(centre=problem.fit_intercept, dtype=data.X.dtype)
    scaling = _in_range(problem, loader, moments, scaling)
    if problem.full_batch:
        # Where the span of the rows takes too much memory, steps in it need the user's own units.
        wide = loader.n_rows < loader.n_columns and not loader.affords_gram
        return Statistics(moments, scaling.centring() if wide else scaling)
    l2 = problem.penalty().l2
    # The columns are scaled by the penalty: `stack_key` gives candidates of one stack the same.
    assert bool((l2 == l2[:1]).all())
    stored = data.stored_weight(problem.comm)
    if memory.stored is not None:
        stored += shared(memory.stored).to(stored)
    scaling = scaling.damped(float(l2[0, 0, 0])).tempered(stored[:-1] / stored[-1])
    return Statistics(moments, scaling, stored)


def _moments(problem: FitProblem, loader: BatchLoader) -> Moments:
    """Means and deviations of the columns.

    An optimizer that measures curvature only needs them roughly. A sample is enough for it, unless
    that leaves a column looking constant.
    """
    if problem.full_batch:
        rows = min(limits.SCALING_ROWS, limits.SCALING_NUMBERS // loader.n_columns)
        sample = loader.sample(max(rows, limits.LEAST_SCALING_ROWS)).moments().over(problem.comm)
        if bool(((sample.squares > 0) & sample.squares.isfinite()).all()):
            return sample
    moments = Moments.total(chunk.moments() for chunk in loader.chunks())
    return go_on(problem.memory.moments, moments.over(problem.comm))


def _in_range(
    problem: FitProblem, loader: BatchLoader, moments: Moments, scaling: Scaling
) -> Scaling:
    """The scaling with columns whose squares leave the range of floating point numbers."""
    odd = (moments.squares == 0) | ~moments.squares.isfinite()
    if not bool(odd.any()):
        return scaling
    largest = torch.zeros_like(moments.squares)
    for chunk in loader.chunks():
        largest = torch.maximum(largest, chunk.largest().to(float64))
    largest = problem.comm.all_gather_rows(largest.unsqueeze(0)).amax(dim=0)
    odd &= (largest > 0) & ((largest < 1.0 / limits.MOST_SQUARED) | (largest > limits.MOST_SQUARED))
    if not bool(odd.any()):
        return scaling
    power = torch.where(odd, torch.exp2(-torch.frexp(largest).exponent.to(float64)), 1.0)
    smaller = loader.scaled(Scaling(torch.zeros_like(power), power, scaling.dtype))
    again = Moments.total(chunk.moments() for chunk in smaller.chunks()).over(problem.comm)
    inside = again.scaling(centre=problem.fit_intercept, dtype=scaling.dtype)
    inverse = torch.where(odd, inside.inverse.to(float64) * power, scaling.inverse)
    beyond = odd & ~inverse.isfinite()
    if bool(beyond.any()):
        raise ValueError(
            f"A feature of X has no number above {float(largest[beyond].max()):.3g} in "
            "magnitude: its coefficient would exceed the range of float64. Pass X in other "
            "units."
        )
    mean = torch.where(odd, inside.mean.to(float64) / power, scaling.mean)
    return Scaling(mean, inverse, scaling.dtype)


def _scaled(
    problem: FitProblem, plain: BatchLoader, scaling: Scaling | None
) -> tuple[BatchLoader, BatchLoader, LinearObjective]:
    """Standardised rows, the rows that passes read, and the objective on the latter.

    The objective may standardise the weights instead of the rows. That spares a copy per pass. It
    is not done where rows are copied anyway, nor where means are so large that digits get lost.
    """
    if scaling is None:
        return plain, plain, problem.objective()
    standardised = plain.scaled(scaling)
    large = any(problem.comm.all_gather_object(not plain.fits_chunk))
    if problem.full_batch and large and scaling.is_mild:
        return standardised, plain, problem.objective(scaling, scales_weights=True)
    return standardised, standardised, problem.objective(scaling)


def _starting_weights(problem: FitProblem, statistics: Statistics) -> Tensor:
    """Where each candidate starts, on the columns to train on."""
    weights = torch.from_numpy(problem.starts.copy()).to(problem.data.X.device)
    if statistics.scaling is not None:
        weights = clip_rescaled_coef(
            weights, problem.memory.moments, statistics.moments, centre=problem.fit_intercept
        )
        weights = statistics.scaling.to_scaled(weights)
    weights = weights.to(problem.data.X.dtype, copy=True)
    if problem.full_batch and not bool(weights.any()):
        weights[..., -1] = problem.null_model.intercept.to(weights)
    return weights


def _rates(problem: FitProblem, loader: BatchLoader, objective: LinearObjective) -> np.ndarray:
    """Learning rates, shape ``(M,)``."""
    if not problem.auto_rate:
        return problem.values("learning_rate")
    if problem.full_batch:
        return np.ones(len(problem.candidates))
    passes = problem.memory.passes
    earlier = problem.memory.rates if problem.continues else None
    if earlier is not None and passes & (passes - 1):  # measured at powers of two
        return earlier
    rates = safe_rates(problem.optimizer, loader, objective, problem.values("momentum"))
    rates *= limits.PASS_SHARE if problem.averages else 1.0
    return rates if earlier is None else np.minimum(rates, earlier)


def _measure_targets(problem: FitProblem, loader: BatchLoader) -> Moments | None:
    """Mean and deviation of numeric targets, where Adam's rates are chosen here."""
    if not problem.auto_rate or problem.optimizer != "adam" or not problem.loss.is_regression:
        return None
    return go_on(problem.memory.targets, target_moments(loader, problem.loss, problem.comm))


def _start_near_targets(
    problem: FitProblem, targets: Moments | None, weights: Tensor
) -> np.ndarray | None:
    """Begin near the mean of the targets; return the units of Adam's rates, shape ``(K,)``.

    Adam's steps are as long as its rate, so it would take as many steps from zero to the targets'
    mean as that is rates away, and outputs in other units would each need a rate of their own. It
    begins one unit short of the mean: at the mean the gradient is pure rounding, which Adam makes
    as large as any other.
    """
    if targets is None:
        return None
    mean, size = target_units(targets)
    if problem.fit_intercept and not problem.continues and not bool(weights.any()):
        weights[..., -1] = torch.from_numpy(mean - size).to(weights)
    return size


def _may_reduce(problem: FitProblem) -> bool:
    """Whether dependent columns may be removed by a factorisation of the rows.

    Not where early stopping looks at the way to the optimum, which other coordinates change.
    """
    if not problem.full_batch or problem.early_stopping or problem.comm.size > 1:
        return False
    affordable = problem.data.X.numel() <= limits.MOST_FACTORED and affords_gram(problem.data.X)
    return affordable and not problem.penalty().has_l1


def _make_optimizer(
    problem: FitProblem,
    loader: BatchLoader,
    objective: LinearObjective,
    weights: Tensor,
    units: np.ndarray | None,
    may_reduce: bool,
    sums: Comoments | None,
) -> Optimizer:
    """Make the optimizer, which takes its first step if second moments are known."""
    constant_weights = None
    if problem.full_batch:
        constant_weights = torch.zeros_like(weights)
        constant_weights[..., -1] = problem.null_model.intercept.to(weights)
    setup = Setup(
        loader=loader,
        objective=objective,
        weights=weights,
        momentum=problem.stacked("momentum"),
        nesterov=bool(problem.shared["nesterov"]),
        betas=tuple(problem.shared["betas"]),
        tolerance=torch.from_numpy(problem.tols).to(weights.device),
        constant_loss=problem.null_model.loss if problem.full_batch else None,
        constant_weights=constant_weights,
        units=None if units is None else torch.from_numpy(units).to(weights).view(1, -1, 1),
        refuses_dependent=may_reduce,
    )
    optimizer = (AveragedAdam if problem.averages else problem.optimizer_class)(setup)
    if problem.continues:
        assert isinstance(optimizer, FirstOrderOptimizer)
        optimizer.load_state_dict(problem.memory.rule)
    if sums is not None:
        assert isinstance(optimizer, QuasiNewton)
        at_start = sums.at_constant(weights[..., -1], fit_intercept=problem.fit_intercept)
        optimizer.begin_at(weights, *at_start)
    return optimizer


def _training_config(
    problem: FitProblem, rates: np.ndarray, units: np.ndarray | None
) -> TrainingConfig:
    parameters, passes = problem.shared, problem.memory.passes
    on_plateau = problem.ends_on_plateau
    threshold = constant_loss = None
    judges = problem.early_stopping or not problem.full_batch
    if judges and parameters["tol"] is not None and not problem.is_partial_fit:
        constant_loss = problem.null_model.loss.numpy(force=True)
        threshold = problem.tols * (1.0 if on_plateau else constant_loss)
    patience = int(parameters["n_iter_no_change"])
    if on_plateau:
        steps = -(-problem.shard.total // problem.batch_size)
        patience = max(patience, -(-limits.LEAST_STEPS // steps))
    return TrainingConfig(
        max_iter=1 if problem.is_partial_fit else int(parameters["max_iter"]),
        rate=rates * (1 + passes) ** -limits.PASS_DECAY if problem.averages else rates,
        units=units,
        floor=limits.AUTOMATIC_FLOOR * rates if problem.auto_rate else ADAPTIVE_FLOOR,
        constant_loss=None if problem.auto_rate else constant_loss,
        schedule=_schedule(problem),
        horizon=int(parameters["max_iter"]),
        first_pass=passes,
        threshold=threshold,
        patience=patience,
        relative_to_gain=constant_loss if on_plateau else None,
        early_stopping=problem.early_stopping,
        keeps_best=on_plateau,
    )


def _schedule(problem: FitProblem) -> str:
    if problem.full_batch:
        return "constant"
    # A rate that is chosen here shrinks over the calls of partial_fit, which know no plateau.
    if problem.is_partial_fit and problem.auto_rate:
        return "constant" if problem.averages else "invscaling"
    # It has no noise floor to stay on either: its rate falls at each plateau.
    if problem.auto_rate and problem.shared["schedule"] == "constant":
        return "adaptive"
    return str(problem.shared["schedule"])
