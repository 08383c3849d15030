r"""Minimise the quadratic model plus L1 without reading data.

.. math:: \min_V\; g^\top (V - W) + \tfrac12 (V - W)^\top B (V - W)
          + \sum_j \lambda^{(1)}_j |V_j|

Accelerated proximal gradient steps with restarts (Beck and Teboulle, 2009; O'Donoghue and Candès,
2015) come first. They cost little, and are all that is needed where B is well conditioned. Then
comes Newton's method on the working set (see `working_set`). Each round solves for the minimiser
over the working set with given signs, and drops weights that change sign until none does, as in
block pivoting (Kim and Park, 2010). If the result is not low enough, the round takes the minimum
on the line along the first solution instead (feature-sign search; Lee et al., 2007), which always
decreases the model.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from skorchless.optimizers.history import dot
from skorchless.optimizers.working_set import (
    LARGEST_DIRECT,
    Model,
    Operator,
    minimum_on_line,
    total,
)

#: Most proximal steps before a working set that is factored, and before any other.
FEW_STEPS, MOST_STEPS = 48, 500
#: Proximal steps end when they are this much shorter than the longest one, if Newton's method
#: follows.
FIRST = 1e-2
#: Accuracy of Newton's method from an accuracy of `FIRST` on.
ROUGH = 0.1
POWER_STEPS = 20
#: Proximal steps between two tests of their length.
CHECKED_EVERY = 4
#: The largest eigenvalue may be this much above what so many steps of power iteration find.
MARGIN = 1.1
#: Most rounds of Newton's method, of working sets that are factored and of larger ones. The former
#: end long before, except for rounding errors.
MOST_ROUNDS, FEW_ROUNDS = 200, 4
#: Most linear systems solved for the same round to drop weights.
MOST_DROPS = 10
#: A round needs a line search if it gains less than this share of the decrease it expected.
ENOUGH = 1e-2
#: Below this share of what may be missing, weights that newly violate their conditions need no
#: further round.
CERTAIN = 1e-3


def shrink(weights: Tensor, threshold: Tensor) -> Tensor:
    """Soft thresholding."""
    return weights - torch.clamp(weights, -threshold, threshold)


def largest_eigenvalue(
    product: Callable[[Tensor], Tensor], like: Tensor, steps: int = POWER_STEPS
) -> Tensor:
    """Power iteration from a start that is the same for every model, shape ``(M, 1, 1)``."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    vector = torch.randn(like.shape[1:], generator=generator, dtype=like.dtype, device="cpu")
    vector = vector.to(like.device).expand_as(like)
    norm = dot(vector, vector).sqrt()
    for _ in range(steps):
        vector = product(vector / norm)
        norm = dot(vector, vector).sqrt().clamp_(min=torch.finfo(like.dtype).tiny)
    return norm


def minimise_model(
    weights: Tensor,
    gradient: Tensor,
    operator: Operator,
    l1: Tensor,
    accuracy: float,
    negligible: Tensor,
    gainable: Tensor,
    rough: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the direction to the minimiser, its slope, and how much lower the minimum may be.

    Parameters
    ----------
    weights, gradient : Tensor of shape (M, K, D + 1)
    operator : Operator
        The matrix B.
    l1 : Tensor of shape (M, 1, D + 1)
    accuracy : float
        Decrease that may be missing, relative to the decrease that was found. From `FIRST` on it
        is instead how long the last proximal step may be, relative to the longest one.
    negligible : Tensor of shape (M,)
        Decrease that may be missing in any case.
    gainable : Tensor of shape (M,)
        A model that has been decreased by more than this is no model of the objective: nothing
        more is looked for.
    rough : Tensor of shape (M, K, D + 1), optional
        A direction to begin with, in the place of proximal steps.

    Returns
    -------
    direction : Tensor of shape (M, K, D + 1)
    slope : Tensor of shape (M,)
        ``g.d + |W + d|_1 - |W|_1`` with the weights of `l1`.
    missing : Tensor of shape (M,)
        Estimate from above of how much the model can still be decreased. It is the duality gap, or
        the decrease that the last solution of the working set promised; infinite where proximal
        steps were enough.
    """
    model = Model(weights, gradient, operator, l1, accuracy, negligible, gainable)
    if rough is None:
        at, done = _proximal_steps(model, accuracy if operator.solve else max(accuracy, FIRST))
    else:
        at = model.start + model.flat(rough)
        done = torch.zeros_like(at[:, :1], dtype=torch.bool)
    at, missing = _newton(model, at, done, accuracy)
    direction = at - model.start
    slope = model.gradient * direction + model.l1 * (at.abs() - model.start.abs())
    models = len(weights)
    return (
        direction.view(weights.shape),
        slope.view(models, -1).sum(dim=1),
        missing.view(models, -1).sum(dim=1),
    )


def _proximal_steps(model: Model, accuracy: float) -> tuple[Tensor, Tensor]:
    """A point after some steps, and whether the last one was `accuracy` times the longest one."""
    root = model.metric.view(model.shape).sqrt()
    largest = largest_eigenvalue(lambda v: model.operator.product(v / root) / root, root)
    curvature = MARGIN * model.flat(largest) * model.metric
    at = ahead = model.start
    age = longest = torch.zeros_like(at[:, :1])
    done = torch.zeros_like(longest, dtype=torch.bool)
    for count in range(MOST_STEPS):
        new = shrink(ahead - model.slope(ahead) / curvature, model.l1 / curvature)
        moved, step = new - at, new - ahead
        age = torch.where(total(step * model.metric * moved) < 0, 0.0, age)  # restart
        if count % CHECKED_EVERY == 0:
            length = total(step * model.metric * step).sqrt()
            # Growing steps show that the power iteration fell short.
            short = (longest > 0) & (length > 4.0 * longest)
            curvature = torch.where(short, 2.0 * curvature, curvature)
            longest = torch.maximum(longest, length)
            at = torch.where(done, at, new)
            done = done | (length <= accuracy * longest)
            if bool(done.all()):
                break
            if count >= FEW_STEPS and model.block is not None and _is_small(at):
                break
        ahead = torch.addcmul(new, moved, age / (age + 3.0))
        at, age = torch.where(done, at, new), age + 1.0
    return at, done


def _is_small(at: Tensor) -> bool:
    """Whether the nonzero weights are few enough to be solved for directly."""
    return int((at != 0).sum(dim=1).max()) <= LARGEST_DIRECT


def _newton(model: Model, at: Tensor, done: Tensor, accuracy: float) -> tuple[Tensor, Tensor]:
    """Newton's method from `at`.

    Returns
    -------
    at : Tensor of shape (P, N)
    missing : Tensor of shape (P, 1)
    """
    at = model.centred(at)
    slope = model.slope(at)
    found = model.decrease(model.start, model.gradient, at, slope)
    better, accuracy = found >= 0, accuracy if accuracy < FIRST else ROUGH
    at, slope = torch.where(better, at, model.start), torch.where(better, slope, model.gradient)
    found, missing = found.clamp(min=0.0), torch.full_like(found, torch.inf)
    live = ~done | (accuracy < ROUGH)
    before = stalled = torch.zeros_like(done)
    if model.operator.solve is not None:
        missing = model.gap(at, slope)
        live = missing > torch.maximum(accuracy * found, model.negligible)
    for _ in range(MOST_ROUNDS if _is_small(at) else FEW_ROUNDS):
        if not bool(live.any()):
            break
        to, there, gain, expected, left = _round(model, at, slope, live)
        missing = torch.where(live, expected, missing)
        moves = live & (gain > 0)
        at, slope = torch.where(moves, model.centred(to), at), torch.where(moves, there, slope)
        found = torch.where(moves, found + gain, found)
        enough = torch.maximum(accuracy * found, model.negligible)
        little = expected <= enough
        # Weights that now violate their conditions had no part in what was expected.
        more = (model.working_set(at, slope) & left).any(dim=1, keepdim=True)
        more = more & ~before & (expected > CERTAIN * enough)
        live = live & (~little | more) & (moves | ~stalled) & (found <= model.gainable)
        before, stalled = little, ~moves
    return at, missing


def _round(
    model: Model, at: Tensor, slope: Tensor, live: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One round of Newton's method for the `live` problems.

    Returns
    -------
    to, slope : Tensor of shape (P, N)
        The new point, and the gradient there.
    gain, expected : Tensor of shape (P, 1)
        The decrease, and the decrease if all weights of the working set kept their signs.
    left : Tensor of bool, shape (P, N)
        Weights that are not in the working set.
    """
    working = model.working_set(at, slope)
    sign = torch.where(at == 0, -slope.sign(), at.sign())
    residual = torch.where(working, slope + model.l1 * sign, 0.0)
    direction = model.direction(working, residual, live.view(-1))
    expected = -0.5 * total(residual * direction)
    left = ~working
    # Weights at zero that would get the other sign are dropped first: with those that remain, the
    # direction is one of descent.
    bound = (model.l1 > 0) & live
    for _ in range(MOST_DROPS):
        wrong = working & bound & (at == 0) & (direction * sign < 0)
        which = wrong.any(dim=1)
        if not bool(which.any()):
            break
        working = working & ~wrong
        again = model.direction(working, residual * working, which)
        direction = torch.where(which.unsqueeze(1), again, direction)
    to = _with_these_signs(model, at, working, bound, sign, direction)
    there = model.slope(to)
    gain = model.decrease(at, slope, to, there)
    if bool((live & (gain < ENOUGH * expected)).any()):
        curvature = total(direction * model.product(direction))
        other = minimum_on_line(at, direction, slope, curvature, model.l1)
        slope_there = model.slope(other)
        other_gain = model.decrease(at, slope, other, slope_there)
        better = other_gain > gain
        to, there = torch.where(better, other, to), torch.where(better, slope_there, there)
        gain = torch.where(better, other_gain, gain)
    return to, there, gain, expected, left


def _with_these_signs(
    model: Model, at: Tensor, working: Tensor, bound: Tensor, sign: Tensor, direction: Tensor
) -> Tensor:
    """Minimiser over those weights of the working set that keep their signs, the others zero."""
    to = at + direction
    for _ in range(MOST_DROPS):
        crossing = working & bound & (to * sign < 0)
        which = crossing.any(dim=1)
        if not bool(which.any()):
            break
        working = working & ~crossing
        base = torch.where(working, at, 0.0)
        residual = working * (model.slope(base) + model.l1 * sign)
        again = base + model.direction(working, residual, which)
        to = torch.where(which.unsqueeze(1), again, to)
    return torch.where(bound & (to * sign < 0), 0.0, to)
