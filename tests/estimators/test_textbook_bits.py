"""With a number for `learning_rate` the updates are, bit for bit, what they always were.

The digests in textbook_bits.json were made at commit 8f110e5. Bits depend on the kernels that a CPU
chooses, so one process of its own computes all digests with the plainest kernels and one thread. A
fingerprint of torch's own operations tells whether the digests can be compared at all.

Only a change of the updates that is meant may write the digests anew:
``python tests/estimators/test_textbook_bits.py --write``.
"""

import hashlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch.nn import functional as F

import skorchless
from skorchless import BatchedGridSearchCV, TorchLinearRegressor, TorchSoftmaxClassifier

STORED = Path(__file__).with_name("textbook_bits.json")
PLAIN_KERNELS = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
DTYPES = (np.float32, np.float64)
N, D = 60, 5

#: What is learned: estimator, parameters of its loss, number of outputs.
KINDS = {
    "squared error": (TorchLinearRegressor, {}, 1),
    "two outputs": (TorchLinearRegressor, {}, 2),
    "huber": (TorchLinearRegressor, {"loss": "huber", "delta": 0.3}, 1),
    "two classes": (TorchSoftmaxClassifier, {}, 2),
    "three classes": (TorchSoftmaxClassifier, {}, 3),
}
OPTIMIZERS = {
    "sgd": {"optimizer": "sgd", "learning_rate": 0.2},
    "adam": {"optimizer": "adam", "learning_rate": 0.03},
}
SHARED = {"batch_size": 16, "max_iter": 4, "tol": None, "random_state": 0}
#: Kind, optimizer and what is special, for `fit` and `partial_fit`.
VARIANTS = {
    "momentum": ("three classes", "sgd", {"momentum": 0.9}),
    "nesterov": ("two outputs", "sgd", {"momentum": 0.9, "nesterov": True}),
    "betas": ("huber", "adam", {"betas": (0.8, 0.99)}),
    "auto": ("two classes", "adam", {"optimizer": "auto"}),
    "invscaling": ("squared error", "sgd", {"schedule": "invscaling"}),
    "cosine": ("three classes", "adam", {"schedule": "cosine"}),
    "l1 and momentum": ("two outputs", "sgd", {"alpha": 0.02, "l1_ratio": 1.0, "momentum": 0.5}),
    "l1": ("two classes", "adam", {"alpha": 0.02, "l1_ratio": 1.0}),
    "l2": ("squared error", "adam", {"alpha": 0.1}),
    "elastic net": ("three classes", "sgd", {"alpha": 0.02, "l1_ratio": 0.4}),
    "batches of 1": ("two classes", "sgd", {"batch_size": 1}),
    "batches of 7": ("squared error", "adam", {"batch_size": 7}),
    "one batch": ("three classes", "adam", {"batch_size": None}),
    "automatic batches": ("huber", "sgd", {"batch_size": "auto"}),
    "no shuffling": ("three classes", "sgd", {"shuffle": False}),
    "no intercept": ("two outputs", "adam", {"fit_intercept": False}),
}
#: The same for what only `fit` does.
ONLY_FIT = {
    "class weights": ("three classes", "sgd", {"class_weight": {0: 1.0, 1: 3.0, 2: 0.5}}),
    "balanced": ("two classes", "adam", {"class_weight": "balanced"}),
    "tolerance": ("huber", "sgd", {"tol": 1e-2, "max_iter": 40, "n_iter_no_change": 2}),
    "adaptive": ("squared error", "sgd", {"schedule": "adaptive", "tol": 1e-2, "max_iter": 40}),
    "early stopping": (
        "three classes",
        "adam",
        {"early_stopping": True, "tol": 1e-3, "max_iter": 30, "n_iter_no_change": 2},
    ),
    "validation": ("two outputs", "sgd", {}),
    "given start": ("two classes", "sgd", {}),
    "warm start": ("three classes", "adam", {"warm_start": True}),
}
SEARCHES = {
    "search of sgd": ("three classes", "sgd", {"learning_rate": [0.05, 0.2, 0.8]}),
    "search of adam": ("squared error", "adam", {"learning_rate": [0.01, 0.1], "alpha": [0, 0.1]}),
    "search of momentum": ("two classes", "sgd", {"momentum": [0.0, 0.5, 0.9]}),
}


def digest(*arrays):
    """A short digest of dtypes, shapes and bits."""
    state = hashlib.sha256()
    for array in map(np.ascontiguousarray, arrays):
        state.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return state.hexdigest()[:12]


def make_data(kind, dtype):
    """Rows with many zeros, and targets; by single operations, which all machines round alike."""
    rng = np.random.default_rng(0)
    X = (rng.random((N, D)) - 0.5) * (rng.random((N, D)) < 0.7)
    score = 2 * X[:, 0] - X[:, 1] + 0.5 * (rng.random(N) - 0.5)
    outputs = KINDS[kind][2]
    if KINDS[kind][0] is TorchSoftmaxClassifier:
        return X.astype(dtype), np.searchsorted([0, 0.3][: outputs - 1], score)
    y = np.stack([score + 0.5, 3 * score * X[:, 2]], axis=1)
    return X.astype(dtype), (y if outputs == 2 else y[:, 0]).astype(dtype)


def digest_of(model):
    curves = [model.loss_curve_, getattr(model, "validation_loss_curve_", np.zeros(0))]
    return digest(model.coef_, model.intercept_, *curves, [model.n_iter_, model.best_iter_])


def make(kind, optimizer, special):
    Estimator, loss, _ = KINDS[kind]
    return Estimator(**{**SHARED, **loss, **OPTIMIZERS[optimizer], **special})


def digest_of_fit(name, model, X, y):
    """Digest of a fit to which the case of this name passes more than X and y."""
    options = {}
    if name == "weights":
        options = {"sample_weight": np.arange(N) % 4 / 2}
    elif name == "given start":
        options = {"coef_init": np.full((1, D), 0.5), "intercept_init": [-1.0]}
    elif name == "validation":
        options = {"X_val": X[:20], "y_val": y[:20]}
        X, y = X[20:], y[20:]
    model.fit(X, y, **options)
    return digest_of(model.fit(X, y) if model.warm_start else model)


def digest_of_pieces(model, X, y):
    """Digest of what pieces of the rows are learned to, some of them with weights."""
    classes = {"classes": np.unique(y)} if isinstance(model, TorchSoftmaxClassifier) else {}
    model.partial_fit(X[:35], y[:35], **classes)
    model.partial_fit(X[25:], y[25:], np.linspace(0.5, 2, 35))
    return digest_of(model.partial_fit(X, y))


def digest_of_search(kind, optimizer, grid, X, y):
    search = BatchedGridSearchCV(make(kind, optimizer, {}), grid, cv=3).fit(X, y)
    curves = [np.concatenate(curves) for curves in search.loss_curves_]
    return digest(search.best_estimator_.coef_, search.best_estimator_.intercept_, *curves)


def compute_digests():
    """Of each case, by name, the digests of what was learned in each dtype and way."""
    digests = {}
    for dtype in DTYPES:
        float_ = np.dtype(dtype).name
        data = {kind: make_data(kind, dtype) for kind in KINDS}
        for kind in KINDS:
            for optimizer in OPTIMIZERS:
                for layout, convert in {"dense": np.asarray, "sparse": csr_array}.items():
                    X, y = convert(data[kind][0]), data[kind][1]
                    found = digests.setdefault(f"{kind}, {optimizer}, {layout}", {})
                    for given in ("rows", "weights"):
                        model = make(kind, optimizer, {})
                        found[f"{float_} fit of {given}"] = digest_of_fit(given, model, X, y)
                    pieces = digest_of_pieces(make(kind, optimizer, {}), X, y)
                    found[f"{float_} partial_fit"] = pieces
        for name, (kind, optimizer, special) in (VARIANTS | ONLY_FIT).items():
            found = digests.setdefault(name, {})
            model = make(kind, optimizer, special)
            found[f"{float_} fit"] = digest_of_fit(name, model, *data[kind])
            if name in VARIANTS:
                model = make(kind, optimizer, special)
                found[f"{float_} partial_fit"] = digest_of_pieces(model, *data[kind])
        for name, (kind, optimizer, grid) in SEARCHES.items():
            found = digest_of_search(kind, optimizer, grid, *data[kind])
            digests.setdefault(name, {})[float_] = found
    return digests


def compute_fingerprint():
    """Digests of data, and of operations that the updates are made of, on their shapes."""
    rng = np.random.default_rng(1)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    found = {
        "torch": torch.__version__,
        "permutation": digest(order),
        "data": digest(*(array for kind in KINDS for array in make_data(kind, np.float64))),
    }
    for dtype in DTYPES:
        results = {}
        for models, batch in [(m, b) for m in (1, 2, 3, 4, 9) for b in (1, 7, 12, 16, N)]:
            W, X, R = (
                torch.from_numpy((rng.random(shape) - 0.5).astype(dtype))
                for shape in [(models, D), (batch, D), (models, batch)]
            )
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*Sparse CSR.*")
                sparse = X.to_sparse_csr()
            operations = {
                "matmul": [W @ X.T, X @ W.T, R @ X, X.T @ R.T],
                "addmm": [torch.addmm(R, W, X.T), torch.addmm(W, R, X, beta=0.5)],
                "sparse matmul": [sparse @ W.T],
                "product with a vector": [X @ W[0], R[0] @ X, R @ R[0]],
                "softmax": [R.softmax(dim=0), R.log_softmax(dim=0)],
                "exp": [R.exp(), R.abs().log(), R.sigmoid(), F.softplus(R)],
                "sqrt": [R.abs().sqrt(), R.abs().rsqrt(), R / (R.abs() + 1e-3)],
                "addcmul": [R.addcmul(R, R, value=-0.1), R.lerp(R.square(), 0.1), R.mul(0.9)],
                "sum": [R.sum(dim=0), R.sum(dim=1), R.sum(), R.sum(dtype=torch.float64)],
            }
            for name, values in operations.items():
                results.setdefault(name, []).extend(value.numpy() for value in values)
        for name, values in results.items():
            found[f"{name} in {np.dtype(dtype).name}"] = digest(*values)
    return found


def run():
    """What this module prints as a program, run with the package that is imported here."""
    place = str(Path(skorchless.__file__).parents[1])
    environment = os.environ | PLAIN_KERNELS | {"PYTHONPATH": place, "CUDA_VISIBLE_DEVICES": ""}
    shown = subprocess.run(
        [sys.executable, __file__], env=environment, check=True, stdout=subprocess.PIPE, timeout=300
    )
    return json.loads(shown.stdout)


@pytest.fixture(scope="module")
def stored():
    return json.loads(STORED.read_text())


@pytest.fixture(scope="module")
def computed(stored):
    """Digests of this machine, if it rounds like the one that wrote the stored ones."""
    found = run()
    there, here = stored["fingerprint"], found["fingerprint"]
    differing = sorted(name for name in there | here if there.get(name) != here.get(name))
    if differing:
        pytest.skip(
            "The stored digests were made where other bits come out of: "
            + ", ".join(differing)
            + f" (torch {there['torch']}, here {here['torch']})."
        )
    return found["digests"]


NAMES = [
    f"{kind}, {rule}, {x}" for kind in KINDS for rule in OPTIMIZERS for x in ("dense", "sparse")
]


@pytest.mark.parametrize("name", [*NAMES, *VARIANTS, *ONLY_FIT, *SEARCHES])
def test_bits_are_what_they_were(name, computed, stored):
    assert computed[name] == stored["digests"][name]


def test_every_case_is_stored(stored):
    assert sorted(stored["digests"]) == sorted([*NAMES, *VARIANTS, *ONLY_FIT, *SEARCHES])


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        STORED.write_text(json.dumps(run(), indent=1) + "\n")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = {"fingerprint": compute_fingerprint(), "digests": compute_digests()}
        print(json.dumps(results))
