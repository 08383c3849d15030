"""Dense rows, gathered chunk by chunk: shuffled, converted and standardised on the way."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat

import torch
from torch import Tensor, float64

from skorchless.data import limits
from skorchless.data.base import (
    Chunk,
    MatrixLoader,
    add_up,
    add_upper_product,
    lay_out,
    mirror,
    room_for_targets,
    slices,
    takes_panels,
)
from skorchless.data.scaling import Moments


class LargeMatrix:
    """Rows of a matrix, which are converted and moved when they are read.

    It stands in for a tensor where only its shape, dtype and device, or some of its rows, are
    needed: for an array or memory map that is too large to be copied, or for more than a device
    holds.

    Parameters
    ----------
    stored : Tensor of shape (N, D)
        The user's memory, in any real dtype and with any strides; only read.
    dtype : torch.dtype
        What is computed in.
    device : torch.device, optional
        Where rows are wanted; where they are by default.
    chosen : Tensor of int64, shape (n,), optional
        Which rows there are, in ascending order; all by default.
    """

    is_sparse = False

    def __init__(
        self,
        stored: Tensor,
        dtype: torch.dtype,
        device: torch.device | None = None,
        chosen: Tensor | None = None,
    ) -> None:
        self.stored, self.dtype, self.chosen = stored, dtype, chosen
        self.device = stored.device if device is None else device

    def __len__(self) -> int:
        return len(self.stored) if self.chosen is None else len(self.chosen)

    @property
    def shape(self) -> tuple[int, int]:
        """Return the numbers of rows and columns."""
        return len(self), self.stored.shape[1]

    def numel(self) -> int:
        """Return how many numbers there are."""
        return len(self) * self.shape[1]

    @property
    def is_here(self) -> bool:
        """Whether the rows are on the device where they are wanted."""
        return self.stored.device == self.device

    @property
    def lies_ready(self) -> bool:
        """Whether consecutive rows can be computed with in place."""
        ready = self.stored.dtype == self.dtype and self.stored.is_contiguous()
        return ready and self.chosen is None and self.is_here

    def permutation(self, generator: torch.Generator) -> Tensor:
        """Return a random order of all rows that reads few places of the memory at a time."""
        rows_lie_together = self.shape[1] == 1 or self.stored.stride(1) == 1
        if rows_lie_together:
            block = max(1, limits.SHUFFLED_BLOCK_BYTES // self.row_bytes)
        else:
            block = limits.COLUMN_RUN_BYTES // self.stored.element_size()
        window = max(1, limits.WINDOW_BYTES // (block * self.row_bytes))
        return block_permutation(len(self), block, window, generator)

    def runs(self) -> Iterator[Tensor]:
        """Yield all rows in their order, as they are stored, some at a time."""
        assert self.chosen is None
        for start, stop in slices(len(self), self._run_rows):
            yield self.stored[start:stop]

    def read(self, rows: slice | Tensor, out: Tensor) -> None:
        """Write consecutive rows, or rows by number, to `out`."""
        if isinstance(rows, slice) and self.chosen is None:
            out.copy_(self.stored[rows])
            return
        if isinstance(rows, slice):
            rows = torch.arange(len(self), device="cpu")[rows]
        rows = self._in_stored(rows).to(self.stored.device)
        if self.stored.dtype == out.dtype and self.stored.device == out.device:
            torch.index_select(self.stored, 0, rows, out=out)
        else:
            out.copy_(self.stored.index_select(0, rows))

    def __getitem__(self, run: slice) -> Tensor:
        """Copy consecutive rows, to compute with."""
        return self._copied(run, len(range(*run.indices(len(self)))))

    def index_select(self, axis: int, chosen: Tensor) -> "Tensor | LargeMatrix":
        """Select rows in ascending order, or columns.

        Rows are copied where they are few. Columns are always copied, some rows at a time.
        """
        if axis == 1:
            runs = slices(len(self), self._run_rows)
            return torch.cat([self[start:stop].index_select(1, chosen) for start, stop in runs])
        rows = chosen.cpu()
        if len(rows) * self.row_bytes <= limits.COPIED_BYTES:
            return self._copied(rows, len(rows))
        return LargeMatrix(self.stored, self.dtype, self.device, self._in_stored(rows))

    def to(self, where: torch.device | torch.dtype) -> "LargeMatrix":
        """Return the same rows for another dtype, or for another device, on it if they fit."""
        if isinstance(where, torch.dtype):
            return LargeMatrix(self.stored, where, self.device, self.chosen)
        stored = self.stored
        if where != stored.device and (moved := self._room(where)) is not None:
            for start, stop in slices(len(stored), self._run_rows):
                moved[start:stop].copy_(self.stored[start:stop])
            stored = moved
        return LargeMatrix(stored, self.dtype, where, self.chosen)

    def _room(self, device: torch.device) -> Tensor | None:
        """Memory of a device for all rows; None if it has too little."""
        free = None if device.type == "cpu" else limits.free_memory(device)
        n_bytes = self.stored.numel() * self.dtype.itemsize
        if free is not None and n_bytes > free // limits.ROWS_SHARE:
            return None
        try:
            return torch.empty_like(self.stored, dtype=self.dtype, device=device)
        except torch.OutOfMemoryError:
            return None

    def _copied(self, rows: slice | Tensor, n_rows: int) -> Tensor:
        out = torch.empty(n_rows, self.shape[1], dtype=self.dtype, device=self.device)
        self.read(rows, out)
        return out

    def _in_stored(self, rows: Tensor) -> Tensor:
        return rows if self.chosen is None else self.chosen.index_select(0, rows.cpu())

    @property
    def _run_rows(self) -> int:
        return max(1, limits.RUN_BYTES // self.row_bytes)

    @property
    def row_bytes(self) -> int:
        """Return the bytes of a row in the dtype to compute in."""
        return self.shape[1] * self.dtype.itemsize


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

    def matmul(self, weights: Tensor, out: Tensor) -> None:
        """Write raw predictions to `out`."""
        torch.bmm(weights, self.X_t, out=out)

    def rmatmul(self, residual: Tensor, scale: float, out: Tensor) -> None:
        """Write gradients in the weights to `out`."""
        torch.baddbmm(out, residual, self.X, beta=0, alpha=scale, out=out)


class InPlaceBatch(DenseBatch):
    """Rows in the user's memory, without the last column, which is `ones` (1 or 0)."""

    __slots__ = ("ones",)

    def __init__(self, X: Tensor, target: Tensor, weight: Tensor | None, ones: float) -> None:
        super().__init__(X, target, weight)
        self.ones = ones

    def matmul(self, weights: Tensor, out: Tensor) -> None:
        """Write raw predictions to `out`."""
        torch.bmm(weights[..., :-1], self.X_t, out=out)
        out.add_(weights[..., -1:], alpha=self.ones)

    def rmatmul(self, residual: Tensor, scale: float, out: Tensor) -> None:
        """Write gradients in the weights to `out`."""
        torch.mul(torch.bmm(residual, self.X), scale, out=out[..., :-1])
        torch.mul(residual.sum(dim=-1), scale * self.ones, out=out[..., -1])


@dataclass(eq=False)
class DenseChunk(Chunk):
    """A chunk of dense rows, which a loader fills again and again.

    Attributes
    ----------
    X : Tensor of shape (batches, parts, rows, D + 1), or (batches, parts, rows, D) in place
    ones : float, optional
        The constant last column, where X is the user's memory and lacks it.
    """

    X: Tensor
    target: Tensor
    weight: Tensor | None
    ones: float | None = None
    scale: list[float] = field(default_factory=list)
    starts: bool = True
    ends: bool = True
    batches: list[DenseBatch] = field(init=False)

    def __post_init__(self) -> None:
        weights = repeat(None) if self.weight is None else self.weight.unbind()
        views = zip(self.X.unbind(), self.target.unbind(), weights, strict=False)
        if self.ones is None:
            self.batches = [DenseBatch(*view) for view in views]
        else:
            self.batches = [InPlaceBatch(*view, self.ones) for view in views]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the numbers of batches, row blocks per batch, and rows per block."""
        batches, parts, rows, _ = self.X.shape
        return batches, parts, rows

    @property
    def n_columns(self) -> int:
        """Return the number of columns of `rows`."""
        return self.X.shape[-1]

    @property
    def rows(self) -> Tensor:
        """Return all rows as one matrix with the columns of X."""
        return self.X.view(-1, self.X.shape[-1])

    @property
    def features(self) -> Tensor:
        """Return all rows without the constant column, as one matrix of D columns."""
        return self.rows if self.ones is not None else self.rows[:, :-1]

    @property
    def _row_weight(self) -> Tensor:
        """Return the weight of each row, in the precision of the rows."""
        return self.X.new_ones(len(self.rows)) if self.weight is None else self.weight.view(-1)

    def moments(self) -> Moments:
        """Return weighted means and deviations of the feature columns."""
        return Moments.of(self.features, None if self.weight is None else self.weight.view(-1))

    def largest(self) -> Tensor:
        """Return the largest magnitude of each feature column."""
        return self.features.abs().amax(dim=0)

    def squares(self) -> Tensor:
        """Return weighted sums of squares and of numbers of each column."""
        rows, weight = self.rows, self._row_weight
        most = -(-limits.numbers_at_once(limits.SQUARED_NUMBERS, rows.device) // rows.shape[1])

        def sums_of(block: Tensor, share: Tensor) -> Tensor:
            sums = block.new_empty(2, block.shape[1])
            torch.mv(block.square().T, share, out=sums[0])
            torch.mv(block.T, share, out=sums[1])
            return sums

        sums = add_up(map(sums_of, torch.split(rows, most), torch.split(weight, most)))
        if self.ones is None:
            return sums
        last = (self.ones * weight.sum(dtype=float64)).expand(2, 1)
        return torch.cat([sums, last], dim=1)

    def gram(self) -> Tensor:
        """Return weighted second moments: products in the rows' own precision, sums in double."""
        rows, weight = self.rows, self._row_weight
        weighted = rows if self.weight is None else rows * weight.unsqueeze(1)
        inner = symmetric_product(weighted, rows).to(float64)
        if self.ones is None:
            return inner
        sums = self.ones * (weight @ rows).to(float64)
        total = self.ones * weight.sum(dtype=float64)
        beside = torch.cat([inner, sums.unsqueeze(1)], dim=1)
        return torch.cat([beside, torch.cat([sums, total.view(1)]).unsqueeze(0)])

    def row_squares(self) -> Tensor:
        """Return the squared length of each row."""
        squares = self.rows.square().sum(dim=1, dtype=float64)
        return squares if self.ones is None else squares + self.ones**2

    def wide_rows(self) -> Tensor:
        """Return the rows, in double precision on a CPU."""
        return self.rows.to(self._precision)

    @property
    def _precision(self) -> torch.dtype:
        """Return what sums over rows are computed in.

        Double on a CPU. On other devices, where that may be far slower, products are of the rows'
        own precision, and only sums of blocks are in double.
        """
        return float64 if self.X.device.type == "cpu" else self.X.dtype

    def _blocks(self, share: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield blocks of rows with their shares, in the rows' own dtype."""
        for start, stop in slices(len(self.rows), wide_rows(self.n_columns, share.device)):
            yield self.rows[start:stop], share[:, start:stop].to(self.X.dtype)


@dataclass(eq=False)
class DenseLoader(MatrixLoader[Tensor | LargeMatrix, DenseChunk]):
    """Batches of a dense ``X``; further parameters are those of `MatrixLoader`.

    Parameters
    ----------
    sets : int
        Sets of as many rows, such as the folds of a search, which train side by side: a batch holds
        a batch of each set, as its row blocks, and `batch_size` counts the rows of all sets. All
        are shuffled alike, so each set has the batches that it would have alone with the same seed.
    """

    sets: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        X = self.X
        self._matrix = X if isinstance(X, LargeMatrix) else LargeMatrix(X, X.dtype)
        rows = self._rows_in(limits.CHUNK_BYTES)
        self._chunk_rows = rows if self.sets == 1 else max(rows, self.batch_size)
        self.fits_chunk = self.n_rows <= self._chunk_rows
        self._chunks: dict[tuple[int, int, int], DenseChunk] = {}
        self._whole: DenseChunk | None = None

    def chunks(self, generator: torch.Generator | None = None) -> Iterator[DenseChunk]:
        """Yield all rows, shuffled if there is a generator and more than one batch."""
        if self._is_one_chunk:
            yield self._all_rows()
        else:
            yield from self._pass(self._order(generator))

    @property
    def _is_one_chunk(self) -> bool:
        """Whether a pass is one batch of all rows in one chunk, which is then filled once."""
        return self.n_rows == self.batch_size <= self._chunk_rows

    def _all_rows(self) -> DenseChunk:
        if self._whole is None:
            self._whole = next(self._pass(None))
        return self._whole

    def _order(self, generator: torch.Generator | None) -> Tensor | None:
        """The order of the rows in a pass; None for their own."""
        if self.n_batches == 1 or (generator is None and self.sets == 1):
            return None
        n_rows = self.n_rows // self.sets
        if generator is None:
            order = torch.arange(n_rows, device="cpu")
        elif isinstance(self.X, LargeMatrix):
            order = self.X.permutation(generator)
        else:
            order = torch.randperm(n_rows, generator=generator, device="cpu")
        if self.sets > 1:  # batch by batch, and in each batch set by set
            offset = torch.arange(0, self.n_rows, n_rows, device="cpu").unsqueeze(1)
            batch = self.batch_size // self.sets
            whole = n_rows // batch * batch
            batches = order[:whole].view(-1, 1, batch) + offset
            order = torch.cat([batches.flatten(), (order[whole:] + offset).flatten()])
        return order.to(self._matrix.stored.device)

    def rows(self, chosen: Tensor | None) -> DenseChunk:
        """Return rows by number in ascending order, or all of them, as one batch."""
        if chosen is None and self._is_one_chunk:
            return self._all_rows()
        rows = self.n_rows if chosen is None else len(chosen)
        chunk = self._new_chunk((1, self._parts(rows), rows // self._parts(rows)))
        return self._fill(chunk, chosen, 0, rows)

    def _rows_in(self, n_bytes: int) -> int:
        """Rows whose features, raw predictions and residuals take this much memory of a CPU."""
        width = self.n_columns + 2 * self.stack_width
        n_bytes = limits.bytes_at_once(n_bytes, self.device)
        return max(1, n_bytes // (self.dtype.itemsize * width))

    def _is_read_in_place(self, order: Tensor | None) -> bool:
        ready = self.scaling is None and self._matrix.lies_ready
        return order is None and ready and self.batch_size == self.n_rows

    def _filled(self, order: Tensor | None, start: int, stop: int, size: int) -> DenseChunk:
        """The chunk of this shape, which is filled anew for every run of rows."""
        parts = self._parts(size)
        shape = ((stop - start) // size, parts, size // parts)
        if shape not in self._chunks:
            self._chunks[shape] = self._new_chunk(shape)
        return self._fill(self._chunks[shape], order, start, stop)

    def _cuts(self, n_rows: int) -> Iterator[tuple[int, int]]:
        return even_slices(n_rows, self._chunk_rows)

    def _spanning(self, order: Tensor | None, start: int, stop: int) -> Iterator[DenseChunk]:
        if not self._is_read_in_place(order):
            yield from super()._spanning(order, start, stop)
            return
        for first, last in even_slices(self.n_rows, self._rows_in(limits.IN_PLACE_BYTES)):
            yield self._in_place(first, last)

    def _in_place(self, start: int, stop: int) -> DenseChunk:
        """Rows in the user's memory: part of one batch of all rows in their own order."""
        parts = self._parts(stop - start)
        shape = (1, parts, (stop - start) // parts)
        if self.n_outputs == 1 and self.target.dtype == self.X.dtype:
            target = self.target[start:stop].view(1, parts, 1, 1, shape[2])
        else:
            target = lay_out(self.target[start:stop], self._new_target(shape))
        weight = self.sample_weight
        return DenseChunk(
            X=self._matrix.stored[start:stop].view(*shape, -1),
            target=target,
            weight=None if weight is None else weight[start:stop].view(1, parts, 1, 1, shape[2]),
            ones=float(self.fit_intercept),
            scale=[1.0 / self.n_rows],
            starts=start == 0,
            ends=stop == self.n_rows,
        )

    def _fill(self, chunk: DenseChunk, order: Tensor | None, start: int, stop: int) -> DenseChunk:
        """Gather rows ``order[start:stop]`` (of X if None) into `chunk`."""
        features, chosen = chunk.features, None if order is None else order[start:stop]
        source = features
        if self.scaling is not None and chosen is None and self._matrix.lies_ready:
            source = self._matrix.stored[start:stop]  # scaled as it is copied
        else:
            self._matrix.read(slice(start, stop) if chosen is None else chosen, features)
        if self.scaling is not None:
            self.scaling.apply(source, out=features)

        def gathered(values: Tensor) -> Tensor:
            if chosen is None:
                return values[start:stop]
            return values.index_select(0, chosen.to(values.device))

        batches, parts, rows = chunk.shape
        lay_out(gathered(self.target), chunk.target)
        chunk.scale = [self.sets / (parts * rows)] * batches
        if self.sample_weight is not None and chunk.weight is not None:
            chunk.weight.copy_(gathered(self.sample_weight).view_as(chunk.weight))
        return chunk

    def _new_target(self, shape: tuple[int, int, int]) -> Tensor:
        return room_for_targets(shape, self.target, self.n_outputs, self.dtype)

    def _parts(self, n_rows: int) -> int:
        if self.sets > 1:
            return self.sets
        return count_parts(n_rows, self.n_columns, self.stack_width, self.device)

    def _new_chunk(self, shape: tuple[int, int, int]) -> DenseChunk:
        batches, parts, rows = shape
        X = self._empty(*shape, self.n_columns)
        X[..., -1].fill_(float(self.fit_intercept))
        target = self._new_target(shape)
        weight = None if self.sample_weight is None else self._empty(batches, parts, 1, 1, rows)
        return DenseChunk(X, target, weight)

    def _empty(self, *size: int) -> Tensor:
        return torch.empty(*size, dtype=self.dtype, device=self.device)


def wide_rows(n_columns: int, device: torch.device) -> int:
    """Return the number of rows whose second moments are added up at once."""
    numbers = limits.numbers_at_once(limits.WIDE_ROWS * n_columns, device)
    return max(1, numbers // n_columns)


def count_parts(n_rows: int, n_columns: int, stack_width: int, device: torch.device) -> int:
    """Return into how many row blocks to cut a batch, so that several cores can work."""
    if device.type != "cpu" or stack_width >= limits.WIDE_STACK:
        return 1
    most = min(limits.MOST_PARTS, n_rows * n_columns // limits.BLOCK_NUMBERS)
    parts = 1
    while parts * 2 <= most and n_rows % (parts * 2) == 0:
        parts *= 2
    return parts


def even_slices(n: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield bounds as `slices` does; all runs but the last few rows can be cut into row blocks."""
    even = n - n % limits.MOST_PARTS
    yield from slices(even, size - size % limits.MOST_PARTS or size)
    if even < n:
        yield even, n


def symmetric_product(left: Tensor, right: Tensor) -> Tensor:
    """Return ``left.T @ right``, where that is symmetric."""
    if not takes_panels(right.shape[1], right.device):
        return left.T @ right
    product = right.new_zeros(right.shape[1], right.shape[1])
    add_upper_product(left, right, product)
    mirror(product)
    return product


def block_permutation(
    n_rows: int, block_rows: int, window_blocks: int, generator: torch.Generator
) -> Tensor:
    """Return blocks of rows in random order, with the rows shuffled in windows of some blocks."""
    blocks = torch.randperm(-(-n_rows // block_rows), generator=generator, device="cpu")
    within = torch.arange(block_rows, device="cpu")
    windows = []
    for some in torch.split(blocks, window_blocks):
        rows = (some.unsqueeze(1) * block_rows + within).view(-1)
        rows = rows[rows < n_rows]
        windows.append(rows[torch.randperm(len(rows), generator=generator, device="cpu")])
    return torch.cat(windows)
