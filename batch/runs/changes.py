"""The users who changed since they were last computed, or were removed, as it is noted in Redis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from redis import Redis

from contract.keys import changed_users_key, removed_users_key

CHUNK = 10_000


class ChangedUsers:
    """The noted users of a data set."""

    def __init__(self, redis: Redis, dataset: str) -> None:
        self.key, self._removed = changed_users_key(dataset), removed_users_key(dataset)
        self._redis: Any = redis

    def count(self, until_s: float = float("inf")) -> int:
        """Counts those who changed up to an instant, Unix time in seconds."""
        return int(self._redis.zcount(self.key, "-inf", until_s))

    def read(self, until_s: float = float("inf")) -> Iterator[npt.NDArray[np.int64]]:
        """Gives the ids (B,) of those who changed up to an instant, in pieces, each at least once.

        Who changes again meanwhile may be left out, and stays noted for a later run. (Pages by rank would
        skip others, whose rank such a change shifts.)
        """
        chunk: list[int] = []
        for member, changed_s in self._redis.zscan_iter(self.key, count=CHUNK):
            if changed_s <= until_s:
                chunk.append(int(member))
            if len(chunk) == CHUNK:
                yield np.array(chunk, dtype=np.int64)
                chunk = []
        if chunk:
            yield np.array(chunk, dtype=np.int64)

    def note(self, user_ids: npt.NDArray[np.int64], at_s: float) -> None:
        """Notes that users (B,) changed at an instant."""
        for start in range(0, len(user_ids), CHUNK):
            some = user_ids[start : start + CHUNK].tolist()
            self._redis.zadd(self.key, dict.fromkeys(some, at_s))

    def forget(self, until_s: float) -> int:
        """Takes away those who changed up to an instant, gives their number: they were computed since."""
        return int(self._redis.zremrangebyscore(self.key, "-inf", until_s))

    def removed(self) -> list[int]:
        """Lists the users whose rows were removed since a run was published."""
        return sorted(map(int, self._redis.smembers(self._removed)))

    def forget_removed(self, user_ids: list[int]) -> None:
        """Takes away those who were removed: no run that is read, or goes on, has them."""
        for start in range(0, len(user_ids), CHUNK):
            self._redis.srem(self._removed, *user_ids[start : start + CHUNK])
