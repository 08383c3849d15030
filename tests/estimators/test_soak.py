"""Whatever is done with the estimators, in whatever order: the process stays as it was."""

import gc
import os
import pickle
import random
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skorchless import (
    BatchedGridSearchCV,
    BatchedRandomizedSearchCV,
    TorchLinearRegressor,
    TorchSoftmaxClassifier,
)

ESTIMATORS = (TorchLinearRegressor, TorchSoftmaxClassifier)
PARAMETERS = [
    {},
    {"alpha": 0.1, "l1_ratio": 0.5},
    {"optimizer": "sgd", "learning_rate": 0.05, "max_iter": 3, "tol": None},
    {"optimizer": "adam", "max_iter": 3, "early_stopping": True},
    {"warm_start": True, "max_iter": 5},
]


class Soak:
    """Operations on models that come and go."""

    def __init__(self, folder, seed):
        self.rng = np.random.default_rng(seed)
        self.folder = folder
        self.models = [Estimator() for Estimator in ESTIMATORS]

    def rows(self, model):
        """Rows in one of many containers, and what `model` can learn of them."""
        X = self.rng.normal(size=(48, 4))
        y = X @ [1.0, -2.0, 0.5, 0.0] + 0.3 * self.rng.normal(size=48)
        if isinstance(model, TorchSoftmaxClassifier):
            y = np.digitize(y, [-1.0, 1.0])
        kind = self.rng.integers(5)
        if kind == 1:
            return sparse.csr_array(X), y
        if kind == 2:
            return torch.from_numpy(X), torch.from_numpy(y)
        if kind == 3:
            path = self.folder / "rows"
            X.tofile(path)
            return np.memmap(path, mode="r", shape=X.shape), y
        return (X.astype(np.float32) if kind == 4 else X), y

    def model(self):
        return self.models[self.rng.integers(len(self.models))]

    def fitted(self):
        model = self.model()
        return model if hasattr(model, "coef_") else model.fit(*self.rows(model))

    def fit(self):
        model = self.model()
        parameters = PARAMETERS[self.rng.integers(len(PARAMETERS))]
        clone(model).set_params(**parameters).fit(*self.rows(model))
        model.fit(*self.rows(model), self.rng.uniform(size=48))

    def partial_fit(self):
        model = clone(self.model())
        classes = {"classes": [0, 1, 2]} if isinstance(model, TorchSoftmaxClassifier) else {}
        for _ in range(2):
            model.partial_fit(*self.rows(model), **classes)

    def predict(self):
        model = self.fitted()
        X, y = self.rows(model)
        model.predict(X)
        model.score(X, y)
        if isinstance(model, TorchSoftmaxClassifier):
            model.predict_proba(X)

    def copy(self):
        model = self.fitted()
        same = pickle.loads(pickle.dumps(model))
        same.to_torch()
        same.to_sklearn()
        self.models[self.rng.integers(len(self.models))] = clone(model)
        if len({type(model) for model in self.models}) == 1:
            self.models = [Estimator() for Estimator in ESTIMATORS]

    def search(self):
        model = clone(self.model()).set_params(max_iter=20)
        search = BatchedGridSearchCV(model, {"alpha": [0.01, 0.1]}, cv=2)
        if self.rng.integers(2):
            search = BatchedRandomizedSearchCV(
                model, {"alpha": [0.01, 0.1, 1.0]}, n_iter=2, cv=2, random_state=0
            )
        search.fit(*self.rows(model))

    def error(self):
        model = self.model()
        X, y = self.rows(model)
        bad = (
            ("inconsistent numbers", lambda: model.fit(X, y[:-1])),
            ("sample_weight contains NaN", lambda: model.fit(X, y, np.full(48, np.nan))),
            ("'alpha' parameter", lambda: clone(model).set_params(alpha=-1).fit(X, y)),
            (
                "learning_rate",
                lambda: clone(model).set_params(optimizer="sgd", learning_rate=1e300).fit(X, y),
            ),
            ("2 features|not fitted", lambda: model.predict([[1.0, 2.0]])),
        )
        message, call = bad[self.rng.integers(len(bad))]
        with pytest.raises(ValueError, match=message):
            call()

    def interrupt(self):
        """Ctrl-C somewhere in a fit, as torch might notice it."""
        model = clone(self.model()).set_params(alpha=0.1, l1_ratio=0.5)
        left = int(self.rng.integers(1, 30))

        def interrupting(self, *arguments, **options):
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            return ordinary(self, *arguments, **options)

        rows = self.rows(model)
        with pytest.MonkeyPatch.context() as patch:
            from skorchless.objective import LinearObjective

            ordinary = LinearObjective.value
            patch.setattr(LinearObjective, "value", interrupting)
            try:
                model.fit(*rows)
            except KeyboardInterrupt:
                assert left == 0

    def thread(self):
        """A fit in a thread that comes and goes."""
        model = clone(self.model())
        rows = self.rows(model)
        worker = threading.Thread(target=lambda: model.fit(*rows))
        worker.start()
        worker.join()
        assert hasattr(model, "coef_")


OPERATIONS: tuple[Callable[[Soak], None], ...] = (
    Soak.fit,
    Soak.predict,
    Soak.partial_fit,
    Soak.copy,
    Soak.search,
    Soak.error,
    Soak.interrupt,
    Soak.thread,
)


def settings_of_the_process():
    """Everything global that a fit could change."""
    of_products = [
        getattr(getattr(backend, "matmul", None), "fp32_precision", None)
        for backend in (torch.backends.cuda, torch.backends.mkldnn)
    ]
    return {
        "torch threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "precision": (torch.get_float32_matmul_precision(), *of_products),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "NumPy's errors": np.geterr(),
        "NumPy's printing": repr(np.get_printoptions()),
        "warnings": list(warnings.filters),
        "random": random.getstate(),
        "NumPy's random": [str(part) for part in np.random.get_state()],  # noqa: NPY002
        "torch's random": torch.get_rng_state().tolist(),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "Python's threads": sorted(thread.name for thread in threading.enumerate()),
        "temporary files": sorted(os.listdir(tempfile.gettempdir())),
    }


def open_files():
    """What this process has open, by number; nothing where the system does not tell."""
    folder = Path("/proc/self/fd")
    names = os.listdir(folder) if folder.exists() else []
    return len(names)


def resident_bytes():
    """Memory of this process; zero where the system does not tell."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else 0


def threads_of_the_system():
    path = Path("/proc/self/task")
    return len(os.listdir(path)) if path.exists() else 0


def run(soak, times):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for i in range(times):
            OPERATIONS[i % len(OPERATIONS)](soak)


def state_of_the_system():
    """Numbers that may only settle: open files, threads, and objects of ours."""
    gc.collect()
    objects = gc.get_objects()
    tensors = sum(type(thing) is torch.Tensor for thing in objects)
    return open_files(), threads_of_the_system(), tensors


def check_soak(folder, monkeypatch, times, warm_up):
    """Run operations; compare with how things were after the first of them."""
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    soak = Soak(folder, seed=0)
    before = settings_of_the_process()
    run(soak, warm_up)
    (folder / "rows").unlink(missing_ok=True)
    settled, memory = state_of_the_system(), resident_bytes()
    run(soak, times)
    (folder / "rows").unlink(missing_ok=True)
    assert settings_of_the_process() == before
    files, threads, tensors = state_of_the_system()
    assert files <= settled[0]
    assert threads <= settled[1]
    assert tensors <= settled[2] + 20
    return resident_bytes() - memory


def test_the_process_stays_as_it_was(tmp_path, monkeypatch):
    check_soak(tmp_path, monkeypatch, times=len(OPERATIONS) * 5, warm_up=len(OPERATIONS) * 3)


@pytest.mark.long
def test_the_process_stays_as_it_was_and_as_large(tmp_path, monkeypatch):
    grown = check_soak(tmp_path, monkeypatch, times=2000, warm_up=400)
    assert grown < 2**25  # 20 kB for each operation would be 40 MB
