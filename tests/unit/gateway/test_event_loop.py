"""The bound of requests in the process follows how late the event loop comes."""

from __future__ import annotations

import asyncio
import time

import pytest

from service.limits.event_loop import LEAST, SLOW_S, TICKS, EventLoopLimit
from service.metrics import Metrics

LATE = 2 * SLOW_S


def test_one_pause_changes_nothing() -> None:
    limit = EventLoopLimit(256)
    for by_s in [*[0.001] * 10, 0.5, *[0.001] * 10, *[LATE] * (TICKS - 1), 0.001]:
        limit.came_late(by_s)
    assert limit.value == 256


def test_a_loop_that_stays_late_is_given_less_down_to_a_least() -> None:
    limit, seen = EventLoopLimit(256), []
    for _ in range(30 * TICKS):
        limit.came_late(LATE)
        seen.append(limit.value)
    assert seen == sorted(seen, reverse=True)
    assert seen[TICKS - 1] == int(256 * 0.8)
    assert seen[-1] == LEAST


def test_lateness_is_what_every_one_of_the_last_turns_had() -> None:
    limit = EventLoopLimit(256)
    assert limit.lateness_s == 0
    for by_s in [*[0.001] * TICKS, *[LATE] * (TICKS - 1)]:
        limit.came_late(by_s)
    assert limit.lateness_s == 0.001
    limit.came_late(LATE + 1)
    assert limit.lateness_s == LATE
    for _ in range(TICKS):
        limit.came_late(0.0)
    assert limit.lateness_s == 0


def test_what_was_taken_comes_back_by_and_by() -> None:
    limit = EventLoopLimit(256)
    for _ in range(30 * TICKS):
        limit.came_late(LATE)
    limit.came_late(0.0)
    assert limit.value == LEAST + 1
    for _ in range(300):
        limit.came_late(0.0)
    assert limit.value == 256


def test_a_small_bound_is_kept_as_it_is() -> None:
    limit = EventLoopLimit(3)
    for _ in range(30 * TICKS):
        limit.came_late(LATE)
    assert limit.value == 3


@pytest.mark.anyio
async def test_a_busy_loop_is_found_late_and_every_look_is_counted() -> None:
    limit, metrics, looks = EventLoopLimit(256), Metrics("bundle", "dataset"), list[float]()

    def tell(by_s: float) -> None:
        looks.append(by_s)
        metrics.load.loop_came_late(by_s)

    metrics.load.watch_event_loop(limit, lambda: 7)
    watching = asyncio.create_task(limit.watch(tell))
    until = time.monotonic() + 10.0
    while limit.value == 256 and time.monotonic() < until:
        time.sleep(LATE)
        await asyncio.sleep(0)
    watching.cancel()
    assert limit.value < 256
    text = metrics.text().decode()
    in_time = sum(by_s <= 0.005 for by_s in looks)
    assert f"shortlist_loop_late_seconds_count {len(looks)}.0" in text
    assert f'shortlist_loop_late_seconds_bucket{{le="0.005"}} {in_time}.0' in text
    assert f"shortlist_in_process_limit {limit.value}.0" in text
    assert "shortlist_in_process 7.0" in text
