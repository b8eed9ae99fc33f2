"""Asks for more than the servers can do, and sees what callers get, what it costs, and when it is over."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.chaos.judge import Judged, Made, in_time, judge, percentile, reasons, recovered_s, share
from bench.chaos.stand import GATEWAY, TRITON, Stand
from bench.load.traffic import HOST, PATH, Exchange, Run, closed_loop, open_loop
from bench.servers import BenchError
from contract.ids import OwnId

CLIENTS = 16
CALM_SHARE, CALM_S = 0.25, 5.0
"""Load before and after an overload, as a share of capacity, and its seconds: what normal service means."""
CHEAP_S = 10.0
PAUSE_S = 3.0
STARTS, FOLLOWING = 5, 100


@dataclass(frozen=True)
class Capacity:
    """Full answers per second to sixteen callers that wait for each answer, and what each one costs."""

    rate: float
    p50_ms: float
    p95_ms: float
    cpu_ms: dict[str, float]


def capacity(stand: Stand, users: Sequence[OwnId], seconds: float) -> Capacity:
    """Measures what the servers can do."""
    before = stand.usage()
    run = asyncio.run(closed_loop(stand.settings.port, users, clients=CLIENTS, duration_s=seconds))
    spent = stand.usage().spent_since(before)
    judged = [judge(exchange) for exchange in run.exchanges]
    full = sum(one.made is Made.FULL for one in judged)
    return Capacity(
        rate=full / run.seconds,
        p50_ms=percentile(judged, 50.0),
        p95_ms=percentile(judged, 95.0),
        cpu_ms={name: 1e3 * cpu_s / max(len(judged), 1) for name, cpu_s in spent.items()}
        | {"generator": 1e3 * run.cpu_s / max(len(judged), 1)},
    )


def cheap_cost(stand: Stand, users: Sequence[OwnId], rate: float) -> dict[str, float]:
    """Measures what a popular slate costs by process, in CPU ms, while Triton is stopped."""
    stand.supervisor.stop(TRITON)
    try:
        before = stand.usage()
        run = asyncio.run(open_loop(stand.settings.port, users, rate=rate, duration_s=CHEAP_S))
        spent = stand.usage().spent_since(before)
    finally:
        stand.supervisor.start(TRITON)
        stand.wait_until_well()
    count = max(len(run.exchanges), 1)
    return {name: 1e3 * spent[name] / count for name in spent if name not in (TRITON, "stub")} | {
        "generator": 1e3 * run.cpu_s / count
    }


@dataclass(frozen=True)
class Overload:
    """What came of one rate above capacity. CPU in seconds, memory in MiB, by process."""

    factor: float
    rate: float
    seconds: float
    requests: int
    in_time: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    full: int
    less: int
    cheap: int
    refused: int
    wrong: int
    full_per_s: float
    share_of_capacity: float
    normal_after_s: float | None
    cpu_s: dict[str, float]
    memory_before: dict[str, float]
    memory_after: dict[str, float]
    lag_p99_ms: float
    reasons: dict[str, int]

    @property
    def is_promise_kept(self) -> bool:
        """Whether every answer was one of the documented ones, and normal service came back."""
        return not self.wrong and self.normal_after_s is not None


def overload(
    stand: Stand, users: Sequence[OwnId], can: Capacity, factor: float, seconds: float, budget_ms: float
) -> Overload:
    """Loads the gateway at `factor` times its capacity for `seconds`, and lightly before and after."""
    calm = asyncio.run(_calm(stand, users, can))
    before = stand.usage()
    heavy, light = asyncio.run(_load(stand, users, can, factor, seconds))
    usage = stand.usage()
    time.sleep(PAUSE_S)
    judged = [judge(exchange) for exchange in heavy.exchanges]
    counts = {made: sum(one.made is made for one in judged) for made in Made}
    lags = sorted((one.sent_s - one.due_s) * 1e3 for one in heavy.exchanges)
    was_full = share([judge(one) for one in calm.exchanges], Made.FULL)
    return Overload(
        factor=factor,
        rate=factor * can.rate,
        seconds=seconds,
        requests=len(judged),
        in_time=in_time(judged, budget_ms),
        p50_ms=percentile(judged, 50.0),
        p99_ms=percentile(judged, 99.0),
        max_ms=percentile(judged, 100.0),
        full=counts[Made.FULL],
        less=counts[Made.LESS],
        cheap=counts[Made.CHEAP],
        refused=counts[Made.REFUSED],
        wrong=counts[Made.WRONG],
        full_per_s=counts[Made.FULL] / seconds,
        share_of_capacity=counts[Made.FULL] / seconds / can.rate,
        normal_after_s=_normal_after_s([judge(one) for one in light.exchanges], was_full, budget_ms),
        cpu_s=usage.spent_since(before) | {"generator": heavy.cpu_s},
        memory_before=dict(before.memory_mib),
        memory_after=dict(stand.usage().memory_mib),
        lag_p99_ms=lags[int(0.99 * len(lags))],
        reasons=reasons(judged),
    )


def _normal_after_s(light: Sequence[Judged], was_full: float, budget_ms: float) -> float | None:
    """When answers are full and within the budget as before, from the end of the overload."""
    in_budget = [
        one if one.latency_ms <= budget_ms else Judged(one.due_s, one.latency_ms, Made.LESS) for one in light
    ]
    return recovered_s(in_budget, 0.0, was_full, window_s=0.5)


async def _calm(stand: Stand, users: Sequence[OwnId], can: Capacity) -> Run:
    return await open_loop(stand.settings.port, users, rate=CALM_SHARE * can.rate, duration_s=CALM_S, seed=1)


async def _load(
    stand: Stand, users: Sequence[OwnId], can: Capacity, factor: float, seconds: float
) -> tuple[Run, Run]:
    async def after() -> Run:
        await asyncio.sleep(seconds)
        return await _calm(stand, users, can)

    heavy = open_loop(stand.settings.port, users, rate=factor * can.rate, duration_s=seconds)
    return await asyncio.gather(heavy, after())


def first_requests(stand: Stand, users: Sequence[OwnId]) -> list[dict[str, float]]:
    """Restarts Triton and the gateway, waits until they are ready, and times the first requests."""
    starts = []
    for _ in range(STARTS):
        started = time.monotonic()
        stand.restart(TRITON, GATEWAY)
        stand.wait_until_well()
        ready_s = time.monotonic() - started
        ms = _one_by_one(stand.settings.port, random.Random(0).sample(users, 1 + FOLLOWING))
        median = statistics.median(ms[1:])
        starts.append({"ready_s": ready_s, "first_ms": ms[0], "median_ms": median, "ratio": ms[0] / median})
    return starts


def _one_by_one(port: int, users: Sequence[OwnId]) -> list[float]:
    """Milliseconds of one request after the other, over one connection that is open before the first.

    Raises:
        BenchError: the first is not answered by the ensemble in full: ready means warm.
    """
    took_ms = []
    connection = http.client.HTTPConnection(HOST, port, timeout=10.0)
    connection.connect()
    for user_id in users:
        body = json.dumps({"user_id": user_id, "n": 10}).encode()
        started = time.perf_counter()
        connection.request("POST", PATH, body, {"content-type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        done = time.perf_counter()
        took_ms.append((done - started) * 1e3)
        judged = judge(Exchange(user_id, started, started, done, response.status, answer))
        if judged.made is not Made.FULL and len(took_ms) == 1:
            raise BenchError(f"the first request after the start is {judged.made}: {judged.why}")
    connection.close()
    return took_ms
