"""Notes what was shown: after the answer, in the background, and never in an answer's way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

import structlog

from contract.shown import Shown
from service.failures import DependencyUnavailable
from service.metrics import Metrics
from service.store.store import Store

log = structlog.get_logger()

AT_ONCE = 256
"""Notes of one write."""
TIMEOUT_S = 1.0
"""Of one write: nobody waits for it."""


class ShownNotes:
    """Buffers notes and writes them to the store. What does not fit, and what the store does not take in
    time, is dropped and counted: no note is written twice, and no answer waits for one."""

    def __init__(self, store: Store, metrics: Metrics, most: int, every_s: float) -> None:
        self._store, self._metrics = store, metrics
        self._most, self._every_s = most, every_s
        self._waiting: deque[Shown] = deque()
        self._is_told = False
        self._writing = asyncio.Lock()

    def note(self, notes: Sequence[Shown]) -> None:
        """Takes the notes of an answer that was sent."""
        free = max(0, self._most - len(self._waiting))
        self._waiting.extend(notes[:free])
        if len(notes) > free and self._most:
            self._metrics.answers.noted("full", by=len(notes) - free)

    async def keep(self) -> None:
        """Writes what waits, again and again, until it is cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            await self.flush()

    async def flush(self) -> None:
        """Writes what waits now, after what is being written already."""
        async with self._writing:
            for _ in range(-(-len(self._waiting) // AT_ONCE)):
                some = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
                try:
                    await self._store.note_shown(some, TIMEOUT_S)
                except DependencyUnavailable as error:
                    self._metrics.answers.noted("redis", by=len(some))
                    if not self._is_told:
                        log.warning("shown_not_noted", reason=str(error))
                    self._is_told = True
                else:
                    self._metrics.answers.noted("noted", by=len(some))
                    self._is_told = False
