"""The item features in the process: a columnar table of the whole catalogue, refreshed from the online
store."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.contract import ErrorCode, StageError
from ensemble.stores.features import Array, FeatureStore, Ids, RedisFeatureStore, Rows
from feature_repo import names
from training.encoders import Encoders

LOG = logging.getLogger(__name__)
CHUNK = 64
"""Items read in one round trip: small, so that requests hardly notice a refresh."""
BREATH_S = 0.002
"""Seconds between two chunks of a refresh, in which requests run."""
RETRY_S = 1.0
"""Seconds until the first reading is tried again while Redis does not answer."""


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
        self._replies: list[Any] = []
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

    def load(self, breath_s: float = 0.0) -> bool:
        """Reads the catalogue and swaps it in; False where nothing changed since the last reading."""
        if isinstance(self.store, RedisFeatureStore):
            replies: list[Any] = []
            for start in range(0, len(self.item_ids), CHUNK):
                replies += self.store.fetch_items(self.item_ids[start : start + CHUNK])
                if breath_s:
                    self._stop.wait(breath_s)
            if self._snapshot is not None and replies == self._replies and not self._expires:
                return False
            rows, self._replies = self.store.decode_items([*replies, _nothing(self.store)]), replies
        else:
            rows = self.store.read_items(np.append(self.item_ids, names.NULL_INT))
        self._snapshot = self._build(rows)
        return True

    @property
    def _expires(self) -> bool:
        return isinstance(self.store, RedisFeatureStore) and self.store.items_expire

    def _refresh(self) -> None:
        while not self._stop.wait(RETRY_S if self._snapshot is None else self.refresh_s):
            self._try_to_load(BREATH_S)

    def _try_to_load(self, breath_s: float = 0.0) -> None:
        try:
            self.load(breath_s)
        except Exception as error:
            kept = "none yet" if self._snapshot is None else "the last reading stays"
            LOG.warning("item features were not read (%s): %s", kept, error)

    def _build(self, rows: Rows) -> ItemSnapshot:
        ids = np.append(self.item_ids, names.NULL_INT)
        columns = {names.ITEM_ID: ids, **rows.columns}
        available = columns[names.IS_AVAILABLE] != 0
        available[-1] = False
        return ItemSnapshot(
            item_ids=self.item_ids,
            columns=columns,
            encoded=self.encoders.encode_all(columns),
            comparable={name: _numbered(columns[name]) for name in self.affinity},
            is_available=available,
        )


def _nothing(store: RedisFeatureStore) -> list[None]:
    return [None] * store.item_fields


def _numbered(column: Array) -> Ids:
    """Numbers the distinct values of a column, null as `NULL_INT`; int64 columns stay as they are."""
    if column.dtype == np.int64:
        return column
    numbers: dict[Any, int] = {}
    flat = [
        names.NULL_INT if v is None or v != v else numbers.setdefault(v, len(numbers)) for v in column.ravel()
    ]
    return np.array(flat, dtype=np.int64).reshape(column.shape)
