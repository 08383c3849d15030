"""Predictions whose products or sums leave the range of floating point numbers."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skorchless import BatchedGridSearchCV, TorchLinearRegressor, TorchSoftmaxClassifier

CONTAINERS = {
    "array": np.asarray,
    "Fortran": np.asfortranarray,
    "list": np.ndarray.tolist,
    "csr": sparse.csr_array,
    "csc": sparse.csc_matrix,
    "tensor": torch.from_numpy,
    "float32": lambda X: (X / 1e270).astype(np.float32),
    "float32 tensor": lambda X: torch.from_numpy(X / 1e270).float(),
}
containers = pytest.mark.parametrize("container", CONTAINERS)

ROWS = np.array(
    [[1.0, 2.0, 3.0], [1e300, 1e300, 0.0], [1e300, -1e300, 1.0], [-1e308, 1e308, 1e308]]
)
COEFS = [
    [[1.0, 1.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.5, 0.5]],
    [[1e10, 1e10, 0.0], [1e10, -1e10, 0.0], [-1e10, 1e10, 1.0]],
    [[1e300, 1e300, 0.0], [1e300, 1.1e300, 0.0], [0.0, 1.0, 1e-300]],
    [[1e300, -1e300, 1e300], [-1e300, 1e300, 1e300], [0.0, 0.0, 0.0]],
]


def set_by_hand(Estimator, coef, **attributes):
    model = Estimator()
    model.coef_ = np.array(coef)
    model.intercept_ = np.zeros(model.coef_.shape[:-1])
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def exact(X, coef):
    """Raw predictions as fractions."""
    return [
        [sum(Fraction(x) * Fraction(w) for x, w in zip(row, ws, strict=True)) for ws in coef]
        for row in np.asarray(X, dtype=float).tolist()
    ]


def dense(X):
    return X.toarray() if sparse.issparse(X) else np.asarray(X)


@containers
@pytest.mark.parametrize("coef", COEFS)
def test_probabilities_are_never_nan(container, coef):
    X = CONTAINERS[container](ROWS)
    model = set_by_hand(TorchSoftmaxClassifier, coef, classes_=np.array([5, 6, 7]))
    p, log_p = (np.asarray(call(X)) for call in (model.predict_proba, model.predict_log_proba))
    assert_allclose(p.sum(axis=1), 1, rtol=1e-6)
    assert not np.isnan(log_p).any() and (log_p <= 0).all()
    assert np.isfinite(np.asarray(model.decision_function(X))).all()
    for row, logits in enumerate(exact(dense(X), coef)):
        best = max(logits)
        gaps = [float(max(logit - best, -1000)) for logit in logits]
        wanted = np.exp(gaps) / np.exp(gaps).sum()
        if sorted(gaps)[-2] > -1e-3:  # ties that rounding decides
            continue
        assert_allclose(p[row], wanted, atol=1e-5)
        assert np.asarray(model.predict(X))[row] == model.classes_[wanted.argmax()]


@containers
@pytest.mark.parametrize("coef", COEFS)
@pytest.mark.parametrize("row", [0, 1, 2])
def test_so_are_those_of_two_classes(container, coef, row):
    X = CONTAINERS[container](ROWS)
    model = set_by_hand(TorchSoftmaxClassifier, [coef[row]], classes_=np.array([5, 6]))
    p = np.asarray(model.predict_proba(X))
    assert not np.isnan(np.asarray(model.predict_log_proba(X))).any()
    for [logit], found in zip(exact(dense(X), [coef[row]]), p, strict=True):
        if abs(logit) > 1e-3:  # else rounding decides
            share = 1 / (1 + np.exp(-float(max(min(logit, 1000), -1000)), dtype=np.longdouble))
            assert_allclose(found, [1 - share, share], atol=1e-5)
    assert_array_equal(
        np.asarray(model.predict(X)) == 6, np.asarray(model.decision_function(X)) > 0
    )


@containers
def test_numbers_are_right_or_infinite(container):
    X = CONTAINERS[container](ROWS)
    coef = [[1e10, 1e10, 1.0], [1e10, 1.5e10, 1.0], [0.5, 0.5, 0.5]]
    model = set_by_hand(TorchLinearRegressor, coef)
    found = np.asarray(model.predict(X))
    for row, wanted in zip(found, exact(dense(X), coef), strict=True):
        for number, whole in zip(row, wanted, strict=True):
            if abs(whole) > Fraction(float(np.finfo(found.dtype).max)):
                assert number == (np.inf if whole > 0 else -np.inf)
            else:
                scale = max(abs(whole), Fraction(1e-9) * max(map(abs, wanted)))
                assert abs(Fraction(float(number)) - whole) <= Fraction(1e-5) * scale


@pytest.mark.parametrize("container", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_other_rows_keep_their_bits(container):
    X = np.random.default_rng(0).normal(size=(9, 3))
    coef = np.random.default_rng(1).normal(size=(3, 3)) * 1e10
    model = set_by_hand(TorchSoftmaxClassifier, coef, classes_=np.arange(3))
    wanted = np.asarray(model.decision_function(container(X)))
    X[4] = 1e305
    found = np.asarray(model.decision_function(container(X)))
    kept = np.arange(9) != 4
    assert_array_equal(found[kept], wanted[kept])


@pytest.mark.parametrize("container", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.usefixtures("everything_is_large")
def test_rows_that_are_read_in_runs(container):
    X = np.random.default_rng(0).normal(size=(400, 3))
    X[::7] = ROWS[2]
    model = set_by_hand(TorchSoftmaxClassifier, COEFS[1], classes_=np.arange(3))
    assert_allclose(np.asarray(model.predict_proba(container(X)))[::7], [[0, 1, 0]] * 58)


@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array, torch.from_numpy])
def test_a_search_scores_such_rows(container):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = np.digitize(X[:, 0], [-0.5, 0.5])
    X[5] = [1.7e308, 1.7e308, -1.7e308]
    train, test = np.flatnonzero(np.arange(60) != 5), np.arange(60)
    grid = {"alpha": [1e-6, 1e-3]}
    for scoring in ("accuracy", "neg_log_loss"):
        search = BatchedGridSearchCV(
            TorchSoftmaxClassifier(), grid, cv=[(train, test)], scoring=scoring, refit=False
        )
        scores = search.fit(container(X), y).cv_results_["mean_test_score"]
        assert np.isfinite(scores).all()
