"""Sums over processes: over one, or over the ranks of a ``torch.distributed`` group.

Every collective begins with a frame of fixed size, which all ranks add up and which carries a
status word. What does not fit into the frame follows in a second message, once the frame has said
that nobody failed. So a rank can fail anywhere between two collectives: it joins the next frame,
whatever that was meant for, and all others read there that it did.

A frame also says what it is for. Ranks that lose step, because their data or parameters made them
take different turns, therefore see it and raise, rather than wait for each other.
"""

import contextlib
import os
import pickle
import signal
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from skorchless.restoring import between, undone_on_error
from skorchless.stack import WIDE

T = TypeVar("T")

#: Numbers that a frame can carry; more follow in a second message.
CAPACITY = 2048
#: Words in front: ranks that failed; what the frame is for, and its square, to tell a difference.
FAILED, PURPOSE, PURPOSE_SQUARED, WORDS = 0, 1, 2, 3
#: Purposes are numbers below this, so that sums of their squares are exact.
PURPOSES = 2**20
#: Bytes of what a failed rank has to say.
MESSAGE_BYTES = 1024


def nothing() -> None:
    """Undo nothing."""


class Reducer(Protocol):
    """What processes that train together ask of each other.

    Attributes
    ----------
    rank, size : int
        Which of how many processes this is.
    """

    rank: int
    size: int

    def sum_(self, *tensors: Tensor) -> None:
        """Add each tensor up over the ranks, in place; all ranks get the same bits."""

    def first_(self, *tensors: Tensor) -> None:
        """Give each tensor rank 0's values, in place."""

    def rows(self, rows: Tensor) -> Tensor:
        """All ranks' rows in rank order, from ``(n, ...)`` with an n of each rank's own."""

    def exchange(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order."""

    def together(self, work: Callable[[], T], undo: Callable[[], object] = nothing) -> T:
        """Return what `work` gives; if it fails on one rank, it fails on all, and all `undo` it."""


class OneProcess:
    """Nobody else: sums are what they are."""

    rank, size = 0, 1

    def sum_(self, *tensors: Tensor) -> None:
        """As of `Reducer`."""

    def first_(self, *tensors: Tensor) -> None:
        """As of `Reducer`."""

    def rows(self, rows: Tensor) -> Tensor:
        """As of `Reducer`."""
        return rows

    def exchange(self, value: Any) -> list[Any]:
        """As of `Reducer`."""
        return [value]

    def together(self, work: Callable[[], T], undo: Callable[[], object] = nothing) -> T:
        """As of `Reducer`."""
        return undone_on_error(work, undo)


ONE_PROCESS = OneProcess()


def local_rank_device() -> torch.device:
    """The GPU of this rank: the one of its number on this machine."""
    own = int(os.environ.get("LOCAL_RANK", torch.cuda.current_device()))
    visible = own < torch.cuda.device_count()  # some launchers hide the others' from each process
    return torch.device("cuda", own if visible else torch.cuda.current_device())


class GroupError(RuntimeError):
    """Another rank failed, or this one has lost touch with the others."""


class Group:
    """The ranks of the initialised ``torch.distributed`` group.

    Raises
    ------
    ValueError
        If there is none.
    """

    def __init__(self) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError(
                "distributed=True needs an initialised process group. Start the script with "
                "torchrun and call torch.distributed.init_process_group() before fit, or set "
                "distributed=False."
            )
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        on_cuda = "nccl" in dist.get_backend_config() and torch.cuda.is_available()
        self.device = local_rank_device() if on_cuda else torch.device("cpu")
        length = WORDS + CAPACITY + 2 * self.size
        self._frame = torch.zeros(length, dtype=WIDE, device=self.device)
        self._reachable = True
        self._busy = False
        self._done = False
        self._interrupt: tuple[Any, ...] | None = None

    def sum_(self, *tensors: Tensor) -> None:
        """As of `Reducer`."""
        flat = torch.cat([tensor.reshape(-1).to(self.device, WIDE) for tensor in tensors])
        with self._undisturbed():
            if len(flat) <= CAPACITY:
                frame = self._meet(f"sum of {len(flat)}", flat)
                flat.copy_(frame[: len(flat)])
            else:
                self._meet(f"sum of {len(flat)}")
                dist.all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def first_(self, *tensors: Tensor) -> None:
        """As of `Reducer`: the others add nothing."""
        if self.rank > 0:
            for tensor in tensors:
                tensor.zero_()
        self.sum_(*tensors)

    def rows(self, rows: Tensor) -> Tensor:
        """As of `Reducer`."""
        return torch.cat(self._gather(rows))

    def exchange(self, value: Any) -> list[Any]:
        """As of `Reducer`."""
        own = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        return [pickle.loads(block.numpy().tobytes()) for block in self._gather(own)]

    def _gather(self, rows: Tensor) -> list[Tensor]:
        """All ranks' rows: in the frame, if they fit the part of it that each rank has."""
        part, numbers = CAPACITY // self.size, rows[:1].numel() if len(rows) else 0
        payload = torch.zeros(2 + part, self.size, dtype=WIDE, device=self.device)
        payload[0, self.rank], payload[1, self.rank] = len(rows), numbers
        if rows.numel() <= part:
            payload[2 : 2 + rows.numel(), self.rank] = rows.reshape(-1).to(self.device, WIDE)
        with self._undisturbed():
            frame = self._meet("rows", payload.view(-1))[: payload.numel()].view_as(payload)
            lengths = [int(length) for length in frame[0].tolist()]
            if max(lengths) * int(frame[1].max()) <= part:
                blocks = list(frame[2:].unbind(dim=1))
            else:
                own = rows.new_zeros(max(lengths), *rows.shape[1:], device=self.device)
                own[: len(rows)] = rows
                blocks = [torch.empty_like(own) for _ in lengths]
                dist.all_gather(blocks, own)
                blocks = [block.view(-1) for block in blocks]
        size = rows.shape[1:]
        return [
            block[: length * size.numel()].view(length, *size).to(rows)
            for block, length in zip(blocks, lengths, strict=True)
        ]

    def together(self, work: Callable[[], T], undo: Callable[[], object] = nothing) -> T:
        """As of `Reducer`."""

        def agreed() -> T:
            try:
                result = work()
                with self._undisturbed():
                    self._meet("done")
                    self._done = True
                return result
            except GroupError:
                raise
            except BaseException as error:
                self._tell(error)
                raise

        return self._with_interrupts_held_back(partial(undone_on_error, agreed, undo))

    def _meet(self, purpose: str, payload: Tensor | None = None) -> Tensor:
        """Add up a frame over the ranks; return what it carries beside its words.

        Raises
        ------
        GroupError
            If a rank failed, or is elsewhere.
        """
        word = zlib.crc32(purpose.encode()) % PURPOSES
        frame = self._frame.zero_()
        frame[PURPOSE], frame[PURPOSE_SQUARED] = word, word * word
        if payload is not None:
            frame[WORDS : WORDS + len(payload)] = payload
        dist.all_reduce(frame)
        failed, total, squares = frame[:WORDS].tolist()
        if failed:
            raise GroupError(self._last_words(""))
        if squares * self.size != total * total:
            raise GroupError(
                f"The ranks have lost step: rank {self.rank} came for '{purpose}', others did "
                "not. All ranks must call the same methods in the same order."
            )
        return frame[WORDS:]

    def _tell(self, error: BaseException) -> None:
        """Join the frame that the others wait in, to say that this rank has failed."""
        if not self._reachable:
            return
        with contextlib.suppress(GroupError), self._undisturbed():
            self._frame.zero_()[FAILED] = 1.0
            dist.all_reduce(self._frame)
            self._last_words(f"{type(error).__name__}: {error}".strip(": "))

    def _last_words(self, own: str) -> str:
        """What the failed ranks have to say; follows a frame of failure on every rank."""
        encoded = own.encode()[:MESSAGE_BYTES]
        message = torch.zeros(MESSAGE_BYTES, dtype=torch.uint8, device=self.device)
        if encoded:
            message[: len(encoded)] = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
        messages = [torch.empty_like(message) for _ in range(self.size)]
        dist.all_gather(messages, message)
        texts = [bytes(words.tolist()).rstrip(b"\0").decode(errors="replace") for words in messages]
        return "; ".join(f"rank {rank} failed: {text}" for rank, text in enumerate(texts) if text)

    @contextlib.contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Collectives: Ctrl-C waits for their end, and who cannot be reached is a `GroupError`."""
        self._busy = True
        try:
            yield
        except GroupError:
            raise
        except Exception as error:
            self._reachable = False
            raise GroupError(
                f"rank {self.rank} cannot reach the others: a process of the group has died, or "
                "did not answer within the group's timeout. Every rank has to make as many calls "
                f"as the others. {error}"
            ) from error
        finally:
            # Once all ranks have said that they are done, no one may undo what it has.
            self._busy = self._done
        if not self._busy:
            self._deliver()

    def _deliver(self) -> None:
        """Raise the Ctrl-C that has been held back, if there was one."""
        if self._interrupt is not None:
            handler, *signalled = self._interrupt
            self._interrupt = None
            handler(*signalled)

    def _with_interrupts_held_back(self, run: Callable[[], T]) -> T:
        """Let Ctrl-C be raised where this rank can still join the next frame, or else at the end.

        So it is never raised where the other ranks keep what they have and this one does not.
        """
        previous = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(previous):
            return run()

        def handler(*signalled: Any) -> None:
            if self._busy:
                self._interrupt = (previous, *signalled)
            else:
                previous(*signalled)

        hold_back = partial(signal.signal, signal.SIGINT, handler)
        put_back = partial(signal.signal, signal.SIGINT, previous)
        try:
            return between(hold_back, put_back, run)
        finally:
            self._deliver()


@dataclass(frozen=True)
class Shard:
    """Rows of this rank in the concatenation of all ranks' rows.

    Attributes
    ----------
    sizes : tuple of int
        Rows of each rank.
    rank : int
    """

    sizes: tuple[int, ...]
    rank: int

    @classmethod
    def of(cls, reducer: Reducer, n_rows: int) -> "Shard":
        """Of a rank that has `n_rows`."""
        return cls(tuple(reducer.rows(torch.tensor([n_rows], device="cpu")).tolist()), reducer.rank)

    @property
    def total(self) -> int:
        """Rows of all ranks together."""
        return sum(self.sizes)

    @property
    def own_size(self) -> int:
        """Rows of this rank."""
        return self.sizes[self.rank]

    def batches(self, batch_size: int) -> list[int]:
        """Rows of each rank in a batch: its share, rounded up."""
        return [-(-min(batch_size, self.total) * size // self.total) for size in self.sizes]

    def mean(self, reducer: Reducer, own: float) -> float:
        """Mean over all rows, from the mean over this rank's."""
        means: list[float] = reducer.rows(torch.tensor([own], dtype=WIDE, device="cpu")).tolist()
        return sum(size / self.total * part for size, part in zip(self.sizes, means, strict=True))

    def own(self, rows: Tensor) -> Tensor:
        """Those of some rows of the concatenation that are this rank's, counted from its first."""
        first = sum(self.sizes[: self.rank])
        return rows[(rows >= first) & (rows < first + self.sizes[self.rank])] - first
