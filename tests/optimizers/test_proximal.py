import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import float64

from skorchless.optimizers.hessian import Diagonal, Factored, coupled_moments, with_own_blocks
from skorchless.optimizers.lbfgs import LBFGSMemory
from skorchless.optimizers.proximal_newton import (
    LEAST_RIDGE,
    Columns,
    Model,
    Operator,
    cholesky,
    largest_eigenvalue,
    minimise_model,
    minimum_on_line,
    shrink,
)

MODELS, OUTPUTS, COLUMNS = 2, 2, 6
NOISE = torch.finfo(float64).eps ** 0.8
seeds = st.integers(0, 2**32)
accuracies = st.sampled_from([1e-2, 1e-6])


class Draw:
    """Random numbers of one seed."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape):
        return torch.randn(shape, generator=self.generator, dtype=float64)


class Problem:
    """A random quadratic for each model, with a threshold for each column.

    The columns' scales go over `spread` powers of ten. They are multiples of `rank` variables, plus
    some noise; without noise the matrix is singular, and the gradient in its range.
    """

    def __init__(self, seed, spread=0.0, rank=COLUMNS, noise=0.0, columns=COLUMNS):
        draw = Draw(seed)
        scale = torch.logspace(0, -spread, columns, dtype=float64)
        rows = draw(4 * columns, rank) @ draw(rank, columns) + noise * draw(4 * columns, columns)
        self.rows = rows * scale
        self.matrix = (self.rows.T @ self.rows / columns).expand(MODELS, -1, -1).contiguous()
        self.weights = draw(MODELS, OUTPUTS, columns) / scale
        self.weights *= draw(MODELS, OUTPUTS, columns) > 0
        self.gradient = draw(MODELS, OUTPUTS, len(rows)) @ self.rows / columns
        self.l1 = (0.1 + draw(MODELS, 1, columns).abs()) * scale
        self.l2 = torch.zeros(MODELS, 1, columns, dtype=float64)

    def operator(self, kind="separate"):
        known = Factored(self.matrix, self.l2, NOISE, OUTPUTS)
        block = None if kind == "products" else known.block
        solve = known.solve if kind == "inverse" and not known.lifted.any() else None
        separate = kind in ("separate", "inverse")
        return Operator(known.product, known.diagonal, block, separate=separate, solve=solve)

    def minimise(self, accuracy=1e-12, operator=None, negligible=0.0):
        operator = self.operator() if operator is None else operator
        least = torch.full((len(self.weights),), negligible, dtype=float64)
        most = torch.full((MODELS,), torch.inf, dtype=float64)
        return minimise_model(self.weights, self.gradient, operator, self.l1, accuracy, least, most)

    def value(self, weights, operator=None):
        operator = self.operator() if operator is None else operator
        step = weights - self.weights
        smooth = (self.gradient + 0.5 * operator.product(step)) * step
        return (smooth + self.l1 * weights.abs()).sum(dim=(1, 2))

    def violation(self, weights, operator=None):
        """How far the optimality conditions are from being met, in units of the thresholds."""
        operator = self.operator() if operator is None else operator
        slope = self.gradient + operator.product(weights - self.weights)
        free = weights != 0
        residual = torch.where(free, slope + self.l1 * weights.sign(), slope)
        allowed = torch.where(free, 0.0, self.l1)
        unit = torch.where(self.l1 > 0, self.l1, 1.0)
        return float(((residual.abs() - allowed) / unit).max())


def by_split_variables(problem, operator):
    """The least values by L-BFGS-B on the positive and negative parts of the weights."""
    least = []
    for model in range(MODELS):

        def evaluate(parts, model=model):
            halves = torch.from_numpy(parts).view(2, OUTPUTS, -1)
            weights = problem.weights.clone()
            weights[model] = halves[0] - halves[1]
            slope = (problem.gradient + operator.product(weights - problem.weights))[model]
            step = (weights - problem.weights)[model]
            smooth = (0.5 * (slope + problem.gradient[model]) * step).sum()
            value = smooth + (problem.l1[model] * halves).sum()
            both = torch.stack([problem.l1[model] + slope, problem.l1[model] - slope])
            return float(value), both.view(-1).numpy()

        start = np.zeros(2 * problem.weights[0].numel())
        limits = {"maxiter": 100_000, "maxfun": 100_000, "ftol": 0.0, "gtol": 1e-12}
        bounds = [(0.0, None)] * len(start)
        found = minimize(evaluate, start, jac=True, bounds=bounds, options=limits)
        least.append(found.fun)
    return torch.tensor(least, dtype=float64)


def by_all_signs(problem, model, output):
    """The minimiser of one output, from all patterns of signs."""
    matrix, l1 = problem.matrix[model], problem.l1[model, 0]
    weights, gradient = problem.weights[model, output], problem.gradient[model, output]
    best, least = None, np.inf
    for pattern in itertools.product([-1.0, 0.0, 1.0], repeat=len(l1)):
        signs = torch.tensor(pattern, dtype=float64)
        free = signs != 0
        target = (matrix @ weights - gradient - l1 * signs)[free]
        solution = torch.zeros_like(weights)
        solution[free] = torch.linalg.lstsq(matrix[free][:, free], target).solution
        step = solution - weights
        value = (gradient + 0.5 * matrix @ step) @ step + (l1 * solution.abs()).sum()
        if value < least:
            best, least = solution, float(value)
    return best


@settings(max_examples=5)  # each takes half a second
@given(seed=seeds)
def test_the_minimiser_is_that_of_all_patterns_of_signs(seed):
    problem = Problem(seed)
    direction, _, missing = problem.minimise()
    minimiser = problem.weights + direction
    for model in range(MODELS):
        for output in range(OUTPUTS):
            expected = by_all_signs(problem, model, output)
            torch.testing.assert_close(minimiser[model, output], expected, rtol=1e-8, atol=1e-8)
            assert ((minimiser[model, output] == 0) == (expected.abs() < 1e-9)).all()
    assert (missing <= 1e-10).all()


@pytest.mark.parametrize("kind", ["separate", "together", "inverse", "products"])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"spread": 3.0},
        {"rank": 3},
        {"rank": 2, "noise": 1e-4, "spread": 2.0},
        {"rank": 20, "columns": 40},
        {"rank": 3, "noise": 1e-3, "columns": 40},
    ],
    ids=["well", "scales", "singular", "correlated", "wide", "nearly dependent"],
)
@pytest.mark.parametrize("seed", range(5))
def test_the_optimality_conditions_are_met(kind, shape, seed):
    problem = Problem(seed, **shape)
    operator = problem.operator(kind)
    direction, slope, missing = problem.minimise(1e-10, operator)
    found = problem.weights + direction
    assert (missing <= -1e-10 * slope + 1e-13).all()
    assert problem.violation(found, operator) < 1e-5


@pytest.mark.parametrize("shape", [{}, {"rank": 3}, {"rank": 2, "noise": 1e-1}])
@pytest.mark.parametrize("accuracy", [1e-2, 1e-6])
@pytest.mark.parametrize("seed", range(3))
def test_no_other_solver_is_lower_than_what_is_said_to_be_missing(shape, accuracy, seed):
    problem = Problem(seed, **shape)
    operator = problem.operator()
    direction, slope, missing = problem.minimise(accuracy, operator)
    value = problem.value(problem.weights + direction, operator)
    lowest = by_split_variables(problem, operator)
    assert (value - lowest <= missing + 1e-9 * value.abs()).all()
    assert (value - lowest <= -accuracy * slope + 1e-9 * value.abs()).all()


@given(seed=seeds, accuracy=accuracies, spread=st.sampled_from([0.0, 2.0]))
def test_the_slope_is_that_of_the_direction_and_never_positive(seed, accuracy, spread):
    problem = Problem(seed, spread)
    direction, slope, missing = problem.minimise(accuracy)
    moved = problem.weights + direction
    gain = (problem.l1 * (moved.abs() - problem.weights.abs())).sum(dim=(1, 2))
    expected = (problem.gradient * direction).sum(dim=(1, 2)) + gain
    torch.testing.assert_close(slope, expected)
    assert (slope <= 0).all()
    assert (missing >= 0).all()


@given(seed=seeds)
def test_weights_at_the_minimum_stay_there(seed):
    problem = Problem(seed)
    direction, _, _ = problem.minimise()
    problem.gradient = problem.gradient + problem.operator().product(direction)
    problem.weights = problem.weights + direction
    direction, slope, missing = problem.minimise()
    torch.testing.assert_close(direction, torch.zeros_like(direction), rtol=0, atol=1e-9)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-12)
    torch.testing.assert_close(missing, torch.zeros_like(slope), rtol=0, atol=1e-12)


def test_what_is_held_back_enough_stays_exactly_zero():
    problem = Problem(0)
    problem.weights = torch.zeros_like(problem.weights)
    problem.l1 = problem.gradient.abs().amax() * torch.ones_like(problem.l1)
    direction, slope, missing = problem.minimise()
    assert (direction == 0.0).all()
    assert (slope == 0.0).all()
    assert (missing == 0.0).all()


def test_without_thresholds_it_is_newtons_step():
    problem = Problem(1)
    problem.l1 = torch.zeros_like(problem.l1)
    direction, slope, _ = problem.minimise()
    expected = -torch.linalg.solve(problem.matrix, problem.gradient.mT).mT
    torch.testing.assert_close(direction, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(slope, (problem.gradient * expected).sum(dim=(1, 2)))


def test_copies_of_a_column_share_its_weight_without_harm():
    problem = Problem(2)
    for tensor in (problem.weights, problem.gradient, problem.l1):
        tensor[..., 1] = tensor[..., 0]
    problem.matrix[:, 1] = problem.matrix[:, 0]
    problem.matrix[:, :, 1] = problem.matrix[:, :, 0]
    direction, _, _ = problem.minimise()
    assert direction.abs().max() < 100.0
    assert problem.violation(problem.weights + direction) < 1e-8


def test_a_decrease_that_is_negligible_is_not_looked_for():
    problem = Problem(3, rank=2, noise=1e-4)
    _, _, missing = problem.minimise(1e-12, negligible=1e-3)
    assert (missing <= 1e-3).all()
    _, slope, missing = problem.minimise(1e-12, negligible=1e9)
    assert (slope <= 0).all()


def softmax(seed, outputs=4, columns=5, rows=60, l2=0.0):
    """The whole Hessian of softmax models, and a gradient in its range."""
    draw = Draw(seed)
    X = draw(rows, columns)
    p = torch.softmax(3.0 * draw(MODELS, outputs, rows), dim=1)
    share = torch.full((1, rows), 1.0 / rows, dtype=float64)
    penalty = torch.full((MODELS, 1, columns), l2, dtype=float64)
    hessian = with_own_blocks(coupled_moments(X, share, p), outputs)
    joint = Factored(hessian, penalty, NOISE, outputs, shift_invariant=True)
    problem = Problem(seed, columns=columns)
    problem.weights = draw(MODELS, outputs, columns)
    goal = torch.softmax(3.0 * draw(MODELS, outputs, rows), dim=1)
    problem.gradient = (p - goal) @ X / rows + l2 * problem.weights
    problem.l1 = 0.01 * problem.l1
    problem.l1[..., -1] = 0.0
    return problem, joint


@pytest.mark.parametrize("l2", [0.0, 1e-2])
@pytest.mark.parametrize("outputs", [2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_what_outputs_have_in_common_is_shifted_to_where_l1_is_least(seed, outputs, l2):
    problem, joint = softmax(seed, outputs, l2=l2)
    flat = joint.l2 == 0.0
    operator = Operator(joint.product, joint.diagonal, joint.block, flat=flat)
    direction, slope, missing = problem.minimise(1e-10, operator)
    found = problem.weights + direction
    assert (missing <= -1e-10 * slope + 1e-13).all()
    assert problem.violation(found, operator) < 1e-5
    if l2 == 0.0:
        median = found[..., :-1].median(dim=1).values
        assert (median == 0.0).all()
        mean = direction[..., -1].mean(dim=1)
        torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-9)


def whole(product, outputs, columns):
    """The matrix of a product, shape ``(M, N, N)``."""
    unit = torch.eye(outputs * columns, dtype=float64).view(-1, outputs, columns)
    rows = [product(one.expand(MODELS, -1, -1)).flatten(1) for one in unit]
    return torch.stack(rows, dim=1)


def operators(seed, outputs=3, columns=5):
    """All kinds of matrices, each with what makes its submatrices."""
    draw = Draw(seed)
    l2 = draw(MODELS, 1, columns).square()
    square = draw(MODELS * outputs, columns, columns)
    moments = square @ square.mT
    matrix = torch.block_diag(*moments[:outputs]) + 1.0
    matrices = matrix.expand(MODELS, -1, -1).contiguous()
    known = {
        "one matrix": Factored(moments[:1], l2, NOISE, outputs),
        "a matrix for each model": Factored(moments[:MODELS], l2, NOISE, outputs, True),
        "diagonal": Diagonal(moments[:MODELS].diagonal(dim1=1, dim2=2), l2, True),
        "joint": Factored(matrices, l2, NOISE, outputs, True),
    }
    for name, one in known.items():
        yield name, one.product, one.block
    history = LBFGSMemory()
    for _ in range(3):
        step = draw(MODELS, outputs, columns)
        history.add(torch.tensor([True, True]), step, 1.3 * known["one matrix"].product(step))
    yield "history", *history.model(known["one matrix"])
    product = known["joint"].product
    yield "columns", product, Columns(product, draw(MODELS, outputs, columns)).block


@pytest.mark.parametrize("seed", range(3))
def test_submatrices_are_those_of_the_product(seed):
    outputs, columns = 3, 5
    models = torch.tensor([1, 0, 1])
    index = torch.tensor([[0, 3, 7, 14], [14, 2, 5, 0], [1, 6, 11, 4]])
    for name, product, block in operators(seed, outputs, columns):
        matrix = whole(product, outputs, columns)[models]
        rows = matrix.gather(1, index.unsqueeze(2).expand(-1, -1, outputs * columns))
        expected = rows.gather(2, index.unsqueeze(1).expand(-1, 4, -1))
        torch.testing.assert_close(block(models, index, outputs), expected, msg=name)


def test_submatrices_within_an_output_of_a_matrix_for_each():
    draw, outputs, columns = Draw(0), 3, 5
    square = draw(MODELS * outputs, columns, columns)
    l2 = draw(MODELS, 1, columns).square()
    known = Factored(square @ square.mT, l2, NOISE, outputs)
    matrix = whole(known.product, outputs, columns)
    index = torch.tensor([[5, 7, 9]])
    expected = matrix[1][index[0]][:, index[0]].unsqueeze(0)
    torch.testing.assert_close(known.block(torch.tensor([1]), index, outputs), expected)


@given(seed=seeds)
def test_the_best_point_on_a_line_is_no_higher_than_any_other(seed):
    problem = Problem(seed)
    model = Model(
        problem.weights,
        problem.gradient,
        problem.operator(),
        problem.l1,
        1e-6,
        torch.zeros(MODELS, dtype=float64),
        torch.full((MODELS,), torch.inf, dtype=float64),
    )
    direction = -model.gradient
    at, slope = model.start, model.gradient
    curvature = (direction * model.product(direction)).sum(dim=1, keepdim=True)
    best = minimum_on_line(at, direction, slope, curvature, model.l1)
    gain = model.decrease(at, slope, best, model.slope(best))
    for length in (0.0, 1e-3, 1e-2, 0.03, 0.1, 0.2, 0.5, 1.0, 3.0):
        other = at + length * direction
        assert (gain >= model.decrease(at, slope, other, model.slope(other)) - 1e-12).all()


def test_a_singular_matrix_is_factored_with_a_small_ridge():
    ones = torch.ones(1, 4, 4, dtype=float64)
    lower = cholesky(ones.clone(), torch.full((1, 1), LEAST_RIDGE, dtype=float64))
    torch.testing.assert_close(lower @ lower.mT, ones, rtol=0, atol=1e-9)


@given(seed=seeds)
def test_power_iteration_comes_near_the_largest_eigenvalue_from_below(seed):
    problem = Problem(seed)
    expected = torch.linalg.eigvalsh(problem.matrix)[:, -1]
    found = largest_eigenvalue(problem.operator().product, problem.weights).view(-1)
    assert (found <= expected * (1 + 1e-12)).all()
    assert (found >= 0.5 * expected).all()


@pytest.mark.parametrize(
    ("weight", "shrunk"), [(3.0, 2.0), (-3.0, -2.0), (1.0, 0.0), (-0.5, 0.0), (0.0, 0.0)]
)
def test_shrinking_moves_towards_zero_and_stops_there(weight, shrunk):
    assert shrink(torch.tensor(weight), torch.tensor(1.0)).item() == shrunk


def test_where_there_is_a_slope_but_no_curvature_much_may_be_missing():
    """As with Huber's loss where all residuals are beyond delta."""

    def nothing(vector):
        return torch.zeros_like(vector)

    def block(models, index, outputs):
        return torch.zeros(len(models), index.shape[1], index.shape[1], dtype=float64)

    weights = torch.tensor([[[3.0, -2.0, 1.0]]], dtype=float64)
    gradient = torch.tensor([[[3e-3, 2e-3, 1e-3]]], dtype=float64)
    l1 = torch.tensor([[[1e-4, 1e-4, 0.0]]], dtype=float64)
    operator = Operator(nothing, torch.zeros(1, 1, 3, dtype=float64), block, separate=True)
    little, most = torch.full((1,), 1e-9, dtype=float64), torch.full((1,), 10.0, dtype=float64)
    for rough in (None, torch.zeros_like(weights)):
        _, slope, missing = minimise_model(
            weights, gradient, operator, l1, 1e-6, little, most, rough
        )
        assert float(missing - slope) > 10.0
