r"""Implicit standardisation: the engine sees :math:`(x - \mu) / \sigma`, the user never does.

Weights on standardised columns fold back exactly: :math:`w = \tilde w / \sigma` and
:math:`b = \tilde b - \mu^\top w`.
"""

import torch
from torch import Tensor

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

    def damped(self, l2: float) -> "Scaling":
        r"""Columns over :math:`\sqrt{\sigma^2 + \lambda}` rather than their deviation alone.

        A penalty of `l2` on the user's weights is one of :math:`\lambda / \sigma^2` on standardised
        ones: where a column hardly varies, more curved than all the data, and no rate that is safe
        for it is of use to the others. This way it is of :math:`\lambda / (\sigma^2 + \lambda)`.
        """
        inverse = self.inverse.to(WIDE)
        damping = torch.hypot(inverse.new_ones(()), l2**0.5 * inverse)
        return Scaling(self.mean, inverse / damping, self.dtype)

    def tempered(self, share: Tensor) -> "Scaling":
        """The scaling for rules that step after a few rows each.

        A column that is stored in a share p of sparse rows only, scaled to a deviation of 1, is of
        the order of ``p**-0.5`` where it is stored: a single row then outweighs all others, rates
        that are safe for it are useless for the rest, and an equal step for every weight moves its
        prediction out of all proportion. So rare columns are scaled to the order of 1 where they
        are stored. Of one that is stored nowhere there is nothing to tell: it stays as it is.

        Parameters
        ----------
        share : Tensor of shape (D,)
            Share of the rows that store each column, by weight.
        """
        factor = torch.where(share > 0, share, 1.0).sqrt()
        return Scaling(self.mean, self.inverse * factor, self.dtype)

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
        if not len(self.mean):
            return True
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
