"""Predictions, scores and exports of fitted models.

Tensors are answered by torch where they are. Everything else is predicted by NumPy, which is safe
in forked processes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import is_classifier
from sklearn.utils.validation import check_array
from torch import Tensor

from skorchless.data import LargeMatrix, Matrix, SparseRows
from skorchless.estimators import checks
from skorchless.estimators.dataset import relative_weights
from skorchless.estimators.runtime import in_full_precision
from skorchless.restoring import without_numpy_warnings
from skorchless.stack import shared


@without_numpy_warnings
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
    if isinstance(X, Tensor):
        rows = checks.check_X(estimator, X, reset=False)
        assert not isinstance(rows, SparseRows)
        run = partial(_in_torch, rows, coef, intercept, n_logits)
        return in_full_precision(rows.device, run)
    with checks.named("X"):
        matrix = checks.large_matrix(estimator, X, reset=False)
        if matrix is not None:
            return _in_runs(estimator, matrix, coef, intercept, n_logits)
        array = checks.check_array_X(estimator, X, reset=False)
    return _in_numpy(array, coef, intercept, n_logits)


def predicted_by(
    rows: Matrix, coef: np.ndarray, intercept: np.ndarray, n_logits: int | None
) -> Tensor:
    """What `raw_predictions` gives for checked rows; of those on the host, in NumPy."""
    if not isinstance(rows, SparseRows) and rows.device.type != "cpu":
        run = partial(_in_torch, rows, coef, intercept, n_logits)
        return in_full_precision(rows.device, run)
    array = rows.matrix if isinstance(rows, SparseRows) else rows[:].numpy()
    raw = torch.from_numpy(_in_numpy(array, coef, intercept, n_logits))
    return raw.to(rows.device)


def _in_numpy(
    array: Any, coef: np.ndarray, intercept: np.ndarray, n_logits: int | None
) -> np.ndarray:
    raw: np.ndarray = array @ coef.T.astype(array.dtype, copy=False)
    raw += intercept.astype(array.dtype, copy=False)
    in_range(raw, array, coef, intercept, n_logits)
    return raw


def _in_torch(
    rows: Tensor | LargeMatrix, coef: np.ndarray, intercept: np.ndarray, n_logits: int | None
) -> Tensor:
    if isinstance(rows, LargeMatrix):
        runs = (run.to(rows.dtype) for run in rows.runs())
        return torch.cat([_in_torch(run, coef, intercept, n_logits) for run in runs])
    weights = shared(coef).to(rows.device, rows.dtype).T
    bias = shared(intercept).to(rows.device, rows.dtype)
    raw = torch.addmm(bias, rows, weights)
    in_range(raw, rows, coef, intercept, n_logits)
    return raw


def _in_runs(
    estimator: Any,
    matrix: LargeMatrix,
    coef: np.ndarray,
    intercept: np.ndarray,
    n_logits: int | None,
) -> np.ndarray:
    """Some rows at a time, which are only checked now."""
    check = partial(
        check_array, dtype=[np.float64, np.float32], estimator=estimator, input_name="X"
    )
    blocks = (check(run.numpy()) for run in matrix.runs())
    return np.concatenate([_in_numpy(block, coef, intercept, n_logits) for block in blocks])


#: Products that are made at once.
BLOCK_NUMBERS = 2**20

#: Powers of two that are left free above the largest logit, so that differences are in range.
SPARE = 3


def in_range(
    raw: Any, rows: Any, coef: np.ndarray, intercept: np.ndarray, n_logits: int | None
) -> None:
    """Make those rows of `raw` anew that are not finite, from scaled products.

    Terms beyond the range that cancel each other then do. Numbers that are beyond it themselves
    become infinite. Logits do not, as only their differences matter: those of a row are shifted so
    that the largest is in range, and the others end at the limit, where probabilities are 0 and 1.

    Parameters
    ----------
    raw : ndarray or Tensor of shape (n, K)
        ``X W + b``; written to.
    rows : ndarray, sparse matrix or Tensor of shape (n, D)
        Finite.
    coef, intercept : ndarray of shape (K, D) and (K,)
        Finite.
    n_logits : int, optional
        How many of the K belong to one model, if they are logits.
    """
    if bool(torch.isfinite(raw.sum()) if isinstance(raw, Tensor) else np.isfinite(raw.sum())):
        return
    found = checks.as_numpy(raw)
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    step = max(1, BLOCK_NUMBERS // coef.size)
    for start in range(0, len(bad), step):
        some = bad[start : start + step]
        again = _again(found[some], checks.as_numpy(rows[some]), coef, intercept, n_logits)
        raw[some] = torch.from_numpy(again).to(raw.device) if isinstance(raw, Tensor) else again


def _again(
    raw: np.ndarray, rows: Any, coef: np.ndarray, intercept: np.ndarray, n_logits: int | None
) -> np.ndarray:
    """The same, each row in units of a power of two near its largest product."""
    rows = rows.toarray() if issparse(rows) else rows
    rows = np.column_stack([rows, np.ones(len(rows))]).astype(np.float64)
    weights = np.column_stack([coef, intercept]).astype(np.float64)
    (x, x_power), (_, w_power) = np.frexp(rows), np.frexp(np.abs(weights).max(axis=0))
    powers = np.where(
        (x != 0) & weights.any(axis=0), x_power + w_power, np.iinfo(np.int32).min // 2
    )
    unit = powers.max(axis=1, keepdims=True)
    # No matrix product: with fused operations terms that cancel would leave their rounding.
    x, w = np.ldexp(x, powers - unit), np.ldexp(weights, -w_power)
    sums = (x[:, np.newaxis, :] * w).sum(axis=2)
    if n_logits is None:
        return np.where(np.isfinite(raw), raw, np.ldexp(sums, unit).astype(raw.dtype))
    limit, shape = 2.0 ** (np.finfo(raw.dtype).maxexp - SPARE), (len(raw), -1, n_logits)
    sums, unit = sums.reshape(shape), unit[:, :, np.newaxis]
    largest = sums.max(axis=2, keepdims=True)
    shifted = limit + np.ldexp(sums - largest, unit)
    logits = np.where(np.ldexp(largest, unit) > limit, shifted, np.ldexp(sums, unit))
    sound = np.isfinite(raw).reshape(shape).all(axis=2, keepdims=True)
    logits = logits.clip(-limit, limit).astype(raw.dtype)
    return np.where(sound, raw.reshape(shape), logits).reshape(raw.shape)


@without_numpy_warnings
def score(metric: Callable[..., float], y: Any, found: Any, sample_weight: Any) -> float:
    """Return a `metric` of scikit-learn of predictions. Tensors come to the CPU."""
    here = found.device if isinstance(found, Tensor) else torch.device("cpu")
    checks.check_same_device(here, y=y, sample_weight=sample_weight)
    weight = relative_weights(checks.as_numpy(sample_weight, "sample_weight"), len(found))
    with checks.named("y"):
        wanted, found, weight = map(checks.as_numpy, (y, found, weight))
        return float(metric(wanted, found, sample_weight=weight))
