"""Data sources: what the engine reads, whatever the user's data is kept in."""

from typing import Any

from torch import Tensor

from skorchless.sources.base import Batch, Chunk, Source
from skorchless.sources.csr import SparseRows, are_right_on_threads
from skorchless.sources.dense import DenseSource
from skorchless.sources.large import LargeMatrix
from skorchless.sources.limits import is_large
from skorchless.sources.matrix import Matrix, affords_gram, dense_blocks
from skorchless.sources.moments import Moments
from skorchless.sources.scaling import Scaling
from skorchless.sources.shards import ShardedSource
from skorchless.sources.side_by_side import SideBySide
from skorchless.sources.sparse import SparseSource
from skorchless.sources.streamed import StreamedSource

__all__ = [
    "Batch",
    "Chunk",
    "DenseSource",
    "LargeMatrix",
    "Matrix",
    "Moments",
    "Scaling",
    "ShardedSource",
    "SideBySide",
    "Source",
    "SparseRows",
    "SparseSource",
    "StreamedSource",
    "affords_gram",
    "are_right_on_threads",
    "as_source",
    "dense_blocks",
    "is_large",
]


def as_source(
    X: Matrix, target: Tensor, sample_weight: Tensor | None, *, sets: int = 1, **layout: Any
) -> Source:
    """The source that suits the kind and the size of X: this page alone asks for either.

    Parameters
    ----------
    X : Tensor, SparseRows or LargeMatrix of shape (n, D)
    target, sample_weight, **layout
        As of `MatrixSource`, or of `SideBySide` if there is more than one set.
    sets : int
        Sets of rows with models of their own; of dense rows only.
    """
    if isinstance(X, SparseRows):
        return SparseSource(X, target, sample_weight, **layout)
    if isinstance(X, LargeMatrix):
        return StreamedSource(X, target, sample_weight, **layout)
    if sets > 1:
        return SideBySide(X, target, sample_weight, sets=sets, **layout)
    return DenseSource(X, target, sample_weight, **layout)
