import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import float64

from skorchless.optimizers.hessian import Diagonal, Factored
from skorchless.optimizers.lbfgs import FEW_PAIRS, MEMORY, LBFGSMemory, dot

MODELS, OUTPUTS, COLUMNS = 3, 2, 4
seeds = st.integers(0, 2**32)
histories = st.lists(st.lists(st.booleans(), min_size=MODELS, max_size=MODELS), max_size=14)


class Quadratic:
    """A quadratic for each model, whose gradients change by ``A s`` along a step s."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)
        size = OUTPUTS * COLUMNS
        root = self.draw(MODELS, size, size)
        self.matrix = root @ root.mT + torch.eye(size, dtype=float64)

    def draw(self, *shape):
        return torch.randn(shape, generator=self.generator, dtype=float64)

    def vector(self):
        return self.draw(MODELS, OUTPUTS, COLUMNS)

    def change(self, step):
        return (self.matrix @ step.view(MODELS, -1, 1)).view_as(step)

    def preconditioner(self, kind):
        l2 = self.draw(MODELS, 1, COLUMNS).square()
        if kind is Diagonal:
            return Diagonal(self.draw(MODELS, COLUMNS).square() + 0.5, l2)
        root = self.draw(MODELS, COLUMNS, COLUMNS)
        matrix = root @ root.mT + 0.5 * torch.eye(COLUMNS, dtype=float64)
        return Factored(matrix, l2, 1e-13, OUTPUTS)

    def history(self, accepted):
        history = LBFGSMemory()
        for models in accepted:
            step = self.vector()
            history.add(torch.tensor(models), step, self.change(step))
        return history


each_kind = pytest.mark.parametrize("kind", [Diagonal, Factored])


def close(actual, expected, tolerance=1e-8):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@each_kind
@given(seed=seeds, accepted=histories)
def test_solve_and_hessian_are_inverse(kind, seed, accepted):
    problem = Quadratic(seed)
    history, metric, vector = (
        problem.history(accepted),
        problem.preconditioner(kind),
        problem.vector(),
    )
    close(history.model(metric)[0](history.solve(metric, vector)), vector, 1e-6)
    close(history.solve(metric, history.model(metric)[0](vector)), vector, 1e-6)


@each_kind
@given(seed=seeds, n_pairs=st.integers(1, 14))
def test_the_last_step_is_answered_by_its_own_change(kind, seed, n_pairs):
    problem = Quadratic(seed)
    history, metric = (
        problem.history([[True] * MODELS] * (n_pairs - 1)),
        problem.preconditioner(kind),
    )
    step = problem.vector()
    history.add(torch.ones(MODELS, dtype=torch.bool), step, problem.change(step))
    close(history.solve(metric, problem.change(step)), step)
    close(history.model(metric)[0](step), problem.change(step))


@given(seed=seeds, accepted=histories)
def test_both_maps_are_positive_definite(seed, accepted):
    problem = Quadratic(seed)
    history, metric = problem.history(accepted), problem.preconditioner(Factored)
    for _ in range(5):
        vector = problem.vector()
        assert (dot(vector, history.solve(metric, vector)) > 0).all()
        assert (dot(vector, history.model(metric)[0](vector)) > 0).all()


def test_without_pairs_only_the_preconditioner_works():
    problem = Quadratic(0)
    metric, vector = problem.preconditioner(Factored), problem.vector()
    assert torch.equal(LBFGSMemory().solve(metric, vector), metric.solve(vector))
    assert torch.equal(LBFGSMemory().model(metric)[0](vector), metric.product(vector))


@given(seed=seeds, accepted=histories)
def test_each_model_sees_its_own_pairs_only(seed, accepted):
    """Pairs that a model rejected change nothing for it, and leave when there are too many."""
    problem = Quadratic(seed)
    metric, vector = problem.preconditioner(Diagonal), problem.vector()
    stack, single = LBFGSMemory(), LBFGSMemory()
    for models in accepted[:MEMORY]:
        step = problem.vector()
        change = problem.change(step)
        stack.add(torch.tensor(models), step, change)
        if models[0]:
            single.add(torch.ones(MODELS, dtype=torch.bool), step, change)
    close(stack.solve(metric, vector)[0], single.solve(metric, vector)[0], 1e-11)
    close(stack.model(metric)[0](vector)[0], single.model(metric)[0](vector)[0], 1e-11)


def test_only_so_many_pairs_are_kept():
    history = Quadratic(0).history([[True] * MODELS] * (MEMORY + 3))
    assert history.steps.shape[1] == history.changes.shape[1] == MEMORY


def test_of_many_weights_fewer_pairs_are_kept(monkeypatch):
    monkeypatch.setattr("skorchless.optimizers.lbfgs.MANY_WEIGHTS", OUTPUTS * COLUMNS)
    history = Quadratic(0).history([[True] * MODELS] * (FEW_PAIRS + 3))
    assert history.steps.shape[1] == FEW_PAIRS


def test_a_step_without_curvature_is_not_kept():
    problem, history = Quadratic(0), LBFGSMemory()
    step = problem.vector()
    history.add(torch.ones(MODELS, dtype=torch.bool), step, -problem.change(step))
    history.add(torch.ones(MODELS, dtype=torch.bool), step, torch.zeros_like(step))
    assert history.steps is None


@given(seed=seeds)
def test_a_model_that_forgets_is_left_with_the_preconditioner(seed):
    problem = Quadratic(seed)
    history, metric = problem.history([[True] * MODELS] * 3), problem.preconditioner(Factored)
    vector = problem.vector()
    before = history.solve(metric, vector)
    history.forget(torch.tensor([False, True, False]))
    after = history.solve(metric, vector)
    close(after[1], metric.solve(vector)[1])
    close(after[[0, 2]], before[[0, 2]])
    close(history.model(metric)[0](after), vector, 1e-6)


@given(seed=seeds)
def test_a_model_forgets_what_is_no_number(seed):
    problem = Quadratic(seed)
    history, metric = problem.history([[True] * MODELS] * 2), problem.preconditioner(Diagonal)
    for kept in (history.steps, history.changes):
        kept[1] = torch.nan
    history.forget(torch.tensor([False, True, False]))
    assert history.solve(metric, problem.vector()).isfinite().all()


@given(seed=seeds, accepted=histories)
def test_models_that_stay_keep_their_pairs(seed, accepted):
    problem, keep = Quadratic(seed), torch.tensor([2, 0])
    history, vector = problem.history(accepted), problem.vector()
    diagonal, l2 = torch.ones(MODELS, COLUMNS, dtype=float64), torch.zeros(MODELS, 1, COLUMNS)
    before = history.solve(Diagonal(diagonal, l2), vector)
    history.select(keep)
    after = history.solve(Diagonal(diagonal[keep], l2[keep]), vector[keep])
    close(after, before[keep])


@given(seeds, st.lists(st.lists(st.booleans(), min_size=MODELS, max_size=MODELS), max_size=30))
def test_each_model_keeps_its_own_last_pairs_whatever_the_others_do(seed, accepted):
    problem = Quadratic(seed)
    preconditioner = Diagonal(
        torch.ones(MODELS, COLUMNS, dtype=float64), torch.zeros(MODELS, 1, COLUMNS, dtype=float64)
    )
    gradient = problem.vector()
    together, alone = LBFGSMemory(), [LBFGSMemory() for _ in range(MODELS)]
    for models in accepted:
        step = problem.vector()
        change = problem.change(step)
        together.add(torch.tensor(models), step, change)
        for i in range(MODELS):
            alone[i].add(torch.tensor(models[i : i + 1]), step[i : i + 1], change[i : i + 1])
    found = together.solve(preconditioner, gradient)
    for i in range(MODELS):
        one = Diagonal(
            torch.ones(1, COLUMNS, dtype=float64), torch.zeros(1, 1, COLUMNS, dtype=float64)
        )
        wanted = alone[i].solve(one, gradient[i : i + 1])
        torch.testing.assert_close(found[i : i + 1], wanted, rtol=1e-9, atol=1e-12)
