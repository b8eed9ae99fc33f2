"""The latency budget of one request, as an instant that is passed down and never restarted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Deadline:
    """A monotonic instant, in seconds of `clock`."""

    at_s: float
    clock: Clock = time.monotonic

    @classmethod
    def after(cls, seconds: float, clock: Clock = time.monotonic) -> Deadline:
        """Takes seconds from now."""
        return cls(clock() + seconds, clock)

    def earlier(self, seconds: float) -> Deadline:
        """Gives the same deadline less a reserve in seconds."""
        return Deadline(self.at_s - seconds, self.clock)

    def share(self, part: float) -> Deadline:
        """Gives the instant at which this part, 0 to 1, of what is left now has passed."""
        return Deadline.after(part * self.left_s(), self.clock)

    def left_s(self) -> float:
        """Seconds until the deadline; 0 once it has passed."""
        return max(0.0, self.at_s - self.clock())

    def unix_us(self, unix_clock: Clock = time.time) -> int:
        """The same instant in microseconds of unix time, as other processes on this clock understand it."""
        return int((unix_clock() + self.at_s - self.clock()) * 1e6)
