"""When answers leave that were made without the ensemble because it was busy: spaced, not all at once."""

from __future__ import annotations

import time

from service.limits.deadline import Clock

RATE = 400.0
"""Answers a second that leave one behind the other: a third of what the gateway's core can make of them."""
SHARE = 0.5
"""Of the budget: none is held for longer than until so much of it has passed."""

LATE = 4.0
"""How many times what the event loop is late by is taken off that: who is held needs another turn of it."""


class Shaper:
    """Spaces answers, each a moment behind the last, none beyond the instant that is its own.

    Who asks again as soon as there is an answer gets a dozen cheap ones in the time of a full one. Making
    those takes the gateway's core, the ensemble's answers come late for it, and so fewer are let into the
    ensemble and more are answered cheaply: with more such callers than the ensemble has places, hardly a full
    answer is left. Where callers come by themselves, and not because they were answered, a moment of waiting
    is all that changes.

    Source: the leaky bucket as a queue, Turner 1986, New directions in communications.
    """

    def __init__(self, rate: float = RATE, clock: Clock = time.monotonic) -> None:
        self._gap_s, self._clock, self._last_s = 1 / rate, clock, 0.0

    def held_s(self, latest_s: float) -> float:
        """Gives the seconds for which the next one is held: to a gap behind the last, or to `latest_s`."""
        now_s = self._clock()
        self._last_s = max(now_s, min(self._last_s + self._gap_s, latest_s))
        return self._last_s - now_s
