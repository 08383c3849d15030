r"""Implicit standardisation: the engine sees :math:`(x - \mu) / \sigma`, the user never does.

Weights on standardised columns fold back exactly: :math:`w = \tilde w / \sigma` and
:math:`b = \tilde b - \mu^\top w`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from skorchless.sources.chunk import Chunk
from skorchless.stack import WIDE


@dataclass(frozen=True)
class Scaling:
    """Column means and inverse deviations.

    Parameters
    ----------
    mean : Tensor of shape (D,), in double precision
    inverse : Tensor of shape (D,), in double precision
        One over the deviation; 0 for a constant column, whose weight then stays 0.
    dtype : torch.dtype
        Of the rows that are scaled.
    """

    mean: Tensor
    inverse: Tensor
    dtype: torch.dtype

    def __post_init__(self) -> None:
        object.__setattr__(self, "_shift", self.mean.to(self.dtype))
        object.__setattr__(self, "_factor", self.inverse.to(self.dtype))

    def centring(self) -> "Scaling":
        """The same means, every column that varies in its own units."""
        return Scaling(self.mean, (self.inverse > 0).to(WIDE), self.dtype)

    def apply(self, rows: Tensor, out: Tensor) -> None:
        """Write the standardised rows to `out`, which may be `rows` itself."""
        torch.sub(rows, self._shift, out=out)
        out.mul_(self._factor)

    def standardise(self, weights: Tensor) -> Tensor:
        """Weights on the standardised columns with the same predictions, in double precision.

        What a weight on a constant column adds to every prediction moves to the intercept.
        """
        wide = weights.to(WIDE)
        coef = wide[..., :-1]
        factor = self._factor.to(WIDE)
        varies = factor > 0
        scaled = torch.where(varies, coef / torch.where(varies, factor, 1.0), 0.0)
        intercept = wide[..., -1] + coef @ self._shift.to(WIDE)
        return torch.cat([scaled, intercept.unsqueeze(-1)], dim=-1)

    def fold_back(self, weights: Tensor) -> Tensor:
        """Weights on the user's columns with the same predictions, in double precision."""
        wide = weights.to(WIDE)
        coef = wide[..., :-1] * self._factor.to(WIDE)
        intercept = wide[..., -1] - coef @ self._shift.to(WIDE)
        return torch.cat([coef, intercept.unsqueeze(-1)], dim=-1)


class Moments:
    """Weighted means and variances of columns that arrive chunk by chunk.

    Sums are taken about the first rows' mean, so that a large offset costs no digits, and merged
    as in Chan, Golub and LeVeque (1983).
    """

    def __init__(self) -> None:
        self.weight = 0.0
        self.mean: Tensor | None = None
        self.squares: Tensor | None = None

    def add(self, rows: Tensor, weight: Tensor | None) -> None:
        """Add `rows`, of shape ``(n, D)``, with weights of shape ``(n,)``."""
        total = float(len(rows)) if weight is None else float(weight.sum(dtype=WIDE))
        if total == 0.0:
            return
        if weight is None:
            weight = rows.new_ones(len(rows))
        start = (weight @ rows).to(WIDE) / total
        centred = rows - start.to(rows.dtype)
        offset = (weight @ centred).to(WIDE) / total
        mean = start.to(rows.dtype).to(WIDE) + offset
        squares = (weight @ centred.square_()).to(WIDE) - total * offset.square()
        self.merge(total, mean, squares)

    def merge(self, weight: float, mean: Tensor, squares: Tensor) -> None:
        """Add another set of rows by its weight, mean and sum of squared deviations."""
        if self.mean is None or self.squares is None:
            self.weight, self.mean, self.squares = weight, mean, squares
            return
        both = self.weight + weight
        gap = mean - self.mean
        self.mean = self.mean + gap * (weight / both)
        self.squares = self.squares + squares + gap.square() * (self.weight * weight / both)
        self.weight = both

    def scaling(self, *, centre: bool, dtype: torch.dtype) -> Scaling:
        """Means and inverse deviations; about zero, not the mean, unless `centre`."""
        assert self.mean is not None and self.squares is not None
        variance = (self.squares / self.weight).clamp_(min=0.0)
        eps = torch.finfo(dtype).eps
        noise = (2.0 * eps * self.mean).square()
        if not centre:
            variance = variance + self.mean.square()
            mean, noise = torch.zeros_like(self.mean), torch.zeros_like(self.mean)
        else:
            mean = self.mean
        varies = variance > noise
        inverse = torch.where(varies, torch.where(varies, variance, 1.0).rsqrt(), 0.0)
        return Scaling(mean=mean, inverse=inverse, dtype=dtype)


def column_moments(chunks: Iterable[Chunk]) -> Moments:
    """Moments of the feature columns over a pass."""
    moments = Moments()
    for chunk in chunks:
        weight = None if chunk.weight is None else chunk.weight.reshape(-1)
        moments.add(chunk.rows[:, :-1], weight)
    return moments
