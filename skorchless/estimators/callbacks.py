"""Who is told how a fit goes: scikit-learn's callbacks, and the terminal.

scikit-learn has callbacks from version 1.9 on; below it the estimators have no ``set_callbacks``.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from skorchless.restoring import as_before, as_now
from skorchless.training import TrainingResult

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing, where scikit-learn has no callbacks."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Nothing, where scikit-learn has no callbacks."""
        return method


__all__ = [
    "CallbackSupportMixin",
    "Callbacks",
    "FitObserver",
    "has_callbacks",
    "print_line",
    "with_callbacks",
]


def has_callbacks(estimator: Any) -> bool:
    """Whether anybody listens to the fits of an estimator."""
    return bool(getattr(estimator, "_skl_callbacks", None))


class Callbacks:
    """A fit as scikit-learn's callbacks see it: a task, and in it one task a pass.

    Parameters
    ----------
    estimator : estimator
        The one that is being fitted.
    X, y, sample_weight : array-like
        What it is being fitted to, as the user passed it.
    """

    def __init__(self, estimator: Any, X: Any, y: Any, sample_weight: Any) -> None:
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self._about = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self._fit = estimator._init_callback_context(max_subtasks=estimator.max_iter)
        self._fit.call_on_fit_task_begin(**self._about)

    def on_pass_begin(self) -> None:
        """Open the task of a pass."""
        self._pass = self._fit.subcontext(task_name="pass")
        self._pass.call_on_fit_task_begin(**self._about)

    def on_pass_end(self, attributes: Callable[[], dict[str, Any] | None]) -> bool:
        """Close it; `attributes` are what a fit that stopped here would leave.

        Returns whether a callback wants just that.
        """
        end = self._pass.call_on_fit_task_end
        return bool(end(**self._about, reconstruction_attributes=attributes))

    def on_fit_end(self) -> None:
        """Close the task of the fit, whose attributes the estimator has by now."""
        self._fit.call_on_fit_task_end(**self._about, reconstruction_attributes={})


class FitObserver:
    """Tells the callbacks and the terminal of the iterations of a single fit.

    Parameters
    ----------
    callbacks : Callbacks or None
    attributes : callable
        The fitted attributes, from a model's result and its weights on the user's columns.
    report : callable or None
        Prints a line about a result.
    fold_back : callable
        Gives weights on the user's columns from those of the training loop.
    """

    def __init__(
        self,
        callbacks: Callbacks | None,
        attributes: Callable[[TrainingResult, np.ndarray], dict[str, Any]],
        report: Callable[[TrainingResult], None] | None,
        fold_back: Callable[[Tensor | None], np.ndarray | None],
    ) -> None:
        self._callbacks, self._attributes = callbacks, attributes
        self._report, self._fold_back = report, fold_back
        self._as_in_training: Callable[[Callable[[], Any]], Any] = as_now()

    def on_pass_begin(self) -> None:
        """Open the task of an iteration."""
        if self._callbacks is not None:
            as_before(self._callbacks.on_pass_begin)

    def on_pass_end(self, result: TrainingResult) -> bool:
        """Print a line, close the task; return whether a callback wants the fit to stop.

        A callback may do what it likes with torch and NumPy, in the settings that were there before
        the fit; what it sees of the model is computed in those of the training.
        """
        if self._report is not None:
            self._report(result)
        if self._callbacks is None:
            return False
        attributes = partial(self._as_in_training, partial(self._fitted, result))
        return as_before(partial(self._callbacks.on_pass_end, attributes))

    def _fitted(self, result: TrainingResult) -> dict[str, Any] | None:
        weights = self._fold_back(result.weights)
        return None if weights is None else self._attributes(result, weights)


def print_line(
    verbose: int, counted: str, passes_before: int, begun: float, result: TrainingResult
) -> None:
    """Print a line about an iteration; ``verbose=2`` adds the learning rate and the time.

    Parameters
    ----------
    verbose : int
    counted : str
        What is counted: epochs or iterations.
    passes_before : int
        Passes that earlier calls of ``partial_fit`` have made.
    begun : float
        Seconds of `time.perf_counter` at the start.
    result : TrainingResult
    """
    loss = result.loss_curve[-1] if result.loss_curve else float("nan")
    text = f"{counted} {passes_before + result.n_iter:>6d}   loss {loss:>12.6g}"
    if result.validation_loss_curve:
        text += f"   validation loss {result.validation_loss_curve[-1]:>12.6g}"
    if verbose > 1:
        text += f"   rate {result.rate:>10.4g}   {time.perf_counter() - begun:>9.3f} s"
    print(text)
