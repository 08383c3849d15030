"""Both estimators, and data that each can learn."""

import numpy as np
import pytest

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier


@pytest.fixture(params=[TorchLinearRegressor, TorchSoftmaxClassifier], ids=lambda E: E.__name__)
def Estimator(request):
    return request.param


@pytest.fixture
def make_data(Estimator):
    """Make X of shape ``(n, d)`` and a noisy y: numbers, or three classes."""

    def make(n=90, d=4, seed=0, dtype=np.float64):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(n, d))
        if Estimator is TorchLinearRegressor:
            y = X @ rng.normal(size=d) + 0.3 * rng.normal(size=n) + 1.0
            return X.astype(dtype), y.astype(dtype)
        logits = X @ rng.normal(size=(d, 3)) + rng.gumbel(size=(n, 3))
        return X.astype(dtype), logits.argmax(axis=1)

    return make


@pytest.fixture
def data(make_data):
    return make_data()
