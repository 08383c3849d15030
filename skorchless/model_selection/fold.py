"""Folds of a search: all candidates fitted on the training rows and scored on the others."""

import contextlib
import copy
import math
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from skorchless.estimators.base import TorchLinearModel
from skorchless.estimators.candidates import SMALL_ROWS
from skorchless.estimators.together import Prepared, Verdict, fit_prepared, prepare
from skorchless.model_selection import _sklearn_private as private
from skorchless.model_selection.groups import Group
from skorchless.model_selection.listeners import Listeners
from skorchless.model_selection.pipelines import FittedSteps, Rows, rows_of, with_final
from skorchless.model_selection.scoring import Part, score_together
from skorchless.optimizers.least_squares import Comoments

Split = tuple[np.ndarray, np.ndarray]


@dataclass(eq=False)
class Evaluation:
    """What is to be found out about the candidates in each fold.

    Attributes
    ----------
    groups : sequence of Group
    scorer : callable
        As the search resolved it.
    fit_params, score_params : dict
        For all rows.
    return_train_score : bool
    error_score : "raise" or float
    """

    groups: Sequence[Group]
    scorer: Any
    fit_params: dict[str, Any]
    score_params: dict[str, Any]
    return_train_score: bool
    error_score: Any


@dataclass(eq=False)
class Entry:
    """One candidate in one fold.

    Attributes
    ----------
    result : dict
        In the form of scikit-learn's ``_fit_and_score``.
    loss_curve : ndarray
    converged : bool
    """

    result: dict[str, Any]
    loss_curve: np.ndarray
    converged: bool


def evaluate_folds(
    evaluation: Evaluation,
    X: Any,
    y: Any,
    splits: Sequence[Split],
    comoments: Sequence[Comoments | None],
    listeners: Sequence[Listeners | None],
) -> list[dict[int, Entry]]:
    """Fit and score every candidate in some folds; in each by the candidates' places.

    Parameters
    ----------
    evaluation : Evaluation
    X, y : array-like
        All rows.
    splits : sequence of pairs of ndarray of int
        For each fold which rows to fit and to score on.
    comoments : sequence of Comoments or None
        Of the rows that each fits on, if they are known.
    listeners : sequence of Listeners or None
        Of each fold, if there are any.
    """
    folds = [
        _Fold(evaluation, X, y, *each) for each in zip(splits, comoments, listeners, strict=True)
    ]
    found: list[dict[int, Entry]] = [{} for _ in folds]
    for group in evaluation.groups:
        attempts = [fold.prepare(group) for fold in folds]
        begun = time.time()
        with contextlib.ExitStack() as listening:
            for fold, attempt in zip(folds, attempts, strict=True):
                listening.enter_context(fold.told(group, attempt))
            fit_prepared([attempt.prepared for attempt in attempts if attempt.prepared])
        seconds = (time.time() - begun) / len(folds)
        for fold, attempt, entries in zip(folds, attempts, found, strict=True):
            attempt.seconds += seconds
            entries.update(zip(group.members, fold.finish(group, attempt), strict=True))
    return found


def folds_at_once(X: Any, n_splits: int, n_jobs: int) -> int:
    """How many folds one call of `evaluate_folds` gets: all that a worker has, if they are small.

    Steps that serve several folds need the rows of all of them in memory.
    """
    share = -(-n_splits // n_jobs)
    if not hasattr(X, "shape"):
        return 1
    n_bytes: int = math.prod(X.shape) * np.dtype(np.float64).itemsize
    return max(1, min(share, SMALL_ROWS // max(n_bytes, 1)))


@dataclass(eq=False)
class _Attempt:
    """The candidates of a group on the rows of one fold.

    Attributes
    ----------
    finals : list of estimator
        The last step of each.
    verdicts : list of Verdict
    seconds : float
        Spent on fitting.
    rows : Rows or None
    prepared : Prepared or None
        None for rows or candidates that cannot be fitted.
    """

    finals: list[TorchLinearModel]
    verdicts: list[Verdict]
    seconds: float
    rows: Rows | None = None
    prepared: Prepared | None = None


class _Fold:
    def __init__(
        self,
        evaluation: Evaluation,
        X: Any,
        y: Any,
        split: Split,
        comoments: Comoments | None,
        listeners: Listeners | None,
    ) -> None:
        train, test = split
        self.evaluation, self.comoments, self.listeners = evaluation, comoments, listeners
        some = evaluation.groups[0].estimator
        self.fit_params = private.check_method_params(
            X, params=evaluation.fit_params, indices=train
        )
        training = Part(some, X, y, evaluation.score_params, train)
        self.X_train, self.y_train = training.X, training.y
        self.parts = [Part(some, X, y, evaluation.score_params, test, train)]
        if evaluation.return_train_score:
            self.parts.append(training)
        self.n_test = len(test)
        self.fitted_steps = FittedSteps()
        weight = self.fit_params.get("sample_weight")
        metadata = None if weight is None else {"sample_weight": weight}
        self.about = {"X": self.X_train, "y": self.y_train, "metadata": metadata}

    def prepare(self, group: Group) -> _Attempt:
        """Bring the rows to the last steps of a group, or write down what goes wrong."""
        begun = time.time()
        attempt = _Attempt(group.unfitted(), [], 0.0)
        try:
            attempt.rows = rows = rows_of(
                group.estimator, self.X_train, self.y_train, self.fit_params, self.fitted_steps
            )
            known = self.comoments if group.estimator is group.finals[0] else None
            attempt.verdicts, attempt.prepared = prepare(
                attempt.finals, rows.X, rows.y, comoments=known, **rows.fit_params
            )
        except Exception as error:
            attempt.verdicts = [Verdict(error) for _ in attempt.finals]
        attempt.seconds = time.time() - begun
        return attempt

    def told(self, group: Group, attempt: _Attempt) -> contextlib.AbstractContextManager[None]:
        """Let who listens know of the fits to come."""
        if self.listeners is None:
            return contextlib.nullcontext()
        return self.listeners.fitting(group.members, attempt.finals, **self.about)

    def finish(self, group: Group, attempt: _Attempt) -> list[Entry]:
        """Score what has been fitted, one entry a candidate."""
        try:
            return self._entries(attempt, group)
        finally:
            if self.listeners is not None:
                self.listeners.end(group.members, **self.about)

    def _entries(self, attempt: _Attempt, group: Group) -> list[Entry]:
        finals, verdicts, rows = attempt.finals, attempt.verdicts, attempt.rows
        errors = [verdict.error for verdict in verdicts if verdict.error is not None]
        if errors and self.evaluation.error_score == "raise":
            raise errors[0]
        failed = self._error_scores()
        scores = [[failed] * len(finals) for _ in self.parts]
        fitted = [i for i, verdict in enumerate(verdicts) if verdict.error is None]
        score_time = 0.0
        if rows is not None and fitted:
            found, seconds = self._scores(group, rows, [finals[i] for i in fitted])
            score_time = seconds / len(fitted)
            for of_part, some in zip(scores, found, strict=True):
                for i, score in zip(fitted, some, strict=True):
                    of_part[i] = score
        entries = []
        for verdict, test, *train in zip(verdicts, *scores, strict=True):
            result = {
                "fit_error": None if verdict.error is None else _describe(verdict.error),
                "test_scores": test,
                "n_test_samples": self.n_test,
                "fit_time": attempt.seconds / len(finals),
                "score_time": score_time if verdict.error is None else 0.0,
            }
            if train:
                result["train_scores"] = train[0]
            entries.append(Entry(result, verdict.loss_curve, verdict.converged))
        return entries

    def _scores(
        self, group: Group, rows: Rows, finals: list[TorchLinearModel]
    ) -> tuple[list[list[Any]], float]:
        """Scores of the candidates on each part, and the seconds that the test rows took."""
        scorer, error_score = self.evaluation.scorer, self.evaluation.error_score
        found: list[list[Any]] = []
        seconds, apart = [], []
        for i, part in enumerate(self.parts):
            begun = time.time()
            try:
                transformed = rows.transform(part.X)
            except Exception:  # each candidate's scorer will say so for itself
                transformed = None
            complete = partial(with_final, rows.fitted)
            scores = score_together(finals, complete, part, transformed, scorer, error_score)
            apart += [i] if scores is None else []
            found.append(scores or [])
            seconds.append(time.time() - begun)
        for final in finals if apart else ():
            whole = self._whole(group, rows, final)
            for i in apart:
                begun = time.time()
                X, y, params = self.parts[i].anew()
                found[i].append(private.score_one(whole, X, y, scorer, params, error_score))
                seconds[i] += time.time() - begun
        return found, seconds[0]

    def _whole(self, group: Group, rows: Rows, final: TorchLinearModel) -> Any:
        """A whole fitted estimator that shares nothing that a scorer could change for others."""
        try:
            fitted = copy.deepcopy(with_final(rows.fitted, None))
        except Exception:  # what cannot be copied, say because it holds a connection, is made anew
            fitted = rows_of(
                group.estimator, self.X_train, self.y_train, self.fit_params, FittedSteps()
            ).fitted
        return with_final(fitted, final)

    def _error_scores(self) -> Any:
        several = private.scorers_of(self.evaluation.scorer)
        error_score = self.evaluation.error_score
        return error_score if several is None else dict.fromkeys(several, error_score)


def _describe(error: Exception) -> str:
    return "".join(traceback.format_exception(error))
