"""Sparse X whose index arrays point outside it, as a file of somebody else's may hold them."""

import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from skorchless import (
    BatchedGridSearchCV,
    BatchedRandomizedSearchCV,
    TorchLinearRegressor,
    TorchSoftmaxClassifier,
)
from skorchless.estimators.checks import check_indices

N, D = 40, 6
METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function")


def draw(layout="csr", index=np.int32):
    """Sparse rows with a number in every row and column, and targets of two classes."""
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((N, D)) < 0.4, rng.normal(size=(N, D)), 0.0)
    dense[:, 0] = np.where(np.arange(N) % 2, 1.0, -1.0)
    X = getattr(scipy.sparse, f"{layout}_array")(dense)
    for name in ("indices", "indptr", "row", "col"):
        if hasattr(X, name) and layout != "coo":
            setattr(X, name, getattr(X, name).astype(index))
    return X, (np.arange(N) % 2).astype(float)


def spoil(X, name, place, value):
    """The same with another number in an index array, as whoever loads a file leaves it."""
    if X.format == "coo":
        parts = [part.copy() for part in X.coords]
        parts[("row", "col").index(name)][place] = value
        X.coords = tuple(parts)
        return X
    part = getattr(X, name).copy()
    part[place] = value
    setattr(X, name, part)
    return X


FAR = 2**31 - 2
FAULTS = {
    "an index beyond the columns": ("csr", "indices", 3, D),
    "an index far beyond the columns": ("csr", "indices", 3, FAR),
    "a negative index": ("csr", "indices", 3, -1),
    "a very negative index": ("csr", "indices", 0, -FAR),
    "rows that end before they begin": ("csr", "indptr", 7, 0),
    "rows beyond the data": ("csr", "indptr", -1, 100_000),
    "a row in the middle beyond the data": ("csr", "indptr", 7, FAR),
    "a first row before the data": ("csr", "indptr", 0, -5),
    "a first row that begins late": ("csr", "indptr", 0, 1),
    "an index beyond the rows": ("csc", "indices", 3, FAR),
    "a negative index of a row": ("csc", "indices", 3, -FAR),
    "columns beyond the data": ("csc", "indptr", -1, FAR),
    "a column index beyond the columns": ("coo", "col", 3, FAR),
    "a negative row": ("coo", "row", 3, -FAR),
    "a block beyond the columns": ("bsr", "indices", 3, FAR),
}
each_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)


def spoiled(fault, index=np.int32):
    layout, name, place, value = fault
    X, y = draw(layout, index)
    return spoil(X, name, place, value), y


def refusing():
    return pytest.raises(ValueError, match=r"X is not a valid sparse (matrix|array)")


@each_fault
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_every_method_refuses_it(Estimator, fault, index):
    good, y = draw(fault[0])
    bad, _ = spoiled(fault, index)
    model = Estimator().fit(good, y)
    before = {name: np.copy(value) for name, value in vars(model).items() if name.endswith("_")}
    for method in METHODS:
        if hasattr(model, method):
            with refusing():
                getattr(model, method)(bad)
    with refusing():
        model.score(bad, y)
    with refusing():
        model.fit(bad, y)
    with refusing():
        model.partial_fit(bad, y)
    with refusing():
        model.fit(good, y, X_val=bad, y_val=y)
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(model, name), value)


@each_fault
@pytest.mark.parametrize("Search", [BatchedGridSearchCV, BatchedRandomizedSearchCV])
def test_searches_refuse_it_before_they_split_it(Estimator, Search, fault):
    bad, y = spoiled(fault)
    options = {} if Search is BatchedGridSearchCV else {"n_iter": 2}
    for estimator, name in (
        (Estimator(), "alpha"),
        (make_pipeline(MaxAbsScaler(), Estimator()), f"{Estimator.__name__.lower()}__alpha"),
    ):
        search = Search(estimator, {name: [1e-3, 1e-1]}, cv=2, **options)
        with refusing():
            search.fit(bad, y)


def test_a_search_refuses_it_when_it_predicts():
    good, y = draw()
    bad, _ = spoiled(FAULTS["an index beyond the columns"])
    search = BatchedGridSearchCV(TorchLinearRegressor(), {"alpha": [1e-3, 1e-1]}, cv=2)
    search.fit(good, y)
    for method in (search.predict, lambda X: search.score(X, y)):
        with refusing():
            method(bad)


@pytest.mark.parametrize("name", ["indices", "indptr"])
@pytest.mark.parametrize(
    "change",
    [lambda part: part[:-1], lambda part: part.astype(float), lambda part: part.reshape(1, -1)],
    ids=["too short", "of fractions", "of two dimensions"],
)
def test_index_arrays_of_another_kind_are_refused(Estimator, name, change):
    X, y = draw()
    setattr(X, name, change(getattr(X, name)))
    with refusing():
        Estimator().fit(X, y)


def test_data_shorter_than_its_indices_is_refused(Estimator):
    X, y = draw()
    X.data = X.data[:-3]
    with refusing():
        Estimator().fit(X, y)


def test_the_message_says_what_points_where():
    bad, y = spoiled(FAULTS["an index beyond the columns"])
    with pytest.raises(ValueError, match=r"indices must be < 6.* may come from a"):
        TorchLinearRegressor().fit(bad, y)


@pytest.mark.parametrize("layout", ["csr", "csc", "coo", "bsr", "lil", "dok", "dia"])
def test_what_is_sound_is_left_as_it_is(layout):
    X, _ = draw(layout)
    before = {name: np.copy(value) for name, value in vars(X).items() if name != "_shape"}
    check_indices(X)
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(X, name), value)


def test_numbers_behind_the_last_row_stay(Estimator):
    """SciPy's own check cuts them off, in the user's arrays."""
    X, y = draw()
    wanted = Estimator().fit(X, y).coef_
    X.data, X.indices = np.append(X.data, 9.0), np.append(X.indices, 0)
    data, indices = X.data, X.indices
    np.testing.assert_array_equal(Estimator().fit(X, y).coef_, wanted)
    assert X.data is data and X.indices is indices


def test_matrices_without_numbers_or_rows_are_sound():
    for shape in ((3, 4), (0, 4), (3, 0)):
        check_indices(scipy.sparse.csr_array(shape))


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_sparse_tensors_are_refused_before_they_are_read(layout):
    good, y = draw()
    model = TorchSoftmaxClassifier().fit(good, y)
    parts = [torch.tensor([0, 1, 2]), torch.tensor([9, 10**6]), torch.ones(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if layout is torch.sparse_coo:
            index = torch.tensor([[0, 1], [9, 10**6]])
            bad = torch.sparse_coo_tensor(index, parts[2], (2, D), check_invariants=False)
        else:
            shape = (2, D) if layout is torch.sparse_csr else (D, 2)
            make = torch.sparse_compressed_tensor
            bad = make(*parts, shape, layout=layout, check_invariants=False)
    for method in (*(getattr(model, name) for name in METHODS), lambda X: model.fit(X, y[:2])):
        with pytest.raises(TypeError, match="sparse tensor was passed for X"):
            method(bad)
