r"""Fits in fewer coordinates than X has columns: the span of the rows, and working sets of columns.

Without L1, where there are no more rows than columns or columns are dependent, the optimum lies in
the span of the rows: with an L2 penalty, or where the solution of least norm is asked for, weights
orthogonal to all centred rows are zero. With an orthonormal basis Q of the span, :math:`w = Q v`,
the penalty is :math:`\|w\|^2 = \|v\|^2`, and the problem in v has as many columns as the rows have
dimensions (Hastie and Tibshirani, 2004). Without any penalty the basis of the span need not be
orthonormal. The one that makes the rows' coordinates orthogonal leaves no two of them nearly
dependent, whatever the columns are.

With L1 most coefficients stay at zero (Johnson and Guestrin, 2015; Massias et al., 2018). Each
round fits the columns of the working set alone, and then takes the gradient of the objective in all
coefficients. With :math:`\lambda_j` the weight of L1, columns whose gradient :math:`|g_j|` is above
it violate the conditions of the optimum and join the working set. Without them no more is lost than

.. math:: F(W) - F(W^*) \le \sum_j (|g_j| - \lambda_j)_+ |W^*_j|
          \le F(W) \max_j (|g_j| / \lambda_j - 1)_+,

since F is convex and its penalty at the optimum :math:`W^*` is no more than :math:`F(W)`. The
rounds end when this is a small part of the distance to the optimum that ``tol`` allows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor, float64

from skorchless.data import BatchLoader, LargeMatrix, Matrix, Scaling
from skorchless.estimators import limits
from skorchless.estimators.problem import FitProblem, FitResult
from skorchless.objective import LinearObjective
from skorchless.optimizers.line_search import ROUNDING, stop_distance
from skorchless.stack import pack
from skorchless.training import Observer, TrainingResult

FoldBack = Callable[[Tensor | None], np.ndarray | None]
MakeObserver = Callable[[FoldBack], Observer]
Fit = Callable[[FitProblem, MakeObserver | None], FitResult]


@dataclass(frozen=True, eq=False)
class RowSpace:
    """Rows in the coordinates of a basis of their span.

    Parameters
    ----------
    mean, rest : Tensor of shape (D,)
        The centre of the rows is the sum of both: `rest` is what rounding leaves of the first.
    basis : Tensor of shape (D, r)
        On the user's columns.
    inverse : Tensor of shape (r, D)
        Gives the coordinates of weights in the span.
    """

    mean: Tensor
    rest: Tensor
    basis: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, rows: Tensor, *, centre: bool, orthonormal: bool) -> Self:
        """Of `rows` of shape ``(n, D)`` in double precision.

        The basis is `orthonormal`, or else the rows' coordinates are orthogonal.
        """
        mean = rows.mean(dim=0) if centre else rows.new_zeros(rows.shape[1])
        centred = rows - mean
        rest = centred.mean(dim=0) if centre else torch.zeros_like(mean)
        centred -= rest
        basis = spanning_directions(centred)
        if orthonormal:
            return cls(mean, rest, basis, basis.T)
        inside = centred @ basis
        size = torch.linalg.vector_norm(inside, dim=0)
        upper = torch.linalg.qr(inside / size, mode="r").R
        inverse = (upper * size) @ basis.T
        basis = torch.linalg.solve_triangular(upper, basis / size, upper=True, left=False)
        return cls(mean, rest, basis, inverse)

    def along_principal_axes(self, rows: Tensor) -> "RowSpace":
        """Turn the basis so that the coordinates of the rows are orthogonal."""
        upper = torch.linalg.qr(self.rows(rows), mode="r").R
        axes = torch.linalg.svd(upper).Vh
        return RowSpace(self.mean, self.rest, self.basis @ axes.mT, axes @ self.inverse)

    def part(self, chosen: Tensor) -> "RowSpace":
        """Keep some of the basis only."""
        return RowSpace(self.mean, self.rest, self.basis[:, chosen], self.inverse[chosen])

    def held(self, X: Matrix, dtype: torch.dtype) -> Tensor:
        """Which coordinates weights in `dtype` can hold on the columns of X, shape ``(r,)``.

        Weights on nearly dependent columns are large and cancel: of the others, rounding changes
        the predictions by more than the coordinate itself does.
        """
        size = as_dense(X).square().mean(dim=0).sqrt()
        moved = (self.basis.abs() * size.unsqueeze(1)).square().sum(dim=0).sqrt()
        coordinate = self.rows(X).square().mean(dim=0).sqrt()
        return torch.finfo(dtype).eps * moved < coordinate

    def rows(self, X: Matrix) -> Tensor:
        """X of shape ``(n, D)`` in the coordinates of the basis, shape ``(n, r)``."""
        return (as_dense(X) - self.mean - self.rest) @ self.basis

    def reduce(self, weights: Tensor) -> Tensor:
        """Weights ``(M, K, D + 1)`` in the coordinates of the basis, ``(M, K, r + 1)``."""
        coef = weights[..., :-1]
        return pack(coef @ self.inverse.T, weights[..., -1] + coef @ self.mean + coef @ self.rest)

    def fold_back(self, weights: Tensor) -> Tensor:
        """Weights ``(M, K, r + 1)`` on the user's columns, ``(M, K, D + 1)``."""
        wide = weights.to(float64)
        coef = wide[..., :-1] @ self.basis.T
        return pack(coef, wide[..., -1] - coef @ self.rest - coef @ self.mean)


def as_dense(X: Matrix) -> Tensor:
    """Return X as a dense tensor in double precision."""
    return X[:].to_dense().to(float64)


def spanning_directions(rows: Tensor) -> Tensor:
    """Orthonormal basis of the span of `rows`, in the units of their columns.

    Which directions there are is decided on columns of unit size, so that one column in large
    units hides no other. From the largest columns to the smallest, each level adds the directions
    in which rows differ although they agree in all larger columns.

    Parameters
    ----------
    rows : Tensor of shape (n, D), in double precision

    Returns
    -------
    basis : Tensor of shape (D, r)
    """
    rounding = torch.finfo(rows.dtype).eps * max(rows.shape)
    if len(rows) > rows.shape[1]:
        rows = torch.linalg.qr(rows, mode="r").R
    size = _size(rows)
    varies = size > 0
    rows = rows[:, varies]
    unit = rows / size[varies]
    left, singular, _ = torch.linalg.svd(unit, full_matrices=False)
    # As many rows as directions: none is left in which they only differ by rounding.
    rows = left[:, singular > rounding * torch.linalg.matrix_norm(unit)].T @ rows
    within = _directions_by_level(rows, rounding)
    basis = rows.new_zeros(len(size), within.shape[1])
    basis[varies] = within
    return basis


def _directions_by_level(rows: Tensor, rounding: float) -> Tensor:
    """As `spanning_directions`, of rows of full rank and columns of which none is zero."""
    if not len(rows):
        return rows.new_zeros(rows.shape[1], 0)
    size = _size(rows)
    order = size.argsort(descending=True, stable=True)
    basis, seen = rows.new_zeros(rows.shape[1], 0), rows.new_zeros(len(rows), 0)
    largest = rows.new_zeros(())
    while len(order) and seen.shape[1] < len(rows):
        level = int((size[order] * limits.LEVEL >= size[order[0]]).sum())
        unit = rows[:, order[:level]] / size[order[:level]]
        left, singular, _ = torch.linalg.svd(_beside(seen, unit), full_matrices=False)
        largest = torch.maximum(largest, torch.linalg.matrix_norm(unit))
        left = left[:, singular > rounding * largest]
        found = rows.new_zeros(rows.shape[1], left.shape[1])
        found[order] = rows[:, order].T @ left  # the larger columns are zero: rows agree in these
        basis = torch.cat([basis, _orthonormal(_beside(basis, found))], dim=1)
        seen = torch.cat([seen, left], dim=1)
        order = order[level:]
    return basis


def _size(rows: Tensor) -> Tensor:
    """Root of each column's mean square, also where squares leave the range."""
    largest = rows.abs().amax(dim=0)
    finite = torch.where(largest > 0, largest, 1.0)
    return torch.where(largest > 0, finite * (rows / finite).square().mean(dim=0).sqrt(), 0.0)


def _beside(basis: Tensor, vectors: Tensor) -> Tensor:
    """What `vectors` have that the orthonormal `basis` does not."""
    for _ in range(2):  # twice is enough
        vectors = vectors - basis @ (basis.T @ vectors)
    return vectors


def _orthonormal(vectors: Tensor) -> Tensor:
    size = vectors.abs().amax(dim=0)
    orthonormal: Tensor = torch.linalg.qr(vectors / torch.where(size > 0, size, 1.0)).Q
    return orthonormal


def violations(
    problem: FitProblem,
    loader: BatchLoader,
    objective: LinearObjective,
    scaling: Scaling,
    weights: np.ndarray,
) -> tuple[Tensor, Tensor]:
    """How far the gradient is beyond L1's weight, at weights on the user's columns.

    Parameters
    ----------
    problem : FitProblem
        With all columns.
    loader : BatchLoader
        All rows in one batch.
    objective : LinearObjective
    scaling : Scaling
        From the user's columns to those of the objective.
    weights : ndarray of shape (M, K, D + 1)
        Zeros stand for the best constant model.

    Returns
    -------
    excess : Tensor of shape (D,)
        The largest of all models and outputs, on standardised columns.
    matters : Tensor of bool, shape (D,)
        Whether leaving the column out may matter to one of the models.
    """
    at = scaling.to_scaled(torch.from_numpy(weights).to(loader.device)).to(loader.dtype)
    if not bool(at.any()):
        at[..., -1] = problem.null_model.intercept.to(at)
    value = torch.zeros(len(at), dtype=float64, device=at.device)
    gradient = torch.empty_like(at, dtype=float64)
    for chunk in loader.chunks():
        for total in objective.gradients(chunk, at):
            gradient.copy_(total)
        value += objective.value(chunk)
    objective.comm.all_reduce_(value)
    l1 = objective.penalty.l1.to(float64)[..., :-1]
    excess = (gradient[..., :-1].abs() - l1).amax(dim=1)  # (M, D)
    values = value.numpy(force=True)
    near = stop_distance(problem.tols, values, problem.null_model.loss.numpy(force=True))
    near = np.maximum(near, ROUNDING * torch.finfo(loader.dtype).eps * np.abs(values))
    lost = excess * (value / torch.from_numpy(limits.LEFT_OUT * near).to(value)).unsqueeze(1)
    matters = (lost > l1.squeeze(1)).any(dim=0).to(float64)
    excess = excess.amax(dim=0)
    objective.comm.broadcast_(excess, matters)  # all processes go on with the same columns
    return excess, matters > 0


@dataclass(eq=False)
class Rounds:
    """A fit whose rounds each train on the columns of the working set.

    Parameters
    ----------
    problem : FitProblem
        With all columns, of candidates with L1.
    violations : callable
        The function of this name, given all but weights.
    fit : callable
        Trains on the columns of a problem, with the observer that its last argument makes.
    make_observer : callable, optional
        Makes the observer of the fit of a single candidate, as in `fit_stack`.
    """

    problem: FitProblem
    violations: Callable[[np.ndarray], tuple[Tensor, Tensor]]
    fit: Fit
    make_observer: MakeObserver | None

    def __post_init__(self) -> None:
        self.weights = self.problem.starts.copy()
        used = (self.problem.start[..., :-1] != 0).any(axis=(0, 1))
        self.working = torch.from_numpy(used).to(self.problem.data.X.device)
        self.outcome: FitResult | None = None
        self.left = int(self.problem.shared["max_iter"])
        self._stopped = False

    def run(self) -> FitResult:
        """Train until no column outside the working set matters."""
        for count in range(limits.MOST_ROUNDS + 1):
            try:
                added = self._add_columns()
            except KeyboardInterrupt as interrupt:
                if self.outcome is None or self.problem.comm.size > 1:
                    raise
                return replace(self.outcome, interrupt=interrupt)
            if self.outcome is not None and not added:
                break
            if count == limits.MOST_ROUNDS or self._is_large(int(self.working.sum())):
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
        excess, matters = self.violations(self.weights)
        outside = ~self.working
        if self.outcome is not None:
            outside &= matters
        most = max(limits.FIRST_COLUMNS, int(self.working.sum()))
        some = min(most, int(outside.sum()))
        chosen = torch.where(outside, excess, -torch.inf).topk(some).indices
        self.working[chosen] = True
        return some > 0

    def _is_large(self, columns: int) -> bool:
        """Whether so many columns are better trained on together with all others."""
        X = self.problem.data.X
        copied = len(X) * columns * X.dtype.itemsize if isinstance(X, LargeMatrix) else 0
        large = columns > limits.MOST_WORKING * X.shape[1] or copied > limits.MOST_COPIED_BYTES
        return any(self.problem.comm.all_gather_object(large))

    def _train(self) -> FitResult:
        """Train on the columns of the working set, from where the last round ended."""
        candidates = [{**candidate, "max_iter": self.left} for candidate in self.problem.candidates]
        problem = replace(self.problem, candidates=candidates, start=self.weights)
        if not bool(self.working.all()):
            columns = self.working.nonzero().view(-1)
            start = self.weights[..., np.append(columns.numpy(force=True), -1)]
            problem = problem.with_rows(
                lambda data: replace(data, X=data.X.index_select(1, columns)), start=start
            )
        make_observer = None if self.make_observer is None else self._of_round
        part = self.fit(problem, make_observer)
        self.left -= max(result.n_iter * result.moved for result in part.results)
        results = [self._joined(i, result) for i, result in enumerate(part.results)]
        return replace(part, results=results, weights=[self._lifted(w) for w in part.weights])

    def _of_round(self, fold_back: FoldBack) -> Observer:
        """Observe a round, whose passes count as those of the whole fit."""
        assert self.make_observer is not None
        self._observer = self.make_observer(lambda weights: self._lifted(fold_back(weights)))
        return self

    def on_pass_begin(self) -> None:
        """Tell of an iteration that begins."""
        self._observer.on_pass_begin()

    def on_pass_end(self, result: TrainingResult) -> bool:
        """Tell of an iteration; return whether the fit is to stop."""
        self._stopped |= self._observer.on_pass_end(self._joined(0, result))
        return self._stopped

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
