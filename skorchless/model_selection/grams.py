"""Second moments of each fold's training rows, from those of the parts that the splits make."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from skorchless.estimators.alphas import may_use_moments
from skorchless.estimators.candidates import STACK_BYTES
from skorchless.estimators.data import Data
from skorchless.estimators.out_of_memory import memory_errors
from skorchless.estimators.parameters import check_parameters
from skorchless.estimators.settings import own_settings
from skorchless.estimators.together import has_own_way
from skorchless.model_selection.groups import Group
from skorchless.optimizers.least_squares import Comoments, of_others
from skorchless.stack import WIDE

Split = tuple[np.ndarray, np.ndarray]


def comoments_of_folds(
    groups: Sequence[Group], X: Any, y: Any, splits: Sequence[Split], fit_params: dict[str, Any]
) -> list[Comoments | None]:
    """Comoments of the training rows of each split, every row being read only once.

    None where no group can use them, where splits are not disjoint parts of the rows, or where the
    rows are not in order: then each fold finds out for itself.
    """
    none: list[Comoments | None] = [None] * len(splits)
    group = next((group for group in groups if _wants_comoments(group)), None)
    if group is None or len(splits) < 2 or set(fit_params) - {"sample_weight"}:
        return none
    parts = disjoint_parts(splits)
    data = None if parts is None else _data(group, X, y, fit_params)
    if parts is None or data is None or len(data.X) != _n_rows(splits[0]):
        return none
    candidates = [final._parameters() for final in group.finals]
    if not may_use_moments(candidates, data.X):
        return none
    with_l1 = any(candidate["alpha"] and candidate["l1_ratio"] for candidate in candidates)
    numbers = 3 * len(splits) * (data.X.shape[1] + data.n_outputs) ** 2
    least = min(len(train) for train, _ in splits)
    if numbers * WIDE.itemsize > STACK_BYTES or (least <= data.X.shape[1] and not with_l1):
        return none
    work = data.X.numel() * data.X.shape[1]
    run = partial(_of_others, data, parts, len(splits))
    try:
        with memory_errors():
            return own_settings(data.X.device, work, run)
    except MemoryError:
        return none


def _of_others(data: Data, parts: list[np.ndarray], n_splits: int) -> list[Comoments | None]:
    """For each split those of all parts but its own."""
    found = [_of_rows(data, rows) for rows in parts]
    rest = found.pop() if len(parts) > n_splits else None
    return list(of_others(found, rest))


def disjoint_parts(splits: Sequence[Split]) -> list[np.ndarray] | None:
    """The test rows of each split and, if there are any, those in none of them.

    None unless each split trains on all rows but its own, and no row is in two of them.
    """
    n = _n_rows(splits[0])
    seen = np.zeros(n, dtype=np.intp)
    for train, test in splits:
        train, test = np.asarray(train), np.asarray(test)
        if train.dtype.kind not in "iu" or test.dtype.kind not in "iu" or not len(test):
            return None
        if len(train) + len(test) != n or max(train.max(initial=0), test.max()) >= n:
            return None
        used = np.zeros(n, dtype=np.intp)
        np.add.at(used, train, 1)
        np.add.at(used, test, 1)
        if not (used == 1).all():
            return None
        seen[test] += 1
    if (seen > 1).any():
        return None
    rest = np.flatnonzero(seen == 0)
    tests = [np.asarray(test) for _, test in splits]
    return [*tests, rest] if len(rest) else tests


def _wants_comoments(group: Group) -> bool:
    final = group.finals[0]
    if group.estimator is not final or len(group.members) < 2 or has_own_way(final):
        return False
    try:
        check_parameters(type(final).__name__, final._parameters())
    except (ValueError, TypeError):  # each fold will say so for itself
        return False
    return bool(final._parameters().get("loss") == "squared_error")


def _data(group: Group, X: Any, y: Any, fit_params: dict[str, Any]) -> Data | None:
    try:
        with memory_errors():
            return group.unfitted()[0]._prepare(X, y, **fit_params).data
    except (ValueError, TypeError, MemoryError, Warning):  # each fold will say so for itself
        return None


def _n_rows(split: Split) -> int:
    return len(split[0]) + len(split[1])


def _of_rows(data: Data, rows: np.ndarray) -> Comoments:
    some = data.take(torch.from_numpy(np.ascontiguousarray(rows)))
    return Comoments.of(some.X, some.target, some.weight)
