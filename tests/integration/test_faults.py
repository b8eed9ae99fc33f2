"""The short form of `make chaos` and `make overload`: while a server is harmed, every caller gets an answer.

How late answers are is measured there; here it is only that they come, say what they are, and get well.
"""

from __future__ import annotations

import asyncio
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.chaos.judge import Judged, Made, judge
from bench.chaos.stand import REDIS, STUB, TRITON, Stand
from bench.load.traffic import closed_loop
from tests.builders.world import World

pytestmark = pytest.mark.timeout(600)

CLIENTS, SLICE_S, WELL_S = 4, 1.0, 120.0
CROWD, CROWD_S = 600, 4.0
"""Callers at once, far more than are answered in a budget, and the seconds for which they ask."""
ANSWERED = {Made.FULL, Made.LESS, Made.CHEAP}


@pytest.fixture
def stand(harmed: World) -> Stand:
    stand = Stand(harmed.settings)
    stand.wait_until_well()
    return stand


def asked(world: World, seconds: float) -> list[Judged]:
    """What a few callers get who ask without a pause."""
    users = world.manifest()["sample_user_ids"]
    run = asyncio.run(closed_loop(world.ports["PORT"], users, clients=CLIENTS, duration_s=seconds))
    return [judge(exchange) for exchange in run.exchanges]


def asked_until_well(world: World) -> list[Judged]:
    """What callers get until one whole second of answers is from the full ensemble."""
    got, until = list[Judged](), time.monotonic() + WELL_S
    while True:
        part = asked(world, SLICE_S)
        got += part
        if all(one.made is Made.FULL for one in part):
            return got
        assert time.monotonic() < until, f"not well again: {part[-1]}"


@pytest.mark.parametrize(
    ("target", "number", "restarted"),
    [
        (STUB, signal.SIGKILL, {TRITON}),
        (REDIS, signal.SIGKILL, {REDIS}),
        (REDIS, signal.SIGSTOP, {REDIS}),
        (TRITON, signal.SIGKILL, {TRITON}),
    ],
    ids=["dead Python process", "dead Redis", "silent Redis", "dead Triton"],
)
def test_every_request_is_answered_while_a_server_is_replaced_and_it_alone(
    harmed: World, stand: Stand, target: str, number: signal.Signals, restarted: set[str]
) -> None:
    asked_until_well(harmed)
    before = stand.pids()
    with ThreadPoolExecutor(1) as pool:
        callers = pool.submit(asked, harmed, 3.0)
        time.sleep(0.5)
        stand.signal(target, number)
        got = callers.result()
    got += asked_until_well(harmed)
    assert {one.made for one in got} <= ANSWERED, [one for one in got if one.made not in ANSWERED][:3]
    assert Made.CHEAP in {one.made for one in got}, "the harm was felt"
    after = stand.pids()
    assert {name for name in before if before[name] != after[name]} == restarted


def test_far_too_many_callers_are_answered_or_refused_and_soon_forgotten(harmed: World, stand: Stand) -> None:
    asked_until_well(harmed)
    before = stand.pids()
    users = harmed.manifest()["sample_user_ids"]
    crowd = closed_loop(harmed.ports["PORT"], users, clients=CROWD, duration_s=CROWD_S, timeout_s=60.0)
    got = [judge(exchange) for exchange in asyncio.run(crowd).exchanges]
    assert len(got) >= CROWD
    allowed = ANSWERED | {Made.REFUSED}
    assert {one.made for one in got} <= allowed, [one for one in got if one.made not in allowed][:3]
    asked_until_well(harmed)
    assert stand.pids() == before
