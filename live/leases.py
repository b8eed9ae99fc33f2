"""Which streams this consumer works on: each is one consumer's at a time, and all have their share."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from contract.keys import consumers_key, stream_lease_key

RENEWALS = 4
"""How often a lease is renewed within its time."""
_TAKE = """#!lua flags=allow-oom
local taken = {}
for place, key in ipairs(KEYS) do
  local holder = redis.call('GET', key)
  taken[place] = 0
  if not holder or holder == ARGV[1] then
    redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
    taken[place] = 1
  end
end
return taken
"""
"""Takes leases that are free, and renews the caller's own; where Redis is full as well, as whoever holds the
streams makes room."""
_COUNT = """#!lua flags=allow-oom
local now = redis.call('TIME')
local seconds = now[1] + now[2] / 1e6
redis.call('ZADD', KEYS[1], seconds, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', seconds - ARGV[2])
return redis.call('ZCARD', KEYS[1])
"""
"""Notes that a consumer lives, and counts those who said so of late."""
_RELEASE = """
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then redis.call('DEL', key) end
end
"""


class Leases:
    """The leases of one consumer: `held` are its streams. A lease whose holder dies is free after `seconds`.

    That a holder believes to hold one proves nothing: whoever writes compares `token` within the transaction.
    """

    def __init__(self, redis: Redis, dataset: str, streams: Sequence[str], seconds: float) -> None:
        self.token = f"{socket.gethostname()}, process {os.getpid()}, {uuid.uuid4().hex}"
        self.held: set[str] = set()
        self._redis: Any = redis
        self._take, self._free = self._redis.register_script(_TAKE), self._redis.register_script(_RELEASE)
        self._count = self._redis.register_script(_COUNT)
        self._dataset, self._streams, self._seconds = dataset, streams, seconds
        self._next_s = 0.0

    def tend(self) -> set[str]:
        """Renews, gives up and takes, where it is time to; gives the streams that were taken."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return set()
        share = -(-len(self._streams) // max(1, self._consumers()))
        before = self.held
        self.held = self._taken(sorted(before)[:share])
        self._release(sorted(before)[share:])
        others = [stream for stream in self._streams if stream not in before]
        for stream in others:
            if len(self.held) >= share:
                break
            self.held |= self._taken([stream])
        self._next_s = now_s + self._seconds / RENEWALS
        return self.held - before

    def lose(self, streams: Sequence[str] | None = None) -> None:
        """Takes another's word that some streams, or all of them, may be somebody else's."""
        self.held = self.held - set(streams) if streams is not None else set()
        self._next_s = 0.0

    def release(self) -> None:
        """Gives all back, and ends being counted, until tended again."""
        with suppress(RedisError):
            self._release(sorted(self.held))
            self._redis.zrem(consumers_key(self._dataset), self.token)
        self.lose()

    def _taken(self, streams: Sequence[str]) -> set[str]:
        """Takes or renews leases, gives the streams of those that are this consumer's now."""
        if not streams:
            return set()
        keys = [stream_lease_key(stream) for stream in streams]
        are_taken = self._take(keys=keys, args=[self.token, round(self._seconds * 1000)])
        return {stream for stream, is_taken in zip(streams, are_taken, strict=True) if is_taken}

    def _release(self, streams: Sequence[str]) -> None:
        if streams:
            self._free(keys=[stream_lease_key(stream) for stream in streams], args=[self.token])

    def _consumers(self) -> int:
        """Says that this one lives, counts those who said so of late."""
        return int(self._count(keys=[consumers_key(self._dataset)], args=[self.token, self._seconds]))
