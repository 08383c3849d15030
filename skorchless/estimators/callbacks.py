"""Who is told how a fit goes: scikit-learn's callbacks, and the terminal.

scikit-learn has callbacks from version 1.9 on; below it the estimators have no ``set_callbacks``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from skorchless.engine import ModelResult, Progress
from skorchless.restoring import as_before, as_now

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
    "FitWatcher",
    "has_callbacks",
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


class FitWatcher:
    """Tells the callbacks and the terminal of the passes of a single fit.

    Parameters
    ----------
    callbacks : Callbacks or None
    attributes : callable
        The fitted attributes, from a model's result and its weights on the user's columns.
    fold_back : callable
        Gives weights on the user's columns from those of the engine.
    verbose : int
    counted : str
        What a pass is called in printed lines: an epoch or an iteration.
    """

    def __init__(
        self,
        callbacks: Callbacks | None,
        attributes: Callable[[ModelResult, np.ndarray], dict[str, Any]],
        verbose: int,
        counted: str,
        fold_back: Callable[[Tensor | None], np.ndarray | None],
    ) -> None:
        self._callbacks, self._attributes = callbacks, attributes
        self._verbose, self._counted, self._fold_back = verbose, counted, fold_back
        self._as_in_training: Callable[[Callable[[], Any]], Any] = as_now()

    def on_pass_begin(self, model: int) -> None:
        """Open the task of a pass."""
        if self._callbacks is not None:
            as_before(self._callbacks.on_pass_begin)

    def on_pass_end(self, progress: Progress) -> bool:
        """Print a line, close the task; return whether a callback wants the fit to stop.

        A callback may do what it likes with torch and NumPy, in the settings that were there before
        the fit; what it sees of the model is computed in those of the training.
        """
        if self._verbose:
            print(line(progress, self._verbose, self._counted))
        if self._callbacks is None:
            return False
        attributes = partial(self._as_in_training, partial(self._fitted, progress.result))
        return as_before(partial(self._callbacks.on_pass_end, attributes))

    def _fitted(self, result: ModelResult) -> dict[str, Any] | None:
        weights = self._fold_back(result.weights)
        return None if weights is None else self._attributes(result, weights)


def line(progress: Progress, verbose: int, counted: str) -> str:
    """One pass in words; ``verbose=2`` adds the learning rate and the time since the start."""
    result = progress.result
    loss = result.loss_curve[-1] if result.loss_curve else float("nan")
    text = f"{counted} {progress.epoch:>6d}   loss {loss:>12.6g}"
    if result.validation_loss_curve:
        text += f"   validation loss {result.validation_loss_curve[-1]:>12.6g}"
    if verbose > 1:
        text += f"   rate {result.rate:>10.4g}   {progress.seconds:>9.3f} s"
    return text
