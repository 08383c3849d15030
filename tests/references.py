"""Optima to compare fits with, in double precision and by NumPy, SciPy and scikit-learn."""

from functools import cached_property

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import minimize
from scipy.sparse import issparse
from scipy.special import entr, expit, log_softmax, softmax
from scipy.special import huber as huber_loss
from sklearn.linear_model import LassoLars


class Problem:
    """The objective of an estimator with an intercept, on given data.

    The optimum is looked for in weights on standardised columns, by least squares, by Newton's
    method, or with L1 by L-BFGS-B on the positive and the negative parts (by least angle
    regression for squared error).

    Parameters
    ----------
    model : estimator
        Fitted or not; its loss and its penalty count.
    X, y, sample_weight : as for `fit`
        All in double precision from here on.
    """

    def __init__(self, model, X, y, sample_weight=None):
        parameters = model.get_params()
        self.loss = parameters.get("loss", "classes")
        self.delta = parameters.get("delta")
        self.l1 = parameters["alpha"] * parameters["l1_ratio"]
        self.l2 = parameters["alpha"] * (1 - parameters["l1_ratio"])
        self.X = np.asarray(X.toarray() if issparse(X) else X, dtype=np.float64)
        weight = np.ones(len(self.X)) if sample_weight is None else np.asarray(sample_weight, float)
        self.share = weight / weight.sum()
        if self.loss == "classes":
            classes, place = np.unique(y, return_inverse=True)
            self.y = np.eye(len(classes))[place]
            self.y = self.y[:, 1:] if len(classes) == 2 else self.y
        else:
            self.y = np.asarray(y, dtype=np.float64).reshape(len(self.X), -1)
        self.mean = self.share @ self.X
        centred = self.X - self.mean
        self.size = np.abs(centred).max(axis=0)
        self.size[self.size == 0] = 1.0
        self.size = self.size * np.sqrt(self.share @ (centred / self.size) ** 2)
        self.size[self.size == 0] = 1.0
        self.rows = np.column_stack([centred / self.size, np.ones(len(self.X))])

    def objective(self, coef, intercept):
        """The objective at coefficients in the units of X."""
        coef = np.atleast_2d(np.asarray(coef, dtype=np.float64))
        raw = self.X @ coef.T + np.asarray(intercept, dtype=np.float64)
        penalty = self.l1 * np.abs(coef).sum() + self.l2 / 2 * np.square(coef).sum()
        return self.share @ self._losses(raw) + penalty

    @cached_property
    def best(self):
        """The lowest objective there is."""
        return self.objective(*self.optimum)

    @cached_property
    def optimum(self):
        """Coefficients and intercepts in the units of X, shapes ``(K, D)`` and ``(K,)``."""
        if self.l1 and self.loss == "squared_error":
            return self._lars_optimum()
        weights = self._l1_optimum() if self.l1 else self._smooth_optimum(self.rows)
        coef = weights[:, :-1] / self.size
        return coef, weights[:, -1] - coef @ self.mean

    @cached_property
    def constant(self):
        """Objective of the best model that ignores X."""
        if self.loss == "classes":
            shares = self.share @ self.y
            return entr(shares if len(shares) > 1 else np.append(shares, 1 - shares)).sum()
        ones = np.ones((len(self.X), 1))
        return self.share @ self._losses(ones @ self._smooth_optimum(ones).T)

    def gap(self, model):
        """How far above the optimum a fitted model is, relative to what `tol` is relative to."""
        return self.gap_of(model.coef_, model.intercept_)

    def gap_of(self, coef, intercept):
        above = self.objective(coef, intercept) - self.best
        return above / max(abs(self.best), self.constant / 1000)

    def _losses(self, raw):
        """Loss of each row, from raw predictions of shape ``(n, K)``."""
        if self.loss == "squared_error":
            return 0.5 * np.square(raw - self.y).sum(axis=1)
        if self.loss == "huber":
            return huber_loss(self.delta, raw - self.y).sum(axis=1)
        if self.y.shape[1] == 1:
            return np.logaddexp(0, np.where(self.y == 1, -raw, raw))[:, 0]
        return -np.sum(self.y * log_softmax(raw, axis=1), axis=1)

    def _residuals(self, raw):
        if self.loss == "squared_error":
            return raw - self.y
        if self.loss == "huber":
            return np.clip(raw - self.y, -self.delta, self.delta)
        return (expit(raw) if self.y.shape[1] == 1 else softmax(raw, axis=1)) - self.y

    def _smooth_optimum(self, rows):
        """Weights of the columns of `rows`, of which the last is the intercept's."""
        K, D = self.y.shape[1], rows.shape[1]
        ridge = np.append(self.l2 / self.size[: D - 1] ** 2, 0.0)
        if self.loss == "classes":
            return self._newton(rows, ridge, np.zeros((K, D)))
        root = np.sqrt(self.share)[:, None]
        lifted = np.vstack([root * rows, np.diag(np.sqrt(ridge))])
        weights = np.linalg.lstsq(lifted, np.vstack([root * self.y, np.zeros((D, K))]))[0].T
        if self.loss == "huber":  # from least squares on, the bend moves in
            delta, far = self.delta, np.abs(rows @ weights.T - self.y).max()
            for self.delta in np.geomspace(max(far, delta), delta, 8):
                weights = self._newton(rows, ridge, weights)
        return weights

    def _root_of_hessian(self, rows, ridge, raw):
        """R with RᵀR the Hessian in the weights, shape ``(K * D, K * D)``."""
        n, K, D = *self.y.shape, rows.shape[1]
        if self.loss == "huber":
            root = curvature = (np.abs(raw - self.y) <= self.delta)[:, :, None] * np.eye(K)
        elif K == 1:
            curvature = (expit(raw) * expit(-raw))[:, :, None]
            root = np.sqrt(curvature)
        else:  # diag(p) − p pᵀ is AᵀA for A = diag(√p) − √p pᵀ
            p = softmax(raw, axis=1)
            curvature = p[:, :, None] * (np.eye(K) - p[:, None, :])
            root = np.sqrt(p)[:, :, None] * (np.eye(K) - p[:, None, :])
        if K > 10 or n * K > 100_000:  # the sum of products is quicker than its root
            products = self.share[:, None, None] * rows[:, :, None] * rows[:, None, :]
            blocks = curvature.reshape(n, K * K).T @ products.reshape(n, D * D)
            hessian = blocks.reshape(K, K, D, D).swapaxes(1, 2).reshape(K * D, K * D)
            lift = np.tile(ridge, K) + 1e-11 * np.trace(hessian)
            return np.linalg.cholesky(hessian + np.diag(lift)).T
        root = root * np.sqrt(self.share)[:, None, None]
        product = np.einsum("nkj,nd->nkjd", root, rows).reshape(n * K, K * D)
        penalty = np.diag(np.tile(np.sqrt(ridge), K))
        return np.linalg.qr(np.vstack([product, penalty]), mode="r")

    def _newton(self, rows, ridge, weights):
        """Newton's method, damped as by Levenberg and Marquardt."""

        @np.errstate(over="ignore", invalid="ignore")
        def value_at(weights):
            loss = self.share @ self._losses(rows @ weights.T)
            return loss + 0.5 * np.sum(ridge * weights**2)

        value, size, damping, small = value_at(weights), np.full(weights.size, 1e-100), 1e-3, 0
        while small < 3:
            raw = rows @ weights.T
            gradient = (self.share[:, None] * self._residuals(raw)).T @ rows + ridge * weights
            gradient = gradient.ravel()
            root = self._root_of_hessian(rows, ridge, raw)
            size = np.maximum(0.9 * size, np.linalg.norm(root, axis=0))
            while True:
                damped = np.vstack([root, np.diag(np.sqrt(damping) * size)])
                factor = np.linalg.qr(damped, mode="r")
                step = solve_triangular(factor, gradient, trans="T", check_finite=False)
                step = solve_triangular(factor, step, check_finite=False)
                promise = gradient @ step - 0.5 * np.sum((root @ step) ** 2)
                ahead = weights - step.reshape(weights.shape)
                gained = value - value_at(ahead)
                if gained >= 1e-4 * promise or promise <= 1e-14 * value:
                    break
                damping *= 4
            small = small + 1 if promise <= 1e-11 * value else 0
            if gained > 0:
                weights, value = ahead, value_at(ahead)
            damping *= 0.2 if gained > 0.75 * promise else 2 if gained < 0.25 * promise else 1
            damping = max(damping, 1e-30)
        return weights

    def _lars_optimum(self):
        """By least angle regression; the L2 penalty is a few rows more."""
        root, D = np.sqrt(self.share)[:, None], self.X.shape[1]
        rows = np.vstack([root * (self.X - self.mean), np.sqrt(self.l2) * np.eye(D)])
        goals = np.vstack([root * (self.y - self.share @ self.y), np.zeros((D, self.y.shape[1]))])
        lars = LassoLars(self.l1 / len(rows), fit_intercept=False, max_iter=5000, eps=1e-16)
        coef = np.stack([lars.fit(rows, goal).coef_ for goal in goals.T])
        return coef, self.share @ self.y - coef @ self.mean

    def _l1_optimum(self):
        K, D = self.y.shape[1], self.rows.shape[1]
        l1 = np.append(self.l1 / self.size, 0.0)
        l2 = np.append(self.l2 / self.size**2, 0.0)

        def value_and_gradient(flat):
            plus, minus = flat.reshape(2, K, D)
            weights = plus - minus
            raw = self.rows @ weights.T
            value = self.share @ self._losses(raw) + 0.5 * np.sum(l2 * weights**2)
            gradient = (self.share[:, None] * self._residuals(raw)).T @ self.rows + l2 * weights
            value += np.sum(l1 * (plus + minus))
            return value, np.concatenate([(l1 + gradient).ravel(), (l1 - gradient).ravel()])

        weights, value = np.zeros(2 * K * D), np.inf
        while True:  # its line search may give up too early
            found = minimize(
                value_and_gradient,
                weights,
                jac=True,
                method="L-BFGS-B",
                bounds=[(0, None)] * (2 * K * D),
                options={"maxiter": 10**5, "maxfun": 10**5, "ftol": 0, "gtol": 1e-12, "maxcor": 50},
            )
            if found.fun >= value * (1 - 1e-9):
                break
            weights, value = found.x, found.fun
        plus, minus = weights.reshape(2, K, D)
        return plus - minus
