"""Random problems for whatever losses and optimizers are registered."""

import torch
from torch import float64
from torch.nn import functional as F

from skorchless import TorchLinearRegressor
from skorchless.estimators.problem import Dataset
from skorchless.losses import LOSSES, make_loss
from skorchless.optimizers import OPTIMIZERS

#: Outputs of the losses that cannot have any number of them.
N_OUTPUTS = {"logistic": 1}


def n_outputs(loss):
    return N_OUTPUTS.get(loss, 3)


def stacked(values, dtype=float64):
    """A hyper-parameter of several models."""
    return torch.tensor(values, dtype=dtype).view(-1, 1, 1)


def make(loss, deltas=(1.0,), dtype=float64):
    """The loss of a stack with these `deltas`."""
    return make_loss(loss, stacked(deltas, dtype))


def as_labels(loss, taste):
    """Targets as a user's data has them, ``(n, K)`` numbers or ``(n,)`` classes, from `taste`."""
    if LOSSES[loss].is_regression:
        return taste
    return (taste > 0).to(float64) if taste.shape[1] == 1 else taste.argmax(dim=1)


def draw_labels(loss, n, generator):
    """Targets that follow nothing."""
    taste = 2.0 * torch.randn(n, n_outputs(loss), generator=generator, dtype=float64)
    return as_labels(loss, taste)


def as_target(labels, K):
    """Targets as a loss sees them, ``(1, K, n)``."""
    if labels.ndim == 1:
        labels = F.one_hot(labels, K).to(float64)
    return labels.T.unsqueeze(0)


def draw_data(loss, seed, n=40, d=3, weighted=False):
    """Rows to train on, from which the targets can be told roughly; weights of mean 1."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, d, generator=generator, dtype=float64)
    taste = X @ torch.randn(d, n_outputs(loss), generator=generator, dtype=float64) + 1.0
    taste += torch.randn(taste.shape, generator=generator, dtype=float64)
    labels = as_labels(loss, taste)
    weight = 0.1 + torch.rand(n, generator=generator, dtype=float64)
    return Dataset(X, labels, weight / weight.mean() if weighted else None, n_outputs(loss))


def candidate(optimizer, **parameters):
    """Parameters of one model of a stack, for any optimizer in OPTIMIZERS."""
    rate = "auto" if OPTIMIZERS[optimizer].full_batch else 0.05
    return {
        **TorchLinearRegressor().get_params(),
        "optimizer": optimizer,
        "learning_rate": rate,
        **parameters,
    }
