"""Curvature pairs of L-BFGS: products with the Hessian approximation and with its inverse."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from skorchless.optimizers.preconditioner import Preconditioner
from skorchless.stack import WIDE

#: Pairs that are kept; more cost time and win nothing once the metric is right.
MEMORY = 10
#: A pair counts only if ``s.y`` is above this share of ``|s| |y|``.
CURVED = 1e-10


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each model, shape ``(M, 1, 1)``."""
    return (a * b).sum(dim=(1, 2), keepdim=True)


@dataclass
class Pair:
    """A step s, the change y of the gradient along it, and ``1 / s.y``; 0 where it is void."""

    step: Tensor
    change: Tensor
    inverse: Tensor

    def where(self, mask: Tensor, other: "Pair") -> "Pair":
        """The pair itself where `mask` is true, else the `other`."""
        return Pair(
            torch.where(mask, self.step, other.step),
            torch.where(mask, self.change, other.change),
            torch.where(mask, self.inverse, other.inverse),
        )

    def select(self, keep: Tensor) -> "Pair":
        """The pair of some of the models."""
        return Pair(*(t.index_select(0, keep) for t in (self.step, self.change, self.inverse)))


def newest(pairs: list[Pair]) -> list[Pair]:
    """The last MEMORY pairs that are not void, of each model by itself."""
    if len(pairs) <= MEMORY:
        return pairs
    if len(pairs[0].inverse) == 1:
        return pairs[-MEMORY:]
    kept = []
    count = torch.zeros_like(pairs[0].inverse)
    void = torch.zeros((), dtype=WIDE, device=count.device)
    for pair in reversed(pairs):
        valid = pair.inverse > 0
        count = count + valid
        recent = valid & (count <= MEMORY)
        if bool(recent.any()):
            kept.append(pair.where(recent, Pair(void, void, void)))
    return kept[::-1]


class History:
    """The last pairs of each model of a stack, in tensors of shape ``(M, K, D + 1)``.

    A model that rejected its trial, or saw no positive curvature, gets a void pair, which changes
    no product.
    """

    def __init__(self) -> None:
        self.pairs: list[Pair] = []
        self.last: Pair | None = None
        """The last pair of each model that is not void, which sets the scale of ``H_0``."""

    def add(self, accepted: Tensor, step: Tensor, change: Tensor) -> None:
        """Append a pair for the `accepted` models, of shape ``(M,)``."""
        product = dot(step, change)
        enough = CURVED * (dot(step, step) * dot(change, change)).sqrt()
        valid = accepted.view(-1, 1, 1) & (product > enough)
        if not bool(valid.any()):
            return
        inverse = torch.where(valid, 1.0 / torch.where(valid, product, 1.0), 0.0)
        zero = torch.zeros_like(step)
        pair = Pair(torch.where(valid, step, zero), torch.where(valid, change, zero), inverse)
        self.pairs = newest([*self.pairs, pair])
        self.last = pair if self.last is None else pair.where(valid, self.last)

    def forget(self, models: Tensor) -> None:
        """Make the pairs of some models void."""
        keep = (~models).view(-1, 1, 1)
        void = torch.zeros((), dtype=WIDE, device=keep.device)
        self.pairs = [pair.where(keep, Pair(void, void, void)) for pair in self.pairs]
        if self.last is not None:
            self.last = self.last.where(keep, Pair(void, void, void))

    def select(self, keep: Tensor) -> None:
        """Keep only some of the models."""
        chosen = [pair.select(keep) for pair in self.pairs]
        self.pairs = [pair for pair in chosen if bool(pair.inverse.any())]
        if self.last is not None:
            self.last = self.last.select(keep)

    def solve(self, preconditioner: Preconditioner, gradient: Tensor) -> Tensor:
        """``H g`` by the two-loop recursion (Nocedal and Wright, 2006, algorithm 7.4)."""
        rest = gradient
        shares = []
        for pair in reversed(self.pairs):
            share = pair.inverse * dot(pair.step, rest)
            rest = rest - share * pair.change
            shares.append(share)
        result = self._scale(preconditioner) * preconditioner.solve(rest)
        for pair, share in zip(self.pairs, reversed(shares), strict=True):
            result = result + pair.step * (share - pair.inverse * dot(pair.change, result))
        return result

    def hessian(self, preconditioner: Preconditioner) -> Callable[[Tensor], Tensor]:
        r"""The map ``v -> B v`` that `solve` inverts, in its unrolled form.

        .. math:: B = B_0 + \sum_i (b_i b_i^\top - a_i a_i^\top), \quad
            a_i = \frac{B_i s_i}{\sqrt{s_i^\top B_i s_i}}, \quad
            b_i = \frac{y_i}{\sqrt{y_i^\top s_i}}

        with :math:`B_i` the sum up to i (Nocedal and Wright, 2006, section 7.2).
        """
        scale = self._scale(preconditioner)
        ranks: list[Tensor] = []  # b_i and a_i in turn, each (M, K * (D + 1))

        def product(vector: Tensor) -> Tensor:
            result = preconditioner.product(vector) / scale
            if not ranks:
                return result
            factor = torch.stack(ranks, dim=1)  # (M, 2 i, K * (D + 1))
            signs = factor.new_tensor([1.0, -1.0]).repeat(len(ranks) // 2).view(1, -1, 1)
            shares = signs * (factor @ vector.flatten(1).unsqueeze(-1))
            return result + (factor.mT @ shares).view_as(vector)

        for pair in self.pairs:
            image = product(pair.step)
            length = dot(pair.step, image)
            curved = (length > 0) & (pair.inverse > 0)
            ranks.append((pair.change * pair.inverse.sqrt() * curved).flatten(1))
            norm = torch.where(curved, torch.where(curved, length, 1.0).rsqrt(), 0.0)
            ranks.append((image * norm).flatten(1))
        return product

    def _scale(self, preconditioner: Preconditioner) -> Tensor | float:
        """``s.y / y.P y`` of each model's last pair; 1 where there is none."""
        if self.last is None:
            return 1.0
        pair = self.last
        norm = pair.inverse * dot(pair.change, preconditioner.solve(pair.change))
        known = norm > 0
        return torch.where(known, 1.0 / torch.where(known, norm, 1.0), 1.0)
