"""Coordinates of rows in a basis of their span."""

import numpy as np
import pytest
import torch

from skorchless.estimators.reduction import RowSpace

SHAPES = pytest.mark.parametrize("shape", [(40, 6), (6, 40), (12, 12)])
CENTRES = pytest.mark.parametrize("centre", [True, False])
BASES = pytest.mark.parametrize("orthonormal", [True, False])


def rows_of(shape, seed=0):
    """Columns in units from 1e-6 to 1e6, one constant and one a copy in another unit."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=shape) * np.geomspace(1e-6, 1e6, shape[1])
    X[:, 2] = 7.0
    X[:, -1] = 3e9 * X[:, 0]
    return torch.from_numpy(X)


def rank(shape, *, centre):
    """Of `rows_of`."""
    return min(shape[0] - centre, shape[1] - 1 - centre)


@SHAPES
@CENTRES
@BASES
def test_coordinates_are_as_many_as_the_rows_have_dimensions(shape, centre, orthonormal):
    X = rows_of(shape)
    space = RowSpace.of(X, centre=centre, orthonormal=orthonormal)
    assert space.rows(X).shape == (shape[0], rank(shape, centre=centre))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(5, 6), (6, 40), (30, 12)])
@BASES
def test_rounding_is_no_dimension(shape, seed, orthonormal):
    """Of few distinct rows in columns of any units."""
    rng = np.random.default_rng(seed)
    X = torch.from_numpy(rng.normal(size=shape) * 10.0 ** rng.uniform(-6, 6, shape[1]))
    X = X[: min(shape[0], 5)].repeat(6, 1)[: shape[0]]
    assert RowSpace.of(X, centre=True, orthonormal=orthonormal).basis.shape[1] == 4


@SHAPES
@CENTRES
@BASES
def test_weights_predict_the_same_in_both_coordinates(shape, centre, orthonormal):
    X = rows_of(shape)
    space = RowSpace.of(X, centre=centre, orthonormal=orthonormal)
    inside = space.rows(X)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 3, inside.shape[1] + 1, generator=generator, dtype=X.dtype)
    folded = space.fold_back(weights)
    raw = inside @ weights[..., :-1].mT + weights[..., -1:].mT
    torch.testing.assert_close(
        X @ folded[..., :-1].mT + folded[..., -1:].mT, raw, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(space.reduce(folded), weights, rtol=1e-4, atol=1e-5)


@SHAPES
@CENTRES
def test_a_basis_is_orthonormal_or_makes_rows_orthogonal(shape, centre):
    X = rows_of(shape)
    basis = RowSpace.of(X, centre=centre, orthonormal=True).basis
    torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=X.dtype))
    inside = RowSpace.of(X, centre=centre, orthonormal=False).rows(X)
    torch.testing.assert_close(inside.T @ inside, torch.eye(inside.shape[1], dtype=X.dtype))


@CENTRES
def test_along_the_principal_axes_a_basis_is_orthonormal_and_rows_are_orthogonal(centre):
    X = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 6)) * np.geomspace(1, 1e3, 6))
    space = RowSpace.of(X, centre=centre, orthonormal=True).along_principal_axes(X)
    inside = space.rows(X)
    moments = inside.T @ inside
    size = moments.diagonal().sqrt()
    eye = torch.eye(6, dtype=X.dtype)
    torch.testing.assert_close(space.basis.T @ space.basis, eye, rtol=0, atol=1e-12)
    torch.testing.assert_close(moments / size / size.unsqueeze(1), eye, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rows", [torch.ones(1, 3), torch.ones(4, 2)], ids=["a row", "constant"])
@BASES
def test_rows_that_are_all_the_same_have_no_dimension(rows, orthonormal):
    space = RowSpace.of(rows.double(), centre=True, orthonormal=orthonormal)
    assert space.rows(rows.double()).shape == (len(rows), 0)


def test_coefficients_of_few_digits_hold_the_large_directions_only():
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.normal(size=(50, 3)))
    X[:, 2] = X[:, :2].sum(dim=1) + 1e-9 * X[:, 2]
    space = RowSpace.of(X, centre=True, orthonormal=False)
    assert space.held(X, torch.float64).tolist() == [True, True, True]
    assert space.held(X, torch.float32).tolist() == [True, True, False]
