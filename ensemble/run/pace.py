"""How long a piece of work takes of late, so that one may know beforehand whether there is time for it."""

from __future__ import annotations

import time
from collections.abc import Callable

RISES, FALLS = 0.5, 0.05
"""Share of a slower and of a faster run in the next expectation: near the slow runs, not their mean."""
FORGETS_S = 1.0
"""Seconds without a run after which half of the expectation is left: work that is left out for being slow
would never be measured again."""


class Pace:
    """The expected seconds per row. A single run at most doubles it, so that one stall decides nothing."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._row_s, self._noted_s = 0.0, 0.0

    def note(self, rows: int, seconds: float) -> None:
        """Takes what a run of some rows took."""
        expected, now_s = self._now(), self.clock()
        row_s = seconds / max(rows, 1)
        if expected:
            row_s = min(row_s, 2 * expected)
            expected += (RISES if row_s > expected else FALLS) * (row_s - expected)
        self._row_s, self._noted_s = expected or row_s, now_s

    def of(self, rows: int) -> float:
        """Gives the seconds that a run of so many rows is expected to take; 0 where nothing was noted."""
        return rows * self._now()

    def _now(self) -> float:
        if not self._row_s:
            return 0.0
        idle_s = self.clock() - self._noted_s
        return self._row_s if idle_s < FORGETS_S else self._row_s * float(0.5 ** (idle_s / FORGETS_S))
