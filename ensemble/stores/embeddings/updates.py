"""Updates of a bundle's embeddings: how they travel in Redis, and how a process takes them over."""

from __future__ import annotations

import json
import logging
import secrets
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from contract.arrays import Floats, Ids
from contract.keys import embedding_block_key, embedding_updates_key
from ensemble.stores.embeddings.disk import ChangedRows, EmbeddingDisk
from ensemble.stores.embeddings.level import EmbeddingError, RowKeys, Stamps

LOG = logging.getLogger(__name__)
BLOCK = 8_192
"""Rows that travel together."""
POLL_S = 0.5
"""Seconds between two looks."""
_HEAD = struct.Struct("<IHHI")
"""Rows, W, bytes of the column's name, and a checksum of all that follows."""


def encode_block(column: str, ids: Ids, rows: Floats) -> bytes:
    """Packs some rows (N,W) of a column's table."""
    name = column.encode()
    body = name + np.asarray(ids, "<i8").tobytes() + np.asarray(rows, "<f4").tobytes()
    return _HEAD.pack(len(ids), rows.shape[1], len(name), zlib.crc32(body)) + body


def decode_block(block: bytes) -> tuple[str, Ids, Floats]:
    """Unpacks `encode_block`: column, ids (N,), rows (N,W).

    Raises:
        ValueError: it is cut short, or was changed.
    """
    try:
        count, width, named, checksum = _HEAD.unpack_from(block)
        body = block[_HEAD.size :]
        if len(body) != named + count * (8 + 4 * width) or zlib.crc32(body) != checksum:
            raise ValueError("its checksum differs")
        ids = np.frombuffer(body, "<i8", count, named).astype(np.int64)
        rows = np.frombuffer(body, "<f4", count * width, named + 8 * count).astype(np.float32)
        return body[:named].decode(), ids, rows.reshape(count, width)
    except (struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"no block of rows: {error}") from None


def publish_update(redis: Redis, bundle: str, tables: Mapping[str, tuple[Ids, Floats]]) -> int:
    """Sends changed rows, by column: ids (N,), rows (N,W); gives the number of the update. It is visible once
    all of it is there.

    Raises:
        RedisError: Redis does not answer, or is full; nothing of it stays.
        EmbeddingError: another update came first; send it again.
    """
    token, blocks = secrets.token_hex(8), 0
    try:
        for column, (ids, rows) in tables.items():
            for start in range(0, len(ids), BLOCK):
                end = start + BLOCK
                block = encode_block(column, ids[start:end], rows[start:end])
                redis.set(embedding_block_key(bundle, token, blocks), block)
                blocks += 1
        version = newest_update(redis, bundle) + 1
        content = json.dumps({"token": token, "blocks": blocks})
        redis.xadd(embedding_updates_key(bundle), {"update": content}, id=f"{version}-0")
    except Exception as error:
        for written in range(blocks):
            redis.delete(embedding_block_key(bundle, token, written))
        if isinstance(error, ResponseError) and "smaller than" in str(error):
            raise EmbeddingError(
                f"{bundle}: another update was sent meanwhile; send this one again"
            ) from None
        raise
    return version


def newest_update(redis: Redis, bundle: str) -> int:
    """Gives the number of the newest update; 0 where there is none."""
    found: Any = redis.xrevrange(embedding_updates_key(bundle), count=1)
    return _number(found[0][0]) if found else 0


@dataclass(frozen=True, eq=False)
class Changes:
    """Which update wrote the row of which id last: `version` is the newest one, `tables` has by column the
    ids (M,) that updates changed, ascending, at 12 bytes each. All others are as they were trained."""

    version: int = 0
    tables: Mapping[str, RowKeys] | None = None

    def keys_of(self, column: str, ids: Ids) -> RowKeys:
        """Names the rows of ids (N,) as of this update."""
        known = (self.tables or {}).get(column)
        if known is None or not len(known):
            return RowKeys.trained(ids)
        at = np.minimum(np.searchsorted(known.ids, ids), len(known) - 1)
        stamps: Stamps = np.where(known.ids[at] == ids, known.stamps[at], 0).astype(np.int32)
        return RowKeys(ids, stamps)

    def followed_by(self, version: int, changed: Iterable[tuple[str, Ids]]) -> Changes:
        """Adds what an update changed, by column."""
        tables = dict(self.tables or {})
        for column, ids in changed:
            old = tables.get(column, RowKeys.trained(np.empty(0, np.int64)))
            every = np.concatenate([ids, old.ids])
            stamps = np.concatenate([np.full(len(ids), version, np.int32), old.stamps])
            each, first = np.unique(every, return_index=True)
            tables[column] = RowKeys(each, stamps[first])
        return Changes(version, tables)


class UpdateWatch:
    """Brings updates from Redis to the disk, in a thread of its own, and tells of each once it is there."""

    def __init__(self, redis: Redis, bundle: str, disk: EmbeddingDisk, widths: Mapping[str, int]) -> None:
        """Takes a client of its own, the bundle, and the width of each table."""
        self.redis, self.bundle, self.disk, self.widths = redis, bundle, disk, widths
        self.changes = self._caught_up(Changes())
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._said = ""

    def start(self, renew: Callable[[Changes], None]) -> None:
        """Looks at once, then again and again."""
        self._try_to_look(renew)
        self._thread = threading.Thread(target=self._follow, args=(renew,), name="embeddings", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def look(self, renew: Callable[[Changes], None]) -> int:
        """Takes over every update that is new, one after the other; gives how many.

        Raises:
            RedisError: Redis does not answer.
            EmbeddingError: one does not fit, or has no room; those before it are taken over.
        """
        since = self.changes.version
        found: Any = self.redis.xrange(embedding_updates_key(self.bundle), min=f"{since + 1}-0")
        for entry, fields in found:
            version = _number(entry)
            if version <= self.changes.version:  # another process took it to the disk, and the next one
                continue
            if version != self.changes.version + 1:
                raise EmbeddingError(
                    f"{self.bundle}: update {self.changes.version + 1} of its embeddings is not in Redis any "
                    f"more, and {version} builds on it; `make export` and send them again"
                )
            if self.disk.version < version:
                update = json.loads(fields[b"update"])
                self.disk.apply(version, self._changed(version, update), time.time())
            self.changes = self._caught_up(self.changes)
            renew(self.changes)
        return len(found)

    def _changed(self, version: int, update: Mapping[str, Any]) -> Iterator[ChangedRows]:
        for block in range(update["blocks"]):
            packed: Any = self.redis.get(embedding_block_key(self.bundle, update["token"], block))
            try:
                column, ids, rows = decode_block(packed or b"")
            except ValueError as error:
                raise EmbeddingError(f"{self.bundle}: update {version}, block {block}: {error}") from None
            if self.widths.get(column) != rows.shape[1]:
                raise EmbeddingError(
                    f"{self.bundle}: update {version} has rows of {rows.shape[1]} floats of {column}, its "
                    f"table of {self.widths.get(column, 'none')}"
                )
            before = self.changes.keys_of(column, ids).stamps
            keys = RowKeys(ids, np.full(len(ids), version, np.int32))
            yield ChangedRows(column, keys, before, rows)

    def _caught_up(self, changes: Changes) -> Changes:
        """Adds what the disk has had applied since."""
        for version, column, ids in self.disk.changed_since(changes.version):
            changes = changes.followed_by(version, [(column, ids)])
        return changes

    def _follow(self, renew: Callable[[Changes], None]) -> None:
        while not self._stop.wait(POLL_S):
            self._try_to_look(renew)

    def _try_to_look(self, renew: Callable[[Changes], None]) -> None:
        try:
            self.look(renew)
            self._said = ""
        except (RedisError, EmbeddingError) as error:
            if str(error) != self._said:
                LOG.warning("embeddings stay as of update %s: %s", self.changes.version, error)
            self._said = str(error)
        except Exception:  # whatever it is, the next look may do
            LOG.exception("embeddings stay as of update %s", self.changes.version)


def _number(entry: bytes) -> int:
    return int(entry.partition(b"-")[0])
