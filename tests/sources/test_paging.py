"""Pages of mapped files; without Linux there is nothing to test."""

import mmap
import sys

import numpy as np
import pytest
from large import mapped

from skorchless.sources.paging import Pages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="advice that only Linux takes")


def resident(array):
    """Bytes of a mapped array that are resident, as the kernel counts them."""
    address = array.__array_interface__["data"][0]
    with open("/proc/self/smaps") as maps:
        inside = False
        for line in maps:
            name, *rest = line.split()
            if "-" in name and not name.endswith(":"):
                low, high = (int(bound, 16) for bound in name.split("-"))
                inside = low <= address < high
            elif inside and name == "Rss:":
                return 1024 * int(rest[0])
    return 0


def pages_of(array):
    return Pages.of(array.__array_interface__["data"][0], array.nbytes)


@pytest.fixture
def array(tmp_path):
    return mapped(np.arange(2**19, dtype=np.float64).reshape(-1, 8), tmp_path)


def test_pages_that_were_read_are_let_go_of_and_lose_nothing(array):
    pages, total = pages_of(array), array.sum()
    assert resident(array) >= array.nbytes
    pages.release()
    assert resident(array) < array.nbytes / 8
    assert array.sum() == total


def test_a_run_of_pages_is_let_go_of(array):
    pages = pages_of(array)
    array.sum()
    pages.release(0, array.nbytes // 2)
    assert resident(array) <= 0.6 * array.nbytes


def test_pages_are_read_before_they_are_needed(array):
    pages = pages_of(array)
    pages.release()
    pages.fetch(0, array.nbytes // 2)
    assert resident(array) >= array.nbytes / 2


def test_announcing_makes_nothing_resident(array):
    pages = pages_of(array)
    pages.release()
    first = np.arange(0, array.nbytes - 4096, 4096)  # more runs than one call takes
    pages.announce(first, first + 8)
    assert resident(array) < array.nbytes / 8


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_views_of_a_shared_map_are_found(tmp_path, mode):
    array = mapped(np.ones((1000, 8)), tmp_path, mode=mode)
    assert pages_of(array) is not None
    assert pages_of(np.asarray(array)[10:, 2:]) is not None
    assert pages_of(np.frombuffer(mmap.mmap(-1, 8000))) is not None  # shared, without a file


def test_nothing_else_is_touched(tmp_path):
    """Of a private map pages that were written to would be lost."""
    private = mapped(np.ones((1000, 8)), tmp_path, mode="c")
    assert pages_of(private) is None
    assert pages_of(np.ones((1000, 8))) is None
    assert Pages.of(0, 8) is None
