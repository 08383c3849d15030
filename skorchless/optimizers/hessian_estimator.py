"""Measures of the curvature of the loss, and the preconditioners that are made of them.

Where rows are on another device and weights are few, the algebra between two passes is the CPU's. A
full-batch optimizer makes some hundred small operations between two passes, and often looks at what
came of them. A CPU makes them in less time than it takes to tell a GPU of them. So only what goes
through the rows stays where these are: weights are sent there, and sums over the rows are fetched,
in as few transfers as possible, since each makes the CPU wait.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, float64
from torch.utils.weak import WeakIdKeyDictionary

from skorchless.data import BatchLoader, Chunk
from skorchless.losses import Loss, SecondDerivative
from skorchless.objective import LinearObjective, raw_predictions
from skorchless.optimizers.hessian import (
    Diagonal,
    Factored,
    Preconditioner,
    coupled_moments,
    own_blocks,
    with_own_blocks,
)
from skorchless.optimizers.lbfgs import dot
from skorchless.penalties import ElasticNet

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
#: A change of this share of the terms that it is the sum of may be all rounding.
UNSEEN = 1e-10
#: Rows that a regression's loss is curved in have a column only if it is larger there than this
#: share of its mean magnitude; less is what rounding has left of zeros.
FAINT = 1e-12
#: Up to this residual a logistic or softmax loss is at most twice the residual.
SMALL_RESIDUAL = 0.5
#: Models of a stack whose mean curvatures are within this factor share one measurement ...
ALIKE = 1.4
#: ... if one for each of them would take as many multiply-adds as this.
WORTH_SHARING = 2**29


def sample_size(n_columns: int, rows_a_column: int = CURVATURE_ROWS) -> int:
    """Rows of a sample that tells second moments."""
    return max(rows_a_column * n_columns, 8192)


def second_moments_in_passes(loader: BatchLoader) -> float:
    """What second moments of all rows cost, in passes over them.

    A pass of few outputs waits for memory, and costs as much as `PASS_WORK` multiply-adds a number
    more than its products.
    """
    of_a_number = loader.n_columns / 2  # multiply-adds, by symmetry
    return of_a_number / (PASS_WORK + 2 * loader.stack_width)


def takes_every_row(loader: BatchLoader) -> bool:
    """Whether second moments of all rows are affordable, and less work than passes from a sample's.

    With 16 rows a column, conjugate gradients gain 0.6 digits a pass (the condition number is at
    most ``((1 + 1/4) / (1 - 1/4))^2``).
    """
    if loader.n_rows < loader.n_columns - 1 or not loader.affords_gram:
        return False
    passes = -math.log10(torch.finfo(loader.dtype).eps) / 0.6
    share = SOLVING_ROWS * loader.n_columns / loader.n_rows
    return (1.0 - share) * second_moments_in_passes(loader) <= passes


class HessianEstimator:
    """Measures the curvature of the loss, wherever the weights are.

    That takes max(8 d, 8192) rows at random, or 1024 where only a diagonal is measured. Where the
    curvature is constant (squared error) all rows are taken, once, as the first pass goes by, so
    that the preconditioner is exact; unless there are so many columns that a sample of 16 d rows
    and the passes it then takes are less work.

    The rows may be on one device and the algebra between two passes on another. Tensors of the
    weights' shape are given and returned on the device of the algebra, which is the penalty's;
    parameters named `there` are on the device of the rows.

    Parameters
    ----------
    loader : BatchLoader
        Rows as the weights see them.
    objective : LinearObjective
    penalty : ElasticNet, optional
        That of the objective in double precision, on the device where preconditioners are wanted;
        by default where the rows are.

    Attributes
    ----------
    constant : bool
        Whether the curvature is the same everywhere.
    covers_all_rows : bool
        Whether it is measured on all rows rather than on a sample.
    wants_pass : bool
        Whether the next pass is to add up moments of all rows.
    factors_hessian : bool
        Whether the whole Hessian is computed and factored for each accepted point.
    has_hessian_products : bool
        Whether products with the rows are cheap enough for conjugate gradients, and for trying
        several step lengths. On an accelerator the same as `factors_hessian`, as each product costs
        launches and a wait.
    misses_columns : bool
        Whether the sample has missed columns, so that only a bound of their curvature is known.
    cost : float
        What a measure of the curvature costs, in passes over the rows; 0 where these are so few
        that it takes little time.
    precision : torch.dtype
        Of numbers of which there is one for each row.
    is_exact : bool
        Whether the preconditioner is the inverse of the loss's own second derivative, on all rows.
    """

    def __init__(
        self, loader: BatchLoader, objective: LinearObjective, penalty: ElasticNet | None = None
    ) -> None:
        self.loader, self.objective = loader, objective
        self.penalty = objective.penalty.in_double(loader.device) if penalty is None else penalty
        self._algebra_device, on_cpu = self.penalty.l2.device, loader.device.type == "cpu"
        # Double may be far slower on other devices.
        self.precision = float64 if on_cpu else loader.dtype
        self._sent = WeakIdKeyDictionary()
        self.noise = float(torch.finfo(loader.dtype).eps ** 0.8)
        self.constant = objective.loss.constant_hessian
        columns = loader.n_columns
        few_rows = loader.n_rows < columns - 1
        wide = few_rows and columns > MOST_SQUARE_COLUMNS
        self._diagonal = wide or not loader.affords_gram
        exact = self.constant and takes_every_row(loader)
        n_sample = sample_size(columns, SOLVING_ROWS if self.constant else CURVATURE_ROWS)
        n_sample = GAUGE_ROWS if self._diagonal else n_sample
        self.covers_all_rows = exact or (not self._diagonal and 2 * n_sample >= loader.n_rows)
        self.wants_pass = exact or not self.covers_all_rows
        self._moments: Tensor | None = None
        self.misses_columns = False
        self._least_norm = few_rows and self.constant and not objective.penalty.is_active
        models, squares = len(objective.penalty.l2), min(columns, loader.n_rows) ** 2
        self._shared = models > 1 and models * n_sample * squares > WORTH_SHARING
        work = loader.n_rows * columns * loader.stack_width
        cheap = self.covers_all_rows and work <= CHEAP_PRODUCT
        self.has_hessian_products = cheap and not (self.constant or self._diagonal)
        self.cost = 0.0
        if not (self._diagonal or self.has_hessian_products):
            measured = (1 if self._shared else models) * min(1.0, n_sample / loader.n_rows)
            self.cost = measured * second_moments_in_passes(loader)
        # One output shares its preconditioner with no other: where it is measured, it is exact.
        self.factors_hessian = self.has_hessian_products and self._affords_hessian(
            models, CHEAP_HESSIAN if on_cpu else DEAR_HESSIAN
        )
        if not on_cpu:  # a product at a time is a launch and a wait at a time
            self.has_hessian_products = self.factors_hessian
        squares_are_exact = self.constant and self.covers_all_rows and not self._diagonal
        self.is_exact = self.factors_hessian or squares_are_exact
        self._take_sample(None if exact else loader.sample(n_sample))
        if not (exact or self._diagonal or self.factors_hessian):
            self._gauge = loader.sample(GAUGE_ROWS)
        self._scaling = objective.scaling
        if self._scaling is not None:
            self._scaling = self._scaling.to(self._algebra_device)
        self._sampled: Tensor | None = None
        if self.wants_pass and self._sample is not None and not self._diagonal:
            of_columns = self._sample.second_squares(self._sample.shares(self.precision))
            (self._sampled,) = self._fetch(self._summed(of_columns[0]))
        if self.factors_hessian and not on_cpu:
            _ = self.column_sizes  # launches that no pass has to make

    def _take_sample(self, sample: Chunk | None) -> None:
        """Measure the curvature on these rows from now on."""
        self._sample = sample
        if sample is not None:
            self._gauge = sample
            self._scale = sample.scale[0]  # of sums over its rows
        self._wide: Tensor | None = None  # its rows
        self._sizes: Tensor | None = None  # mean magnitudes of its columns
        self._measured: tuple[Tensor, Tensor] | None = None
        # Of the sample at weights that are known by identity.
        self._raw: tuple[Tensor, Tensor] | None = None
        self._second: tuple[Tensor, SecondDerivative] | None = None
        self._hessian: tuple[Tensor, list[Tensor]] | None = None
        # Of the last pass.
        self._raw_of_pass: Tensor | None = None
        self._hessian_of_pass: list[Tensor] = []

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
        if self.is_exact or self.constant or self._diagonal or numbers > MOST_NUMBERS:
            return False
        if not self._affords_hessian(len(self.objective.penalty.l2), DEAR_HESSIAN):
            return False
        self._take_sample(self.loader.sample(self.loader.n_rows))
        self.misses_columns = False
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
        """Take what is of use of a chunk of a pass: sums, and predictions of the whole sample.

        Constant curvature takes all second moments. Otherwise the squares of the columns are
        enough, to see which of them the sample has missed.
        """
        if self.wants_pass:
            moments = chunk.gram() if self._sample is None else chunk.squares()
            if self._moments is not None:  # sums over several chunks are in double
                moments = self._moments.to(float64).add_(moments)
            self._moments = moments
            self._scale_of_pass = chunk.scale[0]
        self._raw = self._second = None
        self._sent.clear()  # where the rows are, weights are moved in place
        seen = chunk is self._sample
        self._raw_of_pass = self.objective.predictions(chunk) if seen else None

    def see_sum(self, moments: Tensor) -> None:
        """Take mean products of all columns, ``(D + 1, D + 1)``, as if a pass had brought them."""
        self._moments, self._scale_of_pass = moments, 1.0

    def read(
        self, weights: Tensor, *values: Tensor, damped: bool = False
    ) -> tuple[list[Tensor], Tensor | None]:
        """Return numbers of a pass, and what it says of the curvature, after a single transfer.

        Parameters
        ----------
        weights : Tensor of shape (M, K, D + 1)
            At which the pass was made, where the rows are.
        *values : Tensor
        damped : bool
            Whether preconditioners will be damped.

        Returns
        -------
        values : list of Tensor
        mean : Tensor of shape (M,), or None
            That of `mean`, where it tells when to measure the curvature anew.
        """
        if self._raw_of_pass is not None:
            self._raw = weights, self._raw_of_pass
        gauges = not (self.constant or self.factors_hessian)
        sums = [self._total(weights)] if gauges else []
        moments = self._moments if self.wants_pass else None
        if moments is not None:
            sums.append(self._summed(moments))
        n_known, ahead = len(values) + len(sums), self.factors_hessian and not self._on_one_device
        if ahead:  # what is wanted next, if the trial is accepted; on a CPU it can wait until then
            sums += self._measure_hessian(weights, damped=damped)
        fetched = self._fetch(*values, *sums)
        self._hessian_of_pass = [self._scaled(part) for part in fetched[n_known:]]
        fetched = fetched[:n_known]
        if moments is not None:
            self._take_moments(fetched.pop() * self._scale_of_pass)
        mean = fetched.pop() * self._gauge.scale[0] if gauges else None
        return fetched, mean

    def _take_moments(self, moments: Tensor) -> None:
        """Take sums over all rows, of a pass that `wants_pass`."""
        self._moments, self.wants_pass = moments, False
        if self._sampled is not None:
            squares = self._all_squares()
            missed = torch.where(squares > 2.0 * self._sampled, squares - self._sampled, 0.0)
            self.misses_columns = bool(missed.any())
            self._missed = missed

    def is_at(self, weights: Tensor, there: Tensor) -> None:
        """Remember that the last pass was made at these `weights`.

        Parameters
        ----------
        weights : Tensor of shape (M, K, D + 1)
        there : Tensor of shape (M, K, D + 1)
            The same numbers on the device of the rows. They are valid until the next pass, which
            moves them in place.
        """
        if self._on_one_device:
            there = weights
        else:
            self._sent[weights] = there
        if self._raw_of_pass is not None:
            self._raw = there, self._raw_of_pass
        if self._hessian_of_pass:
            self._hessian = weights, self._hessian_of_pass

    def mean(self, weights: Tensor) -> Tensor:
        """Roughly the mean curvature of each model, to see whether it moves, shape ``(M,)``."""
        (there,) = self._send(weights)
        if self.constant:
            return weights.new_ones(len(weights), dtype=float64)
        (total,) = self._fetch(self._total(there))
        return total * self._gauge.scale[0]

    def _total(self, there: Tensor) -> Tensor:
        """Return the sum of the curvature over some rows, shape ``(M,)``."""
        total = self._row_weights(self._gauge, there).sum(dim=-1, dtype=float64)
        return self._summed(total).expand(len(there))

    def select(self, keep: Tensor) -> None:
        """Keep only some of the models."""
        if self._measured is not None:
            at, moments = self._measured
            self._measured = at.index_select(0, keep), moments.index_select(0, keep)

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
            Outputs of the rows of the sample that count, where it is the Hessian of a log loss.
        """
        self.wants_pass = False
        if self._diagonal:
            return self._diagonal_preconditioner(weights, damping)
        if self._sample is None:
            assert self._moments is not None
            scaling = self._scaling
            gram = self._moments if scaling is None else scaling.scale_gram(self._moments)
            return self._factored(gram.unsqueeze(0))
        if self.constant:
            (gram,) = self._fetch(self._summed(self._sample.gram() * self._sample.scale[0]))
            return self._factored(self._with_missed(gram.unsqueeze(0), gram.new_ones(1, 1)))
        if self.factors_hessian:
            couples = self.objective.loss.shift_invariant
            moments = self._whole_hessian(weights, kept)
            if self.objective.loss.is_regression:
                seen = moments.diagonal(dim1=1, dim2=2) > (FAINT * self.column_sizes).square()
                moments = torch.where(seen.unsqueeze(1) & seen.unsqueeze(2), moments, 0.0)
            if damping is not None:
                added = self._majorizer(weights) * damping.view(-1, 1, 1)
                moments = moments.clone()
                own = (
                    moments.view(*weights.shape[:2], *added.shape[1:])
                    if not couples
                    else own_blocks(moments, weights.shape[1])
                )
                own.add_(added.unsqueeze(1))
            return self._factored(moments)
        moments = self._measure(weights)
        if damping is not None:
            moments = moments + self._majorizer(weights) * damping.view(-1, 1, 1)
        return self._factored(moments)

    def _factored(self, moments: Tensor) -> Factored:
        """Second moments and the penalty's part."""
        loss, l2 = self.objective.loss, self.penalty.l2
        return Factored(moments, l2, self.noise, self.loader.n_outputs, loss.shift_invariant)

    def _majorizer(self, weights: Tensor) -> Tensor:
        """Second moments with the curvature of quadratics that lie above the loss."""
        known = self._hessian[1] if self._hessian and self._hessian[0] is weights else []
        if len(known) > 1:
            return known[1]
        (there,) = self._send(weights)
        assert self._sample is not None
        curvature = self.objective.loss.majorizer(self._predicted(there), self._sample.target)
        known.append(self._second_moments(self._weighted(self._sample, self._by_model(curvature))))
        return known[-1]

    def of_columns(self, weights: Tensor) -> Factored | None:
        """Second moments with a curvature that no row lacks, where curvature is not constant.

        They tell whether columns are dependent: a Hessian is singular also where rows, such as
        outliers under Huber's loss, have no curvature.
        """
        if self.constant or self._diagonal:
            return None
        return self._factored(self._majorizer(weights))

    def _whole_hessian(self, weights: Tensor, kept: Tensor | None) -> Tensor:
        """Second derivative of the loss in the weights.

        In all of each model, shape ``(M, K r, K r)``; or in each output's, ``(M * K, r, r)``, where
        the loss couples none. It is known at the last point.
        """
        if kept is None and self._hessian is not None and self._hessian[0] is weights:
            return self._hessian[1][0]
        (there,) = self._send(weights)
        moments = self._scaled(*self._fetch(*self._measure_hessian(there, kept)))
        if kept is None:
            self._hessian = weights, [moments]
        return moments

    def _measure_hessian(
        self, there: Tensor, kept: Tensor | None = None, *, damped: bool = False
    ) -> list[Tensor]:
        """Return the sums that the whole Hessian is made of, on the device of the rows.

        If it will be `damped`, those of `_majorizer` behind it.
        """
        assert self._sample is not None
        loss, target = self.objective.loss, self._sample.target
        if damped:
            second, upper = loss.curvatures(self._predicted(there), target)
            self._second, upper = (there, second), self._by_model(upper)
        elif kept is None:
            second = self._second_derivative(there)
        else:
            second = loss.hessian(self._without(there, kept)[0], target)
        of_rows = self._by_model(second.diagonal)  # (M, K, n)
        if not second.coupled:
            of_rows = own = of_rows.flatten(0, 1)
            if damped:
                of_rows = torch.cat([own, upper])
            moments = self._moments_of_sample(self._weighted(self._sample, of_rows))
            return [moments[: len(own)], moments[len(own) :]] if damped else [moments]
        weight = self._sample.weight
        weight = None if weight is None else weight.reshape(1, -1).to(self.precision)
        sums = [self._summed(coupled_moments(self._wide_sample, weight, of_rows))]
        if damped:
            sums.append(self._moments_of_sample(self._weighted(self._sample, upper)))
        return sums

    def _scaled(self, moments: Tensor) -> Tensor:
        """Means from sums over the sample that `_measure_hessian` or others return."""
        moments = moments * self._scale
        if moments.shape[-1] == self.loader.n_columns:
            return moments
        return with_own_blocks(moments, self.loader.n_outputs)

    @property
    def _wide_sample(self) -> Tensor:
        """Rows of a small sample as one dense matrix, in the precision of sums."""
        assert self._sample is not None
        if self._wide is None:
            self._wide = self._sample.wide_rows().to(self.precision)
        return self._wide

    def _second_derivative(self, there: Tensor) -> SecondDerivative:
        """Return that of the loss in the raw predictions of the sample."""
        assert self._sample is not None
        if self._second is None or self._second[0] is not there:
            raw, target = self._predicted(there), self._sample.target
            self._second = there, self.objective.loss.hessian(raw, target)
        return self._second[1]

    def hessian(self, weights: Tensor) -> Callable[[Tensor], Tensor]:
        """Return ``v -> H v`` at `weights`, both ``(M, K, D + 1)``; for `has_hessian_products`."""
        assert self._sample is not None
        sample, l2, (there,) = self._sample, self.penalty.l2, self._send(weights)
        (batch,), (scale,) = sample.batches, sample.scale
        of_rows = self._second_derivative(there).product
        models, outputs, columns = weights.shape
        _, parts, rows = sample.shape
        sums = there.new_empty(parts, models * outputs, columns)

        def product(vector: Tensor) -> Tensor:
            (tangent,) = self._send(vector)
            pulled = of_rows(raw_predictions(sample, tangent))
            if sample.weight is not None:
                pulled *= sample.weight
            batch.rmatmul(pulled.view(parts, models * outputs, rows), scale, out=sums)
            (total,) = self._fetch(self._summed(sums.sum(dim=0, dtype=float64)))
            return torch.addcmul(total.view_as(vector), l2, vector)

        return product

    def changes(
        self, weights: Tensor, directions: Tensor, negligible: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What steps against directions change of raw predictions of the sample.

        Parameters
        ----------
        weights : Tensor of shape (M, K, D + 1)
        directions : Tensor of shape (M, U, K, D + 1)
        negligible : Tensor of shape (M,)
            A mean loss that does not matter.

        Returns
        -------
        gain : Tensor of shape (M,)
            No more than this can moves along them take from the mean loss: no more than the losses
            of the rows that they move, and of rows whose moved outputs have small residuals, as
            log-odds of unlikely classes, little more than these.
        largest : Tensor of shape (M, U)
            Largest change of a raw prediction along each direction.
        limiting : Tensor of shape (M, U)
            Of a log loss, the largest change of log-odds that matters: classes of a negligible
            probability may become less likely at no cost. Else the same as `largest`.
        """
        assert self._sample is not None
        there, along = self._send(weights, directions)
        raw, target = self._predicted(there), self._sample.target
        losses = self._by_model(self.objective.loss.value(raw, target))  # (M, rows)
        residual = self.objective.loss.gradient(raw, target, torch.empty_like(raw))
        change = self._by_model(raw_predictions(self._sample, along.flatten(0, 1)))
        change = change.view(*directions.shape[:2], *change.shape[1:])  # (M, U, K, rows)
        limiting = self._limiting(self._by_model(raw).unsqueeze(1), -change, negligible)
        change = change.abs()
        largest = self._largest(change.amax(dim=(2, 3))).view(*change.shape[:2], 1, 1)
        # A change that rounding alone would make is none.
        size = self._largest(self._wide_sample.abs().amax(dim=0))
        most = (along.abs() * size).sum(dim=3).amax(dim=2)  # (M, U)
        largest = torch.where(largest > UNSEEN * most.view(*most.shape, 1, 1), largest, 0.0)
        change = torch.where(largest > 0, change, 0.0)
        moved = (change > UNMOVED * largest).any(dim=1)
        small = (self._by_model(residual.abs()) * moved).sum(dim=1)  # (M, rows)
        gains = torch.where(moved.any(dim=1), losses, 0.0)
        if not self.objective.loss.is_regression:
            gains = torch.where(small < SMALL_RESIDUAL, torch.minimum(losses, 2.0 * small), gains)
        gain = self._summed(self._weighted(self._sample, gains).sum(dim=1, dtype=float64))
        gain, largest, limiting = self._fetch(gain, largest.squeeze(3).squeeze(2), limiting)
        return gain * self._scale, largest, limiting

    def _limiting(self, raw: Tensor, change: Tensor, negligible: Tensor) -> Tensor:
        """Return the largest change that matters, see `changes`."""
        if self.objective.loss.is_regression:
            return self._largest(change.abs().amax(dim=(2, 3)))
        p, of_odds = self.objective.loss.log_odds(raw, change)
        of_odds = torch.where(self.matters(p, negligible), of_odds.abs(), of_odds)
        return self._largest(of_odds.amax(dim=(2, 3)))

    def duality_gap(
        self, weights: Tensor, direction: Tensor, kept: Tensor | None = None
    ) -> tuple[np.ndarray, Tensor, Tensor]:
        """Evaluate a dual point that a Newton step gives, where `is_exact`.

        Parameters
        ----------
        weights, direction : Tensor of shape (M, K, D + 1)
        kept : Tensor of bool, shape (M, K, n), optional
            Outputs of the rows that count in a log loss; what the others have is counted as a gap.

        Returns
        -------
        gap : ndarray of shape (M,)
            The part of the loss.
        slope : Tensor of shape (M, K, D + 1)
            Minus what the penalty has to hold: the product of the rows with the dual variables.
        dual : Tensor of shape (M, K, n)
            The dual variables of the rows of the sample, where the rows are.
        """
        assert self._sample is not None
        (there,), rows = self._send(weights), self._wide_sample
        raw, others = self._without(there, kept)
        change = self._by_part(self._changed(direction), raw)
        dual, gap = self.objective.loss.dual_step(raw, change, self._sample.target)
        dual, gap = self._by_model(dual), self._by_model(gap if others is None else gap + others)
        slope, gap = self._fetch(
            self._summed(self._weighted(self._sample, dual) @ rows),
            self._summed(self._weighted(self._sample, gap).sum(dim=1)),
        )
        return (gap * self._scale).numpy(force=True), slope * self._scale, dual

    def excess(self, weights: Tensor, direction: Tensor) -> np.ndarray:
        """How far a Newton step leads beyond where the loss is like its quadratic model.

        Without an excess, the loss's part of a duality gap is no more than twice the decrease that
        the model predicts.

        Parameters
        ----------
        weights, direction : Tensor of shape (M, K, D + 1)

        Returns
        -------
        excess : ndarray of shape (M,)
            Of log losses, by how much the largest change of log-odds is above one. Otherwise, the
            mean size of what the domain of the loss's conjugate takes from the dual variables.
        """
        assert self._sample is not None
        loss, target, change = self.objective.loss, self._sample.target, self._changed(direction)
        if not loss.is_regression:
            most = change.abs().amax(dim=1)
            if loss.shift_invariant:
                most = change.amax(dim=1) - change.amin(dim=1)
            (most,) = self._fetch(self._largest(most.amax(dim=1)))
            return np.maximum(most.numpy(force=True) - 1.0, 0.0)
        (there,) = self._send(weights)
        raw, _ = self._without(there, None)
        change = self._by_part(change, raw)
        dual, _ = loss.dual_step(raw, change, target)
        newton = loss.gradient(raw, target, torch.empty_like(raw))
        newton += loss.hessian(raw, target).product(change)
        taken = self._weighted(self._sample, self._by_model((dual - newton).abs_()))
        (excess,) = self._fetch(self._summed(taken.sum(dim=(1, 2))))
        return (excess * self._scale).numpy(force=True)

    def _changed(self, direction: Tensor) -> Tensor:
        """What a direction adds to the raw predictions of the sample, in `precision`."""
        rows = self._wide_sample
        if not self._on_one_device:
            (direction,) = self._send(direction)
        return direction.to(rows.dtype) @ rows.T

    @property
    def column_sizes(self) -> Tensor:
        """Mean magnitude of each column of the sample, shape ``(D + 1,)``."""
        if self._sizes is None:
            assert self._sample is not None
            sizes = self._sample.shares(self.precision) @ self._wide_sample.abs()
            ((self._sizes,),) = self._fetch(self._summed(sizes))
        return self._sizes

    def matters(self, of_rows: Tensor, negligible: Tensor) -> Tensor:
        """Which outputs of rows of the sample have a share in a mean that is not negligible.

        Parameters
        ----------
        of_rows : Tensor of shape (M, ..., n)
            What the outputs have, where the rows are.
        negligible : Tensor of shape (M,)
            A mean of all that does not matter.
        """
        assert self._sample is not None
        (least,) = self._send(negligible / (self._scale * of_rows[0].numel()))
        share = self._weighted(self._sample, of_rows.abs())
        return share > least.view(-1, *[1] * (of_rows.ndim - 1))

    def _without(self, there: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Raw predictions of the sample without outputs of rows, see `Loss.leave_out`."""
        assert self._sample is not None
        raw = self._predicted(there).to(self.precision)
        if kept is None:
            return raw, None
        return self.objective.loss.leave_out(raw, self._sample.target, self._by_part(kept, raw))

    def gradient(self, weights: Tensor, kept: Tensor | None) -> Tensor:
        """Gradient of the loss in `precision`, without outputs of rows that are not `kept`."""
        assert self._sample is not None
        (there,) = self._send(weights)
        raw, _ = self._without(there, kept)
        residual = self.objective.loss.gradient(raw, self._sample.target, torch.empty_like(raw))
        residual = self._weighted(self._sample, self._by_model(residual))
        (gradient,) = self._fetch(self._summed(residual @ self._wide_sample))
        return gradient * self._scale

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
        sample, (there, step, of_batches) = self._sample, self._send(weights, direction, lengths)
        change = raw_predictions(sample, step)
        raw = torch.addcmul(self._predicted(there), of_batches.view(-1, 1, 1, 1, 1), change)
        sums = self.objective.sum_of_losses(raw, sample.target, sample.weight)  # (T, M)
        loss = self._fetch(self._summed(sums))[0] * self._scale
        pull = self.penalty.l2 * direction
        slope, curvature = dot(pull, weights).view(-1), dot(pull, direction).view(-1)
        length = lengths.unsqueeze(1)
        values = loss + length * (slope + 0.5 * length * curvature)
        return values.nan_to_num_(nan=torch.inf, posinf=torch.inf)

    def _diagonal_preconditioner(self, weights: Tensor, damping: Tensor | None) -> Diagonal:
        """Mean squares of the columns over all rows, times the mean curvature.

        Where the solution of least norm is asked for, the same number for all columns: steps then
        stay in the span of the rows.
        """
        total = self.mean(weights).unsqueeze(1)
        if damping is not None:
            (whole,) = self._fetch(self._summed(self._gauge.shares().sum()))
            most = whole * self.objective.loss.hessian_bound
            total = total + most * damping.view(-1, 1)
        squares = self._all_squares().clone()
        if self._least_norm:
            squares[:-1] = squares[:-1].mean()
        l2 = self.penalty.l2
        return Diagonal(squares * total, l2, self.objective.loss.shift_invariant)

    def _measure(self, weights: Tensor) -> Tensor:
        """Second moments at `weights`, ``(M, r, r)``.

        Models that are where they were keep theirs, and of those that moved, the ones of about the
        same mean curvature share one measurement.
        """
        assert self._sample is not None
        if not self._shared:
            (there,) = self._send(weights)
            return self._second_moments(self._row_weights(self._sample, there))
        moved = torch.arange(len(weights), device=weights.device)
        if self._measured is not None:
            moved = (weights != self._measured[0]).any(dim=2).any(dim=1).nonzero().view(-1)
        if len(moved):
            mean = self.mean(weights)[moved]
            representatives, group = cluster_by_curvature(mean)
            chosen = moved[representatives]
            (there,) = self._send(weights[chosen])
            loss = self.objective.loss.select(chosen.to(there.device))
            share = self._row_weights(self._sample, there, loss)
            moments = self._second_moments(share)[group]
            moments = moments * (mean / mean[representatives][group]).view(-1, 1, 1)
            if self._measured is not None:
                moments = self._measured[1].index_copy(0, moved, moments)
            self._measured = weights.clone(), moments
        assert self._measured is not None
        return self._measured[1]

    def _with_missed(self, moments: Tensor, total: Tensor) -> Tensor:
        """The sample's second moments, with the squares of the columns that it has missed.

        Those of which it has less than half of the mean square over all rows, times the `total`
        curvature, of shape ``(M, 1)``.
        """
        return moments + torch.diag_embed(self._missed * total) if self.misses_columns else moments

    def _all_squares(self) -> Tensor:
        """Mean square of each column over all rows, shape ``(D + 1,)``."""
        assert self._moments is not None
        if self._scaling is None:
            return self._moments[0]
        return self._scaling.scale_squares(*self._moments)

    def _row_weights(self, chunk: Chunk, there: Tensor, loss: Loss | None = None) -> Tensor:
        """Curvature of each row, times its weight, shape ``(M, rows)``.

        Of some of the models if their loss is given.
        """
        known = chunk is self._sample and loss is None
        raw = self._predicted(there) if known else raw_predictions(chunk, there)
        curvature = (loss or self.objective.loss).curvature(raw, chunk.target)
        return self._weighted(chunk, self._by_model(curvature))

    def _weighted(self, chunk: Chunk, of_rows: Tensor) -> Tensor:
        """Numbers of rows, ``(..., rows)``, times the weights of these."""
        weight = chunk.weight
        return of_rows if weight is None else of_rows * weight.view(-1).to(of_rows.dtype)

    def _predicted(self, there: Tensor) -> Tensor:
        """Raw predictions of the sample, taken once for each tensor of weights."""
        assert self._sample is not None
        if self._raw is None or self._raw[0] is not there:
            self._raw = there, raw_predictions(self._sample, there)
        return self._raw[1]

    def _second_moments(self, of_rows: Tensor) -> Tensor:
        """Return second moments for row weights ``(M, rows)``, missed columns included."""
        moments = self._moments_of_sample(of_rows)
        if not self.misses_columns:
            return self._fetch(moments)[0] * self._scale
        total = self._summed(of_rows.sum(dim=-1, keepdim=True, dtype=float64))
        moments, total = (part * self._scale for part in self._fetch(moments, total))
        return self._with_missed(moments, total)

    def _moments_of_sample(self, of_rows: Tensor) -> Tensor:
        """Sums over the sample for row weights ``(M, rows)``, where the rows are."""
        assert self._sample is not None
        return self._summed(self._sample.second_moments(of_rows))

    @property
    def _on_one_device(self) -> bool:
        """Whether the rows are where tensors of the weights' shape are wanted."""
        return self._algebra_device == self.loader.device

    def _send(self, *values: Tensor) -> list[Tensor]:
        """Numbers where the rows are, and in their dtype; each is sent once."""
        dtype, device = self.loader.dtype, self.loader.device
        if self._on_one_device:
            return [value.to(dtype) for value in values]
        fresh = [value for value in values if value not in self._sent]
        if fresh:
            flat = torch.cat([value.reshape(-1).to(dtype) for value in fresh]).to(device)
            parts = torch.split(flat, [value.numel() for value in fresh])
            for value, part in zip(fresh, parts, strict=True):
                self._sent[value] = part.view(value.shape)
        return [self._sent[value] for value in values]

    def _fetch(self, *values: Tensor) -> list[Tensor]:
        """Numbers where they are wanted, in double precision; all in one transfer."""
        if self._on_one_device:
            return [value.to(float64) for value in values]
        flat = [value.reshape(-1) for value in values]
        whole = flat[0] if len(flat) == 1 else torch.cat(flat)
        whole = whole.to(self._algebra_device).to(float64)
        parts = torch.split(whole, [part.numel() for part in flat])
        return [part.view(value.shape) for part, value in zip(parts, values, strict=True)]

    def _summed(self, own: Tensor) -> Tensor:
        """Return the sum over all processes, in double precision if there are several."""
        if self.objective.comm.size > 1:
            own = own.to(float64)
        self.objective.comm.all_reduce_(own)
        return own

    def _by_model(self, of_rows: Tensor) -> Tensor:
        """From ``(1, parts, M, ..., rows)`` to ``(M, ..., parts * rows)``, for sums over rows."""
        return of_rows.to(self.precision).squeeze(0).movedim(0, -2).flatten(-2)

    def _by_part(self, of_rows: Tensor, raw: Tensor) -> Tensor:
        """The way back from `_by_model`, to the shape of `raw`."""
        return of_rows.view(*raw.shape[2:4], raw.shape[1], -1).movedim(-2, 0).unsqueeze(0)

    def _largest(self, own: Tensor) -> Tensor:
        """Return the largest number of all processes, entry by entry."""
        return self.objective.comm.all_gather_rows(own.unsqueeze(0)).amax(dim=0)


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


def algebra_device(loader: BatchLoader, weights: Tensor) -> torch.device:
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
