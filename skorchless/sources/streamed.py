"""Rows of a matrix that is too large to be copied: a window of blocks at a time."""

import math
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle

import torch
from torch import Tensor

from skorchless.sources.chunk import BARE_CHUNK_BYTES, DenseChunk
from skorchless.sources.dense import DenseSource
from skorchless.sources.large import LargeMatrix
from skorchless.sources.order import BlockOrder, Order
from skorchless.sources.reading import run_reader


class StreamedSource(DenseSource):
    """As `DenseSource`, but blocks are shuffled, and rows within a window of blocks.

    The next window is read while this one trains. On a CUDA device that does not hold the rows,
    they are gathered in page-locked memory, and copied by a stream of their own while the chunk
    before them trains.
    """

    X: LargeMatrix
    _windows: "Windows | None" = None
    _locked: dict[torch.Size, Tensor] | None = None

    def chunks(self, generator: torch.Generator | None = None) -> Iterator[DenseChunk]:
        """As of `Source`."""
        if self._arrives:
            yield from self._in_turns(super().chunks(generator))
        else:
            yield from super().chunks(generator)

    @property
    def _arrives(self) -> bool:
        """Whether rows have to be brought to a CUDA device."""
        return self.device.type == "cuda" and not self.X.is_here

    @property
    def _lies_ready(self) -> bool:
        return self.scaling is None and self.X.lies_ready

    @property
    def _keeps_targets(self) -> bool:
        return False

    @property
    def _chunk_rows(self) -> int:
        return self._rows_in(BARE_CHUNK_BYTES) if self._arrives else super()._chunk_rows

    @cached_property
    def _buffers(self) -> list[Tensor]:
        """Room for two windows: kept, since new memory takes as long as the copy into it."""
        rows = min(self.n_rows, self.X.block_rows * self.X.window_blocks)
        size = (rows, self.X.shape[1])
        return [torch.empty(size, dtype=self.dtype, device="cpu") for _ in range(2)]

    def _in_place(self, start: int, stop: int) -> Tensor:
        return self.X.stored.rows[start:stop]

    def _shuffled(self, generator: torch.Generator) -> Order:
        return BlockOrder(self.n_rows, self.X.block_rows, self.X.window_blocks, generator)

    def _pass(self, order: Order | None) -> Iterator[DenseChunk]:
        if not isinstance(order, BlockOrder):
            with run_reader(self.X.stored, self.X.windows()) as reader:
                for chunk in super()._pass(order):
                    yield chunk
                    if reader is not None:
                        reader.advance(math.prod(chunk.shape))
        elif not self.X.stored.is_mapped:
            yield from super()._pass(order)
        else:
            with ThreadPoolExecutor(max_workers=1) as thread:
                self._windows = Windows(self.X, order, self._buffers, thread)
                yield from super()._pass(order)
            self._windows = None

    def _read(self, order: Order | None, start: int, stop: int, out: Tensor) -> None:
        target = out if self._locked is None else self._page_locked(out.shape)
        if order is None:
            self.X.read(start, stop, target)
        elif not isinstance(order, BlockOrder):
            self.X.copy(order[start:stop], target)
        elif self._windows is None:
            self.X.gather(order[start:stop], target)
        else:
            done = 0
            for window, places in order.pieces(slice(start, stop)):
                part = target[done : done + len(places)]
                torch.index_select(self._windows[window.number], 0, places, out=part)
                done += len(places)
        if target is not out:
            out.copy_(target, non_blocking=True)

    def _page_locked(self, shape: torch.Size) -> Tensor:
        assert self._locked is not None
        if shape not in self._locked:
            self._locked[shape] = torch.empty(
                shape, dtype=self.dtype, device="cpu", pin_memory=True
            )
        return self._locked[shape]

    def _in_turns(self, chunks: Iterator[DenseChunk]) -> Iterator[DenseChunk]:
        """Fill one of two sets of buffers on a stream of its own, while the other one trains."""
        training = torch.cuda.current_stream(self.device)
        copying = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        for buffers in cycle((_Buffers(), _Buffers())):
            self._chunks, self._locked = buffers.chunks, buffers.locked
            buffers.arrived.synchronize()
            copying.wait_event(buffers.used)
            with torch.cuda.stream(copying):
                chunk = next(chunks, None)
            if chunk is None:
                break
            buffers.arrived.record(copying)
            training.wait_event(buffers.arrived)
            yield chunk
            buffers.used.record(training)
        self._locked = None


class Windows:
    """Copies of a pass's windows, the next one being made by a thread while this one is used.

    Parameters
    ----------
    X : LargeMatrix
    order : BlockOrder
    buffers : pair of Tensor of shape (window_rows, D)
    thread : Executor
    """

    def __init__(
        self, X: LargeMatrix, order: BlockOrder, buffers: list[Tensor], thread: Executor
    ) -> None:
        self._X, self._order, self._thread, self._buffers = X, order, thread, buffers
        self._number = -1
        self._next = self._copy(0)

    def __getitem__(self, number: int) -> Tensor:
        """Rows of a window; those of earlier ones are overwritten."""
        while self._number < number:
            self._window, self._number = self._next.result(), self._number + 1
            if self._number + 1 < len(self._order):
                self._next = self._copy(self._number + 1)
        return self._window

    def _copy(self, number: int) -> Future[Tensor]:
        buffer = self._buffers[number % 2]

        def copy() -> Tensor:
            rows = self._order.rows_of(number)
            with torch.inference_mode():
                self._X.copy(rows, buffer[: len(rows)])
            return buffer

        return self._thread.submit(copy)


@dataclass
class _Buffers:
    """Where a chunk arrives, and when it has arrived and been used."""

    chunks: dict[tuple[int, int, int], DenseChunk] = field(default_factory=dict)
    locked: dict[torch.Size, Tensor] = field(default_factory=dict)
    arrived: torch.cuda.Event = field(default_factory=torch.cuda.Event)
    used: torch.cuda.Event = field(default_factory=torch.cuda.Event)
