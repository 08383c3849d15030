"""The default run leaves out combinations of values, and no value."""

from itertools import combinations, product

import pytest
from combinations import chosen

SIZES = [(1,), (2, 7), (3, 3), (2, 2, 9), (2, 3, 4, 5)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_each_value_runs_and_none_more_often_than_it_has_to(sizes):
    rows = [dict(enumerate(row)) for row in product(*map(range, sizes))]
    kept = [rows[i] for i in chosen(rows)]
    assert {value for row in kept for value in row.items()} == {v for r in rows for v in r.items()}
    assert len(kept) == max(sizes)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_each_pair_of_values_runs_where_it_is_asked_for(sizes):
    rows = [dict(enumerate(row)) for row in product(*map(range, sizes))]
    kept = [rows[i] for i in chosen(rows, in_pairs=True)]
    pairs = [
        {pair for row in some for pair in combinations(row.items(), 2)} for some in (kept, rows)
    ]
    assert pairs[0] == pairs[1]
    assert len(kept) <= 1.5 * max((m * n for m, n in combinations(sizes, 2)), default=1)


def test_values_that_few_combinations_have_run_too():
    rows = [{"a": 0, "b": 0}, {"a": 0, "b": 1}, {"a": 1, "b": 0}, {"a": 0, "b": 2}]
    kept = [rows[i] for i in chosen(rows)]
    assert {value for row in kept for value in row.items()} == {v for r in rows for v in r.items()}


def test_no_value_always_keeps_the_same_company():
    rows = [dict(zip("abc", row, strict=True)) for row in product(range(2), range(2), range(8))]
    kept = [rows[i] for i in chosen(rows)]
    assert len({(row["a"], row["b"]) for row in kept}) == 4
