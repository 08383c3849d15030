"""The textbook rules against torch.optim with autograd, and at rest against coordinate descent."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.linear_model import ElasticNet
from torch.nn import functional as F
from torch.optim import lr_scheduler

from skorchless import TorchLinearRegressor, TorchSoftmaxClassifier
from skorchless.data import DenseLoader
from skorchless.losses import make_loss
from skorchless.objective import LinearObjective
from skorchless.optimizers import OPTIMIZERS, FirstOrderOptimizer, Setup
from skorchless.penalties import ElasticNet as Penalty

N_ROWS, N_FEATURES = 53, 4
EPOCHS = 6

TEXTBOOK = [name for name, rule in OPTIMIZERS.items() if issubclass(rule, FirstOrderOptimizer)]

# What to fit: the estimator, its targets, and the loss of a batch as a hand-written loop has it.
PROBLEMS = {
    "squared error": (
        TorchLinearRegressor(),
        "numbers",
        lambda raw, y: 0.5 * F.mse_loss(raw, y),
    ),
    "squared error of two outputs": (
        TorchLinearRegressor(),
        "pairs",
        lambda raw, y: 0.5 * F.mse_loss(raw, y, reduction="sum") / len(y),
    ),
    "huber": (
        TorchLinearRegressor(loss="huber", delta=0.7),
        "numbers",
        torch.nn.HuberLoss(delta=0.7),
    ),
    "softmax": (TorchSoftmaxClassifier(), "classes", torch.nn.CrossEntropyLoss()),
    "logistic": (TorchSoftmaxClassifier(), "two classes", torch.nn.BCEWithLogitsLoss()),
}

# Parameters of the estimator, and the same in torch.
RULES = {
    "sgd": ({"optimizer": "sgd"}, lambda p: torch.optim.SGD(p)),
    "momentum": (
        {"optimizer": "sgd", "momentum": 0.9},
        lambda p: torch.optim.SGD(p, momentum=0.9),
    ),
    "nesterov": (
        {"optimizer": "sgd", "momentum": 0.8, "nesterov": True},
        lambda p: torch.optim.SGD(p, momentum=0.8, nesterov=True),
    ),
    "adam": ({"optimizer": "adam"}, lambda p: torch.optim.Adam(p)),
    "adam with betas": (
        {"optimizer": "adam", "betas": (0.5, 0.9)},
        lambda p: torch.optim.Adam(p, betas=(0.5, 0.9)),
    ),
}

SCHEDULES = {
    "constant": lambda optimizer, epochs: lr_scheduler.ConstantLR(optimizer, factor=1.0),
    "invscaling": lambda optimizer, epochs: lr_scheduler.LambdaLR(
        optimizer, lambda epoch: (1 + epoch) ** -0.5
    ),
    "cosine": lambda optimizer, epochs: lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs),
}

each_problem = pytest.mark.parametrize("problem", PROBLEMS)
each_rule = pytest.mark.parametrize("rule", RULES)


def draw(kind, n=N_ROWS, d=N_FEATURES):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d))
    taste = X @ rng.normal(size=(d, 3)) + rng.normal(size=(n, 3))
    y = {
        "numbers": taste[:, :1],
        "pairs": taste[:, :2],
        "classes": taste.argmax(axis=1),
        "two classes": (taste[:, :1] > 0).astype(float),
    }
    return X, y[kind]


def order_of(epoch_generator, n):
    if epoch_generator is None:
        return torch.arange(n)
    return torch.randperm(n, generator=epoch_generator)


def hand_written_loop(X, y, loss, optimizer_of, scheduler_of, *, rate, alpha, batch, seed, epochs):
    """What a tutorial would write: a linear layer, autograd, an optimizer and a scheduler."""
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    n_outputs = 3 if y.dtype == torch.int64 else y.shape[1]
    layer = torch.nn.Linear(X.shape[1], n_outputs, dtype=torch.float64)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = optimizer_of(
        [
            {"params": [layer.weight], "weight_decay": alpha, "lr": rate},
            {"params": [layer.bias], "weight_decay": 0.0, "lr": rate},
        ]
    )
    scheduler = scheduler_of(optimizer, epochs)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    curve = []
    for _ in range(epochs):
        values = []
        for rows in order_of(generator, len(X)).split(batch):
            value = loss(layer(X[rows]), y[rows])
            values.append(value.item() + 0.5 * alpha * layer.weight.square().sum().item())
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        scheduler.step()
        curve.append(np.mean(values))
    return layer.weight.detach().numpy(), layer.bias.detach().numpy(), curve


def assert_same_trajectory(
    problem, rule, *, schedule="constant", alpha=0.03, batch=16, seed=None, epochs=EPOCHS, n=N_ROWS
):
    model, targets, loss = PROBLEMS[problem]
    parameters, optimizer_of = RULES[rule]
    X, y = draw(targets, n)
    coef, intercept, curve = hand_written_loop(
        X,
        y,
        loss,
        optimizer_of,
        SCHEDULES[schedule],
        rate=0.05,
        alpha=alpha,
        batch=batch or len(X),
        seed=seed,
        epochs=epochs,
    )
    model = type(model)(
        **{
            **model.get_params(),
            **parameters,
            "learning_rate": 0.05,
            "schedule": schedule,
            "alpha": alpha,
            "batch_size": batch,
            "shuffle": seed is not None,
            "random_state": seed,
            "max_iter": epochs,
            "tol": None,
        }
    ).fit(X, y.squeeze())
    close = {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(model.coef_, coef.reshape(model.coef_.shape), **close)
    np.testing.assert_allclose(np.atleast_1d(model.intercept_), intercept, **close)
    np.testing.assert_allclose(model.loss_curve_, curve, **close)


@pytest.mark.pairs
@each_problem
@each_rule
@pytest.mark.parametrize("seed", [None, 5], ids=["rows in order", "shuffled"])
def test_mini_batches_move_the_weights_as_torch_does(problem, rule, seed):
    assert_same_trajectory(problem, rule, seed=seed)


@each_problem
@each_rule
def test_the_full_batch_moves_the_weights_as_torch_does(problem, rule):
    assert_same_trajectory(problem, rule, batch=None)


@each_rule
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_rate_follows_its_schedule_as_in_torch(rule, schedule):
    assert_same_trajectory("softmax", rule, schedule=schedule, alpha=0.0, seed=1)


@pytest.mark.parametrize("rule", ["momentum", "adam"])
def test_long_epochs_move_the_weights_as_torch_does(rule):
    """Longer than what is prepared ahead for any number of steps."""
    assert_same_trajectory("squared error", rule, schedule="cosine", batch=1, epochs=3, n=301)


# Rules on their own.


def make_rule(name, models=3, momentum=0.9):
    """A rule on a problem of random numbers, with weights to move."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(20, N_FEATURES, generator=generator, dtype=torch.float64)
    target = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    loader = DenseLoader(
        X, target, None, n_outputs=2, fit_intercept=True, batch_size=5, stack_width=2 * models
    )
    ones = torch.ones(models, 1, 1, dtype=torch.float64)
    factor = torch.ones(N_FEATURES + 1, dtype=torch.float64)
    objective = LinearObjective(
        make_loss("squared_error", ones), Penalty(0.1 * ones, 0.5 * ones, factor)
    )
    weights = torch.randn(models, 2, N_FEATURES + 1, generator=generator, dtype=torch.float64)
    setup = Setup(
        loader=loader,
        objective=objective,
        weights=weights,
        momentum=momentum * ones,
        nesterov=False,
        betas=(0.9, 0.999),
        tolerance=torch.zeros(models),
        constant_loss=torch.ones(models),
    )
    return OPTIMIZERS[name](setup), weights


def walk(rule, weights, rate, first, last):
    """Steps `first` to `last` along gradients that depend on the step's number alone."""
    rule.set_learning_rate(torch.full((len(weights), 1, 1), rate, dtype=torch.float64))
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        gradient = torch.randn(weights.shape, generator=generator, dtype=torch.float64)
        rule.step(weights, gradient)


@pytest.mark.parametrize("name", TEXTBOOK)
@pytest.mark.parametrize("parted_at", [1, 7, 130])
def test_a_state_put_aside_goes_on_bit_for_bit(name, parted_at):
    whole, expected = make_rule(name)
    walk(whole, expected, 0.1, 0, parted_at)
    walk(whole, expected, 0.03, parted_at, 140)

    before, weights = make_rule(name)
    walk(before, weights, 0.1, 0, parted_at)
    after, _ = make_rule(name)
    after.load_state_dict(pickle.loads(pickle.dumps(before.state_dict())))
    walk(after, weights, 0.03, parted_at, 140)
    assert torch.equal(weights, expected)


@pytest.mark.parametrize("name", TEXTBOOK)
def test_a_rule_accepts_every_pass_with_weights_of_its_own(name):
    rule, weights = make_rule(name)
    value = np.arange(3.0)
    outcome = rule.end_epoch(weights, torch.from_numpy(value))
    assert torch.equal(outcome.accepted, weights)
    assert np.array_equal(outcome.value, value)
    assert not outcome.converged.any()
    assert not outcome.stuck.any()
    accepted = outcome.accepted.clone()
    walk(rule, weights, 0.1, 0, 1)
    assert torch.equal(outcome.accepted, accepted)


@pytest.mark.parametrize("name", TEXTBOOK)
def test_a_rate_per_model_moves_each_by_its_own(name):
    rule, weights = make_rule(name)
    before = weights.clone()
    rule.set_learning_rate(torch.tensor([0.1, 0.0, 0.2], dtype=torch.float64).view(-1, 1, 1))
    rule.step(weights, torch.ones_like(weights))
    moved = (weights != before).all(dim=2).all(dim=1)
    assert moved.tolist() == [True, False, True]


# At rest.


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("l1_ratio", [1.0, 0.6])
@pytest.mark.parametrize("rule", ["sgd", "momentum", "nesterov", "adam"])
def test_l1_comes_to_rest_where_coordinate_descent_does(rule, l1_ratio, fit_intercept):
    rng = np.random.default_rng(3)
    X = rng.normal(size=(60, 8)) @ (np.eye(8) + 0.3 * rng.normal(size=(8, 8)))
    y = X[:, :3] @ [2.0, -1.0, 0.5] + rng.normal(size=60) + 1.0
    peer = ElasticNet(
        alpha=0.3, l1_ratio=l1_ratio, fit_intercept=fit_intercept, tol=1e-14, max_iter=100_000
    ).fit(X, y)
    assert 0 < np.count_nonzero(peer.coef_) < 8
    model = TorchLinearRegressor(
        alpha=0.3,
        l1_ratio=l1_ratio,
        fit_intercept=fit_intercept,
        learning_rate=0.02,
        batch_size=None,
        max_iter=6000,
        tol=None,
    ).set_params(**RULES[rule][0])
    model.fit(X, y)
    np.testing.assert_allclose(model.coef_, peer.coef_, rtol=0, atol=1e-8)
    np.testing.assert_allclose(model.intercept_, peer.intercept_, rtol=0, atol=1e-8)
    assert np.array_equal(model.coef_ == 0.0, peer.coef_ == 0.0)
