"""Real processes in a real group, which run one function after the other, each on its rank."""

import contextlib
import datetime
import functools
import multiprocessing
import time
import traceback
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

#: Seconds until a test gives up on a rank; far above the group's own timeout.
PATIENCE = 60


@dataclass
class Raised:
    """What a function raised on a rank."""

    kind: str
    message: str
    trace: str


DIED = Raised("", "", "the process has died")


class Ranks:
    """Processes of one thread each that train together, joined by a file rather than a port.

    Parameters
    ----------
    size : int
        How many.
    make_folder : callable
        Makes a new folder for each group of processes.
    timeout : float
        The group's, in seconds.
    """

    def __init__(self, size, make_folder, timeout=20.0):
        self.size, self.make_folder, self.timeout = size, make_folder, timeout
        self.pipes, self.processes = [], []
        self._all_answered = True

    def get_ready(self):
        """Start the processes, in the place of those that an earlier test has broken."""
        if not self._in_step():
            self.close()
            self._initial_weights()
            assert self._in_step()

    def outcomes(self, function, *arguments, patience=PATIENCE):
        """What ``function(rank, *arguments)`` gives on each: a value, a `Raised`, or `DIED`."""
        self._all_answered = False
        for pipe in self.pipes:
            with contextlib.suppress(OSError):  # of one that has died
                pipe.send((function, arguments))
        deadline = time.monotonic() + patience
        results = [self._receive(rank, deadline) for rank in range(self.size)]
        self._all_answered = True
        return results

    def run(self, function, *arguments, **options):
        """The values, where every rank has one."""
        results = self.outcomes(function, *arguments, **options)
        for rank, result in enumerate(results):
            if isinstance(result, Raised):
                raise AssertionError(f"rank {rank}: {result.trace}")
        return results

    def close(self):
        """End the processes, by force where one still owes an answer."""
        for pipe in self.pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        for process in self.processes:
            process.join(PATIENCE if self._all_answered else 0)
            process.kill()
            process.join()
        for pipe in self.pipes:
            pipe.close()
        self.pipes, self.processes = [], []
        self._all_answered = True

    def _initial_weights(self):
        spawn = multiprocessing.get_context("spawn")
        store = str(self.make_folder() / "store")
        pipes = [spawn.Pipe() for _ in range(self.size)]
        self.pipes = [ours for ours, _ in pipes]
        self.processes = [
            spawn.Process(
                target=_serve, args=(rank, self.size, store, self.timeout, theirs), daemon=True
            )
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process, (_, theirs) in zip(self.processes, pipes, strict=True):
            process.start()
            theirs.close()

    def _in_step(self):
        """Whether no answer is owed, and the processes still reach each other."""
        alive = all(process.is_alive() for process in self.processes)
        if not (self.processes and alive and self._all_answered):
            return False
        return self.outcomes(_count_ranks) == [self.size] * self.size

    def _receive(self, rank, deadline) -> Any:
        try:
            in_time = self.pipes[rank].poll(max(0.0, deadline - time.monotonic()))
            assert in_time, f"rank {rank} hangs"
            return self.pipes[rank].recv()
        except (EOFError, ConnectionResetError):
            return DIED


@contextlib.contextmanager
def collectives_that_fail():
    """The names of torch's collectives that end in an error on this rank."""
    names = ("all_reduce", "all_gather_object")
    failed, ordinary = [], {name: getattr(dist, name) for name in names}

    def recorded(name, *arguments):
        try:
            return ordinary[name](*arguments)
        except Exception:
            failed.append(name)
            raise

    try:
        for name in ordinary:
            setattr(dist, name, functools.partial(recorded, name))
        yield failed
    finally:
        for name, function in ordinary.items():
            setattr(dist, name, function)


def _count_ranks(rank):
    one = torch.ones(1)
    dist.all_reduce(one)
    return int(one)


def _serve(rank, size, path, timeout, pipe):
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    store = dist.FileStore(path, size)
    store.set(f"rank {rank} is there", "yes")
    # The group's timeout also holds for its beginning, and some processes take long to start.
    everybody = [f"rank {other} is there" for other in range(size)]
    store.wait(everybody, datetime.timedelta(seconds=PATIENCE))
    wait = datetime.timedelta(seconds=timeout)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=wait)
    while (task := pipe.recv()) is not None:
        function, arguments = task
        try:
            result = function(rank, *arguments)
        except BaseException as error:
            result = Raised(type(error).__name__, str(error), traceback.format_exc())
        pipe.send(result)
    with contextlib.suppress(RuntimeError):
        dist.destroy_process_group()
