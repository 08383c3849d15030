"""A pipeline's transformers, fitted once for all candidates that share their settings."""

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import joblib
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_memory

#: Types whose values are as good as their names.
PLAIN = (type(None), bool, int, float, str, type)


def final_name(estimator: Any) -> str:
    """What the names of the last step's parameters begin with: ``""`` for no pipeline."""
    if not isinstance(estimator, Pipeline):
        return ""
    name, last = estimator.steps[-1]
    return f"{name}__{final_name(last)}"


def final_of(estimator: Any) -> Any:
    """The last step, of nested pipelines too, or the estimator itself."""
    return final_of(estimator.steps[-1][1]) if isinstance(estimator, Pipeline) else estimator


def with_final(estimator: Any, final: Any) -> Any:
    """The same pipeline, its other steps shared, with another last step."""
    if not isinstance(estimator, Pipeline):
        return final
    pipeline = copy.copy(estimator)
    name, last = pipeline.steps[-1]
    pipeline.steps = [*pipeline.steps[:-1], (name, with_final(last, final))]
    return pipeline


def token(value: Any) -> Any:
    """Something to compare a setting by: equal tokens mean equal settings.

    What can be compared neither by itself nor by a hash of its contents is compared by identity.
    """
    if isinstance(value, PLAIN):
        return type(value), repr(value)
    if hasattr(value, "get_params") and not isinstance(value, type):
        settings = value.get_params(deep=False)
        return type(value), tuple((name, token(settings[name])) for name in sorted(settings))
    try:
        return "contents", joblib.hash(value)
    except Exception:  # joblib and pickle raise all kinds
        return "identity", id(value)


class _Last(BaseEstimator):
    """Takes the last step's place and keeps what reaches it."""

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

    def __sklearn_clone__(self) -> Self:
        return type(self)(self.estimator)


class FittedSteps:
    """What transformers made of one fold's rows, by their settings.

    It stands between a pipeline and its ``memory``, so the pipeline itself does all the rest:
    metadata, ``set_output``, ``"passthrough"``, and its own cache if it has one.
    """

    #: Tells a pipeline that it has to clone what it fits.
    location = "memory"

    def __init__(self) -> None:
        self._made: dict[Any, Any] = {}

    def behind(self, memory: Any) -> "_Cache":
        """The same in front of a pipeline's own memory."""
        return _Cache(self._made, check_memory(memory))


@dataclass(eq=False)
class _Cache:
    made: dict[Any, Any]
    memory: Any
    location: str = FittedSteps.location

    def cache(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        """`function`, called once for the same transformer, rows and step."""
        taken = inspect.signature(self.memory.cache).parameters
        known = {name: value for name, value in options.items() if name in taken}
        return partial(self._call, function, self.memory.cache(function, **known))

    def _call(
        self,
        function: Callable[..., Any],
        cached: Callable[..., Any],
        transformer: Any,
        X: Any,
        *rest: Any,
        **options: Any,
    ) -> Any:
        key = (function.__name__, options.get("message"), token(transformer), id(X))
        if key not in self.made:
            self.made[key] = X, cached(transformer, X, *rest, **options)  # X keeps its id
        return self.made[key][1]


@dataclass(eq=False)
class Rows:
    """What reaches the last step, and the transformers that brought it there.

    Attributes
    ----------
    fitted : estimator
        A fitted pipeline whose last step passes rows on, or that step alone.
    X, y : array-like
    fit_params : dict
    """

    fitted: Any
    X: Any
    y: Any
    fit_params: dict[str, Any]

    def transform(self, X: Any) -> Any:
        """Other rows as they reach the last step."""
        return self.fitted.predict(X)


def rows_of(
    estimator: Any, X: Any, y: Any, fit_params: dict[str, Any], fitted_steps: FittedSteps
) -> Rows:
    """Fit the transformers in front of the last step, or take them from `fitted_steps`."""
    last = _Last(final_of(estimator))
    fitted = with_final(clone(estimator), last) if isinstance(estimator, Pipeline) else last
    with _sharing(fitted, fitted_steps):
        fitted.fit(X, y, **fit_params)
    return Rows(fitted, *final_of(fitted).received_)


@contextlib.contextmanager
def _sharing(estimator: Any, fitted_steps: FittedSteps) -> Iterator[None]:
    """Put `fitted_steps` in front of the memory of a pipeline and of those inside it."""
    memories: Sequence[tuple[Any, Any]] = [(p, p.memory) for p in _pipelines(estimator)]
    try:
        for pipeline, memory in memories:
            pipeline.memory = fitted_steps.behind(memory)
        yield
    finally:
        for pipeline, memory in memories:
            pipeline.memory = memory


def _pipelines(estimator: Any) -> Iterator[Any]:
    while isinstance(estimator, Pipeline):
        yield estimator
        estimator = estimator.steps[-1][1]
