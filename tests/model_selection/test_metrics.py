"""The stacked metrics beside scikit-learn's scorers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import get_scorer

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.estimators.together import predict_together
from skorchless.model_selection import _sklearn_private as private
from skorchless.model_selection.metrics import METRICS, Truth
from skorchless.model_selection.scoring import Part, score_together

CLASSIFIERS = ["accuracy", "neg_log_loss"]
REGRESSORS = [
    "r2",
    "neg_mean_squared_error",
    "neg_root_mean_squared_error",
    "neg_mean_absolute_error",
]


def fitted(classifies, outputs, rng, dtype, labels="numbers"):
    """A model with coefficients out of nowhere, rows and targets to score it on."""
    X = rng.normal(size=(30, 3)).astype(dtype)
    if classifies:
        y = np.arange(30) % outputs
        y = np.array(list("abcdef"))[y] if labels == "strings" else y
        model = TorchSoftmaxClassifier(max_iter=2, tol=None)
    else:
        y = rng.normal(size=30 if outputs == 1 else (30, outputs))
        model = TorchLinearRegressor(max_iter=2, tol=None)
    model.fit(X, y)
    model.coef_ = (model.coef_ + 5 * rng.normal(size=model.coef_.shape)).astype(dtype)
    return model, X, y


@given(
    name=st.sampled_from(CLASSIFIERS + REGRESSORS),
    outputs=st.integers(1, 4),
    seed=st.integers(0, 2**16),
    weighted=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
    labels=st.sampled_from(["numbers", "strings"]),
)
def test_metrics_are_scikit_learns(name, outputs, seed, weighted, dtype, labels):
    rng = np.random.default_rng(seed)
    classifies = name in CLASSIFIERS
    outputs = max(outputs, 2) if classifies else outputs
    model, X, y = fitted(classifies, outputs, rng, dtype, labels)
    params = {"sample_weight": rng.uniform(0, 2, 30)} if weighted else {}
    scorer = get_scorer(name)
    truth = Truth.of(model, y, params.get("sample_weight"))
    assert truth is not None
    metric = METRICS[(type(model), *private.metric_of(scorer))]
    found = metric(predict_together([model, model], X), truth)
    wanted = scorer(model, X, y, **params)
    np.testing.assert_allclose(found, wanted, rtol=1e-12 if dtype == np.float64 else 1e-5)


def score_alone(model, X, y, scorer):
    part = Part(model, X, y, {}, np.arange(len(y)))
    return score_together([model], lambda m: m, part, X, scorer, "raise")


def test_every_metric_of_the_table_is_tested():
    assert len(METRICS) == len(CLASSIFIERS + REGRESSORS)


@pytest.mark.parametrize("name", ["accuracy", "neg_log_loss", "roc_auc_ovr", "f1_macro"])
def test_whatever_is_out_of_the_ordinary_is_left_to_scikit_learn(name):
    rng = np.random.default_rng(0)
    model, X, y = fitted(True, 3, rng, np.float64)
    odd = np.where(y == 2, 7, y)  # a label that the model has never seen
    for target in (y, y[:, None], odd, y.astype(object), y.astype(float)):
        scorer = get_scorer(name)
        try:
            wanted = scorer(model, X, target)
        except ValueError as error:
            with pytest.raises(ValueError, match=str(error)[:20]):
                score_alone(model, X, target, scorer)
        else:
            found = score_alone(model, X, target, scorer)
            assert found == [pytest.approx(wanted, rel=1e-12)]


def test_a_constant_target_is_left_to_scikit_learn():
    rng = np.random.default_rng(0)
    model, X, _ = fitted(False, 1, rng, np.float64)
    scorer = get_scorer("r2")
    found = score_alone(model, X, np.ones(30), scorer)
    assert found == [scorer(model, X, np.ones(30))]


def test_equal_scores_are_ties():
    truth = Truth(np.arange(10) % 2, None, 2)
    raw = np.where(np.arange(10) % 2 == 1, 1.0, -1.0) * np.ones((3, 1, 10))
    raw[1, 0, 2], raw[2, 0, 7] = 1.0, -1.0  # one wrong each, in different places
    accuracy = METRICS[(TorchSoftmaxClassifier, *private.metric_of(get_scorer("accuracy")))]
    assert accuracy(raw, truth).tolist() == [1.0, 0.9, 0.9]
