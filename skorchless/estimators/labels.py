"""Labels of any kind, and the classes that they name."""

from numbers import Number
from typing import Any

import numpy as np
import torch
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d
from torch import Tensor

from skorchless.estimators.inputs import as_numpy, check_plain, named
from skorchless.restoring import without_numpy_warnings
from skorchless.stack import shared


@without_numpy_warnings
def checked_labels(y: Any, name: str) -> np.ndarray:
    """Return labels of shape ``(n,)``; those of a tensor come to the CPU.

    Raises
    ------
    ValueError
        For labels of another shape, or that are missing, fractions or not finite.
    """
    with named(name):
        check_plain(y, name)
        if isinstance(y, np.ndarray | Tensor) and y.ndim == 1:
            labels = np.asarray(as_numpy(y, name))
            if labels.dtype.kind in "biu":  # always labels, and the checks below are slow
                return labels
            if labels.dtype.kind == "f" and bool((np.isfinite(labels) & (labels % 1 == 0)).all()):
                return labels
        labels = sortable(y, name)
        if labels.dtype.kind not in "biu":
            check_classification_targets(labels)
        return labels


def sortable(y: Any, name: str) -> np.ndarray:
    """Values of shape ``(n,)`` that can be sorted into classes or groups.

    Raises
    ------
    ValueError
        For values of another shape, or that are missing, complex or of several kinds.
    """
    try:
        array: np.ndarray = column_or_1d(as_numpy(y, name), warn=True)
    except ValueError as error:  # scikit-learn calls them y whatever they are
        message = str(error).replace("y should be", f"{name} should be")
        raise ValueError(message + _cure_of_columns(y, name)) from error
    if array.dtype == object:
        for label in array:
            if label is None or type(label).__name__ == "NAType":  # of pandas
                raise _missing(label, name)
    if array.dtype.kind in "mM" and np.isnat(array).any():
        raise _missing("NaT", name)
    if array.dtype.kind == "c":
        raise ValueError("Complex data not supported")
    if array.dtype.kind not in "biu":
        assert_all_finite(array, input_name=name)
        _check_one_kind(y, array, name)
    return array


def _cure_of_columns(y: Any, name: str) -> str:
    """What to pass in the place of labels that have several columns."""
    array = np.asarray(as_numpy(y, name))
    if array.ndim != 2 or array.shape[1] < 2 or array.dtype.kind not in "biuf":
        return ""
    if not ((array == 1).sum(axis=1) == 1).all() or not ((array == 0) | (array == 1)).all():
        return (
            " One label per sample is learned; for several, put the estimator into scikit-learn's "
            "MultiOutputClassifier."
        )
    numbers = f"{name}.argmax(axis=1)" if hasattr(y, "argmax") else f"numpy.argmax({name}, axis=1)"
    return f" For one-hot labels pass {numbers}."


def _missing(label: Any, name: str) -> ValueError:
    return ValueError(
        f"Input {name} contains {label}. Leave out the rows whose label is missing, or give them a "
        "label of their own."
    )


def _check_one_kind(y: Any, array: np.ndarray, name: str) -> None:
    """Raise ValueError for words among numbers, which NumPy would make words of, or not sort."""
    labels = array
    if array.dtype.kind in "SU" and isinstance(y, list | tuple):
        labels = np.array(y, dtype=object).ravel()
    if labels.dtype != object:
        return
    kinds = {_kind(label) for label in labels}
    if len(kinds) > 1:
        raise ValueError(
            f"Labels must be of one kind, but {name} has {' and '.join(sorted(kinds))}. Make them "
            "all strings or all integers."
        )


def _kind(label: Any) -> str:
    if isinstance(label, str | bytes):
        return "strings" if isinstance(label, str) else "bytes"
    is_number = isinstance(label, Number | np.bool_)
    return "numbers" if is_number else f"labels of type {type(label).__name__}"


@without_numpy_warnings
def checked_classes(classes: Any, known: np.ndarray | None) -> np.ndarray:
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
        announced: np.ndarray = np.unique(as_numpy(checked_labels(classes, "classes")))
    if len(announced) < 2:
        raise ValueError(f"classes must list at least 2 labels. Got {classes!r}.")
    if known is not None and not np.array_equal(announced, known):
        raise ValueError(
            f"`classes={announced!r}` is not the same as on last call to partial_fit, was: "
            f"{known!r}"
        )
    return announced


def united(classes: list[np.ndarray]) -> np.ndarray:
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


def classes_of(labels: np.ndarray) -> np.ndarray:
    """Return the different labels, sorted."""
    whole = _as_int64(labels)
    if whole is not None and len(whole):
        lowest, highest = int(whole.min()), int(whole.max())
        if highest - lowest < len(whole):  # counting is faster than sorting
            counted = np.bincount(whole - lowest).nonzero()[0] + lowest
            return np.asarray(counted.astype(labels.dtype))
    # Sorting, which the inverse asks for, is faster than NumPy's hashing without it.
    return np.unique(labels, return_inverse=True)[0]


def encode(labels: np.ndarray, classes: np.ndarray, name: str) -> Tensor:
    """Return the index of each label among the sorted `classes`, shape ``(n,)``.

    Raises
    ------
    ValueError
        For a label that is not among them.
    """
    whole, last = _as_int64(labels), len(classes) - 1
    is_range = whole is not None and classes.dtype.kind in "iu" and last >= 0
    if whole is not None and is_range and int(classes[-1]) - int(classes[0]) == last:
        index = whole - int(classes[0])
        unknown = labels[(index < 0) | (index > last)]
    elif labels.dtype.kind in "biuf" and classes.dtype.kind in "biuf":
        index = np.searchsorted(classes, labels).clip(max=last)
        unknown = labels[classes[index] != labels]
    else:
        found, place = np.unique(labels, return_inverse=True)
        index = np.searchsorted(classes, found)[place]
        unknown = np.setdiff1d(found, classes)
    if len(unknown):
        unseen = np.unique(unknown).tolist()
        raise ValueError(f"{name} contains previously unseen labels: {unseen}")
    return torch.from_numpy(index.astype(np.int64, copy=False))


def _as_int64(labels: np.ndarray) -> np.ndarray | None:
    """Whole numbers that int64 holds; None for other labels."""
    if labels.dtype.kind not in "biu" or labels.dtype == np.uint64:
        return None
    return labels.astype(np.int64, copy=False)


def labels_at(classes: np.ndarray, index: Tensor) -> np.ndarray | Tensor:
    """Return labels by their index among the classes.

    They are a tensor on the device of `index` if torch has a dtype for them, and else an array.
    """
    held = _held_by_torch(classes)
    if held is None:
        labels: np.ndarray = classes[index.numpy(force=True)]
        return labels
    if held.dtype.kind == "u" and held.itemsize > 1:  # torch hardly computes with these
        signed = shared(held.view(f"i{held.itemsize}")).to(index.device)
        return signed[index].view(getattr(torch, held.dtype.name))
    return shared(held).to(index.device)[index]


def _held_by_torch(classes: np.ndarray) -> np.ndarray | None:
    """Labels that are numbers in a dtype that torch has; None for others."""
    if classes.dtype.kind not in "biuf":
        return None
    if classes.dtype.char == "g":  # long double: whole numbers, most of which fit a double
        double = classes.astype(np.float64)
        return double if np.array_equal(double, classes) else None
    return classes.astype(classes.dtype.newbyteorder("="), copy=False)
