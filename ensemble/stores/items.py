"""The item features in the process: the whole catalogue encoded, refreshed from the online store."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from contract import names
from contract.affinity import BITS, as_bits
from contract.arrays import Array, Ids, Ints
from contract.bundle import Inputs
from contract.encoders import Encoders
from contract.errors import ErrorCode, StageError
from contract.item_to_item import UNKNOWN
from ensemble.stores.features import FeatureRows, FeatureStore, RedisFeatureStore
from ensemble.stores.positions import Positions

LOG = logging.getLogger(__name__)
CHUNK, REFRESH_CHUNK = 1024, 64
"""Items read and decoded at a time; in a refresh few, so that requests hardly notice it."""
REFRESH_SHARE = 0.1
"""Most of the time that a refresh may work; in the rest requests run. A large catalogue takes longer."""
BREATH_S = 0.002
"""Seconds at least between two chunks of a refresh."""
RETRY_S = 1.0
"""Seconds until the first reading is tried again while Redis does not answer."""
NULL = int(np.iinfo(np.int32).min)
"""Null in numbered columns."""


@dataclass(frozen=True)
class ItemSnapshot:
    """The catalogue as of one reading. Every array has one row per item, and a last row for no item: all
    null.

    `inputs` are what the ranker takes of items, packed: int32 codes, float32 numerics, int32 lists.
    `comparable` are the affinity columns as small integers, or bits, that agree where the raw values do.
    `is_available` is false also for an item whose row is gone while the store holds others; `is_lacking` is
    true where it has no row, or columns that the bundle reads are missing or of another type.
    """

    item_ids: Ids
    positions: Positions
    inputs: dict[str, Array]
    comparable: dict[str, Array]
    is_available: npt.NDArray[np.bool_]
    is_lacking: npt.NDArray[np.bool_]

    @cached_property
    def unavailable(self) -> int:
        """Counts the items of the catalogue that are not available."""
        return len(self.item_ids) - int(np.count_nonzero(self.is_available[:-1]))

    def rows_of(self, item_ids: Ids) -> Ints:
        """Gives the row of each id, whatever the shape; the last row where the catalogue does not hold it."""
        return self.positions.rows_of(item_ids)


@dataclass(frozen=True)
class _Arrays:
    """A snapshot's arrays while they are filled; one row per item and a last one for no item.

    `numbered` are the affinity columns with their distinct values numbered, int32.
    """

    inputs: dict[str, Array]
    numbered: dict[str, Array]
    is_available: npt.NDArray[np.bool_]
    is_stored: npt.NDArray[np.bool_]
    is_lacking: npt.NDArray[np.bool_]

    def grown(self, rows: int) -> _Arrays:
        """Makes arrays of `rows` rows like these, which have one: the last."""
        return self._each(lambda array: np.repeat(array, rows, axis=0))

    def copied(self) -> _Arrays:
        """Copies them, so that a snapshot in use never changes."""
        return self._each(np.copy)

    def longer(self, rows: int) -> _Arrays:
        """Gives them `rows` rows; those that are added, before the last, are like the last."""
        more = rows - len(self.is_available)
        return self._each(lambda array: np.concatenate([array, np.repeat(array[-1:], more, axis=0)]))

    def put(self, at: slice | Ints, part: _Arrays) -> None:
        """Writes the rows of some items."""
        for name in ("is_available", "is_stored", "is_lacking"):
            getattr(self, name)[at] = getattr(part, name)
        for mine, theirs in ((self.inputs, part.inputs), (self.numbered, part.numbered)):
            for name, array in theirs.items():
                mine[name][at] = array

    def _each(self, made: Callable[[Array], Array]) -> _Arrays:
        inputs = {name: made(array) for name, array in self.inputs.items()}
        numbered = {name: made(array) for name, array in self.numbered.items()}
        flags = (made(one) for one in (self.is_available, self.is_stored, self.is_lacking))
        return _Arrays(inputs, numbered, *flags)


class ItemTable:
    """Holds the newest snapshot; `start` reads the catalogue and keeps it at most `refresh_s` plus one
    reading old.

    An item whose facts the store does not know has null features, and is not available: its row was removed,
    and an event on it since does not bring it back. Where the store knows none, it was emptied, and all are
    available. While nothing was read yet, because Redis did not answer, `snapshot` raises and the reading is
    tried again every second.
    """

    def __init__(
        self,
        store: FeatureStore,
        item_ids: Ids,
        encoders: Encoders,
        inputs: Inputs,
        affinity: Iterable[str],
        refresh_s: float,
    ) -> None:
        """Takes the catalogue's ids, ascending; what the ranker takes of items; and the affinity columns."""
        self.store, self.item_ids, self.encoders = store, item_ids, encoders
        self.inputs, self.affinity, self.refresh_s = inputs, tuple(affinity), refresh_s
        self.positions = self._first = Positions(item_ids)
        self._late: set[int] = set()  # read anew since the reading that is at work began
        self._lock = threading.RLock()
        self._snapshot: ItemSnapshot | None = None
        self._arrays: _Arrays | None = None
        self._prints: Ids = np.zeros(0, dtype=np.int64)
        self._numbers: dict[str, dict[Any, int]] = {name: {} for name in self.affinity}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def snapshot(self) -> ItemSnapshot:
        """The newest reading; one request takes it once, so that all its columns agree.

        Raises:
            StageError: `dependency`, nothing was read yet.
        """
        if self._snapshot is None:
            raise StageError(
                ErrorCode.DEPENDENCY, "item_table", "item features are not loaded yet: Redis did not answer"
            )
        return self._snapshot

    @property
    def unavailable(self) -> int:
        """Counts the items that are not available; none, while nothing was read yet."""
        return 0 if self._snapshot is None else self._snapshot.unavailable

    @property
    def available(self) -> npt.NDArray[np.bool_]:
        """Whether each item of the catalogue is available, (I,); all are, while nothing was read yet."""
        if self._snapshot is None:
            return np.ones(len(self.item_ids), dtype=np.bool_)
        return self._snapshot.is_available[:-1]

    def start(self) -> None:
        """Reads the catalogue, then again every `refresh_s` in a background thread."""
        self._try_to_load()
        self._thread = threading.Thread(target=self._refresh, name="item-table", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the background thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def load(self, breathe: bool = False) -> bool:
        """Reads the catalogue and swaps it in; False where nothing changed since the last reading."""
        arrays: _Arrays | None = None
        item_ids = self.item_ids
        prints = np.zeros(len(item_ids), dtype=np.int64)
        self._late.clear()
        for places, rows in self._changed(item_ids, prints, breathe):
            if arrays is None:
                arrays = self._arrays.copied() if self._arrays else self._blank()
            arrays.put(places, self._coded(item_ids[places], rows))
        with self._lock:
            if arrays is None and self._snapshot is not None:
                return False
            self._swap(arrays or self._blank(), np.array(sorted(self._late), dtype=np.int64))
            self._prints = prints
        return True

    def take(self, item_ids: Ids) -> None:
        """Reads some items anew, each id once, and holds from now on those that it did not, behind the
        others."""
        with self._lock:
            new = item_ids[self.positions.of(item_ids) == UNKNOWN]
            if len(new):
                self.item_ids = np.append(self.item_ids, new)
                self.positions = self._first.grown(self.item_ids[len(self._first) :])
            self._late.update(item_ids.tolist())
            if self._arrays is not None:
                self._swap(self._arrays.copied(), item_ids)

    def _swap(self, arrays: _Arrays, item_ids: Ids) -> None:
        """Makes the arrays as long as the catalogue is, reads some items into them, and swaps them in."""
        if len(arrays.is_available) <= len(self.item_ids):
            arrays = arrays.longer(len(self.item_ids) + 1)
        if len(item_ids):
            rows = self.store.read_items(item_ids)
            arrays.put(self.positions.of(item_ids), self._coded(item_ids, rows))
        self._arrays, self._snapshot = arrays, self._taken(arrays)

    def _changed(
        self, item_ids: Ids, prints: Ids, breathe: bool
    ) -> Iterator[tuple[slice | Ints, FeatureRows]]:
        """Gives the items that changed since the last reading, by their places; fills in `prints`, a hash per
        item.

        A refresh that breathes decodes few at a time as well: who decodes holds Python's lock, and after a
        minute of many events most items are others than before.
        """
        store = self.store
        if not isinstance(store, RedisFeatureStore):
            yield slice(0, len(item_ids)), store.read_items(item_ids)
            return
        chunk = REFRESH_CHUNK if breathe else CHUNK
        for start in range(0, len(item_ids), chunk):
            began = time.perf_counter()
            ids, before = item_ids[start : start + chunk], self._prints[start : start + chunk]
            replies = store.fetch_items(ids)
            found = _prints(replies)
            is_changed = np.ones(len(ids), dtype=np.bool_)
            if not self._expires:
                is_changed[: len(before)] = found[: len(before)] != before
            if len(changed := np.flatnonzero(is_changed)):
                fields, rows = store.item_fields, store.decode_items([replies[at] for at in changed])
                if store.item_fields > fields:  # what was kept of a column is asked for from now on
                    replies = store.fetch_items(ids)
                    found, rows = _prints(replies), store.decode_items([replies[at] for at in changed])
                yield start + changed, rows
            prints[start : start + chunk] = found
            if breathe:
                took = time.perf_counter() - began
                self._stop.wait(max(BREATH_S, took * (1 / REFRESH_SHARE - 1)))

    @property
    def _expires(self) -> bool:
        return isinstance(self.store, RedisFeatureStore) and self.store.items_expire

    def _refresh(self) -> None:
        while not self._stop.wait(RETRY_S if self._snapshot is None else self.refresh_s):
            self._try_to_load(breathe=self._snapshot is not None)

    def _try_to_load(self, breathe: bool = False) -> None:
        try:
            self.load(breathe)
        except Exception as error:
            fallback = "none yet" if self._snapshot is None else "the last reading stays"
            LOG.warning("item features were not read (%s): %s", fallback, error)

    def _blank(self) -> _Arrays:
        """Makes arrays of the whole catalogue, every row that of no item."""
        nobody = np.array([names.NULL_INT])
        if isinstance(self.store, RedisFeatureStore):
            rows = self.store.decode_items([[None] * self.store.item_fields])
        else:
            rows = self.store.read_items(nobody)
        return self._coded(nobody, rows).grown(len(self.item_ids) + 1)

    def _coded(self, item_ids: Ids, rows: FeatureRows) -> _Arrays:
        columns = {names.ITEM_ID: item_ids, **rows.columns}
        codes = {name: self.encoders.encode(name, columns[name]) for name in self.inputs.columns}
        packed = self.inputs.pack(codes, "candidate_")
        with self._lock:  # two that number at once would give two values one number
            numbered = {name: _numbered(columns[name], self._numbers[name]) for name in self.affinity}
        return _Arrays(
            inputs={n: a.astype(np.int32) if a.dtype == np.int64 else a for n, a in packed.items()},
            numbered=numbered,
            is_available=(columns[names.IS_AVAILABLE] != 0) & (item_ids != names.NULL_INT),
            is_stored=rows.is_stored,
            is_lacking=rows.is_lacking,
        )

    def _taken(self, arrays: _Arrays) -> ItemSnapshot:
        comparable = {
            name: as_bits(column, column != NULL)
            if column.ndim > 1 and len(self._numbers[name]) <= BITS
            else column
            for name, column in arrays.numbered.items()
        }
        stored = arrays.is_stored
        is_available = arrays.is_available & stored if stored.any() else arrays.is_available
        is_lacking = arrays.is_lacking | ~stored
        inputs = arrays.inputs
        return ItemSnapshot(self.item_ids, self.positions, inputs, comparable, is_available, is_lacking)


def _prints(replies: Sequence[Sequence[bytes | None]]) -> Ids:
    """Gives a hash of each reply (rows,)."""
    return np.fromiter((hash(tuple(reply)) for reply in replies), np.int64, len(replies))


def _numbered(column: Array, numbers: dict[Any, int]) -> npt.NDArray[np.int32]:
    """Numbers the distinct values of a column as they come, same shape; null is `NULL`."""
    flat = [
        NULL if v is None or v == names.NULL_INT or v != v else numbers.setdefault(v, len(numbers))
        for v in column.ravel().tolist()
    ]
    return np.array(flat, dtype=np.int32).reshape(column.shape)
