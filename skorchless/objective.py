r"""The objective: loss times linear model plus penalty, as sums over batches.

.. math:: F(W) = \frac{1}{\sum_i s_i} \sum_i s_i\, \ell(W \tilde x_i, y_i) + \Omega(W)

with :math:`\tilde x_i` the row with a 1 behind it. A batch of B rows has the same objective over
its own rows, divided by :math:`B \bar s` with the mean weight of all rows, so that on average over
batches it is F. Gradients are formulas, never autograd: with residuals
:math:`r_i = s_i\, \partial \ell / \partial z_i`, the gradient is
:math:`\sum_i r_i \tilde x_i^\top / (B \bar s)` plus the penalty's.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, float64

from skorchless.data import Chunk, Scaling
from skorchless.distributed import SINGLE_PROCESS, Communicator
from skorchless.losses import Loss
from skorchless.penalties import ElasticNet, PenaltySum


@dataclass(eq=False)
class LinearObjective:
    """Values and gradients of a stack of models over chunks.

    Parameters
    ----------
    loss : Loss
    penalty : ElasticNet
        On the weights that the training loop trains.
    scaling : Scaling, optional
        Where the chunks hold the user's columns, but the weights belong to standardised ones.
        Only for optimizers that step once a pass.
    sets : int
        Sets of rows that train side by side, such as the folds of a search. The stack then holds
        the models of the first set, as many of the second, and so on, and row block i of a batch
        is of set i. The loss is that of one set's models.
    comm : Communicator
        Adds up what the chunks of several processes give.

    Attributes
    ----------
    has_penalty : bool
        Whether values and gradients have the penalty in them, rather than leave it to the
        optimizer.
    """

    loss: Loss
    penalty: ElasticNet
    scaling: Scaling | None = None
    sets: int = field(default=1, kw_only=True)
    comm: Communicator = field(default=SINGLE_PROCESS, kw_only=True)

    def __post_init__(self) -> None:
        self.has_penalty = True
        self._raw: dict[tuple[int, int, int], _RawPredictions] = {}
        self._gradient: Tensor | None = None
        self._penalty_sum: PenaltySum | None = None

    def gradients(self, chunk: Chunk, weights: Tensor) -> Iterator[Tensor]:
        """Yield the gradient of each batch that ends in `chunk`, at `weights` as they are then.

        Whoever iterates may move `weights` in place between two batches. The gradient, of shape
        ``(M, K, D + 1)``, is overwritten by the next one.
        """
        models, outputs, columns = weights.shape[0] // self.sets, *weights.shape[1:]
        width = models * outputs
        _, parts, rows = chunk.shape
        if self._gradient is None:
            self._gradient = torch.empty_like(weights)
            # Values are added up over the processes, of which the first counts the penalty.
            if self.has_penalty and self.penalty.is_active and self.comm.rank == 0:
                self._penalty_sum = PenaltySum(self.penalty, weights)
        gradient, penalty_sum = self._gradient, self._penalty_sum
        flat = by_row_block(self._on_rows(weights), parts, self.sets)
        residual = weights.new_empty(parts, models, outputs, rows)
        residual_rows = residual.view(parts, width, rows)
        in_place = parts == self.sets and chunk.starts
        sums = (
            gradient.view(parts, width, columns)
            if in_place
            else weights.new_empty(parts, width, columns)
        )
        for batch, (raw, raw_rows), scale in zip(
            chunk.batches, self._raw_predictions(chunk, weights).batches, chunk.scale, strict=True
        ):
            batch.matmul(flat, out=raw_rows)
            self.loss.gradient(raw, batch.target, out=residual)
            if batch.weight is not None:
                residual.mul_(batch.weight)
            batch.rmatmul(residual_rows, scale, out=sums)
            if not in_place:
                total = sums.sum(dim=0).view_as(gradient)
                gradient.copy_(total) if chunk.starts else gradient.add_(total)
            if chunk.ends:
                self.comm.all_reduce_(gradient)
                if self.scaling is not None:
                    gradient.copy_(self.scaling.scale_gradient(gradient))
                if penalty_sum is not None:
                    penalty_sum.add(weights)
                if self.has_penalty:
                    self.penalty.add_gradient_(weights, gradient)
                yield gradient

    def value(self, chunk: Chunk) -> Tensor:
        """Objectives of the batches that `gradients` went through, added up, shape ``(M,)``.

        Each is taken at the weights that its gradient was taken at. Batches that span chunks add
        their share with each of them, and so do the processes, over which nothing is added up here.
        """
        losses = self._weighted_loss(self.predictions(chunk), chunk)
        return losses if self._penalty_sum is None else losses + self._penalty_sum.take()

    def predictions(self, chunk: Chunk) -> Tensor:
        """Raw predictions that a chunk's gradients came from, ``(batches, parts, M, K, rows)``.

        Its next gradients overwrite them.
        """
        return self._raw[chunk.shape].whole

    def mean_loss(self, chunks: Iterable[Chunk], weights: Tensor) -> Tensor:
        """Mean loss without the penalty over the one batch of a pass, shape ``(M,)``."""
        total = torch.zeros(len(weights), dtype=float64, device=weights.device)
        on_rows = self._on_rows(weights)
        for chunk in chunks:
            total += self._weighted_loss(raw_predictions(chunk, on_rows, self.sets), chunk)
        self.comm.all_reduce_(total)
        return total

    def select(self, keep: Tensor) -> None:
        """Keep only some of the models."""
        self.loss = self.loss.select(keep[: len(keep) // self.sets])
        self.penalty.select(keep)
        self._raw, self._gradient, self._penalty_sum = {}, None, None

    def _on_rows(self, weights: Tensor) -> Tensor:
        """The weights on the columns that the chunks hold."""
        if self.scaling is None:
            return weights
        return self.scaling.from_scaled(weights).to(weights.dtype)

    def _weighted_loss(self, raw: Tensor, chunk: Chunk) -> Tensor:
        sums = self.sum_of_losses(raw, chunk.target, chunk.weight)
        if len(sums) == 1:
            return sums[0] * chunk.scale[0]
        # Batches of a chunk are of one size. Filling a tensor takes no copy to a device.
        return torch.full(sums.shape[:1], chunk.scale[0], dtype=float64, device=raw.device) @ sums

    def sum_of_losses(self, raw: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """Sums over the rows of a batch, or of several, shape ``(..., sets * M)``."""
        losses = self.loss.value(raw, target)  # (..., parts, M, rows)
        if weight is not None:
            losses *= weight.squeeze(-2)
        *batches, parts, models, rows = losses.shape
        by_set = losses.view(*batches, self.sets, parts // self.sets, models, rows)
        return by_set.sum(dim=(-3, -1), dtype=float64).flatten(-2)

    def _raw_predictions(self, chunk: Chunk, weights: Tensor) -> "_RawPredictions":
        if chunk.shape not in self._raw:
            self._raw[chunk.shape] = _RawPredictions(chunk, weights, self.sets)
        return self._raw[chunk.shape]


class _RawPredictions:
    """Room for a chunk's raw predictions, with views of each batch.

    `whole` has shape ``(batches, parts, M, K, rows)``; `batches` are pairs of shapes
    ``(parts, M, K, rows)`` and ``(parts, M * K, rows)``.
    """

    def __init__(self, chunk: Chunk, weights: Tensor, sets: int) -> None:
        batches, parts, rows = chunk.shape
        models, outputs = weights.shape[0] // sets, weights.shape[1]
        self.whole = weights.new_empty(batches, parts, models, outputs, rows)
        flat = self.whole.view(batches, parts, models * outputs, rows)
        self.batches = list(zip(self.whole.unbind(), flat.unbind(), strict=True))


def by_row_block(weights: Tensor, parts: int, sets: int = 1) -> Tensor:
    """The weights that each row block is multiplied with, shape ``(parts, M * K, D + 1)``."""
    return weights.view(sets, -1, weights.shape[-1]).expand(parts, -1, -1)


def raw_predictions(chunk: Chunk, weights: Tensor, sets: int = 1) -> Tensor:
    """Raw predictions of all rows of a chunk, shape ``(batches, parts, M, K, rows)``."""
    raw = _RawPredictions(chunk, weights, sets)
    flat = by_row_block(weights, chunk.shape[1], sets)
    for batch, (_, raw_rows) in zip(chunk.batches, raw.batches, strict=True):
        batch.matmul(flat, out=raw_rows)
    return raw.whole
