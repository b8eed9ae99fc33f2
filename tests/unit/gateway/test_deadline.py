"""A deadline is an instant: it only ever comes nearer."""

from __future__ import annotations

from service.limits.deadline import Deadline


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_time_left_shrinks_to_zero_and_stays_there() -> None:
    clock = Clock(100.0)
    deadline = Deadline.after(0.5, clock)
    assert deadline.left_s() == 0.5
    clock.now = 100.25
    assert deadline.left_s() == 0.25
    clock.now = 200.0
    assert deadline.left_s() == 0.0


def test_a_reserve_makes_it_earlier_and_leaves_the_first_alone() -> None:
    deadline = Deadline.after(0.5, Clock(100.0))
    assert deadline.earlier(0.125).left_s() == 0.375
    assert deadline.left_s() == 0.5


def test_a_share_is_of_what_is_left_at_that_moment_and_of_nothing_nothing() -> None:
    clock = Clock(100.0)
    deadline = Deadline.after(1.0, clock)
    assert deadline.share(0.5).left_s() == 0.5
    clock.now = 100.5
    assert deadline.share(0.5).left_s() == 0.25
    clock.now = 200.0
    assert deadline.share(0.5).left_s() == 0.0


def test_unix_microseconds_name_the_same_instant() -> None:
    clock = Clock(100.0)
    deadline = Deadline.after(0.5, clock)
    before = deadline.unix_us(unix_clock=lambda: 1_700_000_000.0)
    clock.now = 100.25
    assert before == deadline.unix_us(unix_clock=lambda: 1_700_000_000.25) == 1_700_000_000_500_000
