import numpy as np
import pytest
import torch
from problems import draw_data, make, stacked

from skorchless.objective import Objective
from skorchless.optimizers import AveragedAdam, Setup
from skorchless.optimizers.textbook import Adam
from skorchless.penalties import ElasticNet
from skorchless.sources import DenseSource
from skorchless.stack import WIDE


def make_rule(kind, weights):
    data = draw_data("squared_error", 0, n=20, d=3)
    source = DenseSource(
        data.X, data.target, None, n_outputs=1, fit_intercept=True, batch_size=4, stack_width=1
    )
    penalty = ElasticNet(stacked([0.0]), stacked([0.0]), torch.ones(4, dtype=WIDE))
    setup = Setup(
        source=source,
        objective=Objective(make("squared_error", [1.0]), penalty),
        weights=weights,
        momentum=stacked([0.0]),
        nesterov=False,
        betas=(0.9, 0.999),
        tolerance=torch.zeros(1, dtype=WIDE),
        constant_loss=None,
    )
    rule = kind(setup)
    rule.set_rate(stacked([0.1]))
    return rule


def gradients(n):
    return torch.randn(n, 1, 1, 4, dtype=WIDE, generator=torch.Generator().manual_seed(0))


def test_the_mean_counts_later_steps_more():
    weights, steps = torch.zeros(1, 1, 4, dtype=WIDE), []
    rule = make_rule(Adam, weights)
    for gradient in gradients(6):
        rule.on_batch(weights, gradient)
        steps.append(weights.clone())
    averaged = torch.zeros(1, 1, 4, dtype=WIDE)
    rule = make_rule(AveragedAdam, averaged)
    for gradient in gradients(6):
        rule.on_batch(averaged, gradient)
    assert torch.equal(averaged, weights)
    # t (t + 1) (t + 2): what the recursion makes of the t-th step.
    share = torch.tensor([t * (t + 1) * (t + 2) for t in range(1, 7)], dtype=WIDE)
    mean = (share.view(-1, 1, 1, 1) * torch.stack(steps)).sum(0) / share.sum()
    outcome = rule.on_pass(averaged, np.zeros(1))
    torch.testing.assert_close(outcome.accepted, mean)


@pytest.mark.parametrize("pause", [1, 3])
def test_it_goes_on_from_its_state_as_if_nothing_had_happened(pause):
    steady = torch.zeros(1, 1, 4, dtype=WIDE)
    rule = make_rule(AveragedAdam, steady)
    for gradient in gradients(6):
        rule.on_batch(steady, gradient)
    expected = rule.on_pass(steady, np.zeros(1)).accepted

    weights = torch.zeros(1, 1, 4, dtype=WIDE)
    rule = make_rule(AveragedAdam, weights)
    for gradient in gradients(6)[:pause]:
        rule.on_batch(weights, gradient)
    weights = rule.on_pass(weights, np.zeros(1)).accepted.clone()
    state = {name: value.copy() for name, value in rule.state().items()}
    rule = make_rule(AveragedAdam, weights)
    rule.load_state(state)
    rule.set_rate(stacked([0.1]))
    for gradient in gradients(6)[pause:]:
        rule.on_batch(weights, gradient)
    torch.testing.assert_close(weights, steady)
    torch.testing.assert_close(rule.on_pass(weights, np.zeros(1)).accepted, expected)
