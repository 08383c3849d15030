"""Folds: fitted together or apart, each with its own rows, errors and times."""

import numpy as np
import pytest
from searches import SGD, assert_same, make_classes, make_numbers, search_both
from sklearn.exceptions import FitFailedWarning
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skorchless import BatchedGridSearchCV, TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.estimators import batched, limits
from skorchless.model_selection import evaluate
from skorchless.model_selection.candidates import group_candidates
from skorchless.model_selection.evaluate import evaluate_folds, folds_at_once

RATES = {"learning_rate": [0.01, 0.1, 0.5]}


@pytest.mark.parametrize(
    "n_rows, n_splits, n_jobs, at_once",
    [(100, 5, 1, 5), (100, 5, 2, 3), (100, 5, 8, 1), (2**22, 5, 1, 2), (2**30, 5, 1, 1)],
)
def test_small_folds_go_together(n_rows, n_splits, n_jobs, at_once):
    class Rows:
        shape = (n_rows, 1)

    assert folds_at_once(Rows(), n_splits, n_jobs) == at_once


def test_rows_of_unknown_size_go_one_fold_at_a_time():
    assert folds_at_once([[1.0]] * 10, 5, 1) == 1


@pytest.mark.parametrize("n, sizes", [(90, [9]), (91, [3, 6]), (92, [6, 3])])
def test_folds_of_as_many_rows_train_side_by_side(sgd, stacks, n, sizes):
    X, y = make_classes(n)
    options = {"cv": KFold(3), "refit": False, "return_train_score": True}
    ours, theirs = search_both(sgd, RATES, X, y, **options)
    assert_same(ours, theirs, atol=1e-12)
    assert stacks == sizes


def test_folds_apart_find_the_same(classes, sgd, stacks, monkeypatch):
    as_one = BatchedGridSearchCV(sgd, RATES, cv=3).fit(*classes)
    monkeypatch.setattr(limits, "SMALL_STEP", 0)
    apart = BatchedGridSearchCV(sgd, RATES, cv=3).fit(*classes)
    assert stacks == [9, 3, 3, 3]
    assert_same(as_one, apart, atol=1e-12)
    for some, others in zip(as_one.loss_curves_, apart.loss_curves_, strict=True):
        for curve, wanted in zip(some, others, strict=True):
            np.testing.assert_allclose(curve, wanted, rtol=1e-12)


def test_a_fold_that_cannot_be_fitted_leaves_the_others_alone(sgd):
    X, y = make_classes()
    y[:30], y[30:] = 0, np.arange(60) % 2
    splits = [
        (np.arange(30), np.arange(30, 60)),  # one class
        (np.arange(30, 90), np.arange(30)),
        (np.arange(20, 80), np.arange(80, 90)),
    ]
    with pytest.warns(FitFailedWarning, match="3 fits failed out of a total of 9"):
        ours = BatchedGridSearchCV(sgd, RATES, cv=splits, error_score=-1.0).fit(X, y)
    assert (ours.cv_results_["split0_test_score"] == -1.0).all()
    apart = BatchedGridSearchCV(sgd, RATES, cv=splits[1:]).fit(X, y)
    for found, wanted in (("split1_test_score", "split0"), ("split2_test_score", "split1")):
        wanted = apart.cv_results_[f"{wanted}_test_score"]
        np.testing.assert_allclose(ours.cv_results_[found], wanted)


def test_a_transformer_that_fails_on_some_rows(sgd):
    X, y = make_classes()
    X[5, 0] = 100.0

    def picky(X):
        if (X == 100.0).any():
            raise ValueError("a hundred is too much")
        return X

    pipeline = make_pipeline(FunctionTransformer(picky), sgd)
    grid = {"torchsoftmaxclassifier__alpha": [0.0, 0.1]}
    found = []
    for Search in (BatchedGridSearchCV, GridSearchCV):
        search = Search(pipeline, grid, cv=KFold(3), refit=False, error_score=0.5)
        with pytest.warns(Warning) as caught:
            found.append(search.fit(X, y))
        said = [str(warning.message) for warning in caught]
        assert any("4 fits failed out of a total of 6" in message for message in said)
        assert sum("Scoring failed" in message for message in said) == 2
        assert all("a hundred is too much" in message for message in said)
    assert_same(*found)


def test_errors_are_raised_if_asked_for(numbers):
    model = TorchLinearRegressor(**{**SGD, "max_iter": 200})
    grid = {"learning_rate": [0.01, 1e6]}
    with pytest.raises(ValueError, match="The loss became infinite or NaN"):
        BatchedGridSearchCV(model, grid, cv=3, error_score="raise").fit(*numbers)


def test_training_that_fails_is_told_of_every_candidate(numbers, monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(batched, "fit_candidates", broken)
    search = BatchedGridSearchCV(TorchLinearRegressor(loss="huber"), {"alpha": [0.1, 1.0]}, cv=2)
    with pytest.raises(ValueError, match="All the 4 fits failed") as caught:
        search.fit(*numbers)
    assert "out of luck" in str(caught.value)


def test_results_are_in_the_order_of_the_candidates():
    X, y = make_numbers()
    model = TorchLinearRegressor(**SGD)
    parameters = [{"batch_size": b, "alpha": a} for a in (0.0, 0.1, 1.0) for b in (8, 16)]
    groups = group_candidates(model, parameters, "BatchedGridSearchCV")
    splits = list(KFold(2).split(X))
    folds = evaluate_folds(
        groups,
        X,
        y,
        splits,
        [None, None],
        scorer=get_scorer("r2"),
        fit_params={},
        score_params={},
        return_train_score=False,
        error_score=np.nan,
    )
    assert [len(results) for results in folds] == [6, 6]
    for (train, test), results in zip(splits, folds, strict=True):
        for i, parameter in enumerate(parameters):
            alone = TorchLinearRegressor(**SGD).set_params(**parameter).fit(X[train], y[train])
            result = results[i]
            assert result["test_scores"] == pytest.approx(alone.score(X[test], y[test]))
            assert result["n_test_samples"] == len(test)
            assert result["fit_time"] > 0 and result["score_time"] > 0
            np.testing.assert_allclose(result["loss_curve"], alone.loss_curve_)


def test_memory_bounds_how_many_folds_are_held(classes, sgd, monkeypatch):
    seen = []
    ordinary = evaluate.fit_all
    monkeypatch.setattr(evaluate, "fit_all", lambda fits: (seen.append(fits), ordinary(fits)))
    monkeypatch.setattr(limits, "SMALL_SAMPLES", 2 * classes[0].nbytes)
    BatchedGridSearchCV(sgd, RATES, cv=5, refit=False).fit(*classes)
    assert [len(fits) for fits in seen] == [2, 2, 1]
    BatchedGridSearchCV(TorchSoftmaxClassifier(), {}, cv=2, refit=False).fit(*classes)
