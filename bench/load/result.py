"""What a load run saw, counted."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

from hdrh.histogram import HdrHistogram

from bench.load.traffic import Run

SHORTEST_US, LONGEST_US, DIGITS = 1, 120_000_000, 3
OK = 200


def histogram() -> HdrHistogram:
    """Makes an empty histogram of microseconds, three digits exact."""
    return HdrHistogram(SHORTEST_US, LONGEST_US, DIGITS)


@dataclass
class Result:
    """`latency` counts every answer and every failure, from the scheduled instant."""

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


def count(run: Run, duration_s: float) -> Result:
    """Takes a run that was to last `duration_s`, gives its figures."""
    result = Result(len(run.exchanges), max(run.seconds, duration_s), cpu_s=run.cpu_s)
    for exchange in run.exchanges:
        result.latency.record_value(_microseconds(exchange.done_s - exchange.due_s))
        result.lag.record_value(_microseconds(exchange.sent_s - exchange.due_s))
        if exchange.status == OK:
            answer = json.loads(exchange.body)
            result.sources[answer["source"]] += 1
            result.degraded.update(answer["degraded"])
        else:
            result.errors[f"HTTP {exchange.status}" if exchange.status else exchange.body.decode()] += 1
    return result
