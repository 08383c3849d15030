r"""Learning rates that need no tuning, for the textbook rules on standardised columns.

For mini-batches of B out of n rows the expected smoothness is

.. math:: L_B = \frac{n (B - 1)}{B (n - 1)} L + \frac{n - B}{B (n - 1)} L_{\max}

with :math:`L` the largest curvature of the objective and :math:`L_{\max}` that of the worst row
(Gower et al., 2019). The step of SGD is :math:`(1 - \mu) / (L_B + \lambda^{(2)})`.
"""

import numpy as np
import torch

from skorchless.objective import Objective
from skorchless.sources import DenseSource
from skorchless.stack import WIDE

SAMPLE_ROWS = 4096
POWER_STEPS = 30
#: Adam's step as a share of the targets' spread, per root of the largest eigenvalue.
ADAM_SHARE = 0.1


def safe_rates(
    optimizer: str, source: DenseSource, objective: Objective, momentum: np.ndarray
) -> np.ndarray:
    """A learning rate for each model of the stack, shape ``(M,)``.

    Parameters
    ----------
    optimizer : {"sgd", "adam"}
    source : DenseSource
        Standardised rows.
    objective : Objective
    momentum : ndarray of shape (M,)
    """
    chunk = source.sample(SAMPLE_ROWS)
    rows = chunk.rows.to(WIDE)
    share = torch.full((len(rows),), chunk.scale[0], dtype=WIDE, device=rows.device)
    if chunk.weight is not None:
        share = share * chunk.weight.reshape(-1)
    vector = rows.new_ones(rows.shape[1])
    for _ in range(POWER_STEPS):
        vector = rows.T @ (share * (rows @ (vector / vector.norm())))
    largest = float(vector.norm())
    if optimizer == "adam":
        spread = 1.0
        if objective.loss.has_units:
            target = chunk.target.squeeze(2).mT.reshape(len(rows), -1).to(WIDE)
            deviation = target - share @ target
            spread = float((share @ deviation.square()).mean().sqrt()) or 1.0
        return np.full(len(momentum), ADAM_SHARE * spread / max(largest, 1.0) ** 0.5)
    n, batch = source.n_rows, source.batch_size
    worst = float(rows.square().sum(dim=1).max())
    noise = (n - batch) / (batch * (n - 1)) if n > 1 else 0.0
    smoothness = objective.loss.smoothness * ((1.0 - noise) * largest + noise * worst)
    l2 = objective.penalty.l2.to(WIDE).amax(dim=(1, 2)).numpy(force=True)
    return (1.0 - momentum) / (smoothness + l2)
