r"""Losses of the raw predictions ``z = x W + b``: value, gradient and curvature by formula.

Conventions
-----------
``raw`` has shape ``(..., M, K, rows)`` and ``target`` ``(..., 1, K, rows)``. For classes the target
is 0 and 1 (logistic) or one-hot (softmax); of many classes it is their number, an integer, of shape
``(..., 1, 1, rows)``. Every loss has

* ``value``: :math:`\ell(z, y)` summed over the K outputs, shape ``(..., M, rows)``: convex, never
  negative, and of a regression zero where z is y,
* ``gradient``: :math:`\partial \ell / \partial z`, written to ``out``, shape as ``raw``,
* ``curvature``: one number a row that scales :math:`\partial^2 \ell / \partial z^2`, shape
  ``(..., M, rows)``: the row weights of a preconditioner that all outputs share,
* ``majorizer``: the curvature of a quadratic that touches the loss and lies above it, one number a
  row as well (for softmax nearly so),
* ``hessian``: :math:`\partial^2 \ell / \partial z^2` itself, where it exists,
* ``dual_step``: dual variables after a Newton step, and the gap of Fenchel's inequality,
* ``hessian_bound``: the least upper bound of the second derivative over all ``z``,
* ``null_model``: the best model that ignores X, and its mean loss,
* ``select``: the same loss for some of the models.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, float64
from torch.nn.functional import softplus

from skorchless.distributed import SINGLE_PROCESS, Communicator, Shard
from skorchless.stack import median

#: Rows of a sample that tells a median.
MEDIAN_ROWS = 4096
#: Log-odds of a class that leave the other one no probability.
CERTAIN = 1e4


@dataclass(frozen=True, eq=False)
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
        if not self.coupled:
            return self.diagonal * tangent
        mean = (self.diagonal * tangent).sum(dim=-2, keepdim=True)
        return (tangent - mean).mul_(self.diagonal)

    def along(self, tangent: Tensor) -> Tensor:
        """The curvature along a vector for each row, shape ``(..., rows)``."""
        return sum_outputs(self.product(tangent).mul_(tangent))


class NullModel(NamedTuple):
    """The best model that ignores X: an intercept alone, or zero where there is none.

    Attributes
    ----------
    intercept : Tensor of shape (M, K) or (1, K)
        In double precision.
    loss : Tensor of shape (M,) or (1,)
        Its mean loss, in double precision.
    """

    intercept: Tensor
    loss: Tensor


class Loss(ABC):
    """What the training loop asks of a loss."""

    hessian_bound: float
    is_regression = False
    """Whether raw predictions are in y's units, rather than log-odds."""
    shift_invariant = False
    """Whether the same number added to all outputs of a row changes nothing."""
    constant_hessian = False
    """Whether ``curvature`` is 1 everywhere, so that one factorisation serves the whole fit."""

    @abstractmethod
    def value(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each row, summed over the outputs."""

    @abstractmethod
    def gradient(self, raw: Tensor, target: Tensor, out: Tensor) -> Tensor:
        """Derivative of the loss in the raw predictions."""

    @abstractmethod
    def curvature(self, raw: Tensor, target: Tensor) -> Tensor:
        """One positive weight a row in place of the second derivative."""

    def majorizer(self, raw: Tensor, target: Tensor) -> Tensor:
        """Curvature of a quadratic that touches the loss at `raw` and lies above it elsewhere."""
        return self.curvature(raw, target)

    @abstractmethod
    def hessian(self, raw: Tensor, target: Tensor) -> SecondDerivative:
        """Second derivative in the raw predictions, almost everywhere."""

    def curvatures(self, raw: Tensor, target: Tensor) -> tuple[SecondDerivative, Tensor]:
        """Return `hessian` and `majorizer`."""
        return self.hessian(raw, target), self.majorizer(raw, target)

    @abstractmethod
    def dual_step(self, raw: Tensor, change: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        r"""Move dual variables as a Newton step moves the gradient.

        Parameters
        ----------
        raw, change : Tensor of shape (..., K, rows)
            Raw predictions, and what the step adds to them.
        target : Tensor

        Returns
        -------
        dual : Tensor of shape (..., K, rows)
            The gradient at `raw` plus the Hessian times `change`, or the nearest such numbers for
            which the conjugate :math:`\ell^*` is finite.
        gap : Tensor of shape (..., rows)
            :math:`\ell(z) + \ell^*(\theta) - \theta^\top z`, never negative (Fenchel's inequality).
        """

    def log_odds(self, raw: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities of the classes, two or more, and relative changes of them.

        Parameters
        ----------
        raw, change : Tensor of shape (..., K, rows)
            Raw predictions of a log loss, and a small change of them.

        Returns
        -------
        p, change : Tensor of shape (..., K or 2, rows)
            The changes have a mean of zero over the classes.
        """
        raise NotImplementedError

    def leave_out(self, raw: Tensor, target: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Remove unlikely classes, or rows that are predicted well, from a log loss.

        Parameters
        ----------
        raw : Tensor of shape (..., K, rows)
        target : Tensor
        kept : Tensor of bool, shape (..., K, rows)
            The outputs that stay. The class that a row has stays in any case.

        Returns
        -------
        raw : Tensor of shape (..., K, rows)
            Raw predictions that give the others no probability, and no loss.
        loss : Tensor of shape (..., rows)
            By how much this lowers the loss.
        """
        raise NotImplementedError

    def best_constant(self, y: Tensor, share: Tensor, comm: Communicator) -> Tensor:
        """Return the constant predictions of least mean loss, ``(M, K, 1)`` or ``(1, K, 1)``.

        A loss with `is_regression` needs it.

        Parameters
        ----------
        y : Tensor of shape (K, n)
        share : Tensor of shape (n,)
            Sample weights that sum to 1 over all processes; sums are reduced with `comm`.
        comm : Communicator
        """
        raise NotImplementedError

    def null_model(
        self,
        target: Tensor,
        weight: Tensor,
        n_outputs: int,
        fit_intercept: bool,
        comm: Communicator = SINGLE_PROCESS,
    ) -> NullModel:
        """Fit an intercept alone.

        `target` has shape ``(n, K)``, or ``(n,)`` with integer classes; `weight` ``(n,)``. Of
        several processes each has rows of its own.
        """
        weight = weight.to(float64)
        if self.is_regression:
            total = weight.sum()
            comm.all_reduce_(total)
            y, share = target.T.to(float64), weight / total
            centre = (
                self.best_constant(y, share, comm) if fit_intercept else y.new_zeros(1, len(y), 1)
            )
            value = (self.value(centre.expand(-1, *y.shape), y) * share).sum(dim=-1)
            comm.all_reduce_(value)
            return NullModel(centre.squeeze(-1), value)
        counts = weight.new_zeros(max(n_outputs, 2))
        if fit_intercept:
            counts.index_add_(0, target.view(-1).long(), weight)
            comm.all_reduce_(counts)
        shares = counts / counts.sum() if fit_intercept else torch.ones_like(counts) / len(counts)
        logits = shares.clamp(min=torch.finfo(float64).tiny).log()
        logits = logits - (logits.mean() if self.shift_invariant else logits[0])
        return NullModel(logits[-n_outputs:].view(1, -1), torch.special.entr(shares).sum().view(1))

    def select(self, keep: Tensor) -> "Loss":
        """The loss of the models that stay in the stack."""
        return self


def sum_outputs(losses: Tensor) -> Tensor:
    """Sums over the outputs, from ``(..., K, rows)``; a view where there is one only."""
    return losses.squeeze(-2) if losses.shape[-2] == 1 else losses.sum(dim=-2)


def mean_of_outputs(curvatures: Tensor) -> Tensor:
    """Means over the outputs, from ``(..., K, rows)``; a view where there is one only."""
    return curvatures.squeeze(-2) if curvatures.shape[-2] == 1 else curvatures.mean(dim=-2)


class HalfSquaredError(Loss):
    r""":math:`\ell = \tfrac12 \sum_k (z_k - y_k)^2`."""

    hessian_bound = 1.0
    is_regression = True
    constant_hessian = True

    def value(self, raw: Tensor, target: Tensor) -> Tensor:
        return sum_outputs((raw - target).square_()).mul_(0.5)

    def gradient(self, raw: Tensor, target: Tensor, out: Tensor) -> Tensor:
        return torch.sub(raw, target, out=out)

    def curvature(self, raw: Tensor, target: Tensor) -> Tensor:
        return torch.ones_like(raw[..., 0, :])

    def hessian(self, raw: Tensor, target: Tensor) -> SecondDerivative:
        return SecondDerivative(torch.ones_like(raw))

    def dual_step(self, raw: Tensor, change: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return raw - target + change, sum_outputs(0.5 * change.square())

    def best_constant(self, y: Tensor, share: Tensor, comm: Communicator) -> Tensor:
        mean = (y @ share).view(1, -1, 1)
        comm.all_reduce_(mean)
        return mean


class Huber(Loss):
    r"""Squared near zero, linear beyond ``delta``, as :class:`torch.nn.HuberLoss`.

    :math:`\ell = \sum_k h(z_k - y_k)` with :math:`h(r) = \tfrac12 r^2` for
    :math:`|r| \le \delta` and :math:`\delta (|r| - \tfrac12 \delta)` beyond.

    The curvature is that of the quadratic that touches ``h`` at r and lies above it everywhere,
    :math:`\min(1, \delta / |r|)` (iteratively reweighted least squares): unlike the second
    derivative it never vanishes.
    """

    hessian_bound = 1.0
    is_regression = True

    def __init__(self, delta: Tensor) -> None:
        self.delta, self._minus_delta = delta, -delta

    def value(self, raw: Tensor, target: Tensor) -> Tensor:
        error = raw - target
        inside = torch.clamp(error, self._minus_delta, self.delta)
        return sum_outputs(inside * torch.sub(error, inside, alpha=0.5))

    def gradient(self, raw: Tensor, target: Tensor, out: Tensor) -> Tensor:
        torch.sub(raw, target, out=out)
        return torch.clamp(out, self._minus_delta, self.delta, out=out)

    def curvature(self, raw: Tensor, target: Tensor) -> Tensor:
        return mean_of_outputs(self._pull(raw, target))

    def hessian(self, raw: Tensor, target: Tensor) -> SecondDerivative:
        return SecondDerivative((raw - target).abs_().le_(self.delta))

    def curvatures(self, raw: Tensor, target: Tensor) -> tuple[SecondDerivative, Tensor]:
        pull = self._pull(raw, target)  # 1 where the loss is quadratic, and less elsewhere
        return SecondDerivative(pull.floor()), mean_of_outputs(pull)

    def _pull(self, raw: Tensor, target: Tensor) -> Tensor:
        error = (raw - target).abs_()
        return self.delta / torch.maximum(error, self.delta)

    def dual_step(self, raw: Tensor, change: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        error = raw - target
        inside = torch.clamp(error, self._minus_delta, self.delta)
        dual = torch.clamp(inside + (error == inside) * change, self._minus_delta, self.delta)
        beyond = torch.sub(error, inside + dual, alpha=0.5)
        return dual, sum_outputs((inside - dual).mul_(beyond))

    def best_constant(self, y: Tensor, share: Tensor, comm: Communicator) -> Tensor:
        delta, centre = self.delta.to(float64), rough_median(y.T, comm).view(1, -1, 1)
        for _ in range(20):  # iteratively reweighted means
            pull = share * delta / torch.maximum((y - centre).abs(), delta)
            pulled, pulls = (pull * y).sum(dim=-1), pull.sum(dim=-1)
            comm.all_reduce_(pulled, pulls)
            centre = (pulled / pulls).unsqueeze(-1)
        return centre

    def select(self, keep: Tensor) -> "Huber":
        return Huber(self.delta.index_select(0, keep))


def rough_median(target: Tensor, comm: Communicator) -> Tensor:
    """Median of each output over some rows at equal distances, or over all if these are few."""
    shard = Shard.of(comm, len(target))
    every = -(-shard.total // MEDIAN_ROWS)
    own = shard.own(torch.arange(0, shard.total, every, device="cpu")).to(target.device)
    return median(comm.all_gather_rows(target.index_select(0, own)), dim=0)


class SoftmaxCrossEntropy(Loss):
    r""":math:`\ell = \log \sum_k e^{z_k} - \sum_k y_k z_k`, y being one-hot.

    The second derivative :math:`\mathrm{diag}(p) - p p^\top` is at most
    :math:`\tfrac12` (Böhning, 1992); the curvature is the mean of its diagonal,
    :math:`\tfrac1K \sum_k p_k (1 - p_k)`.
    """

    hessian_bound = 0.5
    shift_invariant = True

    def value(self, raw: Tensor, target: Tensor) -> Tensor:
        log_p = torch.log_softmax(raw, dim=-2)
        if target.is_floating_point():
            return sum_outputs(log_p.mul_(target)).neg_()
        return log_p.gather(-2, _of_models(target, raw)).squeeze(-2).neg_()

    def gradient(self, raw: Tensor, target: Tensor, out: Tensor) -> Tensor:
        p = torch.softmax(raw, dim=-2, out=out)
        if target.is_floating_point():
            return p.sub_(target)
        return p.scatter_(-2, _of_models(target, raw), -1.0, reduce="add")

    def curvature(self, raw: Tensor, target: Tensor) -> Tensor:
        share = 1.0 / raw.shape[-2]
        return torch.rsub(torch.softmax(raw, dim=-2).square_().sum(dim=-2), share, alpha=share)

    def majorizer(self, raw: Tensor, target: Tensor) -> Tensor:
        return 2.0 * _logistic_majorizer(raw.amax(dim=-2) - raw.amin(dim=-2))

    def hessian(self, raw: Tensor, target: Tensor) -> SecondDerivative:
        return SecondDerivative(torch.softmax(raw, dim=-2), coupled=True)

    def dual_step(self, raw: Tensor, change: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        moved, gap = _moved_probabilities(*self.log_odds(raw, change))
        return moved - is_class(raw, target).to(raw.dtype), gap

    def log_odds(self, raw: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        p = torch.softmax(raw, dim=-2)
        return p, change - (p * change).sum(dim=-2, keepdim=True)

    def leave_out(self, raw: Tensor, target: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        p, kept = torch.softmax(raw, dim=-2), kept | is_class(raw, target)
        others, whole = (p * ~kept).sum(dim=-2), (p * kept).sum(dim=-2)
        # Both are the same number, each without the rounding of small ones.
        whole = whole.clamp_(min=torch.finfo(p.dtype).tiny)
        loss = torch.where(others < 0.5, -torch.log1p(-others), -whole.log())
        return raw.masked_fill(~kept, -torch.inf), loss


def _moved_probabilities(p: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
    """Move probabilities as a Newton step does, and none below zero.

    Parameters
    ----------
    p, change : Tensor of shape (..., K, rows)
        Probabilities of classes, and changes of their log-odds, of mean zero.

    Returns
    -------
    moved : Tensor of shape (..., K, rows)
    divergence : Tensor of shape (..., rows)
        Kullback and Leibler's, of the new from the old ones.
    """
    factor = (1.0 + change).clamp_(min=0.0)
    factor /= (p * factor).sum(dim=-2, keepdim=True)
    # The differences add up to zero over the classes; without them small terms would lose digits.
    terms = torch.xlogy(factor, factor).sub_(factor).add_(1.0)
    return p * factor, terms.mul_(p).sum(dim=-2)


def _of_models(classes: Tensor, raw: Tensor) -> Tensor:
    """Numbers of classes, ``(..., 1, 1, rows)``, beside each model, ``(..., M, 1, rows)``."""
    return classes.expand(*raw.shape[:-2], 1, raw.shape[-1])


def is_class(raw: Tensor, target: Tensor) -> Tensor:
    """Which of the outputs is each row's class, shape ``(..., K, rows)``, from either target."""
    if target.is_floating_point():
        return target > 0
    nothing = torch.zeros_like(raw, dtype=torch.bool)
    return nothing.scatter_(-2, _of_models(target, raw), True)


def _logistic_majorizer(size: Tensor) -> Tensor:
    r""":math:`\tanh(z / 2) / 2z` of logits of this size (Jaakkola and Jordan, 2000)."""
    size = size.clamp(min=torch.finfo(size.dtype).eps)
    return torch.tanh(0.5 * size).div_(2.0 * size)


class LogisticLoss(Loss):
    r"""Cross-entropy of two classes with one logit: :math:`\ell = \log(1 + e^z) - y z`.

    Parameters
    ----------
    keeps_digits : bool
        Whether the value of a row of class 1 is :math:`\log(1 + e^{-z})`, which keeps the digits
        of small losses. Numbers for ``learning_rate`` have always been used without that.
    """

    hessian_bound = 0.25

    def __init__(self, *, keeps_digits: bool = False) -> None:
        self._keeps_digits = keeps_digits

    def value(self, raw: Tensor, target: Tensor) -> Tensor:
        if self._keeps_digits:
            wrong = torch.addcmul(raw, target, raw, value=-2.0)
            return sum_outputs(softplus(wrong, threshold=40.0))
        return sum_outputs(softplus(raw, threshold=40.0).addcmul_(target, raw, value=-1.0))

    def gradient(self, raw: Tensor, target: Tensor, out: Tensor) -> Tensor:
        return torch.sigmoid(raw, out=out).sub_(target)

    def curvature(self, raw: Tensor, target: Tensor) -> Tensor:
        return mean_of_outputs(torch.sigmoid(raw) * torch.sigmoid(-raw))

    def majorizer(self, raw: Tensor, target: Tensor) -> Tensor:
        return sum_outputs(_logistic_majorizer(raw.abs()))

    def hessian(self, raw: Tensor, target: Tensor) -> SecondDerivative:
        return SecondDerivative(torch.sigmoid(raw) * torch.sigmoid(-raw))

    def dual_step(self, raw: Tensor, change: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        moved, gap = _moved_probabilities(*self.log_odds(raw, change))
        return moved[..., 1:, :] - target, gap

    def log_odds(self, raw: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        p = torch.sigmoid(torch.cat([-raw, raw], dim=-2))
        return p, torch.cat([-change, change], dim=-2) * p.flip(-2)

    def leave_out(self, raw: Tensor, target: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        certain = torch.where(target > 0, CERTAIN, -CERTAIN)
        loss = torch.where(kept.squeeze(-2), 0.0, self.value(raw, target))
        return torch.where(kept, raw, certain.to(raw.dtype)), loss


#: Every loss by name; the contract tests run over this table.
LOSSES: dict[str, type[Loss]] = {
    "squared_error": HalfSquaredError,
    "huber": Huber,
    "softmax": SoftmaxCrossEntropy,
    "logistic": LogisticLoss,
}


def make_loss(name: str, delta: Tensor, *, keeps_digits: bool = False) -> Loss:
    """The loss called `name`; `delta`, of shape ``(M, 1, 1)``, is Huber's.

    `keeps_digits` is the parameter of `LogisticLoss`.
    """
    kind = LOSSES[name]
    if kind is LogisticLoss:
        return LogisticLoss(keeps_digits=keeps_digits)
    return Huber(delta) if kind is Huber else kind()
