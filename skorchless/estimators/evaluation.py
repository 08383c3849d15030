"""Predictions and scores of fitted models, and what rounding costs those that a fit returns.

Tensors are answered by torch where they are. Everything else is predicted by NumPy, which is safe
in forked processes.

A fit returns models on the user's columns, in the dtype of X. Rounding to that dtype, and the
rounding of predictions, may take back what training has gained. So where rounding may matter the
returned models are evaluated, and one that lost too much has not converged.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import is_classifier
from sklearn.utils.validation import check_array
from torch import Tensor, float64

from skorchless.data import LargeMatrix, Matrix, Moments, Scaling, SparseRows
from skorchless.data.base import lay_out, room_for_targets, slices
from skorchless.data.limits import numbers_at_once
from skorchless.estimators import checks, limits
from skorchless.estimators.problem import FitProblem, FitResult, in_units
from skorchless.estimators.reduction import RowSpace, as_dense
from skorchless.estimators.runtime import in_full_precision
from skorchless.losses import NullModel
from skorchless.optimizers.line_search import WORSE, stop_distance
from skorchless.stack import shared
from skorchless.training import TrainingResult

Fit = Callable[[FitProblem], FitResult]
Weights = list[np.ndarray | None]


@np.errstate(all="ignore")
def raw_predictions(
    estimator: Any, X: Any, coef: np.ndarray, intercept: np.ndarray
) -> np.ndarray | Tensor:
    """``X W + b``, in the precision of X; logits are finite.

    Parameters
    ----------
    estimator : object
        Fitted, to check X for.
    X : array-like or Tensor of shape (n, D)
    coef : ndarray of shape (K, D)
    intercept : ndarray of shape (K,)

    Returns
    -------
    raw : ndarray or Tensor of shape (n, K)
    """
    n_logits = len(np.atleast_2d(estimator.coef_)) if is_classifier(estimator) else None
    model = RawPredictor(coef, intercept, n_logits)
    if isinstance(X, Tensor):
        rows = checks.check_X(estimator, X, reset=False)
        assert not isinstance(rows, SparseRows)
        return model.in_torch(rows)
    with checks.named("X"):
        matrix = checks.large_matrix(estimator, X, reset=False)
        if matrix is None:
            return model.in_numpy(checks.check_array_X(estimator, X, reset=False))
        dtypes = [np.float64, np.float32]  # runs are only checked now
        check = partial(check_array, dtype=dtypes, estimator=estimator, input_name="X")
        runs = (check(run.to(matrix.dtype).numpy()) for run in matrix.runs())
        return np.concatenate([model.in_numpy(run) for run in runs])


class RawPredictor(NamedTuple):
    """Coefficients of models, and how they predict.

    Attributes
    ----------
    coef, intercept : ndarray of shape (K, D) and (K,)
        Finite.
    n_logits : int, optional
        How many of the K belong to one model, if they are logits.
    """

    coef: np.ndarray
    intercept: np.ndarray
    n_logits: int | None

    def of_rows(self, rows: Matrix) -> Tensor:
        """What `raw_predictions` gives for checked rows; of those on the host, in NumPy."""
        if not isinstance(rows, SparseRows) and rows.device.type != "cpu":
            return self.in_torch(rows)
        array = rows.matrix if isinstance(rows, SparseRows) else rows[:].numpy()
        return torch.from_numpy(self.in_numpy(array)).to(rows.device)

    def in_numpy(self, array: Any) -> np.ndarray:
        """``X W + b``, shape ``(n, K)``."""
        raw: np.ndarray = array @ self.coef.T.astype(array.dtype, copy=False)
        raw += self.intercept.astype(array.dtype, copy=False)
        self.keep_in_range(raw, array)
        return raw

    def in_torch(self, rows: Tensor | LargeMatrix) -> Tensor:
        """``X W + b``, shape ``(n, K)``."""
        if isinstance(rows, LargeMatrix):
            return torch.cat([self.in_torch(run.to(rows.dtype)) for run in rows.runs()])
        weights = shared(self.coef).to(rows.device, rows.dtype).T
        bias = shared(self.intercept).to(rows.device, rows.dtype)
        raw = in_full_precision(rows.device, partial(torch.addmm, bias, rows, weights))
        self.keep_in_range(raw, rows)
        return raw

    def keep_in_range(self, raw: Any, rows: Any) -> None:
        """Make those rows of `raw` anew that are not finite, from scaled products.

        Terms beyond the range that cancel each other then do. Numbers that are beyond it themselves
        become infinite. Logits do not, as only their differences matter: those of a row are shifted
        so that the largest is in range, and the others end at the limit, where probabilities are 0
        and 1.

        Parameters
        ----------
        raw : ndarray or Tensor of shape (n, K)
            ``X W + b``; written to.
        rows : ndarray, sparse matrix or Tensor of shape (n, D)
            Finite.
        """
        if bool(torch.isfinite(raw.sum()) if isinstance(raw, Tensor) else np.isfinite(raw.sum())):
            return
        found = checks.as_numpy(raw)
        bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
        step = max(1, limits.PRODUCTS_AT_ONCE // self.coef.size)
        for start in range(0, len(bad), step):
            some = bad[start : start + step]
            again = self._anew(found[some], checks.as_numpy(rows[some]))
            raw[some] = torch.from_numpy(again).to(raw.device) if isinstance(raw, Tensor) else again

    def _anew(self, raw: np.ndarray, rows: Any) -> np.ndarray:
        """The same, each row in units of a power of two near its largest product."""
        rows = rows.toarray() if issparse(rows) else rows
        rows = np.column_stack([rows, np.ones(len(rows))]).astype(np.float64)
        weights = np.column_stack([self.coef, self.intercept]).astype(np.float64)
        (x, x_power), (_, w_power) = np.frexp(rows), np.frexp(np.abs(weights).max(axis=0))
        nonzero = (x != 0) & weights.any(axis=0)
        powers = np.where(nonzero, x_power + w_power, np.iinfo(np.int32).min // 2)
        unit = powers.max(axis=1, keepdims=True)
        # No matrix product: with fused operations terms that cancel would leave their rounding.
        x, w = np.ldexp(x, powers - unit), np.ldexp(weights, -w_power)
        sums = (x[:, np.newaxis, :] * w).sum(axis=2)
        if self.n_logits is None:
            return np.where(np.isfinite(raw), raw, np.ldexp(sums, unit).astype(raw.dtype))
        limit = 2.0 ** (np.finfo(raw.dtype).maxexp - limits.SPARE_POWERS)
        shape = len(raw), -1, self.n_logits
        sums, unit = sums.reshape(shape), unit[:, :, np.newaxis]
        largest = sums.max(axis=2, keepdims=True)
        shifted = limit + np.ldexp(sums - largest, unit)
        logits = np.where(np.ldexp(largest, unit) > limit, shifted, np.ldexp(sums, unit))
        sound = np.isfinite(raw).reshape(shape).all(axis=2, keepdims=True)
        logits = logits.clip(-limit, limit).astype(raw.dtype)
        return np.where(sound, raw.reshape(shape), logits).reshape(raw.shape)


@np.errstate(all="ignore")
def score(metric: Callable[..., float], y: Any, found: Any, sample_weight: Any) -> float:
    """Return a `metric` of scikit-learn of predictions. Tensors come to the CPU."""
    here = found.device if isinstance(found, Tensor) else torch.device("cpu")
    checks.check_same_device(here, y=y, sample_weight=sample_weight)
    weight = checks.check_sample_weight(checks.as_numpy(sample_weight, "sample_weight"), len(found))
    # In units in which their sum is in range.
    scaled = None if weight is None else in_units(weight.numpy())
    with checks.named("y"):
        return float(metric(checks.as_numpy(y), checks.as_numpy(found), sample_weight=scaled))


@dataclass(eq=False)
class Models:
    """Models to return, and what they are known to be worth.

    Attributes
    ----------
    results : list of TrainingResult
    weights : list of ndarray
        On the user's columns.
    values, predicted : ndarray of shape (M,)
        Objectives of the weights, as they are and as they predict; NaN where they are not in doubt.
    """

    results: list[TrainingResult]
    weights: Weights
    values: np.ndarray
    predicted: np.ndarray

    def improve(
        self, better: np.ndarray, others: Weights, values: np.ndarray, predicted: np.ndarray
    ) -> None:
        """Take other weights where they are `better`, and what these are worth."""
        pairs = zip(better, others, self.weights, strict=True)
        self.weights = [other if b else own for b, other, own in pairs]
        self.values = np.where(better, values, self.values)
        self.predicted = np.where(better, predicted, self.predicted)


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
        models = Models(results, folded, values, self._where_it_matters(results, folded))
        self._judge(models)
        whitened = self.row_space is not None and not self.problem.has_penalty
        if whitened and any(result.lost_digits for result in results):
            self._within_precision(models, fit)
        if self._may_add_noise() and any(result.lost_digits for result in results):
            self._with_noise(models, fit)
        return models.weights

    def _may_add_noise(self) -> bool:
        """Whether coefficients are rounded, of a table that is soon trained again."""
        problem = self.problem
        may_iterate = problem.shared["tol"] is not None and not problem.early_stopping
        if self.dtype == float64 or not self.is_small or not may_iterate:
            return False
        return sum(problem.comm.all_gather_object(problem.data.X.numel())) <= limits.MOST_NOISY

    def _with_noise(self, models: Models, fit: Fit) -> None:
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
                for i, (result, weights) in enumerate(
                    zip(models.results, models.weights, strict=True)
                )
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
            others: Weights = [None] * len(models.weights)
            for i, weights in zip(before, outcome.weights, strict=True):
                if weights is not None:
                    others[i] = self._rounded(torch.from_numpy(weights), mean.to(float64))
            of_others = self._objectives(others)
            as_predicted = self._objectives(others, as_predicted=True)
            better = np.fmax(of_others, as_predicted) < np.fmax(models.values, models.predicted)
            better &= [weights is not None for weights in others]
            models.improve(better, others, of_others, as_predicted)
            self._judge(models)

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

    def _judge(self, models: Models) -> None:
        """Set `returned_objective` and `lost_digits`, with which a model has not converged.

        Digits are lost if rounding took back what training had gained, or left a model that is
        worse than the best constant one. Rounding to single precision, which the user has chosen,
        may cost predictions `tol` times what has been gained, however near to zero the objective
        is.
        """
        problem, null_model = self.problem, self.problem.null_model
        is_regression = problem.loss.is_regression
        rounding = limits.ROUNDING_OF_RETURNED * torch.finfo(float64).eps
        for result, value, as_predicted, tol, constant, intercept in zip(
            models.results,
            models.values.tolist(),
            models.predicted.tolist(),
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

    def _within_precision(self, models: Models, fit: Fit) -> None:
        """Leave out coordinates that the returned coefficients cannot hold, where that is better.

        Models are compared by their objective, evaluated exactly and as they predict, whichever is
        worse.
        """
        assert self.row_space is not None
        problem, space = self.problem, self.row_space
        held = space.held(problem.data.X, self.dtype)
        if bool(held.all()) or not bool(held.any()) or problem.early_stopping:
            return
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
        worst = np.fmax(models.values, self._objectives(models.weights, as_predicted=True))
        better = np.fmax(of_others, self._objectives(others, as_predicted=True)) < worst
        if self.dtype == float64:
            # What is left out can be no more than rounding of the data. It is, if leaving it out
            # costs no more than noise would have gained: then nothing has been lost.
            # Residuals are measured with these columns: those of few rows, or without noise, may
            # vanish by them, and then nothing says that they are noise.
            reached = np.array([r.loss_curve[r.best_iter - 1] for r in models.results])
            most = limits.MOST_BY_CHANCE * self._gained_by_chance(int((~held).sum()), reached)
            by_chance = of_others - reached <= most
            better |= by_chance
            for i in np.flatnonzero(by_chance).tolist():
                models.results[i] = outcome.results[i]
        predicted = self._where_it_matters(models.results, others)
        models.improve(better, others, of_others, predicted)
        self._judge(models)

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
