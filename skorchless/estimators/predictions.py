"""Raw predictions of fitted models: torch for torch, else in NumPy, so that a fork is safe."""

from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.base import is_classifier
from sklearn.utils.validation import check_array
from torch import Tensor

from skorchless.estimators import inputs
from skorchless.estimators.overflow import in_range
from skorchless.estimators.settings import in_full_precision
from skorchless.restoring import without_numpy_warnings
from skorchless.sources import LargeMatrix, Matrix, SparseRows
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
        rows = inputs.features(estimator, X, reset=False)
        assert not isinstance(rows, SparseRows)
        run = partial(_in_torch, rows, coef, intercept, n_logits)
        return in_full_precision(rows.device, run)
    with inputs.named("X"):
        matrix = inputs.large_matrix(estimator, X, reset=False)
        if matrix is not None:
            return _in_runs(estimator, matrix, coef, intercept, n_logits)
        array = inputs.array_features(estimator, X, reset=False)
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
    dtype = np.float32 if matrix.dtype == torch.float32 else np.float64
    raw = np.empty((len(matrix), len(coef)), dtype=dtype)
    done = 0
    for run in matrix.runs():
        block = check_array(
            run.numpy(), dtype=[np.float64, np.float32], estimator=estimator, input_name="X"
        )
        raw[done : done + len(block)] = _in_numpy(block, coef, intercept, n_logits)
        done += len(block)
    return raw
