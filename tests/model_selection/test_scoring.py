"""Scores from one product beside those of each estimator alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import check_scoring, get_scorer, log_loss, make_scorer, matthews_corrcoef
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.model_selection import evaluate
from skorchless.model_selection.evaluate import metrics_of, score_from_predictions


@pytest.fixture
def fitted(classes):
    return [TorchSoftmaxClassifier(alpha=alpha).fit(*classes) for alpha in (1e-3, 0.1, 1.0)]


def score(models, X, y, scorer, error_score=-9.0, **params):
    metrics = metrics_of(models[0], scorer)
    return score_from_predictions(models, X, y.copy, scorer, metrics, params, error_score)


@pytest.fixture
def products(monkeypatch):
    """How many models each product was made for."""
    sizes = []
    ordinary = evaluate.predict_together

    def counted(models, X):
        sizes.append(len(models))
        return ordinary(models, X)

    monkeypatch.setattr(evaluate, "predict_together", counted)
    return sizes


@pytest.mark.parametrize(
    "scorer",
    [
        "accuracy",
        "neg_log_loss",
        "roc_auc_ovr",
        "top_k_accuracy",
        "balanced_accuracy",
        make_scorer(matthews_corrcoef),
        make_scorer(matthews_corrcoef, greater_is_better=False),
    ],
    ids=str,
)
def test_scores_are_the_scorers(classes, fitted, scorer, products):
    scorer = get_scorer(scorer)
    found = score(fitted, *classes, scorer)
    assert products == [3]
    np.testing.assert_allclose(found, [scorer(model, *classes) for model in fitted], rtol=1e-12)
    assert not any("_raw_predictions" in vars(model) for model in fitted)


def test_several_scores_are_named(classes, fitted):
    for names in (["accuracy", "f1_macro"], ["accuracy", "neg_log_loss"]):
        scorer = check_scoring(fitted[0], names)
        found = score(fitted, *classes, scorer)
        assert found == [pytest.approx(scorer(model, *classes)) for model in fitted]


def test_the_own_score_of_regressors_of_several_outputs():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 3)), rng.normal(size=(30, 2))
    weight = rng.uniform(0.1, 1.0, 30)
    models = [TorchLinearRegressor(alpha=alpha).fit(X, y) for alpha in (0.1, 1.0)]
    own = check_scoring(models[0], None)
    found = score(models, X, y, own)
    np.testing.assert_allclose(found, [model.score(X, y) for model in models])
    found = score(models, X, y, own, sample_weight=weight)
    np.testing.assert_allclose(found, [model.score(X, y, weight) for model in models])


def test_any_other_scorer_is_to_see_the_whole_estimators(fitted):
    assert metrics_of(fitted[0], lambda estimator, X, y: 0.0) is None
    for own in ({"a": "accuracy", "b": max}, {"a": max}):
        assert metrics_of(fitted[0], check_scoring(fitted[0], own)) is None


class Stubborn(TorchSoftmaxClassifier):
    """A subclass with a score of its own."""

    def score(self, X, y, sample_weight=None):
        return 0.25


def test_a_subclass_is_to_score_itself(classes):
    model = Stubborn().fit(*classes)
    for estimator in (model, make_pipeline(StandardScaler(), model)):
        for scorer in (check_scoring(estimator, None), get_scorer("accuracy")):
            assert metrics_of(estimator, scorer) is None


def test_large_stacks_are_scored_in_turns(classes, fitted, monkeypatch, products):
    at_once = score(fitted, *classes, get_scorer("accuracy"))
    monkeypatch.setattr(evaluate, "RAW_BYTES", 8 * len(classes[0]) * 3)  # one model's
    assert score(fitted, *classes, get_scorer("accuracy")) == at_once
    assert products == [3, 1, 1, 1]


# The metrics for all models at once.

CLASSIFIERS = ["accuracy", "neg_log_loss"]
REGRESSORS = ["r2", "neg_mean_squared_error", "neg_root_mean_squared_error"]


def model_of(classifies, outputs, rng, dtype, labels="numbers"):
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


@settings(max_examples=60)
@given(
    name=st.sampled_from(CLASSIFIERS + REGRESSORS),
    outputs=st.integers(1, 4),
    seed=st.integers(0, 2**16),
    dtype=st.sampled_from([np.float32, np.float64]),
    labels=st.sampled_from(["numbers", "strings"]),
)
def test_metrics_are_scikit_learns(name, outputs, seed, dtype, labels):
    rng = np.random.default_rng(seed)
    classifies = name in CLASSIFIERS
    outputs = max(outputs, 2) if classifies else outputs
    model, X, y = model_of(classifies, outputs, rng, dtype, labels)
    scorer = get_scorer(name)
    raw = evaluate.predict_together([model, model], X)
    found = evaluate._columns(model, metrics_of(model, scorer), raw, y)["score"]
    wanted = scorer(model, X, y)
    np.testing.assert_allclose(found, wanted, rtol=1e-12 if dtype == np.float64 else 1e-5)


@pytest.mark.parametrize("name", ["accuracy", "neg_log_loss", "roc_auc_ovr", "f1_macro"])
def test_whatever_is_out_of_the_ordinary_is_left_to_scikit_learn(name):
    rng = np.random.default_rng(0)
    model, X, y = model_of(True, 3, rng, np.float64)
    odd = np.where(y == 2, 7, y)  # a label that the model has never seen
    for target in (y, y[:, None], odd, y.astype(object), y.astype(float)):
        scorer = get_scorer(name)
        try:
            wanted = scorer(model, X, target)
        except ValueError as error:
            with pytest.raises(ValueError, match=str(error)[:20]):
                score([model], X, target, scorer, "raise")
        else:
            found = score([model], X, target, scorer, "raise")
            assert found == [pytest.approx(wanted, rel=1e-12)]


@pytest.mark.parametrize(
    "scorer",
    [
        make_scorer(log_loss, greater_is_better=False),
        make_scorer(matthews_corrcoef, greater_is_better=False),
    ],
    ids=str,
)
def test_metrics_of_other_predictions_and_signs_are_left_to_scikit_learn(scorer):
    model, X, y = model_of(True, 2, np.random.default_rng(0), np.float64)
    y[:3] = 1 - y[:3]
    assert score([model], X, y, scorer) == [pytest.approx(scorer(model, X, y), rel=1e-12)]


def test_a_constant_target_is_left_to_scikit_learn():
    model, X, _ = model_of(False, 1, np.random.default_rng(0), np.float64)
    scorer = get_scorer("r2")
    assert score([model], X, np.ones(30), scorer) == [scorer(model, X, np.ones(30))]


def test_equal_scores_are_ties():
    index = np.arange(10) % 2
    raw = np.where(index == 1, 1.0, -1.0) * np.ones((3, 1, 10))
    raw[1, 0, 2], raw[2, 0, 7] = 1.0, -1.0  # one wrong each, in different places
    assert evaluate.accuracy(raw, index).tolist() == [1.0, 0.9, 0.9]
