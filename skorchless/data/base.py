"""What optimizers ask of data, and what dense and sparse loaders have in common."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, float64

from skorchless.data import limits
from skorchless.data.scaling import Moments, Scaling


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

    def matmul(self, weights: Tensor, out: Tensor) -> None:
        """Write raw predictions ``(parts, M * K, rows)`` of weights ``(parts, M * K, D + 1)``."""

    def rmatmul(self, residual: Tensor, scale: float, out: Tensor) -> None:
        """Write ``scale * residual @ X``: gradients ``(parts, M * K, D + 1)`` in the weights."""


class Chunk(Protocol):
    """Rows of a pass, as batches of ``parts`` row blocks of ``rows`` rows each.

    Attributes
    ----------
    target : Tensor of shape (batches, parts, 1, K, rows)
    weight : Tensor of shape (batches, parts, 1, 1, rows), or None when every row weighs 1
        Weights have a mean of 1 over all rows.
    scale : list of float
        For each batch, one over the rows of the whole batch: the factor of its sums over rows.
    starts, ends : bool
        Whether the (only) batch begins and ends in this chunk. A batch larger than a chunk spans
        several; its sums add up over them.
    batches : sequence of Batch
        They share the chunk's memory.
    shape : tuple of int
        Batches, row blocks per batch, and rows per block.
    n_columns : int
        Columns, with the constant one of the intercept, D + 1.
    """

    target: Tensor
    weight: Tensor | None
    scale: list[float]
    starts: bool
    ends: bool
    batches: Sequence[Batch]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the numbers of batches, row blocks per batch, and rows per block."""

    @property
    def n_columns(self) -> int:
        """Return the number of columns, D + 1."""

    def shares(self, dtype: torch.dtype = float64) -> Tensor:
        """Return the share of each row in a mean over the batch, ``(1, rows)``."""
        batches, parts, rows = self.shape
        size, device = (1, batches * parts * rows), self.target.device
        share = torch.full(size, self.scale[0], dtype=dtype, device=device)
        return share if self.weight is None else share * self.weight.view(1, -1)

    def moments(self) -> Moments:
        """Return weighted means and deviations of the D feature columns."""

    def largest(self) -> Tensor:
        """Return the largest magnitude of each of the D feature columns, before any scaling."""

    def squares(self) -> Tensor:
        r"""Return sums of :math:`s_i \tilde x_i^2` and :math:`s_i \tilde x_i`, ``(2, D + 1)``."""

    def gram(self) -> Tensor:
        r"""Return the sum of :math:`s_i \tilde x_i \tilde x_i^\top`, ``(D + 1, D + 1)``."""

    def second_moments(self, share: Tensor) -> Tensor:
        r"""Return the sum of :math:`h_{mi} \tilde x_i \tilde x_i^\top` for each model.

        Parameters
        ----------
        share : Tensor of shape (M, rows)
            Weights h of the rows.

        Returns
        -------
        moments : Tensor of shape (M, D + 1, D + 1)
        """
        if not takes_panels(self.n_columns, share.device):
            return add_up(
                torch.bmm(rows.T * weight.unsqueeze(1), rows.expand(len(share), -1, -1))
                for rows, weight in self._blocks(share)
            )
        size = (len(share), self.n_columns, self.n_columns)
        panels = torch.zeros(size, dtype=float64, device=share.device)
        for rows, weight in self._blocks(share):
            for own, of_rows in zip(panels, weight, strict=True):
                add_upper_product(rows * of_rows.unsqueeze(1), rows, own)
        mirror(panels)
        return panels

    def second_squares(self, share: Tensor) -> Tensor:
        """Return the diagonals of `second_moments`, ``(M, D + 1)``."""
        squares = torch.zeros(len(share), self.n_columns, dtype=float64, device=share.device)
        for rows, weight in self._blocks(share):
            dtype = float64 if share.device.type == "cpu" else rows.dtype
            squares += weight.to(dtype) @ rows.to(dtype).square()
        return squares

    def row_squares(self) -> Tensor:
        r"""Return the squared length :math:`\|\tilde x_i\|^2` of each row, in double."""

    def wide_rows(self) -> Tensor:
        """Return a few rows as one dense matrix, ``(rows, D + 1)``, in the precision of sums."""

    def _blocks(self, share: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield dense blocks of rows with their shares, in the dtype to make products in."""


MatrixT = TypeVar("MatrixT", bound=Any)
ChunkT_co = TypeVar("ChunkT_co", bound=Chunk, covariant=True)


@dataclass(eq=False)
class MatrixLoader(Generic[MatrixT, ChunkT_co]):
    """Batches of the rows of a matrix ``X``, which is only ever read.

    Parameters
    ----------
    X : Tensor, LargeMatrix or SparseRows of shape (n, D)
    target : Tensor of shape (n, K), or of shape (n,) with integer classes below `n_outputs`
    sample_weight : Tensor of shape (n,), or None for weights of 1
    n_outputs : int
        K.
    fit_intercept : bool
        Whether the last column of the batches is 1 rather than 0.
    batch_size : int
        At least `n` for the full batch.
    stack_width : int
        Rows of weights that a batch is multiplied with, M * K.
    mean_weight : float, optional
        Divisor of the weights; their own mean by default. A batch's sums are then divided by its
        number of rows, whatever weights it has: to divide by the sum of these would favour batches
        of little weight.
    scaling : Scaling, optional
        Applied to rows as they are gathered.

    Attributes
    ----------
    n_rows, n_columns : int
        Rows, and columns of a batch, D + 1.
    affords_gram : bool
        Whether second moments of all columns are worth their memory and time.
    dtype, device
        What is computed in, and where.
    fits_chunk : bool
        Whether rows can be standardised without a copy of their own.
    """

    X: MatrixT
    target: Tensor
    sample_weight: Tensor | None
    _: KW_ONLY
    n_outputs: int
    fit_intercept: bool
    batch_size: int
    stack_width: int
    mean_weight: float | None = None
    scaling: Scaling | None = None

    #: Set by the subclasses: see above, and the number of rows of a chunk at most.
    fits_chunk: bool = field(init=False)
    _chunk_rows: int = field(init=False)

    def __post_init__(self) -> None:
        X = self.X
        if self.mean_weight is None:
            self.mean_weight = mean_of(self.sample_weight)
        if self.sample_weight is not None or self.mean_weight != 1.0:
            ones = torch.ones(len(X), dtype=float64, device=X.device)
            weight = ones if self.sample_weight is None else self.sample_weight
            self.sample_weight = (weight / self.mean_weight).to(X.dtype)
        self.n_rows: int = len(X)
        self.n_columns: int = X.shape[1] + 1
        self.dtype: torch.dtype = X.dtype
        self.device: torch.device = X.device
        self.affords_gram = affords_gram(X)
        self.batch_size = min(self.batch_size, self.n_rows)

    @property
    def n_batches(self) -> int:
        """Return the number of batches of a pass."""
        return -(-self.n_rows // self.batch_size)

    def chunks(self, generator: torch.Generator | None = None) -> Iterator[ChunkT_co]:
        """Yield all rows, shuffled if there is a generator and more than one batch.

        A chunk's tensors are overwritten by the next one.
        """
        raise NotImplementedError

    def rows(self, chosen: Tensor | None) -> ChunkT_co:
        """Return rows by number in ascending order, or all of them, as one batch."""
        raise NotImplementedError

    def _filled(self, order: Tensor | None, start: int, stop: int, size: int) -> ChunkT_co:
        """Return rows ``order[start:stop]`` (of X if None) in batches of `size`."""
        raise NotImplementedError

    def _spanning(self, order: Tensor | None, start: int, stop: int) -> Iterator[ChunkT_co]:
        """Yield the chunks of one batch that is larger than a chunk."""
        for first, last in self._cuts(stop - start):
            chunk = self._filled(order, start + first, start + last, last - first)
            chunk.scale = [1.0 / (stop - start)]
            chunk.starts, chunk.ends = first == 0, start + last == stop
            yield chunk

    def _cuts(self, n_rows: int) -> Iterator[tuple[int, int]]:
        """Yield where a batch of `n_rows` is cut into chunks."""
        return slices(n_rows, self._chunk_rows)

    def sample(self, n_rows: int) -> ChunkT_co:
        """Return a random sample of rows, by weight, or all rows if that is about as many."""
        chosen = drawn(self.n_rows, n_rows)
        if chosen is None or self.sample_weight is None:
            return self.rows(chosen)
        chosen, weight = by_weight(self.sample_weight, n_rows)
        chunk = self.rows(chosen)
        assert chunk.weight is not None
        chunk.weight.view(-1).copy_(weight)
        chunk.scale = [1.0 / self.n_rows]
        return chunk

    def _pass(self, order: Tensor | None) -> Iterator[ChunkT_co]:
        """Yield the rows in chunks; a last batch of fewer rows has a chunk of its own."""
        batch, most = self.batch_size, self._chunk_rows
        if batch > most:
            for start, stop in slices(self.n_rows, batch):
                yield from self._spanning(order, start, stop)
            return
        whole = self.n_rows // batch * batch
        for start, stop in slices(whole, min(most // batch, limits.MOST_BATCHES) * batch):
            yield self._filled(order, start, stop, batch)
        if whole < self.n_rows:
            yield self._filled(order, whole, self.n_rows, self.n_rows - whole)

    def scaled(self, scaling: Scaling) -> Self:
        """Return a loader of the same rows, standardised."""
        return replace(self, mean_weight=1.0, scaling=scaling)


def affords_gram(X: Any, n_rows: int | None = None) -> bool:
    """Return whether second moments of all columns are worth their memory and time.

    Parameters
    ----------
    X : Tensor, LargeMatrix or SparseRows of shape (n, D)
    n_rows : int, optional
        Rows of all ranks, where X holds a part of them.
    """
    n, d = len(X) if n_rows is None else n_rows, X.shape[1]
    if X.is_sparse:
        return bool(d < limits.MOST_DENSE_COLUMNS)
    return bool(min(n, d + 1) <= limits.MOST_FACTORED_COLUMNS)


def mean_of(weight: Tensor | None) -> float:
    """Return the mean weight of the rows, computed without overflow; 1 without weights."""
    if weight is None or len(weight) == 0:
        return 1.0
    most = weight.max().to(float64)
    return float(most * (weight.to(float64) / most).mean())


def add_up(parts: Iterable[Tensor]) -> Tensor:
    """Return the sum of some tensors, in double precision if there are several."""
    total: Tensor | None = None
    for part in parts:
        total = part if total is None else total.to(float64).add_(part)
    assert total is not None
    return total


def slices(n: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the bounds of consecutive runs of `size` out of `n`."""
    for start in range(0, n, size):
        yield start, min(start + size, n)


def takes_panels(n_columns: int, device: torch.device) -> bool:
    """Whether a symmetric product of so many columns is computed in panels of one half."""
    return 2 * n_columns >= 3 * limits.PANEL and device.type == "cpu"


def add_upper_product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Add ``left.T @ right``, which is symmetric, to the panels of the upper half of `out`."""
    for start, stop in slices(len(out), limits.PANEL):
        out[start:stop, start:] += left[:, start:stop].T @ right[:, start:]


def mirror(product: Tensor) -> None:
    """Write the upper half of matrices ``(..., D, D)``, in panels, to their lower half."""
    for start, stop in slices(product.shape[-1], limits.PANEL):
        product[..., stop:, start:stop] = product[..., start:stop, stop:].mT


def drawn(n_rows: int, n_sample: int) -> Tensor | None:
    """Return the numbers of one random row from each of `n_sample` equal stretches of rows.

    They are in ascending order, and the same for the same sizes. None stands for all rows, if
    that is about as many.
    """
    if 2 * n_sample >= n_rows:
        return None
    return (_places(n_sample) * (n_rows / n_sample)).long().clamp_(max=n_rows - 1)


def by_weight(weight: Tensor, n_sample: int) -> tuple[Tensor, Tensor]:
    """Sample rows in proportion to their weights (systematic sampling).

    Parameters
    ----------
    weight : Tensor of shape (n,)
    n_sample : int

    Returns
    -------
    rows : Tensor of int, shape (m,)
        In ascending order, each once. A row of more than one share of the sum is always among them.
    weight : Tensor of shape (m,)
        What each stands for, in double precision. Their sum is that of all rows.
    """
    total = weight.cpu().to(float64).cumsum(dim=0)
    found = torch.searchsorted(total, _places(n_sample) * (total[-1] / n_sample), right=True)
    count = torch.bincount(found.clamp_(max=len(total) - 1), minlength=len(total))
    rows = count.nonzero().view(-1)
    return rows, count[rows] * (total[-1] / n_sample)


def _places(n_sample: int) -> Tensor:
    """Return one random number from each of the intervals [0, 1), [1, 2), ..., always the same."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    place = torch.rand(n_sample, generator=generator, dtype=float64, device="cpu")
    return place.add_(torch.arange(n_sample, device="cpu"))


def room_for_targets(
    shape: tuple[int, int, int], target: Tensor, n_outputs: int, dtype: torch.dtype
) -> Tensor:
    """Allocate what `lay_out` writes targets ``(n, K)``, or classes ``(n,)``, to.

    `shape` is batches, row blocks per batch, and rows per block; `dtype` what is computed in.
    """
    batches, parts, rows = shape
    if target.ndim == 1 and n_outputs >= limits.MANY_CLASSES:
        n_outputs, dtype = 1, torch.int64
    return torch.empty(batches, parts, 1, n_outputs, rows, dtype=dtype, device=target.device)


def lay_out(target: Tensor, out: Tensor) -> Tensor:
    """Write targets, of shape ``(n, K)`` or ``(n,)``, samples last.

    `out` is of shape ``(batches, parts, 1, K, rows)``, where classes are one-hot, or
    ``(batches, parts, 1, 1, rows)``, where they are numbers.
    """
    samples_last = out.squeeze(2)  # (batches, parts, K, rows)
    batches, parts, outputs, rows = samples_last.shape
    if not out.is_floating_point():
        out.copy_(target.view_as(out))
    elif target.ndim == 2:
        samples_last.copy_(target.view(batches, parts, rows, outputs).mT)
    else:
        samples_last.zero_().scatter_(2, target.view(batches, parts, 1, rows), 1.0)
    return out
