"""Values and gradients of a stack against the formula they stand for."""

import pytest
import torch
from problems import as_target, draw_data, make, n_outputs, stacked
from torch import float64

from skorchless.data import DenseLoader, Moments, make_loader
from skorchless.estimators.problem import Dataset
from skorchless.losses import LOSSES
from skorchless.objective import LinearObjective, raw_predictions
from skorchless.penalties import ElasticNet
from skorchless.stack import pack

DELTAS = (0.5, 1.0, 2.0)
MODELS, FEATURES = len(DELTAS), 3
# All rows in one chunk, or some, or one.
CHUNKS = (2**22, 700, 1)

each_loss = pytest.mark.parametrize("loss", LOSSES)


@pytest.fixture(params=CHUNKS, ids=lambda n_bytes: f"chunks of {n_bytes} bytes", autouse=True)
def chunk_bytes(request, monkeypatch):
    monkeypatch.setattr("skorchless.data.limits.CHUNK_BYTES", request.param)


class Problem:
    """A stack of models on random data, and its objective by formula."""

    def __init__(self, loss, seed, *, weighted=True, fit_intercept=True):
        self.loss, self.fit_intercept = loss, fit_intercept
        self.data = draw_data(loss, seed, d=FEATURES, weighted=weighted)
        generator = torch.Generator().manual_seed(seed)
        shape = (MODELS, n_outputs(loss), FEATURES + 1)
        self.weights = torch.randn(shape, generator=generator, dtype=float64)
        self.alpha, self.l1_ratio = stacked([0.7, 0.0, 0.2]), stacked([0.3, 0.5, 1.0])

    def loader(self, batch_size, scaling=None):
        return DenseLoader(
            self.data.X,
            self.data.target,
            self.data.weight,
            n_outputs=n_outputs(self.loss),
            fit_intercept=self.fit_intercept,
            batch_size=batch_size,
            stack_width=MODELS * n_outputs(self.loss),
            scaling=scaling,
        )

    def objective(self, scaling=None):
        factor = torch.ones(FEATURES + 1, dtype=float64)
        factor[-1] = 0.0
        penalty = ElasticNet(self.alpha, self.l1_ratio, factor)
        return LinearObjective(make(self.loss, DELTAS), penalty, scaling)

    def raw_target_share(self, weights, rows):
        """Raw predictions, targets and weights of some rows."""
        raw = weights[..., :-1] @ self.data.X[rows].T
        if self.fit_intercept:
            raw = raw + weights[..., -1:]
        target = as_target(self.data.target, n_outputs(self.loss))[..., rows]
        if self.data.weight is None:
            return raw, target, torch.ones(len(rows), dtype=float64)
        return raw, target, self.data.weight[rows]

    def mean_loss(self, weights, rows):
        raw, target, share = self.raw_target_share(weights, rows)
        return (make(self.loss, DELTAS).value(raw, target) * share).sum(dim=1) / len(rows)

    def penalty(self, weights):
        coef = weights[..., :-1]
        l1, l2 = coef.abs().sum(dim=(1, 2)), 0.5 * coef.square().sum(dim=(1, 2))
        share = self.l1_ratio.view(-1)
        return self.alpha.view(-1) * (share * l1 + (1 - share) * l2)

    def gradient(self, weights, rows):
        """Of the loss and the smooth part of the penalty."""
        raw, target, share = self.raw_target_share(weights, rows)
        residual = make(self.loss, DELTAS).gradient(raw, target, out=torch.empty_like(raw)) * share
        coef = residual @ self.data.X[rows] / len(rows)
        coef = coef + self.alpha * (1 - self.l1_ratio) * weights[..., :-1]
        intercept = residual.mean(dim=-1) * float(self.fit_intercept)
        return pack(coef, intercept)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)


def descend(objective, loader, weights, rate=0.0):
    """A pass of plain gradient steps; the gradients, and the sum of the batches' objectives."""
    gradients, value = [], torch.zeros(len(weights), dtype=float64)
    for chunk in loader.chunks():
        for gradient in objective.gradients(chunk, weights):
            gradients.append(gradient.clone())
            weights -= rate * gradient
        value += objective.value(chunk)
    return gradients, value


@each_loss
@pytest.mark.parametrize("batch_size", [7, 40])
def test_sets_side_by_side_are_objectives_of_their_own(loss, batch_size):
    problems = [Problem(loss, seed) for seed in (3, 4)]
    both = Dataset.side_by_side([problem.data for problem in problems])
    loader = make_loader(
        both.X,
        both.target,
        both.weight,
        n_outputs=both.n_outputs,
        fit_intercept=True,
        batch_size=2 * batch_size,
        stack_width=MODELS * both.n_outputs,
        sets=2,
    )
    factor = torch.ones(FEATURES + 1, dtype=float64)
    factor[-1] = 0.0
    twice = [problems[0].alpha.repeat(2, 1, 1), problems[0].l1_ratio.repeat(2, 1, 1)]
    objective = LinearObjective(make(loss, DELTAS), ElasticNet(*twice, factor), sets=2)
    weights = torch.cat([problem.weights for problem in problems])
    gradients, value = descend(objective, loader, weights.clone(), rate=0.1)
    for i, problem in enumerate(problems):
        own = slice(i * MODELS, (i + 1) * MODELS)
        alone = descend(problem.objective(), problem.loader(batch_size), weights[own].clone(), 0.1)
        for gradient, wanted in zip(gradients, alone[0], strict=True):
            close(gradient[own], wanted)
        close(value[own], alone[1])

    keep = torch.tensor([0, 2, MODELS, MODELS + 2])
    objective.select(keep)
    gradients, _ = descend(objective, loader, weights[keep])
    for i, problem in enumerate(problems):
        alone, _ = descend(problem.objective(), problem.loader(batch_size), problem.weights.clone())
        close(gradients[0][2 * i : 2 * i + 2], alone[0][[0, 2]])


@each_loss
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_the_full_batch_has_the_objective_and_its_gradient(loss, weighted, fit_intercept):
    problem = Problem(loss, 0, weighted=weighted, fit_intercept=fit_intercept)
    rows = torch.arange(len(problem.data.X))
    objective = problem.objective()
    for _ in range(2):  # nothing is left over from the pass before
        (gradient,), value = descend(objective, problem.loader(len(rows)), problem.weights)
        close(gradient, problem.gradient(problem.weights, rows))
        expected = problem.mean_loss(problem.weights, rows) + problem.penalty(problem.weights)
        close(value, expected)


@each_loss
@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_each_batch_is_taken_at_the_weights_of_its_time(loss, batch_size):
    problem = Problem(loss, 1)
    weights, expected = problem.weights.clone(), torch.zeros(MODELS, dtype=float64)
    moved = problem.weights.clone()
    gradients, value = descend(problem.objective(), problem.loader(batch_size), moved, rate=0.1)
    batches = torch.arange(len(problem.data.X)).split(batch_size)
    for rows, gradient in zip(batches, gradients, strict=True):
        expected += problem.mean_loss(weights, rows) + problem.penalty(weights)
        close(gradient, problem.gradient(weights, rows))
        weights -= 0.1 * gradient
    close(value, expected)
    close(moved, weights)


@each_loss
def test_mean_loss_leaves_out_the_penalty(loss):
    problem = Problem(loss, 2)
    rows = torch.arange(len(problem.data.X))
    loader = problem.loader(len(rows))
    value = problem.objective().mean_loss(loader.chunks(), problem.weights)
    close(value, problem.mean_loss(problem.weights, rows))


@each_loss
def test_standardising_the_weights_is_standardising_the_rows(loss):
    problem = Problem(loss, 3)
    X = problem.data.X.mul_(torch.tensor([1.0, 30.0, 0.1])).add_(torch.tensor([1.0, 5.0, -0.3]))
    scaling = Moments.of(X, None).scaling(centre=True, dtype=float64)
    loader = problem.loader(len(X))
    on_rows = descend(problem.objective(), loader.scaled(scaling), problem.weights)
    on_weights = descend(problem.objective(scaling), loader, problem.weights)
    close(on_weights[0][0], on_rows[0][0])
    close(on_weights[1], on_rows[1])
    validation = [
        problem.objective().mean_loss(loader.scaled(scaling).chunks(), problem.weights),
        problem.objective(scaling).mean_loss(loader.chunks(), problem.weights),
    ]
    close(*validation)


@each_loss
def test_selected_models_go_on_as_before(loss):
    problem = Problem(loss, 4)
    keep, loader = torch.tensor([2, 0]), problem.loader(len(problem.data.X))
    objective = problem.objective()
    (gradient,), value = descend(objective, loader, problem.weights)
    objective.select(keep)
    (chosen,), chosen_value = descend(objective, loader, problem.weights[keep])
    close(chosen, gradient[keep])
    close(chosen_value, value[keep])


@each_loss
def test_one_model_out_of_bounds_leaves_the_others_alone(loss):
    problem = Problem(loss, 5)
    loader = problem.loader(len(problem.data.X))
    (expected,), value = descend(problem.objective(), loader, problem.weights)
    problem.weights[1] = torch.inf
    (gradient,), poisoned = descend(problem.objective(), loader, problem.weights)
    assert not poisoned[1].isfinite()
    for model in (0, 2):
        close(gradient[model], expected[model])
        close(poisoned[model], value[model])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_raw_predictions_are_products_with_the_rows(dtype):
    loader = DenseLoader(
        torch.arange(12, dtype=dtype).view(6, 2),
        torch.zeros(6, 2, dtype=dtype),
        None,
        n_outputs=2,
        fit_intercept=True,
        batch_size=6,
        stack_width=4,
    )
    weights = torch.randn(2, 2, 3, dtype=dtype)
    raw = torch.cat(
        [raw_predictions(chunk, weights).squeeze(1).squeeze(0) for chunk in loader.chunks()], dim=-1
    )
    expected = weights[..., :-1] @ loader.X.T + weights[..., -1:]
    torch.testing.assert_close(raw, expected)
