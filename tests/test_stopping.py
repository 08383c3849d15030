import numpy as np
import pytest
import torch

from skorchless.stack import select_models
from skorchless.training import BestWeights, Patience


def update_all(patience, curves):
    """Whether each model was stale after each pass; None is no iteration."""
    stale = []
    for values in zip(*curves, strict=True):
        iterated = np.array([value is not None for value in values])
        stale.append(patience.update(np.array(values, dtype=float), iterated).tolist())
    return stale


def test_a_model_is_stale_after_so_many_passes_without_improvement():
    patience = Patience(np.array([0.0]), passes=2)
    stale = update_all(patience, [[3.0, 2.0, 2.0, 1.0, 1.5, 1.0]])
    assert stale == [[False], [False], [False], [False], [False], [True]]


@pytest.mark.parametrize(("step", "is_stale"), [(0.06, False), (0.04, True)])
def test_small_improvements_count_once_they_add_up_to_the_threshold(step, is_stale):
    patience = Patience(np.array([0.1]), passes=2)
    curve = [1.0 - step * i for i in range(10)]
    assert any(stale for (stale,) in update_all(patience, [curve])) is is_stale


def test_each_model_has_its_own_threshold_and_waits_by_itself():
    patience = Patience(np.array([0.5, 0.0]), passes=1)
    stale = update_all(patience, [[3.0, 2.9, 1.0], [3.0, 2.9, 2.9]])
    assert stale == [[False, False], [True, False], [False, True]]


def test_passes_that_are_no_iteration_do_not_count():
    patience = Patience(np.array([0.0, 0.0]), passes=2)
    stale = update_all(patience, [[1.0, None, 1.0, None, 1.0], [1.0, 1.0, 1.0, None, None]])
    assert stale == [[False] * 2, [False] * 2, [False, True], [False] * 2, [True, False]]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_no_number_is_no_improvement(value):
    patience = Patience(np.array([0.0]), passes=2)
    stale = update_all(patience, [[1.0, value, 0.5, value, value]])
    assert stale == [[False], [False], [False], [False], [True]]


def test_a_forgiven_model_waits_anew_for_better_than_its_best():
    patience = Patience(np.array([0.0, 0.0]), passes=2)
    update_all(patience, [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    patience.forgive(np.array([True, False]))
    stale = update_all(patience, [[1.0, 1.0], [1.0, 1.0]])
    assert stale == [[False, True], [True, True]]


def test_models_that_stay_keep_their_count():
    patience = Patience(np.array([0.0, 0.5]), passes=2)
    update_all(patience, [[1.0, 0.5], [1.0, 0.9]])
    select_models(patience, torch.tensor([False, True]))
    assert update_all(patience, [[0.8]]) == [[True]]


def weights_of(*values):
    return torch.tensor(values).view(-1, 1, 1)


def test_best_weights_are_those_of_the_lowest_value():
    best = BestWeights(weights_of(0.0, 0.0))
    curves = [3.0, 1.0, 2.0], [np.inf, 5.0, 4.0]
    for i, values in enumerate(zip(*curves, strict=True), start=1):
        best.update(np.array(values), weights_of(10.0 + i, 20.0 + i), n_iter=np.array(i))
    assert best.weights.flatten().tolist() == [12.0, 23.0]
    assert best.n_iter.tolist() == [2, 3]
    assert best.value.tolist() == [1.0, 4.0]


def test_of_equal_values_the_first_is_best():
    best = BestWeights(weights_of(0.0))
    for i in (1, 2):
        best.update(np.array([1.0]), weights_of(float(i)), n_iter=np.array(i))
    assert best.n_iter.tolist() == [1]
    assert best.weights.item() == 1.0


def test_best_weights_do_not_move_with_the_weights():
    weights = weights_of(1.0)
    best = BestWeights(weights)
    best.update(np.array([1.0]), weights, n_iter=np.array(1))
    weights.fill_(2.0)
    assert best.weights.item() == 1.0


def test_models_that_stay_keep_their_best():
    best = BestWeights(weights_of(0.0, 0.0, 0.0))
    best.update(np.array([1.0, 2.0, 3.0]), weights_of(1.0, 2.0, 3.0), n_iter=np.array(1))
    select_models(best, torch.tensor([True, False, True]))
    best.update(np.array([2.0, 2.0]), weights_of(4.0, 5.0), n_iter=np.array(2))
    assert best.weights.flatten().tolist() == [1.0, 5.0]
    assert best.n_iter.tolist() == [1, 2]
