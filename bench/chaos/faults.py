"""Harms one server at a time under load, and sees what callers get and how long it lasts."""

from __future__ import annotations

import asyncio
import gc
import math
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bench.chaos.judge import (
    TOLERANCE_MS,
    WINDOW_S,
    Judged,
    Made,
    in_time,
    judge,
    percentile,
    reasons,
    recovered_s,
    share,
)
from bench.chaos.stand import GATEWAY, REDIS, STUB, TRITON, Stand
from bench.load.traffic import open_loop
from contract.ids import OwnId

CALM_S = 5.0
"""Seconds of load before the harm is done: what `as before` means."""


@dataclass(frozen=True)
class Harm:
    """A signal to one server; `released_s` seconds later, where given, a stopped one goes on.

    `heals_s` is the time that healing may take on a busy machine: a load that ends before cannot tell.
    """

    name: str
    target: str
    number: signal.Signals
    healed_by: str
    heals_s: float
    released_s: float | None = None

    def load_s(self, seconds: float) -> float:
        """How long the load must last, `seconds` at least."""
        return max(seconds, CALM_S + self.heals_s + WINDOW_S)


HARMS = (
    Harm("kill -9 of Triton", TRITON, signal.SIGKILL, "the supervisor", 15.0),
    Harm("kill -9 of Triton's Python process", STUB, signal.SIGKILL, "the watch, at once", 15.0),
    Harm("kill -9 of Redis", REDIS, signal.SIGKILL, "the supervisor", 10.0),
    Harm(
        "Redis accepts and never replies", REDIS, signal.SIGSTOP, "the watch, after three silent looks", 12.0
    ),
    Harm("Redis does not reply for 3 s", REDIS, signal.SIGSTOP, "Redis itself", 10.0, released_s=3.0),
    Harm(
        "Triton accepts and never replies",
        TRITON,
        signal.SIGSTOP,
        "the watch, after three silent looks",
        20.0,
    ),
    Harm(
        "Triton's Python process stands still", STUB, signal.SIGSTOP, "the watch, after three bad looks", 20.0
    ),
    Harm("kill -9 of the gateway", GATEWAY, signal.SIGKILL, "the supervisor", 10.0),
)


@dataclass(frozen=True)
class Outcome:
    """What callers saw of one harm. Shares are of all requests, those before the harm included.

    `late_in_second` counts late answers by the second in which they were due, from the harm on.
    """

    name: str
    healed_by: str
    rate: float
    requests: int
    answered: int
    in_time: float
    p999_ms: float
    max_ms: float
    full: int
    less: int
    cheap: int
    lag_max_ms: float
    recovered_s: float | None
    restarted: tuple[str, ...]
    reasons: dict[str, int]
    late_in_second: dict[int, int]

    @property
    def is_promise_kept(self) -> bool:
        """Whether every request was answered and marked, and all was well again in the end."""
        return self.answered == self.requests and self.recovered_s is not None


def harm(
    stand: Stand, users: Sequence[OwnId], one: Harm, *, rate: float, seconds: float, budget_ms: float
) -> Outcome:
    """Loads the gateway at `rate` for `seconds`, or until it can be healed, and harms a server after five."""
    stand.wait_until_well()
    before = stand.pids() | {STUB: min(stand.stubs(), default=0)}
    judged, lag_ms, harmed_s = asyncio.run(_load(stand, users, one, rate, one.load_s(seconds)))
    stand.wait_until_well()
    after = stand.pids() | {STUB: min(stand.stubs(), default=0)}
    calm = [answer for answer in judged if answer.due_s < harmed_s]
    back_s = recovered_s(judged, harmed_s + (one.released_s or 0.0), share(calm, Made.FULL))
    return Outcome(
        name=one.name,
        healed_by=one.healed_by,
        rate=rate,
        requests=len(judged),
        answered=sum(answer.made not in (Made.WRONG, Made.REFUSED) for answer in judged),
        in_time=in_time(judged, budget_ms),
        p999_ms=percentile(judged, 99.9),
        max_ms=percentile(judged, 100.0),
        full=sum(answer.made is Made.FULL for answer in judged),
        less=sum(answer.made is Made.LESS for answer in judged),
        cheap=sum(answer.made is Made.CHEAP for answer in judged),
        lag_max_ms=lag_ms,
        recovered_s=back_s,
        restarted=tuple(name for name in before if before[name] != after.get(name)),
        reasons=reasons(judged),
        late_in_second=dict(
            Counter(
                math.floor(answer.due_s - harmed_s)
                for answer in judged
                if answer.latency_ms > budget_ms + TOLERANCE_MS
            )
        ),
    )


async def _load(
    stand: Stand, users: Sequence[OwnId], one: Harm, rate: float, seconds: float
) -> tuple[list[Judged], float, float]:
    """Gives the judged answers, the generator's longest lag in ms, and when the harm was done."""

    async def strike() -> float:
        await asyncio.sleep(CALM_S)
        stand.signal(one.target, one.number)
        struck_s = time.perf_counter() - started
        if one.released_s is not None:
            await asyncio.sleep(one.released_s)
            stand.signal(one.target, signal.SIGCONT)
        return struck_s

    gc.collect()  # now, so that the generator's own does not move its clock
    started = time.perf_counter()
    run, harmed_s = await asyncio.gather(
        open_loop(stand.settings.port, users, rate=rate, duration_s=seconds), strike()
    )
    lag_ms = max((exchange.sent_s - exchange.due_s) * 1e3 for exchange in run.exchanges)
    return [judge(exchange) for exchange in run.exchanges], lag_ms, harmed_s
