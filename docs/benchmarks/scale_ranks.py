"""The parts of `scale.py` that train with several processes, of one thread each, over gloo.

Every rank makes its own rows, block by block, so that 1, 2 and 4 ranks have the same ones.
"""

import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from tools import print_table

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from ranks import Ranks  # the processes of the tests

from skorchless import TorchSoftmaxClassifier

#: Blocks of rows that a data set is made of; a rank has whole ones.
BLOCKS = 8
#: Turns of which the best counts: what else runs on the machine only ever costs time.
REPEATS = 7
LARGE = (1_000_000, 200, 10)
#: Seconds until the group gives up on a rank.
TIMEOUT = 20.0


@cache
def rows(rank: int, size: int, n: int, d: int, k: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """A rank's rows and labels, drawn from a softmax model."""
    scores = np.random.default_rng(0).standard_normal((d, k)).astype(np.float32) / np.sqrt(d)
    own = range(rank * BLOCKS // size, (rank + 1) * BLOCKS // size)
    X, y = np.empty((len(own) * n // BLOCKS, d), dtype), []
    for place, block in enumerate(own):
        rng = np.random.default_rng([1, block])
        made = rng.standard_normal((n // BLOCKS, d), dtype=np.float32)
        X[place * len(made) : (place + 1) * len(made)] = made
        logits = 2.0 * made @ scores + rng.gumbel(size=(len(made), k)).astype(np.float32)
        y.append(logits.argmax(axis=1))
    return X, np.concatenate(y)


def fit(
    rank: int, size: int, shape: tuple[int, int, int], dtype: str, parameters: dict[str, Any]
) -> tuple[float, np.ndarray, int, float]:
    """Seconds, coefficients, passes and objective of one fit on a rank."""
    X, y = rows(rank, size, *shape, dtype)
    model = TorchSoftmaxClassifier(distributed=size > 1, random_state=0, **parameters)
    if size > 1:
        torch.distributed.barrier()
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, y)
    return time.perf_counter() - began, model.coef_, model.n_iter_, model.loss_curve_[-1]


@contextlib.contextmanager
def groups(*sizes: int) -> Iterator[dict[int, Ranks]]:
    """Groups of processes of several sizes."""
    with contextlib.ExitStack() as ends:
        folder = ends.enter_context(tempfile.TemporaryDirectory())
        started = {
            size: Ranks(size, lambda: Path(tempfile.mkdtemp(dir=folder)), TIMEOUT) for size in sizes
        }
        for ranks in started.values():
            ends.callback(ranks.close)
            ranks.get_ready()
        yield started


def slowest(ranks: Ranks, size: int, *what: Any) -> tuple[float, np.ndarray, int, float]:
    """One fit of a group, as its last rank saw it."""
    return max(ranks.run(fit, size, *what), key=lambda result: result[0])


def speed_up() -> None:
    """Two processes beside one, to the default tolerance."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with groups(1, 2) as ranks:
        for turn in range(REPEATS + 1):
            for size, group in ranks.items():
                took, _, passes, objective = slowest(group, size, LARGE, "float32", {})
                if turn:  # the first one makes the rows
                    seconds[size].append(took)
                    last = passes, objective
    one, two = (min(seconds[size]) for size in (1, 2))
    print(f"{LARGE} float32, optimizer='auto', {last[0]} iterations to {last[1]:.6f}")
    print_table(
        ["processes with one thread each", "seconds", "speed-up"],
        [["1", f"{one:.2f}", "1"], ["2", f"{two:.2f}", f"{one / two:.2f}"]],
    )


def agreement() -> None:
    """Coefficients of 1, 2 and 4 ranks."""
    lines = []
    with groups(1, 2, 4) as ranks:
        for shape, dtype in (((200_000, 200, 10), "float64"), ((200_000, 200, 10), "float32")):
            coef = {size: slowest(ranks[size], size, shape, dtype, {})[1] for size in ranks}
            largest = np.abs(coef[1]).max()
            gaps = [f"{np.abs(coef[size] - coef[1]).max() / largest:.1e}" for size in (2, 4)]
            lines.append([f"{shape} {dtype}", *gaps])
    print_table(["largest relative difference from 1 rank", "2 ranks", "4 ranks"], lines)


def end(rank: int, size: int, how: str) -> tuple[float, str]:
    """Seconds from rank 1's end to this rank's error."""
    X, y = rows(rank, size, 16_000, 20, 3, "float32")
    model = TorchSoftmaxClassifier(
        distributed=True, optimizer="sgd", learning_rate=1e-3, max_iter=10**6, tol=None
    )
    torch.distributed.barrier()
    began = time.perf_counter() + 1.0
    if rank == 1:
        number = signal.SIGKILL if how == "is killed" else signal.SIGINT
        threading.Timer(1.0, os.kill, (os.getpid(), number)).start()
    try:
        model.fit(X, y)
    except BaseException as error:
        return time.perf_counter() - began, f"{type(error).__name__}: {error}"
    raise AssertionError("nobody ended it")


def failures() -> None:
    """How long it takes until all know that one rank is gone."""
    lines = []
    for how in ("is interrupted", "is killed"):
        with groups(3) as ranks:
            outcomes = ranks[3].outcomes(end, 3, how)
            for rank in (0, 2):
                seconds, message = outcomes[rank]
                lines.append([f"rank 1 {how}; rank {rank}", f"{seconds:.2f}", message[:80]])
    print_table([f"group's timeout {TIMEOUT:.0f} s", "seconds", "error"], lines)


# The cost model: seconds of one pass of all rows, as a sum of terms.

#: An X of more bytes than this does not stay in the last cache from one pass to the next.
CACHE = 2**27

TERMS = (
    "a number of X (bytes)",
    "the same, if X is above 128 MiB",
    "a number of X and an output",
    "a sample and an output",
    "a pass",
    "a message among 2",
    "a message among 4",
)
FITTED = [
    (200_000, 20, 2),
    (200_000, 200, 2),
    (100_000, 200, 20),
    (40_000, 400, 10),
    (8_000, 50, 5),
    (8_000, 1000, 20),
]
CHECKED = [(120_000, 100, 10), (400_000, 50, 5), (30_000, 600, 4), (4_000, 100, 3)]


def terms(shape: tuple[int, int, int], size: int, cores: int) -> list[float]:
    """How often each of TERMS is paid in a pass."""
    n, d, k = shape
    own = n / min(size, cores)  # of each core
    outputs = 1 if k == 2 else k
    pair, four = (float(size == ranks) for ranks in (2, 4))
    beyond = own * d * (4 * n * d > CACHE)
    return [own * d, beyond, own * d * outputs, own * outputs, 1.0, pair, four]


def seconds_a_pass(groups: dict[int, Ranks]) -> dict[tuple[tuple[int, int, int], int], float]:
    """Time of a full-batch pass of each size on each number of ranks.

    What memory gives changes from minute to minute with what else runs on the machine, so all sizes
    take turns: each has its share of the good ones.
    """
    textbook = {"optimizer": "sgd", "learning_rate": 1e-3, "batch_size": None, "tol": None}
    least: dict[Any, float] = {}
    for _ in range(REPEATS):
        for shape in FITTED + CHECKED:
            for size, ranks in groups.items():
                for count in (1, 1 + passes_of(shape)):
                    parameters = {**textbook, "max_iter": count}
                    took = slowest(ranks, size, shape, "float32", parameters)[0]
                    key = shape, size, count
                    least[key] = min(took, least.get(key, took))
    return {  # what is paid once cancels
        (shape, size): (least[shape, size, 1 + passes_of(shape)] - least[shape, size, 1])
        / passes_of(shape)
        for shape in FITTED + CHECKED
        for size in groups
    }


def passes_of(shape: tuple[int, int, int]) -> int:
    """Passes that take long enough to be timed."""
    n, d, k = shape
    return max(8, min(40, 200_000_000 // (n * d * k)))


def cost_model() -> None:
    """Fit the model to some sizes and check it on others."""
    cores = os.cpu_count() or 1
    with groups(1, 2, 4) as ranks:
        measured = seconds_a_pass(ranks)
    inside = [key for key in measured if key[0] in FITTED]
    matrix = np.array([terms(shape, size, cores) for shape, size in inside])
    target = np.array([measured[key] for key in inside])
    cost, _ = nnls(matrix / target[:, None], np.ones(len(target)))  # relative errors
    print_table(
        ["cost of", "nanoseconds"],
        [[name, f"{1e9 * value:.4g}"] for name, value in zip(TERMS, cost, strict=True)],
    )
    lines = []
    for (shape, size), seconds in measured.items():
        predicted = float(np.array(terms(shape, size, cores)) @ cost)
        part = "fitted" if shape in FITTED else "checked"
        error = f"{100 * (predicted / seconds - 1):+.0f}%"
        cells = [str(shape), str(size), f"{1e3 * seconds:.2f}", f"{1e3 * predicted:.2f}", error]
        lines.append([part, *cells])
    print_table(
        ["", "samples, features, classes", "ranks", "ms per pass", "predicted", "error"], lines
    )
