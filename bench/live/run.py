"""Events beside recommendations, on the running stack: `python -m bench.live.run`.

Slates are asked at a fixed rate all the time. In every other stretch events are sent as well, by a process
of their own, so that no slate's clock waits for who sends events: what events cost a slate is a ratio of one
run. Some of the events are probes, of which it is timed when they were accepted, and when the next slate of
their user would leave out their item.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import random
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import redis.asyncio as redis

from bench.load import traffic
from bench.load.load import LoadError, own_ids, positive
from bench.load.report import milliseconds
from bench.load.result import Result, count
from contract.bundle import ITEM_IDS_FILE, read_manifest
from contract.ids import OwnId
from contract.keys import decode_seen, seen_key
from deploy.local.settings import LocalSettings, load_settings

STRETCH_S, MOST_WITHOUT_S = 60.0, 60.0
"""Seconds of a stretch with events, and of one without, which lasts no longer than the latter."""
READY_S = 1.0
"""Seconds for who sends events to make its clients, before any clock runs."""
POLL_S = 0.01
PROBES = 5
"""Probes per second."""
USERS = 10_000
"""Users, at most, who act and ask: one that acts ten times a minute is busy."""
FIRST_PROBED = 10**12
"""The first user of whom nothing is known."""
GIVE_UP_S = 30.0


@dataclass
class Sent:
    """What became of events: how many were accepted, what refused calls said, seconds until calls were
    answered, and seconds from that answer until probes had their effect; 0 where that came first."""

    accepted: int = 0
    refused: list[str] = field(default_factory=list)
    answered_s: list[float] = field(default_factory=list)
    effect_s: list[float] = field(default_factory=list)

    def add(self, other: Sent) -> None:
        """Adds what became of other events."""
        self.accepted += other.accepted
        self.refused += other.refused
        self.answered_s += other.answered_s
        self.effect_s += other.effect_s


class Sender:
    """Sends events at a fixed rate, `size` in a call, and probes."""

    def __init__(self, settings: LocalSettings, users: Sequence[OwnId], size: int, seed: int) -> None:
        manifest = read_manifest(settings.bundle, verify=False)
        self.url, self.users, self.size = settings.gateway_url, users, size
        self.dataset, self.label = manifest.dataset, manifest.labels[0]
        self.items: list[int] = np.load(settings.bundle / ITEM_IDS_FILE).tolist()
        self.http = httpx.AsyncClient(headers=settings.headers, timeout=GIVE_UP_S, trust_env=False)
        self.redis: Any = redis.Redis(**settings.redis.connection_kwargs())
        self.random, self.sent = random.Random(seed), Sent()
        self.probed = itertools.count(FIRST_PROBED + seed * 10**6)

    async def run(self, rate: float, duration_s: float) -> Sent:
        """Sends for so many seconds, then waits for what is under way."""
        started, tasks = time.monotonic(), set[asyncio.Task[Any]]()
        calls = (rate / self.size) * duration_s
        due = [(n / calls * duration_s, False) for n in range(round(calls))]
        due += [(n / PROBES, True) for n in range(round(PROBES * duration_s))]
        for instant, is_probe in sorted(due):
            if (wait := started + instant - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self._probe() if is_probe else self._send(self._events()))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        return self.sent

    def _events(self) -> list[dict[str, Any]]:
        return [
            self._event(self.random.choice(self.users), self.random.choice(self.items))
            for _ in range(self.size)
        ]

    def _event(self, user_id: OwnId, item_id: OwnId) -> dict[str, Any]:
        label = {self.label: int(self.random.random() < 0.5)}
        return {"user_id": user_id, "item_id": item_id, "event_id": uuid.uuid4().hex, **label}

    async def _send(self, events: list[dict[str, Any]]) -> bool:
        began = time.monotonic()
        answer = await self.http.post(f"{self.url}/v1/events", json={"events": events})
        if answer.status_code != 202 or answer.json()["refused"]:
            self.sent.refused.append(answer.text[:200])
            return False
        self.sent.answered_s.append(time.monotonic() - began)
        self.sent.accepted += answer.json()["accepted"]
        return True

    async def _probe(self) -> None:
        """Sends one event of a user of its own, and looks until the user has seen the item."""
        user_id, item_id = next(self.probed), self.random.choice(self.items)
        seen = asyncio.create_task(self._seen(user_id, item_id))
        if await self._send([self._event(user_id, item_id)]):
            accepted = time.monotonic()
            self.sent.effect_s.append(max(0.0, await seen - accepted))
        else:
            seen.cancel()

    async def _seen(self, user_id: int, item_id: OwnId) -> float:
        until = time.monotonic() + GIVE_UP_S
        while time.monotonic() < until:
            if item_id in decode_seen(await self.redis.get(seen_key(self.dataset, user_id))).tolist():
                return time.monotonic()
            await asyncio.sleep(POLL_S)
        raise TimeoutError(f"user {user_id}: no effect within {GIVE_UP_S:.0f} s; does the consumer run?")

    async def close(self) -> None:
        """Closes the connections."""
        await self.http.aclose()
        await self.redis.aclose()


def send(
    settings: LocalSettings,
    users: Sequence[OwnId],
    size: int,
    seed: int,
    rate: float,
    duration_s: float,
    begins_s: float,
) -> Sent:
    """Sends the events of one stretch, which begins at an instant of Unix time; gives what became of them."""

    async def run() -> Sent:
        sender = Sender(settings, users, size, seed)
        await asyncio.sleep(begins_s - time.time())
        try:
            return await sender.run(rate, duration_s)
        finally:
            await sender.close()

    return asyncio.run(run())


async def measure(
    given: argparse.Namespace, settings: LocalSettings, users: Sequence[OwnId]
) -> tuple[dict[bool, Result], Sent, float]:
    """Loads in stretches; gives what slates saw without events and with them, and the events.

    Raises:
        LoadError: ids are text.
    """
    manifest = read_manifest(settings.bundle, verify=False)
    if "string" in (manifest.user_id_dtype, manifest.item_id_dtype):
        raise LoadError(f"{manifest.dataset}: its ids are text; serve a data set whose ids are numbers")
    request: dict[str, Any] = {"n": 10, "headers": settings.headers}
    sent = Sent()
    runs: dict[bool, list[traffic.Run]] = {False: [], True: []}
    with_events_s = 0.0
    await traffic.closed_loop(settings.port, users, clients=1, duration_s=2, **request)
    # Not forked: a child of a process with an event loop and clients would share them.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        await asyncio.wrap_future(pool.submit(os.getpid))  # it has begun before the clock does
        for number, (has_events, stretch_s) in enumerate(_stretches(given.seconds, given.stretch)):
            loading = traffic.open_loop(
                settings.port, users, rate=given.rate, duration_s=stretch_s, seed=number, **request
            )
            begins_s = time.time() + READY_S
            stretch = (settings, users, given.size, given.seed + number, given.events, stretch_s, begins_s)
            sending = pool.submit(send, *stretch) if has_events else None
            await asyncio.sleep(READY_S)
            began = time.monotonic()
            if sending is not None:
                run, found = await asyncio.gather(loading, asyncio.wrap_future(sending))
                with_events_s += time.monotonic() - began
                sent.add(found)
            else:
                run = await loading
            runs[has_events].append(run)
    return {has: _joined(some) for has, some in runs.items()}, sent, with_events_s


def _stretches(seconds: float, stretch_s: float) -> Iterator[tuple[bool, float]]:
    """With and without events in turns, so many seconds with them; without before and after each, as the
    machine's pace drifts."""
    without = False, min(seconds, stretch_s, MOST_WITHOUT_S)
    yield without
    for _ in range(max(1, round(seconds / stretch_s))):
        yield True, min(seconds, stretch_s)
        yield without


def _joined(runs: Sequence[traffic.Run]) -> Result:
    whole = traffic.Run([one for run in runs for one in run.exchanges], sum(run.seconds for run in runs))
    return count(whole, whole.seconds)


def figures(slates: dict[bool, Result], sent: Sent, seconds: float) -> dict[str, Any]:
    """Gives what was measured, by name."""
    measured: dict[str, Any] = {
        "events_per_s": sent.accepted / seconds,
        "refused_calls": len(sent.refused),
        "answered_ms": _percentiles(sent.answered_s),
        "effect_after_202_ms": _percentiles(sent.effect_s),
    }
    for name, result in (("without", slates[False]), ("with", slates[True])):
        measured[f"slates_{name}_events"] = {
            "answered_per_s": result.achieved_rate,
            "errors": sum(result.errors.values()),
            "ensemble_share": result.sources["ensemble"] / max(1, result.answered),
            **{f"p{p}_ms": milliseconds(result.latency, p) for p in (50, 99)},
        }
    before, after = (measured[f"slates_{name}_events"]["p99_ms"] for name in ("without", "with"))
    measured["p99_ratio"] = after / before
    return measured


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    values = np.array(seconds or [np.nan]) * 1000
    return {f"p{p}": float(np.percentile(values, p)) for p in (50, 99)}


def text(measured: dict[str, Any]) -> str:
    """Writes the figures as the table of docs/live.md."""
    effect, answered = measured["effect_after_202_ms"], measured["answered_ms"]
    rows = [
        ("events accepted", f"{measured['events_per_s']:,.0f} per second"),
        ("calls refused", f"{measured['refused_calls']}"),
        ("from sent to 202, p50 / p99", f"{answered['p50']:,.0f} / {answered['p99']:,.0f} ms"),
        ("from 202 to effect, p50 / p99", f"{effect['p50']:,.0f} / {effect['p99']:,.0f} ms"),
    ]
    for name in ("without", "with"):
        slates = measured[f"slates_{name}_events"]
        rows.append(
            (
                f"slates {name} events, p50 / p99",
                f"{slates['p50_ms']:.1f} / {slates['p99_ms']:.1f} ms, {slates['answered_per_s']:.0f} per "
                f"second, {slates['ensemble_share']:.1%} of the ensemble",
            )
        )
    rows.append(("p99 of slates with events, of that without", f"{measured['p99_ratio']:.2f}"))
    return "\n".join(f"| {name} | {value} |" for name, value in rows)


def main() -> int:
    """Runs, prints and writes the report; 1 where there is nothing to load."""
    settings = load_settings()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=positive, default=60.0, help="with events (default: 60)")
    parser.add_argument(
        "--stretch", type=positive, default=STRETCH_S, help="of these, so many on end (default: 60)"
    )
    parser.add_argument("--events", type=positive, default=1000.0, help="per second (default: 1000)")
    parser.add_argument("--size", type=int, default=50, help="events in a call (default: 50)")
    parser.add_argument("--rate", type=positive, default=100.0, help="slates per second (default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        httpx.get(f"{settings.gateway_url}/healthz", timeout=5.0, trust_env=False).raise_for_status()
        users = own_ids(settings, USERS, given.seed)
        slates, sent, seconds = asyncio.run(measure(given, settings, users))
    except (httpx.HTTPError, LoadError, TimeoutError) as error:
        print(f"{error or type(error).__name__}; run `make up`", file=sys.stderr)
        return 1
    measured = figures(slates, sent, seconds)
    print(text(measured))
    for refused in sent.refused[:3]:
        print(refused, file=sys.stderr)
    path = settings.var / "load" / f"live-{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(vars(given) | measured, indent=1) + "\n")
    print(f"wrote {os.path.relpath(path, Path.cwd())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
