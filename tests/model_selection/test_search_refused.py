"""What a search cannot split is refused by name, in every argument of fit."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array
from searches import make_classes
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold

from skorchless import (
    BatchedGridSearchCV,
    BatchedRandomizedSearchCV,
    TorchLinearRegressor,
    TorchSoftmaxClassifier,
)

N = 12


def sparse_tensor():
    return torch.eye(N).to_sparse()


def nested_tensor():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of a prototype
        return torch.nested.nested_tensor([torch.ones(1)] * N)


# No array, or none with a row for each of X's.
NO_ROWS = {
    "a short dictionary": {0: 1},
    "a dictionary": dict(enumerate(range(N))),
    "a set": set(range(N)),
    "a generator": (i for i in range(N)),
    "an object": object(),
    "a class": int,
    "a number": 3.5,
    "a word": "w" * N,
    "an array of no dimensions": np.array(1),
    "a list of no rows": [],
    "too few": np.arange(N - 1) % 2,
    "ragged": [[1], [1, 2]] * (N // 2),
    "three dimensions": np.ones((N, 1, 1)),
    "no columns": np.ones((N, 0)),
    "objects": np.array([object() for _ in range(N)]),
    "complex": np.ones(N) * 1j,
    "sparse tensor": sparse_tensor(),
    "meta tensor": torch.ones(N, device="meta"),
    "nested tensor": nested_tensor(),
}
# What nobody can sort into classes or groups.
NO_NAMES = {
    "numbers and words": np.array(["a", 1] * (N // 2), dtype=object),
    "words and None": ["a", None] * (N // 2),
    "None": np.array([None] * N),
    "a categorical with a gap": pd.Series(pd.Categorical(["a", None] * (N // 2))),
    "an integer with a gap": pd.Series([1, pd.NA] * (N // 2)),
    "tuples": np.array([("a", 1)] * N + [0], dtype=object)[:-1],
}
# Sound elsewhere, but no labels and no groups.
COLUMNS = {"columns": np.eye(N)[:, :3].astype(int), "lists": [[1, 2]] * N}

each_estimator = pytest.mark.parametrize(
    "Estimator", [TorchLinearRegressor, TorchSoftmaxClassifier]
)
SPLITTERS = [2, KFold(2), StratifiedKFold(2)]


def refused(name, value, Estimator=TorchSoftmaxClassifier, cv=2, Search=BatchedGridSearchCV):
    X, y = make_classes(n=N)
    arguments = {"X": X, "y": y % 2, name: value}
    search = Search(Estimator(max_iter=2), {"alpha": [0.1, 1.0]}, cv=cv, error_score="raise")
    if Search is BatchedRandomizedSearchCV:
        search.n_iter = 1
    before = dict(vars(search))
    with (
        warnings.catch_warnings(),
        pytest.raises((ValueError, TypeError), match=rf"\b{name}\b") as caught,
    ):
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.fit(**arguments)
    assert vars(search).keys() - before.keys() <= {"n_splits_"}
    return str(caught.value)


@each_estimator
@pytest.mark.parametrize("kind", NO_ROWS)
@pytest.mark.parametrize("name", ["X", "y"])
def test_what_has_no_rows(Estimator, name, kind):
    for cv in SPLITTERS:
        refused(name, NO_ROWS[kind], Estimator, cv)


@each_estimator
@pytest.mark.parametrize(
    "X", [np.empty((0, 2)), [], torch.empty(0, 2), csr_array((0, 2)), pd.DataFrame({"a": []})]
)
def test_no_rows_at_all(Estimator, X):
    for cv in SPLITTERS:
        search = BatchedGridSearchCV(Estimator(), {"alpha": [0.1, 1.0]}, cv=cv)
        with pytest.raises(ValueError, match="X has no samples"):
            search.fit(X, [])


@each_estimator
@pytest.mark.parametrize("kind", NO_ROWS)
def test_weights_that_are_none(Estimator, kind):
    if kind not in ("a number", "an object", "a class", "an array of no dimensions"):
        refused("sample_weight", NO_ROWS[kind], Estimator)


@pytest.mark.parametrize("kind", [*NO_NAMES, *COLUMNS])
@pytest.mark.parametrize("Search", [BatchedGridSearchCV, BatchedRandomizedSearchCV])
def test_labels_that_are_none(Search, kind):
    for cv in SPLITTERS:
        refused("y", (NO_NAMES | COLUMNS)[kind], cv=cv, Search=Search)


def test_the_words_are_the_estimators():
    assert "Labels must be of one kind" in refused("y", NO_NAMES["numbers and words"])
    assert "Leave out the rows" in refused("y", NO_NAMES["words and None"])
    assert re.search(r"samples: \[12, 11\]", refused("y", np.arange(N - 1) % 2))


def test_what_is_sound_keeps_the_splitters_own_words():
    X, y = make_classes(n=N)

    class OwnError(ValueError):
        pass

    class Own(KFold):
        def split(self, X, y=None, groups=None):
            raise OwnError("no way")

    for cv, error, words in (
        (Own(2), OwnError, "no way"),
        (13, ValueError, "n_splits=13"),
        (GroupKFold(2), ValueError, "'groups' parameter"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            BatchedGridSearchCV(TorchSoftmaxClassifier(), {"alpha": [0.1]}, cv=cv).fit(X, y)
        assert type(caught.value) is error


def test_groups_may_be_a_tensor_with_a_gradient():
    X, y = make_classes()
    groups = torch.arange(90.0) % 3
    wanted, found = (
        BatchedGridSearchCV(TorchSoftmaxClassifier(), {"alpha": [0.1, 1.0]}, cv=GroupKFold(3))
        .fit(X, y, groups=some)
        .cv_results_["mean_test_score"]
        for some in (groups.numpy(), groups.clone().requires_grad_())
    )
    assert (wanted == found).all()


def test_fits_that_fail_for_some_rows_are_left_to_error_score():
    X, y = make_classes()
    X[3] = np.nan
    search = BatchedGridSearchCV(TorchSoftmaxClassifier(), {"alpha": [0.1]}, cv=3, refit=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        search.fit(X, y)
    failed = [str(one.message) for one in caught if one.category is FitFailedWarning]
    assert len(failed) == 1 and "Input X contains NaN" in failed[0]
