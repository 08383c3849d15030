"""Scores of tensors are scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, r2_score

from skorchless.estimators.predictions import tensor_accuracy, tensor_r_squared

rng = np.random.default_rng(0)
weights = pytest.mark.parametrize("weighted", [False, True])


def draw_weight(weighted, n):
    return rng.integers(0, 3, n).astype(float) if weighted else None


def as_tensor(weight):
    return None if weight is None else torch.tensor(weight)


@weights
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32, torch.uint8], ids=str)
def test_accuracy(weighted, dtype):
    wanted, found = (torch.tensor(rng.integers(0, 2, 50)).to(dtype) for _ in range(2))
    weight = draw_weight(weighted, 50)
    expected = accuracy_score(wanted.numpy(), found.numpy(), sample_weight=weight)
    assert tensor_accuracy(wanted, found, as_tensor(weight)) == pytest.approx(expected, rel=1e-12)


@weights
@pytest.mark.parametrize("shape", [(50,), (50, 1), (50, 3)])
def test_r_squared(weighted, shape):
    wanted, found = rng.normal(size=(2, *shape))
    weight = draw_weight(weighted, 50)
    expected = r2_score(wanted, found, sample_weight=weight)
    got = tensor_r_squared(torch.tensor(wanted), torch.tensor(found), as_tensor(weight))
    assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("error", [0.0, 1.0])
def test_r_squared_of_targets_that_do_not_vary(error):
    wanted = np.column_stack([np.ones(9), np.arange(9.0)])
    found = wanted + np.array([error, 0.5])
    expected = r2_score(wanted, found)
    assert tensor_r_squared(torch.tensor(wanted), torch.tensor(found), None) == expected


def test_shapes_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        tensor_accuracy(torch.zeros(3), torch.zeros(4), None)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        tensor_r_squared(torch.zeros(3), torch.zeros(4), None)
    with pytest.raises(ValueError, match=r"different number of output \(2!=1\)"):
        tensor_r_squared(torch.zeros(4, 2), torch.zeros(4), None)
