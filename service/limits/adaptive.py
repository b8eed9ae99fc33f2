"""What the ensemble is asked for at once, found by trying: how many requests, how many candidates each."""

from __future__ import annotations

import time
from itertools import pairwise

from contract.tensors import FULL_QUALITY
from service.limits.circuits import Circuit
from service.limits.deadline import Clock

FIRST, LEAST = 16, 4
"""Requests in flight at the start, and at the least."""
BACKOFF = 0.9
TARGET = 0.85
"""Share of the ensemble's time that the 95th percentile may take: what is left above it absorbs a burst."""
WINDOW_S, WINDOW_SAMPLES = 0.1, 8
"""The least that is judged together."""

STEPS = (0.0, 0.25, 0.5, 0.75, FULL_QUALITY)
"""Of the quality; at 0 the ranker is left out as well."""
TIGHT = 0.9
"""The share of the ensemble's time beyond which the quality is lowered."""
EASY = tuple(TIGHT * max(low / high, 0.5) for low, high in pairwise(STEPS))
"""Of each step, the share below which it is raised to the next: there is room even if all of the time grows
as the candidates do. Between a step's two shares nothing changes, so that the quality does not swing."""
WORSE, BETTER = 5, 4
"""Windows in a row before it is lowered, and before it is raised: from the bottom to the top in 1.6 s."""


class Window:
    """Collects latencies until enough of them, over long enough, can be judged together."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._latencies: list[float] = []
        self._began_s = clock()

    def add(self, latency_s: float) -> float | None:
        """Takes one latency in seconds, gives the 95th percentile where that completes the window."""
        now = self._clock()
        self._latencies.append(latency_s)
        if len(self._latencies) < WINDOW_SAMPLES or now - self._began_s < WINDOW_S:
            return None
        self._latencies.sort()
        p95 = self._latencies[int(0.95 * (len(self._latencies) - 1) + 0.5)]
        self._latencies.clear()
        self._began_s = now
        return p95


class AdaptiveLimit:
    """A bound that grows by one while answers are quick enough, and shrinks by a tenth when they are not.

    Requests beyond the bound are not queued: by Little's law a queue only adds its own time to everyone's.
    The 95th percentile of a window of answers is compared with `target_s`, so that one slow answer among many
    does not count. A bound of which not even half was used is not raised: nothing was learnt about more. One
    that is used by half is, so that a moment's slowness does not reach those who are in flight anyway.

    Source: Chiu and Jain 1989, Analysis of the increase and decrease algorithms for congestion avoidance,
    section 3.3 (additive increase, multiplicative decrease); as a limit of concurrency: AIMDLimit of
    Netflix's concurrency-limits.
    """

    def __init__(self, target_s: float, least: int, most: int, clock: Clock = time.monotonic) -> None:
        self._target_s, self._least, self._most = target_s, min(least, most), most
        self._limit = float(min(max(FIRST, least), most))
        self._window = Window(clock)
        self._is_used = False
        self.in_flight = 0

    @property
    def value(self) -> int:
        """Requests that may be in flight now."""
        return int(self._limit)

    def at_least(self, other: AdaptiveLimit) -> None:
        """Begins no lower than another: what was found on the same machine need not be found again."""
        self._limit = max(self._limit, min(other._limit, float(self._most)))

    @property
    def is_lowest(self) -> bool:
        """Whether fewer in flight are not tried any more: the ensemble itself is slow."""
        return self.value <= self._least

    def try_enter(self) -> bool:
        """Takes a place if there is one; `leave` gives it back."""
        self._is_used |= 2 * self.in_flight >= self.value
        if self.in_flight >= self.value:
            return False
        self.in_flight += 1
        return True

    def leave(self) -> None:
        """Gives a place back."""
        self.in_flight -= 1

    def took(self, latency_s: float) -> None:
        """Learns how long an answer took, in seconds; a late one took at least all that it had."""
        p95_s = self._window.add(latency_s)
        if p95_s is None:
            return
        if p95_s > self._target_s:
            self._limit = max(self._least, self._limit * BACKOFF)
        elif self._is_used:
            self._limit = min(self._most, self._limit + 1)
        self._is_used = False


class AdaptiveQuality:
    """A factor in [0, 1] that goes down by a step as the 95th percentile nears the time, and up again.

    The bound of requests in flight acts first (`is_last_resort`): fewer full answers are worth more than as
    many weak ones, and under mere overload the ensemble is not slow, only wanted too much.
    """

    def __init__(self, time_s: float, clock: Clock = time.monotonic) -> None:
        self._time_s = time_s
        self._window = Window(clock)
        self._step = len(STEPS) - 1
        self._tight = self._easy = 0

    @property
    def value(self) -> float:
        """The share of the candidates to consider now."""
        return STEPS[self._step]

    def took(self, latency_s: float, is_last_resort: bool) -> None:
        """Learns how long an answer took, in seconds, and whether nothing else is left that would help."""
        p95_s = self._window.add(latency_s)
        if p95_s is None:
            return
        self._tight = self._tight + 1 if p95_s > TIGHT * self._time_s and is_last_resort else 0
        is_easy = self._step < len(EASY) and p95_s < EASY[self._step] * self._time_s
        self._easy = self._easy + 1 if is_easy else 0
        if self._tight >= WORSE:
            self._move(-1)
        elif self._easy >= BETTER:
            self._move(+1)

    def _move(self, steps: int) -> None:
        self._step = min(max(self._step + steps, 0), len(STEPS) - 1)
        self._tight = self._easy = 0


class EnsembleLimits:
    """What protects one ensemble, and those who wait for it: a circuit, a bound of requests, a quality."""

    def __init__(self, dependency: str, time_s: float, most_in_flight: int) -> None:
        """Takes the seconds that the ensemble has for a request of the full budget."""
        self.time_s = time_s
        self.circuit = Circuit(dependency)
        self.in_flight = AdaptiveLimit(TARGET * time_s, LEAST, most_in_flight)
        self.quality = AdaptiveQuality(time_s)

    def took(self, latency_s: float, lateness_s: float) -> None:
        """Learns how long an answer took, in seconds, and by how many the event loop came late meanwhile.

        Callers also wait for the loop to take up their request, and to write its answer. That is no fault of
        the ensemble: fewer in flight help, fewer candidates hardly.
        """
        self.in_flight.took(latency_s + 2 * lateness_s)
        self.quality.took(latency_s, self.in_flight.is_lowest)
