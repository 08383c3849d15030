"""Labels of any kind, and the classes that they name. Tensors are encoded where they are."""

from numbers import Number
from typing import Any

import numpy as np
import torch
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d
from torch import Tensor

from skorchless.estimators.inputs import as_numpy, as_tensor, check_plain, named
from skorchless.restoring import without_numpy_warnings
from skorchless.stack import shared

#: Dtypes whose values int64 or float64 hold exactly.
ENCODED_IN_PLACE = {
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
}


@without_numpy_warnings
def checked_labels(y: Any, name: str) -> np.ndarray | Tensor:
    """Labels of shape ``(n,)``, those of a tensor on its device.

    Raises
    ------
    ValueError
        For labels of another shape, or that are missing, fractions or not finite.
    """
    with named(name):
        check_plain(y, name)
        if isinstance(y, Tensor) and y.ndim == 1 and y.dtype in ENCODED_IN_PLACE:
            labels = y.detach()
            if not labels.is_floating_point():
                return labels
            if bool((labels.isfinite() & (labels == labels.round())).all()):
                return labels
        if isinstance(y, np.ndarray) and y.ndim == 1 and y.dtype.kind in "biu":
            return np.asarray(y)  # whole numbers are always labels, and the checks are slow
        array = sortable(y, name)
        if array.dtype.kind not in "biu":
            check_classification_targets(array)
        return array


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


def classes_of(labels: np.ndarray | Tensor) -> np.ndarray:
    """The different labels, sorted."""
    values = _numbers(labels)
    if values is None:
        # Sorting, which the inverse asks for, is faster than NumPy's hashing without it.
        return np.unique(labels, return_inverse=True)[0]
    unique = _unique(values)
    if isinstance(labels, Tensor):
        classes: np.ndarray = as_numpy(unique.to(labels.dtype))
        return classes
    return unique.numpy().astype(labels.dtype)


def encode(labels: np.ndarray | Tensor, classes: np.ndarray, name: str) -> Tensor:
    """Index of each label among `classes`, shape ``(n,)``.

    Raises
    ------
    ValueError
        For a label that is none of them.
    """
    values, known = _numbers(labels), _numbers(classes)
    if values is not None and known is not None:
        common = torch.promote_types(known.dtype, values.dtype)
        known, values = known.to(values.device, common), values.to(common)
        index, strange = _places(known, values)
        if strange is not None:
            inside = strange if isinstance(labels, Tensor) else strange.numpy()
            raise _unseen(name, classes_of(labels[inside]))
        return index
    found, place = np.unique(as_numpy(labels), return_inverse=True)
    unknown = np.setdiff1d(found, classes)
    if len(unknown):
        raise _unseen(name, unknown)
    return torch.from_numpy(np.searchsorted(classes, found).astype(np.int64)[place])


def labels_at(classes: np.ndarray, index: Tensor) -> np.ndarray | Tensor:
    """Labels by their place among the classes.

    A tensor beside `index` if the labels are numbers that torch has a dtype for, else an array.
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


def _numbers(labels: np.ndarray | Tensor) -> Tensor | None:
    """Labels that are numbers as int64 or float64, which hold them exactly; None for others."""
    if isinstance(labels, Tensor):
        return labels.to(torch.float64 if labels.is_floating_point() else torch.int64)
    if labels.dtype.kind not in "biuf" or labels.dtype.itemsize > 8 or labels.dtype == np.uint64:
        return None
    return as_tensor(labels.astype(float if labels.dtype.kind == "f" else np.int64, copy=False))


def _unique(values: Tensor) -> Tensor:
    """The different numbers, sorted; whole ones that lie close together are counted."""
    if not values.is_floating_point() and len(values):
        lowest, highest = (int(bound) for bound in values.aminmax())
        if highest - lowest == 1:
            return torch.tensor([lowest, highest], device=values.device)
        if highest - lowest < len(values):
            return torch.bincount(values - lowest).nonzero().view(-1).add_(lowest)
    unique: Tensor = torch.unique(values)
    return unique


def _places(known: Tensor, values: Tensor) -> tuple[Tensor, Tensor | None]:
    """Where each value is among the `known` ones, sorted; which are none of them, if any."""
    last = len(known) - 1
    whole = not known.is_floating_point() and len(known) > 0
    if whole and int(known[-1]) - int(known[0]) == last:  # no number is missing: no search
        index = values - known[0]
        inside = index.clamp(0, last)
        return index, None if torch.equal(index, inside) else index != inside
    index = torch.searchsorted(known, values.contiguous()).clamp_(max=last)
    strange = known[index] != values
    return index, strange if bool(strange.any()) else None


def _unseen(name: str, labels: np.ndarray) -> ValueError:
    return ValueError(f"{name} contains previously unseen labels: {labels.tolist()}")
