import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import stacked
from torch import float64

from skorchless.penalties import ElasticNet, PenaltySum

MODELS, OUTPUTS, FEATURES = 3, 2, 4
seeds = st.integers(0, 2**32)
shares = st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=MODELS, max_size=MODELS)


def factor(generator):
    """Column factors, 0 for the intercept."""
    values = 0.5 + torch.rand(FEATURES + 1, generator=generator, dtype=float64)
    values[-1] = 0.0
    return values


def draw(seed, l1_ratio, alphas=(0.7, 0.0, 2.0)):
    generator = torch.Generator().manual_seed(seed)
    scale = factor(generator)
    weights = torch.randn(MODELS, OUTPUTS, FEATURES + 1, generator=generator, dtype=float64)
    metric = 0.1 + torch.rand(weights.shape, generator=generator, dtype=float64)
    return ElasticNet(stacked(alphas), stacked(l1_ratio), scale), weights, metric, scale


def formula(weights, alphas, l1_ratio, scale):
    """The penalty of weights on the user's columns."""
    coef = weights * scale
    l1 = coef.abs().sum(dim=(1, 2))
    l2 = coef.square().sum(dim=(1, 2))
    alphas, l1_ratio = torch.tensor(alphas), torch.tensor(l1_ratio)
    return alphas * (l1_ratio * l1 + 0.5 * (1.0 - l1_ratio) * l2)


@given(seed=seeds, l1_ratio=shares)
def test_value_is_the_formula(seed, l1_ratio):
    penalty, weights, _, scale = draw(seed, l1_ratio)
    expected = formula(weights, (0.7, 0.0, 2.0), l1_ratio, scale)
    torch.testing.assert_close(penalty.value(weights), expected, rtol=1e-6, atol=0)


@given(seed=seeds, l1_ratio=shares)
def test_gradient_of_smooth_and_absolute_part_is_autograds(seed, l1_ratio):
    penalty, weights, _, _ = draw(seed, l1_ratio)
    (expected,) = torch.autograd.grad(penalty.value(weights.requires_grad_()).sum(), weights)
    weights = weights.detach()
    gradient = torch.ones_like(weights)
    penalty.add_gradient_(weights, gradient)
    total = gradient - 1.0 + penalty.l1 * weights.sign()
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)


def brute_force_prox(weight, metric, l1):
    """Minimiser of ``(v - weight)^2 / (2 metric) + l1 |v|`` by ternary search, elementwise."""

    def cost(v):
        return 0.5 * (v - weight) ** 2 / metric + l1 * np.abs(v)

    low, high = weight - 10.0, weight + 10.0
    for _ in range(120):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        smaller = cost(left) < cost(right)
        low, high = np.where(smaller, low, left), np.where(smaller, right, high)
    return 0.5 * (low + high)


@given(seed=seeds, l1_ratio=shares)
def test_prox_minimises_what_it_says_in_the_metric_of_each_weight(seed, l1_ratio):
    penalty, weights, metric, _ = draw(seed, l1_ratio)
    l1 = penalty.l1.expand_as(weights)
    expected = brute_force_prox(weights.numpy(), metric.numpy(), l1.numpy())
    result = weights.clone()
    penalty.prox_(result, metric)
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-6)
    assert torch.equal(result == 0.0, weights.abs() <= l1 * metric)


@given(seed=seeds, l1_ratio=shares)
def test_the_intercept_is_never_touched(seed, l1_ratio):
    penalty, weights, metric, _ = draw(seed, l1_ratio, alphas=(1e6, 1e6, 1e6))
    moved, gradient = weights.clone(), torch.zeros_like(weights)
    penalty.prox_(moved, metric)
    penalty.add_gradient_(weights, gradient)
    assert torch.equal(moved[..., -1], weights[..., -1])
    assert (gradient[..., -1] == 0).all()
    weights[..., :-1] = 0.0
    assert (penalty.value(weights) == 0).all()


@given(seed=seeds, l1_ratio=shares, steps=st.integers(0, 4))
def test_penalty_sum_is_the_sum_of_the_values(seed, l1_ratio, steps):
    penalty, weights, _, _ = draw(seed, l1_ratio)
    running = PenaltySum(penalty, weights)
    for _ in range(2):  # taking the sum starts it anew
        expected = torch.zeros(MODELS, dtype=float64)
        for step in range(steps):
            running.add(weights - step)
            expected += penalty.value(weights - step)
        total = torch.as_tensor(running.take(), dtype=float64).expand(MODELS)
        torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("alphas", "l1_ratio", "has_l1", "has_l2"),
    [
        ([0.0, 0.0], [0.5, 0.5], False, False),
        ([1.0, 0.0], [0.0, 1.0], False, True),
        ([0.0, 1.0], [0.0, 1.0], True, False),
        ([1.0, 1.0], [0.0, 1.0], True, True),
    ],
)
def test_a_stack_knows_what_there_is_to_do(alphas, l1_ratio, has_l1, has_l2):
    scale = torch.tensor([1.0, 1.0, 0.0], dtype=float64)
    penalty = ElasticNet(stacked(alphas), stacked(l1_ratio), scale)
    assert (penalty.has_l1, penalty.has_l2) == (has_l1, has_l2)
    assert penalty.is_active == (has_l1 or has_l2)


def test_selected_models_keep_their_penalties():
    penalty, weights, _, _ = draw(0, [1.0, 0.5, 0.0])
    before = penalty.value(weights)
    keep = torch.tensor([2])
    penalty.select(keep)
    assert torch.equal(penalty.value(weights[keep]), before[keep])
    assert not penalty.has_l1
    assert penalty.has_l2
