"""Raw predictions whose products or sums leave the range of floating point numbers."""

from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor

#: Products that are made at once.
BLOCK_NUMBERS = 2**20

#: Powers of two that are left free above the largest logit, so that differences are in range.
SPARE = 3


def in_range(
    raw: Any, rows: Any, coef: np.ndarray, intercept: np.ndarray, n_logits: int | None
) -> None:
    """Make those rows of `raw` anew that are not finite, from scaled products.

    Terms beyond the range that cancel each other then do. Numbers that are beyond it themselves
    become infinite. Logits do not, as only their differences matter: those of a row are shifted so
    that the largest is in range, and the others end at the limit, where probabilities are 0 and 1.

    Parameters
    ----------
    raw : ndarray or Tensor of shape (n, K)
        ``X W + b``; written to.
    rows : ndarray, sparse matrix or Tensor of shape (n, D)
        Finite.
    coef, intercept : ndarray of shape (K, D) and (K,)
        Finite.
    n_logits : int, optional
        How many of the K belong to one model, if they are logits.
    """
    if bool(torch.isfinite(raw.sum()) if isinstance(raw, Tensor) else np.isfinite(raw.sum())):
        return
    if isinstance(raw, Tensor):
        places = (~raw.isfinite().all(dim=1)).nonzero().view(-1)
        some = rows[places].double().numpy(force=True)
        again = _again(raw[places].numpy(force=True), some, coef, intercept, n_logits)
        raw[places] = torch.from_numpy(again).to(raw.device)
        return
    bad = np.flatnonzero(~np.isfinite(raw).all(axis=1))
    raw[bad] = _again(raw[bad], rows[bad], coef, intercept, n_logits)


def _again(
    raw: np.ndarray, rows: Any, coef: np.ndarray, intercept: np.ndarray, n_logits: int | None
) -> np.ndarray:
    """The same, all of them anew."""
    weights = np.column_stack([coef, intercept]).astype(np.float64)
    block = max(1, BLOCK_NUMBERS // weights.size)
    found = np.empty_like(raw)
    for start in range(0, len(raw), block):
        some = rows[start : start + block]
        some = some.toarray() if issparse(some) else some
        ones = np.ones((len(some), 1))
        sums, power = _scaled_products(np.hstack([some, ones]).astype(np.float64), weights)
        if n_logits is None:
            found[start : start + block] = np.ldexp(sums, power)
        else:
            most = np.finfo(raw.dtype).maxexp - SPARE
            found[start : start + block] = _logits(sums, power, n_logits, most)
    return found


def _scaled_products(rows: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of products, each up to a power of two: ``(n, K)`` below one, and the exponents."""
    (x, x_power), (w, w_power) = np.frexp(rows), np.frexp(weights)
    products = x[:, None, :] * w
    powers = x_power[:, None, :] + w_power
    largest = np.where(products != 0, powers, np.iinfo(np.int32).min // 2).max(axis=2)
    sums, more = np.frexp(np.ldexp(products, powers - largest[:, :, None]).sum(axis=2))
    return sums, np.where(sums != 0, largest + more, 0)


def _logits(sums: np.ndarray, power: np.ndarray, n_logits: int, most: int) -> np.ndarray:
    """Logits ``sums * 2**power`` between ``-2**most`` and ``2**most``, by model and row."""
    limit, shape = 2.0**most, (len(sums), -1, n_logits)
    sums, power = sums.reshape(shape), power.reshape(shape)
    largest = np.where(sums > 0, power, most).max(axis=2, keepdims=True)
    beyond = largest > most
    aligned = np.ldexp(sums, np.where(beyond, power - largest, 0))
    below = np.ldexp(aligned - aligned.max(axis=2, keepdims=True), largest)
    logits: np.ndarray = np.where(beyond, limit + below, np.ldexp(sums, power))
    return logits.clip(-limit, limit).reshape(len(sums), -1)
