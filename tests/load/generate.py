"""Sends requests at the instants of a schedule and counts their latency from those instants.

A client that waits for each answer sends less when the server stalls, and so hides the stall. Here every
request has its scheduled instant, and a stall delays all that fall due in it (open loop).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
from hdrh.histogram import HdrHistogram

SHORTEST_US, LONGEST_US, DIGITS = 1, 120_000_000, 3
PATH = "/v1/recommendations"
MOST_CONNECTIONS = 1000


def histogram() -> HdrHistogram:
    """Makes an empty histogram of microseconds, three digits exact."""
    return HdrHistogram(SHORTEST_US, LONGEST_US, DIGITS)


def schedule(rate: float, duration_s: float, seed: int) -> list[float]:
    """Draws arrival instants in seconds from the start; users are independent, so gaps are exponential."""
    random_gap, instants, now = random.Random(seed), [], 0.0
    while (now := now + random_gap.expovariate(rate)) < duration_s:
        instants.append(now)
    return instants


@dataclass
class Result:
    """What one run saw. `latency` counts every answer and every failure, from the scheduled instant."""

    scheduled: int = 0
    took_s: float = 0.0
    latency: HdrHistogram = field(default_factory=histogram)
    lag: HdrHistogram = field(default_factory=histogram)
    sources: Counter[str] = field(default_factory=Counter)
    degraded: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    cpu_s: float = 0.0

    @property
    def answered(self) -> int:
        """Requests answered with 200."""
        return sum(self.sources.values())

    @property
    def achieved_rate(self) -> float:
        """Good answers per second, until the last one arrived."""
        return self.answered / self.took_s if self.took_s else 0.0


def _microseconds(seconds: float) -> int:
    return min(max(int(seconds * 1e6), SHORTEST_US), LONGEST_US)


async def run(
    url: str,
    user_ids: Sequence[int],
    *,
    rate: float,
    duration_s: float,
    n: int = 10,
    seed: int = 0,
    timeout_s: float = 30.0,
    warm_up: int = 10,
) -> Result:
    """Sends `rate` requests per second for `duration_s` and waits for the last answer.

    `seed` draws the instants and the users. `warm_up` requests go first, one by one, and count for nothing:
    they open connections and fill caches.
    """
    result, draw = Result(), random.Random(seed)
    limits = httpx.Limits(max_connections=MOST_CONNECTIONS, max_keepalive_connections=MOST_CONNECTIONS)
    async with httpx.AsyncClient(base_url=url, timeout=timeout_s, limits=limits, trust_env=False) as client:

        async def send(user_id: int, due: float, counted: bool = True) -> None:
            sent = time.perf_counter()
            try:
                answer = await client.post(PATH, json={"user_id": user_id, "n": n})
                body = answer.json() if answer.status_code == httpx.codes.OK else None
                fault = "" if body is not None else f"HTTP {answer.status_code}"
            except httpx.HTTPError as error:
                body, fault = None, type(error).__name__
            done = time.perf_counter()
            if not counted:
                return
            result.latency.record_value(_microseconds(done - due))
            result.lag.record_value(_microseconds(sent - due))
            if body is None:
                result.errors[fault] += 1
            else:
                result.sources[body["source"]] += 1
                result.degraded.update(body["degraded"])

        for _ in range(warm_up):
            await send(draw.choice(user_ids), time.perf_counter(), counted=False)
        instants = schedule(rate, duration_s, seed)
        result.scheduled = len(instants)
        cpu, start, tasks = time.process_time(), time.perf_counter(), set()
        for instant in instants:
            if (wait := start + instant - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(send(draw.choice(user_ids), start + instant))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.gather(*tasks)
        result.took_s = max(time.perf_counter() - start, duration_s)
        result.cpu_s = time.process_time() - cpu
    return result
