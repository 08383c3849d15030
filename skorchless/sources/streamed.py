"""Rows of a matrix that is too large to be copied, converted as they fill a chunk."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle

import torch
from torch import Tensor

from skorchless.sources.chunk import DenseChunk
from skorchless.sources.dense import DenseSource
from skorchless.sources.large import LargeMatrix

#: Bytes of rows that are brought to a device at once: while they train, others are on their way.
ARRIVING_BYTES = 2**26


class StreamedSource(DenseSource):
    """As `DenseSource`, but blocks are shuffled, and rows within a window of blocks.

    Where a device does not hold the rows they are brought to it chunk by chunk; to CUDA from
    page-locked memory, by a stream of their own, while the chunk before them trains.
    """

    X: LargeMatrix
    _locked: dict[torch.Size, Tensor] | None = None

    def chunks(self, generator: torch.Generator | None = None) -> Iterator[DenseChunk]:
        """As of `Source`."""
        if self._arrives and self.device.type == "cuda":
            yield from self._in_turns(super().chunks(generator))
        else:
            yield from super().chunks(generator)

    @property
    def _arrives(self) -> bool:
        """Whether rows have to be brought to a device."""
        return self.device.type != "cpu" and not self.X.is_here

    @property
    def _lies_ready(self) -> bool:
        return self.scaling is None and self.X.lies_ready

    @property
    def _keeps_targets(self) -> bool:
        return False

    @cached_property
    def _chunk_rows(self) -> int:
        most = super()._chunk_rows
        return min(most, max(1, ARRIVING_BYTES // self.X.row_bytes)) if self._arrives else most

    def _in_place(self, start: int, stop: int) -> Tensor:
        return self.X.stored[start:stop]

    def _shuffled(self, generator: torch.Generator) -> Tensor:
        return self.X.permutation(generator)

    def _read(self, order: Tensor | None, start: int, stop: int, out: Tensor) -> None:
        target = out if self._locked is None else self._page_locked(out.shape)
        if order is None:
            self.X.read(start, stop, target)
        else:
            self.X.gather(order[start:stop], target)
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
        # Targets, weights and scaling, which it reads too, may still be on their way.
        copying.wait_stream(training)
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


@dataclass(eq=False)
class _Buffers:
    """Where a chunk arrives, and when it has arrived and been used."""

    chunks: dict[tuple[int, int, int], DenseChunk] = field(default_factory=dict)
    locked: dict[torch.Size, Tensor] = field(default_factory=dict)
    arrived: torch.cuda.Event = field(default_factory=torch.cuda.Event)
    used: torch.cuda.Event = field(default_factory=torch.cuda.Event)
