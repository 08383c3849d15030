"""Predictions, scores and exports of fitted models.

Tensors are answered by torch where they are. Everything else is predicted by NumPy, which is safe
in forked processes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import is_classifier
from sklearn.utils.validation import check_array
from torch import Tensor

from skorchless.data import LargeMatrix, Matrix, SparseRows
from skorchless.estimators import checks, limits
from skorchless.estimators.problem import in_units
from skorchless.estimators.runtime import in_full_precision
from skorchless.stack import shared


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
