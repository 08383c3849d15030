"""One fold of a search: all candidates fitted on its training rows and scored on the others."""

import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skorchless.estimators.base import TorchLinearModel
from skorchless.estimators.together import Verdict, fit_together
from skorchless.model_selection import _sklearn_private as private
from skorchless.model_selection.groups import Group
from skorchless.model_selection.pipelines import FittedSteps, Rows, rows_of
from skorchless.model_selection.scoring import score_together
from skorchless.optimizers.least_squares import Comoments


@dataclass
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


@dataclass
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


def evaluate_fold(
    evaluation: Evaluation,
    X: Any,
    y: Any,
    split: tuple[np.ndarray, np.ndarray],
    comoments: Comoments | None = None,
) -> list[Entry]:
    """Fit and score every candidate in one fold, in the order of the candidates.

    Parameters
    ----------
    evaluation : Evaluation
    X, y : array-like
        All rows.
    split : pair of ndarray of int
        Which of them to fit and to score on.
    comoments : Comoments, optional
        Of the rows to fit on, if they are known.
    """
    return _Fold(evaluation, X, y, split, comoments).entries()


class _Fold:
    def __init__(
        self,
        evaluation: Evaluation,
        X: Any,
        y: Any,
        split: tuple[np.ndarray, np.ndarray],
        comoments: Comoments | None,
    ) -> None:
        self.evaluation, self.comoments = evaluation, comoments
        train, test = split
        some = evaluation.groups[0].estimator
        self.X_train, self.y_train = private.safe_split(some, X, y, train)
        self.X_test, self.y_test = private.safe_split(some, X, y, test, train)
        check = private.check_method_params
        self.fit_params = check(X, params=evaluation.fit_params, indices=train)
        self.train_params = check(X, params=evaluation.score_params, indices=train)
        self.test_params = check(X, params=evaluation.score_params, indices=test)
        self.n_test = len(test)
        self.fitted_steps = FittedSteps()

    def entries(self) -> list[Entry]:
        """One a candidate."""
        found: dict[int, Entry] = {}
        for group in self.evaluation.groups:
            found.update(zip(group.members, self._evaluate(group), strict=True))
        return [found[i] for i in range(len(found))]

    def _evaluate(self, group: Group) -> list[Entry]:
        begun = time.time()
        finals = group.unfitted()
        rows, verdicts = self._fit(group, finals)
        fit_time = (time.time() - begun) / len(finals)
        failed = self._error_scores()
        tests, trains = [failed] * len(finals), [failed] * len(finals)
        fitted = [i for i, verdict in enumerate(verdicts) if verdict.error is None]
        score_time = 0.0
        if rows is not None and fitted:
            begun = time.time()
            some = [finals[i] for i in fitted]
            scored = self._score(group, rows, some, self.X_test, self.y_test, self.test_params)
            score_time = (time.time() - begun) / len(some)
            for i, score in zip(fitted, scored, strict=True):
                tests[i] = score
            if self.evaluation.return_train_score:
                scored = self._score(
                    group, rows, some, self.X_train, self.y_train, self.train_params
                )
                for i, score in zip(fitted, scored, strict=True):
                    trains[i] = score
        entries = []
        for verdict, test, train in zip(verdicts, tests, trains, strict=True):
            result = {
                "fit_error": None if verdict.error is None else _describe(verdict.error),
                "test_scores": _own(test),
                "n_test_samples": self.n_test,
                "fit_time": fit_time,
                "score_time": score_time if verdict.error is None else 0.0,
            }
            if self.evaluation.return_train_score:
                result["train_scores"] = _own(train)
            entries.append(Entry(result, verdict.loss_curve, verdict.converged))
        return entries

    def _fit(
        self, group: Group, finals: list[TorchLinearModel]
    ) -> tuple[Rows | None, list[Verdict]]:
        """Fit a group, and raise or write down what goes wrong."""
        rows = None
        try:
            rows = rows_of(
                group.estimator, self.X_train, self.y_train, self.fit_params, self.fitted_steps
            )
            known = self.comoments if group.estimator is group.finals[0] else None
            verdicts = fit_together(finals, rows.X, rows.y, comoments=known, **rows.fit_params)
        except Exception as error:
            if self.evaluation.error_score == "raise":
                raise
            return rows, [Verdict(error) for _ in finals]
        errors = [verdict.error for verdict in verdicts if verdict.error is not None]
        if errors and self.evaluation.error_score == "raise":
            raise errors[0]
        return rows, verdicts

    def _score(
        self,
        group: Group,
        rows: Rows,
        finals: list[TorchLinearModel],
        X: Any,
        y: Any,
        params: dict[str, Any],
    ) -> list[Any]:
        return score_together(
            finals,
            lambda final: group.complete(rows, final),
            X,
            rows.transform(X),
            y,
            self.evaluation.scorer,
            params,
            self.evaluation.error_score,
        )

    def _error_scores(self) -> Any:
        several = private.scorers_of(self.evaluation.scorer)
        error_score = self.evaluation.error_score
        return error_score if several is None else dict.fromkeys(several, error_score)


def _own(score: Any) -> Any:
    """Scores that belong to one candidate alone: scikit-learn writes into them."""
    return dict(score) if isinstance(score, dict) else score


def _describe(error: Exception) -> str:
    return "".join(traceback.format_exception(error))
