r"""Learning rates that need no tuning, for the textbook rules on standardised columns.

For mini-batches of B out of n rows the expected smoothness is

.. math:: L_B = \frac{n (B - 1)}{B (n - 1)} L + \frac{n - B}{B (n - 1)} L_{\max}

with :math:`L` the largest curvature of the objective and :math:`L_{\max}` that of the worst row
(Gower et al., 2019). The step of SGD is :math:`(1 - \mu) / (L_B + \lambda^{(2)})`.
"""

import numpy as np
import torch
from torch import Tensor

from skorchless.objective import Objective
from skorchless.sources import Moments, Source
from skorchless.stack import WIDE

SAMPLE_ROWS = 4096
POWER_STEPS = 30
TINY = 1e-300
#: Adam's step as a share of the targets' deviation, per root of the largest eigenvalue.
ADAM_SHARE = 0.1


def safe_rates(
    optimizer: str, source: Source, objective: Objective, momentum: np.ndarray
) -> np.ndarray:
    """A learning rate for each model of the stack, shape ``(M,)``; Adam's in units of y.

    Parameters
    ----------
    optimizer : {"sgd", "adam"}
    source : Source
        Standardised rows.
    objective : Objective
    momentum : ndarray of shape (M,)
    """
    rows, _, share = _sample(source)
    generator = torch.Generator(device="cpu").manual_seed(0)
    vector = torch.randn(rows.shape[1], generator=generator, dtype=WIDE, device="cpu")
    vector = vector.to(rows.device)
    for _ in range(POWER_STEPS):
        vector = rows.T @ (share * (rows @ (vector / vector.norm().clamp_(min=TINY))))
    largest = max(float(vector.norm()), TINY)
    if optimizer == "adam":
        return np.full(len(momentum), ADAM_SHARE / max(largest, 1.0) ** 0.5)
    n, batch = source.n_rows, source.batch_size
    worst = float(rows.square().sum(dim=1).max())
    noise = (n - batch) / (batch * (n - 1)) if n > 1 else 0.0
    smoothness = objective.loss.smoothness * ((1.0 - noise) * largest + noise * worst)
    l2 = objective.penalty.l2.to(WIDE).amax(dim=(1, 2)).numpy(force=True)
    return (1.0 - momentum) / (smoothness + l2)


def target_moments(source: Source) -> Moments:
    """Means and deviations of numeric targets, from some rows that stand for all."""
    _, target, share = _sample(source)
    return Moments.of(target, share * source.n_rows)


def target_units(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Mean and size of each numeric target, shapes ``(K,)``.

    The size is the deviation, or where there is none a thousandth of the mean, or 1.
    """
    deviation = (moments.squares / moments.weight).clamp(min=0.0).sqrt()
    size = torch.maximum(deviation, 1e-3 * moments.mean.abs())
    size = torch.where(size > 0, size, 1.0)
    return moments.mean.numpy(force=True), size.numpy(force=True)


def _sample(source: Source) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, targets and shares of some rows, in double precision."""
    chunk = source.sample(SAMPLE_ROWS)
    rows, share = chunk.wide_rows(), chunk.shares().squeeze(0)
    target = chunk.target.squeeze(2).mT.reshape(len(rows), -1).to(WIDE)
    return rows, target, share
