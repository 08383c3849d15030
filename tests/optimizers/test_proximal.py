import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso

from skorchless.optimizers.proximal import largest_eigenvalue, minimise_model, shrink
from skorchless.stack import WIDE

MODELS, OUTPUTS, COLUMNS = 2, 2, 6
quick = settings(max_examples=25)
seeds = st.integers(0, 2**32)


class Model:
    """A random quadratic for each model and output, with a threshold for each column."""

    def __init__(self, seed, spread=0.0):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(shape, generator=generator, dtype=WIDE)

        root = draw(MODELS, COLUMNS, 4 * COLUMNS) * torch.logspace(0, -spread, COLUMNS).view(-1, 1)
        self.matrix = root @ root.mT / COLUMNS
        self.weights = draw(MODELS, OUTPUTS, COLUMNS)
        self.gradient = 2.0 * draw(MODELS, OUTPUTS, COLUMNS)
        self.l1 = 0.1 + draw(MODELS, 1, COLUMNS).abs()

    def hessian(self, vector):
        return vector @ self.matrix

    def minimise(self, accuracy=1e-12):
        diagonal = torch.ones_like(self.l1)
        return minimise_model(
            self.weights, self.gradient, self.hessian, self.l1, diagonal, accuracy
        )

    def value(self, weights):
        step = weights - self.weights
        smooth = (self.gradient + 0.5 * self.hessian(step)) * step
        return (smooth + self.l1 * weights.abs()).sum(dim=(1, 2))

    def by_coordinate_descent(self, model, output):
        """The minimiser as a Lasso, on columns divided by their thresholds."""
        matrix, l1 = self.matrix[model].numpy(), self.l1[model, 0].numpy()
        pull = matrix @ self.weights[model, output].numpy() - self.gradient[model, output].numpy()
        root = np.linalg.cholesky(matrix).T
        target = np.linalg.solve(root.T, pull)
        lasso = Lasso(alpha=1 / COLUMNS, fit_intercept=False, tol=1e-12, max_iter=100_000)
        return lasso.fit(root / l1, target).coef_ / l1


@quick
@given(seed=seeds)
def test_the_minimiser_is_that_of_coordinate_descent(seed):
    problem = Model(seed)
    direction, _ = problem.minimise()
    minimiser = problem.weights + direction
    for model in range(MODELS):
        for output in range(OUTPUTS):
            expected = problem.by_coordinate_descent(model, output)
            np.testing.assert_allclose(minimiser[model, output], expected, atol=1e-6)


@quick
@given(seed=seeds, accuracy=st.sampled_from([1e-2, 1e-6]), spread=st.sampled_from([0.0, 2.0]))
def test_the_promised_decrease_is_the_slope_and_never_positive(seed, accuracy, spread):
    problem = Model(seed, spread)
    direction, slope = problem.minimise(accuracy)
    moved = problem.weights + direction
    gain = (problem.l1 * (moved.abs() - problem.weights.abs())).sum(dim=(1, 2))
    expected = (problem.gradient * direction).sum(dim=(1, 2)) + gain
    torch.testing.assert_close(slope, expected)
    assert (slope <= 0).all()


@quick
@given(seed=seeds)
def test_weights_at_the_minimum_stay_there(seed):
    problem = Model(seed)
    direction, _ = problem.minimise()
    problem.gradient = problem.gradient + problem.hessian(direction)
    problem.weights = problem.weights + direction
    direction, slope = problem.minimise()
    torch.testing.assert_close(direction, torch.zeros_like(direction), rtol=0, atol=1e-6)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-10)


def test_what_is_held_back_enough_stays_exactly_zero():
    problem = Model(0)
    problem.weights = torch.zeros_like(problem.weights)
    problem.l1 = problem.gradient.abs().amax() * torch.ones_like(problem.l1)
    direction, slope = problem.minimise()
    assert (direction == 0.0).all()
    assert (slope == 0.0).all()


def test_without_thresholds_it_is_newtons_step():
    problem = Model(1)
    problem.l1 = torch.zeros_like(problem.l1)
    direction, slope = problem.minimise()
    expected = -torch.linalg.solve(problem.matrix, problem.gradient.mT).mT
    torch.testing.assert_close(direction, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(slope, (problem.gradient * expected).sum(dim=(1, 2)))


@quick
@given(seed=seeds)
def test_power_iteration_comes_near_the_largest_eigenvalue_from_below(seed):
    problem = Model(seed)
    expected = torch.linalg.eigvalsh(problem.matrix)[:, -1]
    found = largest_eigenvalue(problem.hessian, problem.weights).view(-1)
    assert (found <= expected * (1 + 1e-12)).all()
    assert (found >= 0.5 * expected).all()


@pytest.mark.parametrize(
    ("weight", "shrunk"), [(3.0, 2.0), (-3.0, -2.0), (1.0, 0.0), (-0.5, 0.0), (0.0, 0.0)]
)
def test_shrinking_moves_towards_zero_and_stops_there(weight, shrunk):
    assert shrink(torch.tensor(weight), torch.tensor(1.0)).item() == shrunk
