"""Parameters that the chosen optimizer, loss or settings do not use, and the warning that says so.

A fit warns once, and so does a search for all its candidates.
"""

import inspect
import warnings
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from skorchless.estimators.parameters import Parameters, check_parameters, chosen_optimizer


class Use(NamedTuple):
    """When a parameter has an effect.

    Attributes
    ----------
    words : str
        The condition as a user would write it.
    holds : callable
        Whether it holds, given the name of the optimizer that runs and all parameters.
    """

    words: str
    holds: Callable[[str, Parameters], bool]


WITH_SGD = Use("optimizer='sgd'", lambda optimizer, _: optimizer == "sgd")
WITH_ADAM = Use("optimizer='adam'", lambda optimizer, _: optimizer == "adam")
WITH_EITHER = Use("optimizer='sgd' or 'adam'", lambda optimizer, _: optimizer in ("sgd", "adam"))
WITH_EARLY_STOPPING = Use("early_stopping=True", lambda _, given: bool(given["early_stopping"]))

#: The parameters that some optimizers, losses or settings do not use.
USED_WITH: dict[str, Use] = {
    "delta": Use("loss='huber'", lambda _, given: bool(given["loss"] == "huber")),
    "l1_ratio": Use("alpha above 0", lambda _, given: bool(given["alpha"] > 0)),
    "schedule": WITH_EITHER,
    "momentum": WITH_SGD,
    "nesterov": WITH_SGD,
    "betas": WITH_ADAM,
    "batch_size": WITH_EITHER,
    "shuffle": WITH_EITHER,
    "n_iter_no_change": Use(
        f"{WITH_EITHER.words}, or {WITH_EARLY_STOPPING.words}",
        lambda *given: WITH_EITHER.holds(*given) or WITH_EARLY_STOPPING.holds(*given),
    ),
    "validation_fraction": WITH_EARLY_STOPPING,
}

#: For an estimator that was cloned, what its clones have warned of; for a clone, the same set.
#: scikit-learn's searches fit clones of one estimator and undo Python's own memory of what has been
#: shown. A subclass that cannot be hashed is not remembered, and warns each time.
_said_by_clones: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
_said_before: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


def note_clone(model: Any, clone: Any) -> None:
    """Let clones of one estimator warn of the same thing once."""
    if isinstance(model, Hashable):
        _said_before[clone] = _said_by_clones.setdefault(model, set())


def warn_of_unused(model: Any, *, one_pass: bool = False, stacklevel: int) -> None:
    """Warn of parameters of an estimator that have no effect, unless another clone has done so.

    Parameters
    ----------
    model : TorchLinearModel
    one_pass : bool
        Whether `partial_fit` is about to make a pass, with Adam in the quasi-Newton method's place.
    stacklevel : int
        As of `warnings.warn`, counted from the caller.
    """
    text = _text(model, one_pass=one_pass)
    said = _said_before.get(model, set()) if isinstance(model, Hashable) else set()
    if text and text not in said:
        warnings.warn(text, UserWarning, stacklevel=stacklevel + 1)
        said.add(text)


def keep_quiet(model: Any) -> None:
    """Let the fits of an estimator not warn of what a search has warned of already."""
    if isinstance(model, Hashable):
        _said_before[model] = {_text(model)}


def _text(model: Any, *, one_pass: bool = False) -> str:
    """The warning, without any values, so that it is the same for candidates of a search."""
    names = unused(model, one_pass=one_pass)
    if not names:
        return ""
    words, chosen = in_words(names), ""
    if model.optimizer == "auto" and not one_pass and "optimizer=" in words:
        quasi_newton = chosen_optimizer(model._parameters()) == "quasi-newton"
        name = "the quasi-Newton method" if quasi_newton else "Adam"
        chosen = f" Here optimizer='auto' is {name}."
    owner = type(model).__name__
    return f"Parameters of this {owner} that have no effect: {words}.{chosen}"


def unused(model: Any, *, one_pass: bool = False) -> list[str]:
    """Names of the parameters of an estimator that are not at their defaults and have no effect."""
    return [name for name, used in uses(model, one_pass=one_pass).items() if not used]


def unused_by_all(models: Iterable[Any]) -> list[str]:
    """Names of the parameters that some estimators have and none of these uses."""
    names: dict[str, bool] = {}
    for model in models:
        for name, used in uses(model).items():
            names[name] = names.get(name, False) or used
    return [name for name, used in names.items() if not used]


def uses(model: Any, *, one_pass: bool = False) -> dict[str, bool]:
    """Whether an estimator uses each parameter in USED_WITH that is not at its default.

    There is no answer where a parameter makes no sense: `fit` says so for itself.
    """
    parameters = model._parameters()
    changed = [
        name
        for name in USED_WITH.keys() & parameters.keys()
        if parameters[name] is not getattr(type(model), name)
    ]
    if not changed:
        return {}
    try:
        check_parameters(type(model).__name__, parameters)
    except (ValueError, TypeError):
        return {}
    optimizer = chosen_optimizer(parameters)
    if one_pass and optimizer == "quasi-newton":
        optimizer = "adam"
    return {
        name: USED_WITH[name].holds(optimizer, parameters)
        for name in sorted(changed)
        if not _is_default(type(model), name, parameters[name])
    }


def _is_default(estimator: type, name: str, value: Any) -> bool:
    """Whether a parameter is at its default, in a subclass that has another one too."""
    if isinstance(value, list):  # a pair
        value = tuple(value)
    if value == getattr(estimator, name):
        return True
    own = inspect.signature(estimator).parameters.get(name)
    return own is not None and bool(value == own.default)


def in_words(names: Iterable[str]) -> str:
    """Parameters, each with what it is used with."""
    return ", ".join(f"{name} (used only with {USED_WITH[name].words})" for name in names)
