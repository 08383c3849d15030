"""Data sources: what the engine reads, whatever the user's data is kept in."""

from skorchless.sources.chunk import Chunk
from skorchless.sources.dense import DenseSource
from skorchless.sources.scaling import Moments, Scaling, column_moments

__all__ = ["Chunk", "DenseSource", "Moments", "Scaling", "column_moments"]
