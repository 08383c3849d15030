"""Sparse fits are right where OpenMP starts fewer threads than torch counts on."""

import os
import subprocess
import sys

import pytest

FIT = """
import ctypes, sys
import numpy as np
import scipy.sparse as sp
import torch
from skorchless import TorchLinearRegressor

torch.set_num_threads(2)
rng = np.random.default_rng(0)
X = sp.random_array((20000, 200), density=0.1, rng=rng, format="csr")
Y = X @ rng.standard_normal((200, 20)) + rng.standard_normal((20000, 20))
if len(sys.argv) > 1:
    library = ctypes.CDLL(torch._C.__file__)
    if not hasattr(library, sys.argv[1]):
        sys.exit(5)
    getattr(library, sys.argv[1])(int(sys.argv[2]))
model = TorchLinearRegressor(alpha=0.01, tol=1e-8).fit(X, Y)
assert model.converged_
error = X @ model.coef_.T + model.intercept_ - Y
gradient = X.T @ error / 20000 + 0.01 * model.coef_.T
assert abs(gradient).max() < 1e-6 and abs(error.mean(axis=0)).max() < 1e-6
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "call, limit",
    [
        ((), None),
        ((), "1"),
        (("omp_set_dynamic", "1"), None),
        (("omp_set_max_active_levels", "0"), None),
    ],
    ids=["as usual", "OMP_THREAD_LIMIT", "dynamic", "no level"],
)
def test_sparse_fits_are_right(call, limit):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")}
    if limit is not None:
        environment["OMP_THREAD_LIMIT"] = limit
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FIT, *call],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 5:
        pytest.skip("this torch has no OpenMP that ctypes can reach")
    assert done.returncode == 0, done.stderr
