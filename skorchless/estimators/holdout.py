"""The rows that early stopping validates on, where the user gives none."""

from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from skorchless.estimators.data import Data
from skorchless.estimators.ranks import check_some_rows
from skorchless.reducer import Reducer


def check_complete(X_val: Any, y_val: Any, sample_weight_val: Any) -> None:
    """Raise ValueError if a part of the validation data is missing."""
    if (X_val is None) != (y_val is None):
        given, missing = ("y_val", "X_val") if X_val is None else ("X_val", "y_val")
        raise ValueError(f"{given} was passed without {missing}: validation needs both.")
    if X_val is None and sample_weight_val is not None:
        raise ValueError("sample_weight_val was passed without X_val and y_val.")


def hold_out(
    data: Data,
    fraction: float,
    generator: torch.Generator,
    reducer: Reducer,
    classes: np.ndarray | None,
) -> tuple[Data, Data]:
    """Rows to train on and rows to validate on; of several ranks each splits its own.

    Parameters
    ----------
    data : Data
    fraction : float
    generator : torch.Generator
    reducer : Reducer
    classes : ndarray or None
        Labels of the classes, of which each gives its share; None for numbers.

    Raises
    ------
    ValueError
        If there are too few rows, or rows of a class, to split.
    """
    index = None if classes is None else data.target.numpy(force=True).ravel().astype(np.int64)
    seed = int(torch.randint(2**31 - 1, (), generator=generator, device="cpu"))
    rows = np.arange(len(data.X))
    problem = f"early_stopping=True cannot hold out validation_fraction={fraction} of"
    cure = "Pass X_val and y_val, or set early_stopping=False."
    split = partial(train_test_split, rows, test_size=fraction, random_state=seed)
    try:
        try:
            kept, held = split(stratify=index)
        except ValueError:
            if classes is None or reducer.size > 1:
                raise
            kept, held = split(stratify=classes[index])  # which fails by the labels' own names
    except ValueError as error:
        if reducer.size == 1:
            why = str(error).rstrip(".")
            raise ValueError(f"{problem} {len(rows)} rows: {why}. {cure}") from error
        # A rank may have few rows, and of some classes fewer: it gives what it can.
        shuffled = np.random.RandomState(seed).permutation(rows)
        n_held = int(fraction * len(rows))
        kept, held = shuffled[n_held:], shuffled[:n_held]
    in_order = (torch.from_numpy(np.sort(part)) for part in (kept, held))
    training, validation = (data.take(part) for part in in_order)
    check_some_rows(reducer, len(validation.X), f"{problem} so few rows on each rank. {cure}")
    return training, validation
