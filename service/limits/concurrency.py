"""How many requests may wait for the ensemble at once: as many as it answers in time, found by trying."""

from __future__ import annotations

import time

from service.limits.window import Clock, Window

FIRST = 16
BACKOFF = 0.9
WINDOW_S = 0.1
WINDOW_SAMPLES = 8


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
        self._window = Window(WINDOW_S, WINDOW_SAMPLES, clock)
        self._is_used = False
        self.in_flight = 0

    @property
    def value(self) -> int:
        """Requests that may be in flight now."""
        return int(self._limit)

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
