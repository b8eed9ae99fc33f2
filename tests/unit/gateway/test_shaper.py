"""Cheap answers leave spaced, against a clock of their own."""

from __future__ import annotations

import pytest

from service.limits.shaper import Shaper
from tests.unit.gateway.test_concurrency import Clock

RATE, HALF_S, CPU_S = 400.0, 0.04, 0.001


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_one_alone_leaves_at_once_and_those_behind_it_a_gap_later_each(clock: Clock) -> None:
    shaper = Shaper(RATE, clock)
    clock.now = 7.0
    assert [shaper.held_s(8.0) for _ in range(4)] == pytest.approx([0, 1 / RATE, 2 / RATE, 3 / RATE])
    clock.now = 9.0
    assert shaper.held_s(10.0) == 0


def test_none_is_held_beyond_its_own_instant(clock: Clock) -> None:
    shaper = Shaper(RATE, clock)
    clock.now = 7.0
    assert max(shaper.held_s(7.04) for _ in range(100)) == pytest.approx(0.04)
    clock.now = 7.05
    assert shaper.held_s(7.04) == 0


@pytest.mark.parametrize("callers", [4, 8, 16])
def test_callers_who_ask_again_at_once_leave_the_core_time_for_others(clock: Clock, callers: int) -> None:
    shaper, begins, made, busy_s = Shaper(RATE, clock), [0.0] * callers, 0, 0.0
    while clock.now < 10:
        caller = min(range(callers), key=begins.__getitem__)
        began_s = max(clock.now, begins[caller])
        clock.now = began_s + CPU_S
        busy_s, made = busy_s + CPU_S, made + 1
        begins[caller] = clock.now + shaper.held_s(began_s + HALF_S)
    assert made / clock.now <= RATE * 1.02
    assert busy_s / clock.now < 0.45  # all of it, where each leaves as soon as it is made
