"""The problem of one fit: candidates, data, and what follows from these alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Self

import numpy as np
import torch
from torch import Tensor

from skorchless.engine import ModelResult
from skorchless.estimators.data import Data
from skorchless.estimators.memory import Memory
from skorchless.estimators.parameters import Parameters, batch_rows, chosen_optimizer
from skorchless.estimators.runtime import work_of_batch
from skorchless.losses import Loss, NullModel, make_loss
from skorchless.objective import Objective
from skorchless.optimizers import OPTIMIZERS, Rule
from skorchless.penalties import ElasticNet
from skorchless.reducer import ONE_PROCESS, Reducer, Shard
from skorchless.sources import LocalSource, Scaling, ShardedSource, Source, as_source, mean_of
from skorchless.stack import stack


@dataclass(eq=False)
class Task:
    """What to train on and where to start.

    Attributes
    ----------
    data : Data
        On the device to train on.
    start : ndarray of shape (M, K, D + 1), or (1, K, D + 1) if all start alike
        Weights on the user's columns.
    generator : torch.Generator
    validation : Data, optional
    reducer : Reducer
        Who else trains the same model on rows of their own.
    """

    data: Data
    start: np.ndarray
    generator: torch.Generator
    validation: Data | None = None
    reducer: Reducer = ONE_PROCESS

    @classmethod
    def side_by_side(cls, tasks: Sequence["Task"], n_models: int) -> Self:
        """Several tasks of `n_models` models each, and with the same seed, as the sets of one."""
        shape = tasks[0].start.shape[1:]
        start = np.concatenate([np.broadcast_to(task.start, (n_models, *shape)) for task in tasks])
        held_out = [task.validation for task in tasks if task.validation is not None]
        return cls(
            Data.side_by_side([task.data for task in tasks]),
            start,
            tasks[0].generator,
            Data.side_by_side(held_out) if held_out else None,
        )


@dataclass(eq=False)
class Outcome:
    """What came of it, one entry a candidate, weights on the user's columns."""

    results: list[ModelResult]
    weights: list[np.ndarray | None]
    optimizer: str
    rates: np.ndarray
    interrupt: KeyboardInterrupt | None
    memory: Memory

    def failure(self, model: int, passes_before: int = 0) -> ValueError | None:
        """What to tell whoever wanted this model, if its loss or they left the finite numbers."""
        result, weights = self.results[model], self.weights[model]
        if not result.diverged and not result.blew_up:
            if weights is None or np.isfinite(weights).all():
                return None
            return ValueError(
                f"The coefficients exceed the range of {weights.dtype}: y is too large compared "
                "with X. Pass X or y in other units, or raise alpha."
            )
        if self.optimizer == "quasi-newton":
            return ValueError(
                "The loss is infinite or NaN at the initial coefficients. Check coef_init, and "
                "whether X, y or alpha are too large."
            )
        what = "became infinite or NaN in" if result.diverged else "kept rising until"
        return ValueError(
            f"The loss {what} epoch {result.n_iter + passes_before}: it diverges with a learning "
            f"rate of {result.rate:.6g} here. Use a smaller learning_rate or learning_rate='auto', "
            "or put a StandardScaler in front of the estimator."
        )


@dataclass(frozen=True, eq=False)
class Problem:
    """Candidates that train on the same data; a single fit has one candidate.

    Attributes
    ----------
    candidates : sequence of dict
        Constructor parameters. They may differ in the numbers that `stack_key` leaves out; the rest
        is read from the first. If the data has several sets of rows, the candidates of each set
        follow those of the set before, as many and with the same loss.
    loss_name : str
        A name in LOSSES.
    task : Task
    memory : Memory, optional
        State of ``partial_fit``. With it a single pass is made that continues from the last one.
    """

    candidates: Sequence[Parameters]
    loss_name: str
    task: Task
    memory: Memory | None = None

    @property
    def shared(self) -> Parameters:
        """Return the parameters that all candidates have in common."""
        return self.candidates[0]

    @property
    def data(self) -> Data:
        """Return the training data."""
        return self.task.data

    @property
    def reducer(self) -> Reducer:
        """Return what adds up over the processes."""
        return self.task.reducer

    def on(self, task: Task) -> "Problem":
        """Return the same candidates with another task."""
        return replace(self, task=task)

    @property
    def is_partial_fit(self) -> bool:
        """Whether only one pass is made."""
        return self.memory is not None

    @property
    def optimizer(self) -> str:
        """Return the name of the optimizer, in OPTIMIZERS."""
        chosen = chosen_optimizer(self.shared)
        return "adam" if self.is_partial_fit and chosen == "quasi-newton" else chosen

    @property
    def optimizer_class(self) -> type[Rule]:
        """Return the class of the optimizer."""
        return OPTIMIZERS[self.optimizer]

    @property
    def full_batch(self) -> bool:
        """Whether the optimizer makes one step per pass."""
        return self.optimizer_class.full_batch

    @property
    def fit_intercept(self) -> bool:
        """Whether the models have an intercept."""
        return bool(self.shared["fit_intercept"])

    @property
    def early_stopping(self) -> bool:
        """Whether the validation loss ends training, so that the way to the optimum matters."""
        return bool(self.shared["early_stopping"])

    @property
    def auto_rate(self) -> bool:
        """Whether the learning rate is chosen here, and the columns are scaled."""
        return bool(self.shared["learning_rate"] == "auto")

    @property
    def ends_on_plateau(self) -> bool:
        """Whether rates that are chosen here fall, and training ends, when the loss stagnates."""
        steps_per_batch = not self.full_batch and not self.is_partial_fit
        return self.auto_rate and steps_per_batch and not self.early_stopping

    @property
    def has_penalty(self) -> bool:
        """Whether any candidate has one."""
        return any(candidate["alpha"] for candidate in self.candidates)

    @property
    def tols(self) -> np.ndarray:
        """Return ``tol`` of each candidate, zero for None."""
        return np.array([float(candidate["tol"] or 0.0) for candidate in self.candidates])

    @cached_property
    def shard(self) -> Shard:
        """Return the place of this process's rows among those of all."""
        return Shard.of(self.reducer, len(self.data.X))

    @property
    def n_rows(self) -> int:
        """Return the number of rows of all processes."""
        return self.shard.total

    @property
    def n_models(self) -> int:
        """Return the number of models of each set of rows."""
        return len(self.candidates) // self.data.sets

    @property
    def batch_size(self) -> int:
        """Return the rows of a batch, over all sets and processes."""
        if self.full_batch:
            return self.n_rows
        return self.data.sets * batch_rows(self.shared, self.n_rows // self.data.sets)

    @property
    def stack_width(self) -> int:
        """Return the rows of weights that each row of X is multiplied with."""
        return self.n_models * self.data.n_outputs

    @property
    def work(self) -> int:
        """Return the multiply-adds of a step, with the rows of one set."""
        rows = self.batch_size // self.data.sets
        return work_of_batch(self.data.X, rows, self.stack_width, full_batch=self.full_batch)

    def stacked(self, name: str) -> Tensor:
        """Return a parameter of all candidates, 1 where they lack it, shape ``(M, 1, 1)``."""
        values = [float(candidate.get(name, 1.0)) for candidate in self.candidates]
        return stack(values, dtype=self.data.X.dtype, device=self.data.X.device)

    @cached_property
    def loss(self) -> Loss:
        """Return the loss of the models of one set."""
        return make_loss(self.loss_name, self.stacked("delta")[: self.n_models])

    def penalty(self, scaling: Scaling | None = None) -> ElasticNet:
        """Return the penalty on weights on the user's columns, or on standardised ones."""
        X = self.data.X
        factor = torch.ones(X.shape[1] + 1, dtype=X.dtype, device=X.device)
        if scaling is not None:
            factor[:-1] = scaling.inverse
        factor[-1] = 0.0
        return ElasticNet(self.stacked("alpha"), self.stacked("l1_ratio"), factor)

    @cached_property
    def null_model(self) -> NullModel:
        """Return the best constant model of each candidate, on the rows of its set."""
        data = self.data
        weight = torch.ones(len(data.X), dtype=data.X.dtype, device=data.X.device)
        weight = weight if data.weight is None else data.weight
        of_sets = zip(data.target.chunk(data.sets), weight.chunk(data.sets), strict=True)
        models = [
            self.loss.null_model(target, weight, data.n_outputs, self.fit_intercept, self.reducer)
            for target, weight in of_sets
        ]
        return NullModel(
            torch.cat([model.intercept.expand(self.n_models, -1) for model in models]),
            torch.cat([model.loss.expand(self.n_models) for model in models]).to(data.X.device),
        )

    def objective(self, scaling: Scaling | None, *, scales_weights: bool) -> Objective:
        """Return the objective of weights on the user's columns, or on standardised ones.

        With `scales_weights` the rows hold the user's columns all the same.
        """
        return Objective(
            self.loss,
            self.penalty(scaling),
            scaling if scales_weights else None,
            sets=self.data.sets,
            reducer=self.reducer,
        )

    def source(self) -> Source:
        """Return the training rows in batches, on the user's columns."""
        mean_weight = None if self.memory is None else self.memory.mean_weight
        return self._source(self.data, self.shard, self.batch_size, mean_weight)

    def full_batch_source(self) -> Source:
        """Return the training rows in one batch, on the user's columns."""
        return self._source(self.data, self.shard, self.n_rows, None)

    def validation_source(self) -> Source | None:
        """Return the validation rows in one batch, if there are any."""
        validation = self.task.validation
        if validation is None:
            return None
        shard = Shard.of(self.reducer, len(validation.X))
        return self._source(validation, shard, shard.total, None)

    def _source(
        self, data: Data, shard: Shard, batch_size: int, mean_weight: float | None
    ) -> Source:
        of_rows = partial(self.rows_of, data)
        if self.reducer.size == 1:
            return of_rows(batch_size=batch_size, mean_weight=mean_weight)
        if mean_weight is None:
            mean_weight = shard.mean(self.reducer, mean_of(data.weight))
        return ShardedSource.of(partial(of_rows, mean_weight=mean_weight), shard, batch_size)

    def rows_of(self, data: Data, *, batch_size: int, mean_weight: float | None) -> LocalSource:
        """Return rows of this process in batches."""
        return as_source(
            data.X,
            data.target,
            data.weight,
            n_outputs=data.n_outputs,
            fit_intercept=self.fit_intercept,
            stack_width=self.stack_width,
            sets=data.sets,
            batch_size=batch_size,
            mean_weight=mean_weight,
        )

    def in_double(self) -> "Problem":
        """Return the same problem in double precision."""
        validation = self.task.validation
        validation = None if validation is None else validation.in_double()
        return self.on(replace(self.task, data=self.data.in_double(), validation=validation))
