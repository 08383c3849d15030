"""What a search prints, and what it says of parameters that make no sense."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from searches import make_classes, make_numbers
from sklearn.model_selection import GridSearchCV

from skorchless import (
    BatchedGridSearchCV,
    BatchedRandomizedSearchCV,
    TorchLinearRegressor,
    TorchSoftmaxClassifier,
)

GRID = {"learning_rate": [0.01, 0.1], "alpha": [0.0, 0.5]}


@pytest.mark.parametrize("verbose", [0, 1, 3])
def test_a_search_says_how_many_fits_there_are_as_grid_search_does(capsys, sgd, verbose):
    def printed(Search, verbose):
        Search(sgd, GRID, cv=2, refit=False, verbose=verbose).fit(*make_classes())
        return capsys.readouterr().out

    theirs = printed(GridSearchCV, min(verbose, 1))
    assert printed(BatchedGridSearchCV, verbose) == theirs


@pytest.mark.parametrize("name", ["max_iter", "alpha", "l1_ratio", "tol", "optimizer", "delta"])
def test_a_bad_parameter_of_all_candidates_is_named(name):
    X, y = make_numbers(n=20)
    grid = {"delta": [0.1, 0.2]} if name == "alpha" else {"alpha": [0.1, 0.2]}
    grid = {"momentum": [0.1, 0.2]} if name == "delta" else grid
    for bad in [[1], "many", 10**400, np.ones(2), *([] if name == "tol" else [None])]:
        model = TorchLinearRegressor(**{name: bad})
        with pytest.raises(ValueError, match=f"'{name}' parameter of TorchLinearRegressor must be"):
            BatchedGridSearchCV(model, grid, cv=2, error_score="raise").fit(X, y)


def test_sparse_targets_are_refused_by_name():
    search = BatchedGridSearchCV(TorchSoftmaxClassifier(), {"alpha": [0.1, 1.0]})
    with pytest.raises(TypeError, match="Sparse data was passed for y"):
        search.fit(np.eye(4), csr_array([[0], [1], [0], [1]]))


@pytest.mark.parametrize("Search", [BatchedGridSearchCV, BatchedRandomizedSearchCV])
def test_a_missing_argument_is_told_by_the_public_class(Search):
    class Own(Search):
        """A subclass without a fit of its own."""

    for made in (Search, Own):
        with pytest.raises(TypeError, match=rf"^{Search.__name__}\.fit\(\) missing .* 'X'"):
            made(TorchSoftmaxClassifier(), GRID).fit()
