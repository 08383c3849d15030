"""Line search and stopping of a stack of models, each for itself."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skorchless.optimizers.line_search import (
    ARMIJO,
    MAX_REJECTED,
    MOST_IDLE,
    NEGLIGIBLE,
    ROUNDING,
    SAFETY,
    LineSearch,
    stop_distance,
)

EPS = 2.0**-52
ONE = np.array([True])
NONE = ~ONE
quick = settings(max_examples=50)


def begun(*values, tolerance=1e-4, constant_loss=10.0):
    descent = LineSearch(
        np.full(len(values), tolerance), np.full(len(values), constant_loss), EPS, unit=0.0
    )
    descent.begin(np.array(values))
    return descent


@quick
@given(
    curvature=st.floats(0.1, 1e3), slope=st.floats(-1e3, -1e-3), length=st.sampled_from([1.0, 2.5])
)
def test_on_a_parabola_the_second_trial_is_its_minimum_where_it_may_be(curvature, slope, length):
    descent = begun(2.0)
    descent.begin_search(ONE, np.array([slope]))
    descent.length = np.array([length])

    def parabola(t):
        return 2.0 + slope * t + 0.5 * curvature * t**2

    accepted = descent.accept(parabola(descent.length))
    assert accepted == (parabola(length) <= 2.0 + ARMIJO * length * slope + 2.0 * ROUNDING * EPS)
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
    descent.begin_search(np.array([True, True, True]), np.array([-1.0, -1.0, -1.0]))
    accepted = descent.accept(np.array([0.5, 3.0, np.nan]))
    assert accepted.tolist() == [True, False, False]
    np.testing.assert_allclose(descent.length, [1.0, 1.0 / 6.0, 0.1])
    assert descent.value.tolist() == [0.5, 1.0, 1.0]
    assert descent.values == [[1.0, 0.5], [1.0], [1.0]]
    descent.begin_search(accepted, np.array([-0.25, np.nan, np.nan]))
    assert descent.decrement.tolist() == [0.25, 1.0, 1.0]
    assert descent.last_decrement.tolist() == [1.0, np.inf, np.inf]
    descent.select(torch.tensor([0, 2]))
    assert descent.decrement.tolist() == [0.25, 1.0]
    assert descent.rejected.tolist() == [0.0, 1.0]
    assert descent.values == [[1.0, 0.5], [1.0]]


def test_rounding_alone_makes_no_curve_rise():
    descent = begun(1.0)
    descent.begin_search(ONE, np.array([-1e-20]))
    assert descent.accept(np.array([1.0 + EPS])).all()
    assert descent.value == [1.0]


@pytest.mark.parametrize(
    ("value", "constant_loss", "counts"),
    [
        (1.0, 10.0, 1.0),  # the objective
        (9.0, 10.0, 1.0),  # what has been gained, which is less
        (0.0, 10.0, 10.0 * NEGLIGIBLE),
        (11.0, 10.0, 0.0),  # nothing has been gained
    ],
)
def test_the_tolerance_is_relative_to_the_objective_or_to_the_gain(value, constant_loss, counts):
    distance = stop_distance(np.array(1e-2), np.array(value), np.array(constant_loss))
    assert distance == pytest.approx(1e-2 * counts)


def after(*decreases, predicted, start=2.0, **parameters):
    """Accepted points that lowered the objective by so much each."""
    descent = begun(start, **parameters)
    for decrease in decreases:
        descent.begin_search(ONE, np.array([-decrease]))
        assert descent.accept(descent.value - decrease).all()
    descent.begin_search(ONE, np.array([-predicted]))
    return descent


def test_decreases_that_shrink_fast_leave_it_to_the_prediction():
    descent = after(0.5, 1e-4, predicted=1e-5)
    assert descent.distance_by_decreases(ONE, newton=False) == [SAFETY * 1e-5]
    assert descent.distance_by_decreases(~ONE, newton=False) == [np.inf]


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95, 0.999])
def test_slow_progress_counts_for_more_than_the_prediction(share):
    """Decreases that shrink by a share each pass have a known sum."""
    decreases = [1e-3 * share**i for i in range(20)]
    descent = after(*decreases, predicted=1e-17)
    left = decreases[-1] * share / (1.0 - share)
    np.testing.assert_allclose(
        descent.distance_by_decreases(ONE, newton=False), SAFETY * left, rtol=1e-3
    )


@pytest.mark.parametrize("decreases", [(1e-3, 1e-3), (1e-2, 1e-6, 1e-2, 1e-6)])
def test_decreases_that_do_not_shrink_confirm_nothing(decreases):
    assert after(*decreases, predicted=1e-12).distance_by_decreases(ONE, newton=False) == [np.inf]


def test_it_has_converged_where_an_accepted_point_is_near():
    descent = after(0.5, predicted=1e-5)
    assert not descent.converged(~ONE, np.array([1e-9]), None, NONE)
    assert not descent.converged(ONE, np.array([1e-2]), None, NONE)
    assert descent.converged(ONE, np.array([1e-9]), None, NONE)


def test_refining_goes_on_as_long_as_it_gains_digits():
    descent = after(0.5, predicted=1e-9)
    estimate = np.array([1e-9])
    descent.last_decrement = np.array([1e-5])
    assert not descent.converged(ONE, estimate, 4.0, NONE)
    descent.last_decrement = np.array([2e-9])
    assert descent.converged(ONE, estimate, 4.0, NONE)
    descent.last_decrement = np.array([1e-5])
    descent.decrement = np.array([EPS**2])
    assert descent.converged(ONE, estimate, 4.0, NONE)


def test_trials_that_all_fail_are_no_end_but_it_goes_no_further():
    descent = after(1e-3, predicted=1e-8)
    descent.begin_search(ONE, np.array([-1e-8]))
    for _ in range(MAX_REJECTED):
        assert not descent.stuck
        assert not descent.accept(descent.value + 1.0).any()
        assert not descent.converged(~ONE, np.array([np.inf]), None, NONE)
    assert descent.stuck


def test_passes_that_lower_nothing_are_no_end_but_it_goes_no_further():
    descent = after(1e-3, predicted=1e-12)
    for _ in range(MOST_IDLE):
        assert not descent.stuck
        descent.begin_search(ONE, np.array([-1e-17]))
        assert descent.accept(descent.value).all()
    assert descent.stuck
