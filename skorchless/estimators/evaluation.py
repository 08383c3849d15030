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
from skorchless.estimators import limits
from skorchless.estimators.predictions import RawPredictor
from skorchless.estimators.problem import FitProblem, FitResult
from skorchless.estimators.reduction import RowSpace, as_dense
from skorchless.losses import NullModel
from skorchless.optimizers.line_search import WORSE, stop_distance
from skorchless.training import TrainingResult

Fit = Callable[[FitProblem], FitResult]
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
    scaling : Scaling, optional
        The one of training.
    moments : Moments, optional
        Of the columns of training.
    """

    problem: FitProblem
    dtype: torch.dtype
    is_small: bool = False
    row_space: RowSpace | None = None
    scaling: Scaling | None = None
    moments: Moments | None = None

    def fold_back(self, weights: Tensor | None) -> np.ndarray | None:
        """Convert weights of one model, on the columns of training, to what is returned."""
        if weights is None:
            return None
        if self.scaling is None:
            return weights.to(self.dtype).numpy(force=True).copy()
        folded = self.scaling.from_scaled(weights.to(self.scaling.mean.device))
        mean = self.scaling.mean.to(float64)
        if self.row_space is not None:
            folded, mean = self.row_space.fold_back(folded), self.row_space.mean
        return self._rounded(folded, mean)

    def check(
        self, results: list[TrainingResult], folded: Weights, fit: Fit, *, singular: bool
    ) -> Weights:
        """Judge the returned models; return them, or better ones in fewer coordinates.

        Parameters
        ----------
        results : list of TrainingResult
            They are told what their models have lost.
        folded : list of ndarray
            The weights of each model, on the user's columns.
        fit : callable
            Trains the candidates of a problem.
        singular : bool
            Whether the Hessian was.
        """
        matters = self.dtype != float64 or singular or self.row_space is not None
        values = np.full(len(folded), np.nan)
        if (matters and self.is_small) or self._has_large_means():
            values = self._objectives(folded)
        predicted = self._where_it_matters(results, folded)
        self._judge(results, values, predicted)
        whitened = self.row_space is not None and not self.problem.has_penalty
        if whitened and any(result.lost_digits for result in results):
            folded, values, predicted = self._within_precision(
                results, folded, values, predicted, fit
            )
        if self._may_add_noise() and any(result.lost_digits for result in results):
            return self._with_noise(results, folded, values, predicted, fit)
        return folded

    def _may_add_noise(self) -> bool:
        """Whether coefficients are rounded, of a table that is soon trained again."""
        problem = self.problem
        may_iterate = problem.shared["tol"] is not None and not problem.early_stopping
        if self.dtype == float64 or not self.is_small or not may_iterate:
            return False
        return sum(problem.comm.all_gather_object(problem.data.X.numel())) <= limits.MOST_NOISY

    def _with_noise(
        self,
        results: list[TrainingResult],
        folded: Weights,
        values: np.ndarray,
        predicted: np.ndarray,
        fit: Fit,
    ) -> Weights:
        """Train again, with errors as those of rounding in the data, where digits were lost.

        The predictions of such a model are sums of large terms that cancel. Often there is another
        one, nearly as good, whose terms are smaller. With noise in the data that is the better one,
        since noise adds to the objective what such errors are expected to cost (Bishop, 1995).
        """
        problem = self.problem
        assert self.scaling is not None
        mean = self.scaling.mean if self.row_space is None else self.row_space.mean
        for size in limits.NOISE:
            before = {
                i: weights
                for i, (result, weights) in enumerate(zip(results, folded, strict=True))
                if result.lost_digits and weights is not None
            }
            if not before:
                break
            max_iter = min(problem.shared["max_iter"], limits.NOISE_ITERATIONS)
            outcome = fit(
                replace(
                    problem,
                    candidates=[{**problem.candidates[i], "max_iter": max_iter} for i in before],
                    data=problem.data.in_double().with_noise(size * torch.finfo(self.dtype).eps),
                    start=np.stack([*before.values()]).astype(np.float64),
                    validation=None,
                )
            )
            if outcome.interrupt is not None:
                raise outcome.interrupt
            others: Weights = [None] * len(folded)
            for i, weights in zip(before, outcome.weights, strict=True):
                if weights is not None:
                    others[i] = self._rounded(torch.from_numpy(weights), mean.to(float64))
            of_others = self._objectives(others)
            as_predicted = self._objectives(others, as_predicted=True)
            better = np.fmax(of_others, as_predicted) < np.fmax(values, predicted)
            better &= [weights is not None for weights in others]
            values = np.where(better, of_others, values)
            predicted = np.where(better, as_predicted, predicted)
            folded = [o if b else w for b, o, w in zip(better, others, folded, strict=True)]
            self._judge(results, values, predicted)
        return folded

    def _has_large_means(self) -> bool:
        """Whether rounding coefficients may change predictions at the mean."""
        if self.scaling is None or not len(self.scaling.mean):
            return False
        return bool((self.scaling.mean * self.scaling.inverse).abs().max() > limits.LARGE_MEAN)

    def _centre(self) -> Tensor | None:
        """The centre of dense rows, on the user's columns; None for others."""
        if self.scaling is None or not self.problem.fit_intercept or self.problem.data.X.is_sparse:
            return None
        mean = self.scaling.mean if self.row_space is None else self.row_space.mean
        return mean.to(float64)

    def _where_it_matters(self, results: Sequence[TrainingResult], weights: Weights) -> np.ndarray:
        """Objectives of models as they predict, shape ``(M,)``; NaN where rounding is no matter."""
        problem, moments = self.problem, self.moments
        if moments is None or self.row_space is not None:
            moments = problem.loader().sample(limits.SAMPLE_ROWS).moments().over(problem.comm)
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
        return np.where(cancels, self._objectives(weights, as_predicted=True), np.nan)

    def _judge(
        self, results: Sequence[TrainingResult], values: np.ndarray, predicted: np.ndarray
    ) -> None:
        """Set `returned_objective` and `lost_digits`, with which a model has not converged.

        Digits are lost if rounding took back what training had gained, or left a model that is
        worse than the best constant one. Rounding to single precision, which the user has chosen,
        may cost predictions `tol` times what has been gained, however near to zero the objective
        is.

        Parameters
        ----------
        results : list of TrainingResult
        values, predicted : ndarray of shape (M,)
            Objectives of the weights that are returned, as they are and as they predict; NaN where
            they are not in doubt.
        """
        problem, null_model = self.problem, self.problem.null_model
        is_regression = problem.loss.is_regression
        rounding = limits.ROUNDING_OF_RETURNED * torch.finfo(float64).eps
        for result, value, as_predicted, tol, constant, intercept in zip(
            results,
            values.tolist(),
            predicted.tolist(),
            problem.tols.tolist(),
            null_model.loss.tolist(),
            null_model.intercept.abs().numpy(force=True),
            strict=True,
        ):
            highest = float(np.fmax(value, as_predicted))
            if not result.loss_curve or result.diverged or np.isnan(highest):
                continue
            # No constant model is nearer to the best one than its intercept can be rounded.
            of_outputs = np.square(torch.finfo(self.dtype).eps * intercept)
            reached = result.loss_curve[result.best_iter - 1]
            near = near_enough(result, tol, constant)
            noise = rounding * (abs(highest) if is_regression else max(abs(highest), 1.0))
            if constant - reached <= of_outputs.max():  # rounding would hide all there is to gain
                noise += min(of_outputs.max(), limits.LEAST_TOL * abs(reached))
            of_predictions = near
            if self.dtype != float64:
                of_predictions = max(near, max(tol, limits.LEAST_TOL) * (constant - reached))
            lost = value - reached > limits.MOST_LOST * near + noise
            noise_as_predicted = noise + of_outputs.sum()
            lost |= as_predicted - reached > limits.MOST_LOST * of_predictions + noise_as_predicted
            # A log loss is a difference of log-odds, which has their rounding.
            most = constant * WORSE + noise + limits.LEAST_LOSS
            most += 0.0 if is_regression else rounding * intercept.max()
            lost |= value > most or as_predicted > most + of_outputs.sum()
            result.lost_digits, result.returned_objective = bool(lost), highest

    def _within_precision(
        self,
        results: list[TrainingResult],
        folded: Weights,
        values: np.ndarray,
        predicted: np.ndarray,
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
        inner = space.part(held)
        some = replace(problem.data, X=inner.rows(problem.data.X))
        start = np.zeros((1, some.n_outputs, some.X.shape[1] + 1), dtype=problem.start.dtype)
        outcome = fit(replace(problem, data=some, start=start, validation=None))
        if outcome.interrupt is not None:
            raise outcome.interrupt
        others: Weights = [
            None
            if w is None
            else self._rounded(inner.fold_back(torch.from_numpy(w).to(held.device)), inner.mean)
            for w in outcome.weights
        ]
        of_others = self._objectives(others)
        worst = np.fmax(values, self._objectives(folded, as_predicted=True))
        better = np.fmax(of_others, self._objectives(others, as_predicted=True)) < worst
        if self.dtype == float64:
            # What is left out can be no more than rounding of the data. It is, if leaving it out
            # costs no more than noise would have gained: then nothing has been lost.
            # Residuals are measured with these columns: those of few rows, or without noise, may
            # vanish by them, and then nothing says that they are noise.
            reached = np.array([result.loss_curve[result.best_iter - 1] for result in results])
            most = limits.MOST_BY_CHANCE * self._gained_by_chance(int((~held).sum()), reached)
            by_chance = of_others - reached <= most
            better |= by_chance
            for i in np.flatnonzero(by_chance).tolist():
                results[i] = outcome.results[i]
        values = np.where(better, of_others, values)
        predicted = np.where(better, self._where_it_matters(results, others), predicted)
        self._judge(results, values, predicted)
        chosen = [other if b else w for b, other, w in zip(better, others, folded, strict=True)]
        return chosen, values, predicted

    def _objectives(self, weights: Weights, *, as_predicted: bool = False) -> np.ndarray:
        """Objectives of models, in double precision, shape ``(M,)``; zeros for missing ones.

        Dense rows are centred first, and what that does to the intercept is added up in extended
        precision: with large means the rounding of an intercept is just what is looked for. Or raw
        predictions are taken `as_predicted`: on rows as they come, and rounded.
        """
        problem, data, loss = self.problem, self.problem.data, self.problem.loss
        nothing = np.zeros((data.n_outputs, data.X.shape[1] + 1))
        stacked = np.stack([nothing if w is None else w for w in weights])
        models, outputs, columns = stacked.shape
        flat = stacked.reshape(-1, columns)
        centre = None
        if not as_predicted:
            flat, centre = flat.astype(np.float64), self._centre()
        if centre is not None:
            wide, mean = flat.astype(np.longdouble), centre.numpy(force=True)
            flat[:, -1] = wide[:, -1] + wide[:, :-1] @ mean.astype(np.longdouble)
        model = RawPredictor(flat[:, :-1], flat[:, -1], None if loss.is_regression else outputs)
        total = torch.zeros(models + 1, dtype=float64, device=data.X.device)
        numbers = numbers_at_once(limits.EVALUATED_NUMBERS, data.X.device)
        rows = max(1, numbers * len(data.X) // max(data.X.numel(), 1))
        for start, stop in slices(len(data.X), rows):
            block = data[start:stop]
            X = block.X.to(torch.from_numpy(flat).dtype)
            X = X if centre is None else as_dense(X) - centre
            raw = model.of_rows(X).to(float64)
            room = room_for_targets((1, 1, stop - start), block.target, outputs, float64)
            target = lay_out(block.target, room)[0, 0]
            losses = loss.value(raw.T.reshape(models, outputs, -1), target)  # (M, rows)
            weight = block.row_weight.to(float64)
            total[:-1] += (losses * weight).sum(dim=1)  # pairwise: a product rounds more
            total[-1] += weight.sum()
        problem.comm.all_reduce_(total)
        values, penalty = total[:-1] / total[-1], problem.penalty()
        if penalty.is_active:
            values += penalty.value(torch.from_numpy(stacked).to(values.device))
        found: np.ndarray = values.numpy(force=True)
        return found

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
        rows = float(sums[0] ** 2 / sums[1])
        if self.problem.loss.is_regression:
            return columns * objectives / rows
        return np.full(len(objectives), 0.5 * columns * data.n_outputs / rows)

    def _rounded(self, weights: Tensor, mean: Tensor) -> np.ndarray:
        """Weights on the user's columns, of this `mean`, in the dtype that is returned."""
        coarse = rounded(weights, mean, self.dtype, fit_intercept=self.problem.fit_intercept)
        return coarse.numpy(force=True)


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
    enough = np.array(max(tol, limits.LEAST_TOL))
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
    results : list of TrainingResult
    weights : list of ndarray
        That are returned.
    size : ndarray of shape (D,)
        Root of each column's mean square.
    tols : ndarray of shape (M,)
    null_model : NullModel
    is_regression : bool
        Of the loss. If it is none, losses are differences of log-odds.
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
