"""The problem of one fit, and what comes of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from skorchless.data import (
    BatchLoader,
    LocalLoader,
    Scaling,
    ShardedLoader,
    SparseRows,
    are_right_on_threads,
    make_loader,
    mean_of,
)
from skorchless.distributed import SINGLE_PROCESS, Communicator, Shard
from skorchless.estimators.dataset import Dataset
from skorchless.estimators.memory import Memory
from skorchless.estimators.parameters import Parameters, batch_rows, chosen_optimizer
from skorchless.losses import Loss, NullModel, make_loss
from skorchless.objective import LinearObjective
from skorchless.optimizers import OPTIMIZERS, Optimizer
from skorchless.optimizers.hessian_estimator import sample_size
from skorchless.penalties import ElasticNet
from skorchless.stack import stack
from skorchless.training import TrainingResult

#: Of a full-batch optimizer a pass counts for so much less, and the second moments of a sample that
#: it may take beside for less again. Between small products it does much else: threads save a
#: quarter of its time at most, and double it where the cores are busy.
A_PASS, SECOND_MOMENTS = 4, 16

#: What the loss of one raw prediction costs, in multiply-adds.
LOSS_WORK = 32


@dataclass(eq=False)
class FitProblem:
    """Candidates to train on the same data, and where to start; a single fit has one candidate.

    Attributes
    ----------
    candidates : sequence of dict
        Constructor parameters. They may differ in the numbers that `stack_key` leaves out; the rest
        is read from the first. If the data has several sets of rows, the candidates of each set
        follow those of the set before, as many and with the same loss.
    loss_name : str
        A name in LOSSES.
    data : Dataset
        On the device to train on.
    start : ndarray of shape (M, K, D + 1), or (1, K, D + 1) if all start alike
        Weights on the user's columns.
    generator : torch.Generator
    validation : Dataset, optional
    comm : Communicator
        Who else trains the same models on rows of their own.
    memory : Memory
        What earlier calls of ``partial_fit`` left.
    is_partial_fit : bool
        Whether a single pass is made that continues from the last one.

    Further attributes follow from these:

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
    averages : bool
        Whether the model is the mean of the steps, which may then be longer.
    state_key : str
        Whose state ``partial_fit`` keeps: another optimizer, or other columns, start afresh.
    continues : bool
        Whether an earlier call of ``partial_fit`` left such a state.
    tols : ndarray of shape (M,)
        ``tol`` of each candidate, zero for None.
    n_models, stack_width : int
        Models of each set of rows, and rows of weights that each row of X is multiplied with.
    """

    candidates: Sequence[Parameters]
    loss_name: str
    data: Dataset
    start: np.ndarray
    generator: torch.Generator
    validation: Dataset | None = None
    comm: Communicator = SINGLE_PROCESS
    memory: Memory = field(default_factory=Memory)
    is_partial_fit: bool = False

    def __post_init__(self) -> None:
        self.shared = self.candidates[0]
        self.optimizer = chosen_optimizer(self.shared, one_pass=self.is_partial_fit)
        self.optimizer_class: type[Optimizer] = OPTIMIZERS[self.optimizer]
        self.full_batch = self.optimizer_class.full_batch
        self.fit_intercept = bool(self.shared["fit_intercept"])
        self.early_stopping = bool(self.shared["early_stopping"])
        self.auto_rate = bool(self.shared["learning_rate"] == "auto")
        self.ends_on_plateau = self.auto_rate and not (
            self.full_batch or self.is_partial_fit or self.early_stopping
        )
        self.averages = self.is_partial_fit and self.auto_rate and self.optimizer == "adam"
        self.state_key = self.optimizer + (" on standardised columns" if self.auto_rate else "")
        self.continues = self.memory.passes > 0 and self.memory.optimizer == self.state_key
        self.has_penalty = any(candidate["alpha"] for candidate in self.candidates)
        self.tols = self.values("tol")
        self.n_models = len(self.candidates) // self.data.sets
        self.stack_width = self.n_models * self.data.n_outputs

    @classmethod
    def side_by_side(cls, problems: Sequence["FitProblem"]) -> Self:
        """Several problems of the same candidates, and with the same seed, as the sets of one."""
        candidates = [candidate for problem in problems for candidate in problem.candidates]
        held_out = [problem.validation for problem in problems if problem.validation is not None]
        return cls(
            candidates,
            problems[0].loss_name,
            Dataset.side_by_side([problem.data for problem in problems]),
            np.concatenate([problem.starts for problem in problems]),
            problems[0].generator,
            Dataset.side_by_side(held_out) if held_out else None,
        )

    @property
    def starts(self) -> np.ndarray:
        """Where each candidate starts, shape ``(M, K, D + 1)``."""
        return np.broadcast_to(self.start, (len(self.candidates), *self.start.shape[1:]))

    @cached_property
    def shard(self) -> Shard:
        """Which of all processes' rows are here."""
        return Shard.of(self.comm, len(self.data.X))

    @cached_property
    def batch_size(self) -> int:
        """Rows of a batch, over all sets and processes."""
        if self.full_batch:
            return self.shard.total
        return self.data.sets * batch_rows(self.shared, self.shard.total // self.data.sets)

    @property
    def work(self) -> int:
        """Multiply-adds of a step with the rows of one set, a weight's being one at least.

        None are counted where X may only be multiplied on one thread.
        """
        X, rows = self.data.X, self.batch_size // self.data.sets
        if isinstance(X, SparseRows) and X.device.type == "cpu" and not are_right_on_threads():
            return 0
        numbers = X.numel() // max(len(X), 1)
        work = max(rows * (numbers + LOSS_WORK), X.shape[1]) * self.stack_width
        if not self.full_batch:
            return work
        second_moments = min(rows, sample_size(numbers)) * numbers**2
        return max(work // A_PASS, second_moments // SECOND_MOMENTS)

    def values(self, name: str) -> np.ndarray:
        """Return a parameter of all candidates, 0 for None and 1 where they lack it."""
        return np.array([float(candidate.get(name, 1.0) or 0.0) for candidate in self.candidates])

    def stacked(self, name: str) -> Tensor:
        """Return the same as a tensor of shape ``(M, 1, 1)``."""
        return stack(self.values(name), dtype=self.data.X.dtype, device=self.data.X.device)

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
        return self._loader(self.data, self.shard, self.batch_size, self.memory.mean_weight)

    def validation_loader(self) -> BatchLoader | None:
        """Return the validation rows in one batch, if there are any."""
        if self.validation is None:
            return None
        shard = Shard.of(self.comm, len(self.validation.X))
        return self._loader(self.validation, shard, shard.total, None)

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

    def with_rows(self, change: Callable[[Dataset], Dataset], **changes: Any) -> "FitProblem":
        """Return the problem on other rows, to train and to validate on, and with other changes."""
        validation = None if self.validation is None else change(self.validation)
        return replace(self, data=change(self.data), validation=validation, **changes)


@dataclass(eq=False)
class FitResult:
    """The trained candidates, one entry for each, with weights on the user's columns."""

    results: list[TrainingResult]
    weights: list[np.ndarray | None]
    optimizer: str
    rates: np.ndarray
    interrupt: KeyboardInterrupt | None
    memory: Memory

    def failure(self, model: int) -> ValueError | None:
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
            f"The loss {what} epoch {max(result.n_iter, self.memory.passes)}: it diverges with a "
            f"learning rate of {result.rate:.6g} here. Use a smaller learning_rate or "
            "learning_rate='auto', or put a StandardScaler in front of the estimator."
        )
