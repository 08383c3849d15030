"""From a user's parameters and checked data to one call of the engine, and back.

Candidates are lists of length M: a single fit is a list of one.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from skorchless.engine import Controls, Watcher, train
from skorchless.estimators.candidates import Parameters, batch_rows, chosen_optimizer
from skorchless.estimators.data import Data
from skorchless.estimators.head_start import enough_rows, head_of, roughly, start_from
from skorchless.estimators.memory import Memory, go_on, kept, within_reach
from skorchless.estimators.settings import own_settings, work_of_batch
from skorchless.estimators.task import Outcome, Task
from skorchless.losses import Loss, make_loss
from skorchless.objective import Objective
from skorchless.optimizers import (
    OPTIMIZERS,
    AveragedAdam,
    Rule,
    Setup,
    TextbookRule,
    safe_rates,
    target_moments,
    target_units,
)
from skorchless.optimizers.schedules import ADAPTIVE_FLOOR
from skorchless.penalties import ElasticNet
from skorchless.reducer import Shard
from skorchless.sources import Moments, Scaling, ShardedSource, Source, as_source
from skorchless.sources.matrix_source import mean_of
from skorchless.stack import WIDE, stack

FoldBack = Callable[[Tensor | None], np.ndarray | None]
Watch = Callable[[FoldBack], Watcher]

#: Share of an automatic rate below which a falling one has fallen far enough.
AUTOMATIC_FLOOR = 1e-3

#: Steps of ``partial_fit``, whose mean counts, are so many times as long as a fit's, and fall with
#: this power of the number of calls.
PASS_SHARE, FALLING = 3.0, 0.25

#: Rows that roughly tell means and deviations.
SCALING_ROWS = 1024


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
    with own_settings(task.data.X.device, training.work):
        if training.gains_from_head_start and not task.start.any():
            head = fit_stack(roughly(candidates), loss_name, head_of(task, training.shard))
            training.task = replace(task, start=start_from(head, task))
        return training.run(watch)


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
        self.one_pass, self.memory = memory is not None, memory or Memory()
        self.moments: Moments | None = None
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
        """Put everything together, train, and fold the weights back."""
        mean_weight = self.memory.mean_weight
        plain = self._source(self.data, self.shard, self._batch_size(), mean_weight)
        scaling = self._scaling(plain) if self.automatic else None
        source = plain if scaling is None else plain.scaled(scaling)
        implicit = scaling is not None and self._leaves_rows_alone(plain, scaling)
        objective = Objective(
            self.loss,
            self._penalty(scaling),
            scaling if implicit else None,
            sets=self.data.sets,
            reducer=self.reducer,
        )
        validation, shape = self.task.validation, self.task.start.shape[1:]
        alike = np.broadcast_to(self.task.start, (len(self.candidates), *shape))
        weights = torch.from_numpy(alike.copy()).to(self.data.X.device)
        if scaling is not None:
            weights = within_reach(weights, self.memory.moments, self.moments, centre=self.centres)
            weights = scaling.standardise(weights)
        weights = weights.to(self.data.X.dtype, copy=True)
        rates = self._rates(source, objective)
        units = self._measure_targets(source, objective, weights)
        rule = self._rule(source, objective, weights, units)
        validation_source = None
        if validation is not None:
            shard = Shard.of(self.reducer, len(validation.X))
            validation_source = self._source(validation, shard, shard.total, None)
            if scaling is not None and not implicit:
                validation_source = validation_source.scaled(scaling)

        results, interrupt = train(
            plain if implicit else source,
            objective,
            rule,
            weights,
            self._controls(rates, units),
            generator=self.generator if self.shared["shuffle"] else None,
            validation=validation_source,
            watcher=None if watch is None else watch(partial(self._fold_back, scaling=scaling)),
        )
        folded = [self._fold_back(result.weights, scaling) for result in results]
        return Outcome(
            results,
            folded,
            self.optimizer,
            rates,
            interrupt,
            self._remember(rule, rates, plain.mean_weight),
        )

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
        of_rows = partial(
            as_source,
            data.X,
            data.target,
            data.weight,
            n_outputs=data.n_outputs,
            fit_intercept=self.centres,
            stack_width=self.stack_width,
            sets=data.sets,
        )
        if self.reducer.size == 1:
            return of_rows(batch_size=batch_size, mean_weight=mean_weight)
        if mean_weight is None:
            mean_weight = shard.mean(self.reducer, mean_of(data.weight))
        return ShardedSource.of(partial(of_rows, mean_weight=mean_weight), shard, batch_size)

    def _scaling(self, source: Source) -> Scaling:
        scaling = self._moments(source).scaling(centre=self.centres, dtype=self.data.X.dtype)
        if not self.kind.full_batch:
            scaling = scaling.damped(float(self._penalty(None).l2[0, 0, 0]))
            self.stored = self.data.stored_weight(self.reducer)
            if self.memory.stored is not None:
                self.stored += torch.from_numpy(self.memory.stored).to(self.stored)
            return scaling.tempered(self.stored[:-1] / self.stored[-1])
        # With fewer rows than columns the least norm is meant in the user's own units.
        return scaling.centring() if source.n_rows <= source.n_columns else scaling

    def _moments(self, source: Source) -> Moments:
        """Means and deviations of the columns, to standardise by.

        A rule with a preconditioner only needs them roughly, and is content with a sample, unless
        that leaves a column looking constant.
        """
        if self.kind.full_batch:
            sample = source.sample(SCALING_ROWS).moments().over(self.reducer)
            if bool((sample.squares > 0).all()):
                return sample
        moments = Moments.total(chunk.moments() for chunk in source.chunks()).over(self.reducer)
        self.moments = go_on(self.memory.moments, moments)
        return self.moments

    def _leaves_rows_alone(self, source: Source, scaling: Scaling) -> bool:
        """Whether to standardise the weights instead of the rows, which spares a copy a pass.

        Not where the rows are copied anyway, nor where means are so large that digits would go.
        """
        large = any(self.reducer.exchange(not source.fits_chunk))
        return self.kind.full_batch and large and scaling.is_mild

    def _stacked(self, name: str) -> Tensor:
        values = [float(candidate.get(name, 1.0)) for candidate in self.candidates]
        return stack(values, dtype=self.data.X.dtype, device=self.data.X.device)

    def _penalty(self, scaling: Scaling | None) -> ElasticNet:
        X = self.data.X
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
        self.targets = go_on(self.memory.targets, target_moments(source, self.reducer))
        mean, size = target_units(self.targets)
        if self.centres and not self.goes_on and not bool(weights.any()):
            weights[..., -1] = torch.from_numpy(mean - size).to(weights)
        return size

    def _rule(
        self, source: Source, objective: Objective, weights: Tensor, units: np.ndarray | None
    ) -> Rule:
        tolerance = [float(candidate["tol"] or 0.0) for candidate in self.candidates]
        setup = Setup(
            source=source,
            objective=objective,
            weights=weights,
            momentum=self._stacked("momentum"),
            nesterov=bool(self.shared["nesterov"]),
            betas=tuple(self.shared["betas"]),
            tolerance=torch.tensor(tolerance, dtype=WIDE, device=weights.device),
            constant_loss=self.constant_loss if self.kind.full_batch else None,
            units=None if units is None else torch.from_numpy(units).to(weights).view(1, -1, 1),
        )
        rule = (AveragedAdam if self.averages else self.kind)(setup)
        if self.goes_on:
            assert isinstance(rule, TextbookRule)
            rule.load_state(self.memory.rule)
        return rule

    @cached_property
    def constant_loss(self) -> Tensor:
        """Objective of the best constant model, shape ``(M,)``."""
        data = self.data
        weight = torch.ones(len(data.X), dtype=data.X.dtype, device=data.X.device)
        weight = weight if data.weight is None else data.weight
        of_sets = zip(data.target.chunk(data.sets), weight.chunk(data.sets), strict=True)
        values = [
            self.loss.constant_value(target, weight, data.n_outputs, self.centres, self.reducer)
            for target, weight in of_sets
        ]
        n_models = len(self.candidates) // data.sets
        return torch.cat([value.to(data.X.device).expand(n_models) for value in values])

    def _controls(self, rates: np.ndarray, units: np.ndarray | None) -> Controls:
        shared = self.shared
        early = bool(shared["early_stopping"])
        threshold = None
        judges = early or not self.kind.full_batch
        if judges and shared["tol"] is not None and not self.one_pass:
            tol = np.array([float(candidate["tol"]) for candidate in self.candidates])
            threshold = tol * self.constant_loss.numpy(force=True)
        judges_rate = threshold is not None and not self.automatic
        return Controls(
            max_iter=1 if self.one_pass else int(shared["max_iter"]),
            rate=rates * (1 + self.memory.passes) ** -FALLING if self.averages else rates,
            units=units,
            floor=AUTOMATIC_FLOOR * rates if self.automatic else ADAPTIVE_FLOOR,
            constant_loss=self.constant_loss.numpy(force=True) if judges_rate else None,
            schedule=self._schedule(),
            horizon=int(shared["max_iter"]),
            first_pass=self.memory.passes,
            threshold=threshold,
            patience=int(shared["n_iter_no_change"]),
            early_stopping=early,
        )

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
        folded = weights if scaling is None else scaling.fold_back(weights)
        return folded.to(weights.dtype).numpy(force=True).copy()

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
