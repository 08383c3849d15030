"""Several estimators fitted on the same rows at once, each as it would be fitted alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import validate_data
from torch import Tensor

from skorchless.estimators import inputs
from skorchless.estimators.alphas import fit_candidates
from skorchless.estimators.base import TorchLinearModel
from skorchless.estimators.candidates import models_a_stack
from skorchless.estimators.parameters import check_parameters
from skorchless.estimators.settings import full_precision
from skorchless.estimators.task import Task
from skorchless.optimizers.least_squares import Comoments


@dataclass
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


def fit_together(
    models: Sequence[TorchLinearModel],
    X: Any,
    y: Any,
    *,
    comoments: Comoments | None = None,
    **fit_params: Any,
) -> list[Verdict]:
    """Fit estimators of one class whose parameters have the same `stack_key`.

    Each has the attributes, to rounding, that its own ``fit`` would have given it: the same
    batches, the same held-out rows, and an end of its own. Only their fitting costs less.

    Parameters
    ----------
    models : sequence of TorchLinearModel
        Not fitted yet.
    X, y, **fit_params
        As ``fit`` takes them.
    comoments : Comoments, optional
        Of X and y, if somebody has them already.

    Returns
    -------
    verdicts : list of Verdict
        One a model. An error of one leaves the others alone.

    Raises
    ------
    Exception
        Whatever every ``fit`` would raise alike, because X or y are at fault.
    """
    verdicts = [_check(model) for model in models]
    sound = [i for i, verdict in enumerate(verdicts) if verdict.error is None]
    if not sound:
        return verdicts
    leader = models[sound[0]]
    own = set(vars(leader))
    task = leader._prepare(X, y, **fit_params)
    task.comoments = comoments
    learned = {name: value for name, value in vars(leader).items() if name not in own}
    state = task.generator.get_state()
    most = models_a_stack(leader._parameters(), task)
    for first in range(0, len(sound), most):
        task.generator.set_state(state)
        members = sound[first : first + most]
        _fit_stack([models[i] for i in members], [verdicts[i] for i in members], learned, task)
    return verdicts


def _check(model: TorchLinearModel) -> Verdict:
    try:
        check_parameters(type(model).__name__, model._parameters())
    except (ValueError, TypeError, NotImplementedError) as error:
        return Verdict(error)
    return Verdict()


def _fit_stack(
    models: list[TorchLinearModel], verdicts: list[Verdict], learned: dict[str, Any], task: Task
) -> None:
    """Train one stack; write down in the verdicts how it went."""
    parameters = [model._parameters() for model in models]
    outcome = fit_candidates(parameters, models[0]._loss_name(task.data.n_outputs), task)
    if outcome.interrupt is not None:
        raise outcome.interrupt
    for i, (model, verdict) in enumerate(zip(models, verdicts, strict=True)):
        verdict.error = outcome.failure(i)
        verdict.loss_curve = np.array(outcome.results[i].loss_curve)
        if verdict.error is None:
            model.__dict__.update(learned)
            model._publish(outcome, task, i)
            verdict.converged = model._is_content(outcome.results[i])


def predict_together(models: Sequence[TorchLinearModel], X: Any) -> np.ndarray:
    """Raw predictions of fitted estimators from one product.

    Parameters
    ----------
    models : sequence of TorchLinearModel
        Fitted on the same columns and targets.
    X : array-like or Tensor of shape (n_samples, n_features)

    Returns
    -------
    raw : ndarray of shape (M, K, n_samples)
        In the precision that each model alone would predict in.
    """
    first = models[0]
    coef = np.stack([np.atleast_2d(model.coef_) for model in models])  # (M, K, D)
    intercept = np.stack([np.atleast_1d(model.intercept_) for model in models])
    outputs = coef.shape[0] * coef.shape[1]
    if isinstance(X, Tensor):
        rows = inputs.features(first, X, reset=False)
        with torch.no_grad(), torch.autocast(rows.device.type, enabled=False), full_precision:
            flat = torch.from_numpy(coef.reshape(outputs, -1)).to(rows)
            bias = torch.from_numpy(intercept.reshape(outputs, 1)).to(rows)
            raw = torch.addmm(bias, flat, rows.T).numpy(force=True)
    else:
        array = validate_data(first, X, reset=False, dtype=[np.float64, np.float32])
        raw = coef.reshape(outputs, -1).astype(array.dtype, copy=False) @ array.T
        raw += intercept.reshape(outputs, 1).astype(array.dtype)
    shaped: np.ndarray = raw.reshape(*coef.shape[:2], -1)
    return shaped
