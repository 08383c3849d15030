"""What users pass in, checked in scikit-learn's words and handed on as tensors.

Nothing here writes to what it is given.
"""

import warnings
from numbers import Number
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_array, check_consistent_length, validate_data
from torch import Tensor

from skorchless.sources import LargeMatrix, Stored, is_large

#: Half precision is widened; everything else keeps its own or becomes double.
COMPUTE_DTYPE = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
}


def as_tensor(array: np.ndarray) -> Tensor:
    """A tensor that shares the array's memory, read-only or not: it is never written to."""
    if array.flags.writeable:
        return torch.from_numpy(array)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def features(estimator: Any, X: Any, *, reset: bool, name: str = "X") -> Tensor | LargeMatrix:
    """Check X and return it as a tensor of shape ``(n, D)``, in the dtype to compute in.

    What is too large to be copied comes as it lies.
    """
    matrix = large_matrix(estimator, X, reset=reset)
    if matrix is not None:
        if matrix.stored.rows.is_floating_point():
            for run in matrix.runs():
                if isinstance(X, Tensor):
                    finite(run, name)
                else:
                    _check_finite(run, estimator, name)
        return matrix
    if isinstance(X, Tensor):
        rows = finite(X.detach(), name)
        if rows.ndim != 2:
            raise ValueError(
                f"Expected 2D array, got {rows.ndim}D array instead. Reshape your data either "
                "using X.reshape(-1, 1) if it has a single feature or X.reshape(1, -1) if it "
                "contains a single sample."
            )
        check_not_empty(rows, type(estimator).__name__)
        validate_data(estimator, rows, reset=reset, skip_check_array=True)
        return rows.contiguous()
    array: np.ndarray = validate_data(
        estimator,
        X,
        reset=reset,
        dtype=[np.float64, np.float32],
        order="C",
        ensure_all_finite=False,
    )
    checked = as_tensor(array)
    _check_finite(checked, estimator, name)
    return checked


def _check_finite(rows: Tensor, estimator: Any, name: str) -> None:
    """Raise ValueError for NaN and infinity.

    A sum on all cores clears finite data in a fraction of the time of scikit-learn's check, which
    then only has to find the words.
    """
    if not bool(rows.sum().isfinite()):
        check_array(rows.numpy(), estimator=estimator, input_name=name)


def large_matrix(estimator: Any, X: Any, *, reset: bool) -> LargeMatrix | None:
    """X as it lies, its values unchecked; None if it may be copied, or has to be."""
    stored, dtype = _as_it_lies(X)
    if stored is None or not is_large(stored.numel() * dtype.itemsize):
        return None
    if isinstance(X, Tensor):
        validate_data(estimator, X, reset=reset, skip_check_array=True)
    else:
        validate_data(estimator, X, reset=reset, dtype=None, ensure_all_finite=False)
    return LargeMatrix(Stored(stored), dtype)


def _as_it_lies(X: Any) -> tuple[Tensor | None, torch.dtype]:
    """X as a tensor that shares its memory, if torch can do that; the dtype to compute in."""
    if isinstance(X, Tensor):
        dtype = COMPUTE_DTYPE.get(X.dtype, torch.float64)
        plain = X.layout == torch.strided and X.ndim == 2 and not X.is_complex()
        return X.detach() if plain else None, dtype
    if not isinstance(X, np.ndarray) or X.ndim != 2 or X.dtype.kind not in "biuf":
        return None, torch.float64
    dtype = torch.float32 if X.dtype == np.float32 else torch.float64
    readable = X.dtype.isnative and X.itemsize <= 8
    if not readable or any(step < 0 or step % X.itemsize for step in X.strides):
        return None, dtype
    return as_tensor(np.asarray(X)), dtype


def numbers(y: Any, name: str) -> Tensor:
    """Check a numeric target and return it as a tensor of shape ``(n,)`` or ``(n, K)``."""
    if isinstance(y, Tensor):
        target = finite(y.detach(), name)
        if target.ndim not in (1, 2):
            raise ValueError(f"{name} must be of 1 or 2 dimensions, got {target.ndim}.")
        return target
    array = check_array(
        y,
        ensure_2d=False,
        allow_nd=False,
        dtype=[np.float64, np.float32],
        ensure_min_samples=0,
        input_name=name,
    )
    return as_tensor(array)


def weights(sample_weight: Any, n_rows: int, name: str = "sample_weight") -> Tensor | None:
    """Check row weights and return them in double precision, of shape ``(n,)``.

    Raises
    ------
    ValueError
        For weights of a wrong shape, negative, not finite or all zero.
    """
    if sample_weight is None:
        return None
    if isinstance(sample_weight, Number) or getattr(sample_weight, "shape", None) == ():
        sample_weight = np.full(n_rows, float(sample_weight))
    if isinstance(sample_weight, Tensor):
        weight = finite(sample_weight.detach(), name).to(torch.float64)
    else:
        weight = as_tensor(
            check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name=name)
        )
    if weight.ndim != 1:
        raise ValueError(
            f"Sample weights must be 1D array or scalar, got {weight.ndim}D array. Expected "
            f"either a scalar value or a 1D array of length {n_rows}."
        )
    if len(weight) != n_rows:
        raise ValueError(f"{name}.shape == {tuple(weight.shape)}, expected {(n_rows,)}!")
    if bool((weight < 0).any()):
        raise ValueError(f"Negative values in data passed to `{name}`.")
    if not bool(weight.any()):
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return weight


def finite(values: Tensor, name: str) -> Tensor:
    """Widen a tensor to the dtype to compute in and refuse what is not a finite number."""
    if values.is_sparse or values.layout != torch.strided:
        raise TypeError(
            f"Sparse data was passed for {name}, but dense data is required. "
            f"Use '.to_dense()' to convert it."
        )
    if values.is_complex():
        raise ValueError("Complex data not supported")
    values = values.to(COMPUTE_DTYPE.get(values.dtype, torch.float64))
    if not bool(values.sum().isfinite()) and not bool(values.isfinite().all()):
        kind = "NaN" if bool(values.isnan().any()) else "infinity or a value too large"
        raise ValueError(f"Input {name} contains {kind}.")
    return values


def check_not_empty(X: Tensor, owner: str) -> None:
    """Raise ValueError if X has no rows or no columns."""
    for axis, what in enumerate(("sample", "feature")):
        if X.shape[axis] == 0:
            raise ValueError(
                f"Found array with 0 {what}(s) (shape={tuple(X.shape)}) while a minimum of 1 is "
                f"required by {owner}."
            )


def check_lengths(X: Tensor | LargeMatrix, y: Any) -> None:
    """Raise ValueError if X and y do not have as many rows."""
    check_consistent_length(X, y)


def check_same_device(X: Tensor | LargeMatrix, **others: Any) -> None:
    """Raise ValueError if a tensor among `others` is not where X is."""
    for name, other in others.items():
        if isinstance(other, Tensor) and other.device != X.device:
            raise ValueError(
                f"Input arrays use different devices: {X.device}, {other.device} (X, {name}). "
                f"Move {name} to X's device, or X to {name}'s."
            )


def as_numpy(values: Any) -> Any:
    """A tensor's values in NumPy, wherever it is; anything else as it is."""
    if not isinstance(values, Tensor):
        return values
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy(force=True)


def numpy_dtype(X: Tensor | LargeMatrix) -> type[np.floating[Any]]:
    """NumPy's name for the dtype of X."""
    return np.float32 if X.dtype == torch.float32 else np.float64


def initial(value: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Check weights to start from.

    Raises
    ------
    ValueError
        If they are not finite or not of `shape`.
    """
    if isinstance(value, Tensor):
        value = value.numpy(force=True)
    array = np.asarray(value, dtype=np.float64)
    if array.shape != shape and array.size == 1 == int(np.prod(shape)):
        array = array.reshape(shape)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; this data needs {shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite. Got {value!r}.")
    return array
