r"""Truncated Newton directions, where a product with the Hessian costs next to nothing.

.. math:: H d = -g, \qquad
          H = \tfrac{1}{S} \sum_i s_i\, \ell_i'' \otimes \tilde x_i \tilde x_i^\top
              + \mathrm{diag}(\lambda^{(2)})

by preconditioned conjugate gradients, cut off when the residual, in the preconditioner's norm, is
small enough beside the gradient (Dembo and Steihaug, 1983).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from skorchless.optimizers.history import dot

MOST_STEPS = 200


def newton_direction(
    hessian: Callable[[Tensor], Tensor],
    precondition: Callable[[Tensor], Tensor],
    gradient: Tensor,
    accuracy: Tensor,
) -> Tensor:
    """Roughly ``-H^-1 g`` for each model of a stack.

    Parameters
    ----------
    hessian, precondition : callable
        ``v -> H v`` and ``v -> P v``, both positive semi-definite.
    gradient : Tensor of shape (M, K, D + 1)
    accuracy : Tensor of shape (M, 1, 1)
        Residual to stop at, relative to the gradient.

    Returns
    -------
    direction : Tensor of shape (M, K, D + 1)
        Of descent; ``-P g`` where H is flat along it.
    """
    residual = -gradient
    search = first = precondition(residual)
    square = dot(residual, search)
    enough = accuracy.square() * square
    goes_on = square > 0
    direction = torch.zeros_like(gradient)
    for _ in range(MOST_STEPS):
        image = hessian(search)
        curvature = dot(search, image)
        goes_on = goes_on & (square > enough) & (curvature > 0)
        if not bool(goes_on.any()):
            break
        step = torch.where(goes_on, square / curvature, 0.0)
        direction = torch.addcmul(direction, step, search)
        residual = torch.addcmul(residual, step, image, value=-1.0)
        conditioned = precondition(residual)
        before, square = square, dot(residual, conditioned)
        search = torch.addcmul(conditioned, square / torch.where(goes_on, before, 1.0), search)
    flat = ~direction.any(dim=2, keepdim=True).any(dim=1, keepdim=True)
    return torch.where(flat, first, direction)
