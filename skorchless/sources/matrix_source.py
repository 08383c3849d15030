"""What sources have in common that hold all their rows as one matrix."""

from collections.abc import Iterator
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor

from skorchless.sources.base import Chunk
from skorchless.sources.chunk import MOST_BATCHES, by_weight, drawn, slices
from skorchless.sources.matrix import Matrix, affords_gram
from skorchless.sources.scaling import Scaling
from skorchless.stack import WIDE

MatrixT = TypeVar("MatrixT", bound=Matrix)
ChunkT = TypeVar("ChunkT", bound=Chunk)


class MatrixSource(Generic[MatrixT, ChunkT]):
    """Batches of a matrix ``X``, which is only ever read.

    Parameters
    ----------
    X : Matrix of shape (n, D)
    target : Tensor of shape (n, K), or of shape (n,) with integer classes below `n_outputs`
    sample_weight : Tensor of shape (n,), or None for weights of 1
    n_outputs : int
        K.
    fit_intercept : bool
        Whether the last column of the batches is 1 rather than 0.
    batch_size : int
        At least `n` for the full batch.
    stack_width : int
        Rows of weights that will be multiplied with a batch, M * K.
    mean_weight : float, optional
        What weights are divided by; their own mean by default. A batch's sums are then divided by
        its number of rows, whatever weights it drew: dividing by the sum of these would favour
        batches of little weight.
    scaling : Scaling, optional
        Applied to rows as they are gathered.
    """

    def __init__(
        self,
        X: MatrixT,
        target: Tensor,
        sample_weight: Tensor | None,
        *,
        n_outputs: int,
        fit_intercept: bool,
        batch_size: int,
        stack_width: int,
        mean_weight: float | None = None,
        scaling: Scaling | None = None,
    ) -> None:
        self.X, self.target = X, target
        self.mean_weight = mean_of(sample_weight) if mean_weight is None else mean_weight
        self.sample_weight = None
        if sample_weight is not None or self.mean_weight != 1.0:
            ones = torch.ones(len(X), dtype=WIDE, device=X.device)
            weight = ones if sample_weight is None else sample_weight
            self.sample_weight = (weight / self.mean_weight).to(X.dtype)
        self.n_rows, self.n_columns, self.n_outputs = len(X), X.shape[1] + 1, n_outputs
        self.dtype, self.device, self.affords_gram = X.dtype, X.device, affords_gram(X)
        self.fit_intercept = fit_intercept
        self.batch_size = min(batch_size, len(X))
        self.stack_width = stack_width
        self.scaling = scaling

    @property
    def n_batches(self) -> int:
        """Batches of a pass."""
        return -(-self.n_rows // self.batch_size)

    @property
    def _chunk_rows(self) -> int:
        """Rows of a chunk at most."""
        raise NotImplementedError

    def rows(self, chosen: Tensor | None) -> ChunkT:
        """The rows of some numbers in ascending order, or all of them, as one batch."""
        raise NotImplementedError

    def _filled(self, order: Tensor | None, start: int, stop: int, size: int) -> ChunkT:
        """Rows ``order[start:stop]`` (in their own order if None) in batches of `size`."""
        raise NotImplementedError

    def _spanning(self, order: Tensor | None, start: int, stop: int) -> Iterator[ChunkT]:
        """Chunks of one batch that is larger than a chunk."""
        raise NotImplementedError

    def sample(self, n_rows: int) -> ChunkT:
        """As many rows at random, by weight, or all if that is about as many."""
        chosen = drawn(self.n_rows, n_rows)
        if chosen is None or self.sample_weight is None:
            return self.rows(chosen)
        chosen, weight = by_weight(self.sample_weight, n_rows)
        chunk = self.rows(chosen)
        assert chunk.weight is not None
        chunk.weight.view(-1).copy_(weight)
        chunk.scale = [1.0 / self.n_rows]
        return chunk

    def _pass(self, order: Tensor | None) -> Iterator[ChunkT]:
        """The rows in chunks, the last batch of fewer rows in one of its own."""
        batch, most = self.batch_size, self._chunk_rows
        if batch > most:
            for start, stop in slices(self.n_rows, batch):
                yield from self._spanning(order, start, stop)
            return
        whole = self.n_rows // batch * batch
        for start, stop in slices(whole, min(most // batch, MOST_BATCHES) * batch):
            yield self._filled(order, start, stop, batch)
        if whole < self.n_rows:
            yield self._filled(order, whole, self.n_rows, self.n_rows - whole)

    def scaled(self, scaling: Scaling) -> Self:
        """The same rows, standardised."""
        return type(self)(
            self.X,
            self.target,
            self.sample_weight,
            n_outputs=self.n_outputs,
            fit_intercept=self.fit_intercept,
            batch_size=self.batch_size,
            stack_width=self.stack_width,
            mean_weight=1.0,
            scaling=scaling,
        )


def mean_of(weight: Tensor | None) -> float:
    """Mean weight of the rows, taken so that no sum overflows; 1 without weights."""
    if weight is None or len(weight) == 0:
        return 1.0
    most = weight.max().to(WIDE)
    return float(most * (weight.to(WIDE) / most).mean())
