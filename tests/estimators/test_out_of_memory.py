"""Who runs out of memory is told how much was asked for and what helps; the model is as before."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from skorchless import BatchedGridSearchCV, TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.estimators import evaluation, problem

#: More bytes than a process can address.
BEYOND = 2**50


def cuda(*_, **__):
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 8 GiB."
    )


SHORTAGES = {
    "torch": (lambda *_, **__: torch.empty(BEYOND, dtype=torch.float64), "8.39e+06 GiB"),
    "NumPy": (lambda *_, **__: np.empty(BEYOND), "8.00 PiB"),
    "CUDA": (cuda, "20.00 GiB"),
}


def data_of(Estimator):
    X = np.random.default_rng(0).normal(size=(40, 3))
    y = X @ [1.0, 2.0, 3.0]
    return X, y if Estimator is TorchLinearRegressor else np.digitize(y, [-1, 1])


@pytest.fixture(params=SHORTAGES)
def shortage(request):
    return SHORTAGES[request.param]


def told(call, size):
    with pytest.raises(MemoryError) as caught:
        call()
    message = str(caught.value)
    for words in (f"{size} were asked for", "float32", "memory map", "batch_size"):
        assert words in message


def test_in_fits_and_passes(Estimator, monkeypatch, shortage):
    X, y = data_of(Estimator)
    allocate, size = shortage
    model = Estimator(optimizer="adam", learning_rate=0.1, max_iter=2, tol=None).fit(X, y)
    new, before = Estimator(), dict(vars(model))
    classes = {} if Estimator is TorchLinearRegressor else {"classes": [0, 1, 2]}
    monkeypatch.setattr(problem, "make_loader", allocate)
    told(lambda: model.fit(X, y), size)
    told(lambda: model.partial_fit(X, y), size)
    assert vars(model) == before
    told(lambda: new.fit(X, y), size)
    told(lambda: new.partial_fit(X, y, **classes), size)
    assert vars(new) == vars(Estimator())


def test_in_predictions(Estimator, monkeypatch, shortage):
    X, y = data_of(Estimator)
    allocate, size = shortage
    model = Estimator().fit(X, y)
    monkeypatch.setattr(evaluation.RawPredictor, "keep_in_range", allocate)
    for rows in (X, torch.from_numpy(X)):
        told(lambda rows=rows: model.predict(rows), size)
        told(lambda rows=rows: model.score(rows, y), size)


def test_in_probabilities_of_tensors(monkeypatch, shortage):
    X, y = data_of(TorchSoftmaxClassifier)
    allocate, size = shortage
    model = TorchSoftmaxClassifier().fit(X, y)
    monkeypatch.setattr(torch, "log_softmax", allocate)
    told(lambda: model.predict_proba(torch.from_numpy(X)), size)


@pytest.mark.parametrize("where", ["make_loader", "Comoments"])
def test_in_searches(Estimator, monkeypatch, shortage, where):
    X, y = data_of(Estimator)
    allocate, size = shortage
    if where == "make_loader":
        monkeypatch.setattr(problem, "make_loader", allocate)
    else:
        monkeypatch.setattr("skorchless.model_selection.moments.FoldMoments._of_parts", allocate)
    grid = {"alpha": [0.1, 1.0]}
    max_iter = 50 if where == "make_loader" else 1000  # so few are not left to second moments
    model = Estimator(l1_ratio=0.5, max_iter=max_iter)
    search = BatchedGridSearchCV(model, grid, cv=2, error_score="raise")
    if where == "make_loader":
        told(lambda: search.fit(X, y), size)
        assert not hasattr(search, "cv_results_")
    else:  # each fold finds out for itself
        search.set_params(estimator__l1_ratio=0.0).fit(X, y)


def test_predictions_of_all_candidates_give_way_to_those_of_each(Estimator, monkeypatch, shortage):
    X, y = data_of(Estimator)
    grid = {"alpha": [0.1, 1.0]}
    model = Estimator(max_iter=50)  # so few are not left to second moments
    wanted = BatchedGridSearchCV(model, grid, cv=2, refit=False).fit(X, y)
    monkeypatch.setattr("skorchless.estimators.batched.raw_predictions", shortage[0])
    found = BatchedGridSearchCV(model, grid, cv=2, refit=False).fit(X, y)
    name = "mean_test_score"
    assert_array_equal(found.cv_results_[name], wanted.cv_results_[name])


def test_where_nobody_has_so_much():
    """Coefficients and predictions of more bytes than can be addressed."""
    rows, columns = np.ones((2, 2**23), dtype=np.float32), np.ones((2**23, 2), dtype=np.float32)
    model = TorchLinearRegressor()
    told(lambda: model.fit(rows, rows), "256. TiB")
    assert vars(model) == vars(TorchLinearRegressor())
    model.coef_, model.intercept_ = columns, np.zeros(2**23, dtype=np.float32)
    told(lambda: model.predict(columns), "256. TiB")
    told(lambda: model.predict(torch.from_numpy(columns)), "2.62e+05 GiB")
