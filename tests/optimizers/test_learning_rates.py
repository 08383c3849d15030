import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import draw_data, make, stacked
from torch import float64

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.data import DenseLoader, Moments
from skorchless.losses import LOSSES
from skorchless.objective import LinearObjective
from skorchless.optimizers import safe_rates
from skorchless.penalties import ElasticNet

seeds = st.integers(0, 2**32)


def rates_of(optimizer, loss="squared_error", *, momentum=(0.0,), alpha=0.0, batch=40, scale=1.0):
    data = draw_data(loss, 0, n=40, d=4)
    scaling = Moments.of(data.X, None).scaling(centre=True, dtype=float64)
    target = data.target if data.target.ndim == 1 else data.target * scale
    loader = DenseLoader(
        data.X,
        target,
        None,
        n_outputs=data.n_outputs,
        fit_intercept=True,
        batch_size=batch,
        stack_width=data.n_outputs,
        scaling=scaling,
    )
    models = len(momentum)
    penalty = ElasticNet(
        stacked([alpha] * models), stacked([0.0] * models), torch.ones(5, dtype=float64)
    )
    objective = LinearObjective(make(loss, [1.0] * models), penalty)
    return safe_rates(optimizer, loader, objective, np.array(momentum))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_full_batch_step_is_one_over_the_largest_curvature(loss):
    X = draw_data(loss, 0, n=40, d=4).X
    rows = torch.cat([(X - X.mean(0)) / X.std(0, correction=0), torch.ones(40, 1)], dim=1)
    largest = float(torch.linalg.eigvalsh(rows.T @ rows / 40)[-1])
    expected = 1.0 / (LOSSES[loss].hessian_bound * largest + 0.2)
    assert rates_of("sgd", loss, alpha=0.2) == pytest.approx(expected, rel=1e-3)


def test_smaller_batches_and_more_momentum_mean_smaller_steps():
    rates = [rates_of("sgd", batch=batch)[0] for batch in (1, 5, 20, 40)]
    assert rates == sorted(rates)
    assert rates_of("sgd", momentum=(0.0, 0.5, 0.9)) == pytest.approx(
        rates_of("sgd") * [1.0, 0.5, 0.1]
    )


def test_adams_step_does_not_depend_on_the_units_of_the_targets():
    assert rates_of("adam", scale=100.0) == pytest.approx(rates_of("adam"))
    assert rates_of("adam", "softmax") == pytest.approx(rates_of("adam", "logistic"), rel=0.5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_constant_target_has_a_rate_all_the_same(optimizer):
    rate = rates_of(optimizer, scale=0.0)
    assert np.isfinite(rate).all()
    assert (rate > 0).all()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("batch_size", [16, None])
@given(seed=seeds)
def test_columns_of_any_scale_are_learnt_without_tuning(optimizer, batch_size, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(120, 4)) * 10.0 ** rng.uniform(-4, 4, 4) + rng.normal(size=4)
    X -= X.mean(axis=0)
    X += X.std(axis=0) * rng.normal(size=4)
    truth = (X - X.mean(axis=0)) / X.std(axis=0) @ rng.normal(size=4)
    parameters = {
        "alpha": 0.0,
        "optimizer": optimizer,
        "batch_size": batch_size,
        "max_iter": 30,
        "tol": None,
        "random_state": 0,
    }
    regressor = TorchLinearRegressor(**parameters).fit(X, 1000 * truth)
    classifier = TorchSoftmaxClassifier(**parameters).fit(X, truth > 0)
    assert regressor.loss_curve_[-1] < 0.7 * regressor.loss_curve_[0]
    assert classifier.loss_curve_[-1] < classifier.loss_curve_[0]
