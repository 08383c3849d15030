r"""Elastic nets of many penalties from second moments, each begun at its neighbour's solution.

With second moments :math:`G` of the columns, :math:`c` of columns and target, and :math:`v` of the
target, the objective is

.. math:: P(w) = \tfrac12 (v - 2 w^\top c + w^\top G w)
          + \sum_j \lambda_j |w_j| + \tfrac12 \mu_j w_j^2 .

It is minimised by Newton's method on an active set: the coefficients that are not zero, and those
whose slope :math:`|s_j|`, :math:`s = c - G w - \mu w`, is above :math:`\lambda_j`. As long as they
keep their signs, P is quadratic in them, and a linear system gives its minimum. Coefficients that
change their sign are dropped and the others solved for again, as in block pivoting (Kim and Park,
2010). Where that does not lower P enough, the minimum on the line to the first solution is taken
(feature-sign search; Lee et al., 2007).

The end is the duality gap, which bounds how far P is above its minimum.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from skorchless.optimizers.line_search import stop_distance
from skorchless.optimizers.proximal_newton import (
    ENOUGH,
    LEAST_RIDGE,
    MOST_DROPS,
    cholesky,
    minimum_on_line,
)

#: Most rounds of a penalty.
MOST_ROUNDS = 100
#: Most coefficients that join the active set in a round, or half as many as it has.
LEAST_ADDED = 20
#: Rounding of the gap, relative to the target's second moment, and share of the distance at which
#: a penalty is done that it may be.
ROUNDING, HIDDEN = 1e-14, 0.1


class ElasticNetPath:
    """Solutions for one target, each begun where the last one has ended.

    Parameters
    ----------
    gram : Tensor of shape (D, D), in double precision
        Second moments of columns of unit size.
    cross : Tensor of shape (D,)
    variance : float
        Second moment of the target.
    """

    def __init__(self, gram: Tensor, cross: Tensor, variance: float) -> None:
        self.gram, self.cross, self.variance = gram, cross, variance
        self.weights, self.rest = torch.zeros_like(cross), cross  # rest is c - G w

    def solve(self, l1: Tensor, l2: Tensor, tolerance: float) -> tuple[Tensor, float, bool]:
        """Find the solution of another penalty.

        Parameters
        ----------
        l1, l2 : Tensor of shape (D,)
            Weights of both parts of the penalty; the first are above zero.
        tolerance : float
            ``tol``, as in `stop_distance`.

        Returns
        -------
        weights : Tensor of shape (D,)
        value : float
            The objective.
        solved : bool
            Whether the gap is small enough, and no rounding.
        """
        value, gap = self._value_and_gap(self.weights, self.rest, l1, l2)
        constant = np.array(0.5 * self.variance)
        for _ in range(MOST_ROUNDS):
            near = float(stop_distance(np.array(tolerance), np.array(value), constant))
            if gap <= near:
                hidden = ROUNDING * self.variance > HIDDEN * near
                return self.weights, value, not hidden or not bool(self.weights.any())
            lower, gap, moved = self._round(l1, l2, value)
            if not lower < value:
                break
            value, (self.weights, self.rest) = lower, moved
        return self.weights, value, False

    def _value_and_gap(
        self, weights: Tensor, rest: Tensor, l1: Tensor, l2: Tensor
    ) -> tuple[float, float]:
        """The objective, and the duality gap at the residuals scaled to satisfy all conditions."""
        with_l2 = l2 * weights
        numbers = [
            weights @ self.cross,
            weights @ rest,
            weights @ with_l2,
            l1 @ weights.abs(),
            ((rest - with_l2).abs() / l1).max(),
        ]
        explained, left, squares, magnitudes, ratio = torch.stack(numbers).tolist()
        residual = self.variance - explained - left
        value = 0.5 * residual + magnitudes + 0.5 * squares
        share = 1.0 / max(ratio, 1.0)
        dual = share * (self.variance - explained) - 0.5 * share**2 * (residual + squares)
        return value, value - dual

    def _round(
        self, l1: Tensor, l2: Tensor, value: float
    ) -> tuple[float, float, tuple[Tensor, Tensor]]:
        """One round of Newton's method.

        Returns
        -------
        value, gap : float
            At the new point.
        moved : tuple of Tensor of shape (D,)
            The new point, and ``c - G w`` there.
        """
        slope = self.rest - l2 * self.weights
        active = self._active_set(slope, l1)
        rows = self.gram.index_select(0, active)
        at, slope, l1_of_active = self.weights[active], slope[active], l1[active]
        sign = torch.where(at != 0, at, slope).sign()
        matrix = rows.index_select(1, active)
        matrix.diagonal().add_(l2[active])
        scale = matrix.diagonal().rsqrt()
        unit = (matrix * scale).mul_(scale.unsqueeze(1)).unsqueeze(0)
        factor = cholesky(unit, unit.new_full((1, 1), LEAST_RIDGE)).squeeze(0)
        target = (scale * (self.cross[active] - l1_of_active * sign)).unsqueeze(1)
        whole = torch.cholesky_solve(target, factor)
        solve = partial(_solution, scale, factor, whole)
        first, kept = scale * whole.squeeze(1), torch.ones_like(at, dtype=torch.bool)
        expected = 0.5 * float((slope - l1_of_active * sign) @ (first - at))
        # Those that begin at zero are dropped first: with the others, the way leads downwards.
        first, kept = _drop(solve, sign, first, kept, at == 0)
        to, _ = _drop(solve, sign, first, kept, kept)
        moved = self._moved(active, torch.where(to * sign < 0, 0.0, to), rows)
        lower, gap = self._value_and_gap(*moved, l1, l2)
        if value - lower < ENOUGH * expected:
            way = (first - at).unsqueeze(0)
            curvature = (way @ matrix @ way.T).view(1, 1)
            to = minimum_on_line(at.unsqueeze(0), way, -slope.unsqueeze(0), curvature, l1_of_active)
            on_line = self._moved(active, to.squeeze(0), rows)
            its_value, its_gap = self._value_and_gap(*on_line, l1, l2)
            if its_value < lower:
                lower, gap, moved = its_value, its_gap, on_line
        return lower, gap, moved

    def _active_set(self, slope: Tensor, l1: Tensor) -> Tensor:
        """Places of the coefficients that are not zero, and of those that violate the most."""
        active = self.weights != 0
        excess = torch.where(active, 0.0, slope.abs() - l1)
        violating = excess > 0
        most = max(LEAST_ADDED, int(active.sum()) // 2)
        if int(violating.sum()) > most:
            violating = torch.zeros_like(active).scatter(0, excess.topk(most).indices, True)
        return (active | violating).nonzero().view(-1)

    def _moved(self, active: Tensor, to: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients `to` among zeros, and ``c - G w`` there."""
        weights = torch.zeros_like(self.weights).scatter(0, active, to)
        return weights, self.cross - to @ rows


def _drop(
    solve: Callable[[Tensor], Tensor], sign: Tensor, to: Tensor, kept: Tensor, which: Tensor
) -> tuple[Tensor, Tensor]:
    """Drop some of those that have changed their sign, and solve again, until none has."""
    for _ in range(MOST_DROPS):
        wrong = kept & which & (to * sign < 0)
        if not bool(wrong.any()):
            break
        kept = kept & ~wrong
        to = solve(kept)
    return to, kept


def _solution(scale: Tensor, factor: Tensor, whole: Tensor, kept: Tensor) -> Tensor:
    """The minimum over the coefficients that are kept, whatever their signs; the others are zero.

    It is the solution of the `whole` system with Lagrange multipliers of what is dropped, which
    needs no other factor.
    """
    dropped = (~kept).nonzero().view(-1)
    units = torch.zeros_like(factor[:, : len(dropped)])
    units[dropped, torch.arange(len(dropped), device=dropped.device)] = 1.0
    columns = torch.linalg.solve_triangular(factor, units, upper=False)
    # Where it is singular to rounding the point is not low enough, and the line is searched.
    multipliers = torch.linalg.solve_ex(columns.T @ columns, whole[dropped]).result
    change = torch.linalg.solve_triangular(factor.T, columns @ multipliers, upper=True)
    return torch.where(kept, scale * (whole - change).squeeze(1), 0.0)
