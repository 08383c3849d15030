"""Data loaders: what optimizers read, whatever the user's data is kept in."""

from typing import Any

from torch import Tensor

from skorchless.data.base import Chunk, MatrixLoader, affords_gram, mean_of
from skorchless.data.dense import DenseLoader, LargeMatrix
from skorchless.data.limits import is_large
from skorchless.data.scaling import Moments, Scaling
from skorchless.data.sharded import ShardedLoader
from skorchless.data.sparse import SparseLoader, SparseRows, are_right_on_threads

__all__ = [
    "BatchLoader",
    "Chunk",
    "LargeMatrix",
    "Matrix",
    "Moments",
    "Scaling",
    "ShardedLoader",
    "SparseRows",
    "affords_gram",
    "are_right_on_threads",
    "is_large",
    "make_loader",
    "mean_of",
]

#: What X may be once it is checked.
Matrix = Tensor | SparseRows | LargeMatrix

#: Rows of this process, in batches.
LocalLoader = MatrixLoader[Any, Chunk]

#: Rows to train on, in batches: of one process, or its share of the batches of several.
BatchLoader = LocalLoader | ShardedLoader


def make_loader(
    X: Matrix, target: Tensor, sample_weight: Tensor | None, *, sets: int = 1, **layout: Any
) -> LocalLoader:
    """Make the loader that suits the kind of X; only this function distinguishes kinds.

    Parameters
    ----------
    X : Tensor, SparseRows or LargeMatrix of shape (n, D)
    target, sample_weight, **layout
        Parameters of `MatrixLoader`.
    sets : int
        Sets of dense rows with models of their own, see `DenseLoader`.
    """
    if isinstance(X, SparseRows):
        return SparseLoader(X, target, sample_weight, **layout)
    return DenseLoader(X, target, sample_weight, sets=sets, **layout)
