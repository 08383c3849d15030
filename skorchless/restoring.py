"""Settings are put back and changes undone, wherever Ctrl-C falls.

A context manager written in Python has gaps: after its beginning and before its end, an interrupt
skips the end, or leaves it to whoever drops the traceback. Here the ``try`` comes before the
change, and what undoes it is called again if an interrupt may have cut it short.
"""

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


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
