"""What torch's default device and dtype are set to does not matter: everything says where it is."""

import contextlib

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from scipy import sparse

from skorchless import BatchedGridSearchCV, TorchLinearRegressor, TorchSoftmaxClassifier

EACH = {
    "auto": {},
    "l1": {"alpha": 0.01, "l1_ratio": 0.5},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.01, "momentum": 0.5},
    "adam": {"optimizer": "adam", "learning_rate": 0.01, "batch_size": 16},
    "automatic sgd": {"optimizer": "sgd"},
    "automatic adam": {"optimizer": "adam"},
    "early stopping": {"early_stopping": True},
}


@contextlib.contextmanager
def elsewhere(what):
    """A default that nothing of ours can be computed with."""
    before = torch.get_default_dtype()
    try:
        if what == "device":
            with torch.device("meta"):
                yield
        else:
            torch.set_default_dtype(torch.float16)
            yield
    finally:
        torch.set_default_dtype(before)


def fits(Estimator, kind, X, y):
    """Whatever can be done with rows; all of it as NumPy."""
    settings = {**EACH[kind], "max_iter": 3, "tol": None, "random_state": 0}
    model = Estimator(**settings).fit(X, y)
    yield from (model.coef_, np.asarray(model.predict(X)), model.score(X, y))
    if not sparse.issparse(X):
        yield np.asarray(model.predict(torch.from_numpy(X)))
    yield Estimator(**settings).fit(X, y, np.arange(len(y)) % 3).coef_
    grid = {"alpha": [0.0, 0.1], "l1_ratio": [0.0, 0.5]}
    search = BatchedGridSearchCV(Estimator(**settings), grid, cv=2, refit=False)
    yield search.fit(X, y).cv_results_["mean_test_score"]
    if kind != "early stopping":
        more = Estimator(**settings)
        classes = {} if Estimator is TorchLinearRegressor else {"classes": np.unique(y)}
        yield more.partial_fit(X, y, **classes).partial_fit(X, y).coef_


KINDS = [
    pytest.param(Estimator, kind, what, id=f"{what} {kind}")
    for kind in EACH
    for Estimator, what in [
        (TorchLinearRegressor, "squared_error"),
        (TorchLinearRegressor, "huber"),
        (TorchSoftmaxClassifier, "two classes"),
        (TorchSoftmaxClassifier, "three classes"),
    ]
]


@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array], ids=["dense", "sparse"])
@pytest.mark.parametrize(("Estimator", "kind", "what"), KINDS)
def test_the_defaults_do_not_matter(monkeypatch, Estimator, kind, what, container):
    rng = np.random.default_rng(0)
    X = container(rng.normal(size=(60, 3)))
    y = X @ [1.0, 2.0, -1.0] + rng.normal(size=60)
    if Estimator is TorchSoftmaxClassifier:
        y = np.digitize(y, [0.0] if what == "two classes" else [-1.0, 1.0])
    else:
        monkeypatch.setitem(EACH, kind, {**EACH[kind], "loss": what})
    wanted = list(fits(Estimator, kind, X, y))
    for default in ("device", "dtype"):
        with elsewhere(default):
            found = list(fits(Estimator, kind, X, y))
        for one, other in zip(found, wanted, strict=True):
            assert_array_equal(one, other)


@pytest.mark.parametrize("default", ["device", "dtype"])
def test_nor_do_they_where_delta_is_small_beside_the_targets(default):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = 1e6 * (X @ [1.0, 2.0, -1.0] + rng.normal(size=60))
    model = TorchLinearRegressor(loss="huber", delta=1.0)
    wanted = model.fit(X, y).coef_
    with elsewhere(default):
        assert_array_equal(model.fit(X, y).coef_, wanted)
