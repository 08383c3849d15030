"""What a search prints is what GridSearchCV prints, apart from the times."""

import re

import numpy as np
import pytest
from scipy.sparse import csr_array
from searches import make_classes, make_numbers
from sklearn.model_selection import GridSearchCV

from skorchless import BatchedGridSearchCV, TorchLinearRegressor, TorchSoftmaxClassifier

GRID = {"learning_rate": [0.01, 0.1], "alpha": [0.0, 0.5]}


def lines_of(Search, capsys, sgd, verbose, **options):
    Search(sgd, GRID, cv=2, refit=False, verbose=verbose, **options).fit(*make_classes())
    printed = capsys.readouterr().out
    without_times = re.sub(r"\.* ?(\S.*)?total time=.*", r"\1", printed)
    return sorted(without_times.splitlines())


@pytest.mark.parametrize("verbose", [0, 1, 2, 3, 10])
@pytest.mark.parametrize(
    "options",
    [{}, {"return_train_score": True}, {"scoring": ["accuracy", "neg_log_loss"]}],
    ids=["one score", "train scores", "two scores"],
)
def test_lines_are_grid_searchs(capsys, sgd, verbose, options):
    ours = lines_of(BatchedGridSearchCV, capsys, sgd, verbose, **options)
    theirs = lines_of(GridSearchCV, capsys, sgd, verbose, **options)
    # it also says when a fit begins, which for us is when all do
    theirs = [line for line in theirs if "START" not in line]
    assert ours == theirs


def test_lines_are_as_wide_as_a_terminal(capsys, sgd):
    BatchedGridSearchCV(sgd, GRID, cv=2, refit=False, verbose=2).fit(*make_classes())
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 8
    assert {len(line) for line in lines} == {80}


BAD = [[1], "many", None, 10**400, np.ones(2)]
BAD_PARAMETERS = [
    (name, bad)
    for name in ("max_iter", "alpha", "l1_ratio", "tol", "optimizer", "delta")
    for bad in BAD
    if not (name == "tol" and bad is None)
]


@pytest.mark.parametrize(("name", "bad"), BAD_PARAMETERS, ids=str)
def test_a_bad_parameter_of_all_candidates_is_named(name, bad):
    X, y = make_numbers(n=20)
    grid = {"delta": [0.1, 0.2]} if name == "alpha" else {"alpha": [0.1, 0.2]}
    grid = {"momentum": [0.1, 0.2]} if name == "delta" else grid
    model = TorchLinearRegressor(**{name: bad})
    with pytest.raises(ValueError, match=f"'{name}' parameter of TorchLinearRegressor must be"):
        BatchedGridSearchCV(model, grid, cv=2, error_score="raise").fit(X, y)


def test_sparse_targets_are_refused_by_name():
    search = BatchedGridSearchCV(TorchSoftmaxClassifier(), {"alpha": [0.1, 1.0]})
    with pytest.raises(TypeError, match="Sparse data was passed for y"):
        search.fit(np.eye(4), csr_array([[0], [1], [0], [1]]))
