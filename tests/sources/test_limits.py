import pytest

from skorchless.sources import limits
from skorchless.sources.limits import is_large, memory_limit


def test_there_is_a_limit_and_it_is_the_least_one(monkeypatch, tmp_path):
    everything = memory_limit()
    assert 2**26 < everything < 2**63
    (tmp_path / "memory.max").write_text("1000000\n")
    monkeypatch.setattr(limits, "CGROUPS", tmp_path)
    assert memory_limit() == 1_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_limit() == everything


def test_a_limit_of_the_process_counts(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (2**20, resource.RLIM_INFINITY))
    assert memory_limit() == 2**20


def test_what_is_large_goes_by_the_least_of_two(monkeypatch):
    monkeypatch.setattr(limits, "memory_limit", lambda: 2**28)
    assert not is_large(2**26) and is_large(2**26 + 1)
    monkeypatch.setattr(limits, "memory_limit", lambda: 2**40)
    assert not is_large(2**29) and is_large(2**29 + 1)
    monkeypatch.setattr(limits, "memory_limit", lambda: 0)
    assert not is_large(2**24)
