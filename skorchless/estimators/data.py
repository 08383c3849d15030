"""Checked rows on their way to the engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from skorchless.estimators.ranks import check_some_rows
from skorchless.reducer import Reducer
from skorchless.sources import Matrix, SparseRows
from skorchless.sources.matrix_source import mean_of
from skorchless.stack import WIDE


@dataclass
class Data:
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
    def side_by_side(cls, several: Sequence["Data"]) -> Self:
        """Several small ones, dense, as the sets of one; weights are relative to each's mean."""
        weight = None
        if any(data.weight is not None for data in several):
            weight = torch.cat([data.relative_weight() for data in several])
        X = torch.cat([data.X for data in several if isinstance(data.X, Tensor)])
        target = torch.cat([data.target for data in several])
        return cls(X, target, weight, several[0].n_outputs, len(several))

    def relative_weight(self) -> Tensor:
        """Weights of the rows, one on average, shape ``(n,)``, in double precision."""
        if self.weight is None:
            return torch.ones(len(self.X), dtype=WIDE, device=self.X.device)
        return self.weight / mean_of(self.weight)

    @property
    def n_rows(self) -> int:
        """Rows of each set."""
        return len(self.X) // self.sets

    def stored_weight(self, reducer: Reducer) -> Tensor:
        """Weight of the rows, of all ranks, that store each column, and of all, ``(D + 1,)``.

        Dense rows store every column.
        """
        ones = torch.ones(len(self.X), dtype=WIDE, device=self.X.device)
        weight = ones if self.weight is None else self.weight
        stored = weight.sum(dtype=WIDE).repeat(self.X.shape[1] + 1)
        if isinstance(self.X, SparseRows):
            stored[:-1] = self.X.stored_weight(weight)
        reducer.sum_(stored)
        return stored

    def take(self, rows: Tensor) -> "Data":
        """Some of the rows, by index."""
        rows = rows.to(self.X.device)
        weight = None if self.weight is None else self.weight.to(rows.device)
        return Data(
            self.X.index_select(0, rows),
            self.target.to(rows.device).index_select(0, rows),
            None if weight is None else weight.index_select(0, rows),
            self.n_outputs,
        )

    def between(self, start: int, stop: int) -> "Data":
        """Consecutive rows."""
        X = self.X.between(start, stop) if isinstance(self.X, SparseRows) else self.X[start:stop]
        weight = None if self.weight is None else self.weight[start:stop]
        return Data(X, self.target[start:stop], weight, self.n_outputs)

    def reweighted(self, class_weights: Tensor | None, reducer: Reducer) -> "Data":
        """The same with each row's weight times its class's; classes of weight zero lose rows."""
        if class_weights is None:
            return self
        rows = class_weights.to(self.target.device)[self.target.view(-1).long()]
        weight = rows if self.weight is None else rows * self.weight
        kept = weight.nonzero().view(-1)
        message = "Class weights must leave at least one sample of non-zero weight."
        check_some_rows(reducer, len(kept), message)
        data = Data(self.X, self.target, weight.to(self.X.device), self.n_outputs)
        return data if len(kept) == len(weight) else data.take(kept)

    def in_double(self) -> "Data":
        """The same in double precision."""
        target = self.target.to(WIDE) if self.target.is_floating_point() else self.target
        return Data(self.X.to(WIDE), target, self.weight, self.n_outputs, self.sets)

    def to(self, device: torch.device) -> "Data":
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
        return Data(self.X.to(device), target, weight, self.n_outputs)


def class_weights(
    class_weight: dict[Any, float] | str, classes: np.ndarray, data: Data, reducer: Reducer
) -> Tensor:
    """What each class counts, shape ``(n_classes,)``; "balanced" goes by the rows' weights."""
    if class_weight == "balanced":
        index = data.target.view(-1).long().cpu()
        weight = None if data.weight is None else data.weight.cpu()
        totals = torch.bincount(index, weights=weight, minlength=len(classes)).double()
        reducer.sum_(totals)
        return totals.sum() / (len(classes) * totals)
    weights = compute_class_weight(class_weight, classes=classes, y=classes)
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(f"class_weight must be finite and not negative. Got {class_weight!r}.")
    return torch.from_numpy(np.asarray(weights, dtype=np.float64))
