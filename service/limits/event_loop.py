"""How many requests may be in the process at once: fewer while the process itself falls behind."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from service.limits.deadline import Clock

TICK_S, TICKS = 0.01, 5
SLOW_S = 0.008
"""Seconds by which the event loop may come late; an answer takes a few of its turns."""
BACKOFF = 0.8
LEAST = 32
"""Requests that are let in however late the loop comes: what one turn of it can answer."""


class EventLoopLimit:
    """A bound that shrinks while the event loop comes late again and again, and grows back by and by.

    What waits for the loop waits unseen, in its queue of tasks and in the sockets, where no deadline is
    known. So the loop is asked to come back after ten milliseconds; what it is late by is what every
    request loses at each of its turns. One pause of the machine is a single late turn: it changes nothing.

    `lateness_s` is what the loop was at least late by in its last turns.

    Source: Chiu and Jain 1989, as for the bound of requests in the ensemble (`adaptive.py`).
    """

    def __init__(self, most: int, clock: Clock = time.monotonic) -> None:
        self._most, self._least, self._clock = most, min(LEAST, most), clock
        self._bound = float(most)
        self._late = deque[float](maxlen=TICKS)
        self.lateness_s = 0.0

    @property
    def value(self) -> int:
        """Requests that may be in the process now."""
        return int(self._bound)

    def came_late(self, by_s: float) -> None:
        """Learns by how many seconds the loop was late this time."""
        self._late.append(by_s)
        if len(self._late) == TICKS:
            self.lateness_s = min(self._late)
        if len(self._late) == TICKS and self.lateness_s > SLOW_S:
            self._bound = max(self._least, self._bound * BACKOFF)
            self._late.clear()
        elif by_s <= SLOW_S:
            self._bound = min(self._most, self._bound + 1)

    async def watch(self, tell: Callable[[float], None] = lambda _: None) -> None:
        """Looks at the running loop for ever; `tell` is given by how many seconds it was late, each time."""
        while True:
            due_s = self._clock() + TICK_S
            await asyncio.sleep(TICK_S)
            by_s = self._clock() - due_s
            self.came_late(by_s)
            tell(by_s)
