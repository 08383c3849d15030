"""The models that are returned: on the user's columns, in the dtype of X.

Rounding to that dtype, and the rounding of predictions, may take back what training has gained. So
where rounding may matter the returned models are evaluated, and one that lost too much has not
converged.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, float64

from skorchless.data import Moments, Scaling
from skorchless.data.base import lay_out, room_for_targets, slices
from skorchless.data.limits import numbers_at_once
from skorchless.estimators.dataset import Dataset
from skorchless.estimators.parameters import Parameters
from skorchless.estimators.predictions import predicted_by
from skorchless.estimators.problem import FitProblem, FitResult, Task
from skorchless.estimators.row_space import RowSpace
from skorchless.losses import NullModel
from skorchless.objective import LinearObjective
from skorchless.optimizers.line_search import WORSE, stop_distance
from skorchless.stack import pack
from skorchless.training import TrainingResult

#: Numbers of a table that are evaluated at once.
BLOCK_NUMBERS = 2**22
#: Rows of the sample that tells the sizes of the columns.
SAMPLE_ROWS = 1024
#: Means, in standard deviations, from which the models of larger tables are evaluated too.
LARGE_MEAN = 1e3
#: What the rounding of the coefficients may lose, in distances at which training stops, and in
#: roundings of the objective.
MOST_LOST, ROUNDING_OF_RETURNED = 8.0, 4.0
#: Coefficients that are rounded to their dtype are not held to a smaller ``tol``.
LEAST_TOL = 1e-6
#: Losses below this one count as zero.
LEAST_LOSS = 1e-200
#: Standard deviations of the noise that stands for rounding errors, in roundings of the dtype; and
#: the iterations, from the optimum without it, after which the model is near enough to be tried.
NOISE, NOISE_ITERATIONS = (0.3, 0.1, 1.0), 10
#: Numbers of the largest table that is trained again with noise.
MOST_NOISY = 2**20
#: To leave out columns that rounding could have made may cost this many times what as many columns
#: of noise are expected to gain.
MOST_BY_CHANCE = 5.0

Fit = Callable[[Sequence[Parameters], str, Task], FitResult]
Weights = list[np.ndarray | None]


@dataclass(eq=False)
class Returned:
    """The columns and the dtype of the models that are returned.

    Attributes
    ----------
    problem : FitProblem
        On the user's columns, in the precision of training.
    dtype : torch.dtype
        Of the weights that are returned.
    is_small : bool
        Whether the table is so small that its models are evaluated wherever rounding may matter.
    row_space : RowSpace, optional
        The coordinates of training, where these are not the user's columns.
    """

    problem: FitProblem
    dtype: torch.dtype
    is_small: bool = False
    row_space: RowSpace | None = None

    def fold_back(self, weights: Tensor | None, scaling: Scaling | None) -> np.ndarray | None:
        """Convert weights of one model, on the columns of training, to what is returned."""
        if weights is None:
            return None
        if scaling is None:
            return weights.to(self.dtype).numpy(force=True).copy()
        folded = scaling.from_scaled(weights.to(scaling.mean.device))
        mean = scaling.mean.to(float64)
        if self.row_space is not None:
            folded, mean = self.row_space.fold_back(folded), self.row_space.mean
        return self._rounded(folded, mean)

    def check(
        self,
        results: list[TrainingResult],
        folded: Weights,
        scaling: Scaling | None,
        moments: Moments | None,
        fit: Fit,
        *,
        singular: bool,
    ) -> Weights:
        """Judge the returned models; return them, or better ones in fewer coordinates.

        Parameters
        ----------
        results : list of TrainingResult
            They are told what their models have lost.
        folded : list of ndarray
            The weights of each model, on the user's columns.
        scaling : Scaling, optional
            The one of training.
        moments : Moments, optional
            Of the columns of training.
        fit : callable
            Trains the same candidates on another task.
        singular : bool
            Whether the Hessian was.
        """
        centring = self._centring(scaling)
        matters = self.dtype != float64 or singular or self.row_space is not None
        values = np.full(len(folded), np.nan)
        if (matters and self.is_small) or _has_large_means(scaling):
            values = self._objectives(folded, centring)
        predicted = self._where_it_matters(results, folded, moments)
        self._judge(results, values, predicted)
        whitened = self.row_space is not None and not self.problem.has_penalty
        if whitened and any(result.lost_digits for result in results):
            folded, values, predicted = self._within_precision(
                results, folded, values, predicted, centring, fit
            )
        if self._may_add_noise() and any(result.lost_digits for result in results):
            assert scaling is not None
            mean = scaling.mean if self.row_space is None else self.row_space.mean
            return self._with_noise(results, folded, values, predicted, centring, mean, fit)
        return folded

    def _may_add_noise(self) -> bool:
        """Whether coefficients are rounded, of a table that is soon trained again."""
        if self.dtype == float64 or not self.is_small or self.problem.early_stopping:
            return False
        data = self.problem.data
        return bool(sum(self.problem.comm.all_gather_object(data.X.numel())) <= MOST_NOISY)

    def _with_noise(
        self,
        results: list[TrainingResult],
        folded: Weights,
        values: np.ndarray,
        predicted: np.ndarray,
        centring: Scaling | None,
        mean: Tensor,
        fit: Fit,
    ) -> Weights:
        """Train again, with errors as those of rounding in the data, where digits were lost.

        The predictions of such a model are sums of large terms that cancel. Often there is another
        one, nearly as good, whose terms are smaller. With noise in the data that is the better one,
        since noise adds to the objective what such errors are expected to cost (Bishop, 1995).
        """
        problem = self.problem
        for size in NOISE:
            before = {
                i: weights
                for i, (result, weights) in enumerate(zip(results, folded, strict=True))
                if result.lost_digits and weights is not None
            }
            if not before:
                break
            start = np.stack([*before.values()]).astype(np.float64)
            data = problem.data.in_double().with_noise(size * torch.finfo(self.dtype).eps)
            outcome = fit(
                [{**problem.candidates[i], "max_iter": NOISE_ITERATIONS} for i in before],
                problem.loss_name,
                replace(problem.task, data=data, start=start),
            )
            if outcome.interrupt is not None:
                raise outcome.interrupt
            others: Weights = [None] * len(folded)
            for i, weights in zip(before, outcome.weights, strict=True):
                if weights is not None:
                    others[i] = self._rounded(torch.from_numpy(weights), mean.to(float64))
            of_others, as_predicted = (
                self._objectives(others, centring),
                self._objectives_as_predicted(others),
            )
            better = np.fmax(of_others, as_predicted) < np.fmax(values, predicted)
            better &= [weights is not None for weights in others]
            values = np.where(better, of_others, values)
            predicted = np.where(better, as_predicted, predicted)
            folded = [o if b else w for b, o, w in zip(better, others, folded, strict=True)]
            self._judge(results, values, predicted)
        return folded

    def _centring(self, scaling: Scaling | None) -> Scaling | None:
        """The centre of dense rows, on the user's columns; None for others."""
        problem = self.problem
        if scaling is None or not problem.fit_intercept or problem.data.X.is_sparse:
            return None
        mean = scaling.mean if self.row_space is None else self.row_space.mean
        return Scaling(mean, torch.ones_like(mean), float64)

    def _where_it_matters(
        self, results: Sequence[TrainingResult], weights: Weights, moments: Moments | None
    ) -> np.ndarray:
        """Objectives of models as they predict, shape ``(M,)``; NaN where rounding is no matter."""
        problem = self.problem
        if moments is None or self.row_space is not None:
            moments = problem.full_batch_loader().sample(SAMPLE_ROWS).moments()
            moments = moments.over(problem.comm)
        size = torch.hypot(moments.mean, (moments.squares / moments.weight).sqrt())
        cancels = may_cancel(
            results,
            weights,
            size.numpy(force=True),
            problem.tols,
            problem.null_model,
            is_regression=problem.loss.is_regression,
        )
        if not cancels.any():
            return np.full(len(weights), np.nan)
        return np.where(cancels, self._objectives_as_predicted(weights), np.nan)

    def _judge(
        self, results: Sequence[TrainingResult], values: np.ndarray, predicted: np.ndarray
    ) -> None:
        problem = self.problem
        judge(
            results,
            values,
            predicted,
            problem.tols,
            problem.null_model,
            self.dtype,
            is_regression=problem.loss.is_regression,
        )

    def _within_precision(
        self,
        results: list[TrainingResult],
        folded: Weights,
        values: np.ndarray,
        predicted: np.ndarray,
        centring: Scaling | None,
        fit: Fit,
    ) -> tuple[Weights, np.ndarray, np.ndarray]:
        """Leave out coordinates that the returned coefficients cannot hold, where that is better.

        Models are compared by their objective, evaluated exactly and as they predict, whichever is
        worse. Both are returned with the better models.
        """
        assert self.row_space is not None
        problem, space = self.problem, self.row_space
        held = space.held(problem.data.X, self.dtype)
        if bool(held.all()) or not bool(held.any()) or problem.early_stopping:
            return folded, values, predicted
        some = replace(problem.data, X=space.rows(problem.data.X)[:, held])
        start = np.zeros((1, some.n_outputs, some.X.shape[1] + 1), dtype=problem.task.start.dtype)
        task = replace(problem.task, data=some, start=start, validation=None)
        outcome = fit(problem.candidates, problem.loss_name, task)
        if outcome.interrupt is not None:
            raise outcome.interrupt
        others = [self._lifted(weights, held) for weights in outcome.weights]
        of_others = self._objectives(others, centring)
        worst = np.fmax(values, self._objectives_as_predicted(folded))
        better = np.fmax(of_others, self._objectives_as_predicted(others)) < worst
        if self.dtype == float64:
            # What is left out can be no more than rounding of the data. It is, if leaving it out
            # costs no more than noise would have gained: then nothing has been lost.
            # Residuals are measured with these columns: those of few rows, or without noise, may
            # vanish by them, and then nothing says that they are noise.
            reached = np.array([result.loss_curve[result.best_iter - 1] for result in results])
            most = MOST_BY_CHANCE * self._gained_by_chance(int((~held).sum()), reached)
            by_chance = of_others - reached <= most
            better |= by_chance
            for i in np.flatnonzero(by_chance).tolist():
                results[i] = outcome.results[i]
        values = np.where(better, of_others, values)
        of_better = self._where_it_matters(results, others, None)
        predicted = np.where(better, of_better, predicted)
        self._judge(results, values, predicted)
        chosen = [other if b else w for b, other, w in zip(better, others, folded, strict=True)]
        return chosen, values, predicted

    def _objectives(self, weights: Weights, centring: Scaling | None) -> np.ndarray:
        """Objectives of models, in double precision, shape ``(M,)``; zeros for missing ones.

        Dense rows are centred first, and what that does to the intercept is added up in extended
        precision: with large means the rounding of an intercept is just what is looked for.
        """
        problem, stacked = self.problem, self._stack(weights)
        wide, objective = stacked.to(float64), LinearObjective(problem.loss, problem.penalty())
        if centring is not None:
            mean = centring.mean.numpy(force=True).astype(np.longdouble)
            stored = wide.numpy(force=True).astype(np.longdouble)
            shifted = (stored[..., -1] + stored[..., :-1] @ mean).astype(np.float64)
            wide = pack(wide[..., :-1], torch.from_numpy(shifted).to(wide.device))

        def mean_loss(block: Dataset) -> Tensor:
            loader = problem.rows_of(block.in_double(), batch_size=len(block.X), mean_weight=None)
            loader = loader if centring is None else loader.scaled(centring)
            return objective.mean_loss(loader.chunks(), wide)

        return self._over_blocks(mean_loss, stacked)

    def _objectives_as_predicted(self, weights: Weights) -> np.ndarray:
        """The same of raw predictions as they are made: on rows as they come, and rounded."""
        stacked, loss = self._stack(weights), self.problem.loss
        models, outputs, columns = stacked.shape
        flat = stacked.view(-1, columns).numpy(force=True)
        n_logits = None if loss.is_regression else outputs

        def mean_loss(block: Dataset) -> Tensor:
            rows = block.X.to(stacked.dtype)
            raw = predicted_by(rows, flat[:, :-1], flat[:, -1], n_logits).to(float64)
            raw = raw.T.reshape(models, outputs, -1)
            shape = (1, 1, raw.shape[2])
            room = room_for_targets(shape, block.target, outputs, raw.dtype)
            losses = loss.value(raw, lay_out(block.target, room)[0, 0])  # (M, rows)
            if block.weight is None:
                return losses.mean(dim=1)
            share = block.weight.to(float64)
            return losses @ (share / share.sum())

        return self._over_blocks(mean_loss, stacked)

    def _stack(self, weights: Weights) -> Tensor:
        """All models' weights, zero for missing ones, shape ``(M, K, D + 1)``."""
        data = self.problem.data
        nothing = np.zeros((data.n_outputs, data.X.shape[1] + 1))
        stacked = np.stack([nothing if w is None else w for w in weights])
        return torch.from_numpy(stacked).to(data.X.device)

    def _over_blocks(self, mean_loss: Callable[[Dataset], Tensor], weights: Tensor) -> np.ndarray:
        """Objectives from the mean loss of each block of rows, shape ``(M,)``."""
        data = self.problem.data
        total = torch.zeros(len(weights) + 1, dtype=float64, device=weights.device)
        numbers = numbers_at_once(BLOCK_NUMBERS, data.X.device)
        rows = max(1, numbers * len(data.X) // max(data.X.numel(), 1))
        for start, stop in slices(len(data.X), rows):
            block = data[start:stop]
            weight = stop - start if block.weight is None else block.weight.sum()
            total[:-1] += mean_loss(block) * weight
            total[-1] += weight
        self.problem.comm.all_reduce_(total)
        values, penalty = total[:-1] / total[-1], self.problem.penalty()
        if penalty.is_active:
            values += penalty.value(weights)
        found: np.ndarray = values.numpy(force=True)
        return found

    def _lifted(self, weights: np.ndarray | None, held: Tensor) -> np.ndarray | None:
        """Weights on some coordinates of the row space, on the user's columns."""
        assert self.row_space is not None
        if weights is None:
            return None
        mask = torch.cat([held, held.new_ones(1)])
        whole = torch.zeros(len(weights), len(mask), dtype=float64, device=mask.device)
        whole[:, mask] = torch.from_numpy(weights).to(whole)
        return self._rounded(self.row_space.fold_back(whole), self.row_space.mean)

    def _gained_by_chance(self, columns: int, objectives: np.ndarray) -> np.ndarray:
        """What objectives are expected to gain from so many columns of noise, shape ``(M,)``.

        That is half of each parameter's share of the rows, in units of the variance of the
        residuals, or of one where raw predictions are log-odds (Wilks, 1938).
        """
        data = self.problem.data
        sums = torch.full((2,), float(len(data.X)), dtype=float64, device=data.X.device)
        if data.weight is not None:
            sums = torch.stack([data.weight.sum(), data.weight.square().sum()])
        self.problem.comm.all_reduce_(sums)
        rows = float(sums[0] ** 2 / sums[1]) / data.sets
        if self.problem.loss.is_regression:
            return columns * objectives / rows
        return np.full(len(objectives), 0.5 * columns * data.n_outputs / rows)

    def _rounded(self, weights: Tensor, mean: Tensor) -> np.ndarray:
        """Weights on the user's columns, of this `mean`, in the dtype that is returned."""
        coarse = rounded(weights, mean, self.dtype, fit_intercept=self.problem.fit_intercept)
        return coarse.numpy(force=True)


def _has_large_means(scaling: Scaling | None) -> bool:
    """Whether rounding coefficients may change predictions at the mean."""
    if scaling is None or not len(scaling.mean):
        return False
    return bool((scaling.mean * scaling.inverse).abs().max() > LARGE_MEAN)


def rounded(weights: Tensor, mean: Tensor, dtype: torch.dtype, *, fit_intercept: bool) -> Tensor:
    """Weights ``(..., D + 1)`` on columns of this `mean`, in `dtype`.

    The intercept makes up for what the rounding of coefficients does at the mean.
    """
    coarse = weights.to(dtype)
    lost = (weights[..., :-1] - coarse[..., :-1].to(float64)) @ mean
    coarse[..., -1] = (weights[..., -1] + lost).to(dtype) if fit_intercept else 0.0
    return coarse


def near_enough(result: TrainingResult, tol: float, constant: float) -> float:
    """Distance to the optimum that `tol` allows at the end of training."""
    reached = result.loss_curve[result.best_iter - 1]
    enough = np.array(max(tol, LEAST_TOL))
    return float(stop_distance(enough, np.array(reached), np.array(constant)))


def may_cancel(
    results: Sequence[TrainingResult],
    weights: Sequence[np.ndarray | None],
    size: np.ndarray,
    tols: np.ndarray,
    null_model: NullModel,
    *,
    is_regression: bool,
) -> np.ndarray:
    """Whether rounding of its predictions may cost a model what counts, shape ``(M,)``.

    A raw prediction is rounded in proportion to the terms that it is the sum of. No loss has a
    second derivative above one, and its slope is at most the root of twice a loss that has units,
    or one and a half times another.

    Parameters
    ----------
    results, tols, null_model, has_units
        See `judge`.
    weights : list of ndarray
        That are returned.
    size : ndarray of shape (D,)
        Root of each column's mean square.
    """
    cancels = np.zeros(len(results), dtype=bool)
    for i, (result, model) in enumerate(zip(results, weights, strict=True)):
        if model is None or not result.loss_curve or not model[:, :-1].any():
            continue  # a constant model has gained nothing that it could lose
        terms = np.abs(model[:, :-1].astype(np.float64)) @ size + np.abs(model[:, -1])
        moved = np.finfo(model.dtype).eps * np.linalg.norm(terms)
        reached = result.loss_curve[result.best_iter - 1]
        slope = np.sqrt(2.0 * reached) if is_regression else 1.5 * reached
        near = near_enough(result, tols[i], float(null_model.loss[i]))
        cancels[i] = not slope * moved + 0.5 * moved**2 <= near  # nor where sizes overflow
    return cancels


def judge(
    results: Sequence[TrainingResult],
    values: np.ndarray,
    predicted: np.ndarray,
    tols: np.ndarray,
    null_model: NullModel,
    dtype: torch.dtype,
    *,
    is_regression: bool,
) -> None:
    """Set `returned_objective` and `lost_digits`, with which a model has not converged.

    Digits are lost if rounding took back what training had gained, or left a model that is worse
    than the best constant one. Rounding to single precision, which the user has chosen, may cost
    predictions `tol` times what has been gained, however near to zero the objective is.

    Parameters
    ----------
    results : list of TrainingResult
    values, predicted : ndarray of shape (M,)
        Objectives of the weights that are returned, as they are and as they predict; NaN where
        they are not in doubt.
    tols : ndarray of shape (M,)
    null_model : NullModel
    dtype : torch.dtype
        Of the weights that are returned.
    is_regression : bool
        Of the loss. If it has none, losses are differences of log-odds.
    """
    # No constant model is nearer to the best one than its intercept can be rounded.
    intercept = null_model.intercept.abs().numpy(force=True)
    of_outputs = np.square(torch.finfo(dtype).eps * intercept)
    of_intercepts, of_constants = of_outputs.max(axis=1), of_outputs.sum(axis=1)
    rounding = ROUNDING_OF_RETURNED * torch.finfo(float64).eps
    for result, value, as_predicted, tol, constant, of_intercept, of_constant, log_odds in zip(
        results,
        values.tolist(),
        predicted.tolist(),
        tols.tolist(),
        null_model.loss.tolist(),
        of_intercepts.tolist(),
        of_constants.tolist(),
        intercept.max(axis=1).tolist(),
        strict=True,
    ):
        highest = float(np.fmax(value, as_predicted))
        if not result.loss_curve or result.diverged or np.isnan(highest):
            continue
        reached = result.loss_curve[result.best_iter - 1]
        near = near_enough(result, tol, constant)
        noise = rounding * (abs(highest) if is_regression else max(abs(highest), 1.0))
        if constant - reached <= of_intercept:  # nothing to gain that rounding would not hide
            noise += min(of_intercept, LEAST_TOL * abs(reached))
        of_predictions = near
        if dtype != float64:
            of_predictions = max(near, max(tol, LEAST_TOL) * (constant - reached))
        lost = value - reached > MOST_LOST * near + noise
        lost |= as_predicted - reached > MOST_LOST * of_predictions + noise + of_constant
        # A log loss is a difference of log-odds, which has their rounding.
        most = constant * WORSE + noise + LEAST_LOSS
        most += 0.0 if is_regression else rounding * log_odds
        result.lost_digits = bool(lost or value > most or as_predicted > most + of_constant)
        result.returned_objective = highest
