"""Several estimators fitted on the same rows at once, each as it would be fitted alone."""

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import clone

from skorchless.estimators import inputs
from skorchless.estimators.alphas import fit_candidates
from skorchless.estimators.base import TorchLinearModel
from skorchless.estimators.callbacks import (
    Callbacks,
    FitWatcher,
    StackWatcher,
    has_callbacks,
    let_go,
)
from skorchless.estimators.candidates import STACKED, models_a_stack, share_steps, size_of
from skorchless.estimators.out_of_memory import memory_errors
from skorchless.estimators.parameters import PARAMETERS, check_parameters
from skorchless.estimators.predictions import raw_predictions
from skorchless.estimators.task import Task
from skorchless.estimators.unused import keep_quiet
from skorchless.estimators.working_columns import FoldBack
from skorchless.optimizers.least_squares import Comoments
from skorchless.restoring import without_numpy_warnings

#: What a fit is made of that `fit_prepared` does not call, and `predict_together` neither.
PASSED_OVER = ("fit", "_fit", "_train", "_raw_predictions")


@dataclass(eq=False)
class Verdict:
    """How the fit of one of several estimators went.

    Attributes
    ----------
    error : Exception or None
        What its own ``fit`` would have raised. The estimator is then not fitted.
    converged : bool
        False if its own ``fit`` would have warned that it did not converge.
    loss_curve : ndarray of shape (n_iter,)
        Of a failed fit, what it had recorded until then.
    """

    error: Exception | None = None
    converged: bool = True
    loss_curve: np.ndarray = field(default_factory=lambda: np.empty(0))


@dataclass(eq=False)
class Prepared:
    """Estimators of one `stack_key` and the checked rows that they are to be fitted on.

    Attributes
    ----------
    models : list of TorchLinearModel
        Those whose parameters make sense.
    verdicts : list of Verdict
        Theirs.
    task : Task or None
        None if there are no such models, or if each is fitted by its own ``fit``.
    learned : dict
        Attributes that they owe to the rows alone.
    X, y : array-like
    fit_params : dict
        As they were passed.
    """

    models: list[TorchLinearModel]
    verdicts: list[Verdict]
    task: Task | None
    learned: dict[str, Any]
    X: Any
    y: Any
    fit_params: dict[str, Any]


def has_own_way(model: TorchLinearModel) -> bool:
    """Whether a subclass fits or predicts in a way of its own, which a stack would pass over."""
    ours = next(base for base in type(model).__mro__ if TorchLinearModel in base.__bases__)
    return any(getattr(type(model), name) is not getattr(ours, name) for name in PASSED_OVER)


@memory_errors()
def prepare(
    models: Sequence[TorchLinearModel],
    X: Any,
    y: Any,
    *,
    comoments: Comoments | None = None,
    **fit_params: Any,
) -> tuple[list[Verdict], Prepared]:
    """Check estimators, and the rows that they are to be fitted on with `fit_prepared`.

    Parameters
    ----------
    models : sequence of TorchLinearModel
        Of one class and `stack_key`, not fitted yet.
    X, y, **fit_params
        As ``fit`` takes them.
    comoments : Comoments, optional
        Of X and y, if somebody has them already.

    Returns
    -------
    verdicts : list of Verdict
        One a model, in which `fit_prepared` will write down how its fit went.
    prepared : Prepared

    Raises
    ------
    Exception
        Whatever every ``fit`` would raise alike, because X or y are at fault.
    """
    if has_own_way(models[0]):
        verdicts = [Verdict() for _ in models]
        return verdicts, Prepared(list(models), verdicts, None, {}, X, y, fit_params)
    verdicts = _check(models)
    sound = [i for i, verdict in enumerate(verdicts) if verdict.error is None]
    some, theirs = [models[i] for i in sound], [verdicts[i] for i in sound]
    prepared = Prepared(some, theirs, None, {}, X, y, fit_params)
    if sound:
        leader = prepared.models[0]
        known = inspect.signature(leader.fit).parameters
        for name in fit_params:
            if name not in known:
                raise TypeError(
                    f"{leader.fit.__qualname__}() got an unexpected keyword argument {name!r}"
                )
        own = set(vars(leader))
        prepared.task = leader._prepare(X, y, **fit_params)
        prepared.task.comoments = comoments
        prepared.learned = {name: value for name, value in vars(leader).items() if name not in own}
    return verdicts, prepared


def _check(models: Sequence[TorchLinearModel]) -> list[Verdict]:
    """Verdicts on the parameters; what is alike in all models is looked at until it is sound."""
    verdicts = []
    names: Collection[str] = PARAMETERS
    for model in models:
        verdict = Verdict()
        try:
            check_parameters(type(model).__name__, model._parameters(), names)
            names = STACKED
        except (ValueError, TypeError, NotImplementedError) as error:
            verdict.error = error
        verdicts.append(verdict)
    return verdicts


def fit_prepared(several: Sequence[Prepared]) -> None:
    """Fit the same estimators on several sets of rows, such as the folds of a search.

    Each has the attributes, to rounding, that its own ``fit`` would have given it: the same
    batches, the same held-out rows, and an end of its own. An error of one leaves the others alone.
    Where steps are little work, sets of one size train side by side. Those of a subclass that has
    a ``fit`` of its own are fitted by it, one by one.
    """
    alike: dict[Any, list[Prepared]] = {}
    for prepared in several:
        if prepared.models and has_own_way(prepared.models[0]):
            _fit_one_by_one(prepared)
        elif prepared.task is not None:
            alike.setdefault(size_of(prepared.task), []).append(prepared)
    for group in alike.values():
        models = group[0].models
        tasks = [prepared.task for prepared in group if prepared.task is not None]
        if share_steps(models[0]._parameters(), tasks, len(models)):
            _fit_stack(group, Task.side_by_side(tasks, len(models)))
            continue
        for prepared in group:
            _fit_in_turns(prepared)


def fit_known(
    model: TorchLinearModel, X: Any, y: Any, moments: Comoments, **fit_params: Any
) -> None:
    """Fit an estimator from the second moments of its rows.

    Where they do not tell all digits, by its own ``fit``.

    Parameters
    ----------
    model : TorchLinearModel
    X, y, **fit_params
        As ``fit`` takes them.
    moments : Comoments
        Of X and y.
    """
    new = clone(model, safe=False)
    (verdict,), prepared = prepare([new], X, y, comoments=moments, **fit_params)
    fit_prepared([prepared])
    if verdict.error is None and verdict.converged:
        model.__dict__.update(new.__dict__)
    else:
        model.fit(X, y, **fit_params)


def _fit_one_by_one(prepared: Prepared) -> None:
    for model, verdict in zip(prepared.models, prepared.verdicts, strict=True):
        try:
            keep_quiet(model)
            model.fit(prepared.X, prepared.y, **prepared.fit_params)
        except Exception as error:
            verdict.error = error
        verdict.converged = getattr(model, "converged_", True)
        verdict.loss_curve = getattr(model, "loss_curve_", verdict.loss_curve)


def _fit_in_turns(prepared: Prepared) -> None:
    """Train as many models at once as there is memory for."""
    models, task = prepared.models, prepared.task
    assert task is not None
    state = task.generator.get_state()
    most = models_a_stack(models[0]._parameters(), task)
    for first in range(0, len(models), most):
        task.generator.set_state(state)
        turn = slice(first, first + most)
        _fit_stack([replace(prepared, models=models[turn], verdicts=prepared.verdicts[turn])], task)


def _fit_stack(sets: Sequence[Prepared], task: Task) -> None:
    """Train one stack, of as many models for each set; note in the verdicts how it went."""
    members = [
        (model, verdict, prepared)
        for prepared in sets
        for model, verdict in zip(prepared.models, prepared.verdicts, strict=True)
    ]
    parameters = [model._parameters() for model, _, _ in members]
    heard: dict[int, Callbacks] = {}
    try:
        for i, (model, _, prepared) in enumerate(members):
            if has_callbacks(model):
                model.__dict__.update(prepared.learned)
                weight = prepared.fit_params.get("sample_weight")
                heard[i] = Callbacks(model, prepared.X, prepared.y, weight)
        watch = partial(_watch, heard, [model for model, _, _ in members]) if heard else None
        loss_name = members[0][0]._loss_name(task.data.n_outputs)
        with memory_errors():
            outcome = fit_candidates(parameters, loss_name, task, watch)
        if outcome.interrupt is not None:
            raise outcome.interrupt
        for i, (model, verdict, prepared) in enumerate(members):
            verdict.error = outcome.failure(i)
            verdict.loss_curve = np.array(outcome.results[i].loss_curve)
            if verdict.error is None:
                model.__dict__.update(prepared.learned)
                model._publish(outcome, task, i)
                verdict.converged = model.converged_
                if i in heard:
                    heard[i].on_fit_end()
    except Exception as error:
        for _, verdict, _ in members:
            verdict.error = error
    finally:
        for model, _, _ in members:
            if has_callbacks(model):
                let_go(model)


def _watch(
    heard: dict[int, Callbacks], models: Sequence[TorchLinearModel], fold_back: FoldBack
) -> StackWatcher:
    return StackWatcher(
        {i: FitWatcher(told, models[i]._attributes, 0, "", fold_back) for i, told in heard.items()}
    )


@memory_errors()
@without_numpy_warnings
def predict_together(models: Sequence[TorchLinearModel], X: Any) -> np.ndarray:
    """Raw predictions of fitted estimators from one product.

    Parameters
    ----------
    models : sequence of TorchLinearModel
        Fitted on the same columns and targets.
    X : array-like, sparse matrix or Tensor of shape (n_samples, n_features)

    Returns
    -------
    raw : ndarray of shape (M, K, n_samples)
        In the precision that each model alone would predict in.
    """
    first = models[0]
    coef = np.stack([np.atleast_2d(model.coef_) for model in models])  # (M, K, D)
    intercept = np.stack([np.atleast_1d(model.intercept_) for model in models])
    outputs = coef.shape[0] * coef.shape[1]
    raw = raw_predictions(first, X, coef.reshape(outputs, -1), intercept.reshape(outputs))
    by_model = np.ascontiguousarray(inputs.as_numpy(raw).T)
    shaped: np.ndarray = by_model.reshape(*coef.shape[:2], -1)
    return shaped
