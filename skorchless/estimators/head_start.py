"""Where the optimum of some of the rows is: near all rows', at a fraction of the passes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from skorchless.estimators.candidates import Parameters
from skorchless.estimators.data import Data
from skorchless.estimators.task import Outcome, Task
from skorchless.reducer import Shard
from skorchless.sources.chunk import spread

#: One row in so many is enough to begin with, if these are so many, also for each weight, ...
HEAD_SHARE, HEAD_ROWS, HEAD_ROWS_A_WEIGHT = 16, 5000, 10
#: ... and take no more than so many bytes; ...
HEAD_BYTES = 2**26
#: ... and so near to their optimum is near enough.
HEAD_TOL = 1e-2


def enough_rows(data: Data, n_rows: int) -> int:
    """Rows that tell roughly where the optimum is; 0 if these are not far fewer than all `n_rows`.

    `data` may be the part of one rank.
    """
    columns = data.X.shape[1]
    least = max(HEAD_ROWS, HEAD_ROWS_A_WEIGHT * data.n_outputs * (columns + 1))
    most = HEAD_BYTES // (columns * data.X.dtype.itemsize)
    enough = min(n_rows // HEAD_SHARE, most)
    return enough if enough >= least else 0


def head_of(task: Task, shard: Shard) -> Task:
    """The same task with so many of the rows."""
    rows = spread(shard.total, enough_rows(task.data, shard.total))
    return replace(task, data=task.data.take(shard.own(rows)), validation=None)


def roughly(candidates: Sequence[Parameters]) -> list[Parameters]:
    """The same candidates, content to be near their optimum."""
    return [{**candidate, "tol": HEAD_TOL} for candidate in candidates]


def start_from(head: Outcome, task: Task) -> np.ndarray:
    """Weights to start from, ``(M, K, D + 1)``; a model that failed begins where it would have."""
    if head.interrupt is not None:
        raise head.interrupt
    zeros = np.zeros_like(task.start[0])
    return np.stack([zeros if weights is None else weights for weights in head.weights])
