"""Ctrl-C at any line of the package, and at the return of any C function that it calls.

``KeyboardInterrupt`` is raised from trace and profile functions. Of each operation some places are
tried, others for each value of the environment variable SEED, and all places in ``restoring.py``,
on which the rest depends; ``pytest -m long`` goes through all of them.
"""

import contextlib
import random
import signal
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from global_settings import settings_of_a_thread
from numpy.testing import assert_allclose, assert_array_equal
from recorders import Recorder
from sklearn.base import clone

import skorchless
from skorchless import (
    BatchedGridSearchCV,
    TorchLinearRegressor,
    TorchSoftmaxClassifier,
)

PACKAGE = str(Path(skorchless.__file__).parent)
#: Places that are tried of each operation, evenly spaced in time.
TRIED = 10
SGD = {"optimizer": "sgd", "learning_rate": 0.01, "max_iter": 3, "tol": None, "batch_size": 16}


class Places:
    """Counts the places at which the package runs, and raises KeyboardInterrupt at one of them.

    Parameters
    ----------
    at : int, optional
        The number of the place; None goes through all of them.
    """

    def __init__(self, at=None):
        self.at, self.found = at, []

    def __enter__(self):
        sys.setprofile(self._profile)
        sys.settrace(self._trace)

    def __exit__(self, *exception):
        self._stop()

    @staticmethod
    def _stop():
        sys.settrace(None)
        sys.setprofile(None)

    def _trace(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            self._visit(frame, "line")
        return self._trace

    def _profile(self, frame, event, argument):
        if event == "c_return" and frame.f_code.co_filename.startswith(PACKAGE):
            self._visit(frame, f"return of {argument.__name__}")

    def _visit(self, frame, what):
        name = frame.f_code.co_filename[len(PACKAGE) :], frame.f_lineno, what
        self.found.append(name)
        if len(self.found) - 1 == self.at:
            self._stop()
            raise KeyboardInterrupt


def data(Estimator, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(60, 3)).astype(np.float32)
    signal = X @ rng.normal(size=(3, 3)) + rng.normal(size=(60, 3))
    return (X, signal[:, 0]) if Estimator is TorchLinearRegressor else (X, signal.argmax(axis=1))


class Operation:
    """Something that is interrupted; sees that the estimators are as promised afterwards."""

    def __init__(self, Estimator, parameters):
        self.X, self.y = data(Estimator, 1)
        self.unfitted = Estimator(random_state=0, **parameters)
        self.prepare()

    def prepare(self):
        """Compute what the outcome is compared with."""

    def begin(self):
        """Bring an estimator into the state before the operation; return what is interrupted."""
        raise NotImplementedError

    def check(self):
        """See to it that the estimator is as promised."""
        raise NotImplementedError

    def check_all(self):
        """See to it that all interrupts together came where they should."""

    def remember(self, model):
        self.model, self.before = model, dict(vars(model))

    @property
    def is_unchanged(self):
        now = vars(self.model)
        same = now.keys() == self.before.keys()
        return same and all(now[name] is value for name, value in self.before.items())


class Fit(Operation):
    def prepare(self):
        self.n_partial = 0
        self.old = clone(self.unfitted).fit(*data(type(self.unfitted), 2))
        full = clone(self.unfitted).fit(self.X, self.y)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            constant = clone(self.unfitted).fit(np.zeros_like(self.X), self.y)
            self.constant_loss, self.until = constant.loss_curve_[-1:], {}
            for n_iter in range(1, full.n_iter_ + 1):
                model = clone(self.unfitted).set_params(max_iter=n_iter)
                self.until[n_iter] = model.fit(self.X, self.y)

    def begin(self):
        model = clone(self.unfitted)
        vars(model).update(vars(self.old))
        self.remember(model)
        return lambda: model.fit(self.X, self.y)

    def check(self):
        if self.is_unchanged:
            return
        model = self.model
        reached = self.until[model.n_iter_]
        self.n_partial += not np.array_equal(model.coef_, self.until[max(self.until)].coef_)
        if model.optimizer_ == "quasi-newton" and not model.coef_.any():
            # It had evaluated nothing but its start, the best constant model.
            assert model.n_iter_ == model.best_iter_ == 1
            assert_allclose(model.loss_curve_, self.constant_loss, rtol=1e-6)
            return
        assert vars(model).keys() - {"_skl_callbacks"} == vars(reached).keys()
        assert_array_equal(model.loss_curve_, reached.loss_curve_)
        assert_array_equal(model.coef_, reached.coef_)
        assert_array_equal(model.intercept_, reached.intercept_)
        assert model.best_iter_ == reached.best_iter_

    def check_all(self):
        assert self.n_partial > 0


class HeardFit(Fit):
    """A fit of which a callback is told."""

    def begin(self):
        if not hasattr(self.unfitted, "set_callbacks"):
            pytest.skip("scikit-learn has callbacks from version 1.9 on")
        model = clone(self.unfitted).set_callbacks(Recorder())
        vars(model).update(vars(self.old))
        self.remember(model)
        return lambda: model.fit(self.X, self.y)


class FailingFit(Operation):
    """A fit that diverges, whose changes to the estimator are undone amid interrupts."""

    def prepare(self):
        slower = clone(self.unfitted).set_params(learning_rate=0.01)
        self.old = {k: v for k, v in vars(slower.fit(self.X, self.y)).items() if k.endswith("_")}

    def begin(self):
        model = clone(self.unfitted)
        vars(model).update(self.old)
        self.remember(model)

        def fit():
            with contextlib.suppress(ValueError):
                model.fit(self.X, self.y)
                raise AssertionError("it did not diverge")

        return fit

    def check(self):
        assert self.is_unchanged


class PartialFit(Operation):
    def prepare(self):
        classifies = isinstance(self.unfitted, TorchSoftmaxClassifier)
        self.more = {"classes": [0, 1, 2]} if classifies else {}
        self.first = clone(self.unfitted).partial_fit(self.X, self.y, **self.more)
        self.second = self._copy().partial_fit(self.X, self.y, **self.more)

    def _copy(self):
        model = clone(self.unfitted)
        vars(model).update(vars(self.first))
        return model

    def begin(self):
        model = self._copy()
        self.remember(model)
        return lambda: model.partial_fit(self.X, self.y, **self.more)

    def check(self):
        if not self.is_unchanged:  # the interrupt came when all had been done
            assert vars(self.model).keys() == vars(self.second).keys()
            assert_array_equal(self.model.coef_, self.second.coef_)
            assert self.model.n_iter_ == 2
        else:
            self.model.partial_fit(self.X, self.y, **self.more)
            assert_array_equal(self.model.coef_, self.second.coef_)


class Predict(Operation):
    def prepare(self):
        self.fitted = clone(self.unfitted).fit(self.X, self.y)

    def begin(self):
        self.remember(self.fitted)
        X = torch.tensor(self.X)

        def predict():
            self.fitted.predict(X)
            self.fitted.predict(self.X)

        return predict

    def check(self):
        assert self.is_unchanged


class Search(Operation):
    def begin(self):
        model = clone(self.unfitted)
        self.remember(model)
        search = BatchedGridSearchCV(model, {"alpha": [0.1, 1.0]}, cv=2)
        return lambda: search.fit(self.X, self.y)

    def check(self):
        assert self.is_unchanged


OPERATIONS = {
    "fit": (Fit, {}),
    "fit with sgd": (Fit, SGD),
    "fit with callbacks": (HeardFit, SGD),
    "fit that diverges": (FailingFit, SGD | {"learning_rate": 1e300}),
    "partial_fit": (PartialFit, {}),
    "partial_fit with sgd": (PartialFit, SGD),
    "predict": (Predict, SGD),
    "search": (Search, SGD),
}


def state():
    """What the process and its threads share, or torch and NumPy keep for a thread."""
    return settings_of_a_thread() | {
        "default dtype": torch.get_default_dtype(),
        "filters of warnings": list(warnings.filters),
        "torch's random numbers": torch.get_rng_state().tolist(),
        "NumPy's random numbers": str(np.random.get_state()),  # noqa: NPY002
        "Python's random numbers": random.getstate(),
        "Ctrl-C": signal.getsignal(signal.SIGINT),
    }


def places_of(operation):
    """For each place that an operation comes by, its first and its last time, and the place."""
    for _ in range(2):  # the first time fills caches
        places = Places()
        run = operation.begin()
        with places:
            run()
    first, last = {}, {}
    for number, name in enumerate(places.found):
        first.setdefault(name, number)
        last[name] = number
    return {number: places.found[number] for number in sorted({*first.values(), *last.values()})}


def interrupt(operation, number):
    """Interrupt it at a place, by number; whether it came there, and what is wrong afterwards."""
    places, before, run = Places(number), state(), operation.begin()
    try:
        with places:
            run()
    except KeyboardInterrupt as error:
        kept = error  # with its frames, as a notebook keeps them
    else:
        return False, []
    found = state()
    wrong = [name for name, value in before.items() if found[name] != value]
    traceback.clear_frames(kept.__traceback__)
    del kept
    found = state()
    wrong += [f"{name}, later" for name, value in before.items() if found[name] != value]
    try:
        operation.check()
    except Exception as error:
        wrong.append(f"the estimator: {type(error).__name__}: {error}"[:300])
    return True, [f"{places.found[-1]}: {one}" for one in wrong]


def check(operation, numbers):
    outcomes = [interrupt(operation, number) for number in numbers]
    assert sum(came for came, _ in outcomes) > 0.9 * len(numbers)
    assert [one for _, wrong in outcomes for one in wrong] == []
    operation.check_all()


each_operation = pytest.mark.parametrize(
    ("kind", "parameters"), OPERATIONS.values(), ids=OPERATIONS
)


@each_operation
def test_an_interrupt_at_some_places(Estimator, settings_of_a_user, seed, kind, parameters):
    operation = kind(Estimator, parameters)
    places = places_of(operation)
    step = len(places) // TRIED
    tried = list(places)[seed % step :: step]
    restoring = [number for number, place in places.items() if place[0] == "/restoring.py"]
    assert restoring
    check(operation, sorted({*tried, *restoring}))


@pytest.mark.long
@each_operation
def test_an_interrupt_at_every_place(Estimator, settings_of_a_user, kind, parameters):
    operation = kind(Estimator, parameters)
    check(operation, places_of(operation))
