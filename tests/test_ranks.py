"""Ranks that a test has broken are broken for that test alone."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranks import DIED, Raised


def own(rank):
    return rank


def wait_for(rank, path):
    """Have rank 1 wait for a file."""
    while rank == 1 and not Path(path).exists():
        time.sleep(0.01)
    return "late"


def die(rank):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def leave_alone(rank):
    """Have rank 0 wait for a sum that rank 1 adds nothing to."""
    if rank == 0:
        dist.all_reduce(torch.ones(1))


@pytest.fixture(scope="module")
def ranks(start_ranks):
    return start_ranks(2, timeout=3.0)


def test_a_late_answer_is_none_to_another_question(ranks, tmp_path):
    ranks.get_ready()
    ranks.run(own)  # imports this module
    with pytest.raises(AssertionError, match="rank 1 hangs"):
        ranks.run(wait_for, str(tmp_path / "go on"), patience=0.5)
    hanging = ranks.processes
    (tmp_path / "go on").touch()  # now it answers
    ranks.get_ready()
    assert ranks.run(own) == [0, 1]
    assert not any(process.is_alive() for process in hanging)


def test_a_rank_that_has_died_is_replaced(ranks):
    ranks.get_ready()
    assert ranks.outcomes(die) == [None, DIED]
    assert ranks.outcomes(own) == [0, DIED]
    ranks.get_ready()
    assert ranks.run(own) == [0, 1]


def test_ranks_that_answer_but_have_lost_each_other_are_replaced(ranks):
    ranks.get_ready()
    waited, left = ranks.outcomes(leave_alone)
    assert isinstance(waited, Raised) and left is None
    before = [process.pid for process in ranks.processes]
    ranks.get_ready()
    assert not set(before) & {process.pid for process in ranks.processes}
    assert ranks.run(own) == [0, 1]


def test_ranks_in_step_are_kept(ranks):
    ranks.get_ready()
    before = [process.pid for process in ranks.processes]
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        ranks.run(divmod, 0)
    ranks.get_ready()
    assert [process.pid for process in ranks.processes] == before
