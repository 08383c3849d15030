"""What all tests share. Environment variables come first: SciPy reads its own once, on import."""

import os

os.environ["SCIPY_ARRAY_API"] = "1"

import contextlib
import signal
from functools import partial

import numpy as np
import pytest
import torch
from combinations import left_out
from hypothesis import settings
from ranks import Ranks

from skorchless.estimators import batched

# A few examples, or more with --hypothesis-profile=thorough, and always the same ones, so that a
# failure has to do with the change.
settings.register_profile("few", deadline=None, derandomize=True, max_examples=15)
settings.register_profile("thorough", settings.get_profile("few"), max_examples=200)
settings.load_profile("few")


# A shell's background jobs ignore Ctrl-C, which some tests send to themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)


#: Sizes in bytes at which large matrices are treated as such, made small.
SMALL = {
    "LARGE_BYTES": 2**12,
    "SHUFFLED_BLOCK_BYTES": 2**9,
    "COLUMN_RUN_BYTES": 2**7,
    "WINDOW_BYTES": 2**12,
    "COPIED_BYTES": 2**11,
    "RUN_BYTES": 2**11,
}


@pytest.fixture
def everything_is_large(monkeypatch):
    """From 4 KiB on a matrix is read by blocks of 512 bytes and windows of 4 KiB."""
    for name, size in SMALL.items():
        monkeypatch.setattr(f"skorchless.data.limits.{name}", size)


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(items):
    for item in left_out(items):
        item.add_marker(pytest.mark.combination)
    for item in items:
        if "start_ranks" in item.fixturenames:
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; torch sees none"))


@pytest.fixture(scope="session")
def start_ranks(tmp_path_factory):
    """Makes ranks that are ended, and whose folders pytest removes, whatever becomes of a test."""
    with contextlib.ExitStack() as started:

        def start(size, **options):
            ranks = Ranks(size, partial(tmp_path_factory.mktemp, "ranks"), **options)
            started.callback(ranks.close)
            return ranks

        yield start


@pytest.fixture(scope="session")
def shared_ranks(start_ranks):
    """Three ranks, which all tests share because it takes seconds to start them."""
    return start_ranks(3)


@pytest.fixture
def group(shared_ranks):
    """The shared ranks, all of them there and in step, whatever the test before has done."""
    shared_ranks.get_ready()
    return shared_ranks


@pytest.fixture
def seed():
    """The environment variable SEED, 0 where there is none."""
    return int(os.environ.get("SEED", 0))


@pytest.fixture
def settings_of_a_user():
    """Settings that a fit changes: lowered precision, autocast, threads, NumPy's errors."""
    threads, errors = torch.get_num_threads(), np.geterr()
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("high")
    torch.set_autocast_enabled("cpu", True)
    np.seterr(over="raise", divide="raise", invalid="raise")
    yield
    np.seterr(**errors)
    torch.set_autocast_enabled("cpu", False)
    torch.set_float32_matmul_precision("highest")
    torch.set_num_threads(threads)


@pytest.fixture
def stacks(monkeypatch):
    """How many models each stack has had."""
    sizes = []
    ordinary = batched.fit_candidates

    def counted(problem, *rest):
        sizes.append(len(problem.candidates))
        return ordinary(problem, *rest)

    monkeypatch.setattr(batched, "fit_candidates", counted)
    return sizes
