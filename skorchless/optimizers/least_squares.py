r"""Least squares from second moments, for every penalty at once: with L2 in closed form.

With the weighted second moments of centred columns and targets
:math:`G = \tfrac{1}{S} \sum_i s_i (x_i - \bar x)(x_i - \bar x)^\top` and
:math:`C = \tfrac{1}{S} \sum_i s_i (x_i - \bar x)(y_i - \bar y)^\top`, :math:`S = \sum_i s_i`, the
minimiser of the objective is

.. math:: W = (G + \alpha I)^{-1} C = V (\Lambda + \alpha)^{-1} V^\top C, \qquad
          b = \bar y - W^\top \bar x

so one eigendecomposition :math:`G = V \Lambda V^\top` serves every :math:`\alpha`. Moments add over
parts of the rows (Chan, Golub and LeVeque, 1983), so those of a fold's training rows are the sum of
the other folds'.
"""

from dataclasses import dataclass
from functools import reduce
from itertools import repeat

import numpy as np
import torch
from torch import Tensor, float64

from skorchless.data import LargeMatrix, Matrix
from skorchless.data.base import add_upper_product, mirror, slices
from skorchless.data.dense import symmetric_product
from skorchless.data.limits import numbers_at_once
from skorchless.losses import NullModel
from skorchless.optimizers.elastic_net_path import ElasticNetPath
from skorchless.stack import pack

#: Rows that are taken to double precision at once.
BLOCK_ROWS = 4096
#: Condition of ``G + alpha I`` up to which its inverse keeps ten digits.
MOST_CONDITION = 1e6
#: Relative rounding error of second moments, and of scores that are taken from them.
MOMENT_ERROR, SCORE_ERROR = 1e-14, 1e-8


@dataclass(frozen=True, eq=False)
class Comoments:
    """Total weight, means and second moments about them of some rows, targets behind columns.

    Parameters
    ----------
    weight : float
    mean : Tensor of shape (D + K,), in double precision
    products : Tensor of shape (D + K, D + K), in double precision
        Weighted sums of products of deviations.
    n_outputs : int
        K.
    """

    weight: float
    mean: Tensor
    products: Tensor
    n_outputs: int

    @classmethod
    def of(cls, X: Matrix, target: Tensor, weight: Tensor | None) -> "Comoments":
        """Of rows X ``(n, D)`` with targets ``(n, K)`` and weights ``(n,)``."""
        columns = X.shape[1] + target.shape[1]
        n_rows = numbers_at_once(BLOCK_ROWS * columns, X.device) // columns
        targets = torch.split(target, n_rows)
        weights = repeat(None) if weight is None else torch.split(weight, n_rows)
        rows = (X[start:stop].to_dense() for start, stop in slices(len(X), n_rows))
        blocks = zip(rows, targets, weights, strict=False)
        return reduce(cls.merge, (cls._of_block(*block) for block in blocks))

    @classmethod
    def _of_block(cls, X: Tensor, target: Tensor, weight: Tensor | None) -> "Comoments":
        parts = (X.to(float64), target.to(float64))
        share = parts[0].new_ones(len(X)) if weight is None else weight.to(float64)
        total = float(share.sum())
        mean = torch.cat([share @ part for part in parts]) / (total or 1.0)
        rows = parts[0].new_empty(len(X), len(mean))
        d = X.shape[1]
        torch.sub(parts[0], mean[:d], out=rows[:, :d])
        torch.sub(parts[1], mean[d:], out=rows[:, d:])
        weighted = rows if weight is None else rows * share.unsqueeze(1)
        return cls(total, mean, symmetric_product(weighted, rows), target.shape[1])

    @classmethod
    def in_own_precision(
        cls, X: Tensor | LargeMatrix, target: Tensor, weight: Tensor | None
    ) -> "Comoments":
        """Of dense rows as `of` takes them, from products of these as they lie, summed in double.

        In single precision five digits or more are left, if no mean is more than a few deviations.
        """
        d, wide = X.shape[1], target.to(float64)
        first = wide.mean(dim=0)
        if weight is not None:
            share = weight.to(float64)
            first = (share @ wide) / share.sum()
        columns = d + target.shape[1]
        products = first.new_zeros(columns + 1, columns + 1)  # the last column is the constant one
        n_rows = numbers_at_once(BLOCK_ROWS * columns, X.device) // columns
        for start, stop in slices(len(X), n_rows):
            rows = X[start:stop]
            beside = first.new_ones(stop - start, columns + 1 - d)
            torch.sub(target[start:stop], first, out=beside[:, :-1])
            weighted, own = rows, beside
            if weight is not None:
                share = weight[start:stop].to(float64).unsqueeze(1)
                weighted, own = rows * share.to(rows.dtype), beside * share
            add_upper_product(weighted, rows, products[:d, :d])
            products[d:, :d] += own.to(rows.dtype).T @ rows
            products[d:, d:] += beside.T @ own
        mirror(products[:d, :d])
        products[:d, d:] = products[d:, :d].T
        total = float(products[-1, -1])
        mean = products[-1, :-1] / total
        products = products[:-1, :-1].sub_(total * torch.outer(mean, mean))
        mean[d:] += first
        return cls(total, mean, products, target.shape[1])

    def null_model(self, *, fit_intercept: bool) -> NullModel:
        """Return the best constant model."""
        mean = self.mean[len(self.mean) - self.n_outputs :]
        if fit_intercept:
            return NullModel(mean.unsqueeze(0), 0.5 * self.variances().sum().view(1))
        squares = self.variances() + mean.square()
        return NullModel(torch.zeros_like(mean).unsqueeze(0), 0.5 * squares.sum().view(1))

    def at_constant(
        self, intercept: Tensor, *, fit_intercept: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Value, gradient and Hessian of the mean loss of models without coefficients.

        Parameters
        ----------
        intercept : Tensor of shape (M, K)

        Returns
        -------
        value : Tensor of shape (M,)
        gradient : Tensor of shape (M, K, D + 1)
        hessian : Tensor of shape (D + 1, D + 1)
            That of each output, as all have the same.
        """
        d = len(self.mean) - self.n_outputs
        second, mean = self.products / self.weight, self.mean[:d]
        error = intercept - self.mean[d:]
        value = 0.5 * (second.diagonal()[d:] + error.square()).sum(dim=1)
        slope = mean * error.unsqueeze(-1) - second[d:, :d]
        gradient = pack(slope, error * fit_intercept)
        beside = mean.unsqueeze(0) * fit_intercept
        corner = mean.new_full((1, 1), fit_intercept)
        inner = second[:d, :d] + torch.outer(mean, mean)
        hessian = torch.cat([torch.cat([inner, beside]), torch.cat([beside.T, corner])], dim=1)
        return value, gradient, hessian

    def sizes(self) -> Tensor:
        """Root of the mean square of each column, shape ``(D,)``."""
        columns = slice(None, len(self.mean) - self.n_outputs)
        variance = (self.products.diagonal()[columns] / self.weight).clamp(min=0.0)
        return torch.hypot(self.mean[columns], variance.sqrt())

    def merge(self, other: "Comoments") -> "Comoments":
        """Of both sets of rows together."""
        total = self.weight + other.weight
        share = other.weight / total if total else 0.0
        gap = other.mean - self.mean
        between = torch.outer(gap, gap).mul_(self.weight * share)
        products = between.add_(self.products).add_(other.products)
        return Comoments(total, self.mean + share * gap, products, self.n_outputs)

    def solve(self, alpha: Tensor, *, fit_intercept: bool) -> "Solutions":
        """The minimiser for every `alpha`, of shape ``(M,)``."""
        second, mean = self._second_moments(fit_intercept=fit_intercept)
        d = len(mean) - self.n_outputs
        values, vectors = torch.linalg.eigh(second[:d, :d])
        inside = vectors.T @ second[:d, d:]  # (D, K)
        damped = values.clamp(min=0.0).unsqueeze(0) + alpha.unsqueeze(1)  # (M, D)
        least = damped.min(dim=1).values
        condition = damped.max(dim=1).values / least
        reliable = (least > 0) & (condition <= MOST_CONDITION)
        scaled = inside / torch.where(damped > 0, damped, 1.0).unsqueeze(-1)  # (M, D, K)
        coef = (vectors @ scaled).mT  # (M, K, D)
        intercept = mean[d:] - coef @ mean[:d]
        variance = second[d:, d:].diagonal().sum()
        explained = (inside * scaled).sum(dim=(1, 2))
        value = 0.5 * (variance - explained).clamp(min=0.0)
        return Solutions(pack(coef, intercept), value, 0.5 * variance, reliable)

    def solve_with_l1(
        self, alpha: Tensor, l1_ratio: Tensor, tolerance: Tensor, *, fit_intercept: bool
    ) -> "Solutions":
        """The minimiser for every `alpha` above 0 and `l1_ratio` above 0, all of shape ``(M,)``.

        Each is as near to its minimum as `tolerance` asks for.
        """
        second, mean = self._second_moments(fit_intercept=fit_intercept)
        d, on_host = len(mean) - self.n_outputs, second.numpy(force=True)
        size = np.sqrt(on_host.diagonal()[:d])
        least = 2.0 * np.finfo(np.float64).eps * self.mean[:d].abs().numpy(force=True)
        varies = np.flatnonzero(size > least)
        size = size[varies]
        unit = on_host[varies[:, None], varies] / np.outer(size, size)
        models, outputs = len(alpha), self.n_outputs
        found = np.zeros((models, outputs, d))
        values, solved = np.zeros(models), np.ones(models, dtype=bool)
        penalties = list(zip(alpha.tolist(), l1_ratio.tolist(), tolerance.tolist(), strict=True))
        # From the largest weight of L1 on, which leaves the fewest coefficients.
        order = sorted(range(models), key=lambda i: -penalties[i][0] * penalties[i][1])
        for output in range(outputs):
            variance = float(on_host[d + output, d + output])
            if not len(varies):
                values += 0.5 * variance
                continue
            path = ElasticNetPath(unit, on_host[varies, d + output] / size, variance)
            for i in order:
                strength, share, tol = penalties[i]
                l1, l2 = strength * share / size, strength * (1.0 - share) / np.square(size)
                value, enough = path.solve(l1, l2, tol)
                found[i, output, varies] = path.weights / size
                values[i] += value
                solved[i] &= enough
        coef = torch.from_numpy(found).to(mean.device)
        intercept = mean[d:] - coef @ mean[:d]
        constant = 0.5 * second[d:, d:].diagonal().sum()
        objective = torch.from_numpy(values).to(mean.device)
        reliable = torch.from_numpy(solved).to(mean.device)
        return Solutions(pack(coef, intercept), objective, constant, reliable)

    def variances(self) -> Tensor:
        """Variance of each target, shape ``(K,)``."""
        return self.products.diagonal()[len(self.mean) - self.n_outputs :] / self.weight

    def mean_squares(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared errors of models, and whether they have lost no digits to rounding.

        Parameters
        ----------
        weights : Tensor of shape (M, K, D + 1)

        Returns
        -------
        squares : Tensor of shape (M, K)
        exact : Tensor of bool, shape (M,)
            Whether their relative error is below `SCORE_ERROR`.
        """
        d = len(self.mean) - self.n_outputs
        coef, second = weights[..., :-1], self.products / self.weight
        explained = torch.einsum("mkd,dk->mk", coef, second[:d, d:])
        predicted = ((coef @ second[:d, :d]) * coef).sum(dim=2)
        offset = self.mean[d:] - coef @ self.mean[:d] - weights[..., -1]
        squares = self.variances() - 2.0 * explained + predicted + offset.square()
        # Each term is rounded in proportion to what it is the sum of.
        size = coef.abs() @ second.diagonal()[:d].sqrt()
        at_mean = self.mean[d:].abs() + coef.abs() @ self.mean[:d].abs() + weights[..., -1].abs()
        rounding = (size + self.variances().sqrt()).square() + offset.abs() * at_mean
        exact = MOMENT_ERROR * rounding <= SCORE_ERROR * squares
        return squares, exact.all(dim=1)

    def _second_moments(self, *, fit_intercept: bool) -> tuple[Tensor, Tensor]:
        """Mean products about the means, and these; about zero without an intercept."""
        second, mean = self.products / self.weight, self.mean
        if fit_intercept:
            return second, mean
        return second + torch.outer(mean, mean), torch.zeros_like(mean)

    def excess(self, change: Tensor, alpha: Tensor) -> Tensor:
        """How much the objectives rise if the solutions change so, shape ``(M,)``.

        Parameters
        ----------
        change : Tensor of shape (M, K, D + 1)
        alpha : Tensor of shape (M,)
        """
        d = len(self.mean) - self.n_outputs
        coef = change[..., :-1]
        at_mean = change[..., -1] + coef @ self.mean[:d]
        curved = (coef @ (self.products[:d, :d] / self.weight) * coef).sum(dim=(1, 2))
        return 0.5 * (curved + alpha * coef.square().sum(dim=(1, 2)) + at_mean.square().sum(dim=1))


@dataclass(frozen=True, eq=False)
class Solutions:
    """Least squares solutions of M penalties.

    Attributes
    ----------
    weights : Tensor of shape (M, K, D + 1), in double precision
    value : Tensor of shape (M,)
        Objectives, penalty included.
    constant_value : Tensor of no dimension
        The objective of the best constant model.
    reliable : Tensor of bool, shape (M,)
        Whether conditioning leaves the digits that a fit with refinement would have.
    """

    weights: Tensor
    value: Tensor
    constant_value: Tensor
    reliable: Tensor


def of_others(parts: list[Comoments], others: Comoments | None = None) -> list[Comoments]:
    """For each part the moments of all other rows, without subtracting any.

    Parameters
    ----------
    parts : list of Comoments
        Of disjoint sets of rows, two at least.
    others : Comoments, optional
        Of the rows that are in none of the parts.
    """
    before: list[Comoments | None] = [others]
    for part in parts[:-1]:
        before.append(_join(before[-1], part))
    after: list[Comoments | None] = [None]
    for part in parts[:0:-1]:
        after.append(_join(part, after[-1]))
    joined = [_join(b, a) for b, a in zip(before, reversed(after), strict=True)]
    return [moments for moments in joined if moments is not None]


def _join(first: Comoments | None, second: Comoments | None) -> Comoments | None:
    if first is None or second is None:
        return first if second is None else second
    return first.merge(second)
