r"""Curvature pairs of L-BFGS: products with the Hessian approximation and with its inverse.

Both are in compact form (Byrd, Nocedal and Schnabel, 1994), a few products whatever the number of
pairs. A pair is a step s and the change y of the gradient along it, scaled so that
:math:`s^\top y = 1`; S and Y hold the pairs as rows, oldest first.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from skorchless.optimizers.hessian import Preconditioner
from skorchless.stack import select_models

#: Pairs that are kept; more cost time and win nothing once the metric is right. From so many
#: weights on a model's pairs leave the cache, and fewer of them serve it as well.
MEMORY, MANY_WEIGHTS, FEW_PAIRS = 10, 2**19, 3
#: A pair counts only if ``s.y`` is above this share of ``|s| |y|``.
CURVED = 1e-10
#: What keeps the pairs' matrix of unit diagonal definite where steps repeat each other.
DEPENDENT = 1e-13


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each model, shape ``(M, 1, 1)``."""
    return (a * b).sum(dim=(1, 2), keepdim=True)


def pairs_of(n_weights: int) -> int:
    """How many pairs a model of so many weights keeps."""
    return MEMORY if n_weights < MANY_WEIGHTS else FEW_PAIRS


class LBFGSMemory:
    """The last pairs of each model of a stack, each in the place of its oldest one.

    A model that rejected its trial, or saw no positive curvature, keeps what it has. Places that
    are not taken yet hold zeros, which change no product.

    Attributes
    ----------
    steps, changes : Tensor of shape (M, pairs, K * (D + 1)), or None
        S and Y, their rows in the order of the places.
    taken : Tensor of int, shape (M,)
        Pairs that each model has put down so far.
    """

    def __init__(self) -> None:
        self.steps: Tensor | None = None
        self.changes: Tensor | None = None

    def add(self, accepted: Tensor, step: Tensor, change: Tensor) -> None:
        """Put down a pair for the `accepted` models, of shape ``(M,)``; overwrites its tensors."""
        product = dot(step, change)
        enough = CURVED * (dot(step, step) * dot(change, change)).sqrt()
        valid = accepted & (product > enough).view(-1)
        models = valid.nonzero().view(-1)
        if not len(models):
            return
        if self.steps is None or self.changes is None:
            shape = (len(step), pairs_of(step[0].numel()), step[0].numel())
            self.steps, self.changes = step.new_zeros(shape), step.new_zeros(shape)
            self._products = step.new_zeros(*shape[:2], shape[1])  # S Y^T
            self.taken = torch.zeros(len(step), dtype=torch.int64, device=step.device)
        norm = torch.where(valid.view(-1, 1, 1), product, 1.0).rsqrt()
        step, change = step.mul_(norm).flatten(1), change.mul_(norm).flatten(1)
        place = self.taken[models] % self.steps.shape[1]
        self.steps[models, place], self.changes[models, place] = step[models], change[models]
        with_changes = self.changes @ step.unsqueeze(2)
        with_steps = self.steps @ change.unsqueeze(2)
        self._products[models, place] = with_changes[models].squeeze(2)
        self._products[models, :, place] = with_steps[models].squeeze(2)
        self.taken = self.taken + valid

    def forget(self, models: Tensor) -> None:
        """Make all pairs of some models zero."""
        if self.steps is None or self.changes is None:
            return
        keep = (~models).view(-1, 1, 1)
        self.steps, self.changes, self._products = (
            torch.where(keep, t, 0.0) for t in (self.steps, self.changes, self._products)
        )

    def select(self, keep: Tensor) -> None:
        """Keep only some of the models."""
        select_models(self, keep)

    def _triangles(self) -> tuple[Tensor, Tensor]:
        """Both triangles of ``S Y^T`` by age, in the order of the places, the upper one with 1s.

        The upper triangle has the products of steps with changes that are no older.
        """
        products, pairs = self._products, self._products.shape[1]
        age = torch.arange(pairs, device=self.taken.device) - self.taken.unsqueeze(1)
        age = (age % pairs).unsqueeze(2)  # the oldest pair's is 0
        upper = torch.where(age < age.mT, products, 0.0)
        upper.diagonal(dim1=1, dim2=2).fill_(1.0)
        return upper, torch.where(age > age.mT, products, 0.0)

    def solve(self, preconditioner: Preconditioner, gradient: Tensor) -> Tensor:
        r"""``H g``, which is what the two-loop recursion computes.

        .. math:: u = R^{-1} S g, \quad r = H_0 (g - Y^\top u), \quad
            H g = r + S^\top R^{-\top} (u - Y r)

        with R the upper triangle of :math:`S Y^\top`.
        """
        if self.steps is None or self.changes is None:
            return preconditioner.solve(gradient)
        upper, _ = self._triangles()
        flat = gradient.flatten(1).unsqueeze(-1)
        u = torch.linalg.solve_ex(upper, self.steps @ flat).result
        rest = torch.baddbmm(flat, self.changes.mT, u, alpha=-1.0).view_as(gradient)
        result = (self._scale(preconditioner) * preconditioner.solve(rest)).view_as(flat)
        v = torch.linalg.solve_ex(upper.mT, u - self.changes @ result).result
        return torch.baddbmm(result, self.steps.mT, v).view_as(gradient)

    def model(
        self, preconditioner: Preconditioner
    ) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor, int], Tensor]]:
        r"""The map ``v -> B v`` that `solve` inverts, and principal submatrices of B.

        .. math:: B v = B_0 v - B_0 S^\top x - Y^\top z, \quad
            (S B_0 S^\top + L L^\top) x = S B_0 v + L Y v, \quad z = L^\top x - Y v

        with L the strictly lower triangle of :math:`S Y^\top`. The submatrices are asked for as of
        `Preconditioner.block`.
        """
        if self.steps is None or self.changes is None:
            return preconditioner.product, preconditioner.block
        scale, steps, changes = self._scale(preconditioner), self.steps, self.changes
        models, pairs, n_weights = steps.shape
        outputs = n_weights // preconditioner.diagonal.shape[-1]
        by_step = torch.stack(
            [
                preconditioner.product(step.view(models, outputs, -1)).flatten(1)
                for step in steps.unbind(dim=1)
            ],
            dim=1,
        )
        by_step = by_step / scale  # B_0 S^T, pairs as rows
        _, lower = self._triangles()
        inner = by_step @ steps.mT + lower @ lower.mT
        size = inner.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        size = torch.where(size > 0, size, 1.0).rsqrt()
        unit = inner * size * size.mT
        eye = torch.eye(pairs, dtype=unit.dtype, device=unit.device)
        void = (unit.diagonal(dim1=-2, dim2=-1) <= 0).to(unit.dtype)
        factor, _ = torch.linalg.cholesky_ex(unit + torch.diag_embed(void) + DEPENDENT * eye)

        def product(vector: Tensor) -> Tensor:
            flat = vector.flatten(1).unsqueeze(-1)
            along = changes @ flat
            x = size * torch.cholesky_solve(size * (by_step @ flat + lower @ along), factor)
            z = lower.mT @ x - along
            result = preconditioner.product(vector).flatten(1).unsqueeze(-1) / scale
            return (result - by_step.mT @ x - changes.mT @ z).view_as(vector)

        def block(models: Tensor, index: Tensor, outputs: int) -> Tensor:
            at = index.unsqueeze(1).expand(-1, pairs, -1)
            change = changes[models].gather(2, at)
            low = by_step[models].gather(2, at) + lower[models] @ change
            half = torch.linalg.solve_triangular(factor[models], size[models] * low, upper=False)
            start = preconditioner.block(models, index, outputs) / scale[models]
            return start.baddbmm_(half.mT, half, alpha=-1.0).baddbmm_(change.mT, change)

        return product, block

    def _scale(self, preconditioner: Preconditioner) -> Tensor:
        """``s.y / y.P y`` of each model's last pair; 1 where there is none, shape ``(M, 1, 1)``."""
        assert self.changes is not None
        models = torch.arange(len(self.taken), device=self.taken.device)
        last = self.changes[models, (self.taken - 1) % self.changes.shape[1]]
        change = last.view(len(last), -1, preconditioner.diagonal.shape[-1])
        norm = dot(change, preconditioner.solve(change))
        return torch.where(norm > 0, 1.0 / torch.where(norm > 0, norm, 1.0), 1.0)
