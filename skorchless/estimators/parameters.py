"""What each constructor parameter may be, checked at ``fit`` before any work."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Protocol

import numpy as np
import torch

from skorchless.optimizers import SCHEDULES


class Rule(Protocol):
    """One kind of value that a parameter may have."""

    def allows(self, value: Any) -> bool:
        """Whether `value` is of this kind."""

    def __str__(self) -> str:
        """The kind in words, for an error message."""


@dataclass(frozen=True)
class Number:
    """A real number, or a whole one, between bounds; booleans are none."""

    low: float
    high: float = np.inf
    closed: str = "left"
    whole: bool = False

    def allows(self, value: Any) -> bool:
        kind = Integral if self.whole else Real
        if isinstance(value, bool | np.bool_) or not isinstance(value, kind):
            return False
        try:
            number: Any = value if self.whole else float(value)
        except OverflowError:
            return False
        above = number >= self.low if self.closed in ("left", "both") else number > self.low
        below = number <= self.high if self.closed in ("right", "both") else number < self.high
        return bool(above and below)

    def __str__(self) -> str:
        left = "[" if self.closed in ("left", "both") else "("
        right = "]" if self.closed in ("right", "both") else ")"
        kind = "an int" if self.whole else "a float"
        return f"{kind} in the range {left}{self.low}, {self.high}{right}"


@dataclass(frozen=True)
class Choice:
    """One of some strings."""

    options: Sequence[str]

    def allows(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.options

    def __str__(self) -> str:
        options = ", ".join(map(repr, self.options))
        return options if len(self.options) == 1 else f"one of {{{options}}}"


@dataclass(frozen=True)
class OneOf:
    """An instance of some types, described in words."""

    types: tuple[type, ...]
    words: str

    def allows(self, value: Any) -> bool:
        if isinstance(value, bool) and bool not in self.types:  # to Python it is an int
            return False
        return isinstance(value, self.types)

    def __str__(self) -> str:
        return self.words


class Pair:
    """Two numbers in [0, 1), as Adam's betas."""

    def allows(self, value: Any) -> bool:
        number = Number(0.0, 1.0)
        return (
            isinstance(value, tuple | list)
            and len(value) == 2
            and all(number.allows(item) for item in value)
        )

    def __str__(self) -> str:
        return "a pair of floats in the range [0.0, 1.0)"


NOTHING = OneOf((type(None),), "None")
BOOLEAN = OneOf((bool, np.bool_), "a bool")
AUTO = Choice(["auto"])

PARAMETERS: dict[str, list[Rule]] = {
    "loss": [Choice(["squared_error", "huber"])],
    "delta": [Number(0.0, closed="neither")],
    "alpha": [Number(0.0)],
    "l1_ratio": [Number(0.0, 1.0, closed="both")],
    "fit_intercept": [BOOLEAN],
    "optimizer": [Choice(["auto", "sgd", "adam"])],
    "learning_rate": [Number(0.0, closed="neither"), AUTO],
    "schedule": [Choice(list(SCHEDULES))],
    "momentum": [Number(0.0, 1.0)],
    "nesterov": [BOOLEAN],
    "betas": [Pair()],
    "batch_size": [Number(1, 2**63, whole=True), NOTHING, AUTO],
    "max_iter": [Number(1, 2**63, whole=True)],
    "tol": [Number(0.0), NOTHING],
    "n_iter_no_change": [Number(1, 2**63, whole=True)],
    "shuffle": [BOOLEAN],
    "early_stopping": [BOOLEAN],
    "validation_fraction": [Number(0.0, 1.0, closed="neither")],
    "class_weight": [OneOf((dict,), "a dict"), Choice(["balanced"]), NOTHING],
    "warm_start": [BOOLEAN],
    "device": [OneOf((str, int, torch.device), "'auto' or whatever torch.device takes")],
    "distributed": [BOOLEAN],
    "random_state": [
        Number(0, 2**63, whole=True),
        OneOf((np.random.RandomState,), "a numpy.random.RandomState"),
        NOTHING,
    ],
    "verbose": [Number(0, 2**63, whole=True), BOOLEAN],
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
            words = [str(rule) for rule in rules]
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
