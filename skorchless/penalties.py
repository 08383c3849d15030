r"""The elastic-net penalty, smooth part and proximal step.

.. math:: \Omega(W) = \sum_j \tfrac12 \lambda^{(2)}_j W_j^2 + \lambda^{(1)}_j |W_j|

with :math:`\lambda^{(2)}_j = \alpha (1 - \rho) f_j^2` and
:math:`\lambda^{(1)}_j = \alpha \rho f_j`, where :math:`\rho` is ``l1_ratio``. The factor
:math:`f_j` is 0 for the intercept; otherwise it is what a weight on standardised columns has to be
multiplied by to be one on the user's columns (1 where nothing is standardised).
"""

from copy import copy

import torch
from torch import Tensor, float64

from skorchless.stack import select_models


class ElasticNet:
    """``alpha * (l1_ratio * |W|_1 + (1 - l1_ratio) / 2 * |W|^2)`` for a stack of models.

    Parameters
    ----------
    alpha, l1_ratio : Tensor of shape (M, 1, 1)
    factor : Tensor of shape (D + 1,)
        Weight on the user's columns per weight of the training loop; 0 for the intercept.
    """

    def __init__(self, alpha: Tensor, l1_ratio: Tensor, factor: Tensor) -> None:
        wide, most = factor.to(float64), torch.finfo(factor.dtype).max
        # In double, since the square of a factor can leave the range of float32.
        l1, l2 = alpha * l1_ratio * wide, alpha * (1.0 - l1_ratio) * wide.square()
        # No penalty times an infinite square is still none.
        self.l1 = l1.nan_to_num_(nan=0.0).clamp_(max=most).to(factor.dtype)
        self.l2 = l2.nan_to_num_(nan=0.0).clamp_(max=most).to(factor.dtype)
        self._look()

    def _look(self) -> None:
        """Look once whether there is anything to do, so that no step has to."""
        self.has_l1 = bool(self.l1.any())
        self.has_l2 = bool(self.l2.any())
        self.is_active = self.has_l1 or self.has_l2
        self._l2_of_each: Tensor | None = None
        self._thresholds: tuple[Tensor, Tensor, Tensor] | None = None

    def value(self, weights: Tensor) -> Tensor:
        """Penalty of each model, shape ``(M,)``."""
        wide = weights.to(float64)
        total = (self.l2 * wide.square()).sum(dim=(1, 2)).mul_(0.5)
        return total.add_((self.l1 * wide.abs()).sum(dim=(1, 2))) if self.has_l1 else total

    def add_gradient_(self, weights: Tensor, gradient: Tensor) -> None:
        """Add the smooth part's gradient to `gradient`, in place."""
        if self.has_l2:
            if self._l2_of_each is None:  # laid out like the weights: broadcasting costs more
                self._l2_of_each = self.l2.expand_as(weights).contiguous()
            gradient.addcmul_(weights, self._l2_of_each)

    def prox_(self, weights: Tensor, metric: Tensor) -> None:
        r"""Soft thresholding in the step's own metric, in place.

        `metric` is the step length of each weight: for a step ``W - metric * gradient`` the
        threshold is ``metric * l1``, and weights inside it become exactly zero.
        """
        if self.has_l1:
            if self._thresholds is None:  # made once, since steps are to make no tensors
                like = self.l1 * metric
                self._thresholds = like, torch.empty_like(like), torch.empty_like(weights)
            upper, lower, shrunk = self._thresholds
            torch.neg(torch.mul(self.l1, metric, out=upper), out=lower)
            weights.sub_(torch.clamp(weights, lower, upper, out=shrunk))

    def in_double(self, device: torch.device) -> "ElasticNet":
        """Return a copy on a device, in double precision."""
        moved = copy(self)
        moved.l1, moved.l2 = self.l1.to(device, float64), self.l2.to(device, float64)
        moved._l2_of_each = moved._thresholds = None
        return moved

    def select(self, keep: Tensor) -> None:
        """Keep only some of the models."""
        select_models(self, keep)
        self._look()


class PenaltySum:
    """Sum of a penalty's values over the steps of a pass, at one or two small operations a step."""

    def __init__(self, penalty: ElasticNet, like: Tensor) -> None:
        self.penalty = penalty
        self._squares = torch.zeros_like(like) if penalty.has_l2 else None
        self._magnitudes = torch.zeros_like(like) if penalty.has_l1 else None
        self._room = torch.empty_like(like)

    def add(self, weights: Tensor) -> None:
        """Add the penalty at `weights`."""
        if self._squares is not None:
            self._squares.addcmul_(weights, weights)
        if self._magnitudes is not None:
            self._magnitudes.add_(torch.abs(weights, out=self._room))

    def take(self) -> Tensor | float:
        """The sum of each model, shape ``(M,)``, and start again from zero."""
        total: Tensor | float = 0.0
        if self._squares is not None:
            total = (0.5 * self.penalty.l2 * self._squares).sum(dim=(1, 2), dtype=float64)
            self._squares.zero_()
        if self._magnitudes is not None:
            total = total + (self.penalty.l1 * self._magnitudes).sum(dim=(1, 2), dtype=float64)
            self._magnitudes.zero_()
        return total
