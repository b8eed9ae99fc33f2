"""A circuit breaker per server: while it keeps failing, nobody waits for it; one request at a time tries."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from circuitbreaker import STATE_CLOSED, STATE_HALF_OPEN, CircuitBreaker

from service.failures import DependencyUnavailable
from service.limits.deadline import Clock

FAILURES = 5
RECOVERY_S = 0.5
"""From one try to the next while the circuit is open: also how much longer an outage seems than it is."""
ALL_LATE_S = 1.0
"""Late answers count as failures once none has come in time for so long: a busy server is late at times."""

TOGETHER_S = 0.01
"""Failures so close together count as one: the requests that share a call fail with it."""


class CircuitOpen(DependencyUnavailable):
    """The server has failed again and again; it is not asked for a moment."""

    def __init__(self, dependency: str) -> None:
        super().__init__(dependency, "it keeps failing and is not asked for a moment (circuit open)")


class Circuit:
    """Guards the calls to one server.

    The library counts and keeps the time; what is added here is that half open means one request and no more,
    that a late answer is only a failure where all are late, that requests of one call fail once, and that a
    cancelled call tells nothing.
    """

    def __init__(self, dependency: str, clock: Clock = time.monotonic) -> None:
        self.dependency = dependency
        self._clock = clock
        self._breaker = CircuitBreaker(FAILURES, RECOVERY_S, DependencyUnavailable, name=dependency)
        self._tried: set[bool] = set()
        self._in_time_s = clock()
        self._failed_s = -math.inf

    @property
    def state(self) -> str:
        """`closed`, `open` or `half_open`."""
        return str(self._breaker.state)

    @contextmanager
    def guard(self, *, is_patient: bool = True) -> Iterator[None]:
        """Runs the block unless the circuit is open, and learns from how it ends: from one that is not
        patient, which waits less than a server may take, not that it was late. Nor does the try of such a one
        keep a patient one from trying.

        Raises:
            CircuitOpen: the server is not asked; at once.
        """
        state = self._breaker.state
        is_try = state == STATE_HALF_OPEN
        if state != STATE_CLOSED and (not is_try or is_patient in self._tried):
            raise CircuitOpen(self.dependency)
        if is_try:
            self._tried.add(is_patient)
        try:
            yield
        except DependencyUnavailable as error:
            if is_patient or not error.is_late:
                self._failed(error, is_try)
            raise
        except Exception:
            self._answered()  # it did answer; what it said is for others to judge
            raise
        else:
            self._answered()
        finally:
            if is_try:
                self._tried.discard(is_patient)

    def _answered(self) -> None:
        self._in_time_s = self._clock()
        self._breaker.reset()

    def _failed(self, error: DependencyUnavailable, is_try: bool) -> None:
        now = self._clock()
        if not is_try:
            if error.is_late and now - self._in_time_s < ALL_LATE_S:
                return
            if now - self._failed_s < TOGETHER_S:
                return
        self._failed_s = now
        with suppress(DependencyUnavailable), self._breaker:
            raise error
