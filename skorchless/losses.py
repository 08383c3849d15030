r"""Losses of the raw predictions ``z = x W + b``: value, residual and curvature by formula.

Conventions
-----------
``raw`` has shape ``(..., M, K, rows)`` and ``target`` ``(..., 1, K, rows)``. For classes the target
is one-hot (softmax) or 0 and 1 (logistic). Every loss has

* ``value``: :math:`\ell(z, y)` summed over the K outputs, shape ``(..., M, rows)``,
* ``residual``: :math:`\partial \ell / \partial z`, written to ``out``, shape as ``raw``,
* ``curvature``: one number a row that scales :math:`\partial^2 \ell / \partial z^2`, shape
  ``(..., M, rows)``: the row weights of a preconditioner that all outputs share,
* ``hessian``: :math:`\partial^2 \ell / \partial z^2` itself, if the loss has a second derivative
  everywhere,
* ``smoothness``: the least upper bound of the second derivative over all ``z``,
* ``constant_value``: the mean loss of the best model that ignores X, one number or shape ``(M,)``,
* ``select``: the same loss for some of the models.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus

from skorchless.reducer import ONE_PROCESS, Reducer, Shard
from skorchless.stack import WIDE

#: Rows of a sample that tells a median.
MEDIAN_ROWS = 4096


@dataclass(frozen=True)
class SecondDerivative:
    r"""Of each row's loss in its raw predictions, a symmetric matrix of shape ``(K, K)``.

    :math:`\mathrm{diag}(a) - a a^\top` where outputs are `coupled`, else :math:`\mathrm{diag}(a)`.

    Attributes
    ----------
    diagonal : Tensor of shape (..., K, rows)
        a.
    coupled : bool
    """

    diagonal: Tensor
    coupled: bool = False

    def product(self, tangent: Tensor) -> Tensor:
        """The matrix times a vector for each row, shape ``(..., K, rows)``."""
        pulled = self.diagonal * tangent
        if not self.coupled:
            return pulled
        return pulled.addcmul_(self.diagonal, pulled.sum(dim=-2, keepdim=True), value=-1.0)


class Loss(Protocol):
    """What the engine asks of a loss."""

    smoothness: float
    has_units: bool
    """Whether raw predictions are in y's units, rather than log-odds."""
    shift_invariant: bool
    """Whether the same number added to all outputs of a row changes nothing."""
    constant_curvature: bool
    """Whether ``curvature`` is 1 everywhere, so that one factorisation serves the whole fit."""
    twice_differentiable: bool
    """Whether there is a ``hessian``."""

    def value(self, raw: Tensor, target: Tensor) -> Tensor:
        """Loss of each row, summed over the outputs."""

    def residual(self, raw: Tensor, target: Tensor, out: Tensor) -> Tensor:
        """Derivative of the loss in the raw predictions."""

    def curvature(self, raw: Tensor, target: Tensor) -> Tensor:
        """One positive weight a row in place of the second derivative."""

    def hessian(self, raw: Tensor) -> SecondDerivative:
        """Second derivative in the raw predictions; no target has a part in it."""

    def constant_value(
        self,
        target: Tensor,
        weight: Tensor,
        n_outputs: int,
        fit_intercept: bool,
        reducer: Reducer = ONE_PROCESS,
    ) -> Tensor:
        """Mean loss of the best constant model (of zero without intercept), in double precision.

        `target` has shape ``(n, K)``, or ``(n,)`` with integer classes; `weight` ``(n,)``. Of
        several processes each has rows of its own.
        """

    def select(self, keep: Tensor) -> "Loss":
        """The loss of the models that stay in the stack."""


def over_outputs(losses: Tensor) -> Tensor:
    """Sums over the outputs, from ``(..., K, rows)``; a view where there is one only."""
    return losses.squeeze(-2) if losses.shape[-2] == 1 else losses.sum(dim=-2)


class _SharedLoss:
    """A loss without parameters is the same for every model of a stack."""

    has_units = False
    shift_invariant = False
    constant_curvature = False
    twice_differentiable = True

    def select(self, keep: Tensor) -> "_SharedLoss":
        return self


class HalfSquaredError(_SharedLoss):
    r""":math:`\ell = \tfrac12 \sum_k (z_k - y_k)^2`."""

    smoothness = 1.0
    has_units = True
    constant_curvature = True

    def value(self, raw: Tensor, target: Tensor) -> Tensor:
        return over_outputs((raw - target).square_()).mul_(0.5)

    def residual(self, raw: Tensor, target: Tensor, out: Tensor) -> Tensor:
        return torch.sub(raw, target, out=out)

    def curvature(self, raw: Tensor, target: Tensor) -> Tensor:
        return torch.ones_like(raw[..., 0, :])

    def hessian(self, raw: Tensor) -> SecondDerivative:
        return SecondDerivative(torch.ones_like(raw))

    def constant_value(
        self,
        target: Tensor,
        weight: Tensor,
        n_outputs: int,
        fit_intercept: bool,
        reducer: Reducer = ONE_PROCESS,
    ) -> Tensor:
        y, weight = target.to(WIDE), weight.to(WIDE)
        total, sums = weight.sum(), weight @ y
        reducer.sum_(total, sums)
        if fit_intercept:
            y = y - sums / total
        squares = (weight @ y.square()).sum()
        reducer.sum_(squares)
        return 0.5 * squares / total


class Huber:
    r"""Squared near zero, linear beyond ``delta``, as :class:`torch.nn.HuberLoss`.

    :math:`\ell = \sum_k h(z_k - y_k)` with :math:`h(r) = \tfrac12 r^2` for
    :math:`|r| \le \delta` and :math:`\delta (|r| - \tfrac12 \delta)` beyond.

    The curvature is that of the quadratic that touches ``h`` at r and lies above it everywhere,
    :math:`\min(1, \delta / |r|)` (iteratively reweighted least squares): unlike the second
    derivative it never vanishes.
    """

    smoothness = 1.0
    has_units = True
    shift_invariant = False
    constant_curvature = False
    twice_differentiable = False

    def __init__(self, delta: Tensor) -> None:
        self.delta = delta

    def value(self, raw: Tensor, target: Tensor) -> Tensor:
        error = (raw - target).abs_()
        inside = torch.minimum(error, self.delta)
        return over_outputs(inside * (error - 0.5 * inside))

    def residual(self, raw: Tensor, target: Tensor, out: Tensor) -> Tensor:
        torch.sub(raw, target, out=out)
        return torch.clamp(out, -self.delta, self.delta, out=out)

    def curvature(self, raw: Tensor, target: Tensor) -> Tensor:
        error = (raw - target).abs_()
        return over_outputs(self.delta / torch.maximum(error, self.delta)).div_(raw.shape[-2])

    def hessian(self, raw: Tensor) -> SecondDerivative:
        raise NotImplementedError

    def constant_value(
        self,
        target: Tensor,
        weight: Tensor,
        n_outputs: int,
        fit_intercept: bool,
        reducer: Reducer = ONE_PROCESS,
    ) -> Tensor:
        total = weight.sum(dtype=WIDE)
        reducer.sum_(total)
        y, share = target.T.to(WIDE), weight.to(WIDE) / total
        loss = Huber(self.delta.to(WIDE))
        centre = torch.zeros(len(self.delta), n_outputs, 1, dtype=WIDE, device=y.device)
        if fit_intercept:
            centre = centre + _rough_median(target, reducer).to(WIDE).unsqueeze(-1)
            for _ in range(20):  # iteratively reweighted means
                pull = share * loss.delta / torch.maximum((y - centre).abs(), loss.delta)
                pulled, pulls = (pull * y).sum(dim=-1), pull.sum(dim=-1)
                reducer.sum_(pulled, pulls)
                centre = (pulled / pulls).unsqueeze(-1)
        value = (loss.value(centre.expand(-1, -1, y.shape[1]), y) * share).sum(dim=-1)
        reducer.sum_(value)
        return value

    def select(self, keep: Tensor) -> "Huber":
        return Huber(self.delta.index_select(0, keep))


def _rough_median(target: Tensor, reducer: Reducer) -> Tensor:
    """Median of each output over some rows at equal distances, or over all if these are few."""
    shard = Shard.of(reducer, len(target))
    every = -(-shard.total // MEDIAN_ROWS)
    own = shard.own(torch.arange(0, shard.total, every)).to(target.device)
    return reducer.rows(target.index_select(0, own)).median(dim=0).values


class SoftmaxCrossEntropy(_SharedLoss):
    r""":math:`\ell = \log \sum_k e^{z_k} - \sum_k y_k z_k`, y being one-hot.

    The second derivative :math:`\mathrm{diag}(p) - p p^\top` is at most
    :math:`\tfrac12` (Böhning, 1992); the curvature is the mean of its diagonal,
    :math:`\tfrac1K \sum_k p_k (1 - p_k)`.
    """

    smoothness = 0.5
    shift_invariant = True

    def value(self, raw: Tensor, target: Tensor) -> Tensor:
        return over_outputs(torch.log_softmax(raw, dim=-2).mul_(target)).neg_()

    def residual(self, raw: Tensor, target: Tensor, out: Tensor) -> Tensor:
        return torch.softmax(raw, dim=-2, out=out).sub_(target)

    def curvature(self, raw: Tensor, target: Tensor) -> Tensor:
        return (1.0 - torch.softmax(raw, dim=-2).square_().sum(dim=-2)).div_(raw.shape[-2])

    def hessian(self, raw: Tensor) -> SecondDerivative:
        return SecondDerivative(torch.softmax(raw, dim=-2), coupled=True)

    def constant_value(
        self,
        target: Tensor,
        weight: Tensor,
        n_outputs: int,
        fit_intercept: bool,
        reducer: Reducer = ONE_PROCESS,
    ) -> Tensor:
        if not fit_intercept:
            return torch.tensor(float(n_outputs), dtype=WIDE, device=target.device).log()
        counts = torch.bincount(target, weights=weight.to(WIDE), minlength=n_outputs)
        reducer.sum_(counts)
        entropy: Tensor = torch.special.entr(counts / counts.sum()).sum()
        return entropy


class LogisticLoss(_SharedLoss):
    r"""Cross-entropy of two classes with one logit: :math:`\ell = \log(1 + e^z) - y z`."""

    smoothness = 0.25

    def value(self, raw: Tensor, target: Tensor) -> Tensor:
        return over_outputs(softplus(raw, threshold=40.0).addcmul_(target, raw, value=-1.0))

    def residual(self, raw: Tensor, target: Tensor, out: Tensor) -> Tensor:
        return torch.sigmoid(raw, out=out).sub_(target)

    def curvature(self, raw: Tensor, target: Tensor) -> Tensor:
        p = torch.sigmoid(raw)
        return over_outputs(p * (1.0 - p)).div_(raw.shape[-2])

    def hessian(self, raw: Tensor) -> SecondDerivative:
        p = torch.sigmoid(raw)
        return SecondDerivative(p * (1.0 - p))

    def constant_value(
        self,
        target: Tensor,
        weight: Tensor,
        n_outputs: int,
        fit_intercept: bool,
        reducer: Reducer = ONE_PROCESS,
    ) -> Tensor:
        share = torch.tensor(0.5, dtype=WIDE, device=target.device)
        if fit_intercept:
            ones, total = weight.to(WIDE) @ target.to(WIDE), weight.sum(dtype=WIDE)
            reducer.sum_(ones, total)
            share = ones.squeeze() / total
        entropy: Tensor = torch.special.entr(share) + torch.special.entr(1.0 - share)
        return entropy


#: Every loss by name; the contract tests run over this table.
LOSSES: dict[str, type] = {
    "squared_error": HalfSquaredError,
    "huber": Huber,
    "softmax": SoftmaxCrossEntropy,
    "logistic": LogisticLoss,
}


def make_loss(name: str, delta: Tensor) -> Loss:
    """The loss called `name`; `delta`, of shape ``(M, 1, 1)``, is Huber's."""
    kind = LOSSES[name]
    loss: Loss = kind(delta) if kind is Huber else kind()
    return loss
