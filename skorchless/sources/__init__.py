"""Data sources: what the engine reads, whatever the user's data is kept in."""

from typing import Any

from torch import Tensor

from skorchless.sources.base import Batch, Chunk, Source
from skorchless.sources.dense import DenseSource
from skorchless.sources.moments import Moments
from skorchless.sources.scaling import Scaling

__all__ = ["Batch", "Chunk", "DenseSource", "Moments", "Scaling", "Source", "as_source"]


def as_source(X: Tensor, target: Tensor, sample_weight: Tensor | None, **layout: Any) -> Source:
    """The source that suits the kind and the size of X: the only place that asks for either.

    Parameters
    ----------
    X : Tensor of shape (n, D)
    target, sample_weight, **layout
        As of `DenseSource`.
    """
    return DenseSource(X, target, sample_weight, **layout)
