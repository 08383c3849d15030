import numpy as np
import pytest
import torch

from skorchless.stack import pack, private_generator, stack


def draw(generator):
    return torch.randint(2**62, (4,), generator=generator).tolist()


def test_the_intercept_is_the_last_column():
    coef, intercept = torch.randn(4, 3, 5), torch.randn(4, 3)
    weights = pack(coef, intercept)
    assert weights.shape == (4, 3, 6)
    assert torch.equal(weights[..., :-1], coef)
    assert torch.equal(weights[..., -1], intercept)


@pytest.mark.parametrize("values", [[0.5, 1.5], np.array([0.5, 1.5]), (0.5, 1.5)])
def test_hyper_parameters_lead_with_the_models(values):
    stacked = stack(values, dtype=torch.float32, device=torch.device("cpu"))
    assert stacked.shape == (2, 1, 1)
    assert stacked.dtype == torch.float32
    assert stacked.flatten().tolist() == [0.5, 1.5]


@pytest.mark.parametrize("seed", [0, 7, 2**40, np.int64(7)])
def test_a_seed_means_the_same_numbers(seed):
    expected = torch.Generator().manual_seed(int(seed))
    assert draw(private_generator(seed)) == draw(expected)


def test_a_random_state_is_drawn_from():
    first, second = np.random.RandomState(3), np.random.RandomState(3)
    assert draw(private_generator(first)) == draw(private_generator(second))
    assert draw(private_generator(first)) != draw(private_generator(np.random.RandomState(3)))


def test_no_seed_means_numbers_of_its_own():
    assert draw(private_generator(None)) != draw(private_generator(None))


@pytest.mark.parametrize("seed", [None, 0])
def test_global_generators_stand_still(seed):
    before = torch.random.get_rng_state(), np.random.get_state()  # noqa: NPY002
    draw(private_generator(seed))
    after = torch.random.get_rng_state(), np.random.get_state()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert np.array_equal(before[1][1], after[1][1])
    assert before[1][2:] == after[1][2:]
