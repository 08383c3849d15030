"""Sparse X in every method, with the numbers of the same X filled in."""

import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skorchless import (
    BatchedGridSearchCV,
    TorchLinearRegressor,
    TorchSoftmaxClassifier,
)

FORMATS = [
    getattr(scipy.sparse, f"{layout}_{kind}")
    for layout in ("csr", "csc", "coo")
    for kind in ("array", "matrix")
]
each_format = pytest.mark.parametrize("make", FORMATS, ids=lambda make: make.__name__)
TIGHT = {"tol": 1e-13, "max_iter": 3000}


def draw(Estimator, n=300, d=12, seed=0, density=0.3, n_classes=3):
    """Sparse X as a dense array, and targets that it explains in part."""
    rng = np.random.default_rng(seed)
    X = np.where(rng.random((n, d)) < density, rng.normal(1.0, 1.0, (n, d)), 0.0)
    signal = X @ rng.normal(size=(d, n_classes))
    if Estimator is TorchLinearRegressor:
        return X, signal[:, 0] + 0.3 * rng.normal(size=n) + 1.0
    return X, (signal + rng.gumbel(size=(n, n_classes))).argmax(axis=1)


@pytest.fixture
def sparse_data(Estimator):
    return draw(Estimator)


@pytest.fixture
def many_columns(monkeypatch):
    """Treat few columns as so many that second moments would not pay."""
    monkeypatch.setattr("skorchless.data.limits.MOST_DENSE_COLUMNS", 3)


def assert_same_fit(model, other, tolerance=1e-6):
    assert_allclose(model.coef_, other.coef_, rtol=0, atol=tolerance)
    assert_allclose(model.intercept_, other.intercept_, rtol=0, atol=tolerance)


@each_format
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_every_format_and_number_does(Estimator, sparse_data, make, dtype):
    X, y = sparse_data
    X = X.astype(dtype)
    model, dense = Estimator().fit(make(X), y), Estimator().fit(X, y)
    assert model.coef_.dtype == dense.coef_.dtype
    single = dtype == np.float32
    assert_same_fit(model, dense, 1e-4 if single else 1e-8)
    assert_allclose(model.predict(make(X)), dense.predict(X), rtol=1e-3 if single else 1e-7)
    assert model.predict(make(X)).dtype == dense.predict(X).dtype
    if Estimator is TorchSoftmaxClassifier:
        for method in ("decision_function", "predict_proba", "predict_log_proba"):
            found, wanted = getattr(model, method)(make(X)), getattr(dense, method)(X)
            assert_allclose(found, wanted, rtol=1e-2 if single else 1e-6, atol=1e-3)
    assert model.score(make(X), y) == pytest.approx(dense.score(X, y))


def test_indices_may_have_64_bits(Estimator, sparse_data):
    X, y = sparse_data
    narrow = scipy.sparse.csr_array(X)
    wide = narrow.copy()
    wide.indices, wide.indptr = narrow.indices.astype(np.int64), narrow.indptr.astype(np.int64)
    model, other = Estimator().fit(wide, y), Estimator().fit(narrow, y)
    assert_array_equal(model.coef_, other.coef_)
    assert_array_equal(model.predict(wide), model.predict(narrow))
    assert wide.indices.dtype == np.int64


KINDS = {
    "least squares": (TorchLinearRegressor, {}),
    "ridge": (TorchLinearRegressor, {"alpha": 0.1}),
    "lasso": (TorchLinearRegressor, {"alpha": 0.1, "l1_ratio": 1.0}),
    "huber": (TorchLinearRegressor, {"loss": "huber", "delta": 0.5, "alpha": 0.01}),
    "softmax": (TorchSoftmaxClassifier, {"alpha": 0.01}),
    "L1 softmax": (TorchSoftmaxClassifier, {"alpha": 0.01, "l1_ratio": 0.5}),
    "no intercept": (TorchSoftmaxClassifier, {"alpha": 0.01, "fit_intercept": False}),
}
RULES = {
    "auto": TIGHT,
    "sgd": {"optimizer": "sgd", "learning_rate": 0.01, "momentum": 0.9},
    "adam": {"optimizer": "adam", "learning_rate": 0.01},
    "in order": {"optimizer": "sgd", "learning_rate": 0.01, "shuffle": False},
    "full batch": {"optimizer": "adam", "learning_rate": 0.01, "batch_size": None},
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_rule_ends_where_dense_rows_end(rule, kind):
    (Estimator, parameters), of_rule = KINDS[kind], RULES[rule]
    if rule != "auto":
        of_rule = {"max_iter": 4, "tol": None, "batch_size": 32, "random_state": 0, **of_rule}
    X, y = draw(Estimator)
    weight = np.random.default_rng(1).integers(0, 3, len(y))
    model = Estimator(**parameters, **of_rule)
    sparse = model.fit(scipy.sparse.csr_array(X), y, weight)
    dense = clone(model).fit(X, y, weight)
    assert_same_fit(sparse, dense)
    assert_allclose(sparse.loss_curve_[-1], dense.loss_curve_[-1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(300, 12), (40, 60)], ids=str)
@pytest.mark.usefixtures("many_columns")
def test_without_second_moments_the_optimum_is_the_same(kind, shape):
    Estimator, parameters = KINDS[kind]
    X, y = draw(Estimator, *shape)
    if shape[0] > shape[1]:  # few rows of columns so unlike would take thousands of passes
        X *= 10.0 ** np.linspace(-1, 1, X.shape[1])
    sparse = Estimator(**parameters, **TIGHT).fit(scipy.sparse.csr_array(X), y)
    dense = Estimator(**parameters, **TIGHT).fit(X, y)
    assert sparse.loss_curve_[-1] == pytest.approx(dense.loss_curve_[-1], rel=1e-9, abs=1e-12)
    assert_allclose(sparse.predict(X), dense.predict(X), rtol=1e-4, atol=1e-5)
    if kind != "huber" and Estimator is TorchLinearRegressor:  # huber's optimum is not unique
        assert_same_fit(sparse, dense)


def test_many_columns_make_no_matrix_of_their_size(Estimator, monkeypatch):
    """Nothing with as many numbers as X has places, let alone as its second moments."""
    rng = np.random.default_rng(0)
    X = scipy.sparse.random(200, 30_000, 3e-3, format="csr", random_state=0)
    y = rng.integers(0, 3, 200) if Estimator is TorchSoftmaxClassifier else rng.normal(size=200)
    for name in ("toarray", "todense"):
        monkeypatch.setattr(scipy.sparse.csr_array, name, None)
    model = Estimator(alpha=1e-3).fit(X, y)
    assert model.coef_.shape[-1] == 30_000
    assert model.score(X, y) > 0.9


def test_few_rows_end_at_the_solution_of_least_norm():
    X, y = draw(TorchLinearRegressor, 30, 2000, density=0.05)
    model = TorchLinearRegressor().fit(scipy.sparse.csr_array(X), y)
    centred = X - X.mean(axis=0)
    wanted = np.linalg.lstsq(centred, y - y.mean(), rcond=None)[0]
    assert_allclose(model.coef_, wanted, atol=1e-6)


@pytest.mark.parametrize("shape", [(60, 60), (40, 100)], ids=str)
def test_few_rows_of_unlike_lengths_take_few_passes(shape):
    X, y = draw(TorchLinearRegressor, *shape)
    X = X * np.geomspace(1e-3, 1e3, len(X))[:, None]
    model = TorchLinearRegressor(alpha=0.01)
    sparse, dense = (clone(model).fit(rows, y) for rows in (scipy.sparse.csr_array(X), X))
    assert sparse.n_iter_ <= dense.n_iter_ + 2
    assert_same_fit(sparse, dense, 1e-6)


@pytest.mark.usefixtures("many_columns")
def test_scikit_learn_finds_the_same(Estimator, sparse_data):
    X, y = sparse_data
    model = Estimator(alpha=0.01, **TIGHT).fit(scipy.sparse.csr_array(X), y)
    strength = 0.01 * len(y)
    if Estimator is TorchLinearRegressor:
        peer = Ridge(strength, solver="sparse_cg", tol=1e-12).fit(scipy.sparse.csr_array(X), y)
    else:
        peer = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=1000).fit(X, y)
    assert_allclose(model.coef_, peer.coef_, atol=1e-5)


def test_progress_that_is_slow_is_not_taken_for_the_end():
    """Rows of very unlike lengths: after 900 passes there are five percent left to gain."""
    rng = np.random.default_rng(0)
    lengths = scipy.sparse.diags(10.0 ** rng.uniform(-3, 3, 400))
    rows = scipy.sparse.random(400, 1200, 0.05, random_state=0, data_rvs=rng.standard_normal)
    X = scipy.sparse.csr_array(lengths @ rows)
    y = (X.sign() @ rng.normal(size=(1200, 2)) + rng.gumbel(size=(400, 2))).argmax(axis=1)
    with pytest.warns(ConvergenceWarning, match="max_iter=1000"):
        TorchSoftmaxClassifier().fit(X, y)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_rare_columns_need_no_rate_of_their_own(Estimator, optimizer):
    """Words as they come: a few all the time, most of them hardly ever."""
    rng = np.random.default_rng(0)
    n, d, words = 1000, 1500, 30
    frequency = (1.0 + np.arange(d)) ** -0.75
    columns = rng.choice(d, n * words, p=frequency / frequency.sum())
    X = scipy.sparse.csr_array((np.ones(n * words), columns, np.arange(0, n * words + 1, words)))
    signal = 0.3 * (X @ rng.normal(size=(X.shape[1], 3)))
    if Estimator is TorchLinearRegressor:
        y = signal[:, 0] + 0.3 * rng.normal(size=n)
    else:
        y = (signal + rng.gumbel(size=(n, 3))).argmax(axis=1)
    best = Estimator(alpha=1e-2).fit(X, y).loss_curve_
    model = Estimator(optimizer=optimizer, alpha=1e-2, max_iter=200, random_state=0).fit(X, y)
    assert model.loss_curve_[-1] - best[-1] < 0.02 * (best[0] - best[-1])


@pytest.mark.parametrize("optimizer", ["auto", "sgd"])
def test_passes_over_raw_parts_need_no_rate(Estimator, sparse_data, optimizer):
    X, y = sparse_data
    X = X * 10.0 ** np.linspace(-2, 2, X.shape[1])
    model = Estimator(optimizer=optimizer, random_state=0)
    first = {"classes": np.unique(y)} if Estimator is TorchSoftmaxClassifier else {}
    for part in np.array_split(np.arange(len(y)), 3) * 20:
        model.partial_fit(scipy.sparse.csr_matrix(X[part]), y[part], **first)
    assert model.score(X, y) > 0.95 * Estimator().fit(X, y).score(X, y)


@pytest.mark.parametrize("optimizer", ["auto", "sgd"])
def test_rows_that_come_one_by_one_tell_what_is_rare(Estimator, optimizer):
    """Where the row at hand is all that there is, every column that it stores is frequent."""
    rng = np.random.default_rng(0)
    n, d = 250, 100
    X = scipy.sparse.csr_array((rng.random((n, d)) < 0.9 / np.arange(1, d + 1)).astype(float))
    signal, first = X @ rng.normal(size=d), {}
    y = signal + rng.normal(size=n)
    if Estimator is TorchSoftmaxClassifier:
        y, first = (y > y.mean()).astype(int), {"classes": [0, 1]}
    model = Estimator(optimizer=optimizer, random_state=0)
    for row in range(n):
        part = slice(row, row + 1)
        model.partial_fit(X[part] if row % 10 else X[part].toarray(), y[part], **first)
    assert model.score(X, y) > (0.1 if Estimator is TorchLinearRegressor else 0.6)


@pytest.mark.parametrize("optimizer", ["auto", "sgd"])
def test_partial_fit_takes_it(Estimator, sparse_data, optimizer):
    X, y = sparse_data
    sparse, dense = (
        Estimator(optimizer=optimizer, learning_rate=0.01, random_state=0) for _ in range(2)
    )
    first = {"classes": np.unique(y)} if Estimator is TorchSoftmaxClassifier else {}
    for part in np.array_split(np.arange(len(y)), 3):
        sparse.partial_fit(scipy.sparse.csr_matrix(X[part]), y[part], **first)
        dense.partial_fit(X[part], y[part], **first)
    assert_same_fit(sparse, dense)


@pytest.mark.parametrize("optimizer", ["auto", "adam"])
def test_it_is_validated_on(Estimator, sparse_data, optimizer):
    X, y = sparse_data
    rate = "auto" if optimizer == "auto" else 0.01
    make = scipy.sparse.csc_array
    model = Estimator(optimizer=optimizer, learning_rate=rate, random_state=0, max_iter=9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        early = model.set_params(early_stopping=True)
        sparse, dense = clone(early).fit(make(X), y), clone(early).fit(X, y)
        assert_same_fit(sparse, dense)
        assert_allclose(sparse.validation_loss_curve_, dense.validation_loss_curve_)
        sparse, dense = (
            clone(early).fit(rows(X[60:]), y[60:], X_val=rows(X[:60]), y_val=y[:60])
            for rows in (make, np.asarray)
        )
    assert_same_fit(sparse, dense)
    assert_allclose(sparse.validation_loss_curve_, dense.validation_loss_curve_)


@pytest.mark.parametrize("optimizer", ["auto", "sgd", "adam"])
@pytest.mark.parametrize("weighted", [True, False])
def test_a_column_of_one_number_learns_nothing(Estimator, optimizer, weighted):
    X, y = draw(Estimator, n=2000)
    X[:, [2, 5]] = 0.1, 1e3 / 7
    weight = np.random.default_rng(1).random(len(X)) if weighted else None
    model = Estimator(optimizer=optimizer, max_iter=20, tol=None, random_state=0)
    coef = model.fit(scipy.sparse.csr_array(X), y, weight).coef_
    assert_array_equal(coef[..., [2, 5]], 0.0)
    assert np.abs(coef).max() < 100.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_refused(Estimator, sparse_data, bad):
    X, y = sparse_data
    X[3, 4] = bad
    words = r"Input X contains (NaN|infinity or a value too large)"
    with pytest.raises(ValueError, match=words):
        Estimator().fit(scipy.sparse.csr_matrix(X), y)


def test_order_and_duplicates_do_not_matter_and_stay_with_the_user(Estimator, sparse_data):
    X, y = sparse_data
    plain = scipy.sparse.csr_matrix(X)
    twice = scipy.sparse.csr_matrix(
        (
            np.repeat(plain.data, 2)[::-1] / 2,
            np.repeat(plain.indices, 2)[::-1],
            2 * (plain.nnz - plain.indptr[::-1]),
        ),
        shape=plain.shape,
    )
    for array in (twice.data, twice.indices, twice.indptr):
        array.flags.writeable = False
    assert twice.nnz == 2 * plain.nnz and not twice.has_sorted_indices
    assert_same_fit(Estimator().fit(twice, y), Estimator().fit(plain[::-1], y), 1e-12)
    assert twice.nnz == 2 * plain.nnz and not twice.has_sorted_indices


@pytest.mark.parametrize(
    "grid",
    [
        {"alpha": np.logspace(-4, 0, 5)},
        {"alpha": [0.01, 0.1], "l1_ratio": [0.2, 0.8]},
        {"optimizer": ["sgd"], "learning_rate": [0.01, 0.05], "max_iter": [3], "tol": [None]},
    ],
    ids=lambda grid: "-".join(grid),
)
@pytest.mark.parametrize("return_train_score", [True, False])
def test_searches_take_it(Estimator, sparse_data, grid, return_train_score):
    X, y = sparse_data
    model = Estimator(random_state=0, tol=1e-10)
    options = {"cv": 3, "return_train_score": return_train_score}
    ours = BatchedGridSearchCV(model, grid, **options).fit(scipy.sparse.csc_matrix(X), y)
    theirs = GridSearchCV(model, grid, **options).fit(X, y)
    for name in ("test", "train")[: 1 + return_train_score]:
        name = f"mean_{name}_score"
        assert_allclose(ours.cv_results_[name], theirs.cv_results_[name], atol=1e-6)
    assert_same_fit(ours.best_estimator_, theirs.best_estimator_)


def test_text_goes_through_a_pipeline():
    topics = ["sun moon star sky", "bread salt flour oven", "goal ball team pitch"]
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=120)
    texts = [" ".join(rng.choice(topics[k].split(), 6)) for k in y]
    grid = {
        "torchsoftmaxclassifier__alpha": [1e-4, 1e-2],
        "tfidfvectorizer__use_idf": [True, False],
    }
    pipeline = make_pipeline(TfidfVectorizer(), TorchSoftmaxClassifier())
    search = BatchedGridSearchCV(pipeline, grid, cv=3, scoring="neg_log_loss").fit(texts, y)
    theirs = GridSearchCV(pipeline, grid, cv=3, scoring="neg_log_loss").fit(texts, y)
    scores = [s.cv_results_["mean_test_score"] for s in (search, theirs)]
    assert_allclose(*scores, atol=1e-3)
    assert search.score(texts, y) > -0.1


@pytest.mark.parametrize("optimizer", ["auto", "sgd"])
def test_global_settings_of_torch_change_nothing(Estimator, sparse_data, optimizer, many_columns):
    X, y = sparse_data
    X, model = scipy.sparse.csr_array(X), Estimator(optimizer=optimizer, max_iter=9, tol=None)
    wanted = model.set_params(random_state=0).fit(X, y).coef_
    with torch.device("meta"):
        assert_array_equal(model.fit(X, y).coef_, wanted)


def test_tags_say_so(Estimator):
    assert Estimator().__sklearn_tags__().input_tags.sparse
