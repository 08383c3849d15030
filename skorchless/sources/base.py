"""What the engine asks of data, whatever it is kept in."""

from collections.abc import Iterator, Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

from skorchless.sources.matrix import Matrix
from skorchless.sources.moments import Moments
from skorchless.sources.scaling import Scaling


class Batch(Protocol):
    """Rows of one batch, cut into ``parts`` row blocks, and the two products training needs.

    Attributes
    ----------
    target : Tensor of shape (parts, 1, K, rows)
        Samples last, classes one-hot; of many classes their numbers, ``(parts, 1, 1, rows)``.
    weight : Tensor of shape (parts, 1, 1, rows), or None
    """

    target: Tensor
    weight: Tensor | None

    def predict(self, weights: Tensor, out: Tensor) -> None:
        """Raw predictions ``(parts, M * K, rows)`` of weights ``(parts, M * K, D + 1)``."""

    def pull_back(self, residual: Tensor, scale: float, out: Tensor) -> None:
        """``scale * residual @ X``: gradients ``(parts, M * K, D + 1)`` in the weights."""


class Chunk(Protocol):
    """Rows of a pass, as batches of ``parts`` row blocks of ``rows`` rows each.

    Attributes
    ----------
    target : Tensor of shape (batches, parts, 1, K, rows)
    weight : Tensor of shape (batches, parts, 1, 1, rows), or None when every row weighs 1
    scale : list of float
        One over the rows of the whole batch that each batch belongs to: what a sum over rows has
        to be multiplied by. Weights have a mean of 1 over all rows.
    starts, ends : bool
        Whether the (only) batch begins and ends in this chunk. A batch larger than a chunk spans
        several; its sums add up over them.
    """

    target: Tensor
    weight: Tensor | None
    scale: list[float]
    starts: bool
    ends: bool

    @property
    def batches(self) -> Sequence[Batch]:
        """The batches, which share the chunk's memory."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Batches, row blocks a batch, and rows a block."""

    def shares(self) -> Tensor:
        """Share of each row in a mean over the batch, shape ``(1, rows of the chunk)``, double."""

    def moments(self) -> Moments:
        """Weighted means and deviations of the D feature columns."""

    def largest(self) -> Tensor:
        """The largest magnitude of each of the D feature columns, as the user has them."""

    def squares(self) -> Tensor:
        r"""Sums of :math:`s_i \tilde x_i^2` and of :math:`s_i \tilde x_i`, shape ``(2, D + 1)``."""

    def gram(self) -> Tensor:
        r"""Sum of :math:`s_i \tilde x_i \tilde x_i^\top`, shape ``(D + 1, D + 1)``, in double."""

    def second_moments(self, share: Tensor) -> Tensor:
        r"""Sum of :math:`h_{mi} \tilde x_i \tilde x_i^\top` for each model, in double.

        Parameters
        ----------
        share : Tensor of shape (M, rows)
            Weights h of the rows.

        Returns
        -------
        moments : Tensor of shape (M, D + 1, D + 1)
        """

    def second_squares(self, share: Tensor) -> Tensor:
        """The diagonals of `second_moments`, shape ``(M, D + 1)``."""

    def row_squares(self) -> Tensor:
        r"""Squared length :math:`\|\tilde x_i\|^2` of each row, shape ``(rows,)``, in double."""

    def wide_rows(self) -> Tensor:
        """The rows as one dense matrix of shape ``(rows, D + 1)`` in double: for few of them."""


class Source(Protocol):
    """Rows to train on, in batches.

    Attributes
    ----------
    X : Tensor or SparseRows of shape (n, D)
        Rows as the user holds them.
    n_rows, n_columns, n_outputs : int
        Rows, columns of a batch (D + 1) and outputs K.
    batch_size, n_batches : int
        Rows of a batch, and batches of a pass.
    stack_width : int
        Rows of weights that a batch is multiplied with, M * K.
    mean_weight : float
        What weights have been divided by.
    fits_chunk : bool
        Whether all rows fit one chunk, so that to standardise them takes no copy of its own.
    affords_gram : bool
        Whether second moments of all columns are worth their memory and time.
    dtype, device
        What is computed in, and where.
    """

    n_rows: int
    n_columns: int
    n_outputs: int
    batch_size: int
    stack_width: int
    mean_weight: float
    affords_gram: bool
    dtype: torch.dtype
    device: torch.device

    @property
    def X(self) -> Matrix: ...

    @property
    def n_batches(self) -> int: ...

    @property
    def fits_chunk(self) -> bool: ...

    def scaled(self, scaling: Scaling) -> Self:
        """The same rows, standardised."""

    def chunks(self, generator: torch.Generator | None = None) -> Iterator[Chunk]:
        """One pass over all rows, shuffled if there is a generator and more than one batch.

        A chunk's tensors are overwritten by the next one.
        """

    def sample(self, n_rows: int) -> Chunk:
        """As many rows at random, or all if that is about as many."""

    def rows(self, chosen: Tensor | None) -> Chunk:
        """The rows of some numbers in ascending order, or all of them, as one batch."""
