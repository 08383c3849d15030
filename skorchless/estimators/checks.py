"""What users pass in, checked in scikit-learn's words and handed on as tensors.

Nothing here writes to what it is given.
"""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Set
from numbers import Number
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse, isspmatrix
from sklearn.utils import assert_all_finite, indexable
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    column_or_1d,
    validate_data,
)
from torch import Tensor

from skorchless.data import LargeMatrix, Matrix, SparseRows, is_large
from skorchless.stack import shared

#: Half precision is widened; everything else keeps its own or becomes double.
COMPUTE_DTYPE = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
}

#: Floating point numbers that NumPy has too.
OF_NUMPY = (torch.float16, torch.float32, torch.float64)

#: What scikit-learn says where no row counts.
NO_WEIGHT = "Sample weights must contain at least one non-zero number."


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Let what goes wrong with an argument name it, in a ValueError or TypeError."""
    try:
        yield
    except OverflowError as error:
        raise ValueError(f"Input {name} contains a number too large for float64.") from error
    except (ValueError, TypeError) as error:
        if re.search(rf"\b{name}\b", str(error)):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        # scikit-learn calls what it checks X.
        message = re.sub("^Input X ", "", str(error))
        link = ": " if message == str(error) else " "
        raise kind(f"Input {name}{link}{message}") from error


def check_plain(values: Any, name: str) -> None:
    """Raise TypeError for a tensor that is not simply numbers in memory, ValueError for complex."""
    if not isinstance(values, Tensor):
        return
    if values.is_complex():
        raise ValueError(f"Complex data not supported in {name}.")
    is_plain = type(values).__torch_dispatch__ is Tensor.__torch_dispatch__
    is_plain = is_plain and values.layout == torch.strided and not values.is_nested
    if not is_plain or values.is_quantized or values.is_meta:
        kind = "special" if values.layout == torch.strided else "sparse"
        raise TypeError(
            f"A {kind} tensor was passed for {name}, but tensors have to be dense and hold plain "
            "numbers. Pass a SciPy sparse matrix, or use '.to_dense()' to convert it."
        )


def as_tensor(array: np.ndarray) -> Tensor:
    """A tensor that shares the array's memory, read-only or not: it is never written to.

    What torch cannot stride over, such as reversed rows or a field of records, is copied.
    """
    return shared(array if _has_steps_of_torch(array) else array.copy())


def _has_steps_of_torch(array: np.ndarray) -> bool:
    """Whether torch can go from number to number as NumPy does."""
    return not any(step < 0 or step % array.itemsize for step in array.strides)


@np.errstate(all="ignore")
def check_X(estimator: Any, X: Any, *, reset: bool, name: str = "X", min_rows: int = 1) -> Matrix:
    """Check X and return it as a matrix of shape ``(n, D)``, in the dtype to compute in.

    What is too large to be copied comes as it lies.
    """
    with named(name):
        check_plain(X, name)
        matrix = large_matrix(estimator, X, reset=reset)
        if matrix is not None:
            if matrix.stored.is_floating_point():
                for run in matrix.runs():
                    as_finite_tensor(run, name)
            return matrix
        if not isinstance(X, Tensor):
            array = check_array_X(estimator, X, reset=reset, order="C", ensure_min_samples=min_rows)
            return SparseRows.of(array) if issparse(array) else as_tensor(array)
        rows = as_finite_tensor(X.detach(), name)
        if rows.ndim != 2:
            raise ValueError(
                f"Expected 2D array, got {rows.ndim}D array instead. Reshape your data either "
                "using X.reshape(-1, 1) if it has a single feature or X.reshape(1, -1) if it "
                "contains a single sample."
            )
        for size, what, least in zip(rows.shape, ("sample", "feature"), (min_rows, 1), strict=True):
            if size < least:
                raise ValueError(
                    f"Found array with 0 {what}(s) (shape={tuple(rows.shape)}) while a minimum of "
                    f"1 is required by {type(estimator).__name__}."
                )
        validate_data(estimator, rows, reset=reset, skip_check_array=True)
        return rows.contiguous()


def check_array_X(estimator: Any, X: Any, *, reset: bool, **checks: Any) -> Any:
    """Check X and return it as an array of shape ``(n, D)``, or a CSR matrix if it is sparse."""
    check_indices(X)
    half = getattr(X, "dtype", None) == np.float16
    # A sum of torch's takes half the time. A prediction may be made in a process that was forked.
    by_torch = reset and isinstance(X, np.ndarray) and X.dtype in (np.float32, np.float64)
    try:
        array = validate_data(
            estimator,
            X,
            reset=reset,
            accept_sparse="csr",
            dtype=np.float32 if half else [np.float64, np.float32],
            ensure_all_finite=not by_torch,
            **checks,
        )
        if by_torch and not bool(as_tensor(array).sum().isfinite()):
            assert_all_finite(array, estimator_name=type(estimator).__name__, input_name="X")
    except (ValueError, TypeError) as error:
        if re.search("convert|DType|argument must be", str(error)):
            _name_column(X, error)
        raise
    # scikit-learn leaves the sparse booleans of a pandas frame as they are.
    return array.astype(np.float64) if array.dtype == np.bool_ else array


def _name_column(X: Any, error: Exception) -> None:
    """Raise an error again that says which column holds no numbers, if one is found."""
    kind = TypeError if isinstance(error, TypeError) else ValueError
    for name, column in _columns(X):
        values = np.asarray(column)
        if values.dtype.kind in "mM":
            raise kind(
                f"column {name} is of dtype {values.dtype}. Pass numbers instead, for example the "
                "days since a fixed date."
            ) from error
        try:
            values.astype(np.float64)
        except (ValueError, TypeError):
            raise kind(
                f"{error} (column {name}). Encode it as numbers first, for example with "
                "OneHotEncoder in a ColumnTransformer."
            ) from error


def _columns(X: Any) -> Iterator[tuple[str, Any]]:
    """The columns of a DataFrame by name, or those of an array or a list of lists by number."""
    if hasattr(X, "columns"):
        yield from ((repr(name), X[name]) for name in X.columns)
    else:
        array = np.asarray(X, dtype=object)
        yield from ((str(i), array[:, i]) for i in range(array.shape[1] if array.ndim == 2 else 0))


def check_indices(X: Any) -> None:
    """Raise ValueError if X is sparse and its index arrays point outside it.

    SciPy's and torch's code for sparse matrices follows any index, into memory of something else:
    even X has to be checked before it is converted or cut. SciPy's own check may change what it
    looks at, so it is given another matrix that shares the memory of X.
    """
    if not issparse(X) or X.ndim != 2:
        return
    try:
        if X.format == "coo":
            type(X)((X.data, (X.row, X.col)), shape=X.shape)
        elif X.format in ("csr", "csc", "bsr"):
            if X.indices.dtype.kind not in "iu" or X.indptr.dtype.kind not in "iu":
                raise ValueError("indices and indptr must be integers")
            parts = (X.data, X.indices, X.indptr)
            type(X)(parts, shape=X.shape).check_format(full_check=True)
        else:  # the others are lists and dicts, whose conversion follows no index
            check_indices(X.tocsr())
    except (ValueError, IndexError, TypeError) as error:
        kind = "matrix" if isspmatrix(X) else "array"
        raise ValueError(
            f"X is not a valid sparse {kind} in {X.format.upper()} format: {error}. It may come "
            "from a damaged or malicious file."
        ) from error


def large_matrix(estimator: Any, X: Any, *, reset: bool) -> LargeMatrix | None:
    """X as it lies, its values unchecked; None if it may be copied, or has to be."""
    if isinstance(X, Tensor):
        dtype = COMPUTE_DTYPE.get(X.dtype, torch.float64)
        readable = X.layout == torch.strided and X.ndim == 2 and not X.is_complex()
    elif isinstance(X, np.ndarray):
        dtype = torch.float32 if X.dtype in (np.float16, np.float32) else torch.float64
        readable = X.ndim == 2 and X.dtype.kind in "biuf" and X.dtype.isnative and X.itemsize <= 8
        readable = readable and _has_steps_of_torch(X)
    else:
        return None
    if not readable or not is_large(math.prod(X.shape) * dtype.itemsize):
        return None
    if isinstance(X, Tensor):
        if X.device.type != "cpu" and X.dtype == dtype and X.is_contiguous():
            return None  # an accelerator's memory that needs no copy of X
        validate_data(estimator, X, reset=reset, skip_check_array=True)
        return LargeMatrix(X.detach(), dtype)
    validate_data(estimator, X, reset=reset, dtype=None, ensure_all_finite=False)
    return LargeMatrix(as_tensor(np.asarray(X)), dtype)


@np.errstate(all="ignore")
def check_y_numeric(y: Any, name: str) -> Tensor:
    """Check a numeric target and return it as a tensor of shape ``(n,)`` or ``(n, K)``."""
    with named(name):
        check_plain(y, name)
        if isinstance(y, Tensor):
            target = as_finite_tensor(y.detach(), name)
        else:
            try:
                array = check_array(
                    y,
                    ensure_2d=False,
                    allow_nd=False,
                    dtype=[np.float64, np.float32],
                    ensure_min_samples=0,
                    ensure_min_features=0,
                    input_name=name,
                )
            except ValueError as error:
                if "could not convert" not in str(error):
                    raise
                raise ValueError(
                    f"{error}. {name} must be numeric; for class labels use TorchSoftmaxClassifier."
                ) from error
            target = as_tensor(array)
    if target.ndim not in (1, 2):
        raise ValueError(f"{name} must be of 1 or 2 dimensions, got {target.ndim}.")
    if target.ndim == 2 and target.shape[1] == 0:
        raise ValueError(f"{name} must have at least one column. Got shape {tuple(target.shape)}.")
    return target


@np.errstate(all="ignore")
def check_sample_weight(
    sample_weight: Any, n_rows: int, name: str = "sample_weight", *, all_zero: bool = False
) -> Tensor | None:
    """Check row weights and return them on the CPU in double precision, of shape ``(n,)``.

    Raises
    ------
    ValueError
        For weights of a wrong shape, negative, not finite or, unless `all_zero`, all zero.
    """
    if sample_weight is None:
        return None
    with named(name):
        values = as_numpy(sample_weight, name)
        if isinstance(values, Number) or getattr(values, "shape", None) == ():
            values = np.full(n_rows, float(values))
        weight = check_array(
            values,
            ensure_2d=False,
            dtype=np.float64,
            ensure_min_samples=0,
            input_name=name,
        )
        if weight.ndim != 1:
            raise ValueError(
                f"Sample weights must be 1D array or scalar, got {weight.ndim}D array. Expected "
                f"either a scalar value or a 1D array of length {n_rows}."
            )
        if len(weight) != n_rows:
            raise ValueError(f"{name}.shape == {weight.shape}, expected {(n_rows,)}!")
        if (weight < 0).any():
            raise ValueError(f"Negative values in data passed to `{name}`.")
        if not all_zero and not weight.any():
            raise ValueError(NO_WEIGHT)
        return as_tensor(weight)


def as_finite_tensor(values: Tensor, name: str) -> Tensor:
    """Widen a tensor to the dtype to compute in and refuse what is not a finite number."""
    values = values.to(COMPUTE_DTYPE.get(values.dtype, torch.float64))
    if not bool(values.sum().isfinite()) and not bool(values.isfinite().all()):
        if bool(values.isnan().any()):
            cure = "Leave out samples with missing values, or impute them."
            raise ValueError(f"Input {name} contains NaN. {cure}")
        raise ValueError(f"Input {name} contains infinity or a value too large.")
    return values


def check_lengths(X: Any, other: Any, name: str) -> None:
    """Raise ValueError if X and what has this name do not have as many rows."""
    with named(name):
        try:
            check_consistent_length(X, other)
        except ValueError as error:
            raise ValueError(
                f"{error} (X, {name}). Pass as many entries of {name} as X has rows."
            ) from error


def with_rows(values: Any, name: str) -> Any:
    """What rows can be picked from: the values as they are, or in an array or a CSR matrix."""
    check_plain(values, name)
    if isinstance(values, Set | Mapping) and not hasattr(values, "shape"):
        raise TypeError(f"{name} is a {type(values).__name__}. Pass an array or a list.")
    with named(name):
        return indexable(values)[0]


def check_same_device(device: torch.device, **others: Any) -> None:
    """Raise ValueError if a tensor among `others` is not on the device where X is."""
    for name, other in others.items():
        if isinstance(other, Tensor) and other.device != device:
            raise ValueError(
                f"Input arrays use different devices: {device}, {other.device} (X, {name}). "
                f"Move {name} to X's device, or X to {name}'s."
            )


def as_numpy(values: Any, name: str = "y") -> Any:
    """A tensor's values in NumPy, wherever it is; anything else as it is."""
    if not isinstance(values, Tensor):
        return values
    check_plain(values, name)
    widened = values.is_floating_point() and values.dtype not in OF_NUMPY
    return (values.float() if widened else values).numpy(force=True)


@np.errstate(all="ignore")
def finite_numbers(value: Any, name: str, dtype: Any = np.float64) -> np.ndarray:
    """Check coefficients, and return them in `dtype`."""
    with named(name):
        array = np.asarray(as_numpy(value, name))
        if array.dtype.kind == "c":
            raise ValueError("Complex data not supported")
        array = array.astype(dtype)
        if not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite in {array.dtype}. Got {value!r}.")
        return array


def check_coef_init(
    value: Any, name: str, shape: tuple[int, ...], dtype: Any = np.float64, cure: str = ""
) -> np.ndarray:
    """Check weights to start from, and return them in `dtype`; `cure` ends the error of a shape."""
    array = finite_numbers(value, name, dtype)
    if array.size == 1 == int(np.prod(shape)):
        array = array.reshape(shape)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; this data needs {shape}.{cure}")
    return array


@np.errstate(all="ignore")
def check_y_classes(y: Any, name: str) -> np.ndarray:
    """Return labels of shape ``(n,)``; those of a tensor come to the CPU.

    Raises
    ------
    ValueError
        For labels of another shape, or that are missing, fractions or not finite.
    """
    with named(name):
        check_plain(y, name)
        try:
            labels: np.ndarray = column_or_1d(as_numpy(y, name), warn=True)
        except ValueError as error:  # scikit-learn calls them y whatever they are
            message = str(error).replace("y should be", f"{name} should be")
            cure = f" For one-hot labels pass {name}.argmax(axis=1). One label per sample is "
            cure += "learned; for several, use scikit-learn's MultiOutputClassifier."
            raise ValueError(message + cure * (np.ndim(as_numpy(y, name)) == 2)) from error
        kind, objects = labels.dtype.kind, labels if labels.dtype == object else ()
        if kind == "c":
            raise ValueError("Complex data not supported")
        gaps = [label for label in objects if label is None or type(label).__name__ == "NAType"]
        if kind in "mM" and np.isnat(labels).any():
            gaps = ["NaT"]
        if gaps:
            raise ValueError(
                f"Input {name} contains {gaps[0]}. Leave out the rows whose label is missing, or "
                "give them a label of their own."
            )
        if kind not in "biu":
            assert_all_finite(labels, input_name=name)
        # NumPy makes words of the numbers in a list that has words.
        if kind in "SU" and isinstance(y, list | tuple):
            objects = np.array(y, dtype=object).ravel()
        if len({isinstance(label, str) for label in objects}) > 1:
            raise ValueError(
                f"Labels must be of one kind, but {name} has strings and others. Make them all "
                "strings or all integers."
            )
        if kind not in "biu":
            check_classification_targets(labels)
        return labels


@np.errstate(all="ignore")
def check_classes(classes: Any, known: np.ndarray | None) -> np.ndarray:
    """The labels that calls of `partial_fit` will bring, sorted.

    Raises
    ------
    ValueError
        If there is no list of them, or they are not those that are `known` from an earlier call.
    """
    with named("classes"):
        array = np.asarray(as_numpy(classes, "classes"))
        if array.ndim != 1 or not len(array):
            raise ValueError(f"classes must list the labels, such as [0, 1, 2]. Got {classes!r}.")
        announced: np.ndarray = np.unique(as_numpy(check_y_classes(classes, "classes")))
    if len(announced) < 2:
        raise ValueError(f"classes must list at least 2 labels. Got {classes!r}.")
    if known is not None and not np.array_equal(announced, known):
        raise ValueError(
            f"`classes={announced!r}` is not the same as on last call to partial_fit, was: "
            f"{known!r}"
        )
    return announced


def union_of_classes(classes: list[np.ndarray]) -> np.ndarray:
    """All classes that some of the ranks have, sorted.

    Raises
    ------
    ValueError
        If some are numbers and others are not.
    """
    some = [own for own in classes if len(own)]
    if len(some) <= 1:
        return some[0] if some else classes[0]
    if len({own.dtype.kind in "biuf" for own in some}) > 1:
        kinds = [str(own.dtype) for own in classes]
        raise ValueError(f"Labels must be of one kind on all ranks. Got {kinds}, rank by rank.")
    together: np.ndarray = np.unique(np.concatenate(some))
    return together


def encode(labels: np.ndarray, classes: np.ndarray, name: str) -> Tensor:
    """Return the index of each label among the sorted `classes`, shape ``(n,)``.

    Raises
    ------
    ValueError
        For a label that is not among them.
    """
    index = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    unknown = labels[classes[index] != labels]
    if len(unknown):
        unseen = np.unique(unknown).tolist()
        raise ValueError(f"{name} contains previously unseen labels: {unseen}")
    return torch.from_numpy(index.astype(np.int64, copy=False))


def labels_at(classes: np.ndarray, index: Tensor) -> np.ndarray | Tensor:
    """Return labels by their index among the classes.

    They are a tensor on the device of `index` if torch has a dtype for them, and else an array.
    """
    try:
        held = shared(classes.astype(classes.dtype.newbyteorder("="), copy=False))
    except TypeError:
        labels: np.ndarray = classes[index.numpy(force=True)]
        return labels
    return held.to(index.device)[index]
