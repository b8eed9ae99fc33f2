"""The second level: rows in Redis, shared by all processes that serve a bundle, bounded."""

from __future__ import annotations

from typing import Any

import numpy as np
from redis import Redis

from contract.arrays import Array, Floats
from contract.keys import embedding_rows_key
from ensemble.stores.embeddings.level import FoundRows, RowKeys, mixed, pack_rows, unpack_rows

PARTITIONS = 8
"""Hashes that a table's rows are spread over."""
LEFT = 0.8
"""Share of its room that a full hash is brought down to, by rows at random: what is asked for comes again."""


class RedisRows:
    """Holds `capacity` rows of a table at most, each a field of one of `PARTITIONS` hashes: a lookup asks all
    of them in one round trip."""

    name = "redis"

    def __init__(self, redis: Redis, bundle: str, column: str, width: int, capacity: int) -> None:
        self.redis, self.width = redis, width
        self._room = max(1, capacity // PARTITIONS)
        self._keys = [embedding_rows_key(bundle, column, partition) for partition in range(PARTITIONS)]

    def read(self, keys: RowKeys) -> FoundRows:
        """Looks up keys; one HMGET for each hash that is concerned, in one pipeline.

        Raises:
            RedisError: Redis does not answer.
        """
        packed, values = keys.packed(), list[bytes | None]([None]) * len(keys)
        parts, pipe = self._parts(keys), self._pipeline()
        for partition, places in parts:
            pipe.execute_command("HMGET", self._keys[partition], *(packed[at] for at in places))
        for (_, places), found in zip(parts, pipe.execute(), strict=True):
            for at, value in zip(places, found, strict=True):
                values[at] = value
        return unpack_rows(keys, values, self.width)

    def write(self, keys: RowKeys, rows: Floats) -> None:
        """Takes rows in, in one round trip, and in another one makes room where a hash has too many.

        Raises:
            RedisError: Redis does not answer, or is full.
        """
        packed, values = keys.packed(), pack_rows(keys, rows)
        parts, pipe = self._parts(keys), self._pipeline()
        for partition, places in parts:
            fields = [part for at in places for part in (packed[at], values[at])]
            pipe.execute_command("HSET", self._keys[partition], *fields)
            pipe.hlen(self._keys[partition])
        held = dict(zip([partition for partition, _ in parts], pipe.execute()[1::2], strict=True))
        full = {partition: count for partition, count in held.items() if count > self._room}
        if not full:
            return
        pipe = self._pipeline()
        for partition, count in full.items():
            pipe.hrandfield(self._keys[partition], count - int(LEFT * self._room))
        drawn = pipe.execute()
        pipe = self._pipeline()
        for partition, fields in zip(full, drawn, strict=True):
            pipe.hdel(self._keys[partition], *fields)
        pipe.execute()

    def _pipeline(self) -> Any:
        return self.redis.pipeline(transaction=False)

    def _parts(self, keys: RowKeys) -> list[tuple[int, list[int]]]:
        """Gives each hash that is concerned, and the positions of its keys."""
        partitions: Array = mixed(keys.ids) % np.uint64(PARTITIONS)
        concerned = np.unique(partitions).tolist()
        return [(int(one), np.flatnonzero(partitions == one).tolist()) for one in concerned]
