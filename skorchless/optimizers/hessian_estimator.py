"""Measures of the curvature of the loss, and the preconditioners that are made of them."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, float64
from torch.utils.weak import WeakIdKeyDictionary

from skorchless.data import BatchLoader, Chunk
from skorchless.losses import SecondDerivative, is_class
from skorchless.objective import LinearObjective, raw_predictions
from skorchless.optimizers.hessian import (
    Diagonal,
    Factored,
    Preconditioner,
    own_blocks,
    softmax_hessian,
)
from skorchless.optimizers.lbfgs import dot

#: Rows a column of a sample that tells curvature, and of one that least squares are solved from.
CURVATURE_ROWS, SOLVING_ROWS = 8, 16
#: Rows whose mean curvature tells when to measure it anew for all.
GAUGE_ROWS = 1024
#: Multiply-adds that a CPU makes about as fast as a GPU launches what they replace.
MOST_WORK = 2**24
#: The largest matrix that a CPU factors in the time of a few passes.
MOST_COLUMNS = 1024
#: Where second moments are a diagonal: operations between two passes with every weight.
OF_EACH_WEIGHT = 16
#: What reading a number in a pass costs, in the multiply-adds that it delays.
PASS_WORK = 32
#: Multiply-adds of a product with the rows below which the small operations around it cost more.
CHEAP_PRODUCT = 2**22
#: Multiply-adds that second moments of all weights and their factor may take.
CHEAP_HESSIAN = 3 * 2**23
#: The same where conjugate gradients have led to steps that failed, or an end has to be checked.
DEAR_HESSIAN = 2**30
#: Numbers of a table that may be copied for that.
MOST_NUMBERS = 2**23
#: A row that a direction changes by less than this share of the largest change is not moved by it.
UNMOVED = 1e-10
#: Up to so many columns second moments are worth their cost where rows are fewer.
MOST_SQUARE_COLUMNS = 1000
#: The curvature of a row lasts if a step leaves this share of it.
LASTING = 0.7
#: A change of this share of the terms that it is the sum of may be all rounding.
UNSEEN = 1e-10
#: Up to this residual a logistic or softmax loss is at most twice the residual.
SMALL_RESIDUAL = 0.5
#: Models of a stack whose mean curvatures are within this factor share one measurement ...
ALIKE = 1.4
#: ... if one for each of them would take as many multiply-adds as this.
WORTH_SHARING = 2**29


def sample_size(n_columns: int, rows_a_column: int = CURVATURE_ROWS) -> int:
    """Rows of a sample that tells second moments."""
    return max(rows_a_column * n_columns, 8192)


class HessianEstimator:
    """Measures the curvature of the loss, wherever the weights are.

    That takes max(8 d, 8192) rows at random. Where the curvature is constant (squared error) all
    rows are taken, once, as the first pass goes by, so that the preconditioner is exact; unless
    there are so many columns that a sample and the passes it then takes are less work.

    Parameters
    ----------
    loader : BatchLoader
        Rows as the weights see them.
    objective : LinearObjective
    home : torch.device, optional
        Where preconditioners are wanted; with the rows by default.

    Attributes
    ----------
    misses_columns : bool
        Whether the sample has missed columns, so that only a bound of their curvature is known.
    is_exact : bool
        Whether the preconditioner is the inverse of the loss's own second derivative, on all rows.
    """

    def __init__(
        self, loader: BatchLoader, objective: LinearObjective, home: torch.device | None = None
    ) -> None:
        self.loader, self.objective = loader, objective
        self.home = loader.device if home is None else home
        self.noise = float(torch.finfo(loader.dtype).eps ** 0.8)
        self.constant = objective.loss.constant_hessian
        columns = loader.n_columns
        few_rows = loader.n_rows < columns - 1
        wide = few_rows and columns > MOST_SQUARE_COLUMNS
        self._diagonal = wide or not loader.affords_gram
        sampled = few_rows or self._diagonal or not self.constant or self._saves_work(loader)
        n_sample = sample_size(columns, SOLVING_ROWS if self.constant else CURVATURE_ROWS)
        n_sample = GAUGE_ROWS if self._diagonal else n_sample
        exact = not sampled
        self.covers_all_rows = exact or (not self._diagonal and 2 * n_sample >= loader.n_rows)
        self.wants_pass = exact or not self.covers_all_rows
        self._moments: Tensor | None = None
        self.misses_columns = False
        self._sample = None if exact else loader.sample(n_sample)
        self._least_norm = few_rows and self.constant and not objective.penalty.is_active
        models, squares = len(objective.penalty.l2), min(columns, loader.n_rows) ** 2
        self._shared = models > 1 and models * n_sample * squares > WORTH_SHARING
        self._measured: tuple[Tensor, Tensor, Tensor] | None = None
        self._raw: tuple[Tensor, Tensor] | None = None
        self._of_pass: Tensor | None = None
        work = loader.n_rows * columns * loader.stack_width
        cheap = self.covers_all_rows and work <= CHEAP_PRODUCT
        self.has_hessian_products = cheap and not (self.constant or self._diagonal)
        # One output shares its preconditioner with no other: where it is measured, it is exact.
        self.factors_hessian = self.has_hessian_products and self._affords_hessian(
            models, CHEAP_HESSIAN
        )
        squares_are_exact = self.constant and self.covers_all_rows and not self._diagonal
        self.is_exact = self.factors_hessian or squares_are_exact
        gauges = not (exact or self._diagonal or self.factors_hessian)
        self._gauge = loader.sample(GAUGE_ROWS) if gauges else self._sample

    @staticmethod
    def _saves_work(loader: BatchLoader) -> bool:
        """Whether second moments of all rows are more work than passes from a sample's.

        With 16 rows a column, conjugate gradients gain 0.6 digits a pass (the condition number is
        at most ``((1 + 1/4) / (1 - 1/4))^2``). A pass of few outputs waits for memory, and costs
        as much as `PASS_WORK` multiply-adds a number more than its products.
        """
        digits = -math.log10(torch.finfo(loader.dtype).eps)
        passes = digits / 0.6
        second_moments = loader.n_columns / 2  # a number, by symmetry
        share = SOLVING_ROWS * loader.n_columns / loader.n_rows
        work = second_moments * share + passes * (PASS_WORK + 2 * loader.stack_width)
        return second_moments > work

    def take_whole_hessian(self) -> None:
        """Measure the whole Hessian from now on, if that is affordable and not done yet.

        Products with it are cheaper, but no help where the matrix that conditions them is poor.
        """
        if self.is_exact or not self.has_hessian_products:
            return
        models = len(self.objective.penalty.l2)
        self.factors_hessian = self.is_exact = self._affords_hessian(models, DEAR_HESSIAN)

    def take_all_rows(self) -> bool:
        """Measure the whole Hessian on all rows from now on; whether that is affordable and new."""
        numbers = self.loader.n_rows * self.loader.n_columns
        if self.covers_all_rows or self.constant or self._diagonal or numbers > MOST_NUMBERS:
            return False
        if not self._affords_hessian(len(self.objective.penalty.l2), DEAR_HESSIAN):
            return False
        self._sample = self._gauge = self.loader.sample(self.loader.n_rows)
        self._measured = self._raw = self._of_pass = None
        self.covers_all_rows = self.has_hessian_products = True
        self.take_whole_hessian()
        return True

    def _affords_hessian(self, models: int, most: int) -> bool:
        """Whether second moments of all weights of a model, and their factor, are little work."""
        rank, outputs = self.loader.n_columns, self.loader.n_outputs
        if not self.objective.loss.shift_invariant:  # a matrix for each output
            return outputs == 1 or models * outputs * self.loader.n_rows * rank**2 <= most
        weights = outputs * rank
        return models * (self.loader.n_rows + weights) * weights**2 <= most

    def see(self, chunk: Chunk) -> None:
        """Take what is of use of a chunk of a pass: sums, and predictions of the whole sample."""
        if self.wants_pass:
            self._add(chunk)
        self._raw = None
        self._of_pass = self.objective.predictions(chunk) if chunk is self._sample else None

    def is_at(self, weights: Tensor) -> None:
        """The last pass was at these `weights`."""
        if self._of_pass is not None:
            self._raw = weights, self._of_pass

    def _add(self, chunk: Chunk) -> None:
        """Add a chunk of the pass that `wants_pass` asks for.

        Constant curvature takes all second moments. Otherwise the squares of the columns are
        enough, to see which of them the sample has missed.
        """
        moments = chunk.gram() if self._sample is None else chunk.squares()
        moments = moments.mul_(chunk.scale[0])
        self._moments = moments if self._moments is None else self._moments.add_(moments)

    def mean(self, weights: Tensor) -> Tensor:
        """Roughly the mean curvature of each model, to see whether it moves, shape ``(M,)``."""
        if self._gauge is None:
            return torch.ones(len(weights), dtype=float64, device=weights.device)
        mean = self._summed(self._row_weights(self._gauge, weights).sum(dim=-1))
        return mean.expand(len(weights))

    def select(self, keep: Tensor) -> None:
        """Keep only some of the models."""
        if self._measured is not None:
            at, moments, total = self._measured
            if len(moments) == 1:
                return
            self._measured = (
                at.index_select(0, keep),
                moments.index_select(0, keep),
                total.index_select(0, keep),
            )

    def preconditioner(
        self, weights: Tensor, damping: Tensor | None = None, kept: Tensor | None = None
    ) -> Preconditioner:
        """The preconditioner at `weights`, of shape ``(M, K, D + 1)``.

        Parameters
        ----------
        weights : Tensor of shape (M, K, D + 1)
        damping : Tensor of shape (M,), optional
            So many times the curvature of a quadratic that lies above the loss is added: from 1 on,
            steps cannot go too far.
        kept : Tensor of bool, shape (M, K, n), optional
            Outputs of the rows of the sample that count, where it is the Hessian; as of `lasting`.
        """
        if self.wants_pass and self._moments is not None:
            self._summed(self._moments)
        self.wants_pass = False
        if self._diagonal:
            return self._diagonal_preconditioner(weights, damping)
        if self._sample is None:
            assert self._moments is not None
            scaling = self.objective.scaling
            gram = self._moments if scaling is None else scaling.scale_gram(self._moments)
            return self._factored(gram.unsqueeze(0))
        if self.constant:
            gram = self._summed(self._sample.gram().unsqueeze(0) * self._sample.scale[0])
            return self._factored(self._with_missed(gram, 1.0))
        if self.factors_hessian:
            couples = self.objective.loss.shift_invariant
            measure = self._softmax_hessian if couples else self._hessian_by_output
            moments = measure(weights, kept)
            if damping is not None:
                added = self._majorizer(weights)[0] * damping.view(-1, 1, 1)
                own = (
                    moments.view(*weights.shape[:2], *added.shape[1:])
                    if not couples
                    else own_blocks(moments, weights.shape[1])
                )
                own.add_(added.unsqueeze(1))
            return self._factored(moments)
        moments, total = self._measure(weights)
        if damping is not None:
            added, total_added = self._majorizer(weights)
            moments = moments + added * damping.view(-1, 1, 1)
            total = total + total_added * damping.unsqueeze(1)
        return self._factored(self._with_missed(moments, total))

    def _factored(self, moments: Tensor) -> Factored:
        """Second moments and the penalty's part, where preconditioners are wanted."""
        loss, l2 = self.objective.loss, self.objective.penalty.l2.to(self.home, float64)
        outputs = self.loader.n_outputs
        return Factored(moments.to(self.home), l2, self.noise, outputs, loss.shift_invariant)

    def _majorizer(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return `_second_moments` with the curvature of quadratics that lie above the loss."""
        assert self._sample is not None
        curvature = self.objective.loss.majorizer(self._predicted(weights), self._sample.target)
        of_rows = curvature.to(float64).movedim(2, 0).reshape(weights.shape[0], -1)
        return self._second_moments(of_rows * self._sample.shares())

    def of_columns(self, weights: Tensor) -> Factored | None:
        """Second moments with a curvature that no row lacks, where curvature is not constant.

        They tell whether columns are dependent: a Hessian is singular also where rows, such as
        outliers under Huber's loss, have no curvature.
        """
        if self.constant or self._diagonal:
            return None
        return self._factored(self._majorizer(weights)[0])

    def _hessian_by_output(self, weights: Tensor, kept: Tensor | None) -> Tensor:
        """Second derivative of the loss in each output's weights, shape ``(M * K, r, r)``."""
        assert self._sample is not None
        of_rows = _by_model(self._second_derivative(weights).diagonal)  # (M, K, n)
        if kept is not None:
            of_rows = of_rows * kept
        return self._second_moments(of_rows.flatten(0, 1) * self._sample.shares())[0]

    def _second_derivative(self, weights: Tensor) -> SecondDerivative:
        """Of the loss in the raw predictions of the sample."""
        assert self._sample is not None
        return self.objective.loss.hessian(self._predicted(weights), self._sample.target)

    def _softmax_hessian(self, weights: Tensor, kept: Tensor | None) -> Tensor:
        """Second derivative of the loss in all weights of each model, shape ``(M, K r, K r)``."""
        assert self._sample is not None
        rows = self._sample.wide_rows()
        p = _by_model(self._second_derivative(weights).diagonal)  # (M, K, n)
        if kept is not None:
            p = p * kept
            p /= p.sum(dim=1, keepdim=True).clamp(min=torch.finfo(float64).tiny)
        return self._summed(softmax_hessian(rows, self._sample.shares(), p))

    def hessian(self, weights: Tensor) -> Callable[[Tensor], Tensor]:
        """Return ``v -> H v`` at `weights`, both ``(M, K, D + 1)``; for `has_hessian_products`."""
        assert self._sample is not None
        sample, dtype, l2 = self._sample, weights.dtype, self.objective.penalty.l2.to(float64)
        (batch,), (scale,) = sample.batches, sample.scale
        of_rows = self._second_derivative(weights).product
        models, outputs, columns = weights.shape
        _, parts, rows = sample.shape
        sums = weights.new_empty(parts, models * outputs, columns)

        def product(vector: Tensor) -> Tensor:
            pulled = of_rows(raw_predictions(sample, vector.to(dtype)))
            if sample.weight is not None:
                pulled *= sample.weight
            batch.rmatmul(pulled.view(parts, models * outputs, rows), scale, out=sums)
            total = self._summed(sums.sum(dim=0, dtype=float64).view_as(vector))
            return torch.addcmul(total, l2, vector)

        return product

    def changes(self, weights: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """What directions change of raw predictions of the sample.

        Parameters
        ----------
        weights : Tensor of shape (M, K, D + 1)
        directions : Tensor of shape (M, U, K, D + 1)

        Returns
        -------
        gain : Tensor of shape (M,)
            No more than this can moves along them take from the mean loss: no more than the losses
            of the rows that they move, and of rows whose moved outputs have small residuals, as
            log-odds of unlikely classes, little more than these.
        largest : Tensor of shape (M, U)
            Largest change of a raw prediction along each direction.
        """
        assert self._sample is not None
        raw, target = self._predicted(weights), self._sample.target
        losses = _by_model(self.objective.loss.value(raw, target))  # (M, rows)
        residual = self.objective.loss.gradient(raw, target, torch.empty_like(raw))
        flat = directions.flatten(0, 1).to(weights.dtype)
        change = _by_model(raw_predictions(self._sample, flat).abs())
        change = change.view(*directions.shape[:2], *change.shape[1:])  # (M, U, K, rows)
        largest = self._largest(change.amax(dim=(2, 3))).view(*change.shape[:2], 1, 1)
        # A change that rounding alone would make is none.
        size = self._largest(self._sample.wide_rows().abs().amax(dim=0))
        most = (directions.abs() * size).sum(dim=3).amax(dim=2)  # (M, U)
        largest = torch.where(largest > UNSEEN * most.view(*most.shape, 1, 1), largest, 0.0)
        change = torch.where(largest > 0, change, 0.0)
        moved = (change > UNMOVED * largest).any(dim=1)
        small = (_by_model(residual.abs()) * moved).sum(dim=1)  # (M, rows)
        gains = torch.where(moved.any(dim=1), losses, 0.0)
        if not self.objective.loss.is_regression:
            gains = torch.where(small < SMALL_RESIDUAL, torch.minimum(losses, 2.0 * small), gains)
        gain = self._summed((gains * self._sample.shares()).sum(dim=1))
        return gain, largest.squeeze(3).squeeze(2)

    def lasting(
        self,
        weights: Tensor,
        direction: Tensor,
        negligible: Tensor,
        among: Tensor | None = None,
    ) -> tuple[np.ndarray, Tensor]:
        """How much of the curvature along a direction a full step takes away, where `is_exact`.

        Parameters
        ----------
        weights, direction : Tensor of shape (M, K, D + 1)
        negligible : Tensor of shape (M,)
            What log losses may lose by outputs of rows that are not `kept`.
        among : Tensor of bool, shape (M, K, n), optional
            Outputs of the rows that count in a log loss; the others are left out as in `of_others`.

        Returns
        -------
        lost : ndarray of shape (M,)
            Share of the curvature along `direction`, the penalty's included, that lies on rows
            which keep less than `LASTING` of theirs after the step.
        kept : Tensor of bool, shape (M, K, n)
            Outputs of the rows of the sample that keep more, by the diagonal of the second
            derivative, and whose loss is not negligible. Of softmax, classes that keep as much of
            their probability, and the true ones.
        """
        assert self._sample is not None
        loss, target = self.objective.loss, self._sample.target
        raw, shares = self._predicted(weights), self._sample.shares()
        if among is not None and self.objective.loss.shift_invariant:
            inside = among.view(*raw.shape[2:4], raw.shape[1], -1).movedim(-2, 0).unsqueeze(0)
            raw = raw.masked_fill(~inside, -torch.inf)
        elif among is not None:
            shares = shares * among.squeeze(1)
        change = raw_predictions(self._sample, direction.to(weights.dtype))
        before, after = loss.hessian(raw, target), loss.hessian(raw + change, target)
        now, then = (
            _by_model(at.product(change).mul_(change)).sum(dim=1) for at in (before, after)
        )
        fading = then < LASTING * now
        of_rows, lost = (now * shares).sum(dim=1), (now * fading * shares).sum(dim=1)
        self.objective.comm.all_reduce_(of_rows, lost)
        pull = self.objective.penalty.l2.to(float64) * direction
        whole = of_rows + dot(pull, direction).view(-1)
        lost = torch.where(lost > 0, lost / torch.where(lost > 0, whole, 1.0), 0.0)
        kept = _by_model(after.diagonal >= LASTING * before.diagonal).bool()
        if not loss.is_regression:
            # The loss without a class is lower by about its probability.
            part = _by_model(before.diagonal if before.coupled else loss.value(raw, target))
            part = part.view(kept.shape) * shares.unsqueeze(1)
            kept &= part * kept[0].numel() >= negligible.view(-1, 1, 1)
        if before.coupled:
            kept |= _by_model(is_class(raw, target)).bool()
        return lost.numpy(force=True), kept

    def of_others(self, weights: Tensor, kept: Tensor) -> tuple[Tensor, np.ndarray]:
        """What outputs that are not `kept` have in a logistic or softmax loss.

        Without them a class of a row has no probability, or a logistic loss no row. The loss is
        then lower at all weights.

        Parameters
        ----------
        weights : Tensor of shape (M, K, D + 1)
        kept : Tensor of bool, shape (M, K, n)

        Returns
        -------
        gradient : Tensor of shape (M, K, D + 1)
            Of the mean loss with them less that of the loss without them.
        loss : ndarray of shape (M,)
            The difference of the losses.
        """
        assert self._sample is not None
        raw, target, shares = self._predicted(weights), self._sample.target, self._sample.shares()
        second = self.objective.loss.hessian(raw, target)
        if second.coupled:
            p = _by_model(second.diagonal)
            others = (p * ~kept).sum(dim=1, keepdim=True)
            whole = (p * kept).sum(dim=1, keepdim=True).clamp(min=torch.finfo(float64).tiny)
            # Both are the same number, each without the rounding of small ones.
            losses = torch.where(others < 0.5, -torch.log1p(-others), -whole.log()).squeeze(1)
            residual = torch.where(kept, -p * others / whole, p)
        else:
            losses = _by_model(self.objective.loss.value(raw, target)) * ~kept.squeeze(1)
            residual = _by_model(self.objective.loss.gradient(raw, target, torch.empty_like(raw)))
            residual *= ~kept
        rows = self._sample.wide_rows()
        gradient = self._summed((residual * shares.unsqueeze(1)) @ rows)
        return gradient, self._summed((losses * shares).sum(dim=1)).numpy(force=True)

    def along(self, weights: Tensor, direction: Tensor, lengths: Tensor) -> Tensor:
        """Objectives without L1 after steps of these `lengths`, where `has_hessian_products`.

        Parameters
        ----------
        weights, direction : Tensor of shape (M, K, D + 1)
        lengths : Tensor of shape (T,)

        Returns
        -------
        values : Tensor of shape (T, M)
            But for a term that is the same at all lengths; infinite beyond the finite numbers.
        """
        assert self._sample is not None
        sample, of_batches = self._sample, lengths.view(-1, 1, 1, 1, 1).to(weights.dtype)
        change = raw_predictions(sample, direction.to(weights.dtype))
        raw = torch.addcmul(self._predicted(weights), of_batches, change)
        sums = self.objective.sum_of_losses(raw, sample.target, sample.weight)  # (T, M)
        loss = self._summed(sums * sample.scale[0])
        pull = self.objective.penalty.l2.to(float64) * direction
        slope, curvature = dot(pull, weights).view(-1), dot(pull, direction).view(-1)
        length = lengths.unsqueeze(1)
        values = loss + length * (slope + 0.5 * length * curvature)
        return values.nan_to_num_(nan=torch.inf, posinf=torch.inf)

    def _diagonal_preconditioner(self, weights: Tensor, damping: Tensor | None) -> Diagonal:
        """Mean squares of the columns over all rows, times the mean curvature.

        Where the solution of least norm is asked for, the same number for all columns: steps then
        stay in the span of the rows.
        """
        assert self._gauge is not None
        total = self.mean(weights).unsqueeze(1)
        if damping is not None:
            most = self._summed(self._gauge.shares().sum()) * self.objective.loss.hessian_bound
            total = total + most * damping.view(-1, 1)
        squares = self._all_squares().clone()
        if self._least_norm:
            squares[:-1] = squares[:-1].mean()
        diagonal, l2 = (squares * total).to(self.home), self.objective.penalty.l2
        return Diagonal(diagonal, l2.to(self.home, float64), self.objective.loss.shift_invariant)

    def _measure(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Second moments at `weights`, ``(M, r, r)``, and mean curvatures ``(M, 1)``.

        Models that are where they were keep theirs, and of those that moved, the ones of about the
        same mean curvature share one measurement.
        """
        assert self._sample is not None
        if self.constant or not self._shared:
            share = self._row_weights(self._sample, weights)
            return self._second_moments(share)
        moved = torch.arange(len(weights), device=weights.device)
        if self._measured is not None:
            moved = (weights != self._measured[0]).any(dim=2).any(dim=1).nonzero().view(-1)
        if len(moved):
            mean = self.mean(weights)[moved]
            representatives, group = cluster_by_curvature(mean)
            share = self._row_weights(self._sample, weights, moved[representatives])
            ratio = (mean / mean[representatives][group]).view(-1, 1)
            moments, total = (measure[group] for measure in self._second_moments(share))
            moments, total = moments * ratio.view(-1, *[1] * (moments.ndim - 1)), total * ratio
            if self._measured is not None:
                moments = self._measured[1].index_copy(0, moved, moments)
                total = self._measured[2].index_copy(0, moved, total)
            self._measured = weights.clone(), moments, total
        assert self._measured is not None
        return self._measured[1], self._measured[2]

    def _with_missed(self, moments: Tensor, total: Tensor | float) -> Tensor:
        """The sample's second moments, with the squares of the columns that it has missed.

        Those of which it has less than half of the mean square over all rows, times the `total`
        curvature, of shape ``(M, 1)``.
        """
        if self._moments is None:
            return moments
        assert self._sample is not None
        squares = self._all_squares()
        sampled = self._summed(self._sample.second_squares(self._sample.shares()))
        missed = torch.where(squares > 2.0 * sampled, squares - sampled, 0.0)
        self.misses_columns = bool(missed.any())
        return moments + torch.diag_embed(missed * total)

    def _all_squares(self) -> Tensor:
        """Mean square of each column over all rows, shape ``(D + 1,)``."""
        assert self._moments is not None
        scaling = self.objective.scaling
        if scaling is None:
            return self._moments[0]
        return scaling.scale_squares(*self._moments)

    def _row_weights(self, chunk: Chunk, weights: Tensor, models: Tensor | None = None) -> Tensor:
        """Share of each row in the curvature, shape ``(M, rows)``, or ``(1, rows)`` for all.

        Of some of the models if their numbers are given.
        """
        if self.constant:
            return chunk.shares()
        loss = self.objective.loss
        if models is not None:
            weights, loss = weights.index_select(0, models), loss.select(models)
        known = chunk is self._sample and models is None
        raw = self._predicted(weights) if known else raw_predictions(chunk, weights)
        curvature = loss.curvature(raw, chunk.target).to(float64)  # (batches, parts, M, rows)
        return curvature.movedim(2, 0).reshape(weights.shape[0], -1) * chunk.shares()

    def _predicted(self, weights: Tensor) -> Tensor:
        """Raw predictions of the sample, taken once for each tensor of weights."""
        assert self._sample is not None
        if self._raw is None or self._raw[0] is not weights:
            self._raw = weights, raw_predictions(self._sample, weights)
        return self._raw[1]

    def _second_moments(self, share: Tensor) -> tuple[Tensor, Tensor]:
        """Of the sample for row weights, ``(M, r, r)``, and the sums of these, ``(M, 1)``."""
        assert self._sample is not None
        moments = self._sample.second_moments(share)
        total = share.sum(dim=-1, keepdim=True)
        self.objective.comm.all_reduce_(moments, total)
        return moments, total

    def _summed(self, own: Tensor) -> Tensor:
        """Of all processes together."""
        self.objective.comm.all_reduce_(own)
        return own

    def _largest(self, own: Tensor) -> Tensor:
        """The largest of all processes, entry by entry."""
        return self.objective.comm.all_gather_rows(own.unsqueeze(0)).amax(dim=0)


def _by_model(of_rows: Tensor) -> Tensor:
    """From ``(1, parts, M, ..., rows)`` to ``(M, ..., parts * rows)``, in double."""
    return of_rows.to(float64).squeeze(0).movedim(0, -2).flatten(-2)


def cluster_by_curvature(mean: Tensor) -> tuple[Tensor, Tensor]:
    """Models that stand for others of about the same mean curvature.

    Parameters
    ----------
    mean : Tensor of shape (M,)

    Returns
    -------
    representatives : Tensor of int, shape (R,)
        The models that are measured: the first of each group.
    group : Tensor of int, shape (M,)
        Which of these each model goes by.
    """
    sizes = torch.floor(mean.log() / math.log(ALIKE))
    _, group = torch.unique(sizes, return_inverse=True)
    first = group == torch.arange(int(group.max()) + 1, device=mean.device).unsqueeze(1)
    return first.to(torch.int8).argmax(dim=1), group


# The algebra between two passes on the CPU, where rows are on another device and weights are few.
#
# A full-batch optimizer makes some hundred small operations between two passes, and often looks at
# what came of them. A CPU makes them in less time than it takes to tell a GPU of them. So only what
# goes through the rows stays where these are: the weights are sent there, and their gradient and
# second moments are fetched.


def home_of(loader: BatchLoader, weights: Tensor) -> torch.device:
    """Where the algebra of these weights is made: on the CPU, or where the rows are.

    Parameters
    ----------
    loader : BatchLoader
    weights : Tensor of shape (M, K, D + 1)
    """
    columns = weights.shape[-1]
    of_each = columns if loader.affords_gram else OF_EACH_WEIGHT
    small = weights.numel() * of_each <= MOST_WORK
    small &= columns <= MOST_COLUMNS or not loader.affords_gram
    return torch.device("cpu") if small else weights.device


class RemoteHessianEstimator:
    """A `HessianEstimator` whose rows are on another device than those who ask it.

    Numbers that it is asked about are sent, once each, and what it says of them is fetched. Which
    rows or outputs count, which only it asks for again, stays where it is.

    Parameters
    ----------
    curvature : HessianEstimator
    device : torch.device
        Of the rows.
    """

    def __init__(self, curvature: HessianEstimator, device: torch.device) -> None:
        self._curvature, self._device = curvature, device
        self._sent = WeakIdKeyDictionary()

    @classmethod
    def of(cls, curvature: HessianEstimator, device: torch.device) -> HessianEstimator:
        """What can be asked as a `HessianEstimator` is."""
        elsewhere = device != curvature.home
        return cast("HessianEstimator", cls(curvature, device)) if elsewhere else curvature

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._curvature, name)
        return partial(self._ask, value) if callable(value) else value

    def has(self, here: Tensor, there: Tensor) -> None:
        """The same numbers are there already."""
        self._sent[here] = there

    def _ask(self, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        named = {name: self._send(value) for name, value in named.items()}
        return self._fetch(method(*map(self._send, arguments), **named))

    def _send(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        if value not in self._sent:
            self._sent[value] = value.to(self._device)
        return self._sent[value]

    def _fetch(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.to(self._curvature.home)
        if isinstance(value, tuple):
            return tuple(map(self._fetch, value))
        return partial(self._ask, value) if callable(value) else value
