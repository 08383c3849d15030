"""From a user's parameters and checked data to one call of the engine, and back.

Candidates are lists of length M: a single fit is a list of one.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from skorchless.engine import Controls, ModelResult, train
from skorchless.estimators.candidates import Parameters, batch_rows, chosen_optimizer
from skorchless.estimators.data import Data
from skorchless.estimators.evaluation import Evaluation, judge, may_cancel, rounded
from skorchless.estimators.head_start import enough_rows, head_of, roughly, start_from
from skorchless.estimators.memory import Memory, go_on, kept, within_reach
from skorchless.estimators.row_space import RowSpace, as_dense
from skorchless.estimators.settings import own_settings, work_of_batch
from skorchless.estimators.task import Outcome, Task
from skorchless.estimators.working_columns import (
    LEAST_COLUMNS,
    AllColumns,
    Rounds,
    Watch,
)
from skorchless.losses import Loss, NullModel, make_loss, rough_median
from skorchless.objective import Objective
from skorchless.optimizers import (
    OPTIMIZERS,
    AveragedAdam,
    DependentColumns,
    QuasiNewton,
    Rule,
    Setup,
    TextbookRule,
    safe_rates,
    target_moments,
    target_units,
)
from skorchless.optimizers.step_size import ADAPTIVE_FLOOR
from skorchless.penalties import ElasticNet
from skorchless.reducer import Shard
from skorchless.restoring import without_numpy_warnings
from skorchless.sources import (
    Moments,
    Scaling,
    ShardedSource,
    Source,
    SparseRows,
    affords_gram,
    as_source,
)
from skorchless.sources.matrix_source import mean_of
from skorchless.stack import WIDE, shared, stack

#: Share of an automatic rate below which a falling one has fallen far enough.
AUTOMATIC_FLOOR = 1e-3

#: Steps of ``partial_fit``, whose mean counts, are so many times as long as a fit's, and fall with
#: this power of the number of calls.
PASS_SHARE, FALLING = 3.0, 0.25

#: Steps without improvement after which an automatic rate is lowered, at least.
LEAST_STEPS = 50

#: Tables of at most so many numbers are trained in double precision on a CPU, and the models that
#: come of them evaluated once more.
DOUBLE_NUMBERS = 2**22

#: Multiply-adds of a pass that are made in double precision there.
DOUBLE_WORK = 2**24

#: Means, in standard deviations, from which the returned models of larger tables are evaluated too.
LARGE_MEAN = 1e3

#: Numbers up to this one, and from its inverse on, can be squared and added up.
MOST_SQUARED = 1e100

#: Numbers of a table whose rows are factored if its columns are dependent.
MOST_FACTORED = 2**24

#: Leaving out columns that rounding could have made may cost so many times what as many columns of
#: noise are expected to gain.
MOST_BY_CHANCE = 5.0

#: Rows that roughly tell means and deviations: so many, or fewer if they have more numbers.
SCALING_ROWS, LEAST_SCALING_ROWS, SCALING_NUMBERS = 1024, 128, 2**20


# Losses and weights that leave the range of numbers are noticed, and told in words of our own.
@without_numpy_warnings
def fit_stack(
    candidates: Sequence[Parameters],
    loss_name: str,
    task: Task,
    *,
    memory: Memory | None = None,
    watch: Watch | None = None,
) -> Outcome:
    """Train M candidates on the same data.

    Parameters
    ----------
    candidates : sequence of dict
        Constructor parameters. They may differ in the numbers that `stack_key` leaves out; the
        rest is read from the first. Where the data has several sets of rows, each set's candidates
        follow those of the set before, as many and of the same loss.
    loss_name : str
        A name in LOSSES.
    task : Task
    memory : Memory, optional
        With it a single pass is made that goes on where the last one stopped.
    watch : callable, optional
        Makes who is told of each pass, given what turns weights of the engine into those on the
        user's columns.
    """
    training = _Training(candidates, loss_name, task, memory)
    return own_settings(task.data.X.device, training.work, partial(_run, training, watch))


def _run(training: "_Training", watch: Watch | None) -> Outcome:
    """Train on a few columns at a time, where L1 leaves few of them, or on all."""
    if not training.is_worth_rounds or (watch is not None and len(training.candidates) > 1):
        return _run_at_once(training, watch)

    def fit(candidates: Sequence[Parameters], task: Task, told: Watch | None) -> Outcome:
        return _run_at_once(_Training(candidates, training.loss_name, task, None), told)

    task = training.task
    return Rounds(training.candidates, task, training.all_columns(), fit, watch).run()


def _run_at_once(training: "_Training", watch: Watch | None) -> Outcome:
    """Train from where it pays to start."""
    if training.kind.full_batch and not training.task.start.any():
        training.task = replace(training.task, start=_better_start(training))
    return training.run(watch)


def _better_start(training: "_Training") -> np.ndarray:
    """Weights that are nearer to the optimum than zero, where it pays to look for some first."""
    task, candidates, loss_name = training.task, training.candidates, training.loss_name
    if training.gains_from_head_start:
        classifies = loss_name in ("softmax", "logistic")
        part = head_of(task, training.shard, classifies=classifies)
        if part is not None:
            return start_from(fit_stack(roughly(candidates), loss_name, part), task)
    start = task.start
    for delta in training.larger_deltas:
        smoother = [{**c, "delta": max(delta, float(c["delta"]))} for c in roughly(candidates)]
        start = start_from(fit_stack(smoother, loss_name, replace(task, start=start)), task)
    return start


class _Training:
    """The parts of one call of the engine, put together."""

    def __init__(
        self,
        candidates: Sequence[Parameters],
        loss_name: str,
        task: Task,
        memory: Memory | None,
    ) -> None:
        self.candidates, self.loss_name, self.task = candidates, loss_name, task
        self.shared, self.data, self.generator = candidates[0], task.data, task.generator
        self.reducer = task.reducer
        self.shard = Shard.of(self.reducer, len(self.data.X))
        self.n_rows = self.shard.total
        self.dtype = task.data.X.dtype
        self.row_space: RowSpace | None = None
        self.users_data = task.data
        self._centring: Scaling | None = None
        self._is_small = False
        self.one_pass, self.memory = memory is not None, memory or Memory()
        self.moments: Moments | None = None
        self.measured: Moments | None = None
        self.stored: Tensor | None = None
        self.targets: Moments | None = None
        self.optimizer = chosen_optimizer(self.shared)
        if self.one_pass and self.optimizer == "quasi-newton":
            self.optimizer = "adam"
        self.kind = OPTIMIZERS[self.optimizer]
        self.centres = bool(self.shared["fit_intercept"])
        self.automatic = self.shared["learning_rate"] == "auto"
        if self.memory.generator is not None:
            self.generator.set_state(torch.from_numpy(self.memory.generator.copy()))

    def run(self, watch: Watch | None) -> Outcome:
        """Choose the precision and the coordinates to train in, and train."""
        if not self.kind.full_batch:
            return self._train(watch)
        self._use_double()
        self.users_data = self.data
        if self._is_wide():
            self._reduce_columns()
        try:
            return self._train(watch)
        except DependentColumns:
            self._reduce_columns()
            return self._train(watch)

    def _train(self, watch: Watch | None) -> Outcome:
        """Put everything together, train, and fold the weights back."""
        plain = self._plain_source()
        scaling = self._scaling(plain) if self.automatic else None
        self._centring = self._about_the_mean(scaling)
        source, objective = self._problem(plain, scaling)
        weights = self._starting_weights(scaling)
        rates = self._rates(source, objective)
        units = self._measure_targets(source, objective, weights)
        rule = self._rule(source, objective, weights, units)
        results, interrupt = train(
            source if objective.scaling is None else plain,
            objective,
            rule,
            weights,
            self._controls(rates, units),
            generator=self.generator if self.shared["shuffle"] else None,
            validation=self._validation_source(scaling if objective.scaling is None else None),
            watcher=None if watch is None else watch(partial(self._fold_back, scaling=scaling)),
        )
        if interrupt is not None and (self.one_pass or self.reducer.size > 1):
            raise interrupt  # half a pass is none, and no rank may be ahead of the others
        folded = [self._fold_back(result.weights, scaling) for result in results]
        if isinstance(rule, QuasiNewton):
            folded = self._finish(rule, results, folded, scaling)
        return Outcome(
            results,
            folded,
            self.optimizer,
            rates,
            interrupt,
            self._remember(rule, rates, plain.mean_weight),
        )

    def _plain_source(self) -> Source:
        """The rows to train on, as they are."""
        return self._source(self.data, self.shard, self._batch_size(), self.memory.mean_weight)

    def _problem(self, plain: Source, scaling: Scaling | None) -> tuple[Source, Objective]:
        """Standardised rows, and the objective, which may standardise weights instead of rows."""
        source = plain if scaling is None else plain.scaled(scaling)
        implicit = scaling is not None and self._leaves_rows_alone(plain, scaling)
        objective = Objective(
            self.loss,
            self._penalty(scaling),
            scaling if implicit else None,
            sets=self.data.sets,
            reducer=self.reducer,
        )
        return source, objective

    @property
    def is_worth_rounds(self) -> bool:
        """Whether L1 is likely to leave so few columns that rounds of a part of them are faster.

        Not where early stopping wants to see the way of all columns to the optimum.
        """
        shared = self.shared
        if not self.kind.full_batch or shared["early_stopping"] or shared["tol"] is None:
            return False
        many = self.data.X.shape[1] >= LEAST_COLUMNS
        return many and all(c["alpha"] and c["l1_ratio"] for c in self.candidates)

    def all_columns(self) -> AllColumns:
        """The conditions of the optimum in all columns."""
        self._use_double()
        plain = self._plain_source()
        scaling = self._scaling(plain)
        source, objective = self._problem(plain, scaling)
        return AllColumns(
            source if objective.scaling is None else plain,
            objective,
            scaling,
            np.array([float(candidate["tol"]) for candidate in self.candidates]),
            self.null_model,
        )

    def _starting_weights(self, scaling: Scaling | None) -> Tensor:
        """Where each candidate starts, on the columns to train on."""
        shape = self.task.start.shape[1:]
        alike = np.broadcast_to(self.task.start, (len(self.candidates), *shape))
        weights = torch.from_numpy(alike.copy()).to(self.data.X.device)
        if scaling is not None:
            weights = within_reach(weights, self.memory.moments, self.moments, centre=self.centres)
            weights = scaling.standardise(weights)
        weights = weights.to(self.data.X.dtype, copy=True)
        if self.kind.full_batch and not bool(weights.any()):
            weights[..., -1] = self.null_model.intercept.to(weights)
        return weights

    def _validation_source(self, scaling: Scaling | None) -> Source | None:
        """The validation rows in one batch, standardised if a `scaling` is given."""
        validation = self.task.validation
        if validation is None:
            return None
        shard = Shard.of(self.reducer, len(validation.X))
        source = self._source(validation, shard, shard.total, None)
        return source if scaling is None else source.scaled(scaling)

    def _use_double(self) -> None:
        """Train a small table in double precision: on a CPU it costs hardly more."""
        X = self.data.X
        numbers = sum(self.reducer.exchange(X.numel()))
        self._is_small = numbers <= DOUBLE_NUMBERS and X.device.type == "cpu"
        small = self._is_small and numbers * self.stack_width <= DOUBLE_WORK
        if small and X.dtype != WIDE:
            held_out = self.task.validation
            held_out = None if held_out is None else held_out.in_double()
            self.data = self.data.in_double()
            self.task = replace(self.task, data=self.data, validation=held_out)
            self.__dict__.pop("loss", None)  # its parameters are in the precision of the rows

    def _is_wide(self) -> bool:
        """Whether the optimum is sought in the span of the rows."""
        wide = self.n_rows <= self.data.X.shape[1] and not self._penalty(None).has_l1
        return wide and affords_gram(self.data.X, self.n_rows)

    def _reduce_columns(self) -> None:
        """Train in the coordinates of a basis of the rows' span."""
        task, dtype = self.task, self.data.X.dtype
        rows = self.reducer.rows(as_dense(self.data.X))
        space = self.row_space = RowSpace.of(
            rows, centre=self.centres, orthonormal=self._is_penalised
        )

        def reduced(data: Data) -> Data:
            return replace(data, X=space.rows(data.X).to(dtype))

        self.data = reduced(task.data)
        held_out = None if task.validation is None else reduced(task.validation)
        start = torch.from_numpy(task.start).to(space.basis)
        self.task = replace(
            task,
            data=self.data,
            start=space.reduce(start).numpy(force=True),
            validation=held_out,
        )

    def _finish(
        self,
        rule: QuasiNewton,
        results: list[ModelResult],
        folded: list[np.ndarray | None],
        scaling: Scaling | None,
    ) -> list[np.ndarray | None]:
        """Evaluate the models that are returned, on the user's columns and in their dtype.

        One that lost what training had gained, or that is worse than the best constant model, has
        not converged. Large tables are only evaluated where rounding may matter.
        """
        rounds = self.dtype != WIDE or rule.singular or self.row_space is not None
        rounds = (rounds and self._is_small) or self._has_large_means(scaling)
        values = np.full(len(folded), np.nan)
        if rounds:
            values = self._evaluation().values(folded)
        predicted = self._as_predicted(results, folded)
        self._judge(results, values, predicted)
        if self._is_whitened and any(result.lost_digits for result in results):
            return self._within_precision(results, folded, values, predicted)
        return folded

    def _as_predicted(
        self, results: Sequence[ModelResult], weights: Sequence[np.ndarray | None]
    ) -> np.ndarray:
        """Objectives of models as they predict, shape ``(M,)``; NaN where rounding is no matter."""
        cancels = self._may_cancel(results, weights)
        if not cancels.any():
            return np.full(len(weights), np.nan)
        return np.where(cancels, self._evaluation().as_predicted(weights), np.nan)

    def _may_cancel(
        self, results: Sequence[ModelResult], weights: Sequence[np.ndarray | None]
    ) -> np.ndarray:
        """Whether predictions may lose what training has gained, as a sample of the rows tells."""
        moments = self.measured
        if moments is None or self.row_space is not None:
            source = self._source(self.users_data, self.shard, self.n_rows, None)
            moments = source.sample(SCALING_ROWS).moments().over(self.reducer)
        size = torch.hypot(moments.mean, (moments.squares / moments.weight).sqrt())
        null_model, has_units = self.null_model, self.loss.has_units
        columns = size.numpy(force=True)
        return may_cancel(results, weights, columns, self._tols, null_model, has_units=has_units)

    def _within_precision(
        self,
        results: list[ModelResult],
        folded: list[np.ndarray | None],
        values: np.ndarray,
        predicted: np.ndarray,
    ) -> list[np.ndarray | None]:
        """Leave out coordinates that the returned coefficients cannot hold, where that is better.

        They are compared by what they are and by what they predict, whichever is worse.

        Parameters
        ----------
        results : list of ModelResult
        folded : list of ndarray
            The weights of each model, on the user's columns.
        values, predicted : ndarray of shape (M,)
            Their objectives, as of `judge`.
        """
        assert self.row_space is not None
        held = self.row_space.held(self.users_data.X, self.dtype)
        if bool(held.all()) or not bool(held.any()) or self.shared["early_stopping"]:
            return folded
        mask = torch.cat([held, held.new_ones(1)])
        some = replace(self.data, X=self.row_space.rows(self.users_data.X)[:, held])
        start = np.zeros((1, self.data.n_outputs, some.X.shape[1] + 1), dtype=self.task.start.dtype)
        task = replace(self.task, data=some, start=start, validation=None)
        others: list[np.ndarray | None] = []
        outcome = fit_stack(self.candidates, self.loss_name, task)
        if outcome.interrupt is not None:
            raise outcome.interrupt
        for weights in outcome.weights:
            if weights is None:
                others.append(None)
                continue
            whole = torch.zeros(len(weights), len(mask), dtype=WIDE, device=mask.device)
            whole[:, mask] = torch.from_numpy(weights).to(whole)
            others.append(self._rounded(self.row_space.fold_back(whole), self.row_space.mean))
        evaluation = self._evaluation()
        of_others = evaluation.values(others)
        of_predictions = evaluation.as_predicted(folded), evaluation.as_predicted(others)
        better = np.fmax(of_others, of_predictions[1]) < np.fmax(values, of_predictions[0])
        if self.dtype == WIDE:
            # What is left out can be no more than rounding of the data. It is, if leaving it out
            # costs no more than noise would have gained: then nothing has been lost.
            # Residuals are measured with these columns: those of few rows, or without noise, may
            # vanish by them, and then nothing says that they are noise.
            reached = np.array([result.loss_curve[result.best_iter - 1] for result in results])
            most = MOST_BY_CHANCE * self._gained_by_chance(int((~held).sum()), reached)
            by_chance = of_others - reached <= most
            better |= by_chance
            for i in np.flatnonzero(by_chance).tolist():
                results[i] = outcome.results[i]
        values = np.where(better, of_others, values)
        predicted = np.where(better, self._as_predicted(results, others), predicted)
        self._judge(results, values, predicted)
        return [other if b else w for b, other, w in zip(better, others, folded, strict=True)]

    def _gained_by_chance(self, columns: int, objectives: np.ndarray) -> np.ndarray:
        """What objectives are expected to gain from so many columns of noise, shape ``(M,)``.

        That is half of each parameter's share of the rows, in units of the variance of the
        residuals, or of one where raw predictions are log-odds (Wilks, 1938).
        """
        data = self.users_data
        sums = torch.full((2,), float(len(data.X)), dtype=WIDE, device=data.X.device)
        if data.weight is not None:
            sums = torch.stack([data.weight.sum(), data.weight.square().sum()])
        self.reducer.sum_(sums)
        rows = float(sums[0] ** 2 / sums[1]) / data.sets
        if self.loss.has_units:
            return columns * objectives / rows
        return np.full(len(objectives), 0.5 * columns * self.data.n_outputs / rows)

    @staticmethod
    def _has_large_means(scaling: Scaling | None) -> bool:
        """Whether rounding coefficients may change predictions at the mean."""
        if scaling is None or not len(scaling.mean):
            return False
        return bool((scaling.mean * scaling.inverse).abs().max() > LARGE_MEAN)

    @property
    def _is_penalised(self) -> bool:
        return any(candidate["alpha"] for candidate in self.candidates)

    @property
    def _is_whitened(self) -> bool:
        """Whether the columns to train on are orthogonal."""
        return self.row_space is not None and not self._is_penalised

    def _may_reduce(self) -> bool:
        """Whether dependent columns can be had out of the way by a factorisation of the rows.

        Not where early stopping looks at the way to the optimum, which other coordinates change.
        """
        if self.shared["early_stopping"]:
            return False
        affordable = self.data.X.numel() <= MOST_FACTORED and affords_gram(self.data.X)
        reduced = self.row_space is not None
        has_l1 = self._penalty(None).has_l1
        return affordable and not (has_l1 or reduced) and self.reducer.size == 1

    def _evaluation(self) -> Evaluation:
        """What tells the objectives of weights on the user's columns."""
        data = self.users_data
        objective = Objective(self.loss, self._penalty(None, data))
        return Evaluation(data, objective, self._centring, self._rows_of, self.reducer)

    def _judge(
        self, results: Sequence[ModelResult], values: np.ndarray, predicted: np.ndarray
    ) -> None:
        """Say of each model whether the weights that are returned keep what it has gained."""
        null_model, has_units = self.null_model, self.loss.has_units
        judge(results, values, predicted, self._tols, null_model, self.dtype, has_units=has_units)

    @property
    def _tols(self) -> list[float]:
        return [float(candidate["tol"] or 0.0) for candidate in self.candidates]

    @property
    def state_of(self) -> str:
        """Whose state ``partial_fit`` keeps: another rule, or other columns, start afresh."""
        return f"{self.optimizer} on standardised columns" if self.automatic else self.optimizer

    @property
    def averages(self) -> bool:
        """Whether the model is the mean of the steps, which may then be longer."""
        return self.one_pass and self.automatic and self.optimizer == "adam"

    @property
    def goes_on(self) -> bool:
        """Whether an earlier call of ``partial_fit`` left a state of the same rule."""
        return self.memory.passes > 0 and self.memory.optimizer == self.state_of

    @cached_property
    def loss(self) -> Loss:
        """The loss of one set's models."""
        n_models = len(self.candidates) // self.data.sets
        return make_loss(self.loss_name, self._stacked("delta")[:n_models])

    @property
    def gains_from_head_start(self) -> bool:
        """Whether a share of the rows is enough to tell roughly where the optimum is.

        Not where a single pass ends there, nor where early stopping wants to see the whole way.
        """
        enough = self.kind.full_batch and enough_rows(self.data, self.n_rows)
        if not enough or self.shared["early_stopping"]:
            return False
        return not self.loss.constant_curvature or self._penalty(None).has_l1

    @property
    def larger_deltas(self) -> list[float]:
        """Huber's delta where the optimum is sought first, if it is small beside the targets.

        The loss is then nearly the absolute error, with a kink at each row; the optimum moves
        steadily as delta shrinks from where the loss is nearly squared error.
        """
        if self.loss_name != "huber" or self.shared["early_stopping"]:
            return []
        least = min(float(candidate["delta"]) for candidate in self.candidates)
        target = self.data.target.to(WIDE)
        centre = rough_median(target, self.reducer)
        spread = float(rough_median((target - centre).abs(), self.reducer).max())
        steps = int(np.floor(np.log10(max(spread, least) / least)))
        return [least * 10.0**i for i in range(steps, 0, -1)] if steps > 1 else []

    def _batch_size(self) -> int:
        """Rows of a batch, over all sets and ranks."""
        if self.kind.full_batch:
            return self.n_rows
        return self.data.sets * batch_rows(self.shared, self.n_rows // self.data.sets)

    @property
    def work(self) -> int:
        """Multiply-adds of a step, with the rows of one set."""
        rows = self._batch_size() // self.data.sets
        return work_of_batch(self.data.X, rows, self.stack_width, full_batch=self.kind.full_batch)

    @property
    def stack_width(self) -> int:
        """Rows of weights that each row of X is multiplied with."""
        return len(self.candidates) // self.data.sets * self.data.n_outputs

    def _source(
        self, data: Data, shard: Shard, batch_size: int, mean_weight: float | None
    ) -> Source:
        of_rows = partial(self._rows_of, data)
        if self.reducer.size == 1:
            return of_rows(batch_size=batch_size, mean_weight=mean_weight)
        if mean_weight is None:
            mean_weight = shard.mean(self.reducer, mean_of(data.weight))
        return ShardedSource.of(partial(of_rows, mean_weight=mean_weight), shard, batch_size)

    def _rows_of(self, data: Data, *, batch_size: int, mean_weight: float | None) -> Source:
        """Batches of the rows of this process."""
        return as_source(
            data.X,
            data.target,
            data.weight,
            n_outputs=data.n_outputs,
            fit_intercept=self.centres,
            stack_width=self.stack_width,
            sets=data.sets,
            batch_size=batch_size,
            mean_weight=mean_weight,
        )

    def _scaling(self, source: Source) -> Scaling:
        moments = self.measured = self._moments(source)
        scaling = moments.scaling(centre=self.centres, dtype=self.data.X.dtype)
        scaling = self._in_range(source, moments, scaling)
        if not self.kind.full_batch:
            scaling = scaling.damped(float(self._penalty(None).l2[0, 0, 0]))
            self.stored = self.data.stored_weight(self.reducer)
            if self.memory.stored is not None:
                self.stored += shared(self.memory.stored).to(self.stored)
            return scaling.tempered(self.stored[:-1] / self.stored[-1])
        # Where the span of the rows takes too much memory, steps in it need the user's own units.
        wide = source.n_rows < source.n_columns and not source.affords_gram
        return scaling.centring() if wide else scaling

    def _moments(self, source: Source) -> Moments:
        """Means and deviations of the columns, to standardise by.

        A rule with a preconditioner only needs them roughly, and is content with a sample, unless
        that leaves a column looking constant.
        """
        if self.kind.full_batch:
            rows = min(SCALING_ROWS, SCALING_NUMBERS // source.n_columns)
            sample = source.sample(max(rows, LEAST_SCALING_ROWS)).moments().over(self.reducer)
            if bool(((sample.squares > 0) & sample.squares.isfinite()).all()):
                return sample
        moments = Moments.total(chunk.moments() for chunk in source.chunks()).over(self.reducer)
        self.moments = go_on(self.memory.moments, moments)
        return self.moments

    def _in_range(self, source: Source, moments: Moments, scaling: Scaling) -> Scaling:
        """The scaling with columns whose squares leave the range of floating point numbers."""
        odd = (moments.squares == 0) | ~moments.squares.isfinite()
        if not bool(odd.any()):
            return scaling
        largest = torch.zeros_like(moments.squares)
        for chunk in source.chunks():
            largest = torch.maximum(largest, chunk.largest().to(WIDE))
        largest = self.reducer.rows(largest.unsqueeze(0)).amax(dim=0)
        odd &= (largest > 0) & ((largest < 1.0 / MOST_SQUARED) | (largest > MOST_SQUARED))
        if not bool(odd.any()):
            return scaling
        power = torch.where(odd, torch.exp2(-torch.frexp(largest).exponent.to(WIDE)), 1.0)
        zero = torch.zeros_like(power)
        smaller = source.scaled(Scaling(zero, power, scaling.dtype))
        again = Moments.total(chunk.moments() for chunk in smaller.chunks()).over(self.reducer)
        inside = again.scaling(centre=self.centres, dtype=scaling.dtype)
        inverse = torch.where(odd, inside.inverse.to(WIDE) * power, scaling.inverse)
        beyond = odd & ~inverse.isfinite()
        if bool(beyond.any()):
            raise ValueError(
                f"A feature of X has no number above {float(largest[beyond].max()):.3g} in "
                "magnitude: its coefficient would exceed the range of float64. Pass X in other "
                "units."
            )
        mean = torch.where(odd, inside.mean.to(WIDE) / power, scaling.mean)
        return Scaling(mean, inverse, scaling.dtype)

    def _about_the_mean(self, scaling: Scaling | None) -> Scaling | None:
        """The centre of dense rows, on the user's columns; None for others."""
        if scaling is None or not self.centres or isinstance(self.users_data.X, SparseRows):
            return None
        mean = scaling.mean if self.row_space is None else self.row_space.mean
        return Scaling(mean, torch.ones_like(mean), WIDE)

    def _leaves_rows_alone(self, source: Source, scaling: Scaling) -> bool:
        """Whether to standardise the weights instead of the rows, which spares a copy a pass.

        Not where the rows are copied anyway, nor where means are so large that digits would go.
        """
        large = any(self.reducer.exchange(not source.fits_chunk))
        return self.kind.full_batch and large and scaling.is_mild

    def _stacked(self, name: str) -> Tensor:
        values = [float(candidate.get(name, 1.0)) for candidate in self.candidates]
        return stack(values, dtype=self.data.X.dtype, device=self.data.X.device)

    def _penalty(self, scaling: Scaling | None, data: Data | None = None) -> ElasticNet:
        X = (data or self.data).X
        factor = torch.ones(X.shape[1] + 1, dtype=X.dtype, device=X.device)
        if scaling is not None:
            factor[:-1] = scaling.inverse
        factor[-1] = 0.0
        return ElasticNet(self._stacked("alpha"), self._stacked("l1_ratio"), factor)

    def _rates(self, source: Source, objective: Objective) -> np.ndarray:
        """Learning rates, shape ``(M,)``."""
        if not self.automatic:
            return np.array([float(candidate["learning_rate"]) for candidate in self.candidates])
        if self.kind.full_batch:
            return np.ones(len(self.candidates))
        earlier, calls = self.memory.rates if self.goes_on else None, self.memory.passes
        if earlier is not None and calls & (calls - 1):  # measured when calls have doubled
            return earlier
        momentum = np.array([float(candidate["momentum"]) for candidate in self.candidates])
        rates = safe_rates(self.optimizer, source, objective, momentum)
        rates *= PASS_SHARE if self.averages else 1.0
        return rates if earlier is None else np.minimum(rates, earlier)

    def _measure_targets(
        self, source: Source, objective: Objective, weights: Tensor
    ) -> np.ndarray | None:
        """Where Adam's rates are ours, begin near the targets; return the units of the rates.

        Its steps are as long as its rate, so it would take as many steps from zero to the targets'
        mean as that is rates away, and outputs in other units would each need a rate of their own.
        It begins one unit short of the mean, since a gradient of zero would be all rounding, which
        Adam makes as large as any other.
        """
        if not self.automatic or self.optimizer != "adam" or not objective.loss.has_units:
            return None
        self.targets = go_on(
            self.memory.targets, target_moments(source, objective.loss, self.reducer)
        )
        mean, size = target_units(self.targets)
        if self.centres and not self.goes_on and not bool(weights.any()):
            weights[..., -1] = torch.from_numpy(mean - size).to(weights)
        return size

    def _rule(
        self, source: Source, objective: Objective, weights: Tensor, units: np.ndarray | None
    ) -> Rule:
        setup = Setup(
            source=source,
            objective=objective,
            weights=weights,
            momentum=self._stacked("momentum"),
            nesterov=bool(self.shared["nesterov"]),
            betas=tuple(self.shared["betas"]),
            tolerance=torch.tensor(self._tols, dtype=WIDE, device=weights.device),
            constant_loss=self.constant_loss if self.kind.full_batch else None,
            constant_weights=self._constant_weights(weights) if self.kind.full_batch else None,
            units=None if units is None else torch.from_numpy(units).to(weights).view(1, -1, 1),
            refuses_dependent=self.kind.full_batch and self._may_reduce(),
        )
        rule = (AveragedAdam if self.averages else self.kind)(setup)
        if self.goes_on:
            assert isinstance(rule, TextbookRule)
            rule.load_state(self.memory.rule)
        return rule

    @cached_property
    def null_model(self) -> NullModel:
        """The best constant model of each candidate, on the rows of its set."""
        data = self.data
        weight = torch.ones(len(data.X), dtype=data.X.dtype, device=data.X.device)
        weight = weight if data.weight is None else data.weight
        of_sets = zip(data.target.chunk(data.sets), weight.chunk(data.sets), strict=True)
        models = [
            self.loss.null_model(target, weight, data.n_outputs, self.centres, self.reducer)
            for target, weight in of_sets
        ]
        n_models = len(self.candidates) // data.sets
        return NullModel(
            torch.cat([model.intercept.expand(n_models, -1) for model in models]),
            torch.cat([model.loss.expand(n_models) for model in models]).to(data.X.device),
        )

    @property
    def constant_loss(self) -> Tensor:
        """Objective of the best constant model, shape ``(M,)``."""
        return self.null_model.loss

    def _constant_weights(self, weights: Tensor) -> Tensor:
        """The best constant model as weights like these."""
        constant = torch.zeros_like(weights)
        constant[..., -1] = self.null_model.intercept.to(weights)
        return constant

    def _controls(self, rates: np.ndarray, units: np.ndarray | None) -> Controls:
        shared = self.shared
        early = bool(shared["early_stopping"])
        threshold = constant_loss = None
        judges = early or not self.kind.full_batch
        if judges and shared["tol"] is not None and not self.one_pass:
            constant_loss = self.constant_loss.numpy(force=True)
            threshold = np.array([float(candidate["tol"]) for candidate in self.candidates])
            threshold *= 1.0 if self._chooses_rates else constant_loss
        patience = int(shared["n_iter_no_change"])
        if self._chooses_rates:
            steps = -(-self.n_rows // self._batch_size())
            patience = max(patience, -(-LEAST_STEPS // steps))
        return Controls(
            max_iter=1 if self.one_pass else int(shared["max_iter"]),
            rate=rates * (1 + self.memory.passes) ** -FALLING if self.averages else rates,
            units=units,
            floor=AUTOMATIC_FLOOR * rates if self.automatic else ADAPTIVE_FLOOR,
            constant_loss=None if self.automatic else constant_loss,
            schedule=self._schedule(),
            horizon=int(shared["max_iter"]),
            first_pass=self.memory.passes,
            threshold=threshold,
            patience=patience,
            relative_to_gain=constant_loss if self._chooses_rates else None,
            early_stopping=early,
            keeps_best=self._chooses_rates,
        )

    @property
    def _chooses_rates(self) -> bool:
        """Whether a plateau of the loss ends training with rates that are ours."""
        early = bool(self.shared["early_stopping"])
        return self.automatic and not (self.kind.full_batch or self.one_pass or early)

    def _schedule(self) -> str:
        if self.kind.full_batch:
            return "constant"
        # An automatic rate has to shrink over the calls of partial_fit, which know no plateau.
        if self.one_pass and self.automatic:
            return "constant" if self.averages else "invscaling"
        # It has no noise floor to stay on either: its rate falls at each plateau.
        if self.automatic and self.shared["schedule"] == "constant":
            return "adaptive"
        return str(self.shared["schedule"])

    def _fold_back(self, weights: Tensor | None, scaling: Scaling | None) -> np.ndarray | None:
        if weights is None:
            return None
        if scaling is None:
            return weights.to(self.dtype).numpy(force=True).copy()
        folded = scaling.fold_back(weights.to(scaling.mean.device))
        mean = scaling.mean.to(WIDE)
        if self.row_space is not None:
            folded, mean = self.row_space.fold_back(folded), self.row_space.mean
        return self._rounded(folded, mean)

    def _rounded(self, weights: Tensor, mean: Tensor) -> np.ndarray:
        """Weights on the user's columns, of this `mean`, in the dtype that is returned."""
        coarse = rounded(weights, mean, self.dtype, fit_intercept=self.centres)
        return coarse.numpy(force=True)

    def _remember(self, rule: Rule, rates: np.ndarray, mean_weight: float) -> Memory:
        if not self.one_pass:
            return Memory()
        assert isinstance(rule, TextbookRule)
        return Memory(
            passes=self.memory.passes + 1,
            generator=self.generator.get_state().numpy(),
            rule={name: value.copy() for name, value in rule.state().items()},
            moments=kept(self.moments),
            stored=None if self.stored is None else self.stored.numpy(force=True),
            targets=kept(self.targets),
            rates=rates if self.automatic else None,
            mean_weight=mean_weight,
            optimizer=self.state_of,
        )
