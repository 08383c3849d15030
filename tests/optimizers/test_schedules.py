import math

import pytest

from skorchless.optimizers import SCHEDULES

each_schedule = pytest.mark.parametrize("name", SCHEDULES)


@each_schedule
def test_every_schedule_starts_at_the_rate_itself(name):
    assert SCHEDULES[name](0, 10) == 1.0


@each_schedule
def test_no_schedule_rises_or_turns_negative(name):
    factors = [SCHEDULES[name](epoch, 20) for epoch in range(20)]
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] > 0.0


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("adaptive", [1.0, 1.0, 1.0, 1.0]),
        ("invscaling", [1.0, 1 / math.sqrt(2), 1 / math.sqrt(3), 0.5]),
        ("cosine", [1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]),
    ],
)
def test_factors_are_as_documented(name, factors):
    assert [SCHEDULES[name](epoch, 4) for epoch in range(4)] == pytest.approx(factors)
