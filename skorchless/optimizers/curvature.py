"""Measures of the curvature of the loss, and the preconditioners that are made of them."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from skorchless.objective import Objective, raw_predictions
from skorchless.optimizers.history import dot
from skorchless.optimizers.joint import Joint, joint_moments
from skorchless.optimizers.preconditioner import Diagonal, Factored, Preconditioner
from skorchless.sources import Chunk, Source
from skorchless.stack import WIDE

#: Rows a column of a sample that tells curvature, and of one that least squares are solved from.
CURVATURE_ROWS, SOLVING_ROWS = 8, 16
#: Rows whose mean curvature tells when to measure it anew for all.
GAUGE_ROWS = 1024
#: What reading a number in a pass costs, in the multiply-adds that it delays.
PASS_WORK = 32
#: Multiply-adds of a product with the rows below which the small operations around it cost more.
CHEAP_PRODUCT = 2**22
#: Multiply-adds that second moments of all weights and their factor may take.
CHEAP_HESSIAN = 3 * 2**23
#: Models of a stack whose mean curvatures are within this factor share one measurement ...
ALIKE = 1.4
#: ... if one for each of them would take as many multiply-adds as this.
WORTH_SHARING = 2**29


def sample_size(n_columns: int, rows_a_column: int = CURVATURE_ROWS) -> int:
    """Rows of a sample that tells second moments."""
    return max(rows_a_column * n_columns, 8192)


class Curvature:
    """Measures the curvature of the loss, wherever the weights are.

    That takes max(8 d, 8192) rows at random. Where the curvature is constant (squared error) all
    rows are taken, once, as the first pass goes by, so that the preconditioner is exact; unless
    there are so many columns that a sample and the passes it then takes are less work.

    Parameters
    ----------
    source : Source
        Rows as the weights see them.
    objective : Objective

    Attributes
    ----------
    basis : Tensor of shape (D + 1, r), or None
        Orthonormal columns that span all rows and the intercept, where rows are few.
    """

    def __init__(self, source: Source, objective: Objective) -> None:
        self.source, self.objective = source, objective
        self.noise = float(torch.finfo(source.dtype).eps ** 0.8)
        self.constant = objective.loss.constant_curvature
        columns = source.n_columns
        self._diagonal = not source.affords_gram
        few_rows = source.n_rows < columns
        self.basis = self._row_space() if few_rows and not self._diagonal else None
        sampled = few_rows or self._diagonal or not self.constant or self._saves_work(source)
        n_sample = sample_size(columns, SOLVING_ROWS if self.constant else CURVATURE_ROWS)
        n_sample = GAUGE_ROWS if self._diagonal else n_sample
        exact = not sampled
        self.covers_all_rows = exact or (not self._diagonal and 2 * n_sample >= source.n_rows)
        self.wants_pass = exact or not self.covers_all_rows
        self._moments: Tensor | None = None
        self._sample = None if exact else source.sample(n_sample)
        self._least_norm = few_rows and self.constant and not objective.penalty.has_l2
        models, squares = len(objective.penalty.l2), min(columns, source.n_rows) ** 2
        self._shared = models > 1 and models * n_sample * squares > WORTH_SHARING
        self._measured: tuple[Tensor, Tensor, Tensor] | None = None
        self._raw: tuple[Tensor, Tensor] | None = None
        self._of_pass: Tensor | None = None
        work = source.n_rows * columns * source.stack_width
        smooth = objective.loss.twice_differentiable and not self.constant
        self.has_hessian = smooth and self.covers_all_rows and work <= CHEAP_PRODUCT
        several = source.n_outputs > 1
        couples = several and objective.loss.shift_invariant
        self._joint = self.has_hessian and couples and self._affords_joint(models)
        # One output shares its preconditioner with no other: where it is measured, it is exact.
        self.is_hessian = self.has_hessian and (not several or self._joint)
        gauges = not (exact or self._diagonal or self.is_hessian)
        self._gauge = source.sample(GAUGE_ROWS) if gauges else self._sample

    @staticmethod
    def _saves_work(source: Source) -> bool:
        """Whether second moments of all rows are more work than passes from a sample's.

        With 16 rows a column, conjugate gradients gain 0.6 digits a pass (the condition number is
        at most ``((1 + 1/4) / (1 - 1/4))^2``). A pass of few outputs waits for memory, and costs
        as much as `PASS_WORK` multiply-adds a number more than its products.
        """
        digits = -math.log10(torch.finfo(source.dtype).eps)
        passes = digits / 0.6
        second_moments = source.n_columns / 2  # a number, by symmetry
        share = SOLVING_ROWS * source.n_columns / source.n_rows
        work = second_moments * share + passes * (PASS_WORK + 2 * source.stack_width)
        return second_moments > work

    def _affords_joint(self, models: int) -> bool:
        """Whether second moments of all weights of a model, and their factor, are little work."""
        rank = self.source.n_columns if self.basis is None else self.basis.shape[1]
        weights = self.source.n_outputs * rank
        return models * (self.source.n_rows + weights) * weights**2 <= CHEAP_HESSIAN

    def shared_by_outputs(self) -> None:
        """Let outputs share a preconditioner from now on.

        The whole Hessian is of no use where the rows are so certain, and wrong, that it is flat.
        """
        if self._joint:
            self._joint = self.is_hessian = False

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
            return torch.ones(len(weights), dtype=WIDE, device=weights.device)
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

    def preconditioner(self, weights: Tensor, cautious: Tensor | None = None) -> Preconditioner:
        """The preconditioner at `weights`, of shape ``(M, K, D + 1)``.

        For the models that are `cautious`, of shape ``(M,)``, the loss counts as curved as it can
        be at all, so that no step goes too far (Böhning, 1992).
        """
        l2 = self.objective.penalty.l2.to(WIDE)
        scaling = self.objective.scaling
        if self.wants_pass and self._moments is not None:
            self._summed(self._moments)
        self.wants_pass = False
        if self._sample is None:
            assert self._moments is not None
            gram = self._moments if scaling is None else scaling.standardise_gram(self._moments)
            return Factored(gram.unsqueeze(0), l2, None, self.noise)
        if self.constant and self.basis is None and not self._diagonal:
            gram = self._summed(self._sample.gram().unsqueeze(0) * self._sample.scale[0])
            return Factored(self._with_missed(gram, 1.0), l2, None, self.noise)
        if self._diagonal:
            return self._diagonal_preconditioner(weights, l2, cautious)
        if self._joint:
            moments = self._joint_moments(weights)
            return Joint(moments, l2, self.basis, self.noise, weights.shape[1])
        moments, total = self._measure(weights)
        if cautious is not None:
            bound = self._sample.shares() * self.objective.loss.smoothness
            chosen = cautious.view(-1, *[1] * (moments.ndim - 1))
            bounds, total_bound = self._second_moments(bound)
            moments = torch.where(chosen, bounds, moments)
            total = torch.where(cautious.view(-1, 1), total_bound, total)
        if self.basis is None:
            moments = self._with_missed(moments, total)
        return Factored(moments, l2, self.basis, self.noise, self.objective.loss.shift_invariant)

    def _joint_moments(self, weights: Tensor) -> Tensor:
        """Second derivative of the loss in all weights of each model, shape ``(M, K r, K r)``."""
        assert self._sample is not None
        loss, rows = self.objective.loss, self._sample.wide_rows()
        p = loss.hessian(self._predicted(weights)).diagonal.to(WIDE)
        p = p.movedim((2, 3), (0, 1)).flatten(2)  # (M, K, rows)
        rows = rows if self.basis is None else rows @ self.basis
        return self._summed(joint_moments(rows, self._sample.shares(), p))

    def hessian(self, weights: Tensor) -> Callable[[Tensor], Tensor]:
        """``v -> H v`` at `weights`, both of shape ``(M, K, D + 1)``, where `has_hessian`."""
        assert self._sample is not None
        sample, dtype, l2 = self._sample, weights.dtype, self.objective.penalty.l2.to(WIDE)
        (batch,), (scale,) = sample.batches, sample.scale
        of_rows = self.objective.loss.hessian(self._predicted(weights)).product
        models, outputs, columns = weights.shape
        _, parts, rows = sample.shape
        sums = weights.new_empty(parts, models * outputs, columns)

        def product(vector: Tensor) -> Tensor:
            pulled = of_rows(raw_predictions(sample, vector.to(dtype)))
            if sample.weight is not None:
                pulled *= sample.weight
            batch.pull_back(pulled.view(parts, models * outputs, rows), scale, out=sums)
            total = self._summed(sums.sum(dim=0, dtype=WIDE).view_as(vector))
            return torch.addcmul(total, l2, vector)

        return product

    def along(self, weights: Tensor, direction: Tensor, lengths: Tensor) -> Tensor:
        """Objectives without L1 after steps of these `lengths`, where `has_hessian`.

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
        pull = self.objective.penalty.l2.to(WIDE) * direction
        slope, curvature = dot(pull, weights).view(-1), dot(pull, direction).view(-1)
        length = lengths.unsqueeze(1)
        values = loss + length * (slope + 0.5 * length * curvature)
        return values.nan_to_num_(nan=torch.inf, posinf=torch.inf)

    def _diagonal_preconditioner(
        self, weights: Tensor, l2: Tensor, cautious: Tensor | None
    ) -> Diagonal:
        """Mean squares of the columns over all rows, times the mean curvature.

        Where the solution of least norm is asked for, the same number for all columns: steps then
        stay in the span of the rows.
        """
        assert self._gauge is not None
        total = self.mean(weights).unsqueeze(1)
        if cautious is not None:
            most = self._summed(self._gauge.shares().sum()) * self.objective.loss.smoothness
            total = torch.where(cautious.view(-1, 1), most, total)
        squares = self._all_squares().clone()
        if self._least_norm:
            squares[:-1] = squares[:-1].mean()
        return Diagonal(squares * total, l2, self.objective.loss.shift_invariant)

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
            leaders, follows = alike(mean)
            share = self._row_weights(self._sample, weights, moved[leaders])
            ratio = (mean / mean[leaders][follows]).view(-1, 1)
            moments, total = (measure[follows] for measure in self._second_moments(share))
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
        return moments + torch.diag_embed(missed * total)

    def _all_squares(self) -> Tensor:
        """Mean square of each column over all rows, shape ``(D + 1,)``."""
        assert self._moments is not None
        scaling = self.objective.scaling
        if scaling is None:
            return self._moments[0]
        return scaling.standardise_squares(*self._moments)

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
        curvature = loss.curvature(raw, chunk.target).to(WIDE)  # (batches, parts, M, rows)
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
        moments = self._sample.second_moments(share, self.basis)
        total = share.sum(dim=-1, keepdim=True)
        self.objective.reducer.sum_(moments, total)
        return moments, total

    def _summed(self, own: Tensor) -> Tensor:
        """Of all processes together."""
        self.objective.reducer.sum_(own)
        return own

    def _row_space(self) -> Tensor:
        """Orthonormal basis of the span of all rows, the intercept a direction of its own."""
        own = self.source.sample(self.source.n_rows).wide_rows()
        rows = self.objective.reducer.rows(own)
        _, singular, directions = torch.linalg.svd(rows[:, :-1], full_matrices=False)
        # What has a penalty may keep directions that rounding could have made.
        penalty = self.objective.penalty
        all_have = bool((penalty.l1 + penalty.l2).any(dim=2).all())
        eps = torch.finfo(WIDE if all_have else self.source.dtype).eps
        cutoff = max(rows.shape) * eps * singular.max()
        directions = directions[singular > cutoff]
        basis = rows.new_zeros(rows.shape[1], len(directions) + 1)
        basis[:-1, :-1] = directions.T
        basis[-1, -1] = 1.0
        return basis


def alike(mean: Tensor) -> tuple[Tensor, Tensor]:
    """Models that stand for others of about the same mean curvature.

    Parameters
    ----------
    mean : Tensor of shape (M,)

    Returns
    -------
    leaders : Tensor of int, shape (R,)
        The models that are measured.
    follows : Tensor of int, shape (M,)
        Which of these each model goes by.
    """
    leaders: list[int] = []
    follows = [0] * len(mean)
    values = mean.tolist()
    for model in sorted(range(len(values)), key=values.__getitem__):
        if not leaders or not values[model] <= ALIKE * values[leaders[-1]]:
            leaders.append(model)
        follows[model] = len(leaders) - 1
    return (
        torch.tensor(leaders, device=mean.device),
        torch.tensor(follows, device=mean.device),
    )
