"""Sums over processes, and how a failure on one of them becomes one on all."""

import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranks import collectives_that_fail

from skorchless.distributed import SINGLE_PROCESS, Group, Shard

SIZES = (1, 10_000)


def drawn(rank, shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(shape, generator=generator, dtype=dtype)


def add_up(rank):
    group = Group()

    def work():
        sums = [(drawn(rank, size), drawn(rank, (2, 3), torch.float32)) for size in SIZES]
        for own in sums:
            group.all_reduce_(*own)
        return sums

    return group.together(work)


def test_sums_are_those_of_all_ranks_to_the_bit(group):
    results = group.run(add_up)
    for size, *sums in zip(SIZES, *results, strict=True):
        expected = sum(drawn(rank, size) for rank in range(3))
        for large, small in sums:
            torch.testing.assert_close(large, expected, rtol=0.0, atol=1e-14)
            assert torch.equal(large, sums[0][0]) and torch.equal(small, sums[0][1])
            assert small.shape == (2, 3) and small.dtype == torch.float32


def share(rank):
    group = Group()

    def work():
        mine = torch.full((2,), float(rank) or float("nan"))
        group.broadcast_(mine)
        rows = group.all_gather_rows(torch.full((2 * rank, 3), rank))
        nothing = group.all_gather_rows(torch.empty(0, 2))
        return mine.isnan().all(), rows, nothing, group.all_gather_object({"rank": rank})

    return group.together(work)


def test_rows_and_values_arrive_in_rank_order(group):
    for first, rows, nothing, values in group.run(share):
        assert first
        assert rows[:, 1].tolist() == [1, 1, 2, 2, 2, 2]
        assert nothing.shape == (0, 2)
        assert values == [{"rank": 0}, {"rank": 1}, {"rank": 2}]


NEXT = {
    "rows": lambda group: group.all_gather_rows(torch.zeros(3, 2)),
    "an exchange": lambda group: group.all_gather_object("something"),
    "the end": lambda group: None,
}


def fail(rank, failing, what):
    group = Group()

    def check():
        group.all_gather_object(rank)
        if rank in failing:
            raise MemoryError(f"no room on {rank}, {'x' * 2000}")
        NEXT[what](group)

    group.together(lambda: group.checked(check))


@pytest.mark.parametrize("what", NEXT)
@pytest.mark.parametrize("failing", [[0], [1, 2]])
def test_a_rank_that_fails_a_check_is_named_on_all_whatever_they_wait_for(group, what, failing):
    for rank, result in enumerate(group.outcomes(fail, failing, what)):
        if rank in failing:
            assert result.kind == "MemoryError"
        else:
            assert result.kind == "GroupError"
            words = [f"rank {bad} failed: MemoryError: no room on {bad}, xx" for bad in failing]
            assert all(word in result.message for word in words)
    group.run(add_up)  # and the group goes on


def lose_step(rank):
    """Let rank 1 be interrupted when it has done its work, and begin something else."""
    group, undone = Group(), []

    def work():
        group.all_reduce_(torch.zeros(3))
        if rank == 1:
            raise KeyboardInterrupt

    try:
        group.together(work, undo=lambda: undone.append(rank))
    except KeyboardInterrupt:
        group.all_gather_object({})
    except RuntimeError:
        assert undone
        raise


def test_ranks_that_lose_step_are_told(group):
    for result in group.outcomes(lose_step):
        assert result.kind == "GroupError"
        assert "lost step" in result.message
    group.run(add_up)


def wait_for(path):
    while not Path(path).exists():
        time.sleep(0.01)


def undo(rank, failing):
    group, undone = Group(), []

    def check():
        if rank == failing:
            raise KeyboardInterrupt

    try:
        group.together(lambda: group.checked(check), undo=lambda: undone.append(rank))
    except BaseException as error:
        return type(error).__name__, set(undone)
    return None


def test_what_one_rank_has_not_done_is_undone_on_all(group):
    errors = ["KeyboardInterrupt", "GroupError", "GroupError"]
    assert group.run(undo, 0) == [(error, {rank}) for rank, error in enumerate(errors)]
    group.run(add_up)


def hang(rank, path):
    """Let rank 1 come when rank 0 has given up."""
    group = Group()

    def work():
        if rank == 1:
            wait_for(path)
        group.all_reduce_(torch.zeros(10_000))

    with collectives_that_fail() as failed:
        try:
            group.together(work)
        except RuntimeError as error:
            Path(path).touch()
            return failed, str(error)
    return None


def test_a_rank_that_hangs_is_an_error_after_a_single_timeout(start_ranks, tmp_path):
    ranks = start_ranks(2, timeout=2.0)
    ranks.get_ready()
    waiting, hanging = ranks.run(hang, str(tmp_path / "given up"))
    ranks.close()
    assert hanging is not None
    failed, message = waiting
    assert failed == ["all_reduce"]
    assert "cannot reach the others" in message
    assert "Every rank has to make as many calls as the others" in message


def test_without_a_group_the_cure_is_named():
    with pytest.raises(ValueError, match=r"initialised process group.*torchrun.*distributed=False"):
        Group()


def test_one_process_changes_nothing():
    values = torch.arange(3.0)
    SINGLE_PROCESS.together(lambda: SINGLE_PROCESS.all_reduce_(values))
    SINGLE_PROCESS.checked(lambda: SINGLE_PROCESS.broadcast_(values))
    assert values.tolist() == [0.0, 1.0, 2.0]
    assert SINGLE_PROCESS.all_gather_rows(values) is values
    assert SINGLE_PROCESS.all_gather_object("it") == ["it"]


some_sizes = st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(any)


@given(some_sizes, st.integers(1, 100))
def test_every_row_of_the_concatenation_is_one_ranks(sizes, step):
    shards = [Shard(tuple(sizes), rank) for rank in range(len(sizes))]
    rows = torch.arange(0, sum(sizes), step)
    owned = [shard.own(rows) + sum(sizes[: shard.rank]) for shard in shards]
    assert torch.equal(torch.cat(owned), rows)
    assert all((shard.own(rows) < shard.own_size).all() for shard in shards)


@given(some_sizes, st.integers(1, 100))
def test_ranks_contribute_in_proportion(sizes, batch_size):
    batches = Shard(tuple(sizes), 0).batches(batch_size)
    asked = min(batch_size, sum(sizes))
    assert asked <= sum(batches) <= asked + len(sizes)
    for size, batch in zip(sizes, batches, strict=True):
        assert 0 <= batch - asked * size / sum(sizes) < 1
