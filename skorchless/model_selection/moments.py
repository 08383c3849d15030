r"""Candidates of a search solved and scored from second moments, every row being read once.

The moments of a fold's training rows are sums of those of the parts that the splits make, and so
are those of all rows. With the moments of n rows to score on, G of centred columns, v of the target
and c of both, the mean squared error of a model is

.. math:: \frac1n (v - 2 w^\top c + w^\top G w) + (\bar y - \bar x^\top w - b)^2 .
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, Self

import numpy as np
import torch

from skorchless.estimators.alphas import may_use_moments, solve_from_moments
from skorchless.estimators.base import TorchLinearModel
from skorchless.estimators.callbacks import has_callbacks
from skorchless.estimators.candidates import STACK_BYTES, Parameters
from skorchless.estimators.data import Data
from skorchless.estimators.out_of_memory import memory_errors
from skorchless.estimators.parameters import check_parameters
from skorchless.estimators.settings import own_settings
from skorchless.estimators.together import has_own_way
from skorchless.model_selection.fold import Entry, Split
from skorchless.model_selection.groups import Group
from skorchless.model_selection.metrics import OF_MEAN_SQUARES
from skorchless.model_selection.scoring import by_candidate, metrics_of
from skorchless.optimizers.least_squares import Comoments, of_others
from skorchless.restoring import without_numpy_warnings
from skorchless.stack import WIDE

Scores = Callable[[Comoments, torch.Tensor], tuple[list[Any], np.ndarray]]


@dataclass(frozen=True, eq=False)
class FoldMoments:
    """Second moments of the rows of a search whose splits are disjoint parts of them.

    Attributes
    ----------
    parts : list of Comoments
        Of the rows that each split scores on.
    others : list of Comoments
        Of the rows that each split trains on.
    whole : Comoments
        Of all rows.
    data : Data
        All rows.
    """

    parts: list[Comoments]
    others: list[Comoments]
    whole: Comoments
    data: Data

    @classmethod
    def of(
        cls,
        groups: Sequence[Group],
        X: Any,
        y: Any,
        splits: Sequence[Split],
        fit_params: dict[str, Any],
    ) -> Self | None:
        """Add them up; None where no group can use them, or where they tell too little.

        That is where splits are not disjoint parts of the rows, and where the rows are not in
        order: then each fold finds out for itself.
        """
        group = next((group for group in groups if _wants_moments(group)), None)
        if group is None or len(splits) < 2 or set(fit_params) - {"sample_weight"}:
            return None
        parts = disjoint_parts(splits)
        data = None if parts is None else _data(group, X, y, fit_params)
        if parts is None or data is None or len(data.X) != _n_rows(splits[0]):
            return None
        candidates = [final._parameters() for final in group.finals]
        if not may_use_moments(candidates, data.X):
            return None
        with_l1 = any(candidate["alpha"] and candidate["l1_ratio"] for candidate in candidates)
        numbers = 4 * len(splits) * (data.X.shape[1] + data.n_outputs) ** 2
        least = min(len(train) for train, _ in splits)
        if numbers * WIDE.itemsize > STACK_BYTES or (least <= data.X.shape[1] and not with_l1):
            return None
        work = data.X.numel() * data.X.shape[1]
        run = partial(cls._of_parts, data, parts, len(splits))
        try:
            with memory_errors():
                return own_settings(data.X.device, work, run)
        except MemoryError:
            return None

    @classmethod
    def _of_parts(cls, data: Data, parts: list[np.ndarray], n_splits: int) -> Self:
        found = [_of_rows(data, rows) for rows in parts]
        whole = reduce(Comoments.merge, found)
        rest = found.pop() if len(parts) > n_splits else None
        return cls(found, list(of_others(found, rest)), whole, data)

    def serve(self, model: TorchLinearModel) -> bool:
        """Whether a valid model can be fitted on all rows from their moments, unheard."""
        heard = model.verbose or has_callbacks(model)
        return not (heard or has_own_way(model)) and may_use_moments(
            [model._parameters()], self.data.X
        )

    def evaluate(
        self, group: Group, scorer: Any, *, return_train_score: bool
    ) -> dict[int, list[Entry]]:
        """Entries of those candidates that all splits solve, and score without loss of digits.

        Parameters
        ----------
        group : Group
        scorer : callable
            As the search resolved it; without parameters.
        return_train_score : bool
        """
        metrics = metrics_of(group.estimator, scorer)
        candidates = [final._parameters() for final in group.finals]
        if (
            metrics is None
            or self.data.weight is not None
            or not set(metrics.values()) <= set(OF_MEAN_SQUARES)
        ):
            return {}
        if not (_wants_moments(group) and may_use_moments(candidates, self.data.X)):
            return {}

        def scores(rows: Comoments, weights: torch.Tensor) -> tuple[list[Any], np.ndarray]:
            squares, exact = (found.numpy(force=True) for found in rows.mean_squares(weights))
            spread = rows.variances().numpy(force=True)
            exact = exact & (spread > 0).all() & (rows.weight > 1)
            columns = {
                name: OF_MEAN_SQUARES[metric](squares, spread) for name, metric in metrics.items()
            }
            return by_candidate(columns, scorer), exact

        run = partial(self._evaluate, candidates, scores, return_train_score)
        found = own_settings(self.data.X.device, self.data.X.shape[1] ** 3, run)
        return {group.members[i]: entries for i, entries in found.items()}

    @without_numpy_warnings
    def _evaluate(
        self, candidates: list[Parameters], scores: Scores, return_train_score: bool
    ) -> dict[int, list[Entry]]:
        entries: list[list[Entry]] = [[] for _ in candidates]
        sound = np.ones(len(candidates), dtype=bool)
        for part, others in zip(self.parts, self.others, strict=True):
            begun = time.time()
            outcome, solved = solve_from_moments(candidates, others, self.data.X.dtype)
            fit_time = (time.time() - begun) / len(candidates)
            begun = time.time()
            weights = torch.from_numpy(np.stack([w for w in outcome.weights if w is not None])).to(
                part.mean
            )
            test_scores, exact = scores(part, weights)
            score_time = (time.time() - begun) / len(candidates)
            sound &= solved & exact
            train_scores = None
            if return_train_score:
                train_scores, exact = scores(others, weights)
                sound &= exact
            for i, of_candidate in enumerate(entries):
                result = {
                    "fit_error": None,
                    "test_scores": test_scores[i],
                    "n_test_samples": int(part.weight),
                    "fit_time": fit_time,
                    "score_time": score_time,
                }
                if train_scores is not None:
                    result["train_scores"] = train_scores[i]
                curve = np.array(outcome.results[i].loss_curve)
                of_candidate.append(Entry(result, curve, converged=True))
        return {i: entries[i] for i in np.flatnonzero(sound).tolist()}


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


def _wants_moments(group: Group) -> bool:
    first = group.finals[0]
    if group.estimator is not first or len(group.members) < 2 or has_own_way(first):
        return False
    try:
        for final in group.finals:
            check_parameters(type(final).__name__, final._parameters())
    except (ValueError, TypeError):  # each fold will say so for itself
        return False
    return bool(first._parameters().get("loss") == "squared_error")


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
