import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import float64

from skorchless.optimizers.conjugate_gradients import conjugate_gradients
from skorchless.optimizers.lbfgs import dot

MODELS, OUTPUTS, COLUMNS = 3, 2, 4
SIZE = OUTPUTS * COLUMNS
seeds = st.integers(0, 2**32)


def newton_direction(hessian, metric, gradient, accuracy):
    return conjugate_gradients(hessian, metric, -gradient, accuracy)[0]


def definite(generator):
    root = torch.randn(MODELS, SIZE, SIZE, generator=generator, dtype=float64)
    return root @ root.mT + 0.1 * torch.eye(SIZE, dtype=float64)


def times(matrix):
    return lambda vector: (matrix @ vector.reshape(MODELS, SIZE, 1)).view_as(vector)


def of_each(*accuracies):
    return torch.tensor(accuracies, dtype=float64).view(-1, 1, 1)


def draw(seed):
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(MODELS, OUTPUTS, COLUMNS, generator=generator, dtype=float64)
    return definite(generator), definite(generator), gradient


@given(seed=seeds)
def test_to_the_end_it_is_newtons_step(seed):
    hessian, metric, gradient = draw(seed)
    direction = newton_direction(times(hessian), times(metric), gradient, of_each(1e-12))
    torch.testing.assert_close(times(hessian)(direction), -gradient, rtol=1e-6, atol=1e-6)


@given(seed=seeds, accuracy=st.sampled_from([0.9, 0.5, 0.1]))
def test_cut_off_it_goes_down_and_its_residual_is_small(seed, accuracy):
    hessian, metric, gradient = draw(seed)
    direction = newton_direction(times(hessian), times(metric), gradient, of_each(accuracy))
    assert (dot(direction, gradient) < 0).all()
    residual = times(hessian)(direction) + gradient
    norm, before = (dot(v, times(metric)(v)).sqrt() for v in (residual, gradient))
    assert (norm <= accuracy * before * (1 + 1e-9)).all()


@given(seed=seeds)
def test_models_are_solved_each_for_itself(seed):
    hessian, metric, gradient = draw(seed)
    # One that is done at once, and one that takes long, change nothing for the others.
    hessian[0] = torch.linalg.inv(metric[0])
    accuracies = 0.1, 0.3, 0.01
    together = newton_direction(times(hessian), times(metric), gradient, of_each(*accuracies))
    for model in range(MODELS):
        alone = newton_direction(
            lambda v, A=hessian[model]: (A @ v.reshape(1, SIZE, 1)).view_as(v),
            lambda v, P=metric[model]: (P @ v.reshape(1, SIZE, 1)).view_as(v),
            gradient[[model]],
            of_each(accuracies[model]),
        )
        torch.testing.assert_close(together[[model]], alone, rtol=1e-8, atol=1e-10)


def test_where_there_is_no_curvature_the_preconditioner_decides():
    _, metric, gradient = draw(0)
    direction = newton_direction(torch.zeros_like, times(metric), gradient, of_each(0.3))
    torch.testing.assert_close(direction, -times(metric)(gradient))


@pytest.mark.parametrize("accuracy", [0.3, 1e-12])
def test_no_gradient_gives_no_direction(accuracy):
    hessian, metric, gradient = draw(0)
    gradient[1] = 0.0
    direction = newton_direction(times(hessian), times(metric), gradient, of_each(accuracy))
    assert not direction[1].any()
    assert direction.isfinite().all()
