"""Data sources: what optimizers read, whatever the user's data is kept in."""

from typing import Any

from torch import Tensor

from skorchless.sources.base import Batch, Chunk, MatrixSource, affords_gram, mean_of
from skorchless.sources.dense import DenseSource
from skorchless.sources.large import LargeMatrix
from skorchless.sources.limits import is_large
from skorchless.sources.scaling import Moments, Scaling
from skorchless.sources.shards import ShardedSource
from skorchless.sources.sparse import SparseRows, SparseSource, are_right_on_threads

__all__ = [
    "Batch",
    "Chunk",
    "DenseSource",
    "LargeMatrix",
    "LocalSource",
    "Matrix",
    "Moments",
    "Scaling",
    "ShardedSource",
    "Source",
    "SparseRows",
    "SparseSource",
    "affords_gram",
    "are_right_on_threads",
    "as_source",
    "is_large",
    "mean_of",
]

#: What X may be once it is checked.
Matrix = Tensor | SparseRows | LargeMatrix

#: Rows of this process, in batches.
LocalSource = MatrixSource[Any, Chunk]

#: Rows to train on, in batches: of one process, or its share of the batches of several.
Source = LocalSource | ShardedSource


def as_source(
    X: Matrix, target: Tensor, sample_weight: Tensor | None, *, sets: int = 1, **layout: Any
) -> LocalSource:
    """Make the source that suits the kind of X; only this function distinguishes kinds.

    Parameters
    ----------
    X : Tensor, SparseRows or LargeMatrix of shape (n, D)
    target, sample_weight, **layout
        Parameters of `MatrixSource`.
    sets : int
        Sets of dense rows with models of their own, see `DenseSource`.
    """
    if isinstance(X, SparseRows):
        return SparseSource(X, target, sample_weight, **layout)
    return DenseSource(X, target, sample_weight, sets=sets, **layout)
