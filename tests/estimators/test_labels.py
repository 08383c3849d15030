"""Labels as tensors are encoded as their arrays are, and as scikit-learn would."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal
from sklearn.exceptions import DataConversionWarning

from skorchless import TorchSoftmaxClassifier
from skorchless.estimators.checks import check_y_classes, encode

WHOLE = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
FRACTIONAL = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
each_dtype = pytest.mark.parametrize("dtype", [*WHOLE, *FRACTIONAL], ids=str)
VALUES = [3, 0, 1, 3, 100, 0]


def as_labels(dtype):
    return (torch.tensor(VALUES) > 0 if dtype == torch.bool else torch.tensor(VALUES)).to(dtype)


@each_dtype
def test_tensors_are_encoded_as_their_arrays(dtype):
    labels = as_labels(dtype)
    array = (labels.float() if dtype == torch.bfloat16 else labels).numpy()
    checked = check_y_classes(labels, "y")
    assert_array_equal(checked, array)
    classes = np.unique(checked)
    assert_array_equal(encode(checked, classes, "y"), np.searchsorted(classes, array))


@given(
    labels=hnp.arrays(np.int64, st.integers(1, 30), elements=st.integers(-(2**62), 2**62)),
    strange=st.integers(-(2**62), 2**62),
)
def test_labels_of_any_size_are_exact_and_strangers_are_named(labels, strange):
    classes = np.unique(labels)
    assert_array_equal(classes[encode(labels, classes, "y")], labels)
    if strange not in classes:
        with pytest.raises(ValueError, match=rf"y contains previously unseen labels: \[{strange}"):
            encode(np.array([classes[0], strange]), classes, "y")


def test_classes_of_one_kind_meet_labels_of_another():
    floats, integers = np.array([2.0, 1.0]), np.array([1, 2])
    assert_array_equal(encode(floats, integers, "y"), [1, 0])
    with pytest.raises(ValueError, match=r"unseen labels: \[1.5\]"):
        encode(np.array([1.5, 2.0]), integers, "y")
    with pytest.raises(ValueError, match=r"unseen labels: \[7\]"):
        encode(np.array([7, 1]), np.array([1.0, 2.0]), "y")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0.5, 1.0]), "Unknown label type: continuous"),
        (torch.tensor([float("nan"), 1.0]), "Input y contains NaN"),
        (torch.tensor([float("inf"), 1.0]), "Input y contains infinity"),
        (torch.zeros(2, 2), "should be a 1d array"),
    ],
    ids=["fractions", "nan", "inf", "two columns"],
)
def test_what_is_no_label_is_refused_in_scikit_learns_words(labels, message):
    with pytest.raises(ValueError, match=message):
        check_y_classes(labels, "y")


def test_a_column_of_labels_is_taken_with_a_warning():
    X = torch.tensor(np.random.default_rng(0).normal(size=(40, 3)))
    y = (X[:, :1] > 0).long()
    with pytest.warns(DataConversionWarning):
        model = TorchSoftmaxClassifier().fit(X, y)
    assert_array_equal(model.coef_, TorchSoftmaxClassifier().fit(X, y[:, 0]).coef_)


def test_rows_of_weight_zero_take_their_labels_with_them():
    X = torch.tensor(np.random.default_rng(0).normal(size=(60, 3)))
    y = torch.arange(60) % 3
    weight = (y != 2).double()
    model = TorchSoftmaxClassifier().fit(X, y, weight)
    assert_array_equal(model.classes_, [0, 1])
    plain = TorchSoftmaxClassifier().fit(X.numpy(), y.numpy(), weight.numpy())
    assert_array_equal(model.coef_, plain.coef_)


#: Labels as NumPy can have them, some of which torch cannot.
EXOTIC = {
    ">i4": lambda y: y.astype(">i4"),
    ">u2": lambda y: y.astype(">u2"),
    ">f8": lambda y: y.astype(">f8"),
    ">f2": lambda y: y.astype(">f2"),
    "longdouble": lambda y: y.astype(np.longdouble),
    "float16": lambda y: y.astype(np.float16),
    "uint16": lambda y: y.astype(np.uint16),
    "uint32": lambda y: y.astype(np.uint32) + np.uint32(2**31),
    "uint64": lambda y: y.astype(np.uint64) + np.uint64(2**63),
    "bool": lambda y: y > 0,
    "strings": lambda y: np.array(["b", "a", "c"])[y],
    "more strings": lambda y: np.array(["b", "a", "c"], dtype=object)[y],
    "reversed": lambda y: np.repeat(y, 2)[::-2],
    "read-only": lambda y: np.broadcast_to(y, (2, len(y)))[1],
}


@pytest.mark.parametrize("kind", EXOTIC)
def test_labels_of_any_dtype_can_be_learnt_predicted_and_scored(kind):
    X = np.random.default_rng(0).normal(size=(60, 3))
    y = EXOTIC[kind](np.arange(60) % 3)
    classes, index = np.unique(y, return_inverse=True)
    plain = TorchSoftmaxClassifier().fit(X, index, X_val=X, y_val=index)
    model = TorchSoftmaxClassifier().fit(X, y, X_val=X, y_val=y)
    assert_array_equal(model.coef_, plain.coef_)
    assert_array_equal(model.classes_, classes)
    assert model.classes_.dtype == y.dtype
    tensor = torch.from_numpy(X)
    for rows in (X, tensor):
        found = model.predict(rows)
        assert_array_equal(np.asarray(found), classes[plain.predict(X)])
        assert model.score(rows, y) == plain.score(X, index)
    # Tensors answer tensors, wherever torch has numbers to answer with.
    has_torch = y.dtype.kind in "biuf" and kind != "longdouble"
    assert isinstance(model.predict(tensor), torch.Tensor) == has_torch
    first = TorchSoftmaxClassifier().partial_fit(X, y, classes=classes)
    first.partial_fit(X, y, classes=classes[::-1]).partial_fit(tensor, y)
    assert_array_equal(first.classes_, classes)
    assert first.score(tensor, y) == first.score(X, y)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64], ids=str)
def test_unsigned_tensors_are_labels(dtype):
    X = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 3)))
    y = (torch.arange(60) % 3).to(dtype)
    model = TorchSoftmaxClassifier().fit(X, y)
    plain = TorchSoftmaxClassifier().fit(X, torch.arange(60) % 3)
    assert model.predict(X).dtype == dtype
    assert model.score(X, y) == plain.score(X, torch.arange(60) % 3)


def test_labels_that_no_dtype_of_torch_holds_come_as_an_array():
    large = np.longdouble(2) ** 60 + np.arange(3)
    if large[1] == np.float64(large[1]) and large[1] == large[0]:
        pytest.skip("this machine's longdouble is a double")
    X = np.random.default_rng(0).normal(size=(60, 3))
    y = large[np.arange(60) % 3]
    model = TorchSoftmaxClassifier().fit(X, y)
    found = model.predict(torch.from_numpy(X))
    assert isinstance(found, np.ndarray)
    assert_array_equal(found, model.predict(X))
