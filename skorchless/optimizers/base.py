"""What the training loop asks of an optimizer."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from skorchless.data import BatchLoader, Chunk
from skorchless.objective import LinearObjective


@dataclass(eq=False)
class Setup:
    """What an optimizer may need to know before the first pass.

    Attributes
    ----------
    loader : BatchLoader
        The training rows, standardised if the weights are. Passes may hold the user's columns.
    objective : LinearObjective
    weights : Tensor of shape (M, K, D + 1)
        Where training starts.
    momentum : Tensor of shape (M, 1, 1)
    nesterov : bool
    betas : pair of float
    tolerance : Tensor of shape (M,)
        Relative distance to the optimum to stop at, for optimizers that can tell.
    constant_loss : Tensor of shape (M,), optional
        Objective of the best constant model, for the same optimizers.
    constant_weights : Tensor of shape (M, K, D + 1), optional
        The best constant model, for the same optimizers.
    refuses_dependent : bool
        Whether optimizers that measure the curvature raise `DependentColumns` before the first
        iteration if columns are dependent, or nearly so.
    units : Tensor of shape (1, K, 1), optional
        Sizes of the targets, where rates, and so gradients, are in units of them.
    """

    loader: BatchLoader
    objective: LinearObjective
    weights: Tensor
    momentum: Tensor
    nesterov: bool
    betas: tuple[float, float]
    tolerance: Tensor
    constant_loss: Tensor | None
    units: Tensor | None = None
    constant_weights: Tensor | None = None
    refuses_dependent: bool = False


@dataclass(eq=False)
class Step:
    """What an optimizer says at the end of a pass.

    Attributes
    ----------
    accepted : Tensor of shape (M, K, D + 1)
        The weights that curves, stopping and the result see.
    value : ndarray of shape (M,)
        The objective that goes with them.
    converged : ndarray of bool, shape (M,)
        Whether the optimizer itself knows that it is done.
    stuck : ndarray of bool, shape (M,)
        Whether the line search failed, or the last accepted steps gained no more than rounding.
    moved : ndarray of bool, shape (M,)
        Whether it moved. A pass whose trial step was rejected is no iteration.
    """

    accepted: Tensor
    value: np.ndarray
    converged: np.ndarray
    stuck: np.ndarray
    moved: np.ndarray


class Optimizer(Protocol):
    """An optimizer for a stack of models, stepping per batch or per pass.

    `weights` are the trial weights, which the optimizer moves in place. Everything it keeps leads
    with the axis of the models. Optimizers that step per batch subclass `FirstOrderOptimizer`.
    """

    full_batch: bool
    """Whether the optimizer steps once a pass and so wants all rows in one batch."""

    @property
    def started(self) -> bool:
        """Whether the next pass is an iteration, rather than an evaluation of the start."""

    def __init__(self, setup: Setup) -> None:
        """Get ready for the first pass."""

    def set_learning_rate(self, rate: Tensor) -> None:
        """Take the learning rates of the coming pass, of shape ``(M, 1, 1)``.

        It is not called for full-batch optimizers, which find the length of their steps themselves.
        """

    def on_chunk(self, chunk: Chunk) -> None:
        """See the rows of a chunk, after its gradients: what else a pass should add up."""

    def step(self, weights: Tensor, gradient: Tensor) -> None:
        """Take the gradient of a batch at `weights`; SGD and Adam move `weights` in place."""

    def end_epoch(self, weights: Tensor, value: Tensor) -> Step:
        """See the objective of the pass, of shape ``(M,)``, after its last batch.

        It is where the weights are if the optimizer is `full_batch`, and on the CPU otherwise.
        """

    def select(self, keep: Tensor) -> None:
        """Keep only some of the models."""
