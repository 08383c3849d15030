"""A fitted model goes anywhere: to disk, to other machines, to other libraries."""

import re
import warnings
from typing import Any, cast

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import nn

from skorchless._version import __version__
from skorchless.estimators import inputs


class Portable:
    """What the estimators need to be pickled and to be handed on."""

    coef_: np.ndarray
    intercept_: Any
    n_features_in_: int
    feature_names_in_: np.ndarray

    #: Attributes that predictions need.
    _set_by_fit: tuple[str, ...] = ("coef_", "intercept_")

    def _check_is_fitted(self) -> None:
        """Raise NotFittedError unless there is all that predictions need."""
        check_is_fitted(self, self._set_by_fit)

    def _weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients ``(K, D)`` and intercepts ``(K,)``, which may have been set by hand."""
        self._check_is_fitted()
        coef = np.atleast_2d(_numbers(self.coef_, "coef_"))
        intercept = np.atleast_1d(_numbers(self.intercept_, "intercept_"))
        classes = self.__dict__.get("classes_")
        outputs = len(coef) if classes is None else len(classes) - (len(classes) == 2)
        features = getattr(self, "n_features_in_", coef.shape[-1])
        if coef.shape != (outputs, features):
            raise ValueError(
                f"coef_ has shape {np.shape(self.coef_)}, but there are {features} features and "
                f"{outputs} outputs."
            )
        if intercept.shape != (outputs,):
            if intercept.size != 1:
                raise ValueError(
                    f"intercept_ has shape {np.shape(self.intercept_)}, but there are {outputs} "
                    "outputs."
                )
            intercept = np.full(outputs, intercept.item())
        return coef, intercept

    def _copy_fit(self, model: Any) -> Any:
        """Give `model` our coefficients, and with them our predictions."""
        coef, intercept = self._weights()
        model.coef_ = coef.reshape(np.shape(self.coef_)).copy()
        model.intercept_ = intercept.copy() if np.ndim(self.intercept_) else intercept[0]
        model.n_features_in_ = self.n_features_in_
        if hasattr(self, "feature_names_in_"):
            model.feature_names_in_ = self.feature_names_in_.copy()
        return model

    def _linear_module(self, coef: np.ndarray, intercept: np.ndarray) -> nn.Linear:
        """A layer that computes ``X coef.T + intercept``."""
        outputs, features = coef.shape
        weights = torch.from_numpy(coef.copy())
        linear = nn.Linear(features, outputs, device="meta", dtype=weights.dtype)
        linear.weight = nn.Parameter(weights)
        linear.bias = nn.Parameter(torch.from_numpy(np.array(intercept, dtype=coef.dtype)))
        return linear

    def __getstate__(self) -> dict[str, Any]:
        state = cast("dict[str, Any]", super().__getstate__())
        return {**state, "_skorchless_version": __version__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        version = state.pop("_skorchless_version", "0")
        if _release(version) > _release(__version__):
            warnings.warn(
                f"This {type(self).__name__} was pickled by skorchless {version}, which is newer "
                f"than the installed {__version__}. Upgrade skorchless to be safe.",
                UserWarning,
                stacklevel=2,
            )
        super().__setstate__(state)  # type: ignore[misc]


def _numbers(value: Any, name: str) -> np.ndarray:
    """The array that a fit leaves as it is; anything else is checked and converted."""
    if isinstance(value, np.ndarray | np.floating) and value.dtype.kind == "f":
        return np.asarray(value)
    array = inputs.real(value, name)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite. Got {value!r}.")
    return array


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
