r"""Implicit standardisation: the engine sees :math:`(x - \mu) / \sigma`, the user never does.

Weights on standardised columns fold back exactly: :math:`w = \tilde w / \sigma` and
:math:`b = \tilde b - \mu^\top w`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from skorchless.sources.chunk import Chunk
from skorchless.stack import WIDE, pack

#: Means, in deviations, and deviations up to which columns may be standardised implicitly.
MILD = {torch.float32: (8.0, 1e12), torch.float64: (1e4, 1e100)}


class Scaling:
    """Column means and inverse deviations.

    Parameters
    ----------
    mean : Tensor of shape (D,)
    inverse : Tensor of shape (D,)
        One over the deviation; 0 for a constant column, whose weight then stays 0.
    dtype : torch.dtype
        Of the rows that are scaled.
    """

    def __init__(self, mean: Tensor, inverse: Tensor, dtype: torch.dtype) -> None:
        self.mean, self.inverse, self.dtype = mean.to(dtype), inverse.to(dtype), dtype

    def centring(self) -> "Scaling":
        """The same means, every column that varies in its own units."""
        return Scaling(self.mean, self.inverse > 0, self.dtype)

    def pull_back(self, gradient: Tensor) -> Tensor:
        """Gradient in the weights on standardised columns, from that on the user's columns."""
        wide = gradient.to(WIDE)
        intercept = wide[..., -1]
        coef = (wide[..., :-1] - intercept.unsqueeze(-1) * self.mean) * self.inverse
        return pack(coef, intercept)

    def standardise_gram(self, gram: Tensor) -> Tensor:
        """Second moments of the standardised columns, from those of the user's, both (D+1, D+1)."""
        columns = self.pull_back(gram)
        return self.pull_back(columns.mT).mT

    def standardise_squares(self, squares: Tensor, sums: Tensor) -> Tensor:
        """Mean squares of the standardised columns, from the user's mean squares and means."""
        mean, weight = self.mean.to(WIDE), sums[-1]
        centred = squares[:-1] - 2.0 * mean * sums[:-1] + mean.square() * weight
        scaled = centred.clamp_(min=0.0) * self.inverse.to(WIDE).square()
        return torch.cat([scaled, squares[-1:]])

    @property
    def is_mild(self) -> bool:
        """Whether sums over the user's columns, standardised afterwards, keep enough digits.

        Means of many deviations cancel, and columns of very large or small numbers leave the range
        of the dtype when they are squared.
        """
        most_offset, most_scale = MILD[self.dtype]
        inverse = self.inverse[self.inverse > 0].to(WIDE)
        offset = (self.mean * self.inverse).abs().max()
        return bool(offset <= most_offset) and bool(
            ((inverse < most_scale) & (inverse > 1.0 / most_scale)).all()
        )

    def apply(self, rows: Tensor, out: Tensor) -> None:
        """Write the standardised rows to `out`, which may be `rows` itself."""
        torch.sub(rows, self.mean, out=out)
        out.mul_(self.inverse)

    def standardise(self, weights: Tensor) -> Tensor:
        """Weights on the standardised columns with the same predictions, in double precision.

        What a weight on a constant column adds to every prediction moves to the intercept.
        """
        wide = weights.to(WIDE)
        coef, varies = wide[..., :-1], self.inverse > 0
        deviation = 1.0 / torch.where(varies, self.inverse.to(WIDE), 1.0)
        intercept = wide[..., -1] + coef @ self.mean.to(WIDE)
        return pack(torch.where(varies, coef * deviation, 0.0), intercept)

    def fold_back(self, weights: Tensor) -> Tensor:
        """Weights on the user's columns with the same predictions, in double precision."""
        wide = weights.to(WIDE)
        coef = wide[..., :-1] * self.inverse.to(WIDE)
        return pack(coef, wide[..., -1] - coef @ self.mean.to(WIDE))


@dataclass(frozen=True)
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
        offset = weight @ rows / total
        return cls(total, first + offset, weight @ (rows - offset).square_())

    def merge(self, other: "Moments") -> "Moments":
        """Of both sets of rows together (Chan, Golub and LeVeque, 1983)."""
        weight = self.weight + other.weight
        share = other.weight / weight
        gap = other.mean - self.mean
        squares = self.squares + other.squares + gap.square() * (self.weight * share)
        return Moments(weight, self.mean + gap * share, squares)

    def scaling(self, *, centre: bool, dtype: torch.dtype) -> Scaling:
        """Means and inverse deviations; about zero, not the mean, unless `centre`."""
        variance = (self.squares / self.weight).clamp_(min=0.0)
        noise = (2.0 * torch.finfo(dtype).eps * self.mean).square()
        mean = self.mean
        if not centre:
            variance = variance + mean.square()
            mean = noise = torch.zeros_like(mean)
        varies = variance > noise
        inverse = torch.where(varies, torch.where(varies, variance, 1.0).rsqrt(), 0.0)
        return Scaling(mean, inverse, dtype)


def column_moments(chunks: Iterable[Chunk]) -> Moments:
    """Moments of the feature columns over a pass."""
    return reduce(
        Moments.merge,
        (
            Moments.of(chunk.features, None if chunk.weight is None else chunk.weight.view(-1))
            for chunk in chunks
        ),
    )
