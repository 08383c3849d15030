"""Settings are put back and changes undone, wherever Ctrl-C falls.

A context manager written in Python has gaps: after its beginning and before its end, an interrupt
skips the end, or leaves it to whoever drops the traceback. Here the ``try`` comes before the
change, and what undoes it is called again if an interrupt may have cut it short.
"""

import threading
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

T = TypeVar("T")
P = ParamSpec("P")


def between(
    change: Callable[[], object], put_back: Callable[[], object], run: Callable[[], T]
) -> T:
    """Return what `run` gives, called after `change` and before `put_back`.

    Parameters
    ----------
    change : callable
    put_back : callable
        Called twice, and whether or not `change` has come to its end.
    run : callable
    """
    try:
        try:
            change()
            return run()
        finally:
            put_back()
    finally:
        put_back()


class _Changes(threading.local):
    """How the functions that run in a thread have changed its settings, the first one first."""

    def __init__(self) -> None:
        self.made: list[tuple[Callable[[], object], Callable[[], object]]] = []


_changes = _Changes()


def with_setting(
    change: Callable[[], object], put_back: Callable[[], object], run: Callable[[], T]
) -> T:
    """As `between`, but `as_before` takes the change back for a while.

    Parameters
    ----------
    change, put_back : callable
        They may be called any number of times, several times in a row too.
    run : callable
    """
    made = _changes.made

    def begin() -> None:
        _changes.made = [*made, (change, put_back)]
        change()

    def end() -> None:
        _changes.made = made
        put_back()

    return between(begin, end, run)


def as_before(run: Callable[[], T]) -> T:
    """Call `run` in the settings that this thread had before all changes."""
    made = _changes.made
    for change, put_back in made:
        run = partial(between, put_back, change, run)
    return between(
        partial(setattr, _changes, "made", []), partial(setattr, _changes, "made", made), run
    )


def as_now() -> Callable[[Callable[[], T]], T]:
    """Something that calls a function in the settings of now, when `as_before` is at work."""
    made = _changes.made

    def call(run: Callable[[], T]) -> T:
        for change, put_back in reversed(made):
            run = partial(with_setting, change, put_back, run)
        return run()

    return call


def undone_on_error(run: Callable[[], T], undo: Callable[[], object]) -> T:
    """Return what `run` gives; if it raises, call `undo`, twice, before the error goes on.

    Parameters
    ----------
    run : callable
    undo : callable
        An interrupt may cut short its second call as well. It must therefore pass through no state
        that is worse than the one it finds, and should make its change in a single step.
    """
    try:
        try:
            return run()
        except BaseException:
            undo()
            raise
    except BaseException:
        undo()
        raise


def restore(instance: Any, attributes: dict[str, Any]) -> None:
    """Give an object the attributes that it had, and no others, in a single step."""
    instance.__dict__ = dict(attributes)


def without_numpy_warnings(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that looks itself at what overflows or is invalid in it."""

    @wraps(function)
    def quiet(*arguments: P.args, **named: P.kwargs) -> T:
        before = np.geterr()
        return with_setting(
            partial(np.seterr, all="ignore"),
            partial(np.seterr, **before),
            partial(function, *arguments, **named),
        )

    return quiet
