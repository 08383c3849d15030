r"""The quadratic model plus L1, minimised without reading data.

.. math:: \min_V\; g^\top (V - W) + \tfrac12 (V - W)^\top B (V - W)
          + \sum_j \lambda^{(1)}_j |V_j|

by accelerated proximal gradient steps with restarts (Beck and Teboulle, 2009; O'Donoghue and
Candès, 2015).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from skorchless.optimizers.history import dot

MOST_STEPS = 1000
POWER_STEPS = 20
#: Steps between two looks at how it goes.
CHECKED_EVERY = 4
#: What the largest eigenvalue may be above what so many steps of power iteration find.
MARGIN = 1.1


def shrink(weights: Tensor, threshold: Tensor) -> Tensor:
    """Soft thresholding."""
    return weights - torch.clamp(weights, -threshold, threshold)


def largest_eigenvalue(product: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """Power iteration from a start that is the same for every model, shape ``(M, 1, 1)``."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    vector = torch.randn(like.shape[1:], generator=generator, dtype=like.dtype, device="cpu")
    vector = vector.to(like.device).expand_as(like)
    norm = dot(vector, vector).sqrt()
    for _ in range(POWER_STEPS):
        vector = product(vector / norm)
        norm = dot(vector, vector).sqrt().clamp_(min=torch.finfo(like.dtype).tiny)
    return norm


def minimise_model(
    weights: Tensor,
    gradient: Tensor,
    hessian: Callable[[Tensor], Tensor],
    l1: Tensor,
    diagonal: Tensor,
    accuracy: float,
) -> tuple[Tensor, Tensor]:
    """Direction to the model's minimiser and the decrease it promises, as a negative slope.

    Parameters
    ----------
    weights, gradient : Tensor of shape (M, K, D + 1)
    hessian : callable
        ``v -> B v``.
    l1 : Tensor of shape (M, 1, D + 1)
    diagonal : Tensor of shape (M, 1, D + 1)
        Of B, roughly: steps are taken in its metric, where columns of all scales are alike.
    accuracy : float
        The proximal steps end when they are this much shorter than the longest one.

    Returns
    -------
    direction : Tensor of shape (M, K, D + 1)
    slope : Tensor of shape (M,)
        ``g.d + |W + d|_1 - |W|_1`` with the weights of `l1`.
    """
    metric = torch.where(diagonal > 0, diagonal, 1.0)
    root = metric.sqrt()
    largest = largest_eigenvalue(lambda vector: hessian(vector / root) / root, weights)
    curvature = MARGIN * largest * metric
    at, ahead, age = weights, weights, torch.zeros_like(largest)
    longest = torch.zeros_like(largest)
    done = torch.zeros_like(largest, dtype=torch.bool)
    for count in range(MOST_STEPS):
        model_gradient = gradient + hessian(ahead - weights)
        new = shrink(ahead - model_gradient / curvature, l1 / curvature)
        moved, step = new - at, new - ahead
        age = torch.where(dot(step, metric * moved) < 0, 0.0, age)  # restart
        if count % CHECKED_EVERY == 0:
            length = dot(step, metric * step).sqrt()
            # Steps that grow say that the power iteration fell short.
            short = (longest > 0) & (length > 4.0 * longest)
            curvature = torch.where(short, 2.0 * curvature, curvature)
            longest = torch.maximum(longest, length)
            at = torch.where(done, at, new)
            done = done | (length <= accuracy * longest)
            if bool(done.all()):
                break
        ahead = torch.addcmul(new, moved, age / (age + 3.0))
        at, age = torch.where(done, at, new), age + 1.0
    direction = at - weights
    gain = (l1 * (at.abs() - weights.abs())).sum(dim=(1, 2))
    return direction, dot(gradient, direction).view(-1) + gain
