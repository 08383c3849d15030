"""A matrix too large to be copied: memory maps, arrays, and how much of them is copied."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed
from large import mapped
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from skorchless import BatchedGridSearchCV, TorchSoftmaxClassifier
from skorchless.data import LargeMatrix

WAYS = {
    "auto": {"tol": 1e-10},
    "auto, early stopping": {"early_stopping": True, "max_iter": 20, "tol": None},
    "l1": {"alpha": 0.01, "l1_ratio": 1.0, "tol": 1e-8},
    "sgd": {"optimizer": "sgd", "batch_size": 32, "max_iter": 3, "tol": None},
    "sgd, in order": {"optimizer": "sgd", "shuffle": False, "max_iter": 3, "tol": None},
    "adam, early stopping": {
        "optimizer": "adam",
        "learning_rate": 0.01,
        "early_stopping": True,
        "max_iter": 3,
        "tol": None,
    },
}
ways = pytest.mark.parametrize("way", WAYS)
large = pytest.mark.usefixtures("everything_is_large")


@pytest.fixture
def make(Estimator):
    return lambda way: Estimator(random_state=0, **WAYS[way])


@large
@ways
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_a_map_is_trained_on_as_an_array_is(make, way, weighted, make_data, tmp_path):
    X, y = make_data(n=600, d=5)
    weight = np.arange(600) % 3 if weighted else None
    array = make(way).fit(X, y, weight)
    on_disk = make(way).fit(mapped(X, tmp_path), y, weight)
    assert_array_equal(on_disk.coef_, array.coef_)
    assert_array_equal(on_disk.loss_curve_, array.loss_curve_)
    assert_array_equal(on_disk.predict(mapped(X, tmp_path)), array.predict(X))


@large
@pytest.mark.parametrize("way", ["auto", "auto, early stopping", "l1"])
def test_what_needs_no_order_ends_where_it_does_in_memory(make, way, make_data, monkeypatch):
    X, y = make_data(n=600, d=5)
    model = make(way).fit(X, y)
    monkeypatch.setattr("skorchless.data.limits.LARGE_BYTES", 2**40)
    assert_allclose(model.coef_, make(way).fit(X, y).coef_, rtol=1e-5, atol=1e-6)


@large
@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float16, np.float32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_files_are_converted_as_they_are_read(make, dtype, order, make_data, tmp_path):
    X, y = make_data(n=600, d=5)
    X = (20 * X + 100).clip(0, 250).astype(dtype)
    model = make("auto").fit(mapped(X, tmp_path, order), y)
    wide = X.astype(np.float32 if dtype in (np.float16, np.float32) else np.float64)
    expected = make("auto").fit(wide, y)
    assert model.coef_.dtype == expected.coef_.dtype == wide.dtype
    tight = 1e-3 if wide.dtype == np.float32 else 1e-6
    assert_allclose(model.coef_, expected.coef_, rtol=tight, atol=tight)
    predicted = model.predict(mapped(X, tmp_path, order))
    assert predicted.dtype == model.predict(wide).dtype
    assert_allclose(
        predicted.astype(float),
        model.predict(wide).astype(float),
        rtol=1e-5,
        atol=1e-5 if wide.dtype == np.float32 else 0.0,
    )


@large
def test_results_do_not_depend_on_how_joblib_hands_arrays_on(make, make_data, tmp_path):
    X, y = make_data(n=600, d=5)
    here = make("sgd").fit(X, y)
    jobs = Parallel(n_jobs=1, max_nbytes=1, temp_folder=tmp_path)(
        delayed(clone(here).fit)(some, y) for some in (X, mapped(X, tmp_path, mode="r+"))
    )
    for model in jobs:
        assert_array_equal(model.coef_, here.coef_)


@pytest.fixture
def what_is_not_filled_is_nan(monkeypatch):
    """Memory that torch and NumPy would leave as it was."""

    def empty(*arguments, **options):
        array = ordinary(*arguments, **options)
        if array.dtype.kind == "f":
            array.fill(np.nan)
        return array

    ordinary = np.empty
    monkeypatch.setattr(np, "empty", empty)
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@large
@ways
def test_what_has_not_been_read_is_not_used(make, way, make_data, tmp_path, request):
    X, y = make_data(n=600, d=5)
    X = mapped(X, tmp_path)
    model = make(way).fit(X, y)
    answers = model.predict(X)
    request.getfixturevalue("what_is_not_filled_is_nan")
    again = make(way).fit(X, y)
    assert_array_equal(again.coef_, model.coef_)
    assert_array_equal(again.predict(X), answers)


@large
@pytest.mark.parametrize("where", [3, 599])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_in_the_same_words(make, where, value, make_data, tmp_path):
    X, y = make_data(n=600, d=5)
    good = make("auto").fit(X, y)
    X[where, 2] = value
    kind = "NaN" if np.isnan(value) else "infinity or a value too large"
    for call in (lambda X: make("auto").fit(X, y), good.predict):
        for some in (mapped(X, tmp_path), torch.from_numpy(X)):
            with pytest.raises(ValueError, match=f"Input X contains {kind}"):
                call(some)


@large
def test_the_wrong_width_and_complex_numbers_are_refused(make, make_data, tmp_path):
    X, y = make_data(n=600, d=5)
    model = make("auto").fit(X, y)
    with pytest.raises(ValueError, match=r"X has 4 features, but .* is expecting 5 features"):
        model.predict(mapped(X[:, :4], tmp_path))
    with pytest.raises(ValueError, match="Complex data not supported"):
        make("auto").fit(mapped(X + 1j, tmp_path), y)


@large
def test_tensors_are_large_too(make, make_data):
    X, y = make_data(n=600, d=5, dtype=np.float32)
    model = make("sgd").fit(torch.from_numpy(X), torch.from_numpy(y))
    array = make("sgd").fit(X, y)
    assert_array_equal(model.coef_, array.coef_)
    assert_allclose(
        model.predict(torch.from_numpy(X)).numpy(), array.predict(X), rtol=1e-5, atol=1e-5
    )
    half = make("auto").fit(torch.from_numpy(X).bfloat16(), torch.from_numpy(y))
    rounded = make("auto").fit(torch.from_numpy(X).bfloat16().float(), torch.from_numpy(y))
    assert_allclose(half.coef_, rounded.coef_, rtol=1e-4, atol=1e-5)


@large
def test_validation_data_may_be_a_map_of_its_own(make, make_data, tmp_path):
    X, y = make_data(n=900, d=5)
    model, array = make("auto, early stopping"), make("auto, early stopping")
    model.fit(X[:500], y[:500], X_val=mapped(X[500:], tmp_path), y_val=y[500:])
    array.fit(X[:500], y[:500], X_val=X[500:], y_val=y[500:])
    assert_array_equal(model.validation_loss_curve_, array.validation_loss_curve_)


@large
def test_nothing_is_written_and_nothing_of_a_private_map_is_lost(make, make_data, tmp_path):
    X, y = make_data(n=600, d=5)
    private = mapped(X, tmp_path, mode="c")
    private[:] = 2.0 * X  # in memory alone: the file still holds X
    shared = mapped(X, tmp_path, mode="r+")
    for way in ("auto", "sgd"):
        make(way).fit(private, y)
        make(way).fit(shared, y)
    assert_array_equal(private, 2.0 * X)
    assert_array_equal(shared, X)


@large
def test_a_search_takes_a_map(Estimator, make_data, tmp_path):
    X, y = make_data(n=600, d=5)
    grid = {"alpha": [1e-3, 1e-2, 1e-1]}
    searches = [
        BatchedGridSearchCV(Estimator(), grid, cv=3).fit(some, y)
        for some in (X, mapped(X, tmp_path))
    ]
    assert_allclose(*[search.cv_results_["mean_test_score"] for search in searches])


@large
def test_classes_of_weight_zero_lose_their_rows(make_data, tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(900) % 3
    X = rng.normal(size=(900, 5)) + y.reshape(-1, 1)
    parameters = {"class_weight": {0: 1, 1: 1, 2: 0}, "tol": 1e-8}
    model = TorchSoftmaxClassifier(**parameters).fit(mapped(X, tmp_path), y)
    rows = y < 2
    weighted = TorchSoftmaxClassifier(tol=1e-8).fit(mapped(X, tmp_path), y, rows + 1e-12)
    assert_allclose(model.coef_, weighted.coef_, rtol=1e-3, atol=1e-4)


def test_small_data_is_not_large(make, make_data):
    X, y = make_data()
    data = make("auto")._prepare(X, y).data
    assert not isinstance(data.X, LargeMatrix)


GROWTH = '''
import sys, threading
import numpy as np
from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.data import limits

limits.LARGE_BYTES, limits.WINDOW_BYTES, limits.COPIED_BYTES = 2**26, 2**24, 2**24
X = np.load(sys.argv[1], mmap_mode="r")
y = np.load(sys.argv[2])
textbook = {"optimizer": "sgd", "max_iter": 1, "tol": None, "random_state": 0}

def fit_all(X, y):
    for model in (
        TorchLinearRegressor(),
        TorchLinearRegressor(**textbook),
        TorchLinearRegressor(early_stopping=True, max_iter=3, tol=None, random_state=0),
        TorchSoftmaxClassifier(max_iter=3, tol=None),
    ):
        target = y > 0 if isinstance(model, TorchSoftmaxClassifier) else y
        model.fit(X, target).predict(X)

def anonymous():
    """Bytes in memory that are no file's."""
    with open("/proc/self/status") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

fit_all(np.array(X[:1000]), y[:1000])  # what is loaded on first use is not the data's
before, most, done = anonymous(), 0, threading.Event()

def watch():
    global most
    while not done.wait(0.002):
        most = max(most, anonymous())

watcher = threading.Thread(target=watch)
watcher.start()
fit_all(X, y)
done.set()
watcher.join()
print((most - before) / X.nbytes)
'''


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_a_file_is_not_copied_to_memory(tmp_path):
    """On a file of 384 MiB, of which a copy would take as much."""
    rng = np.random.default_rng(0)
    path, n_rows, n_columns = tmp_path / "X.npy", 480 * 1024, 200
    shape = (n_rows, n_columns)
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    some = rng.standard_normal((1024, n_columns), dtype=np.float32)
    y = np.empty(n_rows, dtype=np.float32)
    for start in range(0, n_rows, 1024):
        file[start : start + 1024] = np.roll(some, start // 1024, axis=0)
        y[start : start + 1024] = file[start : start + 1024, :5].sum(axis=1)
    file.flush()
    del file
    np.save(tmp_path / "y.npy", y)
    grown = subprocess.run(
        [sys.executable, "-c", GROWTH, path, tmp_path / "y.npy"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert float(grown.stdout) < 0.5
