"""These are collected only where they are asked for: ``python -m pytest -m peers``."""

import pytest


def pytest_configure(config):
    """Know the marks that scikit-learn's tests have."""
    config.addinivalue_line("markers", "thread_unsafe: scikit-learn's")


def pytest_ignore_collect(collection_path, config):
    return None if "peers" in config.getoption("markexpr") else True


def pytest_collection_modifyitems(items):
    """Expect the failures that a test file lists, all of them."""
    for item in items:
        reasons = getattr(getattr(item, "module", None), "FAILING", {})
        reason = reasons.get(item.name, reasons.get(item.originalname))
        if reason is not None:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.fixture
def global_random_seed():
    """The seed that scikit-learn's own fixture gives by default."""
    return 42
