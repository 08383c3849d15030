"""What each constructor parameter may be, checked at ``fit`` before any work."""

from collections.abc import Callable, Collection
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch

from skorchless.optimizers import SCHEDULES

Parameters = dict[str, Any]

#: Samples a batch when the user leaves it to us.
DEFAULT_BATCH = 256


class Rule(NamedTuple):
    """One kind of value that a parameter may have, and the words for it in an error message."""

    allows: Callable[[Any], bool]
    words: str


def number(low: float, high: float = np.inf, bounds: str = "[)", *, whole: bool = False) -> Rule:
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

    return Rule(allows, f"{word} in the range {bounds[0]}{low}, {high}{bounds[1]}")


def choice(*options: str) -> Rule:
    """One of some strings."""
    words = ", ".join(repr(option) for option in options)
    words = words if len(options) == 1 else f"one of {{{words}}}"
    return Rule(lambda value: isinstance(value, str) and value in options, words)


def instance(*types: type, words: str) -> Rule:
    """An instance of some types; a boolean, which Python counts as an int, only by its own name."""

    def allows(value: Any) -> bool:
        return isinstance(value, types) and (bool in types or not isinstance(value, bool))

    return Rule(allows, words)


def _are_betas(value: Any) -> bool:
    are_two = isinstance(value, tuple | list) and len(value) == 2
    return are_two and all(number(0.0, 1.0).allows(item) for item in value)


NOTHING = instance(type(None), words="None")
BOOLEAN = instance(bool, np.bool_, words="a bool")
COUNT = number(1, 2**63, whole=True)

PARAMETERS: dict[str, list[Rule]] = {
    "loss": [choice("squared_error", "huber")],
    "delta": [number(0.0, bounds="()")],
    "alpha": [number(0.0)],
    "l1_ratio": [number(0.0, 1.0, bounds="[]")],
    "fit_intercept": [BOOLEAN],
    "optimizer": [choice("auto", "sgd", "adam")],
    "learning_rate": [number(0.0, bounds="()"), choice("auto")],
    "schedule": [choice(*SCHEDULES)],
    "momentum": [number(0.0, 1.0)],
    "nesterov": [BOOLEAN],
    "betas": [Rule(_are_betas, "a pair of floats in the range [0.0, 1.0)")],
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


def check_parameters(
    owner: str, parameters: dict[str, Any], names: Collection[str] = PARAMETERS
) -> None:
    """Raise if a parameter makes no sense.

    Parameters
    ----------
    owner : str
        The estimator's name, for the message.
    parameters : dict
        Values of the parameters in PARAMETERS that it has.
    names : collection of str
        Those of them to look at; the rest is known to be sound.

    Raises
    ------
    ValueError
        Naming the parameter, what it may be and what it is. When the type is at fault this is
        also a TypeError.
    """
    for name, value in parameters.items():
        if name not in names:
            continue
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


def chosen_optimizer(parameters: Parameters) -> str:
    """Return the optimizer that ``optimizer`` and ``learning_rate`` ask for."""
    if parameters["optimizer"] != "auto":
        return str(parameters["optimizer"])
    return "quasi-newton" if parameters["learning_rate"] == "auto" else "adam"


def batch_rows(parameters: Parameters, n: int) -> int:
    """Return how many of `n` samples SGD or Adam take a step on."""
    batch = parameters["batch_size"]
    if batch is None:
        return n
    return min(n, DEFAULT_BATCH if batch == "auto" else int(batch))
