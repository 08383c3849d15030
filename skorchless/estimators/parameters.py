"""What each constructor parameter may be, and which of them an optimizer uses."""

import warnings
from collections.abc import Callable, Hashable, Iterable
from numbers import Integral, Real
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch

from skorchless.estimators import limits
from skorchless.optimizers import SCHEDULES

Parameters = dict[str, Any]


class Constraint(NamedTuple):
    """One kind of value that a parameter may have, and the words for it in an error message."""

    allows: Callable[[Any], bool]
    words: str


def number(
    low: float, high: float = np.inf, bounds: str = "[)", *, whole: bool = False
) -> Constraint:
    """A real number, or a whole one, between bounds that belong to it or not; no boolean."""
    kind, word = (Integral, "an int") if whole else (Real, "a float")

    def allows(value: Any) -> bool:
        if isinstance(value, bool | np.bool_) or not isinstance(value, kind):
            return False
        try:
            size: Any = value if whole else float(value)
        except OverflowError:
            return False
        inside = low < size < high
        return bool(inside or (size == low and "[" in bounds) or (size == high and "]" in bounds))

    return Constraint(allows, f"{word} in the range {bounds[0]}{low}, {high}{bounds[1]}")


def choice(*options: str) -> Constraint:
    """One of some strings."""
    words = ", ".join(repr(option) for option in options)
    words = words if len(options) == 1 else f"one of {{{words}}}"
    return Constraint(lambda value: isinstance(value, str) and value in options, words)


def instance(*types: type, words: str) -> Constraint:
    """An instance of some types; a boolean, which Python counts as an int, only by its own name."""

    def allows(value: Any) -> bool:
        return isinstance(value, types) and (bool in types or not isinstance(value, bool))

    return Constraint(allows, words)


NOTHING = instance(type(None), words="None")
BOOLEAN = instance(bool, np.bool_, words="a bool")
COUNT = number(1, 2**63, whole=True)
DECAY = number(0.0, 1.0)


def _are_betas(value: Any) -> bool:
    are_two = isinstance(value, tuple | list) and len(value) == 2
    return are_two and all(map(DECAY.allows, value))


PARAMETERS: dict[str, list[Constraint]] = {
    "loss": [choice("squared_error", "huber")],
    "delta": [number(0.0, bounds="()")],
    "alpha": [number(0.0)],
    "l1_ratio": [number(0.0, 1.0, bounds="[]")],
    "fit_intercept": [BOOLEAN],
    "optimizer": [choice("auto", "sgd", "adam")],
    "learning_rate": [number(0.0, bounds="()"), choice("auto")],
    "schedule": [choice(*SCHEDULES)],
    "momentum": [DECAY],
    "nesterov": [BOOLEAN],
    "betas": [Constraint(_are_betas, "a pair of floats in the range [0.0, 1.0)")],
    "batch_size": [COUNT, NOTHING, choice("auto")],
    "max_iter": [COUNT],
    "tol": [number(0.0), NOTHING],
    "n_iter_no_change": [COUNT],
    "shuffle": [BOOLEAN],
    "early_stopping": [BOOLEAN],
    "validation_fraction": [number(0.0, 1.0, bounds="()")],
    "class_weight": [instance(dict, words="a dict"), choice("balanced"), NOTHING],
    "warm_start": [BOOLEAN],
    "device": [instance(str, int, torch.device, words="'auto' or whatever torch.device takes")],
    "distributed": [BOOLEAN],
    "random_state": [
        number(0, 2**63, whole=True),
        instance(np.random.RandomState, words="a numpy.random.RandomState"),
        NOTHING,
    ],
    "verbose": [number(0, 2**63, whole=True), BOOLEAN],
}


def check_parameters(model: Any) -> None:
    """Raise if a parameter of an estimator makes no sense.

    Raises
    ------
    ValueError
        Naming the parameter, what it may be and what it is. When the type is at fault this is
        also a TypeError.
    """
    owner, parameters = type(model).__name__, model._parameters()
    for name, value in parameters.items():
        rules = PARAMETERS[name]
        if not any(rule.allows(value) for rule in rules):
            words = [rule.words for rule in rules]
            allowed = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
            is_schedule = name == "learning_rate" and PARAMETERS["schedule"][0].allows(value)
            hint = f" Did you mean schedule={value!r}?" if is_schedule else ""
            raise InvalidParameterError(
                f"The {name!r} parameter of {owner} must be {allowed}. Got {shown(value)} "
                f"instead.{hint}"
            )
    if parameters["nesterov"] and parameters["optimizer"] == "sgd" and parameters["momentum"] == 0:
        raise InvalidParameterError(
            f"The 'nesterov' parameter of {owner} must be False unless 'momentum' is above 0. "
            "Got nesterov=True and momentum=0."
        )


def shown(value: Any) -> str:
    """A value as it is written, if it can be."""
    try:
        return repr(value)
    except ValueError:  # whole numbers of thousands of digits
        return f"a {type(value).__name__} of too many digits"


class InvalidParameterError(ValueError, TypeError):
    """A constructor parameter has a value or type that it may not have."""


def chosen_optimizer(parameters: Parameters, *, one_pass: bool = False) -> str:
    """Return the optimizer that ``optimizer`` and ``learning_rate`` ask for.

    The `one_pass` of ``partial_fit`` is never the quasi-Newton method's.
    """
    if parameters["optimizer"] != "auto":
        return str(parameters["optimizer"])
    return "quasi-newton" if parameters["learning_rate"] == "auto" and not one_pass else "adam"


def batch_rows(parameters: Parameters, n: int) -> int:
    """Return how many of `n` samples SGD or Adam take a step on."""
    batch = parameters["batch_size"]
    if batch is None:
        return n
    return min(n, limits.DEFAULT_BATCH if batch == "auto" else int(batch))


FIRST_ORDER = "optimizer='sgd' or 'adam'"

#: With what some parameters have an effect: in words, and as a function of the name of the
#: optimizer that runs and of all parameters.
USED_WITH: dict[str, tuple[str, Callable[[str, Parameters], bool]]] = {
    "delta": ("loss='huber'", lambda _, given: bool(given["loss"] == "huber")),
    "l1_ratio": ("alpha above 0", lambda _, given: bool(given["alpha"] > 0)),
    "schedule": (FIRST_ORDER, lambda name, _: name != "quasi-newton"),
    "momentum": ("optimizer='sgd'", lambda name, _: name == "sgd"),
    "nesterov": ("optimizer='sgd'", lambda name, _: name == "sgd"),
    "betas": ("optimizer='adam'", lambda name, _: name == "adam"),
    "batch_size": (FIRST_ORDER, lambda name, _: name != "quasi-newton"),
    "shuffle": (FIRST_ORDER, lambda name, _: name != "quasi-newton"),
    "n_iter_no_change": (
        f"{FIRST_ORDER}, or early_stopping=True",
        lambda name, given: name != "quasi-newton" or bool(given["early_stopping"]),
    ),
    "validation_fraction": ("early_stopping=True", lambda _, given: bool(given["early_stopping"])),
}

#: What an estimator and its clones, all of which are keys, have warned of. scikit-learn's searches
#: fit clones of one estimator and undo Python's own memory of what has been shown. A subclass that
#: cannot be hashed is not remembered, and warns each time.
_warned_of: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


def note_clone(model: Any, clone: Any) -> None:
    """Let an estimator and its clones warn of the same thing once."""
    if isinstance(model, Hashable):
        _warned_of[clone] = _warned_of.setdefault(model, set())


def keep_quiet(model: Any) -> None:
    """Let the fits of an estimator not warn of what a search has warned of already."""
    if isinstance(model, Hashable):
        _warned_of[model] = {unused([model])}


def warn_of_unused(model: Any, *, one_pass: bool = False, stacklevel: int) -> None:
    """Warn of parameters of an estimator that have no effect, unless a clone has done so.

    Parameters
    ----------
    model : TorchLinearModel
    one_pass : bool
        Whether `partial_fit` is about to make a pass, with Adam in the quasi-Newton method's place.
    stacklevel : int
        The parameter of `warnings.warn`, counted from the caller.
    """
    words = unused([model], one_pass=one_pass)
    said = _warned_of.get(model, set()) if words and isinstance(model, Hashable) else set()
    if words and words not in said:
        owner = type(model).__name__
        text = f"Parameters of this {owner} that have no effect: {words}."
        warnings.warn(text, UserWarning, stacklevel=stacklevel + 1)
        said.add(words)


def unused(models: Iterable[Any], *, one_pass: bool = False) -> str:
    """Name parameters that some estimators set and none of them uses, and what they need.

    The values are not named, so that the text is the same for all candidates of a search. An
    estimator whose parameters are invalid is left out: its `fit` raises an error.
    """
    used: dict[str, bool] = {}
    for model in models:
        parameters, defaults = model._parameters(), type(model)
        names = sorted(USED_WITH.keys() & parameters.keys())
        changed = [name for name in names if parameters[name] is not getattr(defaults, name)]
        if not changed:
            continue
        try:
            check_parameters(model)
        except (ValueError, TypeError):
            continue
        optimizer = chosen_optimizer(parameters, one_pass=one_pass)
        for name in changed:
            value = parameters[name]
            if (tuple(value) if isinstance(value, list) else value) != getattr(defaults, name):
                used[name] = used.get(name, False) or USED_WITH[name][1](optimizer, parameters)
    names = [name for name in used if not used[name]]
    return ", ".join(f"{name} (used only with {USED_WITH[name][0]})" for name in names)
