"""Reads rows of embeddings that lie beside the models: from the process, from Redis, from the disk."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import numpy as np
from redis.exceptions import RedisError

from contract.arrays import Bools, Floats, Ids
from contract.errors import ErrorCode, StageError
from ensemble.stores.embeddings.cache import RowCache
from ensemble.stores.embeddings.disk import KEPT_S
from ensemble.stores.embeddings.level import Level, RowKeys
from ensemble.stores.embeddings.updates import Changes

LOG = logging.getLogger(__name__)
PAUSE_S = 1.0
"""Seconds for which a level that failed is not asked."""
WAITING = 64
"""Insertions that may wait; what comes beyond is left out, and read again when it is asked for again."""
MEMORY = 0.999
"""What a row counts in the hit rate, for each row since: it is that of the last thousand."""
Count = Callable[..., None]
"""Takes a metric, an amount, and labels."""


@dataclass(frozen=True, eq=False)
class EmbeddingRows:
    """Rows (N,W), and which of them could not be read, (N,): those are the row of an unknown id."""

    rows: Floats
    is_lacking: Bools


@runtime_checkable
class Embeddings(Protocol):
    """Gives the rows of a bundle's tables. An id that a table does not know has the row of the unknown."""

    @property
    def version(self) -> int:
        """The newest update; an answer reads all of its rows as of one."""
        ...

    def read(self, column: str, ids: Ids, version: int) -> EmbeddingRows:
        """Reads the rows of ids (N,) of a column's table, as of an update.

        Raises:
            StageError: `dependency`, the update is too old.
        """
        ...


class TieredTable:
    """One table in levels: the `cache`, then `below` it, the last of which holds every row.

    What a level below had is put into those above. The answer waits for the cache to have it while the hit
    rate is below `threshold`, so that a cold cache fills as fast as it can; above, that is done behind the
    answer. Redis is always filled behind it.
    """

    def __init__(
        self, column: str, unknown: Floats, cache: RowCache, below: Sequence[Level], threshold: float
    ) -> None:
        """Takes the row of an unknown id, (W,)."""
        self.column, self.unknown, self.cache, self.below = column, unknown, cache, tuple(below)
        self.threshold, self.count = threshold, cast(Count, _uncounted)
        self._hits = self._lookups = 0.0
        self._away_until = dict.fromkeys((level.name for level in below), 0.0)
        self._waiting: queue.Queue[tuple[Level, RowKeys, Floats] | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None

    @property
    def hit_rate(self) -> float:
        """The share of rows that the cache had, of the last ones that were asked for; 0 at first."""
        return self._hits / self._lookups if self._lookups else 0.0

    def read(self, keys: RowKeys) -> EmbeddingRows:
        """Reads rows, and fills the levels above from those below."""
        found = self.cache.read(keys)
        rows, missing = found.rows, np.flatnonzero(~found.is_found)
        is_lacking = np.zeros(len(keys), dtype=np.bool_)
        self._note(len(keys), len(keys) - len(missing))
        if len(missing):
            each, first, back = np.unique(keys.ids[missing], return_index=True, return_inverse=True)
            wanted = RowKeys(each, keys.stamps[missing[first]])
            fetched = self._fetch(wanted)
            rows[missing], is_lacking[missing] = fetched.rows[back], fetched.is_lacking[back]
            self._put(self.cache, wanted, fetched.rows, ~fetched.is_lacking, self.hit_rate < self.threshold)
        return EmbeddingRows(rows, is_lacking)

    def warm(self, keys: RowKeys, rows: Floats) -> None:
        """Puts rows into the cache that will be asked for most, the most frequent first."""
        self.cache.read(keys)  # counts them once, so that what comes once does not take their place
        self.cache.write(keys, rows)

    def settle(self) -> None:
        """Waits until what is done behind the answers is done."""
        self._waiting.join()

    def stop(self) -> None:
        """Ends the thread that works behind the answers."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None

    def _fetch(self, keys: RowKeys) -> EmbeddingRows:
        """Asks one level after the other for what those before had not."""
        rows = np.repeat(self.unknown[None], len(keys), axis=0)
        is_open = np.ones(len(keys), dtype=np.bool_)
        is_damaged, is_whole, left = np.zeros_like(is_open), False, list[Level]()
        for level in self.below:
            at = np.flatnonzero(is_open)
            if not len(at) or time.monotonic() < self._away_until[level.name]:
                continue
            try:
                found = level.read(keys.some(at))
            except (RedisError, OSError) as error:
                self._tell(level, "away", str(error))
                self._away_until[level.name] = time.monotonic() + PAUSE_S
                continue
            had = at[found.is_found]
            rows[had], is_open[had] = found.rows[found.is_found], False
            is_damaged[at] = found.is_damaged
            self.count("embedding_rows", len(had), table=self.column, level=level.name)
            if found.is_damaged.any():
                ids = keys.ids[at[found.is_damaged]].tolist()
                self._tell(level, "damaged", f"rows of {ids[:3]} are damaged", len(ids))
            for above in left:
                self._put(above, keys.some(at), found.rows, found.is_found, False)
            left.append(level)
            is_whole |= level is self.below[-1]
        unknown = int(is_open.sum())
        if unknown:
            self.count("embedding_rows", unknown, table=self.column, level="none")
        # Where the last level answered, what no level has is unknown; else it may be there.
        return EmbeddingRows(rows, is_open & (is_damaged | (not is_whole)))

    def _put(self, level: Level, keys: RowKeys, rows: Floats, which: Bools, is_awaited: bool) -> None:
        at = np.flatnonzero(which)
        if not len(at):
            return
        if is_awaited:
            level.write(keys.some(at), rows[at])
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"rows-of-{self.column}", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait((level, keys.some(at), rows[at]))
        except queue.Full:
            self.count("embedding_failures", table=self.column, level=level.name, why="left_out")

    def _work(self) -> None:
        while (job := self._waiting.get()) is not None:
            level, keys, rows = job
            try:
                level.write(keys, rows)
            except (RedisError, OSError) as error:
                self._tell(level, "not_written", str(error))
                self._away_until[level.name] = time.monotonic() + PAUSE_S
            finally:
                self._waiting.task_done()
        self._waiting.task_done()

    def _note(self, lookups: int, hits: int) -> None:
        weight = MEMORY**lookups
        self._lookups, self._hits = self._lookups * weight + lookups, self._hits * weight + hits
        self.count("embedding_rows", hits, table=self.column, level=self.cache.name)

    def _tell(self, level: Level, why: str, said: str, times: int = 1) -> None:
        LOG.warning("embeddings of %s: %s is %s: %s", self.column, level.name, why, said.splitlines()[0])
        self.count("embedding_failures", times, table=self.column, level=level.name, why=why)


class TieredEmbeddings:
    """The tables of a bundle, each in levels, as of the updates of late."""

    def __init__(self, tables: Mapping[str, TieredTable], changes: Changes) -> None:
        """Takes the tables by column."""
        self.tables = dict(tables)
        self._kept = [(time.monotonic(), changes)]

    @property
    def version(self) -> int:
        """The newest update that was taken over."""
        return self._kept[-1][1].version

    def renew(self, changes: Changes) -> None:
        """Reads as of an update from now on; who began before it has `KEPT_S` to end as they began."""
        now_s = time.monotonic()
        since = [at_s for at_s, _ in self._kept[1:]] + [now_s]
        remaining = [one for one, until_s in zip(self._kept, since, strict=True) if until_s > now_s - KEPT_S]
        self._kept = [*remaining, (now_s, changes)]

    def read(self, column: str, ids: Ids, version: int) -> EmbeddingRows:
        """Reads rows as of an update."""
        for _, changes in reversed(self._kept):
            if changes.version == version:
                return self.tables[column].read(changes.keys_of(column, ids))
        raise StageError(ErrorCode.DEPENDENCY, "embeddings", f"update {version} is too old to be read")


def _uncounted(metric: str, amount: float = 1, **labels: str) -> None:
    """Counts nothing."""
