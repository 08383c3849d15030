"""Labels as tensors: encoded where they are, and as scikit-learn would."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal
from sklearn.exceptions import DataConversionWarning

from skorchless import TorchSoftmaxClassifier
from skorchless.estimators.labels import ENCODED_IN_PLACE, checked_labels, classes_of, encode

each_dtype = pytest.mark.parametrize("dtype", sorted(ENCODED_IN_PLACE, key=str), ids=str)
VALUES = [3, 0, 1, 3, 100, 0]


def as_labels(dtype):
    return (torch.tensor(VALUES) > 0 if dtype == torch.bool else torch.tensor(VALUES)).to(dtype)


@each_dtype
def test_tensors_are_encoded_as_their_arrays(dtype):
    labels = as_labels(dtype)
    array = (labels.float() if dtype == torch.bfloat16 else labels).numpy()
    assert checked_labels(labels, "y") is not None
    classes = classes_of(labels)
    assert_array_equal(classes, np.unique(array))
    assert classes.dtype == array.dtype
    assert_array_equal(encode(labels, classes, "y"), np.searchsorted(classes, array))


@each_dtype
def test_tensors_stay_tensors_until_they_are_encoded(dtype):
    labels = checked_labels(as_labels(dtype), "y")
    assert isinstance(labels, torch.Tensor)
    assert isinstance(encode(labels, classes_of(labels), "y"), torch.Tensor)


@given(
    labels=hnp.arrays(np.int64, st.integers(1, 30), elements=st.integers(-(2**62), 2**62)),
    strange=st.integers(-(2**62), 2**62),
)
def test_labels_of_any_size_are_exact_and_strangers_are_named(labels, strange):
    classes = classes_of(torch.tensor(labels))
    assert_array_equal(classes[encode(torch.tensor(labels), classes, "y")], labels)
    if strange not in classes:
        with pytest.raises(ValueError, match=rf"y contains previously unseen labels: \[{strange}"):
            encode(torch.tensor([classes[0], strange]), classes, "y")


def test_classes_of_one_kind_meet_labels_of_another():
    floats, integers = torch.tensor([2.0, 1.0]), np.array([1, 2])
    assert_array_equal(encode(floats, integers, "y"), [1, 0])
    with pytest.raises(ValueError, match=r"unseen labels: \[1.5\]"):
        encode(torch.tensor([1.5, 2.0]), integers, "y")
    with pytest.raises(ValueError, match=r"unseen labels: \[7\]"):
        encode(torch.tensor([7, 1]), np.array([1.0, 2.0]), "y")


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
        checked_labels(labels, "y")


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
