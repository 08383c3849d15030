"""Data sources: what the engine reads, whatever the user's data is kept in."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from skorchless.sources.base import Batch, Chunk, Source
from skorchless.sources.csr import SparseRows
from skorchless.sources.dense import DenseSource, affords_gram_of
from skorchless.sources.moments import Moments
from skorchless.sources.scaling import Scaling
from skorchless.sources.side_by_side import SideBySide
from skorchless.sources.sparse import SparseSource

__all__ = [
    "Batch",
    "Chunk",
    "DenseSource",
    "Matrix",
    "Moments",
    "Scaling",
    "SideBySide",
    "Source",
    "SparseRows",
    "SparseSource",
    "affords_gram",
    "as_source",
    "dense_blocks",
    "tempered",
]

#: What X may be once it is checked.
Matrix = Tensor | SparseRows


def as_source(
    X: Matrix, target: Tensor, sample_weight: Tensor | None, *, sets: int = 1, **layout: Any
) -> Source:
    """The source that suits the kind and the size of X: this page alone asks for either.

    Parameters
    ----------
    X : Tensor or SparseRows of shape (n, D)
    target, sample_weight, **layout
        As of `DenseSource`, or of `SideBySide` if there is more than one set.
    sets : int
        Sets of rows with models of their own; of dense rows only.
    """
    if isinstance(X, SparseRows):
        return SparseSource(X, target, sample_weight, **layout)
    if sets > 1:
        return SideBySide(X, target, sample_weight, sets=sets, **layout)
    return DenseSource(X, target, sample_weight, **layout)


def affords_gram(X: Matrix) -> bool:
    """Whether second moments of all columns are worth their memory and time."""
    return X.affords_gram if isinstance(X, SparseRows) else affords_gram_of(X)


def tempered(scaling: Scaling, X: Matrix, weight: Tensor | None) -> Scaling:
    """The scaling for rules that step after a few rows each.

    A column that is stored in a share p of sparse rows only, scaled to a deviation of 1, is of the
    order of ``p**-0.5`` where it is stored: a single row then outweighs all others, rates that are
    safe for it are useless for the rest, and an equal step for every weight moves its prediction
    out of all proportion. So rare columns are scaled to the order of 1 where they are stored.
    """
    if not isinstance(X, SparseRows):
        return scaling
    inverse = scaling.inverse * X.stored_share(weight).sqrt()
    return Scaling(scaling.mean, inverse, scaling.dtype)


def dense_blocks(X: Matrix, n_rows: int) -> Iterator[Tensor]:
    """X as dense tensors of at most `n_rows` rows each."""
    for start in range(0, len(X), n_rows):
        stop = min(start + n_rows, len(X))
        yield X.between(start, stop).dense() if isinstance(X, SparseRows) else X[start:stop]
