"""Random hard problems of docs/benchmarks/robustness.py: no fit is wrong without a word.

The optima are stored; SciPy found them in double precision, see robustness_reference.py there.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from skorchless import TorchLinearRegressor

ROOT = Path(__file__).parents[1]
TOL = 1e-4
OPTIMA = json.loads((Path(__file__).parent / "robustness_optima.json").read_text())
#: Problems a test, so that one failure does not hide the others.
GROUP = 20


@pytest.fixture
def robustness(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "benchmarks"))
    import robustness

    yield robustness
    for name in ("robustness", "robustness_reference", "tools"):
        sys.modules.pop(name, None)


def outcomes(robustness, numbers):
    """The larger gap, whether it warned and whether it says that it converged, of each fit."""
    for number in numbers:
        problem = robustness.make(int(number))
        best, constant = OPTIMA[number]
        outcome = robustness.Outcome(int(number), False, problem.kind, "", "")
        with np.errstate(all="ignore"):
            model = robustness.fit(problem, outcome)
            assert model is not None, (number, outcome.error)
            value = problem.rows.objective_of_fitted(model.coef_, model.intercept_)
        log_loss = problem.loss == "log_loss"
        gap = robustness.gap(value, best, constant, log_loss=log_loss)
        predicted = robustness.predicted_gap(problem, model, best, constant)
        yield number, max(gap, predicted), outcome.warned, model.converged_


@pytest.mark.parametrize("first", range(0, len(OPTIMA), GROUP))
def test_no_fit_is_wrong_without_a_word(robustness, first):
    numbers = list(OPTIMA)[first : first + GROUP]
    for number, gap, warned, converged in outcomes(robustness, numbers):
        assert warned == (not converged), number
        assert gap <= 10 * TOL or warned, (number, gap)


@pytest.mark.parametrize("number", [13, 1538, 1882, 1940, 2100, 2645, 2964])
def test_optima_that_are_not_attained_are_told_from_others(robustness, number):
    """Classes are separable in part, so that log-odds grow without an end."""
    outcome = robustness.Outcome(number, False, "", "", "")
    model = robustness.fit(robustness.make(number), outcome)
    assert model is not None, outcome.error
    assert model.converged_
    assert not outcome.warned


def test_ridge_is_solved_where_second_moments_are_singular_to_rounding(robustness):
    """No intercept, and means of a million standard deviations; the rows are no worse than that."""
    problem = robustness.make(2670)
    outcome = robustness.Outcome(2670, False, "", "", "")
    model = robustness.fit(problem, outcome)
    assert model is not None, outcome.error
    assert model.converged_
    n, d = problem.X.shape
    rows = np.vstack([problem.X / n**0.5, problem.alpha**0.5 * np.eye(d)])
    size = np.linalg.norm(rows, axis=0)
    best = np.linalg.lstsq(rows / size, np.append(problem.y / n**0.5, np.zeros(d)))[0] / size

    def objective(coef):
        squares = np.mean((problem.X @ coef - problem.y) ** 2)
        return 0.5 * (squares + problem.alpha * coef @ coef)

    assert objective(model.coef_) <= (1 + 1e-6) * objective(best)


def test_a_logistic_loss_that_is_nearly_zero_keeps_its_digits(robustness):
    """One row has nearly all the weight: what the others lose is as small as what it does."""
    problem, outcome = robustness.make(433), robustness.Outcome(433, False, "", "", "")
    model = robustness.fit(problem, outcome)
    assert model is not None, outcome.error
    value = problem.rows.objective_of_fitted(model.coef_, model.intercept_)
    assert model.loss_curve_[-1] == pytest.approx(value, rel=1e-2, abs=0)
    assert model.converged_


@pytest.mark.parametrize("seed", range(12))
def test_groups_whose_errors_are_far_beyond_delta_end_without_a_warning(seed):
    """Groups may have no row within delta, and so no curvature: a slope there is all rounding."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 9))
    group = np.repeat(np.arange(count), 2 * rng.integers(3, 8, size=count))
    y = np.round(
        250 + 60 * rng.standard_normal(count)[group] + 60 * rng.standard_normal(len(group))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        model = TorchLinearRegressor(loss="huber").fit(np.eye(count)[group], y)
    assert model.converged_

    def total(error):
        size = np.abs(error)
        return np.where(size < 1, error**2 / 2, size - 0.5).sum()

    best = 0.0
    for own in (y[group == k] for k in range(count)):
        kinks = np.concatenate([own - 1, own, own + 1, [np.median(own)]])
        best += min(total(own - kink) for kink in kinks)
    assert total(y - model.predict(np.eye(count)[group])) <= (1 + 10 * TOL) * best


@pytest.mark.parametrize("number", [255, 281])
def test_single_precision_has_a_model_of_smaller_terms(robustness, number):
    """The optimum's predictions lose digits; those of another model, nearly as good, do not."""
    problem, outcome = robustness.make(number), robustness.Outcome(number, False, "", "", "")
    with np.errstate(all="ignore"):
        best = robustness.solve(problem)
        model = robustness.fit(problem, outcome)
        assert model is not None, outcome.error
        value = problem.rows.objective_of_fitted(model.coef_, model.intercept_)
    log_loss = problem.loss == "log_loss"
    assert robustness.gap(value, best.best, best.constant, log_loss=log_loss) <= 10 * TOL
    assert robustness.predicted_gap(problem, model, best.best, best.constant) <= 10 * TOL
    assert model.converged_
    assert not outcome.warned
