"""A limit of messages a second, kept by all workers together."""

from uuid import uuid4

import pytest

from emails import doorbell
from emails.pace import Pace


def booked(*paces: Pace) -> list[int]:
    """The turns that they get in this order, in steps of ten seconds from the first."""
    return [round(pace.book() / 10) for pace in paces]


@pytest.fixture
def name():
    return f"relay-{uuid4()}"


def test_workers_share_the_turns(name):
    one, other = Pace(0.1, name), Pace(0.1, name)
    assert booked(one, other, other, one) == [0, 1, 2, 3]


def test_each_relay_has_turns_of_its_own(name):
    assert booked(Pace(0.1, name), Pace(0.1, name + "2")) == [0, 0]


def test_fractions_of_a_millisecond_are_kept(name):
    pace = Pace(3000, name)
    waits = [pace.book() for _ in range(30_000)]
    assert waits[-1] > 1  # 30,000 turns take ten seconds, and booking them less


def test_while_redis_is_away_a_worker_keeps_the_limit_for_itself(name, no_redis):
    assert booked(*[Pace(0.1, name)] * 3) == [0, 1, 2]


def test_turns_left_from_before_the_clock_was_set_back_hold_nobody_up(name):
    redis = doorbell.queue("default").connection
    redis.set(f"mailsite:pace:{name}", 1000 * (redis.time()[0] + 3600))
    assert booked(*[Pace(1, name)] * 2) == [0, 0]


def test_without_a_limit_there_is_no_pace(name):
    assert not Pace(0, name)
