"""Rows of a dense tensor, shuffled, standardised and gathered chunk by chunk."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from skorchless.sources.chunk import (
    BARE_CHUNK_BYTES,
    CHUNK_BYTES,
    DenseChunk,
    count_parts,
    even_slices,
    lay_out,
    room_for_targets,
)
from skorchless.sources.large import LargeMatrix
from skorchless.sources.limits import bytes_at_once
from skorchless.sources.matrix_source import MatrixSource

#: Laid-out targets are kept where they are this many times smaller than the rows.
MUCH_SMALLER = 8


class DenseSource(MatrixSource[Tensor | LargeMatrix, DenseChunk]):
    """Batches of a dense ``X``; its parameters are those of `MatrixSource`."""

    def __init__(
        self,
        X: Tensor | LargeMatrix,
        target: Tensor,
        sample_weight: Tensor | None,
        **layout: Any,
    ) -> None:
        super().__init__(X, target, sample_weight, **layout)
        self._chunks: dict[tuple[int, int, int], DenseChunk] = {}
        self._whole: DenseChunk | None = None
        self._bare_chunks: dict[int, DenseChunk] = {}

    @property
    def fits_chunk(self) -> bool:
        """Whether all rows fit one chunk."""
        return self.n_rows <= self._chunk_rows

    def chunks(self, generator: torch.Generator | None = None) -> Iterator[DenseChunk]:
        """One pass over all rows, shuffled if there is a generator and more than one batch.

        A chunk's tensors are overwritten by the next one.
        """
        if generator is not None and self.n_batches > 1:
            yield from self._pass(self._shuffled(generator))
        elif self._is_one_chunk:
            yield self._all_rows()
        else:
            yield from self._pass(None)

    @property
    def _is_one_chunk(self) -> bool:
        """Whether a pass is one batch of all rows in one chunk, which is then filled once."""
        return self.n_rows == self.batch_size <= self._chunk_rows

    def _all_rows(self) -> DenseChunk:
        if self._whole is None:
            self._whole = next(self._pass(None))
        return self._whole

    def rows(self, chosen: Tensor | None) -> DenseChunk:
        """As of `Source`."""
        if chosen is None and self._is_one_chunk:
            return self._all_rows()
        rows = self.n_rows if chosen is None else len(chosen)
        chunk = self._new_chunk((1, self._parts(rows), rows // self._parts(rows)))
        return self._fill(chunk, chosen, 0, rows)

    def _shuffled(self, generator: torch.Generator) -> Tensor:
        """The rows in random order."""
        order = torch.randperm(self.n_rows, generator=generator, device="cpu")
        return order.to(self.device)

    def _rows_in(self, n_bytes: int) -> int:
        """Rows whose features, raw predictions and residuals take so much memory of a CPU's."""
        width = self.n_columns + 2 * self.stack_width
        n_bytes = bytes_at_once(n_bytes, self.device)
        return max(1, n_bytes // (self.dtype.itemsize * width))

    @cached_property
    def _chunk_rows(self) -> int:
        return self._rows_in(CHUNK_BYTES)

    @cached_property
    def _bare_rows(self) -> int:
        """The same of rows that are used where they lie."""
        return self._rows_in(BARE_CHUNK_BYTES)

    @property
    def _lies_ready(self) -> bool:
        """Whether rows can be used where they lie."""
        return self.scaling is None

    @property
    def _keeps_targets(self) -> bool:
        """Whether laid-out targets are so much smaller than the rows that they are kept."""
        return MUCH_SMALLER * self.n_outputs <= self.n_columns

    def _filled(self, order: Tensor | None, start: int, stop: int, size: int) -> DenseChunk:
        return self._fill(self._chunk(stop - start, size), order, start, stop)

    def _bare(self, start: int, stop: int, scale: float) -> DenseChunk:
        """Rows as they lie, without a copy: part of one batch of all rows in their own order.

        Laying out the targets takes as long as a small product, so they are kept for the next
        pass where they are much smaller than the rows.
        """
        if start in self._bare_chunks:
            return self._bare_chunks[start]
        parts = self._parts(stop - start)
        shape = (1, parts, (stop - start) // parts)
        if self.n_outputs == 1 and self.target.dtype == self.X.dtype:
            target = self.target[start:stop].view(1, parts, 1, 1, shape[2])
        else:
            target = lay_out(self.target[start:stop], self._new_target(shape))
        weight = self.sample_weight
        chunk = DenseChunk(
            X=self._in_place(start, stop).view(*shape, -1),
            target=target,
            weight=None if weight is None else weight[start:stop].view(1, parts, 1, 1, shape[2]),
            bare=float(self.fit_intercept),
            scale=[scale],
            starts=start == 0,
            ends=stop == self.n_rows,
        )
        if self._keeps_targets:
            self._bare_chunks[start] = chunk
        return chunk

    def _in_place(self, start: int, stop: int) -> Tensor:
        """Rows where they lie."""
        assert isinstance(self.X, Tensor)
        return self.X[start:stop]

    def _spanning(self, order: Tensor | None, start: int, stop: int) -> Iterator[DenseChunk]:
        scale = 1.0 / (stop - start)
        in_place = order is None and self._lies_ready and self.batch_size == self.n_rows
        most = self._bare_rows if in_place else self._chunk_rows
        for first, last in even_slices(stop - start, most):
            if in_place:
                yield self._bare(first, last, scale)
                continue
            chunk = self._chunk(last - first, last - first)
            self._fill(chunk, order, start + first, start + last)
            chunk.scale = [scale]
            chunk.starts, chunk.ends = first == 0, start + last == stop
            yield chunk

    def _fill(self, chunk: DenseChunk, order: Tensor | None, start: int, stop: int) -> DenseChunk:
        """Gather rows ``order[start:stop]`` (in their own order if None) into `chunk`."""
        features = chunk.rows[:, :-1]
        self._read(order, start, stop, features)
        if self.scaling is not None:
            self.scaling.apply(features, out=features)

        batches, parts, rows = chunk.shape
        lay_out(_gather(self.target, order, start, stop), chunk.target)
        chunk.scale = [1.0 / (parts * rows)] * batches
        if self.sample_weight is not None and chunk.weight is not None:
            weight = _gather(self.sample_weight, order, start, stop)
            chunk.weight.copy_(weight.view_as(chunk.weight))
        return chunk

    def _read(self, order: Tensor | None, start: int, stop: int, out: Tensor) -> None:
        """Write rows ``order[start:stop]`` to `out`."""
        assert isinstance(self.X, Tensor)
        if order is None:
            out.copy_(self.X[start:stop])
        else:
            torch.index_select(self.X, 0, order[start:stop].to(self.device), out=out)

    def _new_target(self, shape: tuple[int, int, int]) -> Tensor:
        return room_for_targets(shape, self.target, self.n_outputs, self.dtype)

    def _parts(self, n_rows: int) -> int:
        return count_parts(n_rows, self.n_columns, self.stack_width, self.device)

    def _chunk(self, n_rows: int, batch: int) -> DenseChunk:
        """The chunk that is filled anew for every run of `n_rows` rows in batches of `batch`."""
        parts = self._parts(batch)
        shape = (n_rows // batch, parts, batch // parts)
        if shape not in self._chunks:
            self._chunks[shape] = self._new_chunk(shape)
        return self._chunks[shape]

    def _new_chunk(self, shape: tuple[int, int, int]) -> DenseChunk:
        batches, parts, rows = shape
        X = self._empty(*shape, self.n_columns)
        X[..., -1] = float(self.fit_intercept)
        target = self._new_target(shape)
        weight = None if self.sample_weight is None else self._empty(batches, parts, 1, 1, rows)
        return DenseChunk(X, target, weight)

    def _empty(self, *size: int) -> Tensor:
        return torch.empty(*size, dtype=self.dtype, device=self.device)


def _gather(rows: Tensor, order: Tensor | None, start: int, stop: int) -> Tensor:
    if order is None:
        return rows[start:stop]
    return rows.index_select(0, order[start:stop].to(rows.device))
