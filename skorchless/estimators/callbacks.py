"""Who is told how a fit goes: scikit-learn's callbacks, and the terminal.

scikit-learn has callbacks from version 1.9 on; below it the estimators have no ``set_callbacks``.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from skorchless.estimators.problem import FitProblem
from skorchless.training import TrainingResult

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing, where scikit-learn has no callbacks."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Nothing, where scikit-learn has no callbacks."""
        return method


__all__ = ["CallbackSupportMixin", "FitObserver", "has_callbacks", "with_callbacks"]


def has_callbacks(estimator: Any) -> bool:
    """Whether anybody listens to the fits of an estimator."""
    return bool(getattr(estimator, "_skl_callbacks", None))


class FitObserver:
    """Tells scikit-learn's callbacks and the terminal of the iterations of a single fit.

    To callbacks a fit is a task, and in it one task a pass.

    Parameters
    ----------
    estimator : TorchLinearModel
    problem : FitProblem
    data : tuple of array-like
        X, y and sample_weight as the user passed them to `fit`; empty for ``partial_fit``, which
        callbacks are not told of.
    """

    def __init__(self, estimator: Any, problem: FitProblem, data: tuple[Any, ...]) -> None:
        self._estimator, self._fit = estimator, None
        self._verbose = int(estimator.verbose) if problem.comm.rank == 0 else 0
        self._counted = "iteration" if problem.full_batch else "epoch"
        self._passes_before, self._begun = problem.memory.passes, time.perf_counter()
        if data and has_callbacks(estimator):
            X, y, sample_weight = data
            metadata = None if sample_weight is None else {"sample_weight": sample_weight}
            self._about = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
            self._fit = estimator._init_callback_context(max_subtasks=estimator.max_iter)
            self._fit.call_on_fit_task_begin(**self._about)

    def of_training(self, fold_back: Callable[[Tensor | None], np.ndarray | None]) -> Self:
        """Return itself for a training whose weights `fold_back` takes to the user's columns."""
        self._fold_back = fold_back
        return self

    def on_pass_begin(self) -> None:
        """Open the task of an iteration."""
        if self._fit is not None:
            self._pass = self._fit.subcontext(task_name="pass")
            with torch.inference_mode(False):
                self._pass.call_on_fit_task_begin(**self._about)

    def on_pass_end(self, result: TrainingResult) -> bool:
        """Print a line, close the task; return whether a callback wants the fit to stop.

        A callback may use autograd: it runs outside of the inference mode of the training.
        """
        if self._verbose:
            self._print(result)
        if self._fit is None:
            return False
        with torch.inference_mode(False):
            attributes = partial(self._fitted, result)
            end = self._pass.call_on_fit_task_end
            return bool(end(**self._about, reconstruction_attributes=attributes))

    def on_fit_end(self) -> None:
        """Close the task of the fit, whose attributes the estimator has by now."""
        if self._fit is not None:
            self._fit.call_on_fit_task_end(**self._about, reconstruction_attributes={})

    def _fitted(self, result: TrainingResult) -> dict[str, Any] | None:
        """What a fit that stopped here would leave."""
        weights = self._fold_back(result.weights)
        return None if weights is None else self._estimator._attributes(result, weights)

    def _print(self, result: TrainingResult) -> None:
        """Print a line about an iteration; ``verbose=2`` adds the learning rate and the time."""
        loss = result.loss_curve[-1] if result.loss_curve else float("nan")
        text = f"{self._counted} {self._passes_before + result.n_iter:>6d}   loss {loss:>12.6g}"
        if result.validation_loss_curve:
            text += f"   validation loss {result.validation_loss_curve[-1]:>12.6g}"
        if self._verbose > 1:
            text += f"   rate {result.rate:>10.4g}   {time.perf_counter() - self._begun:>9.3f} s"
        print(text)
