"""Candidates that one stack can train: they differ only in numbers that stack."""

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import clone

from skorchless.estimators import TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.estimators.base import TorchLinearModel
from skorchless.estimators.candidates import stack_key
from skorchless.estimators.together import has_own_way
from skorchless.model_selection.pipelines import final_name, final_of, token

OURS = (TorchLinearRegressor, TorchSoftmaxClassifier)


@dataclass(eq=False)
class Group:
    """Candidates of one stack.

    Attributes
    ----------
    members : list of int
        Their places among the candidates.
    estimator : estimator
        The first of them, not fitted: a pipeline or its last step alone.
    finals : list of estimator
        The last step of each.
    makers : list of callable
        Makes the whole of each anew.
    """

    members: list[int]
    estimator: Any
    finals: list[TorchLinearModel]
    makers: list[Callable[[], Any]]

    def without(self, members: Collection[int]) -> "Group":
        """The group of the other candidates."""
        kept = [i for i, member in enumerate(self.members) if member not in members]
        return Group(
            [self.members[i] for i in kept],
            self.estimator,
            [self.finals[i] for i in kept],
            [self.makers[i] for i in kept],
        )

    def unfitted(self) -> list[TorchLinearModel]:
        """Last steps to fit, that share nothing with others that a fit would move."""
        if has_own_way(self.finals[0]):  # a fit that is not ours may move anything
            return [final_of(make()) for make in self.makers]
        return [_unfitted(final) for final in self.finals]


def group(estimator: Any, candidates: Sequence[dict[str, Any]], owner: str) -> list[Group]:
    """Split candidates into groups that stack.

    Parameters
    ----------
    estimator : estimator
        One of ours, or a pipeline that ends in one or in what the candidates replace by one.
    candidates : sequence of dict
        Parameters to set on it.
    owner : str
        Name of the search, for errors.

    Raises
    ------
    TypeError
        For a candidate that is any other estimator.
    NotImplementedError
        For ``distributed=True``.
    """
    prefix = final_name(estimator)
    names = sorted(
        {name for candidate in candidates for name in candidate if not _is_of(name, prefix)}
    )
    defaults = {name: value for name, value in estimator.get_params().items() if name in names}
    groups: dict[Any, Group] = {}
    for i, parameters in enumerate(candidates):
        make = partial(_with_parameters, estimator, parameters)
        whole = make()
        check_ours(whole, owner)
        final = final_of(whole)
        if final.distributed:
            raise NotImplementedError(
                f"{owner} does not take distributed=True: its candidates share the rows of one "
                f"process. Set distributed=False, or use {owner.removeprefix('Batched')}."
            )
        in_front = tuple(token(parameters.get(name, defaults.get(name))) for name in names)
        key = (type(final), in_front, _final_key(final))
        if key not in groups:
            groups[key] = Group([], whole, [], [])
        groups[key].members.append(i)
        groups[key].finals.append(final)
        groups[key].makers.append(make)
    return list(groups.values())


def check_ours(estimator: Any, owner: str) -> None:
    """Raise `TypeError` unless the last step is one of ours."""
    final = final_of(estimator)
    if not isinstance(final, OURS):
        raise TypeError(
            f"{owner} trains TorchLinearRegressor and TorchSoftmaxClassifier, alone or as the "
            f"last step of a Pipeline. Got {final!r}. Use scikit-learn's "
            f"{owner.removeprefix('Batched')}, which takes any estimator."
        )


def check_instance(estimator: Any, owner: str) -> None:
    """Raise `TypeError` if one of our classes is in the place of an instance."""
    final = final_of(estimator)
    if isinstance(final, type) and issubclass(final, OURS):
        raise TypeError(f"{owner} needs an instance. Pass {final.__name__}().")


def _is_of(name: str, prefix: str) -> bool:
    """Whether a parameter belongs to the last step."""
    return name.startswith(prefix) and "__" not in name.removeprefix(prefix)


def _final_key(final: TorchLinearModel) -> Any:
    """The last step's settings that do not stack, those of a subclass's own included.

    An estimator that is not fitted holds its settings and, in private, what was asked of it.
    """
    own = {name: value for name, value in vars(final).items() if not name.startswith("_")}
    try:
        settings = {**own, **stack_key(final._parameters())}
    except (ValueError, TypeError):  # a parameter that cannot be compared, as its fit will say
        settings = own
    return tuple((name, token(settings[name])) for name in sorted(settings))


def _with_parameters(estimator: Any, parameters: dict[str, Any]) -> Any:
    """A copy with copies of other parameters; quick where all are settings of one of ours."""
    parameters = clone(parameters, safe=False)
    plain = type(estimator) in OURS and parameters.keys() <= vars(estimator).keys()
    if not plain:
        return clone(estimator).set_params(**parameters)
    whole = _copy(estimator)
    whole.__dict__.update(parameters)
    return whole


def _unfitted(final: TorchLinearModel) -> TorchLinearModel:
    model = _copy(final)
    if isinstance(model.random_state, np.random.RandomState):
        model.random_state = copy.deepcopy(model.random_state)
    return model


def _copy(model: TorchLinearModel) -> TorchLinearModel:
    """As `copy.copy`, which takes ten times as long because it asks how to pickle."""
    new = object.__new__(type(model))
    new.__dict__.update(model.__dict__)
    return new
