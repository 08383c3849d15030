"""Data and estimators that every test of the searches can use."""

import pytest
from searches import SGD, make_classes, make_numbers

from skorchless import TorchSoftmaxClassifier


@pytest.fixture
def classes():
    return make_classes()


@pytest.fixture
def numbers():
    return make_numbers()


@pytest.fixture
def sgd():
    return TorchSoftmaxClassifier(**SGD)
