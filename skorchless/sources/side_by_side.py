"""Sets of rows that train side by side, such as the folds of a search: one row block of each."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from skorchless.sources.chunk import DenseChunk
from skorchless.sources.dense import DenseSource


class SideBySide(DenseSource):
    """Batches that hold a batch of each set, as the row blocks.

    All sets are shuffled alike: each sees the batches that it would see alone with the same seed.

    Parameters
    ----------
    X : Tensor of shape (sets * n, D)
        The rows of the first set, as many of the second, and so on.
    target, sample_weight
        As of `MatrixSource`, in the same order; weights have a mean of 1 in every set.
    sets : int
    **layout
        As of `MatrixSource`, `batch_size` being that of all sets together.
    """

    def __init__(
        self, X: Tensor, target: Tensor, sample_weight: Tensor | None, *, sets: int, **layout: Any
    ) -> None:
        super().__init__(X, target, sample_weight, **layout)
        self.sets = sets

    def chunks(self, generator: torch.Generator | None = None) -> Iterator[DenseChunk]:
        """As of `DenseSource`."""
        if self.n_batches == 1:
            yield from super().chunks()
            return
        n_rows = self.n_rows // self.sets
        if generator is None:
            order = torch.arange(n_rows, device="cpu")
        else:
            order = torch.randperm(n_rows, generator=generator, device="cpu")
        yield from self._pass(self._interleaved(order).to(self.device))

    def _interleaved(self, order: Tensor) -> Tensor:
        """Rows of X in the order of the batches, and in each batch set by set."""
        offset = torch.arange(0, self.n_rows, len(order), device="cpu").unsqueeze(1)
        batch = self.batch_size // self.sets
        whole = len(order) // batch * batch
        batches = order[:whole].view(-1, 1, batch) + offset
        return torch.cat([batches.flatten(), (order[whole:] + offset).flatten()])

    def _fill(self, chunk: DenseChunk, order: Tensor | None, start: int, stop: int) -> DenseChunk:
        super()._fill(chunk, order, start, stop)
        chunk.scale = [self.sets * scale for scale in chunk.scale]
        return chunk

    def _parts(self, n_rows: int) -> int:
        return self.sets

    @cached_property
    def _chunk_rows(self) -> int:
        return max(super()._chunk_rows, self.batch_size)
