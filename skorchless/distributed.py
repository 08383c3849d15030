"""Sums over processes: over one, or over the ranks of a ``torch.distributed`` group.

While ranks check what they are given, they exchange objects and nothing else. So a rank that fails
there can join the exchange that the others come to next, and tells them. While they train, they add
up tensors, and one that fails or dies is missed: the others raise as soon as they cannot reach it,
or when the group's timeout is over.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, float64

from skorchless.restoring import undone_on_error

T = TypeVar("T")


class Communicator:
    """What processes that train together ask of each other; by itself, one process alone.

    Attributes
    ----------
    rank, size : int
        Which of how many processes this is.
    """

    rank, size = 0, 1

    def all_reduce_(self, *tensors: Tensor) -> None:
        """Add each tensor up over the ranks, in place; all ranks get the same bits."""

    def broadcast_(self, *tensors: Tensor) -> None:
        """Give each tensor rank 0's values, in place."""

    def all_gather_rows(self, rows: Tensor) -> Tensor:
        """All ranks' rows in rank order, from ``(n, ...)`` with an n of each rank's own."""
        return rows

    def all_gather_object(self, value: T) -> list[T]:
        """Every rank's value, in rank order."""
        return [value]

    def checked(self, check: Callable[[], T]) -> T:
        """Return what `check` gives; if it fails on one rank, all raise.

        The ranks may not talk in it but by `all_gather_object` and `all_gather_rows`.
        """
        return check()

    def together(self, work: Callable[[], T], undo: Callable[[], object] = lambda: None) -> T:
        """Return what `work` gives once all ranks have done it; otherwise all `undo` it."""
        return undone_on_error(work, undo)


SINGLE_PROCESS = Communicator()


def local_rank_device() -> torch.device:
    """The GPU of this rank: the one of its number on this machine."""
    own = int(os.environ.get("LOCAL_RANK", torch.cuda.current_device()))
    visible = own < torch.cuda.device_count()  # some launchers hide the others' from each process
    return torch.device("cuda", own if visible else torch.cuda.current_device())


class GroupError(RuntimeError):
    """Another rank failed, or this one has lost touch with the others."""


@dataclass(eq=False)
class _Failure:
    """What a rank that has failed sends in the place of a value."""

    why: str


class Group(Communicator):
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

    def all_reduce_(self, *tensors: Tensor) -> None:
        """Add each tensor up over the ranks."""
        flat = torch.cat([tensor.reshape(-1).to(self.device, float64) for tensor in tensors])
        with _collective(self.rank):
            dist.all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def broadcast_(self, *tensors: Tensor) -> None:
        """Give each tensor rank 0's values: the others add nothing."""
        if self.rank > 0:
            for tensor in tensors:
                tensor.zero_()
        self.all_reduce_(*tensors)

    def all_gather_rows(self, rows: Tensor) -> Tensor:
        """Return all ranks' rows, in rank order."""
        parts = self.all_gather_object(rows.numpy(force=True))
        return torch.cat([torch.from_numpy(part) for part in parts]).to(rows.device)

    def all_gather_object(self, value: T) -> list[T]:
        """Return every rank's value, or raise if a rank has failed."""
        values: list[Any] = [None] * self.size
        # Objects travel by way of the current GPU, which need not be this rank's.
        on_gpu = self.device.type == "cuda"
        there = torch.cuda.device(self.device) if on_gpu else contextlib.nullcontext()
        with _collective(self.rank), there:
            dist.all_gather_object(values, value)
        failed = [
            f"rank {rank} failed: {value.why}"
            for rank, value in enumerate(values)
            if isinstance(value, _Failure)
        ]
        if failed:
            raise GroupError("; ".join(failed))
        if len({type(value) for value in values}) > 1:
            raise GroupError(
                "The ranks have lost step, as one has failed or was interrupted before. All ranks "
                "must call the same methods in the same order."
            )
        return values

    def checked(self, check: Callable[[], T]) -> T:
        """Return what `check` gives; tell the other ranks if it fails."""
        try:
            result = check()
        except GroupError:
            raise
        except BaseException as error:
            with contextlib.suppress(GroupError):
                self.all_gather_object(_Failure(f"{type(error).__name__}: {error}".strip(": ")))
            raise
        self.all_gather_object(None)
        return result

    def together(self, work: Callable[[], T], undo: Callable[[], object] = lambda: None) -> T:
        """Return what `work` gives once all ranks have done it."""

        def agreed() -> T:
            result = work()
            self.all_gather_object("done")
            return result

        return undone_on_error(agreed, undo)


@contextlib.contextmanager
def _collective(rank: int) -> Iterator[None]:
    """Raise a `GroupError` on a rank that cannot reach the others."""
    try:
        yield
    except Exception as error:
        raise GroupError(
            f"rank {rank} cannot reach the others: a process of the group has failed or died, or "
            "did not answer within the group's timeout. Every rank has to make as many calls as "
            f"the others. {error}"
        ) from error


@dataclass(eq=False)
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
    def of(cls, comm: Communicator, n_rows: int) -> "Shard":
        """Of a rank that has `n_rows`."""
        return cls(tuple(comm.all_gather_object(n_rows)), comm.rank)

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

    def mean(self, comm: Communicator, own: float) -> float:
        """Mean over all rows, from the mean over this rank's."""
        means = comm.all_gather_object(own)
        return sum(size / self.total * part for size, part in zip(self.sizes, means, strict=True))

    def own(self, rows: Tensor) -> Tensor:
        """Those of some rows of the concatenation that are this rank's, counted from its first."""
        first = sum(self.sizes[: self.rank])
        return rows[(rows >= first) & (rows < first + self.sizes[self.rank])] - first
