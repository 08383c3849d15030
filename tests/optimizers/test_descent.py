"""Line search and stopping of a stack of models, each for itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skorchless.optimizers.descent import (
    ARMIJO,
    MOST_RAISED,
    MOST_REJECTED,
    SAFETY,
    WINDOW,
    Descent,
)

EPS = 2.0**-52
quick = settings(max_examples=50)


def begun(*values, tolerance=1e-4, constant_loss=1.0):
    descent = Descent.at_start(
        np.full(len(values), tolerance), np.full(len(values), constant_loss), EPS
    )
    descent.value = np.array(values)
    return descent


@quick
@given(
    curvature=st.floats(0.1, 1e3), slope=st.floats(-1e3, -1e-3), length=st.sampled_from([1.0, 2.5])
)
def test_on_a_parabola_the_second_trial_is_its_minimum_where_it_may_be(curvature, slope, length):
    descent = begun(2.0)
    descent.aim(np.array([True]), np.array([slope]))
    descent.length = np.array([length])

    def parabola(t):
        return 2.0 + slope * t + 0.5 * curvature * t**2

    accepted = descent.accept(parabola(descent.length))
    assert accepted == (parabola(length) <= 2.0 + ARMIJO * length * slope + 8.0 * EPS)
    if not accepted:
        within = np.clip(-slope / curvature, 0.1 * length, 0.5 * length)
        np.testing.assert_allclose(descent.length, within, rtol=1e-6)
        assert descent.rejected == [1.0]
        assert descent.value == [2.0]
    if accepted:
        assert descent.value == [min(parabola(length), 2.0)]
        assert descent.rejected == [0.0]


def test_each_model_searches_for_itself():
    descent = begun(1.0, 1.0, 1.0)
    descent.aim(np.array([True, True, True]), np.array([-1.0, -1.0, -1.0]))
    accepted = descent.accept(np.array([0.5, 3.0, np.nan]))
    assert accepted.tolist() == [True, False, False]
    np.testing.assert_allclose(descent.length, [1.0, 1.0 / 6.0, 0.1])
    assert descent.value.tolist() == [0.5, 1.0, 1.0]
    descent.aim(accepted, np.array([-0.25, np.nan, np.nan]))
    assert descent.decrease.tolist() == [0.25, 1.0, 1.0]
    assert descent.last_decrease.tolist() == [1.0, np.inf, np.inf]
    descent.select(np.array([0, 2]))
    assert descent.decrease.tolist() == [0.25, 1.0]
    assert descent.rejected.tolist() == [0.0, 1.0]


def test_rounding_alone_makes_no_curve_rise():
    descent = begun(1.0)
    descent.aim(np.array([True]), np.array([-1e-20]))
    assert descent.accept(np.array([1.0 + EPS])).all()
    assert descent.value == [1.0]


def after(*decreases, predicted, start=2.0, **parameters):
    """Passes that lowered the objective by so much each."""
    descent = begun(start, **parameters)
    for decrease in [0.0, *decreases]:
        descent.value = descent.value - decrease
        descent.values.append(descent.value)
    descent.aim(np.array([True]), np.array([-predicted]))
    return descent


def test_a_few_passes_are_judged_by_the_prediction():
    descent = after(0.5, 0.4, predicted=1e-5)
    assert descent.distance() == [SAFETY * 1e-5]
    assert descent.converged(np.array([True]), refining=4.0)  # of an objective of 1.1
    descent.tolerance = np.array([1e-5])
    assert not descent.converged(np.array([True]), refining=4.0)


@pytest.mark.parametrize("share", [0.8, 0.95, 0.999])
def test_slow_progress_counts_for_more_than_the_prediction(share):
    """Decreases that shrink by a share each pass have a known sum, which counts within limits."""
    decreases = [1e-5 * share**i for i in range(40)]
    descent = after(*decreases, predicted=1e-6)
    left = decreases[-1] * share / (1.0 - share)
    expected = SAFETY * np.clip(left, 1e-6, MOST_RAISED * 1e-6)
    np.testing.assert_allclose(descent.distance(), expected, rtol=1e-6)


@pytest.mark.parametrize("constant_loss", [1.0, 1e5])
def test_what_is_small_beside_the_constant_models_loss_is_near(constant_loss):
    descent = begun(1e-9, constant_loss=constant_loss)
    assert descent.scale == [1e-3 * constant_loss]


def test_where_rounding_is_near_it_ends_once_it_gains_no_more():
    descent = after(1e-3, predicted=1e-16, tolerance=0.0)
    descent.last_decrease = np.array([2e-16])
    yes, no = np.array([True]), np.array([False])
    assert descent.converged(yes, refining=4.0)
    assert not descent.converged(yes, refining=1.5)
    assert not descent.converged(no, refining=4.0)
    descent.decrease = np.array([EPS**2])
    assert descent.converged(no, refining=1.5)


def test_a_search_that_fails_has_converged_if_little_was_left_to_find():
    descent = after(1e-3, predicted=1e-8, tolerance=0.0)
    descent.rejected = np.array([float(MOST_REJECTED)])
    assert descent.stuck
    assert descent.converged(np.array([False]), refining=4.0)
    descent.decrease = np.array([1e-3])
    assert not descent.converged(np.array([False]), refining=4.0)


def test_passes_that_gain_nothing_together_are_the_last():
    gains = [1e-3, *[0.0] * WINDOW]
    assert after(*gains, predicted=1e-8, tolerance=0.0).converged(np.array([True]), refining=4.0)
    gains = [*[0.0] * WINDOW, 1e-3]
    moving = after(*gains, predicted=1e-8, tolerance=0.0)
    assert not moving.converged(np.array([True]), refining=4.0)
