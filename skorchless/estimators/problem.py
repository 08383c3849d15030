"""The data of a fit, its problem, and what comes of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Self

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, float64

from skorchless.data import (
    BatchLoader,
    LargeMatrix,
    Matrix,
    Scaling,
    ShardedLoader,
    SparseRows,
    are_right_on_threads,
    make_loader,
    mean_of,
)
from skorchless.distributed import SINGLE_PROCESS, Communicator, Shard
from skorchless.estimators import limits
from skorchless.estimators.checks import named
from skorchless.estimators.memory import Memory
from skorchless.estimators.parameters import Parameters, batch_rows, chosen_optimizer
from skorchless.estimators.runtime import check_some_rows
from skorchless.losses import Loss, NullModel, make_loss
from skorchless.objective import LinearObjective
from skorchless.optimizers import OPTIMIZERS, Optimizer
from skorchless.optimizers.hessian_estimator import sample_size
from skorchless.penalties import ElasticNet
from skorchless.stack import stack
from skorchless.training import TrainingResult

#: Numbers of any size as `np.frexp` gives them: parts below one, and exponents of two.
Factors = tuple[np.ndarray, np.ndarray]


def in_units(weight: np.ndarray) -> np.ndarray:
    """Weights in units of a power of two near the largest; no digit changes."""
    scaled: np.ndarray = np.ldexp(weight, -int(np.frexp(weight.max(initial=0.0))[1]))
    return scaled


@dataclass(eq=False)
class Dataset:
    """Rows to train or validate on, checked and on their device.

    Attributes
    ----------
    X : Tensor, SparseRows or LargeMatrix of shape (n, D)
    target : Tensor of shape (n, K), or (n,) with integer classes
    weight : Tensor of shape (n,), or None
        In double precision.
    n_outputs : int
        K.
    sets : int
        Sets of as many rows each, one after the other, for models of their own.
    """

    X: Matrix
    target: Tensor
    weight: Tensor | None
    n_outputs: int
    sets: int = 1

    @classmethod
    def side_by_side(cls, several: Sequence["Dataset"]) -> Self:
        """Several small ones, dense, as the sets of one; weights are relative to each's mean."""
        weight = None
        if any(data.weight is not None for data in several):
            weight = torch.cat([data.relative_weight() for data in several])
        X = torch.cat([data.X for data in several if isinstance(data.X, Tensor)])
        target = torch.cat([data.target for data in several])
        return cls(X, target, weight, several[0].n_outputs, len(several))

    @property
    def row_weight(self) -> Tensor:
        """Weights of the rows, ones where there are none, shape ``(n,)``, in double precision."""
        if self.weight is not None:
            return self.weight
        return torch.ones(len(self.X), dtype=float64, device=self.X.device)

    def relative_weight(self) -> Tensor:
        """Weights of the rows, one on average, shape ``(n,)``, in double precision."""
        weight = self.row_weight
        return weight / mean_of(weight)

    def stored_weight(self, comm: Communicator) -> Tensor:
        """Weight of the rows, of all ranks, that store each column, and of all, ``(D + 1,)``.

        Dense rows store every column.
        """
        weight = self.row_weight
        stored = weight.sum(dtype=float64).repeat(self.X.shape[1] + 1)
        if isinstance(self.X, SparseRows):
            stored[:-1] = self.X.stored_weight(weight)
        comm.all_reduce_(stored)
        return stored

    def take(self, rows: Tensor) -> "Dataset":
        """Some of the rows, by index."""
        rows = rows.to(self.X.device)
        weight = None if self.weight is None else self.weight.to(rows.device)
        return Dataset(
            self.X.index_select(0, rows),
            self.target.to(rows.device).index_select(0, rows),
            None if weight is None else weight.index_select(0, rows),
            self.n_outputs,
        )

    def __getitem__(self, run: slice) -> "Dataset":
        """Select consecutive rows."""
        weight = None if self.weight is None else self.weight[run]
        return Dataset(self.X[run], self.target[run], weight, self.n_outputs)

    def reweighted(
        self,
        class_weights: Factors | None,
        comm: Communicator,
        unit: int | None = None,
        *,
        name: str = "y",
    ) -> tuple["Dataset", int]:
        """The same with each row's weight times its class's; classes of weight zero lose rows.

        Weights become multiples of a power of two, so that no product and no sum of them leaves the
        range of floating point numbers, and no digit changes.

        Parameters
        ----------
        class_weights : pair of ndarray of shape (n_classes,), optional
            As `np.frexp` gives them.
        comm : Communicator
        unit : int, optional
            Exponent of that power, where earlier weights have settled it. By default that of the
            largest weight.
        name : str
            Of the target, for errors.

        Returns
        -------
        data : Dataset
        unit : int
            0 where nobody has weights.
        """
        weighted = self.weight is not None or class_weights is not None
        if comm.size == 1 and not weighted and not unit:
            return self, 0
        weight, exponent = np.frexp(self.row_weight.numpy(force=True))
        if class_weights is not None:
            classes = self.target.view(-1).long().numpy(force=True)
            # A product of two numbers from 0.5 to 1 may be a quarter.
            weight, more = np.frexp(weight * class_weights[0][classes])
            exponent = exponent + class_weights[1][classes] + more
        top = int(exponent[weight > 0].max()) if weight.any() else None
        everywhere = comm.all_gather_object((weighted, top))
        # Beside weights of others, rows without any weigh one each.
        largest = max((top for _, top in everywhere if top is not None), default=0)
        if not any(some for some, _ in everywhere) and not unit:
            return self, 0
        unit = largest if unit is None else unit
        if not -limits.LEAST_LATER <= largest - unit <= limits.MOST_LATER:
            raise ValueError(
                f"sample_weight or class_weight are more than 2**{limits.MOST_LATER} or less than "
                f"2**-{limits.LEAST_LATER} times the weights of the first call of partial_fit, "
                "which all later ones are relative to. Use weights of similar size in all calls; "
                "without weights, each sample weighs 1."
            )
        weight = np.ldexp(weight, exponent - unit)
        kept = np.flatnonzero(weight)
        message = (
            f"Class weights must leave at least one sample of non-zero weight, but class_weight is "
            f"0 for all labels in {name}."
        )
        check_some_rows(comm, len(kept), message)
        data = replace(self, weight=torch.from_numpy(weight).to(self.X.device))
        return data if len(kept) == len(weight) else data.take(torch.from_numpy(kept)), unit

    def in_double(self) -> "Dataset":
        """The same in double precision."""
        target = self.target.to(float64) if self.target.is_floating_point() else self.target
        return Dataset(self.X.to(float64), target, self.weight, self.n_outputs, self.sets)

    def with_noise(self, size: float) -> "Dataset":
        """The rows twice, each number times 1 + e and times 1 - e, where e is `size` or minus it.

        Zeros of a sparse matrix stay zeros.
        """
        generator = torch.Generator(device="cpu").manual_seed(0)

        def noise(values: Tensor) -> Tensor:
            signs = torch.randint(2, values.shape, generator=generator, device="cpu")
            return size * values * signs.mul_(2).sub_(1).to(values)

        if isinstance(self.X, SparseRows):
            X: Matrix = self.X.with_noise(noise)
        else:
            rows = self.X[:]
            errors = noise(rows)
            X = torch.cat([rows + errors, rows - errors])
        weight = None if self.weight is None else self.weight.repeat(2)
        return Dataset(X, torch.cat([self.target, self.target]), weight, self.n_outputs)

    def to(self, device: torch.device) -> "Dataset":
        """The same on `device`, float targets in X's dtype."""
        target = self.target.to(device)
        if target.is_floating_point():
            target = target.to(self.X.dtype).contiguous()
            if not bool(target.sum().isfinite()) and not bool(target.isfinite().all()):
                raise ValueError(
                    f"Input y contains infinity or a value too large for {self.X.dtype}, in which "
                    "X is. Pass X as float64, or y in other units."
                )
        weight = None if self.weight is None else self.weight.to(device)
        X = self.X
        if isinstance(X, Tensor) and X.device != device != torch.device("cpu"):
            moved = LargeMatrix(X, X.dtype).to(device)
            X = moved.stored if moved.is_here else moved
        return Dataset(X.to(device), target, weight, self.n_outputs)


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
        work = max(rows * (numbers + limits.LOSS_WORK), X.shape[1]) * self.stack_width
        if not self.full_batch:
            return work
        second_moments = min(rows, sample_size(numbers)) * numbers**2
        return max(work // limits.CHEAPER_PASS, second_moments // limits.CHEAPER_MOMENTS)

    def values(self, name: str) -> np.ndarray:
        """Return a parameter of all candidates, 0 for None and 1 where they lack it."""
        return np.array([float(candidate.get(name, 1.0) or 0.0) for candidate in self.candidates])

    def stacked(self, name: str) -> Tensor:
        """Return the same as a tensor of shape ``(M, 1, 1)``."""
        return stack(self.values(name), dtype=self.data.X.dtype, device=self.data.X.device)

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

    def objective(
        self, scaling: Scaling | None = None, *, scales_weights: bool = False
    ) -> LinearObjective:
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

    def loader(self, validation: Dataset | None = None) -> BatchLoader:
        """Return rows on the user's columns: those to train on, or others in one batch."""
        data, shard, batch_size, mean_weight = self.data, self.shard, self.batch_size, None
        if validation is None:
            mean_weight = self.memory.mean_weight
        else:
            data, shard = validation, Shard.of(self.comm, len(validation.X))
            batch_size = shard.total
        if mean_weight is None and self.comm.size > 1:
            mean_weight = shard.mean(self.comm, mean_of(data.weight))
        of_rows = partial(
            make_loader,
            data.X,
            data.target,
            data.weight,
            n_outputs=data.n_outputs,
            fit_intercept=self.fit_intercept,
            stack_width=self.stack_width,
            sets=data.sets,
            mean_weight=mean_weight,
        )
        if self.comm.size == 1:
            return of_rows(batch_size=batch_size)
        own = of_rows(batch_size=shard.batches(batch_size)[shard.rank])
        return ShardedLoader(own, shard, batch_size)

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

    @classmethod
    def joined(cls, parts: Sequence[Self], order: np.ndarray) -> Self:
        """Join what became of all candidates, which were trained in this order, in their own."""
        back = np.argsort(order)
        results = [result for part in parts for result in part.results]
        weights = [each for part in parts for each in part.weights]
        return replace(
            parts[-1],
            results=[results[i] for i in back],
            weights=[weights[i] for i in back],
            rates=np.concatenate([part.rates for part in parts])[back],
        )

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


@np.errstate(all="ignore")
def class_weights(
    class_weight: dict[Any, float] | str, classes: np.ndarray, data: Dataset, comm: Communicator
) -> Factors:
    """What each class counts, as `np.frexp` gives it; "balanced" goes by the rows' weights."""
    if class_weight == "balanced":
        return _balanced(len(classes), data, comm)
    with named("class_weight"):
        by_class = compute_class_weight(class_weight, classes=classes, y=classes)
    by_class = np.asarray(by_class, dtype=np.float64)
    if not np.isfinite(by_class).all() or (by_class < 0).any():
        raise ValueError(f"class_weight must be finite and not negative. Got {class_weight!r}.")
    weighing = classes[by_class > 0].tolist()
    if len(weighing) == 1:
        raise ValueError(
            f"class_weight leaves a single class, {weighing[0]!r}: all others weigh 0. Softmax "
            "regression needs at least 2 classes of a weight above 0."
        )
    return np.frexp(by_class)


def _balanced(n_classes: int, data: Dataset, comm: Communicator) -> Factors:
    """The inverse of each class's total weight, which is added up in a unit of its own."""
    index = data.target.view(-1).long().numpy(force=True)
    weight, exponent = np.frexp(data.row_weight.numpy(force=True))
    own = np.full(n_classes, limits.LEAST_EXPONENT)
    np.maximum.at(own, index[weight > 0], exponent[weight > 0])
    unit = np.max(comm.all_gather_object(own), axis=0)
    part = np.bincount(index, np.ldexp(weight, exponent - unit[index]), n_classes)
    totals = np.sum(comm.all_gather_object(part), axis=0)
    largest = unit.max()
    share, more = np.frexp(np.ldexp(totals, unit - largest).sum() / (n_classes * totals))
    return share, more + largest - unit


def hold_out(
    data: Dataset,
    fraction: float,
    generator: torch.Generator,
    comm: Communicator,
    classes: np.ndarray | None,
) -> tuple[Dataset, Dataset]:
    """Rows to train on and rows to validate on; of several ranks each splits its own.

    Parameters
    ----------
    data : Dataset
    fraction : float
    generator : torch.Generator
    comm : Communicator
    classes : ndarray or None
        Labels of the classes, of which each gives its share; None for numbers.

    Raises
    ------
    ValueError
        If there are too few rows, or rows of a class, to split.
    """
    labels = None
    if classes is not None:  # by name, for the errors of the split
        labels = classes[data.target.numpy(force=True).ravel().astype(np.int64)]
    seed = int(torch.randint(2**31 - 1, (), generator=generator, device="cpu"))
    rows = np.arange(len(data.X))
    problem = f"early_stopping=True cannot hold out validation_fraction={fraction} of"
    cure = "Pass X_val and y_val, or set early_stopping=False."
    try:
        kept, held = train_test_split(rows, test_size=fraction, random_state=seed, stratify=labels)
    except ValueError as error:
        if comm.size == 1:
            why = str(error).rstrip(".")
            raise ValueError(f"{problem} {len(rows)} rows: {why}. {cure}") from error
        # A rank may have few rows, and of some classes fewer: it gives what it can.
        shuffled = np.random.RandomState(seed).permutation(rows)
        n_held = int(fraction * len(rows))
        kept, held = shuffled[n_held:], shuffled[:n_held]
    in_order = (torch.from_numpy(np.sort(part)) for part in (kept, held))
    training, validation = (data.take(part) for part in in_order)
    check_some_rows(comm, len(validation.X), f"{problem} so few rows on each rank. {cure}")
    return training, validation
