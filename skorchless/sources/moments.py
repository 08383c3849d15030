"""Means and deviations of columns, which add up over parts of the rows."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from skorchless.reducer import Reducer
from skorchless.sources.scaling import Scaling
from skorchless.stack import WIDE


@dataclass(frozen=True, eq=False)
class Moments:
    """Total weight of some rows, their weighted means and sums of squared deviations.

    Parameters
    ----------
    weight : float
    mean, squares : Tensor of shape (D,), in double precision
    """

    weight: float
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, rows: Tensor, weight: Tensor | None) -> "Moments":
        """Of `rows`, of shape ``(n, D)``, with weights of shape ``(n,)``.

        Taken about the first row, so that an offset costs no digits and a constant column has a
        deviation of exactly 0.
        """
        first = rows[0].to(WIDE)
        rows = rows.to(WIDE) - first
        weight = rows.new_ones(len(rows)) if weight is None else weight.to(WIDE)
        total = float(weight.sum())
        offset = weight @ rows / (total or 1.0)
        return cls(total, first + offset, weight @ (rows - offset).square_())

    @classmethod
    def total(cls, parts: Iterable["Moments"]) -> "Moments":
        """Of all parts together."""
        return reduce(cls.merge, parts)

    def merge(self, other: "Moments") -> "Moments":
        """Of both sets of rows together (Chan, Golub and LeVeque, 1983)."""
        weight = self.weight + other.weight
        share = other.weight / (weight or 1.0)
        gap = other.mean - self.mean
        squares = self.squares + other.squares + gap.square() * (self.weight * share)
        return Moments(weight, self.mean + gap * share, squares)

    def over(self, reducer: Reducer) -> "Moments":
        """Of all ranks' rows together, merged in rank order."""
        if reducer.size == 1:
            return self
        own = torch.cat([self.mean.new_tensor([self.weight]), self.mean, self.squares])
        columns = len(self.mean)
        return Moments.total(
            Moments(float(part[0]), part[1 : 1 + columns], part[1 + columns :])
            for part in reducer.rows(own.unsqueeze(0))
        )

    def scaling(self, *, centre: bool, dtype: torch.dtype) -> Scaling:
        """Means and inverse deviations; about zero, not the mean, unless `centre`."""
        variance = (self.squares / self.weight).clamp_(min=0.0)
        noise = (2.0 * torch.finfo(WIDE).eps * self.mean).square()
        mean = self.mean
        if not centre:
            variance = variance + mean.square()
            mean = noise = torch.zeros_like(mean)
        varies = variance > noise
        inverse = torch.where(varies, torch.where(varies, variance, 1.0).rsqrt(), 0.0)
        return Scaling(mean, inverse, dtype)
