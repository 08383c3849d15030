import pytest
import torch
from problems import as_target, draw_data, make, n_outputs, stacked
from torch import float64

from skorchless.data import DenseLoader
from skorchless.losses import LOSSES
from skorchless.objective import LinearObjective, raw_predictions
from skorchless.optimizers.hessian import Diagonal, Factored
from skorchless.optimizers.hessian_estimator import HessianEstimator
from skorchless.penalties import ElasticNet

MODELS = 2
DELTAS = (0.5, 2.0)
each_loss = pytest.mark.parametrize("loss", LOSSES)


@pytest.fixture(autouse=True)
def outputs_share(monkeypatch):
    """As where one matrix for all weights would be too much work."""
    monkeypatch.setattr("skorchless.optimizers.hessian_estimator.CHEAP_HESSIAN", 0)


def apart(loss, weights):
    """What a data term can see of the weights: of softmax, differences between the classes."""
    return weights - weights.mean(dim=1, keepdim=True) if loss == "softmax" else weights


class Problem:
    """The curvature of a loss on random rows, at random weights, by formula."""

    def __init__(self, loss, n=40, d=5, *, alpha=(0.1, 0.0), fit_intercept=True):
        data = draw_data(loss, 0, n, d, weighted=True)
        data.X -= data.X.mean(dim=0)  # as few rows are, for their span not to be all of them
        self.loader = DenseLoader(
            data.X,
            data.target,
            data.weight,
            n_outputs=data.n_outputs,
            fit_intercept=fit_intercept,
            batch_size=n,
            stack_width=MODELS * data.n_outputs,
        )
        factor = torch.ones(d + 1, dtype=float64)
        factor[-1] = 0.0
        self.l2 = stacked(alpha) * factor
        penalty = ElasticNet(stacked(alpha), torch.zeros(MODELS, 1, 1, dtype=float64), factor)
        self.objective = LinearObjective(make(loss, DELTAS), penalty)
        self.weights = self.vector(data.n_outputs, d + 1)
        ones = torch.full((n, 1), float(fit_intercept), dtype=float64)
        self.rows = torch.cat([data.X, ones], dim=1)
        raw = self.weights @ self.rows.T
        target = as_target(data.target, n_outputs(loss))
        curvature = make(loss, DELTAS).curvature(raw, target)
        self.share = curvature * data.weight / n

    @staticmethod
    def vector(outputs, columns, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(MODELS, outputs, columns, generator=generator, dtype=float64)

    def matrix(self):
        """``B`` of each model."""
        moments = (self.rows.T * self.share.unsqueeze(1)) @ self.rows
        return moments + torch.diag_embed(self.l2.squeeze(1))

    def preconditioner(self):
        curvature = HessianEstimator(self.loader, self.objective)
        for chunk in self.loader.chunks():
            for _ in self.objective.gradients(chunk, self.weights):
                curvature.see(chunk)
        curvature.read(self.weights)
        return curvature.preconditioner(self.weights)


def close(actual, expected, tolerance=1e-9):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@each_loss
@pytest.mark.parametrize("chunk_bytes", [700, 2**22])
def test_in_full_it_is_the_curvature_and_its_inverse(loss, chunk_bytes, monkeypatch):
    monkeypatch.setattr("skorchless.data.limits.CHUNK_BYTES", chunk_bytes)
    problem = Problem(loss)
    metric = problem.preconditioner()
    vector = problem.vector(n_outputs(loss), 6, seed=1)
    assert not metric.lifted.any()
    data_part = problem.matrix() - torch.diag_embed(problem.l2.squeeze(1))
    close(metric.product(vector), apart(loss, vector) @ data_part + problem.l2 * vector)
    vector = apart(loss, vector)
    close(metric.product(metric.solve(vector)), vector)
    close(metric.solve(metric.product(vector)), vector)


@pytest.mark.parametrize("loss", ["softmax", "logistic"])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_the_hessian_is_that_of_the_objective(loss, fit_intercept, monkeypatch):
    problem = Problem(loss, fit_intercept=fit_intercept)
    curvature = HessianEstimator(problem.loader, problem.objective)
    assert curvature.has_hessian_products
    vector = problem.vector(n_outputs(loss), 6, seed=1)
    (chunk,) = problem.loader.chunks()

    def gradient(weights):
        return next(problem.objective.gradients(chunk, weights)).clone()

    step = 1e-6
    ahead, behind = (gradient(problem.weights + sign * step * vector) for sign in (1, -1))
    slope = (ahead - behind) / (2 * step)
    close(curvature.hessian(problem.weights)(vector), slope, 1e-6)
    monkeypatch.setattr("skorchless.optimizers.hessian_estimator.CHEAP_HESSIAN", 2**20)
    assert HessianEstimator(problem.loader, problem.objective).factors_hessian
    close(problem.preconditioner().product(vector), slope, 1e-6)


def test_predictions_of_a_pass_are_known_until_the_next():
    problem = Problem("softmax")
    curvature = HessianEstimator(problem.loader, problem.objective)
    (chunk,) = problem.loader.chunks()

    def after_a_pass(weights):
        for _ in problem.objective.gradients(chunk, weights):
            curvature.see(chunk)
        curvature.is_at(weights, weights)
        return curvature._predicted(weights)

    first, second = problem.weights, 2.0 * problem.weights
    raw = after_a_pass(first)
    assert raw.data_ptr() == problem.objective.predictions(chunk).data_ptr()
    close(raw, raw_predictions(chunk, first))
    for _ in problem.objective.gradients(chunk, second):
        curvature.see(chunk)
    close(curvature._predicted(first), raw_predictions(chunk, first))
    close(after_a_pass(second), raw_predictions(chunk, second))


@pytest.mark.parametrize(("n", "d", "whole"), [(40, 5, True), (400, 60, False), (60, 300, False)])
def test_only_small_models_have_one_matrix_for_all_weights(n, d, whole, monkeypatch):
    monkeypatch.setattr("skorchless.optimizers.hessian_estimator.CHEAP_HESSIAN", 2**20)
    problem = Problem("softmax", n, d)
    curvature = HessianEstimator(problem.loader, problem.objective)
    assert curvature.has_hessian_products
    assert curvature.factors_hessian is whole
    known = curvature.preconditioner(problem.weights)
    assert isinstance(known, Factored)
    assert known.matrix.shape[-1] == (n_outputs("softmax") if whole else 1) * (d + 1)


@pytest.mark.parametrize("loss", ["softmax", "logistic"])
def test_log_losses_without_some_outputs_of_rows(loss, monkeypatch):
    """Gradient, gap and Hessian are those of the loss without these classes, or rows."""
    monkeypatch.setattr("skorchless.optimizers.hessian_estimator.CHEAP_HESSIAN", 2**20)
    problem = Problem(loss, alpha=(0.0, 0.0))
    curvature = HessianEstimator(problem.loader, problem.objective)
    (chunk,) = problem.loader.chunks()
    target = chunk.target.view(1, n_outputs(loss), -1)
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(MODELS, *target.shape[1:], generator=generator) < 0.6
    if loss == "softmax":
        kept |= target > 0

    def loss_of_kept(weights):
        raw = weights @ problem.rows.T
        if loss == "softmax":
            raw = torch.where(kept, raw, -torch.inf)
            losses = raw.logsumexp(dim=1) - torch.where(target > 0, raw, 0.0).sum(dim=1)
        else:
            losses = (torch.nn.functional.softplus(raw) - target * raw).mul(kept).squeeze(1)
        return (losses * chunk.shares()).sum(dim=1)

    def gradient(weights):
        weights = weights.clone().requires_grad_()
        return torch.autograd.grad(loss_of_kept(weights).sum(), weights)[0]

    close(curvature.gradient(problem.weights, kept), gradient(problem.weights))
    next(problem.objective.gradients(chunk, problem.weights))
    expected = problem.objective.value(chunk) - loss_of_kept(problem.weights)
    nothing = torch.zeros_like(problem.weights)
    gap, slope, dual = curvature.duality_gap(problem.weights, nothing, kept)
    close(torch.from_numpy(gap), expected)
    close(slope, gradient(problem.weights))
    assert (expected > 0).all()
    wrong = target == 0 if loss == "softmax" else target >= 0
    matters = curvature.matters(dual, expected.new_zeros(MODELS))
    assert torch.equal(matters & wrong, kept & wrong)
    vector, step = problem.vector(n_outputs(loss), 6, seed=1), 1e-6
    ahead, behind = (gradient(problem.weights + sign * step * vector) for sign in (1, -1))
    hessian = curvature.preconditioner(problem.weights, kept=kept)
    close(hessian.product(vector), (ahead - behind) / (2 * step), 1e-6)


@pytest.mark.parametrize("loss", ["softmax", "logistic"])
def test_values_along_a_line_are_those_of_the_objective(loss):
    problem = Problem(loss)
    curvature = HessianEstimator(problem.loader, problem.objective)
    direction = problem.vector(n_outputs(loss), 6, seed=1)
    lengths = torch.tensor([0.0, 0.5, 3.0], dtype=float64)
    (chunk,) = problem.loader.chunks()

    def value(weights):
        next(problem.objective.gradients(chunk, weights))
        return problem.objective.value(chunk)

    expected = torch.stack([value(problem.weights + t * direction) for t in lengths])
    values = curvature.along(problem.weights, direction, lengths)
    close(values - values[0], expected - expected[0])
    lengths = torch.tensor([1e200, 1.0, 0.0], dtype=float64)
    values = curvature.along(problem.weights, 1e200 * direction, lengths)
    assert values[0].isinf().all() and not values.isnan().any()


@each_loss
@pytest.mark.parametrize("few_rows", [True, False])
def test_of_many_columns_it_is_the_diagonal(loss, few_rows, monkeypatch):
    if few_rows:
        monkeypatch.setattr("skorchless.optimizers.hessian_estimator.MOST_SQUARE_COLUMNS", 3)
    else:
        monkeypatch.setattr("skorchless.data.limits.MOST_FACTORED_COLUMNS", 3)
    problem = Problem(loss, n=4 if few_rows else 40)
    metric = problem.preconditioner()
    vector = apart(loss, problem.vector(n_outputs(loss), 6, seed=1))
    assert isinstance(metric, Diagonal)
    share = problem.loader.sample(1000).shares()
    squares = (share @ problem.rows.square()).squeeze(0)
    diagonal = problem.share.sum(dim=-1).view(-1, 1, 1) * squares + problem.l2
    close(metric.product(vector), vector * diagonal)
    close(metric.solve(vector), vector / diagonal)


@each_loss
@pytest.mark.parametrize("most_columns", [3, 8000])
def test_a_direction_without_curvature_is_not_walked(loss, most_columns, monkeypatch):
    """The column of a model without intercept is zero."""
    monkeypatch.setattr("skorchless.data.limits.MOST_FACTORED_COLUMNS", most_columns)
    problem = Problem(loss, fit_intercept=False)
    metric = problem.preconditioner()
    vector = apart(loss, problem.vector(n_outputs(loss), 6, seed=1))
    solved = metric.solve(vector)
    assert (solved[..., -1] == 0.0).all()
    if most_columns > 3:
        close(metric.product(solved)[..., :-1], vector[..., :-1])


@each_loss
def test_mean_curvature_is_the_rows_total_share(loss):
    problem = Problem(loss)
    mean = HessianEstimator(problem.loader, problem.objective).mean(problem.weights)
    assert mean.shape == (MODELS,)
    close(mean, problem.share.sum(dim=-1).expand(MODELS))


def test_columns_that_repeat_each_other_are_lifted():
    column = torch.linspace(-1, 1, 20, dtype=float64)
    rows = torch.stack([column, column, column.square()], dim=1)
    gram = torch.stack([rows.T @ rows, torch.eye(3, dtype=float64)])
    metric = Factored(gram, torch.zeros(2, 1, 3, dtype=float64), 1e-13, 1)
    assert metric.lifted.tolist() == [True, False]
    vector = torch.tensor([1.0, 1.0, 1.0], dtype=float64).expand(2, 1, 3) @ gram
    close(metric.product(metric.solve(vector)), vector)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 0.0])
def test_a_model_far_out_leaves_the_others_alone(bad):
    gram = torch.stack([torch.full((3, 3), bad), 2.0 * torch.eye(3)]).to(float64)
    metric = Factored(gram, torch.zeros(2, 1, 3, dtype=float64), 1e-13, 1)
    solved = metric.solve(torch.ones(2, 1, 3, dtype=float64))
    close(solved[1], torch.full((1, 3), 0.5, dtype=float64))


def test_a_column_that_the_sample_missed_is_measured_once_all_rows_are():
    n = 30_000
    X = torch.zeros(n, 2, dtype=float64)
    X[:, 0] = torch.linspace(-1.0, 1.0, n)
    X[-1, 1] = 100.0  # no sample of a quarter of the rows is sure to have it
    sampled = torch.zeros(n, dtype=torch.int64)
    loader = DenseLoader(
        X, sampled, None, n_outputs=1, fit_intercept=True, batch_size=n, stack_width=1
    )
    none, factor = torch.zeros(1, 1, 1, dtype=float64), torch.tensor([1.0, 1.0, 0.0])
    objective = LinearObjective(make("logistic", [1.0]), ElasticNet(none, none, factor))
    weights = torch.zeros(1, 1, 3, dtype=float64)
    curvature = HessianEstimator(loader, objective)
    for chunk in loader.chunks():
        for _ in objective.gradients(chunk, weights):
            curvature.see(chunk)
    curvature.read(weights)
    before = curvature.misses_columns
    assert curvature.take_all_rows()
    assert before and not curvature.misses_columns
    found = curvature.of_columns(weights)
    assert found is not None
    expected = 0.25 * X.square().mean(dim=0)
    torch.testing.assert_close(found.matrix[0].diagonal()[:2], expected)
