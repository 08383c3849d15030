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

A new penalty changes all slopes, and many coefficients at zero seem to violate their condition only
until those that are not zero have moved. So where many do, these move first.

The end is the duality gap, which bounds how far P is above its minimum.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import from_numpy

from skorchless.optimizers.line_search import stop_distance
from skorchless.optimizers.proximal_newton import (
    ENOUGH,
    LEAST_RIDGE,
    MORE_RIDGE,
    MOST_DROPS,
    minimum_on_line,
)

#: Most rounds of a penalty.
MOST_ROUNDS = 100
#: Most coefficients that join the active set in a round, or half as many as it has.
LEAST_ADDED = 20
#: A system is factored anew where more than this share of its coefficients, one in so many, differ
#: from those of the factor.
BORDER_SHARE = 8
#: Rounding of the gap, relative to the target's second moment, and share of the distance at which
#: a penalty is done that it may be.
ROUNDING, HIDDEN = 1e-14, 0.1


class ElasticNetPath:
    """Solutions for one target, each begun where the last one has ended.

    The systems of neighbours differ in a few rows. So the factor of one system is kept, and serves
    those that are near it: coefficients that are not among its own border it, and those that are
    not wanted are held at zero by Lagrange multipliers.

    Vectors are NumPy's, whose small operations cost least. Products and systems are PyTorch's: two
    libraries with threads of their own would wait for each other.

    Parameters
    ----------
    gram : ndarray of shape (D, D), in double precision
        Second moments of columns of unit size.
    cross : ndarray of shape (D,)
    variance : float
        Second moment of the target.
    """

    def __init__(self, gram: np.ndarray, cross: np.ndarray, variance: float) -> None:
        self.gram, self.cross, self.variance = gram, cross, variance
        self.weights, self.rest = np.zeros_like(cross), cross  # rest is c - G w
        self.l2 = np.zeros_like(cross)
        self._factor(np.array([], dtype=np.intp))

    def solve(self, l1: np.ndarray, l2: np.ndarray, tolerance: float) -> tuple[float, bool]:
        """Move to the solution of another penalty, which `weights` are then.

        Parameters
        ----------
        l1, l2 : ndarray of shape (D,)
            Weights of both parts of the penalty; the first are above zero.
        tolerance : float
            ``tol``, as in `stop_distance`.

        Returns
        -------
        value : float
            The objective.
        solved : bool
            Whether the gap is small enough, and no rounding.
        """
        if not np.array_equal(l2, self.l2):
            self.l2 = l2
            self._factor(np.array([], dtype=np.intp))
        value, gap = self._value_and_gap(self.weights, self.rest, l1)
        constant = np.array(0.5 * self.variance)
        grow = fresh = False
        for _ in range(MOST_ROUNDS):
            near = float(stop_distance(np.array(tolerance), np.array(value), constant))
            if gap <= near:
                hidden = ROUNDING * self.variance > HIDDEN * near
                return value, not hidden or not self.weights.any()
            lower, lower_gap, moved = self._round(l1, value, grow=grow)
            if lower < value:
                value, gap, (self.weights, self.rest) = lower, lower_gap, moved
                fresh = False
            elif grow and fresh:
                break
            elif grow:  # what borders the factor may be near to singular
                self._factor(np.flatnonzero(self.weights))
                fresh = True
            grow = True
        return value, False

    def _value_and_gap(
        self, weights: np.ndarray, rest: np.ndarray, l1: np.ndarray
    ) -> tuple[float, float]:
        """The objective, and the duality gap at the residuals scaled to satisfy all conditions."""
        with_l2 = self.l2 * weights
        explained, squares = float(weights @ self.cross), float(weights @ with_l2)
        residual = self.variance - explained - float(weights @ rest)
        value = 0.5 * (residual + squares) + float(l1 @ np.abs(weights))
        share = 1.0 / max(float((np.abs(rest - with_l2) / l1).max()), 1.0)
        dual = share * (self.variance - explained) - 0.5 * share**2 * (residual + squares)
        return value, value - dual

    def _round(
        self, l1: np.ndarray, value: float, *, grow: bool
    ) -> tuple[float, float, tuple[np.ndarray, np.ndarray]]:
        """One round of Newton's method.

        Returns
        -------
        value, gap : float
            At the new point.
        moved : tuple of ndarray of shape (D,)
            The new point, and ``c - G w`` there.
        """
        slope = self.rest - self.l2 * self.weights
        # Penalties change all slopes: before the nonzero ones have moved, most violations are none.
        active = self._active_set(slope, l1, grow=grow or not self.weights.any())
        at, slope, l1_of_active = self.weights[active], slope[active], l1[active]
        sign = np.sign(np.where(at != 0, at, slope))
        solve = partial(self._solution, active, self.cross[active] - l1_of_active * sign)
        kept = np.ones(len(active), dtype=bool)
        first = solve(kept)
        expected = 0.5 * float((slope - l1_of_active * sign) @ (first - at))
        # Those that begin at zero are dropped first: with the others, the way leads downwards.
        to, kept = _drop(solve, sign, first, kept, at == 0)
        way = to - at
        to, _ = _drop(solve, sign, to, kept, kept)
        moved = self._moved(active, np.where(to * sign < 0, 0.0, to))
        lower, gap = self._value_and_gap(*moved, l1)
        if not value - lower >= ENOUGH * expected:
            curved = self.cross[active] - self._moved(active, way)[1][active]
            curvature = way @ (curved + self.l2[active] * way)
            from_at, along, of_active, gradient = (
                from_numpy(row).unsqueeze(0) for row in (at, way, l1_of_active, -slope)
            )
            second = torch.tensor([[curvature]], dtype=torch.float64, device="cpu")
            found = minimum_on_line(from_at, along, gradient, second, of_active.squeeze(0))
            on_line = self._moved(active, found.squeeze(0).numpy())
            its_value, its_gap = self._value_and_gap(*on_line, l1)
            if not lower <= its_value:
                lower, gap, moved = its_value, its_gap, on_line
        return lower, gap, moved

    def _active_set(self, slope: np.ndarray, l1: np.ndarray, *, grow: bool) -> np.ndarray:
        """Places of the coefficients that are not zero, and of those that violate the most."""
        active = self.weights != 0
        excess = np.where(active, 0.0, np.abs(slope) - l1)
        violating = np.flatnonzero(excess > 0)
        if not grow and len(violating) > LEAST_ADDED:
            return np.flatnonzero(active)
        most = max(LEAST_ADDED, int(active.sum()) // 2)
        if len(violating) > most:
            violating = violating[np.argpartition(-excess[violating], most)[:most]]
        active[violating] = True
        return np.flatnonzero(active)

    def _moved(self, active: np.ndarray, to: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The coefficients `to` among zeros, and ``c - G w`` there."""
        weights = np.zeros_like(self.weights)
        weights[active] = to
        return weights, self.cross - torch.mv(from_numpy(self.gram), from_numpy(weights)).numpy()

    def _factor(self, basis: np.ndarray) -> None:
        """Factor the system of these coefficients."""
        self.basis, self.place = basis, np.full(len(self.cross), -1)
        self.place[basis] = np.arange(len(basis))
        self.borders: dict[int, torch.Tensor] = {}
        matrix, ridge = from_numpy(self.gram[basis[:, None], basis]), LEAST_RIDGE
        diagonal = matrix.diagonal() + from_numpy(self.l2[basis])
        failed = True
        while failed:
            matrix.diagonal().copy_(diagonal * (1.0 + ridge))
            self.factor, info = torch.linalg.cholesky_ex(matrix)
            failed = bool(info) and ridge < 1.0
            ridge *= MORE_RIDGE

    def _border(self, wanted: list[int]) -> torch.Tensor:
        """What each of these adds to the factor: its row of the system, or that it is zero."""
        new = [j for j in wanted if j not in self.borders]
        if new:
            rows = np.where(self.place[new, None] < 0, self.gram[new][:, self.basis], 0.0)
            own = np.flatnonzero(self.place[new] >= 0)
            rows[own, self.place[new][own]] = 1.0
            solved = torch.linalg.solve_triangular(self.factor, from_numpy(rows).T, upper=False)
            self.borders |= zip(new, solved.T, strict=True)
        return torch.stack([self.borders[j] for j in wanted])

    def _solution(self, active: np.ndarray, target: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """The minimum over those that are kept, whatever their signs; the others are zero."""
        right, wanted = np.zeros_like(self.cross), active[kept]
        right[wanted] = target[kept]
        outside = wanted[self.place[wanted] < 0]
        unwanted = np.setdiff1d(self.basis, wanted, assume_unique=True)
        most = max(LEAST_ADDED, len(self.basis) // BORDER_SHARE)
        if kept.all() and len(outside) + len(unwanted) > most:
            self._factor(wanted)
            outside = unwanted = wanted[:0]
        solution, bordering = np.zeros_like(right), np.concatenate([outside, unwanted])
        lower, inner = self.factor, from_numpy(right[self.basis]).unsqueeze(1)
        inner = torch.linalg.solve_triangular(lower, inner, upper=False)
        if len(bordering):
            border = self._border(bordering.tolist())
            corner, n = -(border @ border.T), len(outside)
            corner[:n, :n] += from_numpy(self.gram[outside[:, None], outside])
            corner.diagonal()[:n] += from_numpy(self.l2[outside] + LEAST_RIDGE)
            rest = from_numpy(right[bordering]).unsqueeze(1) - border @ inner
            multipliers = torch.linalg.solve_ex(corner, rest).result
            inner = inner - border.T @ multipliers
            solution[outside] = multipliers[:n, 0].numpy()
        inner = torch.linalg.solve_triangular(lower.T, inner, upper=True)
        solution[self.basis] = inner[:, 0].numpy()
        return np.where(kept, solution[active], 0.0)


def _drop(
    solve: Callable[[np.ndarray], np.ndarray],
    sign: np.ndarray,
    to: np.ndarray,
    kept: np.ndarray,
    which: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Drop some of those that have changed their sign, and solve again, until none has."""
    for _ in range(MOST_DROPS):
        wrong = kept & which & (to * sign < 0)
        if not wrong.any():
            break
        kept = kept & ~wrong
        to = solve(kept)
    return to, kept
