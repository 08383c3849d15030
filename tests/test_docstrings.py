"""Docstrings of everything public, by numpydoc's rules, and their examples."""

import doctest
import inspect

import matplotlib
import pytest
from numpydoc.validate import validate

import skorchless

matplotlib.use("Agg")

#: Rules of numpydoc that we do not follow, and why.
NOT_OURS = {
    "GL01": "a summary may begin on the line of the quotes",
    "GL08": "a docstring that is missing is a matter for ruff",
    "ES01": "a summary is enough where it says everything",
    "RT02": "what is returned has a name, as in scikit-learn",
    "SA01": "methods need no 'See Also'; classes have one",
    "EX01": "methods need no example of their own; classes have one",
}
NEEDED_BY_CLASSES = {"SA01", "EX01"}


def public_objects():
    """Every public class, and those of its methods that are ours."""
    for name in skorchless.__all__:
        value = getattr(skorchless, name)
        yield f"skorchless.{name}"
        for method, function in inspect.getmembers(value, callable):
            if not method.startswith("_") and function.__module__.startswith("skorchless"):
                yield f"skorchless.{name}.{method}"


OBJECTS = list(public_objects())


def test_methods_are_found():
    assert len(OBJECTS) >= 20
    assert "skorchless.TorchSoftmaxClassifier.fit" in OBJECTS


def test_docstrings_keep_the_rules():
    for name in OBJECTS:
        is_class = name.count(".") == 1
        ignored = set(NOT_OURS) - (NEEDED_BY_CLASSES if is_class else set())
        found = [error for error in validate(name)["errors"] if error[0] not in ignored]
        assert found == [], name


def test_errors_are_documented_where_they_are_raised():
    for name in skorchless.__all__:
        for method in ("fit", "partial_fit", "from_estimator"):
            documented = getattr(getattr(skorchless, name), method, None)
            assert documented is None or "Raises\n" in documented.__doc__, (name, method)


@pytest.mark.parametrize("name", skorchless.__all__)
def test_examples_print_what_they_say(name):
    value = getattr(skorchless, name)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=flags)
    examples = finder.find(value, name, globs={})
    assert any(test.examples for test in examples)
    for test in examples:
        assert runner.run(test).failed == 0
