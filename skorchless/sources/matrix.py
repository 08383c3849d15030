"""What X may be once it is checked, and what depends on its kind alone."""

from collections.abc import Iterator

from torch import Tensor

from skorchless.sources.csr import SparseRows
from skorchless.sources.large import LargeMatrix

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


def dense_blocks(X: Matrix, n_rows: int) -> Iterator[Tensor]:
    """X as dense tensors of at most `n_rows` rows each."""
    for start in range(0, len(X), n_rows):
        stop = min(start + n_rows, len(X))
        yield X.between(start, stop).dense() if isinstance(X, SparseRows) else X[start:stop]
