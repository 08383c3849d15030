"""All weights of a model in one matrix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import float64

from skorchless.optimizers.hessian import Factored, apart, coupled_moments, with_own_blocks

MODELS, OUTPUTS, COLUMNS = 2, 3, 4
WEIGHTS = OUTPUTS * COLUMNS
quick = settings(max_examples=20)
seeds = st.integers(0, 2**32)


def close(actual, expected, tolerance=1e-9):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def generator_of(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("n_rows", [1, 7, 1030])
@quick
@given(seed=seeds)
def test_moments_are_sums_of_kronecker_products(n_rows, seed):
    generator = generator_of(seed)
    rows = torch.randn(n_rows, COLUMNS, generator=generator, dtype=float64)
    share = torch.rand(1, n_rows, generator=generator, dtype=float64)
    p = torch.rand(MODELS, OUTPUTS, n_rows, generator=generator, dtype=float64)
    p /= p.sum(dim=1, keepdim=True)
    moments = with_own_blocks(coupled_moments(rows, share, p), p.shape[1])
    inner = torch.diag_embed(p.mT) - p.mT.unsqueeze(3) * p.mT.unsqueeze(2)  # (M, n, K, K)
    outer = rows.unsqueeze(2) * rows.unsqueeze(1) * share.view(-1, 1, 1)
    products = torch.einsum("mnkl,nij->mkilj", inner, outer)
    close(moments, products.reshape(MODELS, WEIGHTS, WEIGHTS))


def softmax_moments(rows, seed):
    """Of a random softmax model of each stack."""
    raw = torch.randn(MODELS, OUTPUTS, len(rows), generator=generator_of(seed), dtype=float64)
    p = torch.softmax(raw, dim=1)
    share = torch.full((1, len(rows)), 1.0 / len(rows), dtype=float64)
    return with_own_blocks(coupled_moments(rows, share, p), p.shape[1])


def drawn(seed, n_rows=50, columns=COLUMNS):
    generator = generator_of(seed)
    rows = torch.randn(n_rows, columns, generator=generator, dtype=float64)
    l2 = torch.rand(MODELS, 1, columns, generator=generator, dtype=float64)
    vector = torch.randn(MODELS, OUTPUTS, columns, generator=generator, dtype=float64)
    return rows, l2, vector


@quick
@given(seed=seeds)
def test_it_is_a_matrix_and_its_inverse(seed):
    rows, l2, vector = drawn(seed)
    moments = softmax_moments(rows, seed)
    joint = Factored(moments, l2, 1e-13, OUTPUTS, shift_invariant=True)
    whole = moments + torch.diag_embed(l2.repeat(1, 1, OUTPUTS).squeeze(1))
    close(joint.product(vector).flatten(1), (whole @ vector.flatten(1).unsqueeze(2)).squeeze(2))
    close(joint.solve(joint.product(vector)), apart(vector), 1e-7)
    close(joint.diagonal.flatten(1), whole.diagonal(dim1=1, dim2=2))


@quick
@given(seed=seeds, weak=st.sampled_from([1.0, 1e-14, 0.0]))
def test_outputs_move_apart_only(seed, weak):
    """Along what they have in common there is hardly any curvature, and nothing but rounding."""
    rows, l2, vector = drawn(seed)
    moments = softmax_moments(rows, seed)
    joint = Factored(moments, weak * l2, 1e-13, OUTPUTS, shift_invariant=True)
    solved = joint.solve(vector)
    close(solved, apart(solved))
    close(joint.product(solved), apart(vector), 1e-6)
