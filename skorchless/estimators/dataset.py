"""Checked rows with their targets and weights: what is trained and validated on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, float64

from skorchless.data import LargeMatrix, Matrix, SparseRows, mean_of
from skorchless.distributed import Communicator
from skorchless.estimators import checks
from skorchless.estimators.checks import check_sample_weight, named
from skorchless.estimators.runtime import check_some_rows
from skorchless.restoring import without_numpy_warnings

#: Exponent below that of every number.
LEAST_EXPONENT = -2000

#: Weights of later calls of `partial_fit`, relative to the first one's, as powers of two: more
#: would leave float32's range, and less count as nothing.
MOST_LATER, LEAST_LATER = 100, 1000


class Factors(NamedTuple):
    """Numbers of any size, ``mantissa * 2**exponent``.

    Attributes
    ----------
    mantissa : Tensor
        In double precision, from a half to one, or zero.
    exponent : Tensor of int32
    """

    mantissa: Tensor
    exponent: Tensor

    @classmethod
    def of(cls, numbers: Tensor, exponent: Tensor | int = 0) -> Self:
        """Numbers, times two to this power."""
        mantissa, own = torch.frexp(numbers)
        return cls(mantissa, own + exponent)

    @property
    def largest(self) -> int | None:
        """Exponent of the largest number; None if there are none but zeros."""
        powers = self.exponent[self.mantissa > 0]
        return int(powers.max()) if len(powers) else None

    def relative(self) -> Tensor:
        """The numbers, not all of them zero, in units of a power of two near the largest."""
        largest = self.largest
        assert largest is not None
        return self.times(-largest)

    def times(self, power: Tensor | int) -> Tensor:
        """The numbers times two to this power, as far as double precision can hold them."""
        return self.mantissa * powers_of_two(self.exponent + power)


def relative_weights(sample_weight: Any, n_rows: int) -> Tensor | None:
    """Checked weights of rows in units of a power of two, so that their sum is in range."""
    weight = check_sample_weight(sample_weight, n_rows)
    return None if weight is None else Factors.of(weight).relative()


def powers_of_two(exponent: Tensor) -> Tensor:
    """Two to these powers, exactly, in double precision."""
    return torch.exp2(exponent.to(float64))


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

    @property
    def n_rows(self) -> int:
        """Rows of each set."""
        return len(self.X) // self.sets

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

    def columns(self, chosen: Tensor) -> "Dataset":
        """The same rows with some of the columns, by number in ascending order."""
        return replace(self, X=self.X.index_select(1, chosen))

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
        class_weights : Factors, optional
            Of shape ``(n_classes,)``.
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
        own = self.weight is not None or class_weights is not None
        factors = self._factors(class_weights)
        everywhere = comm.all_gather_object((own, factors.largest))
        # Beside weights of others, rows without any weigh one each.
        largest = max((top for _, top in everywhere if top is not None), default=0)
        first = unit is None
        if not any(weighted for weighted, _ in everywhere) and not unit:
            return self, 0
        unit = largest if unit is None else unit
        if not first and not -LEAST_LATER <= largest - unit <= MOST_LATER:
            raise ValueError(
                f"sample_weight or class_weight are more than 2**{MOST_LATER} or less than "
                f"2**-{LEAST_LATER} times the weights of the first call of partial_fit, which all "
                "later ones are relative to. Use weights of similar size in all calls; without "
                "weights, each sample weighs 1."
            )
        weight = factors.times(-unit)
        kept = weight.nonzero().view(-1)
        message = (
            f"Class weights must leave at least one sample of non-zero weight, but class_weight is "
            f"0 for all labels in {name}."
        )
        check_some_rows(comm, len(kept), message)
        data = Dataset(self.X, self.target, weight.to(self.X.device), self.n_outputs)
        return data if len(kept) == len(weight) else data.take(kept), unit

    def _factors(self, class_weights: Factors | None) -> Factors:
        """Weights of the rows times those of their classes."""
        rows = Factors.of(self.row_weight)
        if class_weights is None:
            return rows
        classes = self.target.view(-1).long()
        mantissa, exponent = (part.to(rows.mantissa.device)[classes] for part in class_weights)
        return Factors.of(rows.mantissa * mantissa, rows.exponent + exponent)

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
        target = torch.cat([self.target, self.target])
        return Dataset(X, target, weight, self.n_outputs, self.sets)

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


@without_numpy_warnings
def class_weights(
    class_weight: dict[Any, float] | str, classes: np.ndarray, data: Dataset, comm: Communicator
) -> Factors:
    """What each class counts, shape ``(n_classes,)``; "balanced" goes by the rows' weights."""
    if class_weight == "balanced":
        return _balanced(len(classes), data, comm)
    with named("class_weight"):
        by_class = compute_class_weight(class_weight, classes=classes, y=classes)
    if not np.isfinite(by_class).all() or (by_class < 0).any():
        raise ValueError(f"class_weight must be finite and not negative. Got {class_weight!r}.")
    weighing = classes[by_class > 0].tolist()
    if len(weighing) == 1:
        raise ValueError(
            f"class_weight leaves a single class, {weighing[0]!r}: all others weigh 0. Softmax "
            "regression needs at least 2 classes of a weight above 0."
        )
    return Factors.of(torch.from_numpy(np.asarray(by_class, dtype=np.float64)))


def _balanced(n_classes: int, data: Dataset, comm: Communicator) -> Factors:
    """The inverse of each class's total weight, which is added up in a unit of its own."""
    index = data.target.view(-1).long().cpu()
    rows = Factors.of(data.row_weight.cpu())
    unit = torch.full((n_classes,), LEAST_EXPONENT, dtype=torch.int32, device="cpu")
    unit = unit.scatter_reduce(0, index, rows.exponent, "amax")
    unit = comm.all_gather_rows(unit.unsqueeze(0)).amax(dim=0)
    totals = torch.bincount(index, weights=rows.times(-unit[index]), minlength=n_classes).double()
    totals = comm.all_gather_rows(totals.unsqueeze(0)).sum(dim=0)
    total = Factors(totals, unit - unit.max()).times(0).sum()
    return Factors.of(total / (n_classes * totals), -unit)


def check_complete(X_val: Any, y_val: Any, sample_weight_val: Any) -> None:
    """Raise ValueError if a part of the validation data is missing."""
    if (X_val is None) != (y_val is None):
        given, missing = ("y_val", "X_val") if X_val is None else ("X_val", "y_val")
        raise ValueError(f"{given} was passed without {missing}: validation needs both.")
    if X_val is None and sample_weight_val is not None:
        raise ValueError("sample_weight_val was passed without X_val and y_val.")


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
    index = None if classes is None else data.target.numpy(force=True).ravel().astype(np.int64)
    seed = int(torch.randint(2**31 - 1, (), generator=generator, device="cpu"))
    rows = np.arange(len(data.X))
    problem = f"early_stopping=True cannot hold out validation_fraction={fraction} of"
    cure = "Pass X_val and y_val, or set early_stopping=False."
    split = partial(train_test_split, rows, test_size=fraction, random_state=seed)
    try:
        try:
            kept, held = split(stratify=index)
        except ValueError:
            if classes is None or comm.size > 1:
                raise
            kept, held = split(stratify=classes[index])  # which fails by the labels' own names
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


def start_weights(
    data: Dataset, init: dict[str, Any], coef_shape: tuple[int, ...], *, fit_intercept: bool
) -> np.ndarray:
    """Weights to start from, shape ``(1, K, D + 1)``.

    Parameters
    ----------
    data : Dataset
    init : dict
        Coefficients and intercepts by the names that the user knows them by; later ones win.
    coef_shape : tuple of int
        What the coefficients' shape has to be.
    fit_intercept : bool
    """
    n_features = data.X.shape[1]
    start = np.zeros((1, data.n_outputs, n_features + 1), dtype=checks.numpy_dtype(data.X))
    for name, value in init.items():
        # Without "_init" it is the fit before.
        cure = "" if name.endswith("_init") else " With warm_start=False, fit starts anew."
        if name.startswith("coef"):
            start[0, :, :-1] = checks.check_coef_init(
                value, name, coef_shape, start.dtype, cure
            ).reshape(-1, n_features)
        elif fit_intercept:
            start[0, :, -1] = checks.check_coef_init(
                value, name, coef_shape[:-1], start.dtype, cure
            )
    return start


def check_same_classes(old: Any, new: Any) -> None:
    """Raise ValueError if a warm start brings other classes than the fit before."""
    if not np.array_equal(old, new):
        raise ValueError(
            f"warm_start=True cannot go on from classes {old} with classes {new}. Fit all "
            "classes at once, or set warm_start=False."
        )
