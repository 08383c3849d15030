"""Where training starts, other than at zero."""

from typing import Any

import numpy as np

from skorchless.estimators import inputs
from skorchless.estimators.data import Data


def start_weights(
    data: Data, init: dict[str, Any], coef_shape: tuple[int, ...], *, fit_intercept: bool
) -> np.ndarray:
    """Weights to start from, shape ``(1, K, D + 1)``.

    Parameters
    ----------
    data : Data
    init : dict
        Coefficients and intercepts by the names that the user knows them by; later ones win.
    coef_shape : tuple of int
        What the coefficients' shape has to be.
    fit_intercept : bool
    """
    n_features = data.X.shape[1]
    start = np.zeros((1, data.n_outputs, n_features + 1), dtype=inputs.numpy_dtype(data.X))
    for name, value in init.items():
        # Without "_init" it is the fit before.
        cure = "" if name.endswith("_init") else " With warm_start=False, fit starts anew."
        if name.startswith("coef"):
            start[0, :, :-1] = inputs.initial(value, name, coef_shape, start.dtype, cure).reshape(
                -1, n_features
            )
        elif fit_intercept:
            start[0, :, -1] = inputs.initial(value, name, coef_shape[:-1], start.dtype, cure)
    return start


def check_same_classes(old: Any, new: Any) -> None:
    """Raise ValueError if a warm start brings other classes than the fit before."""
    if not np.array_equal(old, new):
        raise ValueError(
            f"warm_start=True cannot go on from classes {old} with classes {new}. Fit all "
            "classes at once, or set warm_start=False."
        )
