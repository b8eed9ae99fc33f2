"""What was read lately, kept by id: at most so many, each for a while."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

from service.limits.window import Clock

V = TypeVar("V")


class Kept(Generic[V]):
    """A bounded dict whose entries age; beyond the bound those that were put first go.

    No entry is moved when it is read: a dict remembers the order in which keys came, and that is enough.
    """

    def __init__(self, most: int, seconds: float = math.inf, clock: Clock = time.monotonic) -> None:
        self._most, self._seconds, self._clock = most, seconds, clock
        self._held: dict[int, tuple[float, V]] = {}

    def get(self, ids: Iterable[int]) -> dict[int, V]:
        """Gives those that are held and not too old, in the order of the ids."""
        held, since_s = self._held, self._clock() - self._seconds
        found = {}
        for one in ids:
            entry = held.get(one)
            if entry is not None and entry[0] > since_s:
                found[one] = entry[1]
        return found

    def put(self, values: Mapping[int, V]) -> None:
        """Keeps these, from now on."""
        held, now_s = self._held, self._clock()
        for one, value in values.items():
            held.pop(one, None)  # so that it comes last
            held[one] = (now_s, value)
        while len(held) > self._most:
            del held[next(iter(held))]
