"""What all tests share. Environment variables come first: SciPy reads its own once, on import."""

import os

os.environ["SCIPY_ARRAY_API"] = "1"

import contextlib
import random
import signal
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import settings
from ranks import Ranks

from skorchless.estimators import batched

# Each run draws examples of its own, but on CI, where a change is judged, always the same ones.
settings.register_profile(
    "skorchless", deadline=None, print_blob=True, derandomize="CI" in os.environ
)
settings.load_profile("skorchless")


# A shell's background jobs ignore Ctrl-C, which some tests send to themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)


#: Sizes in bytes at which large matrices are treated as such, made small.
SMALL = {
    "limits.LARGE_BYTES": 2**12,
    "large.BLOCK_BYTES": 2**9,
    "large.COLUMN_RUN_BYTES": 2**7,
    "large.WINDOW_BYTES": 2**12,
    "large.COPIED_BYTES": 2**11,
    "large.RUN_BYTES": 2**11,
}


@pytest.fixture
def everything_is_large(monkeypatch):
    """From 4 KiB on a matrix is read by blocks of 512 bytes and windows of 4 KiB."""
    for name, size in SMALL.items():
        monkeypatch.setattr(f"skorchless.sources.{name}", size)


def pytest_collection_modifyitems(config, items):
    if "long" not in config.getoption("markexpr"):
        config.hook.pytest_deselected(items=[item for item in items if _is_long(item)])
        items[:] = [item for item in items if not _is_long(item)]
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; torch sees none"))


def _is_long(item):
    return item.get_closest_marker("long") is not None


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
    """A number that is another one each time, but on CI; a failed test shows how to repeat it."""
    number = int(os.environ.get("SEED", 0 if "CI" in os.environ else random.randrange(2**32)))
    print(f"Repeat it with the environment variable SEED={number}.")
    return number


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

    def counted(parameters, *rest):
        sizes.append(len(parameters))
        return ordinary(parameters, *rest)

    monkeypatch.setattr(batched, "fit_candidates", counted)
    return sizes
