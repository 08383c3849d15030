"""Pictures of what training did."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from numbers import Real
from typing import Any, Self

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

#: Largest over smallest loss from which a logarithmic scale shows more.
WORTH_LOG = 10.0

#: Colours of matplotlib's own cycle, after which it repeats itself.
CYCLE = 10

#: The end of an ordered colour map from which on lines are too pale.
BRIGHTEST = 0.9

#: Lines that a legend can still tell apart.
LONGEST_LEGEND = 20


class LossCurveDisplay:
    """Plot of the loss by epoch or iteration.

    Use :meth:`from_estimator` to create a display. All parameters are stored as attributes.

    Parameters
    ----------
    loss_curves : sequence of array-like of shape (n_iter,)
        Training loss after each epoch or iteration, one curve per model.
    validation_loss_curves : sequence of (array-like of shape (n_iter,) or None), default=None
        Validation loss of the same models; None for models that have none.
    names : sequence of str, default=None
        Names of the models in the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the curves.
    figure_ : matplotlib Figure
        Figure that contains the axes.
    lines_ : list of matplotlib Line2D
        Training curves.
    validation_lines_ : list of (matplotlib Line2D or None)
        Validation curves, in the colours of the training curves.

    See Also
    --------
    TorchLinearRegressor : Regressor that records loss curves.
    TorchSoftmaxClassifier : Classifier that records loss curves.
    BatchedGridSearchCV : Search that keeps the loss curves of all candidates.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn.datasets import load_iris
    >>> from skorchless import LossCurveDisplay, TorchSoftmaxClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = TorchSoftmaxClassifier(early_stopping=True, random_state=0).fit(X, y)
    >>> LossCurveDisplay.from_estimator(model)
    <...>
    >>> plt.show()
    """

    #: Rank of each candidate by the only number in which they differ.
    _ranks: np.ndarray | None = None

    def __init__(
        self,
        *,
        loss_curves: Sequence[Any],
        validation_loss_curves: Sequence[Any] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.loss_curves = loss_curves
        self.validation_loss_curves = validation_loss_curves
        self.names = names

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        name: str | None = None,
        ax: Any = None,
        scale: str = "auto",
        line_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Plot the loss curves of a fitted model, pipeline or search.

        Parameters
        ----------
        estimator : estimator
            A fitted model with a ``loss_curve_``, a pipeline that ends in one, or a search over
            either. A search that has ``loss_curves_`` is plotted with one line per candidate, the
            mean over its splits for as long as all of them run. Of any other search, the best model
            is plotted.
        name : str, default=None
            Name of the model in the legend. By default, models are named by their class, and
            candidates of a search by the parameters in which they differ.
        ax : matplotlib Axes, default=None
            Axes to draw on, for example ``ax_`` of another display to compare models. By default
            new axes are created.
        scale : {"auto", "log", "linear"}, default="auto"
            Scale of the losses. ``"auto"`` is logarithmic if all losses on the axes are positive
            and the largest is at least ten times the smallest.
        line_kwargs : dict, default=None
            Keyword arguments for :meth:`matplotlib.axes.Axes.plot`, for all lines.

        Returns
        -------
        display : LossCurveDisplay
            The display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        NotFittedError
            If the model is not fitted.
        ValueError
            If the estimator has no loss curve.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn.datasets import load_diabetes
        >>> from skorchless import LossCurveDisplay, TorchLinearRegressor
        >>> X, y = load_diabetes(return_X_y=True)
        >>> adam = TorchLinearRegressor(optimizer="adam", random_state=0).fit(X, y)
        >>> display = LossCurveDisplay.from_estimator(adam, name="Adam")
        >>> sgd = TorchLinearRegressor(optimizer="sgd", random_state=0).fit(X, y)
        >>> LossCurveDisplay.from_estimator(sgd, name="SGD", ax=display.ax_)
        <...>
        >>> plt.show()
        """
        model, ranks = estimator, None
        while not hasattr(model, "loss_curves_"):
            if isinstance(model, Pipeline):
                model = model[-1]
            elif hasattr(model, "best_estimator_"):
                model = model.best_estimator_
            else:
                break
        curves: dict[str, Any]
        if hasattr(model, "loss_curves_"):
            names, ranks = _describe_candidates(model, name)
            curves = {"loss_curves": [*map(_mean_curve, model.loss_curves_)], "names": names}
        else:
            check_is_fitted(model)
            if not hasattr(model, "loss_curve_"):
                raise ValueError(
                    f"{type(model).__name__} has no loss_curve_. LossCurveDisplay draws a fitted "
                    "TorchLinearRegressor or TorchSoftmaxClassifier, a pipeline that ends in one, "
                    "or a search over either that refits its best model."
                )
            curves = {
                "loss_curves": [model.loss_curve_],
                "validation_loss_curves": [getattr(model, "validation_loss_curve_", None)],
                "names": [type(model).__name__ if name is None else name],
            }
        display = cls(**curves)
        display._ranks = ranks
        return display.plot(ax, scale=scale, line_kwargs=line_kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        scale: str = "auto",
        line_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Plot the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. By default new axes are created.
        scale : {"auto", "log", "linear"}, default="auto"
            Scale of the losses, as in :meth:`from_estimator`.
        line_kwargs : dict, default=None
            Keyword arguments for :meth:`matplotlib.axes.Axes.plot`, for all lines.

        Returns
        -------
        display : LossCurveDisplay
            The display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there is no such scale.
        """
        if scale not in ("auto", "log", "linear"):
            raise ValueError(f"scale must be 'auto', 'log' or 'linear'. Got {scale!r} instead.")
        plt = _pyplot()
        from matplotlib.ticker import MaxNLocator

        self.ax_ = plt.subplots(layout="constrained")[1] if ax is None else ax
        self.figure_ = self.ax_.figure
        curves, validation_curves = list(self.loss_curves), self.validation_loss_curves or ()
        colors: Any = [None] * len(curves)
        # An ordered parameter has ordered colours, and so have more curves than there are others.
        if self._ranks is not None or len(curves) > CYCLE:
            ranks = np.arange(len(curves)) if self._ranks is None else self._ranks
            colors = plt.get_cmap("viridis")(BRIGHTEST * ranks / max(len(curves) - 1, 1))

        def draw(curve: Any, label: str, **style: Any) -> Any:
            values = np.asarray(curve, dtype=float)
            point = {"marker": "o"} if len(values) == 1 else {}  # a line of one point is invisible
            style = {"label": label.strip() or None, **point, **style, **(line_kwargs or {})}
            return self.ax_.plot(np.arange(1, len(values) + 1), values, **style)[0]

        self.lines_: list[Any] = []
        self.validation_lines_: list[Any] = []
        for curve, validation, name, color in zip_longest(
            curves, validation_curves, self.names or (), colors, fillvalue=None
        ):
            name, dashed = name or "", None
            label = name if validation is None else f"{name} (training)"
            line = draw(curve, label, color=color)
            if validation is not None:
                style = {"color": line.get_color(), "linestyle": "--"}
                dashed = draw(validation, f"{name} (validation)", **style)
            self.lines_.append(line)
            self.validation_lines_.append(dashed)
        self.ax_.set(xlabel="Epoch or iteration", ylabel="Loss")
        self.ax_.xaxis.set_major_locator(MaxNLocator(integer=True))
        self.ax_.set_yscale(self._best_scale() if scale == "auto" else scale)
        labelled = len(self.ax_.get_legend_handles_labels()[1])
        if 0 < labelled <= LONGEST_LEGEND:
            self.ax_.legend()
        elif self.ax_.get_legend() is not None:
            self.ax_.get_legend().remove()
        return self

    def _best_scale(self) -> str:
        """Return the scale that shows the losses of all lines on the axes best."""
        values = np.concatenate([np.asarray(line.get_ydata()) for line in self.ax_.lines])
        values = values[np.isfinite(values)]
        spans = len(values) and 0 < WORTH_LOG * values.min() <= values.max()
        return "log" if spans else "linear"


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "LossCurveDisplay draws with matplotlib, which is not installed. Install it with "
            "'pip install matplotlib', or together with skorchless as 'skorchless[plot]'."
        ) from error
    return plt


def _mean_curve(splits: Sequence[Any]) -> np.ndarray:
    """Mean over splits, as long as all of them run; those that never began are left out."""
    curves = [np.asarray(curve, dtype=float) for curve in splits if len(curve)]
    length = min(map(len, curves), default=0)
    return np.mean([curve[:length] for curve in curves], axis=0) if curves else np.empty(0)


def _describe_candidates(search: Any, name: str | None) -> tuple[list[str], np.ndarray | None]:
    """Names of the candidates by what they differ in, and their ranks if that is one number."""
    prefix = "" if name is None else f"{name}: "
    candidates: list[dict[str, Any]] | None = getattr(search, "cv_results_", {}).get("params")
    if candidates is None:
        return [f"{prefix}candidate {i}" for i in range(len(search.loss_curves_))], None
    absent = object()
    keys = list(dict.fromkeys(key for candidate in candidates for key in candidate))
    differ = [key for key in keys if len({repr(c.get(key, absent)) for c in candidates}) > 1]
    names = []
    for candidate in candidates:
        shown = [key for key in differ if key in candidate] or list(candidate)
        pairs = [f"{key.rpartition('__')[2]}={_short(candidate[key])}" for key in shown]
        names.append(prefix + ", ".join(pairs))
    values = [candidate.get(differ[0]) for candidate in candidates] if len(differ) == 1 else [None]
    if not all(isinstance(value, Real) and not isinstance(value, bool) for value in values):
        return names, None
    return names, np.argsort(np.argsort(np.array(values, dtype=float), kind="stable"))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
