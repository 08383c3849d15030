import numpy as np
import pytest
import torch
from problems import draw_data, make, stacked
from torch import float64

from skorchless.data import DenseLoader
from skorchless.objective import LinearObjective
from skorchless.optimizers import AveragedAdam, Setup
from skorchless.penalties import ElasticNet


def make_rule(kind, weights):
    data = draw_data("squared_error", 0, n=20, d=3)
    target = data.target[:, :1]
    loader = DenseLoader(
        data.X, target, None, n_outputs=1, fit_intercept=True, batch_size=4, stack_width=1
    )
    penalty = ElasticNet(stacked([0.0]), stacked([0.0]), torch.ones(4, dtype=float64))
    setup = Setup(
        loader=loader,
        objective=LinearObjective(make("squared_error", [1.0]), penalty),
        weights=weights,
        momentum=stacked([0.0]),
        nesterov=False,
        betas=(0.9, 0.999),
        tolerance=torch.zeros(1, dtype=float64),
        constant_loss=None,
    )
    rule = kind(setup)
    rule.set_learning_rate(stacked([0.1]))
    return rule


def gradients(n):
    return torch.randn(n, 1, 1, 4, dtype=float64, generator=torch.Generator().manual_seed(0))


def test_steps_rise_rare_weights_are_held_back_and_the_mean_counts_later_steps_more():
    rows = np.column_stack([draw_data("squared_error", 0, n=20, d=3).X, np.ones(20)])
    columns = (rows**2).sum(axis=1).mean()
    weights = m = v = np.zeros(4)
    moved, steps = torch.zeros(1, 1, 4, dtype=float64), []
    rule = make_rule(AveragedAdam, moved)
    for t, gradient in enumerate(gradients(6), 1):
        gradient = gradient * torch.tensor([1.0, 1.0, 1.0, 1e-3], dtype=float64)
        rule.step(moved, gradient)
        g = gradient.numpy().ravel()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        least = np.maximum(v, v.sum() / columns)
        rate = 0.1 * min(1.0, 2.0 * np.sqrt(t / columns))
        root = np.sqrt(least / (1 - 0.999**t)) + 1e-8
        weights = weights - rate * m / (1 - 0.9**t) / root
        steps.append(weights)
        np.testing.assert_allclose(moved.numpy().ravel(), weights, rtol=1e-6)
    # t (t + 1) (t + 2): what the recursion makes of the t-th step.
    share = np.array([t * (t + 1) * (t + 2) for t in range(1, 7)])
    mean = share @ np.array(steps) / share.sum()
    outcome = rule.end_epoch(moved, torch.zeros(1))
    np.testing.assert_allclose(outcome.accepted.numpy().ravel(), mean, rtol=1e-6)


@pytest.mark.parametrize("pause", [1, 3])
def test_it_goes_on_from_its_state_as_if_nothing_had_happened(pause):
    steady = torch.zeros(1, 1, 4, dtype=float64)
    rule = make_rule(AveragedAdam, steady)
    for gradient in gradients(6):
        rule.step(steady, gradient)
    expected = rule.end_epoch(steady, torch.zeros(1)).accepted

    weights = torch.zeros(1, 1, 4, dtype=float64)
    rule = make_rule(AveragedAdam, weights)
    for gradient in gradients(6)[:pause]:
        rule.step(weights, gradient)
    weights = rule.end_epoch(weights, torch.zeros(1)).accepted.clone()
    state = {name: value.copy() for name, value in rule.state_dict().items()}
    rule = make_rule(AveragedAdam, weights)
    rule.load_state_dict(state)
    rule.set_learning_rate(stacked([0.1]))
    for gradient in gradients(6)[pause:]:
        rule.step(weights, gradient)
    torch.testing.assert_close(weights, steady)
    torch.testing.assert_close(rule.end_epoch(weights, torch.zeros(1)).accepted, expected)
