"""Optima to measure gaps against: float64, run to exhaustion, and nothing of ours."""

from typing import Any

import numpy as np
from scipy.linalg import lstsq, svd
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

#: Parameters up to which Newton's method is affordable.
MOST_NEWTON = 700


def objective(
    X: Any,
    y: np.ndarray,
    coef: np.ndarray,
    intercept: np.ndarray,
    alpha: float,
    l1_ratio: float = 0.0,
) -> float:
    """Penalised mean loss of a linear or softmax model, in float64; X may be sparse."""
    coef = np.atleast_2d(np.asarray(coef, dtype=np.float64))
    raw = X.astype(np.float64) @ coef.T + np.atleast_1d(intercept).astype(np.float64)
    squares, magnitudes = float((coef**2).sum()), float(np.abs(coef).sum())
    penalty = alpha * (0.5 * (1.0 - l1_ratio) * squares + l1_ratio * magnitudes)
    if y.dtype.kind == "f":
        residual = y.reshape(len(y), -1) - raw
        return 0.5 * float((residual**2).sum()) / len(y) + penalty
    if raw.shape[1] == 1:
        raw = np.hstack([np.zeros_like(raw), raw])
    return -float(log_softmax(raw, axis=1)[np.arange(len(y)), y].mean()) + penalty


def best_least_squares(X: np.ndarray, y: np.ndarray) -> float:
    """The least objective of unpenalised least squares."""
    X = X.astype(np.float64)
    centred, target = X - X.mean(axis=0), y.reshape(len(y), -1) - y.mean(axis=0)
    coef = lstsq(centred, target)[0]
    return 0.5 * float(((target - centred @ coef) ** 2).sum()) / len(y)


def best_softmax(X: np.ndarray, y: np.ndarray, alpha: float) -> float:
    """The least objective of softmax regression, by Newton's method on whitened columns.

    Whitening is a change of variables, so the penalty becomes a quadratic form; it makes raw
    columns harmless. L-BFGS comes first, and stands alone where the Hessian is too large.
    """
    n, k = len(X), int(y.max()) + 1
    outputs = 1 if k == 2 else k
    Z, metric = _whitened(X, alpha)
    hot = np.eye(k)[y]

    def probabilities(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raw = Z @ flat.reshape(outputs, -1).T
        full = np.hstack([np.zeros_like(raw), raw]) if outputs == 1 else raw
        return log_softmax(full, axis=1), softmax(full, axis=1)

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(outputs, -1)
        log_p, p = probabilities(flat)
        value = -float(log_p[np.arange(n), y].mean())
        value += 0.5 * float(np.sum(weights @ metric * weights))
        residual = (p - hot)[:, -outputs:]
        return value, (residual.T @ Z / n + weights @ metric).ravel()

    def hessian(flat: np.ndarray) -> np.ndarray:
        p = probabilities(flat)[1][:, -outputs:]
        width = Z.shape[1]
        whole = np.kron(np.eye(outputs), metric)
        for i in range(outputs):
            for j in range(outputs):
                curvature = p[:, i] * ((i == j) - p[:, j])
                block = (Z * curvature[:, None]).T @ Z / n
                whole[i * width : (i + 1) * width, j * width : (j + 1) * width] += block
        return whole

    start = np.zeros(outputs * Z.shape[1])
    options = {"maxiter": 20000, "maxfun": 40000, "ftol": 0.0, "gtol": 1e-12, "maxcor": 60}
    flat = minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options=options).x
    value, gradient = value_and_gradient(flat)
    for _ in range(50 if len(flat) <= MOST_NEWTON else 0):
        step = lstsq(hessian(flat), gradient, lapack_driver="gelsy")[0]
        length = 1.0
        while value_and_gradient(flat - length * step)[0] > value and length > 1e-6:
            length /= 2
        new, new_gradient = value_and_gradient(flat - length * step)
        if not new < value:
            break
        flat, value, gradient = flat - length * step, new, new_gradient
    return value


def _whitened(X: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Uncorrelated columns of deviation 1 and a column of ones; the penalty as a matrix."""
    X = X.astype(np.float64)
    mean, deviation = X.mean(axis=0), X.std(axis=0)
    varies = deviation > 1e-12 * np.maximum(1.0, np.abs(mean))
    Z = (X - mean)[:, varies] / deviation[varies]
    _, singular, directions = svd(Z, full_matrices=False)
    kept = singular > 1e-10 * singular.max()
    if not alpha or kept.all():
        transform = directions[kept].T * (np.sqrt(len(X)) / singular[kept])
    else:
        # With a penalty the optimum lies in the span of the rows in their own units, which for
        # fewer rows than columns is not the span of the scaled ones.
        centred = (X - mean)[:, varies]
        _, singular, directions = svd(centred, full_matrices=False)
        kept = singular > 1e-10 * singular.max()
        transform = directions[kept].T * (np.sqrt(len(X)) / singular[kept])
        transform *= deviation[varies][:, None]
    Z = np.hstack([Z @ transform, np.ones((len(X), 1))])
    inner = transform / deviation[varies][:, None]
    metric = np.zeros((Z.shape[1], Z.shape[1]))
    metric[:-1, :-1] = alpha * inner.T @ inner
    return Z, metric


def gap(value: float, best: float) -> float:
    """Relative distance to the optimum."""
    return (value - best) / max(abs(best), 1e-3)
