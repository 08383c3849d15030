"""Scores from one product beside those of each estimator alone."""

import numpy as np
import pytest
from sklearn.metrics import check_scoring, get_scorer, make_scorer, matthews_corrcoef
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.model_selection import scoring
from skorchless.model_selection.scoring import Part, score_together


@pytest.fixture
def fitted(classes):
    return [TorchSoftmaxClassifier(alpha=alpha).fit(*classes) for alpha in (1e-3, 0.1, 1.0)]


def score(models, X, y, scorer, *, complete=lambda model: model, rows=None, error_score=-9.0, **kw):
    rows = X if rows is None else rows
    part = Part(complete(models[0]), X, y, kw, np.arange(len(y)))
    return score_together(models, complete, part, rows, scorer, error_score)


def count_calls(monkeypatch, name):
    calls = []
    ordinary = getattr(scoring, name)
    monkeypatch.setattr(scoring, name, lambda *a, **k: (calls.append(a), ordinary(*a, **k))[1])
    return calls


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
def test_scores_are_the_scorers(classes, fitted, scorer, monkeypatch):
    scorer = get_scorer(scorer)
    products = count_calls(monkeypatch, "predict_together")
    found = score(fitted, *classes, scorer)
    assert len(products) == 1
    np.testing.assert_allclose(found, [scorer(model, *classes) for model in fitted], rtol=1e-12)
    assert not any("_raw_predictions" in vars(model) for model in fitted)


def test_several_scores_are_named(classes, fitted):
    scorer = check_scoring(fitted[0], ["accuracy", "f1_macro"])
    found = score(fitted, *classes, scorer)
    assert found == [pytest.approx(scorer(model, *classes)) for model in fitted]
    fast = check_scoring(fitted[0], ["accuracy", "neg_log_loss"])
    found = score(fitted, *classes, fast)
    assert found == [pytest.approx(fast(model, *classes)) for model in fitted]


def test_the_own_score_of_regressors_of_several_outputs():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 3)), rng.normal(size=(30, 2))
    weight = rng.uniform(0.1, 1.0, 30)
    models = [TorchLinearRegressor(alpha=alpha).fit(X, y) for alpha in (0.1, 1.0)]
    found = score(models, X, y, check_scoring(models[0], None), sample_weight=weight)
    np.testing.assert_allclose(found, [model.score(X, y, weight) for model in models])


def test_any_other_scorer_is_to_see_the_whole_estimators(classes, fitted):
    assert score(fitted, *classes, lambda estimator, X, y: 0.0) is None
    for own in ({"a": "accuracy", "b": max}, {"a": max}):
        assert score(fitted, *classes, check_scoring(fitted[0], own)) is None


class Stubborn(TorchSoftmaxClassifier):
    """A subclass with a score of its own."""

    def score(self, X, y, sample_weight=None):
        return 0.25


def test_a_subclass_is_to_score_itself(classes):
    model = Stubborn().fit(*classes)
    assert score([model], *classes, check_scoring(model, None)) is None
    scaler = StandardScaler().fit(classes[0])
    found = score(
        [model],
        *classes,
        get_scorer("accuracy"),
        complete=lambda model: make_pipeline(scaler, model),
        rows=scaler.transform(classes[0]),
    )
    assert found == [get_scorer("accuracy")(make_pipeline(scaler, model), *classes)]


def test_large_stacks_are_scored_in_turns(classes, fitted, monkeypatch):
    products = count_calls(monkeypatch, "predict_together")
    at_once = score(fitted, *classes, get_scorer("accuracy"))
    monkeypatch.setattr(scoring, "RAW_BYTES", 8 * len(classes[0]) * 3)  # one model's
    assert score(fitted, *classes, get_scorer("accuracy")) == at_once
    assert [len(models) for models, _ in products] == [3, 1, 1, 1]


def test_a_score_that_fails_is_the_error_score(classes, fitted):
    X, y = classes
    bad = X.copy()
    bad[0, 0] = np.nan
    with pytest.warns(UserWarning, match="Scoring failed"):
        assert score(fitted, bad, y, get_scorer("accuracy")) == [-9.0] * 3
    with pytest.raises(ValueError, match="NaN"):
        score(fitted, bad, y, get_scorer("accuracy"), error_score="raise")
