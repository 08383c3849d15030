"""scikit-learn's installed test files, imported with ours in the place of what they test."""

import contextlib
import importlib
import importlib.util
import sys
from unittest import mock

import pytest
from _pytest.mark import ParameterSet


def imported_tests(name, replaced):
    """The tests of a module of scikit-learn's.

    Parameters
    ----------
    name : str
        Such as ``sklearn.model_selection.tests.test_search``.
    replaced : dict
        By module and name, what it is to import instead.

    Returns
    -------
    tests : dict of functions
    """
    importlib.import_module(name)  # so that what it imports in its turn is not replaced
    path = importlib.util.find_spec(name).origin
    spec = importlib.util.spec_from_file_location(name.replace(".", "_"), path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # for pickle
    with contextlib.ExitStack() as patches:
        for owner, names in replaced.items():
            patches.enter_context(mock.patch.multiple(importlib.import_module(owner), **names))
        spec.loader.exec_module(module)
    tests = {key: value for key, value in vars(module).items() if key.startswith("test_")}
    for test in tests.values():
        if hasattr(test, "pytestmark"):
            test.pytestmark = [_for_ours(mark) for mark in test.pytestmark]
    return tests


def _for_ours(mark):
    """A mark with a list of values, as pytest wants it, and without failures that are theirs."""
    if mark.name != "parametrize":
        return mark
    names, values = mark.args
    return pytest.mark.parametrize(names, [*map(_without_xfail, values)], **mark.kwargs).mark


def _without_xfail(value):
    if not isinstance(value, ParameterSet):
        return value
    marks = [mark for mark in value.marks if mark.name != "xfail"]
    return pytest.param(*value.values, id=value.id, marks=marks)
