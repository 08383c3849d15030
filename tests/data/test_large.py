import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from large import mapped

from skorchless.data import LargeMatrix
from skorchless.data.dense import block_permutation
from skorchless.estimators.checks import as_tensor

pytestmark = pytest.mark.usefixtures("everything_is_large")
N_ROWS, N_COLUMNS = 301, 40  # more columns than are read together where they lie apart

KINDS = [
    "array",
    "map",
    "Fortran array",
    "Fortran map",
    "int16",
    "float16 map",
    "columns of a map",
]


def make_matrix(kind, folder, dtype=torch.float64):
    """The same numbers, stored in one way or another."""
    numbers = np.arange(N_ROWS * N_COLUMNS).reshape(N_ROWS, N_COLUMNS) % 1000 - 500
    array = numbers.astype(np.float64)
    if kind == "int16":
        array = array.astype(np.int16)
    elif kind == "float16 map":
        array = array.astype(np.float16)
    elif kind == "columns of a map":
        array = np.concatenate([array, array], axis=1)
    order = "F" if "Fortran" in kind else "C"
    stored = mapped(array, folder, order) if "map" in kind else np.asarray(array, order=order)
    stored = as_tensor(np.asarray(stored[:, :N_COLUMNS]))
    return LargeMatrix(stored, dtype), torch.from_numpy(numbers.astype(np.float64))


kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_read_in_runs_and_by_number(kind, dtype, tmp_path):
    matrix, expected = make_matrix(kind, tmp_path, dtype)
    expected = expected.to(dtype)
    assert matrix.shape == (N_ROWS, N_COLUMNS) and len(matrix) == N_ROWS
    rows = torch.randint(N_ROWS, (100,), generator=torch.Generator().manual_seed(0))
    out = torch.empty(100, N_COLUMNS, dtype=dtype)
    matrix.read(rows, out)
    assert torch.equal(out, expected[rows])
    matrix.read(slice(50, 150), out)
    assert torch.equal(out, expected[50:150])
    assert torch.equal(matrix[7:9], expected[7:9])
    assert torch.equal(torch.cat([run.to(dtype) for run in matrix.runs()]), expected)


@kinds
def test_few_rows_are_copied_and_many_stay_where_they_are(kind, tmp_path):
    matrix, expected = make_matrix(kind, tmp_path)
    few = torch.arange(0, N_ROWS, 60)
    assert torch.equal(matrix.index_select(0, few), expected[few])
    most = torch.arange(N_ROWS)[torch.arange(N_ROWS) % 10 > 0]
    some = matrix.index_select(0, most)
    assert isinstance(some, LargeMatrix) and not some.lies_ready
    assert torch.equal(some[0 : len(some)], expected[most])
    some = some.index_select(0, torch.arange(100, 200))
    assert torch.equal(some[0:100], expected[most][100:200])


def test_rows_in_the_right_dtype_lie_ready(tmp_path):
    lie_ready = {kind: make_matrix(kind, tmp_path)[0].lies_ready for kind in KINDS}
    assert [kind for kind, ready in lie_ready.items() if ready] == ["array", "map"]
    assert not make_matrix("map", tmp_path)[0].to(torch.float32).lies_ready


def test_half_precision_of_torch_is_widened(tmp_path):
    rows = torch.arange(1000).view(-1, 4).to(torch.bfloat16)
    matrix = LargeMatrix(rows, torch.float32)
    assert torch.equal(matrix[3:5], rows[3:5].float())


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@given(n_rows=st.integers(1, 200), block=st.integers(1, 30), window=st.integers(1, 9))
def test_every_row_comes_once(n_rows, block, window):
    rows = block_permutation(n_rows, block, window, generator())
    assert rows.sort().values.tolist() == list(range(n_rows))


def test_windows_are_whole_blocks_from_all_over_the_file_mixed():
    windows = block_permutation(10_000, 10, 50, generator()).view(20, 500)
    for rows in windows:
        assert (rows // 10).unique().numel() == 50
        assert (rows[1:] - rows[:-1] == 1).sum() < 20
    assert windows.double().mean(dim=1).sub(5000).abs().max() < 1500


def test_a_seed_gives_an_order_and_a_pass_moves_the_generator_on():
    shared = generator(1)
    first, second = (block_permutation(100, 3, 4, shared) for _ in range(2))
    assert torch.equal(first, block_permutation(100, 3, 4, generator(1)))
    assert not torch.equal(first, second)
