r"""Column statistics, and standardisation that is invisible to the user.

Optimizers see :math:`(x - \mu) / \sigma`. Weights on standardised columns correspond exactly to
weights on the user's columns: :math:`w = \tilde w / \sigma` and :math:`b = \tilde b - \mu^\top w`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, float64

from skorchless.data.limits import MILD
from skorchless.distributed import Communicator
from skorchless.stack import pack


class Scaling:
    """Column means and inverse standard deviations.

    Parameters
    ----------
    mean : Tensor of shape (D,)
    inverse : Tensor of shape (D,)
        One over the standard deviation; 0 for a constant column, whose weight then stays 0.
    dtype : torch.dtype
        Of the rows that are scaled.
    """

    def __init__(self, mean: Tensor, inverse: Tensor, dtype: torch.dtype) -> None:
        self.mean, self.inverse, self.dtype = mean.to(dtype), inverse.to(dtype), dtype

    def to(self, device: torch.device) -> "Scaling":
        """Return the same scaling on another device."""
        return Scaling(self.mean.to(device), self.inverse.to(device), self.dtype)

    def centring(self) -> "Scaling":
        """Return the same means with every column that varies in its own units."""
        return Scaling(self.mean, self.inverse > 0, self.dtype)

    def damped(self, l2: float) -> "Scaling":
        r"""Divide columns by :math:`\sqrt{\sigma^2 + \lambda}` instead of :math:`\sigma`.

        A penalty of `l2` on the user's weights is one of :math:`\lambda / \sigma^2` on standardised
        ones. Where a column hardly varies, that is more curvature than all the data has, and a
        learning rate that is safe for it is too small for the others. With this scaling the penalty
        is :math:`\lambda / (\sigma^2 + \lambda)`.
        """
        inverse = self.inverse.to(float64)
        damping = torch.hypot(inverse.new_ones(()), l2**0.5 * inverse)
        return Scaling(self.mean, inverse / damping, self.dtype)

    def tempered(self, share: Tensor) -> "Scaling":
        """Scale rarely stored columns of sparse rows less, for optimizers that step per batch.

        A column that only a share p of the rows store has, at a standard deviation of 1, values of
        the order of ``p**-0.5`` where it is stored. A single row then outweighs all others, and
        steps of equal size change its prediction too much. So such a column gets values of the
        order of 1 instead. A column that is stored nowhere keeps its scale.

        Parameters
        ----------
        share : Tensor of shape (D,)
            Share of the rows that store each column, by weight.
        """
        factor = torch.where(share > 0, share, 1.0).sqrt()
        return Scaling(self.mean, self.inverse * factor, self.dtype)

    def scale_gradient(self, gradient: Tensor) -> Tensor:
        """Convert a gradient in weights on the user's columns to one in standardised weights."""
        wide = gradient.to(float64)
        intercept = wide[..., -1]
        coef = (wide[..., :-1] - intercept.unsqueeze(-1) * self.mean) * self.inverse
        return pack(coef, intercept)

    def scale_gram(self, gram: Tensor) -> Tensor:
        """Convert second moments of the user's columns, ``(D + 1, D + 1)``, to standardised ones.

        The last column is the intercept's.
        """
        columns = self.scale_gradient(gram)
        return self.scale_gradient(columns.mT).mT

    def scale_squares(self, squares: Tensor, sums: Tensor) -> Tensor:
        """Convert mean squares and means of the user's columns to standardised mean squares."""
        mean, weight = self.mean.to(float64), sums[-1]
        centred = squares[:-1] - 2.0 * mean * sums[:-1] + mean.square() * weight
        scaled = centred.clamp_(min=0.0) * self.inverse.to(float64).square()
        return torch.cat([scaled, squares[-1:]])

    @property
    def is_mild(self) -> bool:
        """Whether sums over the user's columns keep enough digits when they are scaled afterwards.

        Means of many standard deviations cancel, and squares of very large or very small numbers
        leave the range of the dtype.
        """
        if not len(self.mean):
            return True
        most_offset, most_scale = MILD[self.dtype]
        inverse = self.inverse[self.inverse > 0].to(float64)
        offset = (self.mean * self.inverse).abs().max()
        return bool(offset <= most_offset) and bool(
            ((inverse < most_scale) & (inverse > 1.0 / most_scale)).all()
        )

    def apply(self, rows: Tensor, out: Tensor) -> None:
        """Write the standardised rows to `out`, which may be `rows` itself."""
        torch.sub(rows, self.mean, out=out)
        out.mul_(self.inverse)

    def to_scaled(self, weights: Tensor) -> Tensor:
        """Convert weights on the user's columns to standardised ones with the same predictions.

        They are in double precision. What a weight on a constant column adds to every prediction
        moves to the intercept.
        """
        wide = weights.to(float64)
        coef, varies = wide[..., :-1], self.inverse > 0
        deviation = 1.0 / torch.where(varies, self.inverse.to(float64), 1.0)
        intercept = wide[..., -1] + coef @ self.mean.to(float64)
        return pack(torch.where(varies, coef * deviation, 0.0), intercept)

    def from_scaled(self, weights: Tensor) -> Tensor:
        """Convert standardised weights to the user's columns, in double precision."""
        wide = weights.to(float64)
        coef = wide[..., :-1] * self.inverse.to(float64)
        return pack(coef, wide[..., -1] - coef @ self.mean.to(float64))


@dataclass(frozen=True, eq=False)
class Moments:
    """Total weight of some rows, weighted means of the columns, sums of squared deviations.

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
        """Compute them for `rows` of shape ``(n, D)`` with weights of shape ``(n,)``.

        The first row is subtracted first, so that an offset costs no digits and a constant column
        has a deviation of exactly 0. Deviations are in double precision on a CPU. On other devices,
        where that may be far slower, they are in the rows' own, in units of the largest, and only
        sums are in double.
        """
        if rows.device.type != "cpu":
            return cls._in_own_precision(rows, weight)
        first = rows[0].to(float64)
        rows = rows.to(float64) - first
        weight = rows.new_ones(len(rows)) if weight is None else weight.to(float64)
        total = float(weight.sum())
        offset = weight @ rows / (total or 1.0)
        return cls(total, first + offset, weight @ (rows - offset).square_())

    @classmethod
    def _in_own_precision(cls, rows: Tensor, weight: Tensor | None) -> "Moments":
        first, n_rows = rows[0], float(len(rows))
        total = n_rows if weight is None else float(weight.sum(dtype=float64))

        def summed(deviations: Tensor) -> Tensor:
            if weight is not None:
                deviations.mul_(weight.to(rows.dtype).unsqueeze(1))
            return deviations.sum(dim=0, dtype=float64)

        rows = (0.25 * rows).sub_(first, alpha=0.25)  # differences may leave the range
        size = rows.abs().amax(dim=0).clamp_(min=torch.finfo(rows.dtype).tiny)
        offset = summed(rows.div_(size).clone() if weight is not None else rows.div_(size))
        offset /= total or 1.0
        squares = summed((rows - offset.to(rows.dtype)).square_())
        unit = 4.0 * size.to(float64)
        return cls(total, first + offset * unit, squares * unit.square())

    @classmethod
    def total(cls, parts: Iterable["Moments"]) -> "Moments":
        """Merge the moments of all parts of the rows."""
        return reduce(cls.merge, parts)

    def merge(self, other: "Moments") -> "Moments":
        """Merge with the moments of other rows (Chan, Golub and LeVeque, 1983)."""
        weight = self.weight + other.weight
        share = other.weight / (weight or 1.0)
        gap = other.mean - self.mean
        squares = self.squares + other.squares + gap.square() * (self.weight * share)
        return Moments(weight, self.mean + gap * share, squares)

    def over(self, comm: Communicator) -> "Moments":
        """Merge with those of the other ranks, in rank order."""
        if comm.size == 1:
            return self
        own = torch.cat([self.mean.new_tensor([self.weight]), self.mean, self.squares])
        columns = len(self.mean)
        return Moments.total(
            Moments(float(part[0]), part[1 : 1 + columns], part[1 + columns :])
            for part in comm.all_gather_rows(own.unsqueeze(0))
        )

    def scaling(self, *, centre: bool, dtype: torch.dtype) -> Scaling:
        """Make the scaling to zero mean and unit variance; without `centre`, to unit mean square.

        A variance that rounding of the mean could have made counts as zero.
        """
        variance = (self.squares / self.weight).clamp_(min=0.0)
        noise = (2.0 * torch.finfo(float64).eps * self.mean).square()
        mean = self.mean
        if not centre:
            variance = variance + mean.square()
            mean = noise = torch.zeros_like(mean)
        varies = variance > noise
        inverse = torch.where(varies, torch.where(varies, variance, 1.0).rsqrt(), 0.0)
        return Scaling(mean, inverse, dtype)
