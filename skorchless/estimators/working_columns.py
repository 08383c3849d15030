r"""Fits with L1 by working sets of columns (Johnson and Guestrin, 2015; Massias et al., 2018).

L1 leaves most coefficients at zero. Each round fits the columns of the working set alone, and then
takes the gradient of the objective in all coefficients. With :math:`\lambda_j` the weight of L1,
columns whose gradient :math:`|g_j|` is above it violate the conditions of the optimum and join the
working set. Without them no more is lost than

.. math:: F(W) - F(W^*) \le \sum_j (|g_j| - \lambda_j)_+ |W^*_j|
          \le F(W) \max_j (|g_j| / \lambda_j - 1)_+,

since F is convex and its penalty at the optimum :math:`W^*` is no more than :math:`F(W)`. The
rounds end when this is a small part of the distance to the optimum that ``tol`` allows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, float64

from skorchless.data import BatchLoader, LargeMatrix, Scaling
from skorchless.estimators.problem import FitProblem, FitResult
from skorchless.losses import NullModel
from skorchless.objective import LinearObjective
from skorchless.optimizers.line_search import ROUNDING, stop_distance
from skorchless.training import Observer, TrainingResult

#: Columns from which on rounds take less time than all columns at once (measured with 100 to
#: 200,000 rows: with 200 columns up to twice as much, with 500 about as much, with 2000 a fifth).
LEAST_COLUMNS = 400
#: A round adds no more columns than this, or than there are.
FIRST_COLUMNS = 100
#: Share of the columns, and bytes of a copy of a large matrix, from which on all are taken.
MOST_SHARE, MOST_BYTES = 0.5, 2**28
#: Rounds after which all columns are taken.
MOST_ROUNDS = 20
#: Share of the distance at which training stops that columns outside may add to it.
LEFT_OUT = 0.5

FoldBack = Callable[[Tensor | None], np.ndarray | None]
MakeObserver = Callable[[FoldBack], Observer]
Fit = Callable[[FitProblem, MakeObserver | None], FitResult]


@dataclass(eq=False)
class AllColumns:
    """The conditions of the optimum in all columns.

    Attributes
    ----------
    loader : BatchLoader
        All rows in one batch.
    objective : LinearObjective
    scaling : Scaling
        From the user's columns to those of the objective.
    tolerance : ndarray of shape (M,)
        ``tol``.
    null_model : NullModel
        The best constant models.
    """

    loader: BatchLoader
    objective: LinearObjective
    scaling: Scaling
    tolerance: np.ndarray
    null_model: NullModel

    def violations(self, weights: np.ndarray) -> tuple[Tensor, Tensor]:
        """How far the gradient is beyond L1's weight, at weights on the user's columns.

        Parameters
        ----------
        weights : ndarray of shape (M, K, D + 1)
            Zeros stand for the best constant model.

        Returns
        -------
        excess : Tensor of shape (D,)
            The largest of all models and outputs, on standardised columns.
        matters : Tensor of bool, shape (D,)
            Whether leaving the column out may matter to one of the models.
        """
        at = self.scaling.to_scaled(torch.from_numpy(weights).to(self.loader.device))
        at = at.to(self.loader.dtype)
        if not bool(at.any()):
            at[..., -1] = self.null_model.intercept.to(at)
        value = torch.zeros(len(at), dtype=float64, device=at.device)
        gradient = torch.empty_like(at, dtype=float64)
        for chunk in self.loader.chunks():
            for total in self.objective.gradients(chunk, at):
                gradient.copy_(total)
            value += self.objective.value(chunk)
        l1 = self.objective.penalty.l1.to(float64)[..., :-1]
        excess = (gradient[..., :-1].abs() - l1).amax(dim=1)  # (M, D)
        values = value.numpy(force=True)
        constant_loss = self.null_model.loss.numpy(force=True)
        near = stop_distance(self.tolerance, values, constant_loss)
        near = np.maximum(near, ROUNDING * torch.finfo(self.loader.dtype).eps * np.abs(values))
        lost = excess * (value / torch.from_numpy(LEFT_OUT * near).to(value)).unsqueeze(1)
        matters = (lost > l1.squeeze(1)).any(dim=0)
        excess = excess.amax(dim=0)
        # All processes go on with the same columns.
        self.objective.comm.broadcast_(excess)
        matters = matters.to(float64)
        self.objective.comm.broadcast_(matters)
        return excess, matters > 0


class Rounds:
    """A fit whose rounds each train on the columns of the working set.

    Parameters
    ----------
    problem : FitProblem
        With all columns, of candidates with L1.
    all_columns : AllColumns
    fit : callable
        Trains on the columns of a problem, with the observer that its last argument makes.
    make_observer : callable, optional
        Makes the observer of the fit of a single candidate, as in `fit_stack`.
    """

    def __init__(
        self,
        problem: FitProblem,
        all_columns: AllColumns,
        fit: Fit,
        make_observer: MakeObserver | None,
    ) -> None:
        self.problem, self.all_columns, self.fit = problem, all_columns, fit
        self.make_observer, self._stopped = make_observer, False
        self.weights = problem.starts.copy()
        used = (problem.start[..., :-1] != 0).any(axis=(0, 1))
        self.working = torch.from_numpy(used).to(problem.data.X.device)
        self.outcome: FitResult | None = None
        self.left = int(problem.shared["max_iter"])

    def run(self) -> FitResult:
        """Train until no column outside the working set matters."""
        for count in range(MOST_ROUNDS + 1):
            try:
                added = self._add_columns()
            except KeyboardInterrupt as interrupt:
                if self.outcome is None or self.problem.comm.size > 1:
                    raise
                return replace(self.outcome, interrupt=interrupt)
            if self.outcome is not None and not added:
                break
            if count == MOST_ROUNDS or self._is_large(int(self.working.sum())):
                self.working[:] = True
            self.outcome = outcome = self._train()
            weights = [w for w in outcome.weights if w is not None and np.isfinite(w).all()]
            ended = len(weights) < len(self.weights) or outcome.interrupt is not None
            ended = ended or self.left <= 0 or self._stopped
            if any(self.problem.comm.all_gather_object(ended)):
                break
            self.weights = np.stack(weights)
        assert self.outcome is not None
        return self.outcome

    def _add_columns(self) -> bool:
        """Take in the columns that violate the conditions most; whether there are any.

        The first round's are taken whether they violate anything or not.
        """
        if bool(self.working.all()):
            return False
        excess, matters = self.all_columns.violations(self.weights)
        outside = ~self.working
        if self.outcome is not None:
            outside &= matters
        most = max(FIRST_COLUMNS, int(self.working.sum()))
        some = min(most, int(outside.sum()))
        chosen = torch.where(outside, excess, -torch.inf).topk(some).indices
        self.working[chosen] = True
        return some > 0

    def _is_large(self, columns: int) -> bool:
        """Whether so many columns are better trained on together with all others."""
        X = self.problem.data.X
        copied = len(X) * columns * X.dtype.itemsize if isinstance(X, LargeMatrix) else 0
        large = columns > MOST_SHARE * X.shape[1] or copied > MOST_BYTES
        return any(self.problem.comm.all_gather_object(large))

    def _train(self) -> FitResult:
        """Train on the columns of the working set, from where the last round ended."""
        candidates = [{**candidate, "max_iter": self.left} for candidate in self.problem.candidates]
        problem = replace(self.problem, candidates=candidates, start=self.weights)
        if not bool(self.working.all()):
            columns = self.working.nonzero().view(-1)
            start = self.weights[..., np.append(columns.numpy(force=True), -1)]
            problem = problem.with_rows(lambda data: data.columns(columns), start=start)
        make_observer = None if self.make_observer is None else self._make_round_observer
        part = self.fit(problem, make_observer)
        self.left -= max(result.n_iter * result.moved for result in part.results)
        results = [self._joined(i, result) for i, result in enumerate(part.results)]
        return replace(part, results=results, weights=[self._lifted(w) for w in part.weights])

    def _make_round_observer(self, fold_back: FoldBack) -> Observer:
        """Make the observer of a round, whose passes count as those of the whole fit."""
        assert self.make_observer is not None
        observer = self.make_observer(lambda weights: self._lifted(fold_back(weights)))
        return _RoundObserver(self, observer)

    def _joined(self, model: int, result: TrainingResult) -> TrainingResult:
        """The result of a round behind what the rounds before have recorded."""
        if self.outcome is None:
            return result
        before = self.outcome.results[model]
        if not result.moved:
            return replace(
                result,
                loss_curve=before.loss_curve,
                validation_loss_curve=before.validation_loss_curve,
                n_iter=before.n_iter,
                best_iter=before.best_iter,
                moved=before.moved,
            )
        # It begins where the round before has ended, but for rounding.
        later = [min(loss, before.loss_curve[-1]) for loss in result.loss_curve]
        return replace(
            result,
            loss_curve=before.loss_curve + later,
            validation_loss_curve=before.validation_loss_curve + result.validation_loss_curve,
            n_iter=before.n_iter + result.n_iter,
            best_iter=before.n_iter + result.best_iter,
        )

    def _lifted(self, weights: np.ndarray | None) -> np.ndarray | None:
        """Weights of the working set's columns among zeros for all others."""
        if weights is None or bool(self.working.all()):
            return weights
        whole = np.zeros(self.weights.shape[1:], dtype=weights.dtype)
        columns = self.working.nonzero().view(-1).numpy(force=True)
        whole[:, np.append(columns, -1)] = weights
        return whole


class _RoundObserver:
    """Tells of a round's iterations as of those of the whole fit."""

    def __init__(self, rounds: Rounds, observer: Observer) -> None:
        self._rounds, self._observer = rounds, observer
        self.on_pass_begin = observer.on_pass_begin

    def on_pass_end(self, result: TrainingResult) -> bool:
        """Tell of an iteration; return whether the fit is to stop."""
        rounds = self._rounds
        stops = self._observer.on_pass_end(rounds._joined(0, result))
        rounds._stopped = rounds._stopped or stops
        return stops
