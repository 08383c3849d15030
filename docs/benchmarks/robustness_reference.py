"""Optima of hard problems, in float64 by NumPy and SciPy alone: what `robustness.py` measures by.

Rows are taken about a weighted median of each column and whitened by a pivoted QR decomposition.
Newton's method with damping minimises smooth objectives, an interior-point method those with an L1
penalty or Huber's loss. Objectives are evaluated in extended precision in the user's own units.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, qr, solve_triangular
from scipy.sparse import csr_array, issparse

EPS = np.finfo(np.float64).eps
Long = np.longdouble

#: Changes with the method, so that cached references of an older one are not used.
VERSION = 1

#: Squared rounding errors in predictions cost about half as much as they are, or less where the
#: loss is less curved. So models are sought that pay these shares of it, by a penalty.
SHARES = (0.0, 0.01, 1.0, 100.0)


@dataclass
class Problem:
    """Rows, targets and the settings of one fit; loss is squared_error, huber or log_loss."""

    X: np.ndarray | csr_array
    y: np.ndarray
    sample_weight: np.ndarray | None
    loss: str
    alpha: float
    l1_ratio: float
    fit_intercept: bool
    defects: list[str] = field(default_factory=list)

    @property
    def seen(self) -> np.ndarray:
        """Which rows have a positive weight."""
        return np.ones(len(self.y), bool) if self.sample_weight is None else self.sample_weight > 0

    @property
    def kind(self) -> str:
        """Loss and penalty in short."""
        classes = "binary" if len(np.unique(self.y[self.seen])) == 2 else "multiclass"
        penalty = "none" if not self.alpha else "l1" if self.l1_ratio else "l2"
        return f"{classes if self.loss == 'log_loss' else self.loss}/{penalty}"

    @cached_property
    def rows(self) -> "Rows":
        """The rows that count, ready to evaluate objectives on."""
        return Rows(self)


@dataclass
class Reference:
    """Objectives of the optimum and of the best constant model.

    error estimates by how much the optimum found is too high.
    """

    best: float
    constant: float
    error: float


@dataclass
class HeldModel:
    """A model whose coefficients, intercepts and predictions are in the dtype of X."""

    coef_: np.ndarray
    intercept_: np.ndarray

    def predict(self, X: np.ndarray | csr_array) -> Any:
        """Raw predictions, rounded as they are computed."""
        return X @ self.coef_.T + self.intercept_

    decision_function = predict


class Rows:
    """Rows of positive weight, about a weighted median of each column, and their objective.

    Conventions: D (n, d) in extended precision, shares (n,) of the weight, coef (d, K), and
    intercept (K,) that belongs to rows about the origin.
    """

    def __init__(self, problem: Problem) -> None:
        X = problem.X.toarray() if issparse(problem.X) else problem.X
        weight = np.ones(len(X)) if problem.sample_weight is None else problem.sample_weight
        seen = problem.seen
        X, self.shares = X[seen].astype(np.float64), (weight[seen] / Long(weight.sum()))
        self.problem, self.raw = problem, X
        self.origin = np.zeros(X.shape[1])
        if problem.fit_intercept:
            self.origin = _weighted_medians(X, self.shares.astype(np.float64))
        self.D = X.astype(Long) - self.origin
        self.l1 = problem.alpha * problem.l1_ratio
        self.l2 = problem.alpha * (1 - problem.l1_ratio)
        if problem.loss == "log_loss":
            classes, self.y = np.unique(problem.y[seen], return_inverse=True)
            self.outputs = 1 if len(classes) == 2 else len(classes)
        else:
            self.y = problem.y[seen].reshape(len(X), -1).astype(Long)
            self.outputs = self.y.shape[1]

    def objective(self, coef: np.ndarray, intercept: np.ndarray) -> float:
        """Penalised mean loss in extended precision."""
        return self._penalised(self.D @ coef.astype(Long) + intercept, coef)

    def _penalised(self, raw: np.ndarray, coef: np.ndarray) -> float:
        value = self.shares @ losses(self.problem.loss, raw, self.y)
        value += self.l1 * np.abs(coef).sum() + self.l2 / 2 * (coef.astype(Long) ** 2).sum()
        return float(value)

    def objective_of_fitted(self, coef: np.ndarray, intercept: np.ndarray) -> float:
        """The objective of what an estimator has in coef_ and intercept_."""
        coef = np.atleast_2d(coef).astype(Long).T
        return self.objective(coef, np.atleast_1d(intercept) + self.origin @ coef)

    def objective_of_predictions(self, raw: np.ndarray, coef: np.ndarray) -> float:
        """The same with what it predicts: raw predictions (n,) or (n, K) of all rows."""
        raw = raw.reshape(len(raw), -1)[self.problem.seen].astype(Long)
        return self._penalised(raw, np.atleast_2d(coef).T)

    def constant_model(self) -> np.ndarray:
        """The best intercepts where all coefficients are zero."""
        if not self.problem.fit_intercept:
            return np.zeros(self.outputs)
        if self.problem.loss == "squared_error":
            return (self.shares @ self.y).astype(np.float64)
        if self.problem.loss == "huber":
            return np.array([_huber_centre(y, self.shares) for y in self.y.T])
        share = np.bincount(self.y, self.shares.astype(np.float64), max(self.outputs, 2))
        logits = np.log(np.maximum(share, 1e-300))
        return logits[1:] - logits[0] if self.outputs == 1 else logits - logits.mean()

    def rounded(self, coef: np.ndarray, intercept: np.ndarray) -> HeldModel:
        """The model that X's type can hold nearest to the one given."""
        dtype = self.problem.X.dtype
        with np.errstate(over="ignore", under="ignore"):
            held = coef.astype(dtype)
            centre = self.shares @ self.D
            shift = intercept + centre @ coef - (self.origin + centre) @ held.astype(Long)
            shift = shift.astype(dtype) if self.problem.fit_intercept else 0 * held[0]
        return HeldModel(held.T, shift)


def _weighted_medians(X: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """A value of each column with half of the weight on either side."""
    order = np.argsort(X, axis=0)
    middle = (np.cumsum(shares[order], axis=0) < shares.sum() / 2).sum(axis=0)
    return np.take_along_axis(X, np.take_along_axis(order, middle[None], 0), 0)[0]


def _huber_centre(y: np.ndarray, shares: np.ndarray) -> float:
    """The constant of least Huber loss, by bisection."""
    low, high = y.min(), y.max()
    for _ in range(200):
        middle = (low + high) / 2
        if shares @ np.clip(y - middle, -1, 1) > 0:
            low = middle
        else:
            high = middle
    return float((low + high) / 2)


def losses(loss: str, raw: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The loss of each row, small ones with all their digits; raw (n, K)."""
    if loss == "squared_error":
        return ((y - raw) ** 2).sum(axis=1) / 2
    if loss == "huber":
        size = np.abs(y - raw)
        return np.where(size < 1, size**2 / 2, size - 0.5).sum(axis=1)
    if raw.shape[1] == 1:
        return np.logaddexp(0, np.where(y > 0, -raw[:, 0], raw[:, 0]))
    _, top, total = _excess(raw, y)
    return np.where(top > 0, top + np.log(np.exp(-top) + total), np.log1p(total))


def _excess(raw: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """exp(logit - own logit - top) of the other classes, top >= 0, and their sum."""
    excess = raw - np.take_along_axis(raw, y[:, None], 1)
    np.put_along_axis(excess, y[:, None], -np.inf, 1)
    top = np.maximum(excess.max(axis=1), 0)
    excess = np.exp(excess - top[:, None])
    return excess, top, excess.sum(axis=1)


def derivatives(loss: str, raw: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First (n, K) and second (n, K, K) derivatives of smooth losses by raw predictions."""
    if loss == "squared_error":
        slopes, curvatures = raw - y, np.ones((*raw.shape, 1))
    elif raw.shape[1] == 1:
        sign = np.where(y > 0, -1.0, 1.0)[:, None]
        wrong = np.exp(-np.logaddexp(0, -sign * raw))
        slopes = sign * wrong
        curvatures = (wrong * np.exp(-np.logaddexp(0, sign * raw)))[:, :, None]
    else:
        excess, top, total = _excess(raw, y)
        slopes = excess / (np.exp(-top) + total)[:, None]
        others = slopes.sum(axis=1)
        own = np.exp(-top) / (np.exp(-top) + total)
        p = slopes.copy()
        np.put_along_axis(p, y[:, None], own[:, None], 1)
        np.put_along_axis(slopes, y[:, None], -others[:, None], 1)
        curvatures = -p[:, :, None] * p[:, None, :]
        rest = p.sum(axis=1)[:, None] - p
        np.put_along_axis(rest, y[:, None], others[:, None], 1)
        np.einsum("ikk->ik", curvatures)[:] = p * rest
    return slopes.astype(np.float64), curvatures.astype(np.float64)


class Whitened:
    """The objective without L1 as a function of whitened coefficients u (K, q).

    G (n, q) are the whitened rows; the first column is that of the intercept, where there is one.
    Coefficients (d, K) are T @ u.T. With L1, columns are only centred and scaled.
    ridge is an L2 penalty on the terms of the predictions, in their root mean squares.
    """

    def __init__(self, rows: Rows, y: np.ndarray, ridge: float = 0.0) -> None:
        self.rows, self.y, self.loss = rows, y, rows.problem.loss
        self.shares = rows.shares.astype(np.float64)
        intercept = rows.problem.fit_intercept
        self.mean = rows.shares @ rows.D if intercept else np.zeros(len(rows.origin), Long)
        centred = rows.D - self.mean
        T, condition = self._transform(centred.astype(np.float64))
        kind = Long if condition > 1e3 else np.float64
        G = (centred.astype(kind) @ T.astype(kind)).astype(np.float64)
        if intercept:
            T = np.hstack([np.zeros((len(T), 1)), T])
            G = np.hstack([np.ones((len(G), 1)), G])
        self.T, self.G = T, G
        self.metric = rows.l2 * T.T @ T
        if ridge:
            terms = np.sqrt(self.shares @ rows.raw**2)[:, None] * T
            offset = intercept * (np.arange(T.shape[1]) == 0) - (self.mean @ T).astype(np.float64)
            self.metric += ridge * (terms.T @ terms + intercept * np.outer(offset, offset))

    def _transform(self, centred: np.ndarray) -> tuple[np.ndarray, float]:
        """Columns that make the rows, with those of the penalty, orthonormal; and a condition.

        Directions that are no more than the rounding of X are left out.
        """
        share, rows = self.shares[:, None], self.rows
        A = np.sqrt(share) * centred
        squares = np.where(rows.D != 0, rows.raw**2 + rows.origin**2, 0.0)
        noise = EPS * np.sqrt((share * squares).sum(axis=0))
        size = np.sqrt((A**2).sum(axis=0))
        used = np.flatnonzero(size > (0 if rows.l1 else 16) * noise)
        if rows.l1:  # the penalty would become too ill-conditioned in other coordinates
            return np.eye(len(size))[:, used] / size[used], 1.0
        ridge = np.full(len(used), np.sqrt(rows.l2))
        A = np.vstack([A[:, used], np.diag(ridge)[ridge > 0]]) / noise[used]
        A = A[np.argsort(-np.abs(A).max(axis=1, initial=0.0))]
        R, order = qr(A, mode="r", pivoting=True, check_finite=False)
        diagonal = np.abs(np.diag(R))
        rank = int((diagonal > 16).sum())
        T = np.zeros((len(noise), rank))
        if rank:
            inverse = solve_triangular(R[:rank, :rank], np.eye(rank))
            T[used[order[:rank]]] = inverse / noise[used[order[:rank]], None]
        return T, diagonal.max(initial=1.0) / diagonal[:rank].min(initial=1.0)

    def value(self, u: np.ndarray) -> Long:
        """The objective; its sum over the rows is in extended precision."""
        value = self.rows.shares @ losses(self.loss, self.G @ u.T, self.y)
        return value + np.sum(u @ self.metric * u) / 2

    def derivatives(self, u: np.ndarray, gauge: bool) -> tuple[np.ndarray, np.ndarray]:
        """Gradient and Hessian; gauge adds curvature along what changes no probability."""
        slopes, curvatures = derivatives(self.loss, self.G @ u.T, self.y)
        G, share, (K, q) = self.G, self.shares, u.shape
        hessian = np.empty((K, q, K, q))
        for k in range(K):
            for j in range(k + 1):
                block = G.T @ (G * (share * curvatures[:, k, j])[:, None])
                hessian[k, :, j], hessian[j, :, k] = block, block.T
            hessian[k, :, k] += self.metric
        if self.loss == "log_loss" and K > 1:
            alike = np.arange(q) < (q if gauge else self.rows.problem.fit_intercept)
            hessian += np.diag(alike * np.einsum("kiki->i", hessian) / K**2)[:, None, :]
        gradient = (share[:, None] * slopes).T @ G + u @ self.metric
        return gradient, hessian.reshape(K * q, K * q)

    def model(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (d, K) in the user's units, and intercepts about the origin."""
        coef = self.T.astype(Long) @ u.T
        intercept = u[:, 0] if self.rows.problem.fit_intercept else np.zeros(len(u))
        return coef, intercept - self.mean @ coef

    def start(self, constant: np.ndarray) -> np.ndarray:
        """The best constant model, which sizes of errors are measured by."""
        u = np.zeros((len(constant), self.G.shape[1]))
        if self.rows.problem.fit_intercept:
            u[:, 0] = constant
        self.constant = float(self.value(u))
        return u

    def scale(self, value: float) -> float:
        """The size that errors of the objective are relative to."""
        relative, gained = max(float(value), self.constant / 1000), self.constant - float(value)
        return min(relative, gained) if gained > 1e-13 * self.constant else relative


def _solve(hessian: np.ndarray, gradient: np.ndarray, damping: float) -> np.ndarray:
    """Solve with a damped positive matrix, scaled to a diagonal of ones."""
    diagonal = np.sqrt(np.diag(hessian))
    scale = 1 / np.maximum(diagonal, 1e-8 * diagonal.max() or 1.0)
    scaled = hessian * scale * scale[:, None]
    while True:
        try:
            damped = cho_factor(scaled + damping * np.eye(len(scaled)), check_finite=False)
            return scale * cho_solve(damped, scale * gradient, check_finite=False)
        except LinAlgError:
            damping = max(10 * damping, 1e-15)
            if not damping < 1e50:
                raise


class InteriorPoint:
    """Newton's method with damping; for L1 and Huber's loss, a primal-dual interior-point method.

    L1 turns coefficients into a - c with a and c >= 0, whose multipliers are s and t. Huber's loss
    of r is the largest psi * r - psi**2 / 2 over |psi| <= 1, so r = psi + over - under, where over
    and under are multipliers of up = 1 - psi and down = 1 + psi. Each product of a variable and its
    multiplier goes to zero with the barrier. `held` are all eight; those without a use are empty.
    `some` are the columns of u with an L1 penalty, (1, d) in the units of u.
    """

    def __init__(self, whitened: Whitened, u: np.ndarray) -> None:
        rows, value = whitened.rows, float(whitened.value(u))
        self.whitened, self.u, self.damping = whitened, u, 0.0
        self.huber = whitened.loss == "huber"
        self.some = slice(int(rows.problem.fit_intercept), None) if rows.l1 else slice(0, 0)
        self.penalty = rows.l1 * whitened.T.sum(axis=0)[None, self.some]
        self.barrier = 0.1 * whitened.scale(value)
        spread = 1.0
        if whitened.loss != "log_loss":
            spread = float(whitened.shares @ np.abs(whitened.y[:, 0])) or 1.0
        a = np.ones((len(u), 1)) * np.minimum(spread, value / self.penalty)
        s = self.barrier / max(a.size, 1) / a
        residual = self._residual()
        psi = np.clip(residual, -0.9, 0.9)
        multipliers = np.maximum(residual - psi, 0) + 1, np.maximum(psi - residual, 0) + 1
        self.held = [a, a, s, s, 1 - psi, 1 + psi, *multipliers]

    def _residual(self) -> np.ndarray:
        """y - raw predictions for Huber's loss, else nothing."""
        if not self.huber:
            return np.zeros(0)
        return (self.whitened.y - self.whitened.G @ self.u.T)[:, 0].astype(np.float64)

    def _merit(self, u: np.ndarray, a: np.ndarray, c: np.ndarray) -> Long:
        """What a step must not raise where the loss is not Huber's."""
        logs = self.barrier / max(a.size, 1) * (np.log(a).sum() + np.log(c).sum())
        return self.whitened.value(u) + np.sum(self.penalty * (a + c)) - logs

    def _direction(self) -> tuple[np.ndarray, list[np.ndarray], float, float]:
        """Newton's step of u, the changes of `held` with it, half the decrement, shortfall."""
        G, share, metric = self.whitened.G, self.whitened.shares, self.whitened.metric
        a, c, s, t, up, down, over, under = self.held
        each = self.barrier / max(a.size, 1)
        if self.huber:
            row = self.barrier / (share * len(share))
            psi = (down - up) / 2
            curvature = 1 / (1 + over / up + under / down)
            target = self._residual() - psi - row / up + row / down
            gradient = self.u @ metric - (share * psi) @ G
            hessian = G.T @ (G * (share * curvature)[:, None]) + metric
        else:
            gradient, hessian = self.whitened.derivatives(self.u, gauge=not a.size)
            row = curvature = target = np.zeros(0)
        short = self._shortfall(gradient, a - c)
        if self.huber:
            gradient = gradient - (share * curvature * target) @ G
        theta = 1 / (a / s + c / t)
        pull = theta * (a / s * (each / a - self.penalty) - c / t * (each / c - self.penalty))
        right, diagonal = -gradient, np.zeros(self.u.shape)
        right[:, self.some] += pull
        diagonal[:, self.some] = theta
        hessian += np.diag(diagonal.ravel())
        step = _solve(hessian, right.ravel(), self.damping).reshape(self.u.shape)
        back = theta * step[:, self.some] - pull
        da, dc = a / s * (each / a - self.penalty + back), c / t * (each / c - self.penalty - back)
        changes = [da, dc, (each - s * da) / a - s, (each - t * dc) / c - t]
        dpsi = curvature * (target - (G @ step[0])[: len(target)])
        dover = (row + over * dpsi) / up - over
        dunder = (row - under * dpsi) / down - under
        decrement = abs(float(np.sum(right * step))) / 2
        return step, [*changes, -dpsi, dpsi, dover, dunder], decrement, short

    def _shortfall(self, gradient: np.ndarray, coef: np.ndarray) -> float:
        """What L1 misses of its optimality conditions, in units of the objective."""
        if not coef.size:
            return 0.0
        gradient, size = gradient[:, self.some], np.abs(coef)
        slack = np.abs(self.penalty * size + gradient * coef).sum()
        excess = np.maximum(np.abs(gradient) - self.penalty, 0) * (size + size.mean())
        return float(slack + excess.sum())

    def _search(self, step: np.ndarray, changes: list[np.ndarray], length: float) -> float:
        """The step length, below the largest one, that does not raise the merit; or 0."""
        (a, c), (da, dc) = self.held[:2], changes[:2]
        old = self._merit(self.u, a, c)
        old += 4 * EPS * abs(old)
        while self._merit(self.u + length * step, a + length * da, c + length * dc) > old:
            length /= 2
            if length < 1e-9:
                return 0.0
        return length

    def minimise(self, iterations: int = 500) -> tuple[np.ndarray, float]:
        """Minimise; u and an estimate of how far its objective is too high."""
        error, whitened = np.inf, self.whitened
        for _ in range(iterations):
            step, changes, decrement, short = self._direction()
            largest = length = min(map(_to_boundary, self.held, changes))
            if not self.huber:
                length = self._search(step, changes, largest)
                self.damping = 0.1 * self.damping if length else max(100 * self.damping, 1e-15)
            if self.damping > 1e20:
                break
            if not length:
                continue
            self._move(step, changes, length, largest)
            value = whitened.value(self.u) + np.sum(self.penalty * np.abs(self.u[:, self.some]))
            groups = 2 * self.barrier * (self.huber + bool(self.penalty.size))
            small = 1e-11 * whitened.scale(value)
            if self.damping > 1e-6:  # a damped step says little
                continue
            error = groups + decrement + short
            if groups + decrement <= small:
                break
            centred = length > 0.3 and decrement < 10 * self.barrier
            if centred and groups > small / 10:
                self.barrier *= 0.2
        return self.u, error

    def _move(
        self, step: np.ndarray, changes: list[np.ndarray], length: float, largest: float
    ) -> None:
        """Take a step; multipliers of L1 go the largest way, and stay near the barrier's."""
        lengths = [length, length, largest, largest, *[length] * 4]
        moves = zip(self.held, lengths, changes, strict=True)
        a, c, s, t, *rest = (x + length * change for x, length, change in moves)
        self.u = self.u + length * step
        coef = self.u[:, self.some]  # a - c anew, without the rounding of the steps
        a, c = np.where(coef > 0, c + coef, a), np.where(coef > 0, c, a - coef)
        each = self.barrier / max(a.size, 1)
        s, t = (np.clip(x, each / y / 1e3, each / y * 1e3) for x, y in ((s, a), (t, c)))
        self.held = [a, c, s, t, *rest]


def _to_boundary(x: np.ndarray, change: np.ndarray) -> float:
    """The largest step up to 1 that keeps x positive, with a margin."""
    return min(1.0, 0.99 / max(float((-change / x).max(initial=0.0)), 1e-300))


def solve(problem: Problem) -> Reference:
    """The optimum and what is needed to judge a fit by it."""
    rows = problem.rows
    nothing = np.zeros((rows.D.shape[1], rows.outputs))
    f0 = rows.objective(nothing, rows.constant_model())
    coef, intercept, error = _optimum(problem)
    return Reference(min(rows.objective(coef, intercept), f0), f0, error)


def held_models(problem: Problem) -> Iterator[HeldModel]:
    """Models in the dtype of X that are likely to be the best ones.

    They are the optimum, and models near it whose predictions are sums of smaller terms, so that
    less of them is rounded; each with its coefficients rounded, and with neighbouring intercepts.
    """
    for share in SHARES:
        ridge = share * float(np.finfo(problem.X.dtype).eps) ** 2
        coef, intercept, _ = _optimum(problem, ridge)
        model = problem.rows.rounded(coef, intercept)
        yield model
        for towards in (-np.inf, np.inf) if problem.fit_intercept else ():
            shifted = model.intercept_
            for _ in range(2):
                shifted = np.nextafter(shifted, shifted.dtype.type(towards))
                yield HeldModel(model.coef_, shifted)


def _optimum(problem: Problem, ridge: float = 0.0) -> tuple[np.ndarray, np.ndarray, float]:
    """Coefficients (d, K), intercepts about the origin of the rows, and the error."""
    rows, constant = problem.rows, problem.rows.constant_model()
    if problem.loss == "log_loss":
        parts = [_solve_outputs(Whitened(rows, rows.y, ridge), constant)]
    else:
        parts, whitened = [], Whitened(rows, rows.y, ridge)
        for k in range(rows.outputs):
            whitened.y = rows.y[:, k : k + 1]
            parts.append(_solve_outputs(whitened, constant[k : k + 1]))
    coef = np.hstack([part[0] for part in parts])
    intercept = np.hstack([part[1] for part in parts])
    return coef, intercept, sum(part[2] for part in parts)


def _solve_outputs(
    whitened: Whitened, constant: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Coefficients, intercepts and error of outputs that are fitted together."""
    u = whitened.start(constant)
    u, error = InteriorPoint(whitened, u).minimise() if u.size else (u, 0.0)
    return *whitened.model(u), error
