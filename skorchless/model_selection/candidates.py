"""Which candidates of a search share a stack, and the transformers that they have in common."""

import contextlib
import copy
import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import joblib
import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_memory

from skorchless.estimators import TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.estimators.base import TorchLinearModel
from skorchless.estimators.batched import has_own_way, stack_key

OURS = (TorchLinearRegressor, TorchSoftmaxClassifier)

#: Types whose values are equal if they are written alike.
PLAIN = (type(None), bool, int, float, str, type)


@dataclass(eq=False)
class Group:
    """Candidates that train together.

    Attributes
    ----------
    members : list of int
        Their places among the candidates.
    estimator : estimator
        The first of them, not fitted: a pipeline, or the last step alone.
    finals : list of estimator
        The last step of each.
    """

    members: list[int]
    estimator: Any
    finals: list[TorchLinearModel]

    def without(self, members: Collection[int]) -> "Group":
        """The group of the other candidates."""
        kept = [i for i, member in enumerate(self.members) if member not in members]
        finals = [self.finals[i] for i in kept]
        return Group([self.members[i] for i in kept], self.estimator, finals)

    def unfitted(self) -> list[TorchLinearModel]:
        """Last steps to fit, which share nothing with others that a fit would change."""
        if has_own_way(self.finals[0]):  # its fit may change any parameter
            return [clone(final) for final in self.finals]
        return [_copy(final) for final in self.finals]


def group_candidates(
    estimator: Any, candidates: Sequence[dict[str, Any]], owner: str
) -> list[Group]:
    """Split candidates into groups that train together.

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
    groups: dict[Any, Group] = {}
    for i, parameters in enumerate(candidates):
        whole = _with_parameters(estimator, parameters)
        check_ours(whole, owner)
        final = final_of(whole)
        if final.distributed:
            raise NotImplementedError(
                f"{owner} does not take distributed=True: its candidates share the rows of one "
                f"process. Set distributed=False, or use {owner.removeprefix('Batched')}."
            )
        in_front = settings_key(with_final(whole, None))
        key = (type(final), has_own_way(final), in_front, _key(final))
        group = groups.setdefault(key, Group([], whole, []))
        group.members.append(i)
        group.finals.append(final)
    return list(groups.values())


def check_ours(estimator: Any, owner: str) -> None:
    """Raise `TypeError` unless the last step is one of ours."""
    final = final_of(estimator)
    if isinstance(final, type) and issubclass(final, OURS):
        raise TypeError(f"{owner} needs an instance. Pass {final.__name__}().")
    if not isinstance(final, OURS):
        raise TypeError(
            f"{owner} trains TorchLinearRegressor and TorchSoftmaxClassifier, alone or as the "
            f"last step of a Pipeline. Got {final!r}. Use scikit-learn's "
            f"{owner.removeprefix('Batched')}, which takes any estimator."
        )


def _key(final: TorchLinearModel) -> Any:
    """The last step's settings that do not stack, those of a subclass's own included.

    An estimator that is not fitted holds its settings and, in private, what was asked of it.
    """
    settings = {name: value for name, value in vars(final).items() if not name.startswith("_")}
    # A parameter that cannot be compared is named by the fit.
    with contextlib.suppress(ValueError, TypeError):
        settings |= stack_key(final._parameters())
    return tuple((name, settings_key(settings[name])) for name in sorted(settings))


def settings_key(value: Any) -> Any:
    """Return something to compare a setting by: equal keys mean equal settings.

    What can be compared neither by itself nor by a hash of its contents is compared by identity.
    """
    if isinstance(value, PLAIN):
        return type(value), repr(value)
    if isinstance(value, list | tuple):
        return type(value), tuple(map(settings_key, value))
    if hasattr(value, "get_params") and not isinstance(value, type):
        settings = value.get_params(deep=False)
        return type(value), tuple((name, settings_key(settings[name])) for name in sorted(settings))
    try:
        return "contents", joblib.hash(value)
    except Exception:  # joblib and pickle raise all kinds
        return "identity", id(value)


def _with_parameters(estimator: Any, parameters: dict[str, Any]) -> Any:
    """A copy with copies of other parameters; quick where all are settings of one of ours."""
    parameters = clone(parameters, safe=False)
    if type(estimator) not in OURS or not parameters.keys() <= vars(estimator).keys():
        return clone(estimator).set_params(**parameters)
    whole = _copy(estimator)
    whole.__dict__.update(parameters)
    return whole


def _copy(model: TorchLinearModel) -> TorchLinearModel:
    """A copy of an unfitted model, in a tenth of the time that `clone` or `copy.copy` take."""
    new = object.__new__(type(model))
    new.__dict__.update(model.__dict__)
    if isinstance(new.random_state, np.random.RandomState):
        new.random_state = copy.deepcopy(new.random_state)
    return new


# Pipelines, whose last step may be a pipeline too.


def final_of(estimator: Any) -> Any:
    """The last step of a pipeline, or the estimator itself."""
    return final_of(estimator.steps[-1][1]) if isinstance(estimator, Pipeline) else estimator


def with_final(estimator: Any, final: Any) -> Any:
    """The same pipeline, its other steps shared, with another last step."""
    if not isinstance(estimator, Pipeline):
        return final
    pipeline = copy.copy(estimator)
    name, last = pipeline.steps[-1]
    pipeline.steps = [*pipeline.steps[:-1], (name, with_final(last, final))]
    return pipeline


def _pipelines(estimator: Any) -> Iterator[Pipeline]:
    while isinstance(estimator, Pipeline):
        yield estimator
        estimator = estimator.steps[-1][1]


class LastStep(BaseEstimator):
    """A stand-in for the last step, which keeps what reaches it and returns it as predictions."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> Self:
        self.received_ = (X, y, fit_params)
        return self

    def predict(self, X: Any) -> Any:
        """What the transformers made of X."""
        return X

    def get_metadata_routing(self) -> Any:
        """Ask for what the real last step asks for."""
        return self.estimator.get_metadata_routing()


class _Memory:
    """A pipeline's memory that fits a transformer once for the same settings and samples.

    It stands in front of the pipeline's own memory, so that the pipeline itself does all the rest:
    metadata, ``set_output`` and ``"passthrough"``.
    """

    #: Tells a pipeline that it has to clone what it fits.
    location = "memory"

    def __init__(self, made: dict[Any, Any], own: Any) -> None:
        self._made, self._own = made, check_memory(own)

    def cache(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        """`function`, called once for the same transformer, samples and step."""
        taken = inspect.signature(self._own.cache).parameters
        cached = self._own.cache(function, **{k: v for k, v in options.items() if k in taken})

        def call(transformer: Any, X: Any, *rest: Any, **options: Any) -> Any:
            passed = settings_key([options.get("message"), options.get("params")])
            key = (settings_key(transformer), id(X), passed)
            if key not in self._made:  # with X, so that it keeps its id
                self._made[key] = X, cached(transformer, X, *rest, **options)
            return self._made[key][1]

        return call


def fit_transformers(
    estimator: Any, X: Any, y: Any, fit_params: dict[str, Any], made: dict[Any, Any]
) -> Any:
    """Fit the transformers of a pipeline; a `LastStep` receives what they make of the samples.

    Parameters
    ----------
    estimator : estimator
        A pipeline, or its last step alone.
    X, y, fit_params
        As ``fit`` takes them.
    made : dict
        Transformers that have been fitted on X before, which are taken from here and added here.

    Returns
    -------
    fitted : estimator
        Its ``predict`` transforms other samples.
    """
    last = LastStep(final_of(estimator))
    if not isinstance(estimator, Pipeline):
        return last.fit(X, y, **fit_params)
    fitted = with_final(clone(estimator), last)
    memories = [(pipeline, pipeline.memory) for pipeline in _pipelines(fitted)]
    for pipeline, own in memories:
        pipeline.memory = _Memory(made, own)
    fitted.fit(X, y, **fit_params)
    for pipeline, own in memories:
        pipeline.memory = own
    return fitted
