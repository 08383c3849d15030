r"""Candidates of a search solved and scored from second moments, every sample being read once.

The moments of a fold's training samples are sums of those of the parts that the splits make, and so
are those of all samples. With the moments of n samples to score on, G of centred columns, v of the
target and c of both, the mean squared error of a model is

.. math:: \frac1n (v - 2 w^\top c + w^\top G w) + (\bar y - \bar x^\top w - b)^2 .
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import clone
from torch import float64

from skorchless.estimators import limits
from skorchless.estimators.batched import (
    has_own_way,
    may_use_moments,
    solve_from_moments,
)
from skorchless.estimators.parameters import Parameters, check_parameters
from skorchless.estimators.problem import Dataset
from skorchless.estimators.runtime import memory_errors, own_settings
from skorchless.model_selection.candidates import Group
from skorchless.model_selection.evaluate import (
    OF_MEAN_SQUARES,
    Result,
    Split,
    by_candidate,
    metrics_of,
)
from skorchless.optimizers.least_squares import Comoments, of_others


@dataclass(frozen=True, eq=False)
class FoldMoments:
    """Second moments of the samples of a search whose splits are disjoint parts of them.

    Attributes
    ----------
    parts : list of Comoments
        Of the samples that each split scores on.
    others : list of Comoments
        Of the samples that each split trains on.
    data : Dataset
        All samples.
    """

    parts: list[Comoments]
    others: list[Comoments]
    data: Dataset

    @classmethod
    def of(
        cls,
        groups: Sequence[Group],
        X: Any,
        y: Any,
        splits: Sequence[Split],
        fit_params: dict[str, Any],
    ) -> Self | None:
        """Add them up; None where no group can use them, or where they tell too little."""
        group = next((group for group in groups if _wants_moments(group)), None)
        parts = None if group is None or len(splits) < 2 else disjoint_parts(splits)
        if group is None or parts is None or set(fit_params) - {"sample_weight"}:
            return None
        try:
            with memory_errors():
                data = clone(group.finals[0])._prepare(X, y, **fit_params).data
                candidates = [final._parameters() for final in group.finals]
                d, with_l1 = data.X.shape[1], candidates[0]["alpha"] and candidates[0]["l1_ratio"]
                n_bytes = 4 * len(splits) * (d + data.n_outputs) ** 2 * float64.itemsize
                too_few = not with_l1 and min(len(train) for train, _ in splits) <= d
                too_few |= sum(map(len, parts)) != len(data.X)  # some may weigh nothing
                if (
                    too_few
                    or n_bytes > limits.STACK_BYTES
                    or not may_use_moments(candidates, data.X)
                ):
                    return None
                run = partial(cls._of_parts, data, parts, len(splits))
                return own_settings(data.X.device, data.X.numel() * d, run)
        except (ValueError, TypeError, MemoryError, Warning):  # each fold will say so for itself
            return None

    @classmethod
    def _of_parts(cls, data: Dataset, parts: list[np.ndarray], n_splits: int) -> Self:
        found = []
        for rows in parts:
            first, last = int(rows[0]), int(rows[-1])
            if last - first + 1 == len(rows) and (np.diff(rows) == 1).all():
                some = data[first : last + 1]  # where it lies
            else:
                some = data.take(torch.from_numpy(np.ascontiguousarray(rows)))
            found.append(Comoments.of(some.X, some.target, some.weight))
        rest = found.pop() if len(parts) > n_splits else None
        return cls(found, list(of_others(found, rest)), data)

    @property
    def whole(self) -> Comoments:
        """Of all samples."""
        return self.parts[0].merge(self.others[0])

    def evaluate(
        self, group: Group, scorer: Any, *, return_train_score: bool
    ) -> dict[int, list[Result]]:
        """Results of those candidates that all splits solve, and score without loss of digits.

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
            or not set(metrics.values()) <= OF_MEAN_SQUARES.keys()
            or not _wants_moments(group)
            or not may_use_moments(candidates, self.data.X)
        ):
            return {}
        names = ["test_scores", "train_scores"] if return_train_score else ["test_scores"]
        run = partial(self._evaluate, candidates, scorer, metrics, names)
        folds, sound = own_settings(self.data.X.device, self.data.X.shape[1] ** 3, run)
        places = zip(group.members, sound, strict=True)
        return {m: [fold[i] for fold in folds] for i, (m, ok) in enumerate(places) if ok}

    @np.errstate(all="ignore")
    def _evaluate(
        self, candidates: list[Parameters], scorer: Any, metrics: dict[str, Any], names: list[str]
    ) -> tuple[list[list[Result]], np.ndarray]:
        """Results of all candidates in each fold, and whether no digits are lost in any."""
        folds = []
        sound = np.ones(len(candidates), dtype=bool)
        for part, others in zip(self.parts, self.others, strict=True):
            begun = time.time()
            outcome, solved = solve_from_moments(candidates, others, self.data.X.dtype)
            solved_at = time.time()
            weights = np.stack([weights for weights in outcome.weights if weights is not None])
            sound &= solved
            scores, score_time = {}, 0.0
            for name, rows in zip(names, (part, others), strict=False):
                stacked = torch.from_numpy(weights).to(part.mean)
                squares, exact = (found.numpy(force=True) for found in rows.mean_squares(stacked))
                variance = rows.variances().numpy(force=True)
                sound &= exact & (variance > 0).all() & (rows.weight > 1)
                columns = {key: OF_MEAN_SQUARES[m](squares, variance) for key, m in metrics.items()}
                scores[name] = by_candidate(columns, scorer)
                score_time = score_time or time.time() - solved_at
            fold: list[Result] = [
                {
                    "fit_error": None,
                    "n_test_samples": int(part.weight),
                    "fit_time": (solved_at - begun) / len(candidates),
                    "score_time": score_time / len(candidates),
                    "loss_curve": np.array(result.loss_curve),
                    "converged": True,
                    **{name: values[i] for name, values in scores.items()},
                }
                for i, result in enumerate(outcome.results)
            ]
            folds.append(fold)
        return folds, sound


def disjoint_parts(splits: Sequence[Split]) -> list[np.ndarray] | None:
    """Return the test samples of each split and, if there are any, those in none of them.

    None unless each split trains on all samples but its own, and no sample is in two of them.
    """
    tests = [np.asarray(test) for _, test in splits]
    n = len(splits[0][0]) + len(splits[0][1])
    for train, test in zip((np.asarray(train) for train, _ in splits), tests, strict=True):
        if train.dtype.kind not in "iu" or test.dtype.kind not in "iu" or not len(test):
            return None
        rows = np.concatenate([train, test])
        if len(rows) != n or rows.min() < 0 or not (np.bincount(rows, minlength=n) == 1).all():
            return None
    used = np.bincount(np.concatenate(tests), minlength=n)
    rest = np.flatnonzero(used == 0)
    return None if used.max() > 1 else [*tests, rest] if len(rest) else tests


def _wants_moments(group: Group) -> bool:
    first = group.finals[0]
    if group.estimator is not first or len(group.members) < 2 or has_own_way(first):
        return False
    try:
        for final in group.finals:
            check_parameters(final)
    except (ValueError, TypeError):  # each fold will say so for itself
        return False
    return bool(first._parameters().get("loss") == "squared_error")
