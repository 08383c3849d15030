"""Where the optimum of some of the rows is: near all rows', at a fraction of the passes."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import float64

from skorchless.data.base import by_weight, spread
from skorchless.estimators.problem import FitProblem, FitResult

#: One row in so many is enough to begin with, if these are so many, also for each weight, ...
HEAD_SHARE, HEAD_ROWS, HEAD_ROWS_A_WEIGHT = 16, 5000, 10
#: ... and take no more than so many bytes; ...
HEAD_BYTES = 2**26
#: ... and so near to their optimum is near enough.
HEAD_TOL = 1e-2
#: Share of them that must be distinct: a row of much weight is drawn again and again.
LEAST_DISTINCT = 0.5
#: Rows of each class that are among them, or all if there are fewer.
LEAST_ROWS_OF_A_CLASS = 50


def enough_rows(problem: FitProblem) -> int:
    """Rows that tell roughly where the optimum is; 0 if these are not far fewer than all."""
    data, columns = problem.data, problem.data.X.shape[1]
    least = max(HEAD_ROWS, HEAD_ROWS_A_WEIGHT * data.n_outputs * (columns + 1))
    most = HEAD_BYTES // (columns * data.X.dtype.itemsize)
    enough = min(problem.shard.total // HEAD_SHARE, most)
    return enough if enough >= least else 0


def head_of(problem: FitProblem) -> FitProblem | None:
    """The same problem with so many of the rows, by weight, and of every class some.

    Each process chooses from its own rows. None if a few rows have nearly all the weight.
    """
    data, n_rows = problem.data, problem.shard.total
    share = enough_rows(problem) / n_rows
    weight, classifies = data.relative_weight(), not problem.loss.is_regression
    labels = data.target.view(-1).long() if classifies else torch.zeros_like(weight).long()
    counts = torch.bincount(labels)
    even = len(counts) > 0 and share * int(counts.min()) >= LEAST_ROWS_OF_A_CLASS
    if data.weight is None and problem.comm.size == 1 and even:
        rows = spread(len(data.X), math.ceil(share * len(data.X)))
        return roughly(problem, data=data.take(rows))
    chosen, weights = [], []
    for label in counts.nonzero().view(-1).tolist():
        rows = (labels == label).nonzero().view(-1)
        wanted = max(math.ceil(share * len(rows)), min(len(rows), LEAST_ROWS_OF_A_CLASS))
        if data.weight is None:
            of_class = spread(len(rows), wanted)
            stands_for = torch.full((wanted,), len(rows) / wanted, dtype=float64, device="cpu")
        else:
            of_class, stands_for = by_weight(weight[rows], wanted)
        chosen.append(rows[of_class.to(rows.device)])
        weights.append(stands_for.to(rows.device))
    empty = torch.zeros(0, dtype=torch.long, device=weight.device)
    rows, order = torch.cat([empty, *chosen]).sort()
    distinct = torch.tensor(float(len(rows)), dtype=float64, device="cpu")
    problem.comm.all_reduce_(distinct)
    if float(distinct) < LEAST_DISTINCT * share * n_rows:
        return None
    head = replace(data.take(rows), weight=torch.cat([empty.to(float64), *weights])[order])
    return roughly(problem, data=head)


def roughly(problem: FitProblem, **changes: Any) -> FitProblem:
    """The same problem, changed, whose candidates are content to be near their optimum."""
    candidates = [{**candidate, "tol": HEAD_TOL} for candidate in problem.candidates]
    return replace(problem, candidates=candidates, validation=None, **changes)


def start_from(head: FitResult, problem: FitProblem) -> np.ndarray:
    """Weights to start from, ``(M, K, D + 1)``; a model that failed begins where it would have."""
    if head.interrupt is not None:
        raise head.interrupt
    zeros = np.zeros_like(problem.start[0])
    return np.stack([zeros if weights is None else weights for weights in head.weights])
