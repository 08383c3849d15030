"""What a source yields: rows gathered into a buffer that fits the cache, cut into batches."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat

import torch
from torch import Tensor

from skorchless.sources.limits import numbers_at_once
from skorchless.sources.moments import Moments
from skorchless.stack import WIDE

#: A chunk larger than this falls out of the cache; a smaller one pays its fixed costs more often.
CHUNK_BYTES = 4 * 2**20

#: Rows that are read where they lie leave no copy in the cache, so more of them go at once.
BARE_CHUNK_BYTES = 16 * 2**20

#: Numbers whose squares are held at once.
SQUARED_NUMBERS = 2**18

#: So few columns are squared sooner by a product of all with all.
NARROW = 16

#: Rows that are taken to double precision at once on a CPU.
WIDE_ROWS = 1024

#: A row block of fewer numbers than this is not worth a core of its own.
BLOCK_NUMBERS = 2**14

#: More row blocks than this are never cut. How many depends on the shape alone, not on how many
#: threads there are, so that the same seed gives the same bits beside other jobs.
MOST_PARTS = 8

#: Rows of a symmetric product that are computed at once, from the diagonal on.
PANEL = 200

#: From so many classes on targets are their numbers: one-hot they would be as large as all raw
#: predictions, and read as often. Of few classes they are the faster ones on a CPU.
MANY_CLASSES = 32

#: From this many rows of weights on, one matrix product keeps every core busy by itself.
WIDE_STACK = 48


#: Views of every batch of a chunk are made once and kept: this many at most.
MOST_BATCHES = 1024


class DenseBatch:
    """A batch whose rows have been gathered.

    Parameters
    ----------
    X : Tensor of shape (parts, rows, D + 1)
        The last column is 1, or 0 for models without intercept.
    target : Tensor of shape (parts, 1, K, rows)
    weight : Tensor of shape (parts, 1, 1, rows), or None
    """

    __slots__ = ("X", "X_t", "target", "weight")

    def __init__(self, X: Tensor, target: Tensor, weight: Tensor | None) -> None:
        self.X, self.X_t = X, X.mT
        self.target, self.weight = target, weight

    def predict(self, weights: Tensor, out: Tensor) -> None:
        """As of `Batch`."""
        torch.bmm(weights, self.X_t, out=out)

    def pull_back(self, residual: Tensor, scale: float, out: Tensor) -> None:
        """As of `Batch`."""
        torch.baddbmm(out, residual, self.X, beta=0, alpha=scale, out=out)


class BareBatch(DenseBatch):
    """Rows as the user holds them, without the last column, which is `ones` (1 or 0)."""

    __slots__ = ("ones",)

    def __init__(self, X: Tensor, target: Tensor, weight: Tensor | None, ones: float) -> None:
        super().__init__(X, target, weight)
        self.ones = ones

    def predict(self, weights: Tensor, out: Tensor) -> None:
        """As of `Batch`."""
        torch.bmm(weights[..., :-1], self.X_t, out=out)
        out.add_(weights[..., -1:], alpha=self.ones)

    def pull_back(self, residual: Tensor, scale: float, out: Tensor) -> None:
        """As of `Batch`."""
        torch.mul(torch.bmm(residual, self.X), scale, out=out[..., :-1])
        torch.mul(residual.sum(dim=-1), scale * self.ones, out=out[..., -1])


@dataclass(eq=False)
class DenseChunk:
    """A `Chunk` of dense rows; a source fills the same one again and again.

    Attributes
    ----------
    X : Tensor of shape (batches, parts, rows, D + 1), or (batches, parts, rows, D) if bare
    bare : float, optional
        The constant last column, where X lacks it.
    batches : list of DenseBatch
        Views of X, target and weight, made once.
    target, weight, scale, starts, ends
        As of `Chunk`.
    """

    X: Tensor
    target: Tensor
    weight: Tensor | None
    bare: float | None = None
    scale: list[float] = field(default_factory=list)
    starts: bool = True
    ends: bool = True
    batches: list[DenseBatch] = field(init=False)

    def __post_init__(self) -> None:
        weights = repeat(None) if self.weight is None else self.weight.unbind()
        views = zip(self.X.unbind(), self.target.unbind(), weights, strict=False)
        if self.bare is None:
            self.batches = [DenseBatch(*view) for view in views]
        else:
            self.batches = [BareBatch(*view, self.bare) for view in views]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Batches, row blocks a batch, and rows a block."""
        batches, parts, rows, _ = self.X.shape
        return batches, parts, rows

    @property
    def n_columns(self) -> int:
        """Columns of `rows`."""
        return self.X.shape[-1]

    @property
    def rows(self) -> Tensor:
        """All rows as one matrix, of shape ``(batches * parts * rows, D + 1)``, or D if bare."""
        return self.X.view(-1, self.X.shape[-1])

    @property
    def features(self) -> Tensor:
        """All rows without the constant column, of shape ``(batches * parts * rows, D)``."""
        return self.rows if self.bare is not None else self.rows[:, :-1]

    def shares(self) -> Tensor:
        """As of `Chunk`."""
        share = torch.full((1, self.rows.shape[0]), self.scale[0], dtype=WIDE, device=self.X.device)
        return share if self.weight is None else share * self.weight.view(1, -1)

    def moments(self) -> Moments:
        """As of `Chunk`."""
        return Moments.of(self.features, None if self.weight is None else self.weight.view(-1))

    def largest(self) -> Tensor:
        """As of `Chunk`."""
        return self.features.abs().amax(dim=0)

    def squares(self) -> Tensor:
        """As of `Chunk`."""
        rows = self.rows
        weight = rows.new_ones(len(rows)) if self.weight is None else self.weight.view(-1)
        if rows.shape[1] <= NARROW:
            weighted = rows if self.weight is None else rows * weight.unsqueeze(1)
            sums = torch.stack([(weighted.T @ rows).diagonal(), weight @ rows]).to(WIDE)
        else:
            sums = self._sums_of_wide(weight)
        if self.bare is None:
            return sums
        last = (self.bare * weight.sum(dtype=WIDE)).expand(2, 1)
        return torch.cat([sums, last], dim=1)

    def _sums_of_wide(self, weight: Tensor) -> Tensor:
        """Of squares and of numbers of many columns, some rows at a time, ``(2, columns)``."""
        rows = self.rows
        sums = torch.zeros(2, rows.shape[1], dtype=WIDE, device=rows.device)
        most = -(-numbers_at_once(SQUARED_NUMBERS, rows.device) // rows.shape[1])
        squared = torch.empty_like(rows[:most])
        for start, stop in slices(len(rows), most):
            block, share = rows[start:stop], weight[start:stop]
            sums[0] += share @ torch.mul(block, block, out=squared[: stop - start])
            sums[1] += share @ block
        return sums

    def gram(self) -> Tensor:
        """As of `Chunk`: the products run in the rows' own precision, only their sums are wide."""
        rows = self.rows
        weighted = rows if self.weight is None else rows * self.weight.view(-1, 1)
        inner = _symmetric_product(weighted, rows).to(WIDE)
        if self.bare is None:
            return inner
        weight = rows.new_ones(len(rows)) if self.weight is None else self.weight.view(-1)
        sums = self.bare * (weight @ rows).to(WIDE)
        total = self.bare * weight.sum(dtype=WIDE)
        return torch.cat(
            [
                torch.cat([inner, sums.unsqueeze(1)], dim=1),
                torch.cat([sums, total.view(1)]).unsqueeze(0),
            ]
        )

    def second_moments(self, share: Tensor) -> Tensor:
        """As of `Chunk`."""
        moments = share.new_zeros(share.shape[0], self.n_columns, self.n_columns)
        for rows, weight in self._wide_blocks(share):
            weighted = rows.T * weight.unsqueeze(1)
            if rows.dtype == WIDE:
                moments.baddbmm_(weighted, rows.expand(share.shape[0], -1, -1))
            else:
                moments += weighted @ rows
        return moments

    def second_squares(self, share: Tensor) -> Tensor:
        """As of `Chunk`."""
        squares = share.new_zeros(len(share), self.n_columns)
        for rows, weight in self._wide_blocks(share):
            squares += weight @ rows.square()
        return squares

    def row_squares(self) -> Tensor:
        """As of `Chunk`."""
        squares = self.rows.square().sum(dim=1, dtype=WIDE)
        return squares if self.bare is None else squares + self.bare**2

    def wide_rows(self) -> Tensor:
        """As of `Chunk`."""
        return self.rows.to(WIDE)

    def _wide_blocks(self, share: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Some rows at a time with their shares.

        They are in double precision on a CPU. On other devices, where that may be slow by far, they
        are in their own, and sums are in double.
        """
        dtype = WIDE if share.device.type == "cpu" else self.X.dtype
        for start, stop in slices(len(self.rows), wide_rows(self.n_columns, share.device)):
            yield self.rows[start:stop].to(dtype), share[:, start:stop].to(dtype)


def wide_rows(n_columns: int, device: torch.device) -> int:
    """Rows that are taken to double precision at once."""
    return max(1, numbers_at_once(WIDE_ROWS * n_columns, device) // n_columns)


def _symmetric_product(left: Tensor, right: Tensor) -> Tensor:
    """``left.T @ right`` where that is symmetric: its upper half is computed, and mirrored."""
    columns = right.shape[1]
    if columns < 2 * PANEL or right.device.type != "cpu":
        return left.T @ right
    product = right.new_empty(columns, columns)
    for start, stop in slices(columns, PANEL):
        panel = left[:, start:stop].T @ right[:, start:]
        product[start:stop, start:] = panel
        product[stop:, start:stop] = panel[:, stop - start :].T
    return product


def count_parts(n_rows: int, n_columns: int, stack_width: int, device: torch.device) -> int:
    """Into how many row blocks to cut a batch, so that every core gets one.

    A product with few rows of weights does not spread over the cores by itself: cutting the batch
    makes it about 1.5 times as fast (measured at 1024 x 784 x 10 on two cores).
    """
    if device.type != "cpu" or stack_width >= WIDE_STACK:
        return 1
    most = min(MOST_PARTS, n_rows * n_columns // BLOCK_NUMBERS)
    parts = 1
    while parts * 2 <= most and n_rows % (parts * 2) == 0:
        parts *= 2
    return parts


def drawn(n_rows: int, n_sample: int) -> Tensor | None:
    """Numbers of `n_sample` of `n_rows` rows at random; None for all, if that is about as many."""
    return None if 2 * n_sample >= n_rows else spread(n_rows, n_sample)


def spread(n_rows: int, n_sample: int) -> Tensor:
    """Numbers of `n_sample` of `n_rows` rows, one at random of each of as many equal stretches.

    In ascending order, and the same ones for the same sizes.
    """
    generator = torch.Generator(device="cpu").manual_seed(0)
    place = torch.rand(n_sample, generator=generator, dtype=WIDE, device="cpu")
    place += torch.arange(n_sample, device="cpu")
    return (place * (n_rows / n_sample)).long().clamp_(max=n_rows - 1)


def by_weight(weight: Tensor, n_sample: int) -> tuple[Tensor, Tensor]:
    """Rows that stand for all in a mean with weights: systematic sampling in proportion to these.

    Parameters
    ----------
    weight : Tensor of shape (n,)
    n_sample : int

    Returns
    -------
    rows : Tensor of int, shape (m,)
        In ascending order, each once. A row of more than one share of the sum is always among them.
    weight : Tensor of shape (m,)
        What each stands for, in double precision: as much as all rows in sum.
    """
    total = weight.cpu().to(WIDE).cumsum(dim=0)
    generator = torch.Generator(device="cpu").manual_seed(0)
    place = torch.rand(n_sample, generator=generator, dtype=WIDE, device="cpu")
    place += torch.arange(n_sample, device="cpu")
    found = torch.searchsorted(total, place * (total[-1] / n_sample), right=True)
    count = torch.bincount(found.clamp_(max=len(total) - 1), minlength=len(total))
    rows = count.nonzero().view(-1)
    return rows, count[rows] * (total[-1] / n_sample)


def room_for_targets(
    shape: tuple[int, int, int], target: Tensor, n_outputs: int, dtype: torch.dtype
) -> Tensor:
    """Where `lay_out` writes targets, ``(n, K)`` numbers or ``(n,)`` classes, beside them.

    `shape` is batches, row blocks a batch, and rows a block; `dtype` what is computed in.
    """
    batches, parts, rows = shape
    if target.ndim == 1 and n_outputs >= MANY_CLASSES:
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


def slices(n: int, size: int) -> Iterator[tuple[int, int]]:
    """Bounds of consecutive runs of `size` out of `n`."""
    for start in range(0, n, size):
        yield start, min(start + size, n)


def even_slices(n: int, size: int) -> Iterator[tuple[int, int]]:
    """The same, all runs but the last few rows divisible into row blocks."""
    even = n - n % MOST_PARTS
    yield from slices(even, size - size % MOST_PARTS or size)
    if even < n:
        yield even, n
