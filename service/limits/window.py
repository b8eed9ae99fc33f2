"""The latencies of the last moments, as what decides from them sees them."""

from __future__ import annotations

from collections.abc import Callable

Clock = Callable[[], float]


class Window:
    """Collects latencies until enough of them, over long enough, can be judged together."""

    def __init__(self, least_s: float, least_samples: int, clock: Clock) -> None:
        self._least_s, self._least_samples, self._clock = least_s, least_samples, clock
        self._latencies: list[float] = []
        self._began_s = clock()

    def add(self, latency_s: float) -> float | None:
        """Takes one latency in seconds, gives the 95th percentile where that completes the window."""
        now = self._clock()
        self._latencies.append(latency_s)
        if len(self._latencies) < self._least_samples or now - self._began_s < self._least_s:
            return None
        self._latencies.sort()
        p95 = self._latencies[int(0.95 * (len(self._latencies) - 1) + 0.5)]
        self._latencies.clear()
        self._began_s = now
        return p95
