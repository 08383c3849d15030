"""All weights of a model in one matrix."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skorchless.optimizers.joint import Joint, joint_moments
from skorchless.optimizers.preconditioner import apart
from skorchless.stack import WIDE

MODELS, OUTPUTS, COLUMNS = 2, 3, 4
WEIGHTS = OUTPUTS * COLUMNS
seeds = st.integers(0, 2**32)


def close(actual, expected, tolerance=1e-9):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def generator_of(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("n_rows", [1, 7, 1030])
@given(seed=seeds)
def test_moments_are_sums_of_kronecker_products(n_rows, seed):
    generator = generator_of(seed)
    rows = torch.randn(n_rows, COLUMNS, generator=generator, dtype=WIDE)
    share = torch.rand(1, n_rows, generator=generator, dtype=WIDE)
    p = torch.rand(MODELS, OUTPUTS, n_rows, generator=generator, dtype=WIDE)
    p /= p.sum(dim=1, keepdim=True)
    moments = joint_moments(rows, share, p)
    inner = torch.diag_embed(p.mT) - p.mT.unsqueeze(3) * p.mT.unsqueeze(2)  # (M, n, K, K)
    outer = rows.unsqueeze(2) * rows.unsqueeze(1) * share.view(-1, 1, 1)
    products = torch.einsum("mnkl,nij->mkilj", inner, outer)
    close(moments, products.reshape(MODELS, WEIGHTS, WEIGHTS))


def softmax_moments(rows, seed):
    """Of a random softmax model of each stack."""
    raw = torch.randn(MODELS, OUTPUTS, len(rows), generator=generator_of(seed), dtype=WIDE)
    p = torch.softmax(raw, dim=1)
    share = torch.full((1, len(rows)), 1.0 / len(rows), dtype=WIDE)
    return joint_moments(rows, share, p)


def drawn(seed, n_rows=50, columns=COLUMNS):
    generator = generator_of(seed)
    rows = torch.randn(n_rows, columns, generator=generator, dtype=WIDE)
    l2 = torch.rand(MODELS, 1, columns, generator=generator, dtype=WIDE)
    vector = torch.randn(MODELS, OUTPUTS, columns, generator=generator, dtype=WIDE)
    return rows, l2, vector


@given(seed=seeds)
def test_it_is_a_matrix_and_its_inverse(seed):
    rows, l2, vector = drawn(seed)
    moments = softmax_moments(rows, seed)
    joint = Joint(moments, l2, None, 1e-13, OUTPUTS)
    whole = moments + torch.diag_embed(l2.repeat(1, 1, OUTPUTS).squeeze(1))
    close(joint.product(vector).flatten(1), (whole @ vector.flatten(1).unsqueeze(2)).squeeze(2))
    close(joint.solve(joint.product(vector)), apart(vector), 1e-7)
    close(joint.diagonal.flatten(1), whole.diagonal(dim1=1, dim2=2))


@given(seed=seeds)
def test_of_few_rows_it_is_an_inverse_on_their_span(seed):
    rows, l2, vector = drawn(seed, n_rows=3, columns=7)
    basis = torch.linalg.qr(rows.T)[0]
    moments = softmax_moments(rows @ basis, seed)
    joint = Joint(moments, l2, basis, 1e-13, OUTPUTS)
    whole = softmax_moments(rows, seed) + torch.diag_embed(l2.repeat(1, 1, OUTPUTS).squeeze(1))
    close(joint.product(vector).flatten(1), (whole @ vector.flatten(1).unsqueeze(2)).squeeze(2))
    close(joint.diagonal.flatten(1), whole.diagonal(dim1=1, dim2=2))
    inside = apart(vector) @ basis @ basis.T
    solved = joint.solve(inside)
    close(solved @ basis @ basis.T, solved)
    close(joint.product(solved) @ basis, inside @ basis, 1e-7)


@given(seed=seeds, weak=st.sampled_from([1.0, 1e-14, 0.0]))
def test_outputs_move_apart_only(seed, weak):
    """Along what they have in common there is hardly any curvature, and nothing but rounding."""
    rows, l2, vector = drawn(seed)
    joint = Joint(softmax_moments(rows, seed), weak * l2, None, 1e-13, OUTPUTS)
    solved = joint.solve(vector)
    close(solved, apart(solved))
    close(joint.product(solved), apart(vector), 1e-6)
