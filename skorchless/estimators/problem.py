"""The problem of one fit: candidates, data, and what follows from these alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Self

import numpy as np
import torch
from torch import Tensor

from skorchless.data import BatchLoader, LocalLoader, Scaling, ShardedLoader, make_loader, mean_of
from skorchless.distributed import SINGLE_PROCESS, Communicator, Shard
from skorchless.estimators.dataset import Dataset
from skorchless.estimators.memory import Memory
from skorchless.estimators.parameters import Parameters, batch_rows, chosen_optimizer
from skorchless.estimators.runtime import work_of_batch
from skorchless.losses import Loss, NullModel, make_loss
from skorchless.objective import LinearObjective
from skorchless.optimizers import OPTIMIZERS, Optimizer
from skorchless.penalties import ElasticNet
from skorchless.stack import stack
from skorchless.training import TrainingResult


@dataclass(eq=False)
class Task:
    """What to train on and where to start.

    Attributes
    ----------
    data : Dataset
        On the device to train on.
    start : ndarray of shape (M, K, D + 1), or (1, K, D + 1) if all start alike
        Weights on the user's columns.
    generator : torch.Generator
    validation : Dataset, optional
    comm : Communicator
        Who else trains the same model on rows of their own.
    """

    data: Dataset
    start: np.ndarray
    generator: torch.Generator
    validation: Dataset | None = None
    comm: Communicator = SINGLE_PROCESS

    @classmethod
    def side_by_side(cls, tasks: Sequence["Task"], n_models: int) -> Self:
        """Several tasks of `n_models` models each, and with the same seed, as the sets of one."""
        shape = tasks[0].start.shape[1:]
        start = np.concatenate([np.broadcast_to(task.start, (n_models, *shape)) for task in tasks])
        held_out = [task.validation for task in tasks if task.validation is not None]
        return cls(
            Dataset.side_by_side([task.data for task in tasks]),
            start,
            tasks[0].generator,
            Dataset.side_by_side(held_out) if held_out else None,
        )


@dataclass(eq=False)
class FitResult:
    """The trained candidates, one entry for each, with weights on the user's columns."""

    results: list[TrainingResult]
    weights: list[np.ndarray | None]
    optimizer: str
    rates: np.ndarray
    interrupt: KeyboardInterrupt | None
    memory: Memory

    def failure(self, model: int, passes_before: int = 0) -> ValueError | None:
        """What to tell whoever wanted this model, if its loss or they left the finite numbers."""
        result, weights = self.results[model], self.weights[model]
        if not result.diverged and not result.diverged_slowly:
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


class FitProblem:
    """Candidates that train on the same data; a single fit has one candidate.

    Parameters
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

    Attributes
    ----------
    shared : dict
        The parameters that all candidates have in common.
    optimizer : str
        A name in OPTIMIZERS.
    full_batch : bool
        Whether the optimizer makes one step per pass.
    early_stopping : bool
        Whether the validation loss ends training, so that the way to the optimum matters.
    auto_rate : bool
        Whether the learning rate is chosen here, and the columns are scaled.
    ends_on_plateau : bool
        Whether rates that are chosen here fall, and training ends, when the loss stagnates.
    tols : ndarray of shape (M,)
        ``tol`` of each candidate, zero for None.
    n_rows : int
        Rows of all processes.
    n_models, stack_width : int
        Models of each set of rows, and rows of weights that each row of X is multiplied with.
    batch_size : int
        Rows of a batch, over all sets and processes.
    """

    def __init__(
        self,
        candidates: Sequence[Parameters],
        loss_name: str,
        task: Task,
        memory: Memory | None = None,
    ) -> None:
        self.candidates, self.loss_name, self.task, self.memory = (
            candidates,
            loss_name,
            task,
            memory,
        )
        self.data, self.comm, self.shared = task.data, task.comm, candidates[0]
        self.is_partial_fit = memory is not None
        self.optimizer = chosen_optimizer(self.shared)
        if self.is_partial_fit and self.optimizer == "quasi-newton":
            self.optimizer = "adam"
        self.optimizer_class: type[Optimizer] = OPTIMIZERS[self.optimizer]
        self.full_batch = self.optimizer_class.full_batch
        self.fit_intercept = bool(self.shared["fit_intercept"])
        self.early_stopping = bool(self.shared["early_stopping"])
        self.auto_rate = bool(self.shared["learning_rate"] == "auto")
        self.ends_on_plateau = self.auto_rate and not (
            self.full_batch or self.is_partial_fit or self.early_stopping
        )
        self.has_penalty = any(candidate["alpha"] for candidate in candidates)
        self.tols = np.array([float(candidate["tol"] or 0.0) for candidate in candidates])
        self.shard = Shard.of(self.comm, len(self.data.X))
        self.n_rows = self.shard.total
        self.n_models = len(candidates) // self.data.sets
        self.stack_width = self.n_models * self.data.n_outputs
        self.batch_size = self.n_rows
        if not self.full_batch:
            of_set = batch_rows(self.shared, self.n_rows // self.data.sets)
            self.batch_size = self.data.sets * of_set

    def on(self, task: Task) -> "FitProblem":
        """Return the same candidates with another task."""
        return FitProblem(self.candidates, self.loss_name, task, self.memory)

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
        delta = self.stacked("delta")[: self.n_models]
        return make_loss(self.loss_name, delta, keeps_digits=self.full_batch)

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
            self.loss.null_model(target, weight, data.n_outputs, self.fit_intercept, self.comm)
            for target, weight in of_sets
        ]
        return NullModel(
            torch.cat([model.intercept.expand(self.n_models, -1) for model in models]),
            torch.cat([model.loss.expand(self.n_models) for model in models]).to(data.X.device),
        )

    def objective(self, scaling: Scaling | None, *, scales_weights: bool) -> LinearObjective:
        """Return the objective of weights on the user's columns, or on standardised ones.

        With `scales_weights` the rows hold the user's columns all the same.
        """
        return LinearObjective(
            self.loss,
            self.penalty(scaling),
            scaling if scales_weights else None,
            sets=self.data.sets,
            comm=self.comm,
        )

    def loader(self) -> BatchLoader:
        """Return the training rows in batches, on the user's columns."""
        mean_weight = None if self.memory is None else self.memory.mean_weight
        return self._loader(self.data, self.shard, self.batch_size, mean_weight)

    def full_batch_loader(self) -> BatchLoader:
        """Return the training rows in one batch, on the user's columns."""
        return self._loader(self.data, self.shard, self.n_rows, None)

    def validation_loader(self) -> BatchLoader | None:
        """Return the validation rows in one batch, if there are any."""
        validation = self.task.validation
        if validation is None:
            return None
        shard = Shard.of(self.comm, len(validation.X))
        return self._loader(validation, shard, shard.total, None)

    def _loader(
        self, data: Dataset, shard: Shard, batch_size: int, mean_weight: float | None
    ) -> BatchLoader:
        of_rows = partial(self.rows_of, data)
        if self.comm.size == 1:
            return of_rows(batch_size=batch_size, mean_weight=mean_weight)
        if mean_weight is None:
            mean_weight = shard.mean(self.comm, mean_of(data.weight))
        return ShardedLoader.of(partial(of_rows, mean_weight=mean_weight), shard, batch_size)

    def rows_of(self, data: Dataset, *, batch_size: int, mean_weight: float | None) -> LocalLoader:
        """Return rows of this process in batches."""
        return make_loader(
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

    def in_double(self) -> "FitProblem":
        """Return the same problem in double precision."""
        validation = self.task.validation
        validation = None if validation is None else validation.in_double()
        return self.on(replace(self.task, data=self.data.in_double(), validation=validation))
