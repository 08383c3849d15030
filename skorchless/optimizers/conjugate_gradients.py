r"""Solve with the Hessian where a product with it is all that there is.

.. math:: H d = r, \qquad
          H = \tfrac{1}{S} \sum_i s_i\, \ell_i'' \otimes \tilde x_i \tilde x_i^\top
              + \mathrm{diag}(\lambda^{(2)})

by preconditioned conjugate gradients, cut off when the residual, in the preconditioner's norm, is
small enough beside r (Dembo and Steihaug, 1983).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from skorchless.optimizers.lbfgs import dot

MOST_STEPS = 300


def conjugate_gradients(
    hessian: Callable[[Tensor], Tensor],
    precondition: Callable[[Tensor], Tensor],
    target: Tensor,
    accuracy: Tensor,
) -> tuple[Tensor, Tensor]:
    """Roughly ``H^-1 r`` for each model of a stack.

    Parameters
    ----------
    hessian, precondition : callable
        ``v -> H v`` and ``v -> P v``, both positive semi-definite.
    target : Tensor of shape (M, K, D + 1)
        r.
    accuracy : Tensor of shape (M, 1, 1)
        Residual to stop at, relative to r.

    Returns
    -------
    solution : Tensor of shape (M, K, D + 1)
        ``P r`` where H is flat along it.
    ended : Tensor of bool, shape (M, 1, 1)
        Whether the residual is small enough, or H is flat along the next step.
    """
    residual = target
    search = first = precondition(target)
    square = dot(residual, search)
    enough = accuracy.square() * square
    goes_on = square > 0
    solution = torch.zeros_like(target)
    for _ in range(MOST_STEPS):
        image = hessian(search)
        curvature = dot(search, image)
        goes_on = goes_on & (square > enough) & (curvature > 0)
        if not bool(goes_on.any()):
            break
        step = torch.where(goes_on, square / curvature, 0.0)
        solution = torch.addcmul(solution, step, search)
        residual = torch.addcmul(residual, step, image, value=-1.0)
        conditioned = precondition(residual)
        before, square = square, dot(residual, conditioned)
        search = torch.addcmul(conditioned, square / torch.where(goes_on, before, 1.0), search)
    flat = ~solution.any(dim=2, keepdim=True).any(dim=1, keepdim=True)
    return torch.where(flat, first, solution), ~goes_on
