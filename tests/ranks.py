"""Real processes in a real group, which run one function after the other, each on its rank."""

import contextlib
import datetime
import multiprocessing
import os
import tempfile
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
    timeout : float
        The group's, in seconds.
    """

    def __init__(self, size, timeout=20.0):
        spawn = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        store = os.path.join(self._folder.name, "store")
        pipes = [spawn.Pipe() for _ in range(size)]
        self.pipes = [ours for ours, _ in pipes]
        self.processes = [
            spawn.Process(target=_serve, args=(rank, size, store, timeout, theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process, (_, theirs) in zip(self.processes, pipes, strict=True):
            process.start()
            theirs.close()

    def start(self, function, *arguments):
        """Have every rank call ``function(rank, *arguments)``, for `results` to wait for."""
        for pipe in self.pipes:
            pipe.send((function, arguments))

    def results(self):
        """What it gave on each rank: a value, a `Raised`, or `DIED`."""
        return [self._receive(pipe) for pipe in self.pipes]

    def outcomes(self, function, *arguments):
        """Both at once."""
        self.start(function, *arguments)
        return self.results()

    def run(self, function, *arguments):
        """The values, where every rank has one."""
        results = self.outcomes(function, *arguments)
        for rank, result in enumerate(results):
            if isinstance(result, Raised):
                raise AssertionError(f"rank {rank}: {result.trace}")
        return results

    def close(self):
        """End the processes."""
        for pipe in self.pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        for process in self.processes:
            process.join(PATIENCE)
        self._folder.cleanup()

    @staticmethod
    def _receive(pipe) -> Any:
        try:
            assert pipe.poll(PATIENCE), "a rank hangs"
            return pipe.recv()
        except (EOFError, ConnectionResetError):
            return DIED


def _serve(rank, size, store, timeout, pipe):
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    wait = datetime.timedelta(seconds=timeout)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=wait
    )
    while (task := pipe.recv()) is not None:
        function, arguments = task
        try:
            result = function(rank, *arguments)
        except BaseException as error:
            result = Raised(type(error).__name__, str(error), traceback.format_exc())
        pipe.send(result)
    with contextlib.suppress(RuntimeError):
        dist.destroy_process_group()
