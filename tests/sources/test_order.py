import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skorchless.sources.order import BlockOrder


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def in_runs(order, n_rows, size):
    starts = range(0, n_rows, size)
    return torch.cat([order[start : min(start + size, n_rows)] for start in starts])


@given(
    n_rows=st.integers(1, 200),
    block_rows=st.integers(1, 30),
    window_blocks=st.integers(1, 9),
    size=st.integers(1, 250),
)
def test_every_row_comes_once_whatever_the_runs_it_is_read_in(
    n_rows, block_rows, window_blocks, size
):
    orders = [BlockOrder(n_rows, block_rows, window_blocks, generator()) for _ in range(2)]
    rows = in_runs(orders[0], n_rows, size)
    assert rows.sort().values.tolist() == list(range(n_rows))
    assert torch.equal(rows, in_runs(orders[1], n_rows, n_rows))


def test_the_rows_of_a_window_are_whole_blocks_mixed():
    order = BlockOrder(1000, 10, 5, generator())
    assert len(order) == 20
    for number in range(20):
        rows = order[50 * number : 50 * number + 50]
        assert torch.equal(rows.sort().values, order.rows_of(number).sort().values)
        assert (rows // 10).unique().numel() == 5
        assert not torch.equal(rows, order.rows_of(number))


def test_windows_take_their_blocks_from_all_over_the_file():
    order = BlockOrder(10_000, 10, 50, generator())
    means = [order.rows_of(number).float().mean() for number in range(20)]
    assert torch.stack(means).sub(5000).abs().max() < 1500


def test_a_seed_gives_an_order_and_a_pass_moves_the_generator_on():
    shared = generator(1)
    first, second = (BlockOrder(100, 3, 4, shared)[0:100] for _ in range(2))
    assert torch.equal(first, BlockOrder(100, 3, 4, generator(1))[0:100])
    assert not torch.equal(first, second)


@pytest.mark.parametrize("size", [7, 50, 120])
def test_pieces_say_where_in_a_window_the_rows_are(size):
    order = BlockOrder(230, 10, 5, generator())
    again = BlockOrder(230, 10, 5, generator())
    for start in range(0, 230, size):
        run = slice(start, min(start + size, 230))
        pieces = [again.rows_of(w.number)[places] for w, places in again.pieces(run)]
        assert torch.equal(torch.cat(pieces), order[run])
