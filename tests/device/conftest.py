"""The devices there are: CUDA, and a simulated one where nothing else runs in the process.

So these tests are collected only where they are asked for: ``python -m pytest tests/device``, or
``-m cuda``.
"""

from pathlib import Path

import pytest
import torch
from device import simulated
from estimators.conftest import Estimator, data, make_data  # noqa: F401

from skorchless.estimators import runtime

HERE = Path(__file__).parent


def pytest_ignore_collect(config):
    paths = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    asked_for = any(HERE in (path, *path.parents) for path in paths)
    return None if asked_for or "cuda" in config.getoption("markexpr") else True


@pytest.fixture(scope="session")
def simulation(request):
    """Controls of the simulated device, which is built once and kept in pytest's cache."""
    if any(HERE not in item.path.parents for item in request.session.items):
        pytest.skip("a simulated device changes the process: run `pytest tests/device` by itself")
    if torch.accelerator.is_available() and torch.accelerator.current_accelerator().type == "cuda":
        pytest.skip("torch takes no second accelerator beside CUDA")
    reason = simulated.why_not()
    if reason is not None:
        pytest.skip(reason)
    cache = getattr(request.config, "cache", None)
    folder = request.getfixturevalue("tmp_path_factory").mktemp if cache is None else cache.mkdir
    return simulated.load(folder("simulated_device"))


@pytest.fixture(params=[pytest.param("cuda", marks=pytest.mark.cuda), "simulated"])
def device(request):
    """An accelerator."""
    if request.param == "simulated":
        request.getfixturevalue("simulation")
    return torch.device(request.param, 0)


@pytest.fixture
def little_room(simulation):
    """Lets the simulated device have so many bytes only."""
    yield lambda n_bytes: simulation.set_capacity(simulation.memory_allocated() + n_bytes)
    simulation.set_capacity(simulated.GIBIBYTES * 2**30)


@pytest.fixture
def without_double(simulation):
    """A simulated device that knows no float64, as Apple's do not."""
    runtime.has_double.cache_clear()
    simulation.set_has_double(False)
    yield torch.device("simulated", 0)
    simulation.set_has_double(True)
    runtime.has_double.cache_clear()
