"""The item features in the process: a columnar table of the whole catalogue, refreshed from the online
store."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.contract import ErrorCode, StageError
from ensemble.stores.features import Array, FeatureStore, Ids, RedisFeatureStore, Rows
from feature_repo import names
from training.encoders import Encoders

LOG = logging.getLogger(__name__)
CHUNK, REFRESH_CHUNK = 1024, 64
"""Items read in one round trip; in a refresh few, so that requests hardly notice it."""
BLOCK = 16 * CHUNK
"""Items decoded at a time, so that what lies between bytes and arrays stays small."""
REFRESH_SHARE = 0.1
"""Most of the time that a refresh may work; in the rest requests run. A large catalogue takes longer."""
BREATH_S = 0.002
"""Seconds at least between two chunks of a refresh."""
RETRY_S = 1.0
"""Seconds until the first reading is tried again while Redis does not answer."""
MOST_SHARED = 100_000
"""Distinct strings of a column up to which equal ones are kept once."""


@dataclass(frozen=True)
class ItemSnapshot:
    """The catalogue as of one reading. Every array has one row per item, and a last row for no item: all
    null.

    `columns` are raw; `encoded` is what the models take; `comparable` are the affinity columns as int64,
    where strings are numbered, so that comparing them is cheap.
    """

    item_ids: Ids
    columns: dict[str, Array]
    encoded: dict[str, Array]
    comparable: dict[str, Array]
    is_available: npt.NDArray[np.bool_]

    def rows_of(self, item_ids: Ids) -> npt.NDArray[np.intp]:
        """Gives the row of each id, whatever the shape; the last row where the catalogue does not hold it."""
        if not len(self.item_ids):
            return np.zeros(item_ids.shape, dtype=np.intp)
        at = np.minimum(np.searchsorted(self.item_ids, item_ids), len(self.item_ids) - 1)
        rows: npt.NDArray[np.intp] = np.where(self.item_ids[at] == item_ids, at, len(self.item_ids))
        return rows


@dataclass(frozen=True)
class _Arrays:
    """A snapshot's arrays while they are filled; one row per item and a last one for no item."""

    columns: dict[str, Array]
    encoded: dict[str, Array]
    comparable: dict[str, Array]

    def grown(self, rows: int) -> _Arrays:
        """Makes arrays of `rows` rows like these, which have one: the last."""
        kinds = (self.columns, self.encoded, self.comparable)
        return _Arrays(*({name: np.repeat(a, rows, axis=0) for name, a in kind.items()} for kind in kinds))

    def copied(self) -> _Arrays:
        """Copies them, so that a snapshot in use never changes."""
        kinds = (self.columns, self.encoded, self.comparable)
        return _Arrays(*({name: a.copy() for name, a in kind.items()} for kind in kinds))

    def put(self, start: int, part: _Arrays) -> None:
        """Writes the rows of some items from `start` on."""
        for mine, theirs in zip(
            (self.columns, self.encoded, self.comparable),
            (part.columns, part.encoded, part.comparable),
            strict=True,
        ):
            for name, array in theirs.items():
                mine[name][start : start + len(array)] = array


class ItemTable:
    """Holds the newest snapshot; `start` reads the catalogue and keeps it at most `refresh_s` plus one
    reading old.

    An item that the store does not know has null features, and counts as available. While nothing was read
    yet, because Redis did not answer, `snapshot` raises and the reading is tried again every second.
    """

    def __init__(
        self,
        store: FeatureStore,
        item_ids: Ids,
        encoders: Encoders,
        affinity: Iterable[str],
        refresh_s: float,
    ) -> None:
        self.store, self.item_ids, self.encoders = store, item_ids, encoders
        self.affinity, self.refresh_s = tuple(affinity), refresh_s
        self._snapshot: ItemSnapshot | None = None
        self._arrays: _Arrays | None = None
        self._prints: dict[int, Ids] = {}
        self._numbers: dict[str, dict[Any, int]] = {name: {} for name in self.affinity}
        self._shared: dict[str, dict[str, str]] = {}
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
        prints = dict(self._prints)
        for start, rows in self._changed(prints, breathe):
            if arrays is None:
                arrays = self._arrays.copied() if self._arrays else self._blank()
            arrays.put(start, self._coded(self.item_ids[start : start + len(rows.is_found)], rows))
        if arrays is None and self._snapshot is not None:
            return False
        self._arrays, self._prints = arrays or self._blank(), prints
        self._snapshot = self._taken(self._arrays)
        return True

    def _changed(self, prints: dict[int, Ids], breathe: bool) -> Iterator[tuple[int, Rows]]:
        """Gives the blocks that changed since the last reading, each with the place of its first item;
        `prints` has a hash per item and block, and is brought up to date.
        """
        store = self.store
        if not isinstance(store, RedisFeatureStore):
            yield 0, store.read_items(self.item_ids)
            return
        for start in range(0, len(self.item_ids), BLOCK):
            replies = self._fetched(store, self.item_ids[start : start + BLOCK], breathe)
            found = np.fromiter((hash(tuple(reply)) for reply in replies), np.int64, len(replies))
            if self._expires or start not in prints or not np.array_equal(prints[start], found):
                prints[start] = found
                yield start, store.decode_items(replies)

    def _fetched(self, store: RedisFeatureStore, item_ids: Ids, breathe: bool) -> list[list[bytes | None]]:
        replies: list[list[bytes | None]] = []
        chunk = REFRESH_CHUNK if breathe else CHUNK
        for start in range(0, len(item_ids), chunk):
            began = time.perf_counter()
            replies += store.fetch_items(item_ids[start : start + chunk])
            if breathe:
                took = time.perf_counter() - began
                self._stop.wait(max(BREATH_S, took * (1 / REFRESH_SHARE - 1)))
        return replies

    @property
    def _expires(self) -> bool:
        return isinstance(self.store, RedisFeatureStore) and self.store.items_expire

    def _refresh(self) -> None:
        while not self._stop.wait(RETRY_S if self._snapshot is None else self.refresh_s):
            self._try_to_load(breathe=True)

    def _try_to_load(self, breathe: bool = False) -> None:
        try:
            self.load(breathe)
        except Exception as error:
            kept = "none yet" if self._snapshot is None else "the last reading stays"
            LOG.warning("item features were not read (%s): %s", kept, error)

    def _blank(self) -> _Arrays:
        """Makes arrays of the whole catalogue, every row that of no item."""
        nobody = np.array([names.NULL_INT])
        if isinstance(self.store, RedisFeatureStore):
            rows = self.store.decode_items([[None] * self.store.item_fields])
        else:
            rows = self.store.read_items(nobody)
        return self._coded(nobody, rows).grown(len(self.item_ids) + 1)

    def _coded(self, item_ids: Ids, rows: Rows) -> _Arrays:
        columns = {names.ITEM_ID: item_ids, **rows.columns}
        for name, column in columns.items():
            if column.dtype == object:
                _share(column, self._shared.setdefault(name, {}))
        return _Arrays(
            columns=columns,
            encoded={**self.encoders.encode_all(columns)},
            comparable={name: _numbered(columns[name], self._numbers[name]) for name in self.affinity},
        )

    def _taken(self, arrays: _Arrays) -> ItemSnapshot:
        available = arrays.columns[names.IS_AVAILABLE] != 0
        available[-1] = False
        return ItemSnapshot(
            self.item_ids, arrays.columns, arrays.encoded, arrays.comparable, is_available=available
        )


def _share(column: Array, known: dict[str, str]) -> None:
    """Replaces equal strings by one object: a million items have few brands."""
    flat = column.reshape(-1)
    for at, value in enumerate(flat.tolist()):
        if value is not None and (value in known or len(known) < MOST_SHARED):
            flat[at] = known.setdefault(value, value)


def _numbered(column: Array, numbers: dict[Any, int]) -> Ids:
    """Numbers the distinct values of a column, null as `NULL_INT`; int64 columns stay as they are."""
    if column.dtype == np.int64:
        return column
    flat = [
        names.NULL_INT if v is None or v != v else numbers.setdefault(v, len(numbers)) for v in column.ravel()
    ]
    return np.array(flat, dtype=np.int64).reshape(column.shape)
