"""From a user's parameters and checked data to one call of the training loop, and back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, float64

from skorchless.data import BatchLoader, Moments, Scaling, affords_gram
from skorchless.estimators.evaluation import Returned
from skorchless.estimators.head_start import enough_rows, head_of, roughly, start_from
from skorchless.estimators.memory import Memory, clip_rescaled_coef, go_on, kept
from skorchless.estimators.parameters import Parameters
from skorchless.estimators.problem import FitProblem, FitResult, Task
from skorchless.estimators.row_space import RowSpace, as_dense
from skorchless.estimators.runtime import own_settings
from skorchless.estimators.working_columns import LEAST_COLUMNS, AllColumns, MakeObserver, Rounds
from skorchless.losses import rough_median
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
from skorchless.optimizers.learning_rates import ADAPTIVE_FLOOR
from skorchless.restoring import without_numpy_warnings
from skorchless.stack import shared
from skorchless.training import TrainingConfig, train

#: A rate that is chosen here has fallen far enough below this share of its first value.
AUTOMATIC_FLOOR = 1e-3
#: Steps of ``partial_fit``, of which the mean is returned, are this many times as long as those of
#: a fit, and fall with this power of the number of calls.
PASS_SHARE, FALLING = 3.0, 0.25
#: A rate that is chosen here is lowered after at least this many steps without improvement.
LEAST_STEPS = 50
#: Tables of at most so many numbers are trained in double precision on a CPU, and the models that
#: come of them evaluated once more.
DOUBLE_NUMBERS = 2**22
#: Multiply-adds of a pass that are made in double precision there.
DOUBLE_WORK = 2**24
#: Numbers up to this one, and from its inverse on, can be squared and added up.
MOST_SQUARED = 1e100
#: The rows of a table of at most so many numbers are factored if its columns are dependent.
MOST_FACTORED = 2**24
#: Rows of the sample that roughly tells means and deviations: the first of these numbers, or fewer,
#: but not fewer than the second, if they have more numbers than the third.
SCALING_ROWS, LEAST_SCALING_ROWS, SCALING_NUMBERS = 1024, 128, 2**20


# Losses and weights that leave the range of numbers are noticed, and told in words of our own.
@without_numpy_warnings
def fit_stack(
    candidates: Sequence[Parameters],
    loss_name: str,
    task: Task,
    *,
    memory: Memory | None = None,
    make_observer: MakeObserver | None = None,
) -> FitResult:
    """Train candidates on the same data.

    Parameters
    ----------
    candidates, loss_name, task, memory
        Attributes of `FitProblem`.
    make_observer : callable, optional
        Makes the observer of the training, given a function that converts weights of the training
        to those on the user's columns.
    """
    problem = FitProblem(candidates, loss_name, task, memory)
    return own_settings(task.data.X.device, problem.work, partial(_run, problem, make_observer))


def _run(problem: FitProblem, make_observer: MakeObserver | None) -> FitResult:
    """Train on a few columns at a time, where L1 leaves few of them, or on all."""
    if not _is_worth_rounds(problem):
        return _run_at_once(problem, make_observer)

    def fit(
        candidates: Sequence[Parameters], task: Task, make_observer: MakeObserver | None
    ) -> FitResult:
        return _run_at_once(FitProblem(candidates, problem.loss_name, task), make_observer)

    return Rounds(problem.candidates, problem.task, _all_columns(problem), fit, make_observer).run()


def _is_worth_rounds(problem: FitProblem) -> bool:
    """Whether L1 is likely to leave so few columns that rounds of a part of them are faster.

    Not where early stopping wants to see the way of all columns to the optimum.
    """
    if not problem.full_batch or problem.early_stopping or problem.shared["tol"] is None:
        return False
    many = problem.data.X.shape[1] >= LEAST_COLUMNS
    return many and all(c["alpha"] and c["l1_ratio"] for c in problem.candidates)


def _all_columns(problem: FitProblem) -> AllColumns:
    """The conditions of the optimum in all columns."""
    problem = _in_training_precision(problem)[0]
    plain = problem.loader()
    scaling = _measure_columns(problem, plain).scaling
    loader, objective = _scaled(problem, plain, scaling)
    return AllColumns(
        loader if objective.scaling is None else plain,
        objective,
        scaling,
        problem.tols,
        problem.null_model,
    )


def _run_at_once(problem: FitProblem, make_observer: MakeObserver | None) -> FitResult:
    """Choose the start, the precision and the coordinates, and train."""
    dtype = problem.data.X.dtype
    if not problem.full_batch:
        return _train(problem, Returned(problem, dtype), make_observer)
    if not problem.task.start.any():
        problem = problem.on(replace(problem.task, start=_better_start(problem)))
    problem, is_small = _in_training_precision(problem)
    returned = Returned(problem, dtype, is_small)
    wide = problem.n_rows <= problem.data.X.shape[1] and not problem.penalty().has_l1
    if not (wide and affords_gram(problem.data.X, problem.n_rows)):
        try:
            outcome = _train(problem, returned, make_observer)
        except DependentColumns:
            pass
        else:
            stuck = any(result.stuck for result in outcome.results) and outcome.interrupt is None
            if stuck and problem.loss.constant_hessian and _may_reduce(problem):
                return _along_principal_axes(problem, returned, make_observer, outcome)
            return outcome
    reduced, space = _in_row_space(problem)
    return _train(reduced, replace(returned, row_space=space), make_observer)


def _along_principal_axes(
    problem: FitProblem, returned: Returned, make_observer: MakeObserver | None, outcome: FitResult
) -> FitResult:
    """Train models of squared error again whose optimum rounding hides, and keep what converges.

    Along the principal axes of the rows second moments are diagonal, whatever their condition.
    """
    reduced, space = _in_row_space(problem, principal=True)
    again = _train(reduced, replace(returned, row_space=space), make_observer)
    for i, (before, after) in enumerate(zip(outcome.results, again.results, strict=True)):
        if before.stuck and after.converged:
            outcome.results[i], outcome.weights[i] = after, again.weights[i]
    return replace(outcome, interrupt=again.interrupt)


def _better_start(problem: FitProblem) -> np.ndarray:
    """Weights that are nearer to the optimum than zero, where it pays to look for some first."""
    task, candidates, loss_name = problem.task, problem.candidates, problem.loss_name
    if _gains_from_head_start(problem):
        part = head_of(task, problem.shard, classifies=loss_name in ("softmax", "logistic"))
        if part is not None:
            return start_from(fit_stack(roughly(candidates), loss_name, part), task)
    start = task.start
    for delta in _larger_deltas(problem):
        smoother = [{**c, "delta": max(delta, float(c["delta"]))} for c in roughly(candidates)]
        start = start_from(fit_stack(smoother, loss_name, replace(task, start=start)), task)
    return start


def _gains_from_head_start(problem: FitProblem) -> bool:
    """Whether a share of the rows is enough to tell roughly where the optimum is.

    Not where a single pass ends there, nor where early stopping wants to see the whole way.
    """
    if problem.early_stopping or not enough_rows(problem.data, problem.n_rows):
        return False
    return not problem.loss.constant_hessian or problem.penalty().has_l1


def _larger_deltas(problem: FitProblem) -> list[float]:
    """Huber's delta where the optimum is sought first, if it is small beside the targets.

    The loss is then nearly the absolute error, with a kink at each row; the optimum moves
    steadily as delta shrinks from where the loss is nearly squared error.
    """
    if problem.loss_name != "huber" or problem.early_stopping:
        return []
    least = min(float(candidate["delta"]) for candidate in problem.candidates)
    target = problem.data.target.to(float64)
    centre = rough_median(target, problem.comm)
    spread = float(rough_median((target - centre).abs(), problem.comm).max())
    steps = int(np.floor(np.log10(max(spread, least) / least)))
    return [least * 10.0**i for i in range(steps, 0, -1)] if steps > 1 else []


def _in_training_precision(problem: FitProblem) -> tuple[FitProblem, bool]:
    """A small table in double precision, which hardly costs more on a CPU; whether it is small."""
    X = problem.data.X
    numbers = sum(problem.comm.all_gather_object(X.numel()))
    is_small = numbers <= DOUBLE_NUMBERS and X.device.type == "cpu"
    if is_small and numbers * problem.stack_width <= DOUBLE_WORK and X.dtype != float64:
        return problem.in_double(), is_small
    return problem, is_small


def _in_row_space(problem: FitProblem, *, principal: bool = False) -> tuple[FitProblem, RowSpace]:
    """The problem in the coordinates of a basis of the rows' span."""
    task, dtype = problem.task, problem.data.X.dtype
    rows = problem.comm.all_gather_rows(as_dense(problem.data.X))
    space = RowSpace.of(rows, centre=problem.fit_intercept, orthonormal=problem.has_penalty)
    if principal:
        space = space.along_principal_axes(rows)
    data = replace(task.data, X=space.rows(task.data.X).to(dtype))
    validation = task.validation
    if validation is not None:
        validation = replace(validation, X=space.rows(validation.X).to(dtype))
    start = space.reduce(torch.from_numpy(task.start).to(space.basis)).numpy(force=True)
    return problem.on(replace(task, data=data, start=start, validation=validation)), space


def _train(
    problem: FitProblem, returned: Returned, make_observer: MakeObserver | None
) -> FitResult:
    """Train in the coordinates and the precision of `problem`."""
    memory = problem.memory or Memory()
    generator = _generator(problem.task.generator, memory)
    plain = problem.loader()
    statistics = _measure_columns(problem, plain) if problem.auto_rate else None
    scaling = None if statistics is None else statistics.scaling
    loader, objective = _scaled(problem, plain, scaling)
    weights = _starting_weights(problem, memory, statistics)
    rates = _rates(problem, memory, loader, objective)
    targets = _measure_targets(problem, memory, loader)
    units = None if targets is None else _start_near_targets(problem, memory, targets, weights)
    may_reduce = returned.row_space is None and _may_reduce(problem)
    optimizer = _make_optimizer(
        problem, memory, loader, objective, weights, units, may_reduce=may_reduce
    )
    fold_back = partial(returned.fold_back, scaling=scaling)
    results, interrupt = train(
        loader if objective.scaling is None else plain,
        objective,
        optimizer,
        weights,
        _training_config(problem, memory, rates, units),
        generator=generator if problem.shared["shuffle"] else None,
        validation=_validation_loader(problem, scaling, objective),
        observer=None if make_observer is None else make_observer(fold_back),
    )
    if interrupt is not None and (problem.is_partial_fit or problem.comm.size > 1):
        raise interrupt  # half a pass is none, and no rank may be ahead of the others
    folded = [fold_back(result.weights) for result in results]
    if isinstance(optimizer, QuasiNewton):
        moments = None if statistics is None else statistics.moments
        folded = returned.check(
            results, folded, scaling, moments, fit_stack, singular=optimizer.singular
        )
    if problem.is_partial_fit:
        assert isinstance(optimizer, FirstOrderOptimizer)
        memory = Memory(
            passes=memory.passes + 1,
            generator=generator.get_state().numpy(),
            rule={name: value.copy() for name, value in optimizer.state_dict().items()},
            moments=None if statistics is None else kept(statistics.moments),
            stored=None if statistics is None else statistics.stored.numpy(force=True),
            targets=kept(targets),
            rates=rates if problem.auto_rate else None,
            mean_weight=plain.mean_weight,
            optimizer=_state_key(problem),
        )
    return FitResult(results, folded, problem.optimizer, rates, interrupt, memory)


def _validation_loader(
    problem: FitProblem, scaling: Scaling | None, objective: LinearObjective
) -> BatchLoader | None:
    """The validation rows, standardised unless the objective standardises the weights."""
    loader = problem.validation_loader()
    if loader is None or scaling is None or objective.scaling is not None:
        return loader
    return loader.scaled(scaling)


def _generator(fresh: torch.Generator, memory: Memory) -> torch.Generator:
    """What shuffles: a new generator, or one in the state where the last call left it."""
    if memory.generator is None:
        return fresh
    generator = torch.Generator(device="cpu")
    generator.set_state(torch.from_numpy(memory.generator.copy()))
    return generator


def _state_key(problem: FitProblem) -> str:
    """Whose state ``partial_fit`` keeps: another optimizer, or other columns, start afresh."""
    on = " on standardised columns" if problem.auto_rate else ""
    return problem.optimizer + on


def _continues(problem: FitProblem, memory: Memory) -> bool:
    """Whether an earlier call of ``partial_fit`` left a state of the same optimizer."""
    return memory.passes > 0 and memory.optimizer == _state_key(problem)


def _averages(problem: FitProblem) -> bool:
    """Whether the model is the mean of the steps, which may then be longer."""
    return problem.is_partial_fit and problem.auto_rate and problem.optimizer == "adam"


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of the columns, of all calls of ``partial_fit`` so far.

    Attributes
    ----------
    moments : Moments
        Of all rows, or of a sample where that is enough.
    scaling : Scaling
    stored : Tensor of shape (D + 1,)
        Weight of the rows that store each column, and of all; empty for the default optimizer.
    """

    moments: Moments
    scaling: Scaling
    stored: Tensor


def _measure_columns(problem: FitProblem, loader: BatchLoader) -> Statistics:
    """Measure what the columns are standardised by."""
    data, memory = problem.data, problem.memory or Memory()
    moments = _moments(problem, memory, loader)
    scaling = moments.scaling(centre=problem.fit_intercept, dtype=data.X.dtype)
    scaling = _in_range(problem, loader, moments, scaling)
    if problem.full_batch:
        # Where the span of the rows takes too much memory, steps in it need the user's own units.
        wide = loader.n_rows < loader.n_columns and not loader.affords_gram
        return Statistics(
            moments, scaling.centring() if wide else scaling, moments.mean.new_zeros(0)
        )
    l2 = problem.penalty().l2
    # The columns are scaled by the penalty: `stack_key` gives candidates of one stack the same.
    assert bool((l2 == l2[:1]).all())
    stored = data.stored_weight(problem.comm)
    if memory.stored is not None:
        stored += shared(memory.stored).to(stored)
    scaling = scaling.damped(float(l2[0, 0, 0])).tempered(stored[:-1] / stored[-1])
    return Statistics(moments, scaling, stored)


def _moments(problem: FitProblem, memory: Memory, loader: BatchLoader) -> Moments:
    """Means and deviations of the columns.

    An optimizer that measures curvature only needs them roughly. A sample is enough for it, unless
    that leaves a column looking constant.
    """
    if problem.full_batch:
        rows = min(SCALING_ROWS, SCALING_NUMBERS // loader.n_columns)
        sample = loader.sample(max(rows, LEAST_SCALING_ROWS)).moments().over(problem.comm)
        if bool(((sample.squares > 0) & sample.squares.isfinite()).all()):
            return sample
    moments = Moments.total(chunk.moments() for chunk in loader.chunks())
    return go_on(memory.moments, moments.over(problem.comm))


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
    odd &= (largest > 0) & ((largest < 1.0 / MOST_SQUARED) | (largest > MOST_SQUARED))
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
) -> tuple[BatchLoader, LinearObjective]:
    """Standardised rows, and the objective, which may standardise the weights instead.

    That spares a copy per pass. It is not done where rows are copied anyway, nor where means are so
    large that digits would be lost.
    """
    if scaling is None:
        return plain, problem.objective(None, scales_weights=False)
    large = any(problem.comm.all_gather_object(not plain.fits_chunk))
    scales_weights = problem.full_batch and large and scaling.is_mild
    return plain.scaled(scaling), problem.objective(scaling, scales_weights=scales_weights)


def _starting_weights(problem: FitProblem, memory: Memory, statistics: Statistics | None) -> Tensor:
    """Where each candidate starts, on the columns to train on."""
    start = problem.task.start
    alike = np.broadcast_to(start, (len(problem.candidates), *start.shape[1:]))
    weights = torch.from_numpy(alike.copy()).to(problem.data.X.device)
    if statistics is not None:
        weights = clip_rescaled_coef(
            weights, memory.moments, statistics.moments, centre=problem.fit_intercept
        )
        weights = statistics.scaling.to_scaled(weights)
    weights = weights.to(problem.data.X.dtype, copy=True)
    if problem.full_batch and not bool(weights.any()):
        weights[..., -1] = problem.null_model.intercept.to(weights)
    return weights


def _rates(
    problem: FitProblem, memory: Memory, loader: BatchLoader, objective: LinearObjective
) -> np.ndarray:
    """Learning rates, shape ``(M,)``."""
    if not problem.auto_rate:
        return np.array([float(candidate["learning_rate"]) for candidate in problem.candidates])
    if problem.full_batch:
        return np.ones(len(problem.candidates))
    earlier = memory.rates if _continues(problem, memory) else None
    if earlier is not None and memory.passes & (memory.passes - 1):  # measured at powers of two
        return earlier
    momentum = np.array([float(candidate["momentum"]) for candidate in problem.candidates])
    rates = safe_rates(problem.optimizer, loader, objective, momentum)
    rates *= PASS_SHARE if _averages(problem) else 1.0
    return rates if earlier is None else np.minimum(rates, earlier)


def _measure_targets(problem: FitProblem, memory: Memory, loader: BatchLoader) -> Moments | None:
    """Mean and deviation of numeric targets, where Adam's rates are chosen here."""
    if not problem.auto_rate or problem.optimizer != "adam" or not problem.loss.is_regression:
        return None
    return go_on(memory.targets, target_moments(loader, problem.loss, problem.comm))


def _start_near_targets(
    problem: FitProblem, memory: Memory, targets: Moments, weights: Tensor
) -> np.ndarray:
    """Begin near the mean of the targets; return the units of Adam's rates, shape ``(K,)``.

    Adam's steps are as long as its rate, so it would take as many steps from zero to the targets'
    mean as that is rates away, and outputs in other units would each need a rate of their own. It
    begins one unit short of the mean: at the mean the gradient is pure rounding, which Adam makes
    as large as any other.
    """
    mean, size = target_units(targets)
    if problem.fit_intercept and not _continues(problem, memory) and not bool(weights.any()):
        weights[..., -1] = torch.from_numpy(mean - size).to(weights)
    return size


def _may_reduce(problem: FitProblem) -> bool:
    """Whether dependent columns may be removed by a factorisation of the rows.

    Not where early stopping looks at the way to the optimum, which other coordinates change.
    """
    if not problem.full_batch or problem.early_stopping or problem.comm.size > 1:
        return False
    affordable = problem.data.X.numel() <= MOST_FACTORED and affords_gram(problem.data.X)
    return affordable and not problem.penalty().has_l1


def _make_optimizer(
    problem: FitProblem,
    memory: Memory,
    loader: BatchLoader,
    objective: LinearObjective,
    weights: Tensor,
    units: np.ndarray | None,
    *,
    may_reduce: bool,
) -> Optimizer:
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
    optimizer = (AveragedAdam if _averages(problem) else problem.optimizer_class)(setup)
    if _continues(problem, memory):
        assert isinstance(optimizer, FirstOrderOptimizer)
        optimizer.load_state_dict(memory.rule)
    return optimizer


def _training_config(
    problem: FitProblem, memory: Memory, rates: np.ndarray, units: np.ndarray | None
) -> TrainingConfig:
    parameters, on_plateau = problem.shared, problem.ends_on_plateau
    threshold = constant_loss = None
    judges = problem.early_stopping or not problem.full_batch
    if judges and parameters["tol"] is not None and not problem.is_partial_fit:
        constant_loss = problem.null_model.loss.numpy(force=True)
        threshold = problem.tols * (1.0 if on_plateau else constant_loss)
    patience = int(parameters["n_iter_no_change"])
    if on_plateau:
        steps = -(-problem.n_rows // problem.batch_size)
        patience = max(patience, -(-LEAST_STEPS // steps))
    return TrainingConfig(
        max_iter=1 if problem.is_partial_fit else int(parameters["max_iter"]),
        rate=rates * (1 + memory.passes) ** -FALLING if _averages(problem) else rates,
        units=units,
        floor=AUTOMATIC_FLOOR * rates if problem.auto_rate else ADAPTIVE_FLOOR,
        constant_loss=None if problem.auto_rate else constant_loss,
        schedule=_schedule(problem),
        horizon=int(parameters["max_iter"]),
        first_pass=memory.passes,
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
        return "constant" if _averages(problem) else "invscaling"
    # It has no noise floor to stay on either: its rate falls at each plateau.
    if problem.auto_rate and problem.shared["schedule"] == "constant":
        return "adaptive"
    return str(problem.shared["schedule"])
