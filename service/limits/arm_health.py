"""How many of an arm's latest answers were bad."""

from __future__ import annotations

import time
from collections import deque

from service.limits.deadline import Clock

LATEST_S, MOST = 30.0, 1000
LEAST = 50
"""Answers of an arm before it is judged."""


class ArmHealth:
    """Remembers the latest answers of one arm: of so many seconds, and no more than so many."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._latest: deque[tuple[float, bool]] = deque(maxlen=MOST)

    def note(self, is_bad: bool) -> None:
        """Takes one answer."""
        self._latest.append((self._clock(), is_bad))

    def bad(self) -> tuple[int, int]:
        """Gives how many were bad, and of how many."""
        since_s = self._clock() - LATEST_S
        while self._latest and self._latest[0][0] < since_s:
            self._latest.popleft()
        return sum(is_bad for _, is_bad in self._latest), len(self._latest)


def exceeds(arm: tuple[int, int], champion: tuple[int, int], most: float) -> bool:
    """Says whether an arm's share of bad answers is above the champion's by more than `most`: what fails both
    is not the arm's fault."""
    (bad, answers), (others_bad, others) = arm, champion
    return answers >= LEAST and bad / answers - others_bad / max(others, 1) > most
