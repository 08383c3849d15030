"""Worker processes of a search: the results of one process, on no more threads than there are."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

pytestmark = pytest.mark.slow

#: What joblib and torch read their number of threads from.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

PROGRAM = """
import json, sys
import joblib, numpy as np, torch
from sklearn.model_selection import GridSearchCV
from skorchless import BatchedGridSearchCV, TorchLinearRegressor, TorchSoftmaxClassifier

def threads(model, X, y):
    return torch.get_num_threads()

def searched(Search, model, X, y, n_jobs):
    search = Search(model, {"alpha": [1e-3, 0.1]}, cv=3, n_jobs=n_jobs, return_train_score=True)
    results = search.fit(X, y).cv_results_
    scores = [results[name].tolist() for name in NAMES]
    return scores, search.best_estimator_.coef_.ravel().tolist()

NAMES = [f"split{i}_{kind}_score" for i in range(3) for kind in ("test", "train")]
SGD = {"optimizer": "sgd", "learning_rate": 0.1, "max_iter": 3, "tol": None, "random_state": 0}
rng = np.random.default_rng(0)
X = rng.normal(size=(6_000, 100))  # enough for more than one thread to be of use
raw = X[:, :3] @ rng.normal(size=(3, 3)) + rng.gumbel(size=(len(X), 3))
PROBLEMS = {
    "classes": (TorchSoftmaxClassifier(tol=1e-2), X, raw.argmax(axis=1)),
    "numbers": (TorchLinearRegressor(), X, raw[:, 0]),
    "batches": (TorchSoftmaxClassifier(**SGD), X[:200], raw[:200].argmax(axis=1)),
}
SEARCHES = {"one by one": GridSearchCV, "batched": BatchedGridSearchCV}
found = {"processors": joblib.cpu_count()}
for n_threads in (1, 2):
    torch.set_num_threads(n_threads)
    for name, Search in SEARCHES.items():
        for problem, data in PROBLEMS.items():
            for n_jobs in (1, 2):
                found[f"{name} {problem} {n_jobs} {n_threads}"] = searched(Search, *data, n_jobs)
    assert torch.get_num_threads() == n_threads
for name, Search in SEARCHES.items():
    search = Search(PROBLEMS["batches"][0], {}, cv=2, n_jobs=2, scoring=threads, refit=False)
    results = search.fit(*PROBLEMS["batches"][1:]).cv_results_
    found[f"threads {name}"] = [float(results[f"split{i}_test_score"][0]) for i in range(2)]
print(json.dumps(found))
"""

each_search = pytest.mark.parametrize("name", ["one by one", "batched"])
each_problem = pytest.mark.parametrize("problem", ["classes", "numbers", "batches"])


@pytest.fixture(scope="module")
def found():
    environment = {name: value for name, value in os.environ.items() if name not in THREADS}
    run = [sys.executable, "-W", "error", "-c", PROGRAM]
    shown = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=300)
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)


@each_search
def test_workers_share_the_processors(found, name):
    share = max(found["processors"] // 2, 1)
    assert max(found[f"threads {name}"]) <= share


@each_problem
@each_search
def test_workers_find_the_same_to_the_bit_where_torch_has_one_thread(found, name, problem):
    alone, shared = (found[f"{name} {problem} {n_jobs} 1"] for n_jobs in (1, 2))
    for one, other in zip(alone, shared, strict=True):
        assert_array_equal(one, other)


@each_problem
@each_search
def test_on_more_threads_sums_are_the_same_to_rounding(found, name, problem):
    wanted = found[f"{name} {problem} 1 1"]
    for n_jobs in (1, 2):
        for one, other in zip(found[f"{name} {problem} {n_jobs} 2"], wanted, strict=True):
            assert_allclose(one, other, rtol=0, atol=1e-13 * np.abs(other).max())
