"""One rank's rows as part of the concatenation of all ranks' rows."""

from collections.abc import Iterator
from typing import Any, Self

import torch

from skorchless.data.base import Chunk, MatrixLoader, affords_gram, drawn
from skorchless.data.dense import DenseChunk
from skorchless.data.scaling import Scaling
from skorchless.distributed import Shard


class ShardedLoader:
    """The share of one rank in every batch, of every pass and of every sample.

    Ranks contribute to a batch in proportion to their rows, and each shuffles its own. All sums are
    to be added up over the ranks: `scale` counts the rows of all of them. A rank whose rows are
    used up goes on with a row that weighs nothing, so that all make the same number of steps.

    Parameters
    ----------
    own : MatrixLoader
        Of this rank's rows; a batch has its share of the whole batch.
    shard : Shard
    batch_size : int
        Rows of a batch, of all ranks together.
    """

    def __init__(self, own: MatrixLoader[Any, Chunk], shard: Shard, batch_size: int) -> None:
        self.own, self.shard = own, shard
        self._asked = batch_size
        self._batches = shard.batches(batch_size)
        self.batch_size = sum(self._batches)
        self.X, self.dtype, self.device = own.X, own.dtype, own.device
        self.n_rows, self.n_columns, self.n_outputs = shard.total, own.n_columns, own.n_outputs
        self.stack_width, self.mean_weight = own.stack_width, own.mean_weight
        self.affords_gram = affords_gram(own.X, shard.total)
        self.fits_chunk = own.fits_chunk
        self._nothing: DenseChunk | None = None

    @property
    def n_batches(self) -> int:
        """Steps of a pass: as many as the rank that needs most of them."""
        sizes = zip(self.shard.sizes, self._batches, strict=True)
        return max(-(-size // batch) for size, batch in sizes if size)

    def scaled(self, scaling: Scaling) -> Self:
        """The same rows, standardised."""
        return type(self)(self.own.scaled(scaling), self.shard, self._asked)

    def chunks(self, generator: torch.Generator | None = None) -> Iterator[Chunk]:
        """One pass over this rank's rows, and over rows of no weight for the steps that are left.

        A chunk's tensors are overwritten by the next one.
        """
        step, steps = 0, self.n_batches
        if self.shard.own_size:
            for chunk in self.own.chunks(generator):
                batches = len(chunk.batches)
                chunk.scale = [1.0 / self._rows_in(t) for t in range(step, step + batches)]
                yield chunk
                if chunk.ends:
                    step += batches
        for t in range(step, steps):
            yield self._no_rows(1.0 / self._rows_in(t))

    def sample(self, n_rows: int) -> Chunk:
        """The rank's part of the sample that one process would draw from all rows.

        With weights each rank draws from its own rows, in proportion to their sum.
        """
        chosen = drawn(self.n_rows, n_rows)
        weight = self.own.sample_weight
        if chosen is not None and weight is not None and self.shard.own_size:
            share = float(weight.sum(dtype=torch.float64)) / self.n_rows
            chunk = self.own.sample(max(1, round(share * n_rows)))
            chunk.scale = [1.0 / self.n_rows]
            return chunk
        scale = 1.0 / (self.n_rows if chosen is None else n_rows)
        own = None if chosen is None else self.shard.own(chosen)
        if self.shard.own_size == 0 or (own is not None and len(own) == 0):
            return self._no_rows(scale)
        chunk = self.own.rows(own)
        chunk.scale = [scale]
        return chunk

    def _rows_in(self, step: int) -> int:
        """Rows of all ranks in a step."""
        sizes = zip(self.shard.sizes, self._batches, strict=True)
        return sum(min(max(size - step * batch, 0), batch) for size, batch in sizes)

    def _no_rows(self, scale: float) -> DenseChunk:
        """A chunk of one row of zeros that weighs nothing."""
        if self._nothing is None:
            zero = torch.zeros(1, 1, 1, 1, 1, dtype=self.dtype, device=self.device)
            row = zero.new_zeros(1, 1, 1, self.n_columns)
            self._nothing = DenseChunk(row, zero.new_zeros(1, 1, 1, self.n_outputs, 1), zero)
        self._nothing.scale = [scale]
        return self._nothing
