"""When a call is made again: only while its time lasts, only where another try may help."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from shortlist.errors import NotUnderstood, OutOfTime, Overloaded, ShortlistError, Unreachable

CONNECT_S = 1.0
"""Most seconds that a connection may take; a server that is there takes milliseconds."""


@dataclass(frozen=True)
class Retries:
    """How often a call is made, and how long it waits in between.

    At most `attempts` requests; before the second a random time of up to `first_s` seconds, before each other
    up to twice as much as before, at most `most_s`. A `retry-after` of the gateway is waited for in addition.

    Source: Exponential Backoff And Jitter, Marc Brooker, AWS Architecture Blog, 2015 ("full jitter").
    """

    attempts: int = 4
    first_s: float = 0.05
    most_s: float = 1.0


class Tries:
    """The tries of one call, all within one budget of seconds."""

    def __init__(
        self,
        retries: Retries,
        budget_s: float,
        now_s: Callable[[], float],
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._retries, self._now_s, self._draw = retries, now_s, draw
        self._until_s, self.made = now_s() + budget_s, 0

    def begin(self) -> httpx.Timeout:
        """Counts a try; gives the time that it may take."""
        self.made += 1
        left_s = max(self.left_s(), 0.001)
        return httpx.Timeout(left_s, connect=min(left_s, CONNECT_S))

    def left_s(self) -> float:
        """Seconds that are left of the budget."""
        return self._until_s - self._now_s()

    def pause_s(self, failure: ShortlistError) -> float:
        """Takes why a try failed, gives the seconds to wait before the next.

        Raises:
            ShortlistError: the failure itself, where another try is of no use or the time does not suffice.
        """
        if not isinstance(failure, Overloaded | Unreachable) or self.made >= self._retries.attempts:
            raise failure
        most_s = min(self._retries.most_s, self._retries.first_s * 2 ** (self.made - 1))
        pause_s = self._draw(0, most_s)
        if isinstance(failure, Overloaded):
            pause_s += failure.retry_after_s or 0
        if pause_s >= self.left_s():
            raise failure
        return pause_s


def failure_of(error: httpx.RequestError | TimeoutError, budget_s: float) -> ShortlistError:
    """Takes what httpx or asyncio raised, gives what a caller sees."""
    is_late = isinstance(error, httpx.TimeoutException | TimeoutError)
    if is_late and not isinstance(error, httpx.ConnectTimeout):
        failure: ShortlistError = OutOfTime(f"no answer within {budget_s:g} s")
    elif isinstance(error, httpx.TransportError):
        failure = Unreachable(f"{error.request.url.netloc.decode()} cannot be reached: {error}")
    else:
        failure = NotUnderstood(str(error))
    failure.__cause__ = error
    return failure
