r"""Learning rates: schedules, and rates that need no tuning, on standardised columns.

For mini-batches of B out of n rows the expected smoothness is

.. math:: L_B = \frac{n (B - 1)}{B (n - 1)} L + \frac{n - B}{B (n - 1)} L_{\max}

with :math:`L` the largest curvature of the objective and :math:`L_{\max}` that of the worst row
(Gower et al., 2019). The step of SGD is :math:`(1 - \mu) / (L_B + \lambda^{(2)})`.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, float64

from skorchless.data import BatchLoader, Chunk, Moments
from skorchless.distributed import Communicator
from skorchless.losses import Huber, Loss
from skorchless.objective import LinearObjective
from skorchless.optimizers.proximal_newton import largest_eigenvalue
from skorchless.stack import median

SAMPLE_ROWS = 4096
POWER_STEPS = 30
TINY = 1e-300
#: Distances from the median, in median distances or Huber's delta, from which a target is an
#: outlier.
OUTLIER = 10.0
#: Adam's step as a share of the targets' deviation, per root of the largest eigenvalue.
ADAM_SHARE = 0.1

#: The multiplier in pass `e` of a fit of at most `max_iter` passes.
SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "constant": lambda e, max_iter: 1.0,
    "invscaling": lambda e, max_iter: 1.0 / math.sqrt(1 + e),
    "cosine": lambda e, max_iter: 0.5 * (1.0 + math.cos(math.pi * e / max_iter)),
    # The training loop divides the base rate itself, on each plateau.
    "adaptive": lambda e, max_iter: 1.0,
}

#: On a plateau the adaptive schedule divides the rate by this ...
ADAPTIVE_DIVISOR = 5.0
#: ... and is done once the rate is below this.
ADAPTIVE_FLOOR = 1e-6


def safe_rates(
    optimizer: str, loader: BatchLoader, objective: LinearObjective, momentum: np.ndarray
) -> np.ndarray:
    """A learning rate for each model of the stack, shape ``(M,)``; Adam's in units of y.

    Parameters
    ----------
    optimizer : {"sgd", "adam"}
    loader : BatchLoader
        Standardised rows.
    objective : LinearObjective
    momentum : ndarray of shape (M,)
    """
    if optimizer not in ("sgd", "adam"):
        raise ValueError(f"There is no automatic learning rate for optimizer={optimizer!r}.")
    chunk = loader.sample(SAMPLE_ROWS)
    largest = max(_largest_eigenvalue(chunk, loader.n_columns, loader.dtype, objective.comm), TINY)
    if optimizer == "adam":
        return np.full(len(momentum), ADAM_SHARE / max(largest, 1.0) ** 0.5)
    n, batch = loader.n_rows, loader.batch_size
    worst = float(objective.comm.all_gather_rows(chunk.row_squares()).max())
    noise = (n - batch) / (batch * (n - 1)) if n > 1 else 0.0
    hessian_bound = objective.loss.hessian_bound * ((1.0 - noise) * largest + noise * worst)
    l2 = objective.penalty.l2.to(float64).amax(dim=(1, 2)).numpy(force=True)
    return (1.0 - momentum) / (hessian_bound + l2)


def mean_row_square(loader: BatchLoader, comm: Communicator) -> float:
    """Mean squared length of the rows, 1 at least: of standardised columns, how many a row has."""
    chunk = loader.sample(SAMPLE_ROWS)
    mean = chunk.shares().view(-1) @ chunk.row_squares()
    comm.all_reduce_(mean)
    return max(float(mean), 1.0)


def target_moments(loader: BatchLoader, loss: Loss, comm: Communicator) -> Moments:
    """Means and deviations of numeric targets, from some rows that stand for all.

    For Huber's loss outliers are moved to the edge of the rest, as they hardly count there.
    """
    chunk = loader.sample(SAMPLE_ROWS)
    target = chunk.target.squeeze(2).mT.reshape(-1, loader.n_outputs).to(float64)
    if isinstance(loss, Huber):
        rows = comm.all_gather_rows(target)
        middle = median(rows, dim=0)
        spread = median((rows - middle).abs(), dim=0)
        reach = OUTLIER * torch.maximum(spread, loss.delta.max().to(float64))
        target = torch.clamp(target, middle - reach, middle + reach)
    return Moments.of(target, chunk.shares().squeeze(0) * loader.n_rows).over(comm)


def target_units(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Mean and size of each numeric target, shapes ``(K,)``.

    The size is the deviation, or where there is none a thousandth of the mean, or 1.
    """
    deviation = (moments.squares / moments.weight).clamp(min=0.0).sqrt()
    size = torch.maximum(deviation, 1e-3 * moments.mean.abs())
    size = torch.where(size > 0, size, 1.0)
    return moments.mean.numpy(force=True), size.numpy(force=True)


def _largest_eigenvalue(
    chunk: Chunk, n_columns: int, dtype: torch.dtype, comm: Communicator
) -> float:
    """Of the second moments of a chunk of one batch."""
    (batch,), (_, parts, rows) = chunk.batches, chunk.shape
    share = chunk.shares().view(parts, 1, rows).to(dtype)
    raw, sums = torch.empty_like(share), share.new_empty(parts, 1, n_columns)

    def product(vector: Tensor) -> Tensor:
        batch.matmul(vector.to(dtype).expand(parts, 1, -1), out=raw)
        batch.rmatmul(raw.mul_(share), 1.0, out=sums)
        total = sums.sum(dim=0, keepdim=True, dtype=float64)
        comm.all_reduce_(total)
        return total

    like = torch.empty(1, 1, n_columns, dtype=float64, device=share.device)
    return float(largest_eigenvalue(product, like, POWER_STEPS))
