"""Contracts of every loss in LOSSES, against torch's own losses and against brute force."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import as_target, draw_labels, make, n_outputs
from scipy.optimize import minimize
from torch import float64
from torch.nn import functional as F

from skorchless.distributed import SINGLE_PROCESS
from skorchless.losses import LOSSES, make_loss

# What each loss is in torch, summed over everything, for one model with Huber's `delta`.
IN_TORCH = {
    "squared_error": lambda raw, target, delta: 0.5 * F.mse_loss(raw, target, reduction="sum"),
    "huber": lambda raw, target, delta: F.huber_loss(raw, target, reduction="sum", delta=delta),
    "softmax": lambda raw, target, delta: F.cross_entropy(raw.T, target.T, reduction="sum"),
    "logistic": lambda raw, target, delta: F.binary_cross_entropy_with_logits(
        raw, target, reduction="sum"
    ),
}
DELTAS = (0.3, 1.0, 2.5)

each_loss = pytest.mark.parametrize("name", LOSSES)
seeds = st.integers(0, 2**32)


def draw(name, seed, rows=7):
    generator = torch.Generator().manual_seed(seed)
    shape = (len(DELTAS), n_outputs(name), rows)
    raw = 3.0 * torch.randn(shape, generator=generator, dtype=float64)
    return raw, as_target(draw_labels(name, rows, generator), n_outputs(name))


def torch_value(name, raw, target):
    """The loss of a stack by torch's functions, one row and model at a time."""
    return torch.stack(
        [
            torch.stack(
                [
                    IN_TORCH[name](model[:, [i]], target[0, :, [i]], delta)
                    for i in range(raw.shape[-1])
                ]
            )
            for model, delta in zip(raw, DELTAS, strict=True)
        ]
    )


@each_loss
@given(seed=seeds)
def test_value_and_residual_are_those_of_torch(name, seed):
    raw, target = draw(name, seed)
    expected = torch_value(name, raw.requires_grad_(), target)
    (gradient,) = torch.autograd.grad(expected.sum(), raw)
    raw = raw.detach()
    loss = make(name, DELTAS)
    torch.testing.assert_close(loss.value(raw, target), expected.detach(), rtol=1e-12, atol=1e-12)
    residual = loss.gradient(raw, target, out=torch.empty_like(raw))
    torch.testing.assert_close(residual, gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1.0, 20.0, 33.5, 39.0, 41.0, 300.0])
def test_a_small_logistic_loss_keeps_its_digits(size):
    loss = make_loss("logistic", torch.ones(1, 1, 1), keeps_digits=True)
    raw = torch.tensor([[[size, -size, -size, size]]], dtype=float64)
    expected = [math.log1p(math.exp(-size))] * 2 + [size + math.log1p(math.exp(-size))] * 2
    value = loss.value(raw, torch.tensor([[[1.0, 0.0, 1.0, 0.0]]], dtype=float64))
    torch.testing.assert_close(value[0].tolist(), expected, rtol=1e-15, atol=0)


@each_loss
@given(seed=seeds)
def test_residual_is_the_slope_of_the_value(name, seed):
    raw, target = draw(name, seed)
    loss, step = make(name, DELTAS), 1e-6
    residual = loss.gradient(raw, target, out=torch.empty_like(raw))
    for k in range(raw.shape[1]):
        above, below = raw.clone(), raw.clone()
        above[:, k] += step
        below[:, k] -= step
        slope = (loss.value(above, target) - loss.value(below, target)) / (2 * step)
        torch.testing.assert_close(residual[:, k], slope, rtol=1e-6, atol=1e-6)


@each_loss
def test_residual_goes_to_out_and_nowhere_else(name):
    raw, target = draw(name, seed=0)
    before = raw.clone(), target.clone()
    out = torch.empty_like(raw)
    assert make(name, DELTAS).gradient(raw, target, out=out) is out
    make(name, DELTAS).value(raw, target)
    make(name, DELTAS).curvature(raw, target)
    assert torch.equal(raw, before[0])
    assert torch.equal(target, before[1])


@each_loss
@given(seed=seeds)
def test_curvature_is_positive_and_at_most_the_smoothness(name, seed):
    raw, target = draw(name, seed)
    loss = make(name, DELTAS)
    curvature = loss.curvature(raw, target)
    assert curvature.shape == (len(DELTAS), raw.shape[-1])
    assert (curvature > 0).all()
    assert (curvature <= loss.hessian_bound * (1 + 1e-12)).all()
    if loss.constant_hessian:
        assert torch.equal(curvature, torch.ones_like(curvature))


@each_loss
@given(seed=seeds)
def test_the_hessian_is_the_derivative_of_the_residual(name, seed):
    raw, target = draw(name, seed)
    loss = make(name, DELTAS)
    generator = torch.Generator().manual_seed(seed)
    tangent = torch.randn(raw.shape, generator=generator, dtype=float64)
    step = 1e-6
    ahead, behind = (
        loss.gradient(raw + sign * step * tangent, target, out=torch.empty_like(raw))
        for sign in (1, -1)
    )
    slope = (ahead - behind) / (2 * step)
    before = tangent.clone()
    product = loss.hessian(raw, target).product(tangent)
    if name == "huber":  # which has no second derivative where the error is delta
        smooth = ((raw - target).abs() - loss.delta).abs() > 1e-4
        product, slope = product[smooth], slope[smooth]
    torch.testing.assert_close(product, slope, rtol=1e-5, atol=1e-8)
    assert torch.equal(tangent, before)


def test_the_hessian_of_rows_that_are_certain_keeps_its_digits():
    raw = torch.full((1, 1, 1), 60.0, dtype=float64)
    hessian = make("logistic", [1.0]).hessian(raw, torch.zeros_like(raw))
    assert float(hessian.diagonal) == pytest.approx(np.exp(-60.0), rel=1e-9)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "softmax"])
@given(seed=seeds)
def test_the_majorizer_lies_above_the_loss(name, seed):
    raw, target = draw(name, seed)
    loss = make(name, DELTAS)
    if loss.is_regression:  # one number serves all outputs, as their mean
        raw, target = raw[..., :1, :], target[..., :1, :]
    generator = torch.Generator().manual_seed(seed)
    step = 10.0 * torch.randn(raw.shape, generator=generator, dtype=float64)
    slope = loss.gradient(raw, target, out=torch.empty_like(raw))
    most = loss.majorizer(raw, target).unsqueeze(-2)
    above = loss.value(raw, target) + (slope * step + 0.5 * most * step.square()).sum(dim=-2)
    assert (loss.value(raw + step, target) <= above + 1e-9).all()


@each_loss
@given(seed=seeds, size=st.floats(-3, 1.5))
def test_a_dual_step_gives_a_lower_bound_of_the_loss(name, seed, size):
    """It touches the loss where the slope is the dual variable, and is the Newton step's model."""
    raw, target = draw(name, seed)
    loss = make_loss(name, torch.tensor(DELTAS).view(-1, 1, 1))
    generator = torch.Generator().manual_seed(seed + 1)
    change = 10.0**size * torch.randn(raw.shape, generator=generator, dtype=float64)
    dual, gap = loss.dual_step(raw, change, target)
    assert (gap >= -1e-15).all()
    value = loss.value(raw, target)

    def bound(others):
        return value + (dual * (others - raw)).sum(dim=-2) - gap

    others = raw + 3.0 * torch.randn(raw.shape, generator=generator, dtype=float64)
    assert (loss.value(others, target) >= bound(others) - 1e-12).all()
    slope = {
        "squared_error": lambda: target + dual,
        "huber": lambda: target + dual,
        "logistic": lambda: torch.logit(target + dual),
        "softmax": lambda: torch.log(target + dual),
    }[name]()
    touches = torch.isfinite(slope).all(dim=-2)
    others = torch.where(torch.isfinite(slope), slope, 0.0)
    difference = (loss.value(others, target) - bound(others))[touches]
    assert difference.abs().max() <= 1e-9 if touches.any() else size > 0
    if size < -2:
        newton = loss.gradient(raw, target, torch.empty_like(raw))
        newton = newton + loss.hessian(raw, target).product(change)
        inside = (dual - newton).abs().amax(dim=-2) < 1e-12
        half = 0.5 * loss.hessian(raw, target).along(change)
        assert (inside | (name == "huber")).all()
        torch.testing.assert_close(gap[inside], half[inside], rtol=0.2, atol=1e-15)


@pytest.mark.parametrize("name", ["softmax", "logistic"])
@given(seed=seeds)
def test_changes_of_log_odds_are_derivatives_of_log_probabilities(name, seed):
    raw, _ = draw(name, seed)
    change = torch.randn(raw.shape, generator=torch.Generator().manual_seed(seed), dtype=float64)
    loss = make_loss(name, torch.ones(1))

    def log_p(raw):
        logits = raw if name == "softmax" else torch.cat([torch.zeros_like(raw), raw], dim=-2)
        return logits.log_softmax(dim=-2)

    expected = torch.autograd.functional.jvp(log_p, raw, change)
    p, of_odds = loss.log_odds(raw, change)
    torch.testing.assert_close((p.log(), of_odds), expected)


@pytest.mark.parametrize("name", ["softmax", "logistic"])
@given(seed=seeds)
def test_outputs_that_are_left_out_have_no_part_in_the_loss(name, seed):
    raw, target = draw(name, seed)
    loss = make_loss(name, torch.ones(1), keeps_digits=True)
    kept = torch.rand(raw.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    others, lower = loss.leave_out(raw, target, kept)
    own = (others * target).nan_to_num(0.0).sum(dim=-2)  # of the class that a row has
    value = others.logsumexp(dim=-2) - own if name == "softmax" else loss.value(others, target)
    torch.testing.assert_close(value, loss.value(raw, target) - lower)
    stay = kept | (target > 0) if name == "softmax" else kept
    assert torch.equal(others[stay], raw[stay])
    left = loss.gradient(others, target, torch.empty_like(raw))[~stay]
    assert (left == 0.0).all()
    assert (lower >= 0.0).all()


@each_loss
def test_smoothness_is_the_largest_second_derivative(name):
    K = n_outputs(name)
    target = as_target(torch.zeros(1, dtype=torch.long), K) if K > 1 else torch.zeros(1, 1, 1)
    if LOSSES[name].is_regression:
        target = torch.zeros_like(target)
    target = target[0].to(float64)
    largest = 0.0
    for raw in product([-50.0, 0.0, 50.0], repeat=K):
        hessian = torch.autograd.functional.hessian(
            lambda z: IN_TORCH[name](z.unsqueeze(1), target, 1.0),
            torch.tensor(raw, dtype=float64),
        )
        largest = max(largest, float(torch.linalg.eigvalsh(hessian)[-1]))
    assert LOSSES[name].hessian_bound == pytest.approx(largest, rel=1e-9)


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_everything_is_finite_far_out(name, dtype):
    K = n_outputs(name)
    raw = torch.tensor(list(product([-1e4, -30.0, 0.0, 30.0, 1e4], repeat=K)), dtype=dtype)
    raw = raw.T.expand(len(DELTAS), -1, -1).contiguous()
    loss = make(name, DELTAS, dtype)
    for k in range(K):
        target = torch.zeros(1, K, raw.shape[-1], dtype=dtype)
        target[:, k] = 1.0
        value = loss.value(raw, target)
        assert value.isfinite().all()
        assert (value >= 0).all()
        assert loss.gradient(raw, target, out=torch.empty_like(raw)).isfinite().all()
        assert (loss.curvature(raw, target) >= 0).all()


def mean_loss(name, constant, labels, weight, delta):
    """Weighted mean loss of a model that predicts `constant` for every row."""
    target = as_target(labels, n_outputs(name))
    raw = torch.as_tensor(constant, dtype=float64).view(1, -1, 1).expand(1, -1, len(labels))
    value = make(name, [delta]).value(raw, target)
    return float((value * weight).sum() / weight.sum())


@each_loss
@pytest.mark.parametrize("fit_intercept", [True, False])
@given(seed=seeds)
def test_null_models_loss_is_the_loss_of_the_best_constant(name, fit_intercept, seed):
    """It is the scale of the stopping rules: three digits do."""
    generator = torch.Generator().manual_seed(seed)
    K = n_outputs(name)
    labels = draw_labels(name, 60, generator)
    weight = 0.1 + torch.rand(60, generator=generator, dtype=float64)
    value = (
        make(name, DELTAS)
        .null_model(labels, weight, K, fit_intercept, SINGLE_PROCESS)
        .loss.expand(len(DELTAS))
    )
    assert value.dtype == float64
    for got, delta in zip(value.tolist(), DELTAS, strict=True):

        def of(constant, delta=delta):
            return mean_loss(name, constant, labels, weight, delta)

        best = of(np.zeros(K))
        if fit_intercept:
            best = minimize(of, np.zeros(K), method="BFGS", options={"gtol": 1e-8}).fun
        assert best * (1 - 1e-9) <= got <= best * (1 + 1e-3)


@each_loss
def test_null_models_loss_of_rows_that_agree_is_zero(name):
    if LOSSES[name].is_regression:
        labels = torch.full((5, n_outputs(name)), 3.0, dtype=float64)
    else:
        labels = draw_labels(name, 1, torch.Generator().manual_seed(0))
        labels = labels.expand(5, *labels.shape[1:])
    value = (
        make(name, DELTAS)
        .null_model(labels, torch.ones(5), n_outputs(name), True, SINGLE_PROCESS)
        .loss
    )
    assert value.max() == pytest.approx(0.0, abs=1e-15)


def test_the_best_constant_without_intercept_is_an_even_guess():
    labels, weight = torch.tensor([0, 1, 2, 2]), torch.ones(4)
    value = make("softmax", DELTAS).null_model(labels, weight, 3, False, SINGLE_PROCESS).loss
    assert float(value) == pytest.approx(math.log(3))


@each_loss
def test_selected_models_keep_their_losses(name):
    raw, target = draw(name, seed=1)
    keep = torch.tensor([2, 0])
    chosen = make(name, DELTAS).select(keep)
    expected = make(name, DELTAS).value(raw, target)[keep]
    torch.testing.assert_close(chosen.value(raw[keep], target), expected)
