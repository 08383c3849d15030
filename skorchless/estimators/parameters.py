"""What each constructor parameter may be, and which of them an optimizer uses."""

import inspect
import warnings
from collections.abc import Callable, Collection, Hashable, Iterable
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


def _are_betas(value: Any) -> bool:
    are_two = isinstance(value, tuple | list) and len(value) == 2
    return are_two and all(number(0.0, 1.0).allows(item) for item in value)


NOTHING = instance(type(None), words="None")
BOOLEAN = instance(bool, np.bool_, words="a bool")
COUNT = number(1, 2**63, whole=True)

PARAMETERS: dict[str, list[Constraint]] = {
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


def check_parameters(model: Any, names: Collection[str] = PARAMETERS) -> None:
    """Raise if a parameter of an estimator makes no sense.

    Parameters
    ----------
    model : TorchLinearModel
    names : collection of str
        The parameters to look at; the rest is known to be sound.

    Raises
    ------
    ValueError
        Naming the parameter, what it may be and what it is. When the type is at fault this is
        also a TypeError.
    """
    owner, parameters = type(model).__name__, model._parameters()
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
WITH_FIRST_ORDER = Use(
    "optimizer='sgd' or 'adam'", lambda optimizer, _: optimizer != "quasi-newton"
)
WITH_EARLY_STOPPING = Use("early_stopping=True", lambda _, given: bool(given["early_stopping"]))

#: The parameters that some optimizers, losses or settings do not use.
USED_WITH: dict[str, Use] = {
    "delta": Use("loss='huber'", lambda _, given: bool(given["loss"] == "huber")),
    "l1_ratio": Use("alpha above 0", lambda _, given: bool(given["alpha"] > 0)),
    "schedule": WITH_FIRST_ORDER,
    "momentum": WITH_SGD,
    "nesterov": WITH_SGD,
    "betas": WITH_ADAM,
    "batch_size": WITH_FIRST_ORDER,
    "shuffle": WITH_FIRST_ORDER,
    "n_iter_no_change": Use(
        f"{WITH_FIRST_ORDER.words}, or {WITH_EARLY_STOPPING.words}",
        lambda *given: WITH_FIRST_ORDER.holds(*given) or WITH_EARLY_STOPPING.holds(*given),
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
        The parameter of `warnings.warn`, counted from the caller.
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
    names = [name for name, used in uses(model, one_pass=one_pass).items() if not used]
    if not names:
        return ""
    words, chosen = in_words(names), ""
    if model.optimizer == "auto" and not one_pass and "optimizer=" in words:
        quasi_newton = chosen_optimizer(model._parameters()) == "quasi-newton"
        name = "the quasi-Newton method" if quasi_newton else "Adam"
        chosen = f" Here optimizer='auto' is {name}."
    owner = type(model).__name__
    return f"Parameters of this {owner} that have no effect: {words}.{chosen}"


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
        check_parameters(model)
    except (ValueError, TypeError):
        return {}
    optimizer = chosen_optimizer(parameters, one_pass=one_pass)
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
