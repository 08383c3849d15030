"""What the threads of a process share is left alone by a fit, for all threads and at all times."""

import contextlib
import io
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from global_settings import mkl_threads, precisions
from numpy.testing import assert_array_equal

import skorchless
from skorchless import BatchedGridSearchCV
from skorchless.estimators import limits, runtime, solve

SHORT = {"optimizer": "sgd", "learning_rate": 0.01, "max_iter": 3, "tol": None, "random_state": 0}
PACKAGE = str(Path(skorchless.__file__).parent)


@pytest.fixture
def two_threads():
    """Let torch have two threads, here and in threads to come, whatever this machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Pausing(io.StringIO):
    """A terminal at which something is done after a line, and its result kept."""

    def __init__(self, do):
        super().__init__()
        self.do, self.found = do, []

    def write(self, text):
        self.found.append(self.do())
        return len(text)


def amid(fit, do):
    """What `do` finds in the middle of a fit that is verbose."""
    terminal = Pausing(do)
    with contextlib.redirect_stdout(terminal):
        fit()
    assert terminal.found
    return terminal.found


@pytest.mark.parametrize("optimizer", ["auto", "sgd"])
def test_a_thread_that_first_uses_torch_amid_a_fit_has_all_threads_for_good(
    Estimator, make_data, two_threads, optimizer
):
    amid_fit, after_fit, counts = threading.Event(), threading.Event(), []

    def other():
        assert amid_fit.wait(30)
        counts.append(torch.get_num_threads())
        counted.set()
        assert after_fit.wait(30)
        counts.append(torch.get_num_threads())

    counted, thread = threading.Event(), threading.Thread(target=other)
    thread.start()

    def let_it_count():
        amid_fit.set()
        return counted.wait(30)

    model = Estimator(**SHORT | {"optimizer": optimizer}, verbose=1)
    amid(lambda: model.fit(*make_data()), let_it_count)
    after_fit.set()
    thread.join()
    assert counts == [2, 2]


def test_a_small_fit_has_one_thread_to_itself(Estimator, make_data, two_threads):
    def counts():
        return torch.get_num_threads(), mkl_threads()

    before, model = counts(), Estimator(**SHORT, verbose=1)
    for threads, mkl in amid(lambda: model.fit(*make_data()), counts):
        assert threads == 1 and mkl in (1, None)
    assert counts() == before


def test_a_large_fit_has_all_threads(Estimator, make_data, two_threads, monkeypatch):
    monkeypatch.setattr(limits, "WORTH_THREADS", 0)
    model = Estimator(**SHORT, verbose=1)
    assert set(amid(lambda: model.fit(*make_data()), torch.get_num_threads)) == {2}


def test_for_an_accelerator_rows_are_gathered_with_all_threads(two_threads):
    threads = [
        runtime.own_settings(torch.device(kind), 0, torch.get_num_threads)
        for kind in ("cpu", "cuda")
    ]
    assert threads == [1, 2]


def test_a_library_without_openmp_and_mkl_is_left_alone(Estimator, make_data, monkeypatch):
    wanted = Estimator(**SHORT).fit(*make_data()).coef_
    monkeypatch.setattr(runtime, "_library", object)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert_array_equal(Estimator(**SHORT).fit(*make_data()).coef_, wanted)


# Precision.


def test_the_precision_is_not_touched_unless_it_has_been_lowered(Estimator, make_data):
    before, model = (precisions(), torch.get_float32_matmul_precision()), Estimator(**SHORT)
    assert before[1] == "highest"

    def found():
        return precisions(), torch.get_float32_matmul_precision()

    X, y = make_data()
    model.set_params(verbose=1)
    assert all(now == before for now in amid(lambda: model.fit(X, y), found))
    model.predict(torch.tensor(X))
    assert found() == before


@pytest.mark.parametrize("lowered", ["high", "medium"])
def test_a_lowered_precision_is_raised_amid_a_fit_and_put_back(Estimator, make_data, lowered):
    torch.set_float32_matmul_precision(lowered)
    try:
        before = precisions(), torch.get_float32_matmul_precision()
        model = Estimator(**SHORT, verbose=1)
        for now in amid(lambda: model.fit(*make_data()), precisions):
            assert set(now) <= {"ieee", None}
        assert (precisions(), torch.get_float32_matmul_precision()) == before
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("lowered", ["high", "medium"])
def test_other_threads_can_read_the_precision_amid_a_fit(Estimator, make_data, lowered):
    """torch refuses to tell settings of its older kind that those of the newer kind contradict."""

    def read():
        return torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision()

    torch.set_float32_matmul_precision(lowered)
    try:
        model = Estimator(**SHORT, verbose=1)
        assert set(amid(lambda: model.fit(*make_data()), read)) == {(False, "highest")}
        assert read() == (True, lowered)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_precision_that_was_lowered_the_new_way_is_put_back(Estimator, make_data):
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        before, model = precisions(), Estimator(**SHORT, verbose=1)
        for now in amid(lambda: model.fit(*make_data()), precisions):
            assert set(now) <= {"ieee", "none"}
        assert precisions() == before
    finally:
        torch.backends.cuda.matmul.fp32_precision = "none"


@pytest.mark.parametrize("first_out", ["first in", "last in"])
def test_the_last_of_two_fits_at_once_puts_the_precision_back(
    Estimator, make_data, monkeypatch, first_out
):
    names, ordinary, amid_fits = ["first in", "last in"], solve._run, []
    inside = {name: threading.Event() for name in names}
    may_leave = {name: threading.Event() for name in names}

    def pausing(*arguments):
        name = threading.current_thread().name
        inside[name].set()
        assert may_leave[name].wait(30)
        amid_fits.append(precisions())
        return ordinary(*arguments)

    def fit():
        Estimator(**SHORT).fit(*make_data())

    monkeypatch.setattr(solve, "_run", pausing)
    threads = {name: threading.Thread(target=fit, name=name) for name in names}
    torch.set_float32_matmul_precision("medium")
    try:
        before = precisions(), torch.get_float32_matmul_precision()
        for name in names:
            threads[name].start()
            assert inside[name].wait(30)
        names.sort(key=lambda name: name != first_out)
        for name in names:
            may_leave[name].set()
            threads[name].join(30)
            found = precisions(), torch.get_float32_matmul_precision()
            assert (found == before) == (name == names[-1])
        assert len(amid_fits) == 2
        assert all(set(now) <= {"ieee", None} for now in amid_fits)
    finally:
        for name in names:
            may_leave[name].set()
        torch.set_float32_matmul_precision("highest")


def test_one_thread_at_a_time_changes_the_precision(monkeypatch):
    lock, is_free = runtime._full_precision._lock, []

    def look_from_another_thread():
        thread = threading.Thread(target=look)
        thread.start()
        thread.join(30)

    def look():
        is_free.append(lock.acquire(blocking=False))
        if is_free[-1]:
            lock.release()

    changes = [(look_from_another_thread, look_from_another_thread)]
    monkeypatch.setattr(runtime, "_precision_changes", lambda: changes)
    runtime.in_full_precision(torch.device("cpu"), look_from_another_thread)
    assert is_free == [False, True, False]


def test_a_precision_that_is_inherited_stays_so(Estimator, make_data):
    for product in torch.backends.cuda.matmul, torch.backends.mkldnn.matmul:
        product.fp32_precision = "none"
    torch.backends.fp32_precision = "tf32"
    try:
        model = Estimator(**SHORT, verbose=1)
        for now in amid(lambda: model.fit(*make_data()), precisions):
            assert set(now) == {"ieee"}
        assert set(precisions()) == {"tf32"}
        torch.backends.fp32_precision = "none"
        assert set(precisions()) == {"none"}
    finally:
        torch.backends.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")


# Warnings.


@pytest.fixture
def whose_filters(monkeypatch):
    """Files that touch the filters of warnings: scikit-learn's do, while they check arrays."""
    files = []

    def watched(name):
        original = getattr(warnings, name)

        def touch(*arguments, **keywords):
            files.append(sys._getframe(1).f_code.co_filename)
            return original(*arguments, **keywords)

        return touch

    for name in ("catch_warnings", "simplefilter", "filterwarnings", "resetwarnings"):
        monkeypatch.setattr(warnings, name, watched(name))
    return files


def read_only(X):
    parts = (X.data, X.indices, X.indptr) if scipy.sparse.issparse(X) else (X,)
    for part in parts:
        part.flags.writeable = False
    return X


CONTAINERS = {
    "read-only": read_only,
    "read-only float32": lambda X: read_only(X.astype(np.float32)),
    "read-only sparse": lambda X: read_only(scipy.sparse.csr_array(X)),
    "sparse": scipy.sparse.csr_array,
    "torch": torch.tensor,
}


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
@pytest.mark.parametrize("optimizer", ["auto", "sgd"])
def test_no_filter_of_warnings_is_touched(
    Estimator, make_data, whose_filters, container, optimizer
):
    X, y = make_data()
    X, weight = container(X), read_only(np.ones(len(y)))
    if not isinstance(X, torch.Tensor):
        y = read_only(y)
    model = Estimator(**SHORT | {"optimizer": optimizer})
    model.fit(X, y, weight)
    model.coef_.flags.writeable = False
    model.predict(X)
    model.score(X, y)
    for _ in range(2):
        model.partial_fit(X, y, weight)
    BatchedGridSearchCV(model, {"alpha": [0.1, 1.0]}, cv=2).fit(X, y)
    BatchedGridSearchCV(Estimator(), {"alpha": [0.1, 1.0]}, cv=2).fit(X, y)
    assert [file for file in whose_filters if file.startswith(PACKAGE)] == []


def test_memory_that_may_not_be_written_to_is_shared():
    array = read_only(np.arange(6.0).reshape(2, 3))
    tensor = skorchless.stack.shared(array[:, ::2])
    assert tensor.data_ptr() == array.ctypes.data
    assert tensor.tolist() == [[0.0, 2.0], [3.0, 5.0]]
    assert not array.flags.writeable
    del array
    assert tensor.tolist() == [[0.0, 2.0], [3.0, 5.0]]
