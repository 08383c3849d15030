"""In which order a pass reads the rows of a large matrix."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Order(Protocol):
    """Row numbers of a pass, which are asked for from its first to its last; tensors are one."""

    def __getitem__(self, run: slice) -> Tensor:
        """Those from one place of the pass to another."""


@dataclass
class Window:
    """Some blocks of rows.

    Attributes
    ----------
    number : int
        Which one of the pass.
    first, last : int
        Its places in the pass.
    rows : Tensor of int64
        Its rows, block by block.
    shuffled : Tensor of int64
        In which order they are used.
    """

    number: int
    first: int
    last: int
    rows: Tensor
    shuffled: Tensor


class BlockOrder:
    """Blocks in random order, and rows in random order within a window of some blocks.

    Parameters
    ----------
    n_rows : int
    block_rows : int
        Consecutive rows that are read together.
    window_blocks : int
    generator : torch.Generator
    """

    def __init__(
        self, n_rows: int, block_rows: int, window_blocks: int, generator: torch.Generator
    ) -> None:
        self.n_rows, self.block_rows, self.generator = n_rows, block_rows, generator
        blocks = torch.randperm(-(-n_rows // block_rows), generator=generator, device="cpu")
        self._windows = torch.split(blocks, window_blocks)
        self._drawn: deque[Window] = deque()

    def __len__(self) -> int:
        """How many windows there are."""
        return len(self._windows)

    def rows_of(self, number: int) -> Tensor:
        """The rows of a window, block by block."""
        within = torch.arange(self.block_rows, device="cpu")
        rows = (self._windows[number].unsqueeze(1) * self.block_rows + within).view(-1)
        return rows[rows < self.n_rows]

    def pieces(self, run: slice) -> Iterator[tuple[Window, Tensor]]:
        """Windows that a run goes through, and places of rows in them; earlier ones are gone."""
        while not self._drawn or self._drawn[-1].last < run.stop:
            self._drawn.append(self._draw())
        while self._drawn[0].last <= run.start:
            self._drawn.popleft()
        for window in self._drawn:
            first = max(run.start - window.first, 0)
            yield window, window.shuffled[first : run.stop - window.first]

    def __getitem__(self, run: slice) -> Tensor:
        """As of `Order`."""
        return torch.cat([window.rows[places] for window, places in self.pieces(run)])

    def _draw(self) -> Window:
        number, first = 0, 0
        if self._drawn:
            number, first = self._drawn[-1].number + 1, self._drawn[-1].last
        rows = self.rows_of(number)
        shuffled = torch.randperm(len(rows), generator=self.generator, device="cpu")
        return Window(number, first, first + len(rows), rows, shuffled)
