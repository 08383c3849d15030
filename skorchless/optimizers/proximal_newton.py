r"""Minimise a quadratic model plus L1 without reading data.

.. math:: F(V) = g^\top (V - W) + \tfrac12 (V - W)^\top B (V - W) + \sum_j \lambda_j |V_j|

Accelerated proximal gradient steps with restarts (Beck and Teboulle, 2009; O'Donoghue and Candès,
2015) come first. They cost little, and are all that is needed where B is well conditioned. Then
comes Newton's method on the working set. Each round solves for the minimiser over the working set
with given signs, and drops weights that change sign until none does, as in block pivoting (Kim and
Park, 2010). If the result is not low enough, the round takes the minimum
on the line along the first solution instead (feature-sign search; Lee et al., 2007), which always
decreases the model, and the next rounds add a ridge to B (Levenberg, 1944), as of a proximal point
method, until they are good again.

With :math:`s = g + B (V - W)`, the working set of a point V is made of its nonzero and unpenalised
weights and of those that violate the optimality condition :math:`|s_j| \le \lambda_j`. As long as
they keep a given sign, F is quadratic in them, and a linear system gives its minimiser.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from skorchless.optimizers.conjugate_gradients import conjugate_gradients
from skorchless.optimizers.lbfgs import dot
from skorchless.stack import median

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
#: A round is poor if it gains less than this share.
POOR = 0.1
#: Below this share of what may be missing, weights that newly violate their conditions need no
#: further round.
CERTAIN = 1e-3
#: Working sets above this size are solved by conjugate gradients, not by Cholesky factors.
LARGEST_DIRECT = 1000
#: Numbers in the submatrices that are factored at once.
GROUP = 2**24
#: Ridge that is always added to B, relative to its diagonal, and its growth until a submatrix can
#: be factored.
LEAST_RIDGE, MORE_RIDGE = 1e-13, 30.0
#: The least and the largest ridge after poor rounds, its growth in each, and its decay in others.
SOME_RIDGE, LARGEST_RIDGE, GROWTH, DECAY = 1e-12, 1.0, 100.0, 0.1
#: Squared residual, relative, that conjugate gradients need not fall below.
FINEST_CG = 1e-4
#: Relative rounding error of the model's gradient.
ROUNDING = 1e-15

Block = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True, eq=False)
class Operator:
    """The matrix B of a quadratic model.

    Attributes
    ----------
    product : callable
        ``v -> B v``, for tensors of shape ``(M, K, D + 1)``.
    diagonal : Tensor of shape (M, 1, D + 1) or (M, K, D + 1)
        Approximate diagonal of B.
    block : callable, optional
        Principal submatrices of B, see `Preconditioner.block`.
    separate : bool
        Whether B has no entries between different outputs.
    solve : callable, optional
        The inverse of `product`.
    flat : Tensor of bool, shape (M, 1, D + 1), optional
        Columns in which nothing but L1 depends on what all outputs' weights have in common.
    """

    product: Callable[[Tensor], Tensor]
    diagonal: Tensor
    block: Block | None = None
    separate: bool = False
    solve: Callable[[Tensor], Tensor] | None = None
    flat: Tensor | None = None


class Model:
    """Quadratic models plus L1, as P problems of N unknowns each.

    A problem is a model of the stack, or one output of a model where outputs are `separate`.
    Tensors with one number per problem have shape ``(P, 1)``.

    Parameters
    ----------
    weights, gradient : Tensor of shape (M, K, D + 1)
    operator : Operator
    l1 : Tensor of shape (M, 1, D + 1)
    accuracy : float
        Squared relative residual of directions found by conjugate gradients.
    negligible : Tensor of shape (M,)
        Decrease of each model that does not matter.
    gainable : Tensor of shape (M,)
        Decrease beyond which it is no model of the objective.
    """

    def __init__(
        self,
        weights: Tensor,
        gradient: Tensor,
        operator: Operator,
        l1: Tensor,
        accuracy: float,
        negligible: Tensor,
        gainable: Tensor,
    ) -> None:
        self.shape, self.operator, self.block = weights.shape, operator, operator.block
        self._size = weights[0, 0].numel() if operator.separate else weights[0].numel()
        self._accuracy = max(accuracy, FINEST_CG)
        self.start, self.gradient, self.l1 = (self.flat(t) for t in (weights, gradient, l1))
        diagonal = self.flat(operator.diagonal)
        # Along a weight without curvature the model goes down as far as there is a slope.
        self.metric = torch.where(diagonal > 0, diagonal, LEAST_RIDGE)
        rounding = ROUNDING * (self.l1 + self.gradient.abs())
        each = len(self.start) // len(weights)
        shares = (negligible / each).repeat_interleave(each).unsqueeze(1)
        self.gainable = gainable.repeat_interleave(each).unsqueeze(1)
        self.ridge = torch.full_like(shares, LEAST_RIDGE)
        self.negligible = torch.maximum(shares, total(rounding.square() / self.metric))

    def flat(self, of_models: Tensor) -> Tensor:
        """Reshape from the shape of the models to ``(P, N)``."""
        return of_models.expand(self.shape).reshape(-1, self._size)

    def product(self, vector: Tensor) -> Tensor:
        """``B v``."""
        return self.operator.product(vector.view(self.shape)).view(vector.shape)

    def slope(self, at: Tensor) -> Tensor:
        """Gradient s of the quadratic part."""
        return self.gradient + self.product(at - self.start)

    def decrease(self, at: Tensor, slope: Tensor, to: Tensor, slope_there: Tensor) -> Tensor:
        """``F(at) - F(to)``, from the gradients at both points."""
        smooth = 0.5 * (slope + slope_there) * (at - to)
        return total(smooth + self.l1 * (at.abs() - to.abs()))

    def gap(self, at: Tensor, slope: Tensor) -> Tensor:
        """Duality gap, an upper bound of what F can still be decreased, where B has an inverse."""
        assert self.operator.solve is not None
        dual = torch.clamp(-slope, -self.l1, self.l1)
        rest = slope + dual
        solved = self.flat(self.operator.solve(rest.view(self.shape)))
        return total(self.l1 * at.abs() - dual * at + 0.5 * rest * solved)

    def centred(self, at: Tensor) -> Tensor:
        """Shift `flat` columns to where L1 is least: the median of the outputs' weights is zero.

        Without L1 their mean stays what it was at the start.
        """
        flat = self.operator.flat
        if flat is None:
            return at
        weights = at.view(self.shape)
        middle = median(weights, dim=1).unsqueeze(1)
        moved = (weights - self.start.view(self.shape)).mean(dim=1, keepdim=True)
        penalised = self.l1.view(self.shape)[:, :1] > 0
        return self.flat(weights - torch.where(flat, torch.where(penalised, middle, moved), 0.0))

    def working_set(self, at: Tensor, slope: Tensor) -> Tensor:
        """Which weights may move, shape ``(P, N)``.

        In `flat` columns one output is left out, or the submatrix of B would be singular: the one
        whose condition is violated least.
        """
        working = (at != 0) | (slope.abs() > self.l1) | (self.l1 == 0)
        flat = self.operator.flat
        if flat is None:
            return working
        whole = flat & working.view(self.shape).all(dim=1, keepdim=True)
        violation = torch.where((at == 0) | (self.l1 == 0), slope.abs(), torch.inf)
        least = violation.view(self.shape).argmin(dim=1, keepdim=True)
        left_out = torch.zeros_like(working).view(self.shape).scatter(1, least, whole)
        return working & ~self.flat(left_out)

    def direction(self, working: Tensor, residual: Tensor, problems: Tensor) -> Tensor:
        """``-B^-1 r`` within the working set, with the ridge added to B.

        Parameters
        ----------
        working : Tensor of bool, shape (P, N)
        residual : Tensor of shape (P, N)
            Zero outside the working set.
        problems : Tensor of bool, shape (P,)
            Which problems are asked for. For the others the result may be zero.
        """
        largest = int((working.sum(dim=1) * problems).max())
        if not largest:
            return torch.zeros_like(residual)
        if self.block is None or largest > LARGEST_DIRECT:
            direction, done = self._by_conjugate_gradients(working, residual)
            if done or largest > LARGEST_DIRECT:
                return direction
            self.block = Columns(self.operator.product, residual.view(self.shape)).block
        return self._by_factors(self.block, working, residual, problems, largest)

    def _by_factors(
        self, block: Block, working: Tensor, residual: Tensor, problems: Tensor, largest: int
    ) -> Tensor:
        """`direction` by Cholesky factors of submatrices of size `largest` at most."""
        direction = torch.zeros_like(residual)
        outputs = self.shape[1] if self.operator.separate else 1
        order = working.sort(dim=1, descending=True, stable=True).indices[:, :largest]
        within = torch.arange(largest, device=working.device)
        asked = problems.nonzero().view(-1)
        for group in torch.tensor_split(asked, 1 + len(asked) * largest**2 // GROUP):
            index, inside = order[group], within < working[group].sum(dim=1, keepdim=True)
            places = index + (group % outputs).unsqueeze(1) * self.shape[2]
            matrix = block(group // outputs, places, self.shape[1])
            diagonal = matrix.diagonal(dim1=1, dim2=2)
            scale = inside * torch.where(diagonal > 0, diagonal, LEAST_RIDGE).rsqrt()
            matrix.mul_(scale.unsqueeze(1)).mul_(scale.unsqueeze(2))
            target = (scale * residual[group].gather(1, index)).unsqueeze(2)
            solved = torch.cholesky_solve(target, cholesky(matrix, self.ridge[group])).squeeze(2)
            direction[group] = direction[group].scatter(1, index, -scale * solved)
        return direction

    def _by_conjugate_gradients(self, working: Tensor, residual: Tensor) -> tuple[Tensor, bool]:
        """`direction` from products with B alone, and whether it is accurate."""

        def product(vector: Tensor) -> Tensor:
            flat = vector.squeeze(1)
            return (working * self.product(flat) + self.ridge * self.metric * flat).unsqueeze(1)

        inverse = (working / self.metric).unsqueeze(1)
        accuracy = residual.new_full((len(residual), 1, 1), self._accuracy**0.5)
        direction, ended = conjugate_gradients(
            product, inverse.mul, -residual.unsqueeze(1), accuracy
        )
        return direction.squeeze(1), bool(ended.all())

    def adapt_ridge(self, poor: Tensor, useless: Tensor) -> None:
        """Raise the ridge of problems whose last round was poor, and lower that of the others.

        Where it has become `useless` there is none.

        It shortens directions along which B is nearly singular, on which many signs change.
        """
        more = (GROWTH * self.ridge).clamp(SOME_RIDGE, LARGEST_RIDGE)
        ridge = torch.where(poor, more, DECAY * self.ridge)
        self.ridge = torch.where(useless | (ridge < SOME_RIDGE), LEAST_RIDGE, ridge)


class Columns:
    """Principal submatrices of B from its products with unit vectors, each computed once.

    Parameters
    ----------
    product : callable
    like : Tensor of shape (M, K, D + 1)
        What `product` takes.
    """

    def __init__(self, product: Callable[[Tensor], Tensor], like: Tensor) -> None:
        self.product, self.like = product, like
        self._columns: dict[int, Tensor] = {}

    def block(self, models: Tensor, index: Tensor, outputs: int) -> Tensor:
        """Principal submatrices of B, see `Preconditioner.block`."""
        names, places = torch.unique(index, return_inverse=True)
        columns = torch.stack([self._column(name) for name in names.tolist()], dim=1)  # (M, u, N)
        rows = columns[models].gather(1, places.unsqueeze(2).expand(-1, -1, columns.shape[2]))
        return rows.gather(2, index.unsqueeze(1).expand(-1, index.shape[1], -1))

    def _column(self, place: int) -> Tensor:
        """Column of B for each model, shape ``(M, N)``."""
        if place not in self._columns:
            unit = torch.zeros_like(self.like)
            unit.view(len(unit), -1)[:, place] = 1.0
            self._columns[place] = self.product(unit).flatten(1)
        return self._columns[place]


def minimum_on_line(
    at: Tensor, direction: Tensor, slope: Tensor, curvature: Tensor, l1: Tensor
) -> Tensor:
    """Minimisers of quadratics plus L1 on rays, which are quadratic between changes of sign.

    The derivative along a ray grows with the length, and jumps at changes of sign.

    Parameters
    ----------
    at, direction, slope, l1 : Tensor of shape (P, N)
        Where each ray begins and where it leads, gradient of the quadratic part, weight of L1.
    curvature : Tensor of shape (P, 1)
        Second derivative along the ray.
    """
    signed = torch.where(at == 0, direction.abs(), at.sign() * direction)
    first = total(slope * direction + l1 * signed)
    crosses = (at * direction < 0) & (l1 > 0)
    when = torch.where(crosses, -at / torch.where(crosses, direction, 1.0), torch.inf)
    jump = torch.where(crosses, 2.0 * l1 * direction.abs(), 0.0)
    when, order = when.sort(dim=1)
    # On the host: torch has no deterministic cumulative sum on a GPU.
    passed = jump.gather(1, order).cpu().cumsum(dim=1).to(jump.device)
    constant = torch.cat([first, first + passed], dim=1)
    begins = torch.cat([torch.zeros_like(first), when], dim=1)
    ends = torch.cat([when, torch.full_like(first, torch.inf)], dim=1)
    flat = torch.where(constant < 0, torch.inf, 0.0)
    level = torch.where(curvature > 0, -constant / curvature, flat)
    segment = (level <= ends).to(torch.int8).argmax(dim=1, keepdim=True)
    length = torch.maximum(level, begins).minimum(ends).gather(1, segment)
    length = torch.where(length.isfinite(), length, 0.0)
    reached = torch.zeros_like(crosses).scatter(1, order, when == length)
    return torch.where(reached, 0.0, at + length * direction)


def total(numbers: Tensor) -> Tensor:
    """Sum over the unknowns of each problem, shape ``(P, 1)``."""
    return numbers.sum(dim=1, keepdim=True)


def cholesky(unit: Tensor, ridge: Tensor) -> Tensor:
    """Factor matrices whose diagonal is set to 1 plus a ridge, a larger one if that fails."""
    unit.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    while True:
        unit.diagonal(dim1=1, dim2=2).copy_(1.0 + ridge)
        lower: Tensor
        lower, info = torch.linalg.cholesky_ex(unit)
        failed = info.unsqueeze(1) != 0
        if not bool(failed.any()):
            return lower
        ridge = torch.where(failed, MORE_RIDGE * ridge, ridge)


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
        sure = model.ridge <= LEAST_RIDGE
        missing = torch.where(live & sure, expected, missing)
        moves = live & (gain > 0)
        at, slope = torch.where(moves, model.centred(to), at), torch.where(moves, there, slope)
        found = torch.where(moves, found + gain, found)
        enough = torch.maximum(accuracy * found, model.negligible)
        little = sure & (expected <= enough)
        # Weights that now violate their conditions had no part in what was expected.
        more = (model.working_set(at, slope) & left).any(dim=1, keepdim=True)
        more = more & ~before & (expected > CERTAIN * enough)
        live = live & (~little | more) & (moves | ~stalled) & (found <= model.gainable)
        before, stalled = little, ~moves
        model.adapt_ridge(gain < POOR * expected, ~moves & ~sure)
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
