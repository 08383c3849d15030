"""Scores: scikit-learn's, and the same for tensors on a device, without leaving it."""

from typing import Any

import torch
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils.validation import check_consistent_length
from torch import Tensor

from skorchless.estimators import inputs
from skorchless.estimators.data import relative_weights
from skorchless.estimators.devices import where_double_is
from skorchless.restoring import without_numpy_warnings


@without_numpy_warnings
def accuracy(y: Any, found: Any, sample_weight: Any) -> float:
    """Share of right labels, as `accuracy_score`."""
    y, found, sample_weight = where_double_is(y, found, sample_weight)
    on_a_device = _on_a_device(y, found, sample_weight)
    weight = relative_weights(sample_weight, len(found))
    with inputs.named("y"):
        if on_a_device:
            return tensor_accuracy(y, found, weight)
        wanted, found, weight = map(inputs.as_numpy, (y, found, weight))
        return float(accuracy_score(wanted, found, sample_weight=weight))


def r_squared(y: Any, found: Any, sample_weight: Any) -> float:
    """Coefficient of determination, as `r2_score`."""
    y, found, sample_weight = where_double_is(y, found, sample_weight)
    on_a_device = _on_a_device(y, found, sample_weight)
    weight = relative_weights(sample_weight, len(found))
    with inputs.named("y"):
        if on_a_device and len(found) > 1:
            return tensor_r_squared(y, found, weight)
        wanted, found, weight = map(inputs.as_numpy, (y, found, weight))
        return float(r2_score(wanted, found, sample_weight=weight))


def _on_a_device(y: Any, found: Any, sample_weight: Any) -> bool:
    """Whether both are tensors out of NumPy's reach."""
    here = found if isinstance(found, Tensor) else torch.empty(0, device="cpu")
    inputs.check_same_device(here, y=y, sample_weight=sample_weight)
    return here.device.type != "cpu" and isinstance(y, Tensor)


def tensor_accuracy(y: Tensor, found: Tensor, weight: Tensor | None) -> float:
    """The same for tensors of shape ``(n,)``."""
    check_consistent_length(y, found)
    right = (y.detach().reshape(found.shape) == found).double()
    if weight is None:
        return float(right.mean())
    weight = weight.to(right.device)
    return float((weight * right).sum() / weight.sum())


def tensor_r_squared(y: Tensor, found: Tensor, weight: Tensor | None) -> float:
    """The same for tensors of shape ``(n,)`` or ``(n, K)``, the mean over K."""
    check_consistent_length(y, found)
    wanted, found = (values.detach().double().reshape(len(found), -1) for values in (y, found))
    if wanted.shape != found.shape:
        raise ValueError(
            "y_true and y_pred have different number of output "
            f"({wanted.shape[1]}!={found.shape[1]})"
        )
    weights = torch.ones_like(wanted[:, :1])
    if weight is not None:
        weights = weight.to(weights).unsqueeze(1)
    mean = (weights * wanted).sum(0) / weights.sum()
    residual = (weights * (wanted - found).square()).sum(0)
    total = (weights * (wanted - mean).square()).sum(0)
    constant = (residual == 0).double()  # scikit-learn's word on targets that do not vary
    return float(torch.where(total > 0, 1 - residual / total, constant).mean())
