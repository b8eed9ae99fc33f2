"""Knows whether the vector index holds every item: a Redis that was restarted may still be building it, and
one that evicts keys loses them."""

from __future__ import annotations

import logging
import time
from typing import Any, Protocol

from redis import Redis
from redis.exceptions import RedisError

from contract.keys import index_name

LOG = logging.getLogger(__name__)
LOOK_MS = 5_000
"""Most milliseconds that a look at an index may take; beside the requests."""


class IndexState(Protocol):
    """What is known of an index, wherever it lies."""

    @property
    def is_whole(self) -> bool:
        """Whether every item can be found; asked before and after each search."""

    @property
    def found(self) -> int:
        """Items that it held at the last look."""

    @property
    def share(self) -> float:
        """The part of the items that it held at the last look, 0 to 1."""

    @property
    def away(self) -> tuple[str, ...]:
        """Its nodes that are not asked now."""

    def doubt(self) -> None:
        """Takes back that it is whole."""

    def look(self) -> None:
        """Looks at it, where that is due."""


SHARE = 0.02
"""Most of Redis' time that looking may take: FT.INFO walks a graph, 60 ms for a million items."""


def index_info(redis: Redis, bundle: str) -> dict[str, Any]:
    """Asks what Redis knows of a bundle's index: FT.INFO.

    Raises:
        ResponseError: there is no such index.
    """
    run: Any = redis.execute_command
    return by_name(run("FT.INFO", index_name(bundle)))


def by_name(reply: Any) -> dict[str, Any]:
    """Takes what Redis tells of something, names and values in turn or a map; gives the values by name."""
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in pairs}


def pause_s(took_s: float, least_s: float) -> float:
    """Gives how long to wait after a look that took so long, all in seconds."""
    return max(least_s, took_s / SHARE)


class IndexWatch:
    """Knows whether the bundle's index holds every item, as of the last look.

    What was whole stays so until it is in doubt: after each new connection, which may lead to a Redis that
    was restarted, and where the index was missing. Before the first look everything counts as whole. Where
    Redis has evicted keys, and may go on, nothing is: vectors, features and seen items go without a word.
    """

    away: tuple[str, ...] = ()

    def __init__(self, redis: Redis, bundle: str, items: int) -> None:
        """Takes a client of its own, and how many items are whole."""
        self.redis, self.bundle, self.items = redis, bundle, items
        self.found = 0
        """Items that the index held at the last look."""
        self.is_evicting = False
        self._is_whole: bool | None = None
        self._doubts, self._next_s = 0, 0.0

    @property
    def is_whole(self) -> bool:
        """Whether every item can be found; asked before and after each search."""
        return self._is_whole is not False and not self.is_evicting

    @property
    def share(self) -> float:
        """The part of the items that the index held at the last look, 0 to 1."""
        return min(1.0, self.found / self.items) if self.items else 1.0

    def doubt(self) -> None:
        """Takes back that the index is whole."""
        self._doubts += 1
        self._is_whole = None if self._is_whole is None else False

    def look(self) -> None:
        """Asks Redis, where the index is in doubt and the last look was not just now; where Redis does not
        answer, or has no such index, it stays in doubt."""
        self.look_for_evictions()
        began_s, doubts = time.monotonic(), self._doubts
        if self._is_whole or began_s < self._next_s:
            return
        is_whole = False
        try:
            info = index_info(self.redis, self.bundle)
            self.found = int(info["num_docs"])
            is_whole = not float(info["indexing"]) and self.found >= self.items
            LOG.info("the index holds %d of %d items", self.found, self.items)
        except (RedisError, OSError, KeyError) as error:
            LOG.warning("whether the index is whole cannot be told: %r", error)
        self._is_whole = is_whole and doubts == self._doubts  # else the look was at a Redis of before
        self._next_s = time.monotonic() + pause_s(time.monotonic() - began_s, 0.0)

    def look_for_evictions(self) -> None:
        """Asks Redis alone whether it evicts keys."""
        try:
            info: Any = self.redis.info("memory", "stats")
        except (RedisError, OSError):
            return
        is_evicting = info["maxmemory_policy"].startswith("allkeys") and info["evicted_keys"] > 0
        if is_evicting and not self.is_evicting:
            LOG.warning("Redis evicts keys (maxmemory-policy %s): set noeviction", info["maxmemory_policy"])
        self.is_evicting = is_evicting
