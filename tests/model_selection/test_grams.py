"""Comoments of folds: shared where the splits allow it, and never wrong."""

import numpy as np
import pytest
from searches import assert_same, make_numbers, search_both
from sklearn.model_selection import KFold, LeaveOneOut, PredefinedSplit, ShuffleSplit

from skorchless import BatchedGridSearchCV, TorchLinearRegressor
from skorchless.model_selection import fold
from skorchless.model_selection.grams import disjoint_parts

ALPHAS = {"alpha": [1e-3, 0.1, 1.0, 10.0]}


def splits_of(cv, n=40):
    return list(cv.split(np.zeros((n, 1)), np.zeros(n)))


@pytest.mark.parametrize(
    "cv, n_parts",
    [
        (KFold(4), 4),
        (LeaveOneOut(), 40),
        (PredefinedSplit([-1] * 10 + [0] * 15 + [1] * 15), 3),
        (ShuffleSplit(3, test_size=0.5, random_state=0), None),
    ],
)
def test_which_splits_are_parts(cv, n_parts):
    parts = disjoint_parts(splits_of(cv))
    assert (parts is None) == (n_parts is None)
    if parts is not None:
        assert len(parts) == n_parts
        assert sorted(np.concatenate(parts)) == list(range(40))


def test_repeated_rows_are_no_parts():
    rows = np.arange(10)
    assert disjoint_parts([(rows[5:], rows[:5]), (rows[:5], rows[5:])]) is not None
    assert disjoint_parts([(rows[5:], rows[:5]), (rows[4:9], rows[5:])]) is None
    assert disjoint_parts([(rows[5:], rows[:5]), (rows[5:], rows[:5])]) is None
    assert disjoint_parts([(rows[:5], rows[:5] + 20), (rows[5:], rows[:5])]) is None


@pytest.mark.parametrize("cv", [KFold(3), ShuffleSplit(3, random_state=0), LeaveOneOut()])
@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_scores_are_those_of_grid_search(cv, k, weighted):
    X, y = make_numbers(n=24, k=k)
    weight = (isinstance(cv, LeaveOneOut) + np.arange(24.0) % 4) if weighted else None
    params = {} if weight is None else {"sample_weight": weight}
    options = {"cv": cv, "scoring": "neg_mean_squared_error", "return_train_score": True}
    ours, theirs = search_both(TorchLinearRegressor(), ALPHAS, X, y, params, **options)
    assert_same(ours, theirs, atol=1e-9)


def test_folds_get_what_the_others_add_up_to(monkeypatch):
    received = []
    ordinary = fold.prepare

    def watched(*args, comoments, **options):
        received.append(comoments)
        return ordinary(*args, comoments=comoments, **options)

    monkeypatch.setattr(fold, "prepare", watched)
    X, y = make_numbers()
    BatchedGridSearchCV(TorchLinearRegressor(), ALPHAS, cv=3).fit(X, y)
    assert [moments.weight for moments in received] == [60.0, 60.0, 60.0]
    received.clear()
    BatchedGridSearchCV(TorchLinearRegressor(early_stopping=True), ALPHAS, cv=3).fit(X, y)
    assert received == [None] * 3
