r"""Curvature pairs of L-BFGS: products with the Hessian approximation and with its inverse.

Both are in compact form (Byrd, Nocedal and Schnabel, 1994), a few products whatever the number of
pairs. A pair is a step s and the change y of the gradient along it, scaled so that
:math:`s^\top y = 1`; S and Y hold the pairs as rows, oldest first.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from skorchless.optimizers.preconditioner import Preconditioner

#: Pairs that are kept; more cost time and win nothing once the metric is right.
MEMORY = 10
#: A pair counts only if ``s.y`` is above this share of ``|s| |y|``.
CURVED = 1e-10
#: What keeps the pairs' matrix of unit diagonal definite where steps repeat each other.
DEPENDENT = 1e-13


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each model, shape ``(M, 1, 1)``."""
    return (a * b).sum(dim=(1, 2), keepdim=True)


class History:
    """The last pairs of each model of a stack.

    A model that rejected its trial, or saw no positive curvature, gets a pair of zeros, which
    changes no product.

    Attributes
    ----------
    steps, changes : Tensor of shape (M, pairs, K * (D + 1)), or None
        S and Y.
    last : Tensor of shape (M, K, D + 1)
        The last change of each model that is not zero, which sets the scale of ``H_0``.
    """

    def __init__(self) -> None:
        self.steps: Tensor | None = None
        self.changes: Tensor | None = None
        self.last: Tensor | None = None

    def add(self, accepted: Tensor, step: Tensor, change: Tensor) -> None:
        """Append a pair for the `accepted` models, of shape ``(M,)``."""
        product = dot(step, change)
        enough = CURVED * (dot(step, step) * dot(change, change)).sqrt()
        valid = accepted.view(-1, 1, 1) & (product > enough)
        if not bool(valid.any()):
            return
        norm = torch.where(valid, product, 1.0).rsqrt()
        step, change = (torch.where(valid, norm * vector, 0.0) for vector in (step, change))
        self.last = change if self.last is None else torch.where(valid, change, self.last)
        self.steps = self._append(self.steps, step, valid)
        self.changes = self._append(self.changes, change, valid)
        self._products = self.steps @ self.changes.mT

    @staticmethod
    def _append(rows: Tensor | None, vector: Tensor, valid: Tensor) -> Tensor:
        """Put a row at the end of the models' that are `valid`; the others keep what they have."""
        new = vector.flatten(1).unsqueeze(1)
        if rows is None:
            return new
        grown = torch.cat([rows, new], dim=1)
        if not bool(valid.all()):
            kept = torch.cat([torch.zeros_like(new), rows], dim=1)
            grown = torch.where(valid, grown, kept)
        last: Tensor = grown[:, -MEMORY:]
        return last

    def forget(self, models: Tensor) -> None:
        """Make all pairs of some models zero."""
        if self.steps is None or self.changes is None or self.last is None:
            return
        keep = (~models).view(-1, 1, 1)
        self.steps, self.changes, self.last, self._products = (
            torch.where(keep, t, 0.0) for t in (self.steps, self.changes, self.last, self._products)
        )

    def select(self, keep: Tensor) -> None:
        """Keep only some of the models."""
        if self.steps is None or self.changes is None or self.last is None:
            return
        self.steps, self.changes, self.last, self._products = (
            t.index_select(0, keep) for t in (self.steps, self.changes, self.last, self._products)
        )
        first = int((self._products.diagonal(dim1=-2, dim2=-1) > 0).any(dim=0).int().argmax())
        self.steps, self.changes = self.steps[:, first:], self.changes[:, first:]
        self._products = self._products[:, first:, first:]

    def solve(self, preconditioner: Preconditioner, gradient: Tensor) -> Tensor:
        r"""``H g``, which is what the two-loop recursion computes.

        .. math:: u = R^{-1} S g, \quad r = H_0 (g - Y^\top u), \quad
            H g = r + S^\top R^{-\top} (u - Y r)

        with R the upper triangle of :math:`S Y^\top`.
        """
        if self.steps is None or self.changes is None:
            return preconditioner.solve(gradient)
        upper = self._products
        flat = gradient.flatten(1).unsqueeze(-1)
        u = torch.linalg.solve_triangular(upper, self.steps @ flat, upper=True, unitriangular=True)
        rest = (flat - self.changes.mT @ u).view_as(gradient)
        result = (self._scale(preconditioner) * preconditioner.solve(rest)).view_as(flat)
        v = torch.linalg.solve_triangular(
            upper.mT, u - self.changes @ result, upper=False, unitriangular=True
        )
        product: Tensor = (result + self.steps.mT @ v).view_as(gradient)
        return product

    def hessian(self, preconditioner: Preconditioner) -> Callable[[Tensor], Tensor]:
        r"""The map ``v -> B v`` that `solve` inverts.

        .. math:: B v = B_0 v - B_0 S^\top x - Y^\top z, \quad
            (S B_0 S^\top + L L^\top) x = S B_0 v + L Y v, \quad z = L^\top x - Y v

        with L the strictly lower triangle of :math:`S Y^\top`.
        """
        if self.steps is None or self.changes is None:
            return preconditioner.product
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
        lower = self._products.tril(-1)
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

        return product

    def _scale(self, preconditioner: Preconditioner) -> Tensor:
        """``s.y / y.P y`` of each model's last pair; 1 where there is none, shape ``(M, 1, 1)``."""
        assert self.last is not None
        norm = dot(self.last, preconditioner.solve(self.last))
        return torch.where(norm > 0, 1.0 / torch.where(norm > 0, norm, 1.0), 1.0)
