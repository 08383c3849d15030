"""What X may be once it is checked, and what depends on its kind alone."""

from collections.abc import Iterator

import torch
from torch import Tensor

from skorchless.reducer import Reducer
from skorchless.sources.csr import SparseRows
from skorchless.sources.large import LargeMatrix
from skorchless.sources.scaling import Scaling
from skorchless.stack import WIDE

Matrix = Tensor | SparseRows | LargeMatrix

#: From this many columns on second moments of dense rows are no longer worth their cost ...
MOST_FACTORED_COLUMNS = 8000
#: ... and of sparse rows, whose second moments, or whose span, are dense.
MOST_DENSE_COLUMNS = 1000


def affords_gram(X: Matrix, n_rows: int | None = None) -> bool:
    """Whether second moments of all columns are worth their memory and time.

    Parameters
    ----------
    X : Matrix of shape (n, D)
    n_rows : int, optional
        How many rows there are of this kind, if X holds a part of them only.
    """
    n, d = len(X) if n_rows is None else n_rows, X.shape[1]
    if isinstance(X, SparseRows):
        return d < MOST_DENSE_COLUMNS
    return min(n, d + 1) <= MOST_FACTORED_COLUMNS


def tempered(scaling: Scaling, X: Matrix, weight: Tensor | None, reducer: Reducer) -> Scaling:
    """The scaling for rules that step after a few rows each.

    A column that is stored in a share p of sparse rows only, scaled to a deviation of 1, is of the
    order of ``p**-0.5`` where it is stored: a single row then outweighs all others, rates that are
    safe for it are useless for the rest, and an equal step for every weight moves its prediction
    out of all proportion. So rare columns are scaled to the order of 1 where they are stored.
    """
    if not isinstance(X, SparseRows):
        return scaling
    n_rows = torch.tensor(float(len(X)), dtype=WIDE, device="cpu")
    total = n_rows.clone() if weight is None else weight.sum(dtype=WIDE)
    stored = X.stored_weight(weight)
    reducer.sum_(stored, total, n_rows)
    share = (stored / total.item()).clamp_(min=1.0 / n_rows.item())
    inverse = scaling.inverse * share.sqrt()
    return Scaling(scaling.mean, inverse, scaling.dtype)


def dense_blocks(X: Matrix, n_rows: int) -> Iterator[Tensor]:
    """X as dense tensors of at most `n_rows` rows each."""
    for start in range(0, len(X), n_rows):
        stop = min(start + n_rows, len(X))
        yield X.between(start, stop).dense() if isinstance(X, SparseRows) else X[start:stop]
