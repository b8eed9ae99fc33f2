"""The first level: a bounded cache in the process, set-associative, looked up and filled by whole arrays."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from contract.arrays import Bools, Floats, Ints
from ensemble.stores.embeddings.level import FoundRows, RowKeys, Stamps, mixed

WAYS = 8
"""Places in which a row may lie."""
EMPTY = np.iinfo(np.int64).max
"""Stands where no row is; itself it is never held."""
SKETCH = 8
"""Counters of the sketch for each row that there is room for."""
MOST = 15
"""What a counter counts to at most."""
AGED_AFTER = 10
"""Lookups for each row that there is room for, after which all counters are halved."""


class RowCache:
    """Holds `capacity` rows at most. A new row takes the place of the one of its set that was asked for most
    rarely of late.

    Source: Einziger, Friedman and Manes 2017, TinyLFU: a sketch counts how often each id is asked for, also
    of ids that are not held, and all its counters are halved now and then. Here it says who goes, and
    everyone comes in; docs/decisions/0020 compares that with others.

    A lookup of N keys costs some twenty numpy calls, none of them per row.
    """

    name = "cache"

    def __init__(self, width: int, capacity: int) -> None:
        """Takes W and how many rows there is room for, rounded down to a power of two of sets."""
        self.width = width
        sets = 1 << max(0, (max(capacity, WAYS) // WAYS).bit_length() - 1)
        self.capacity = sets * WAYS
        self._shift = np.uint64(64 - (sets.bit_length() - 1)) if sets > 1 else None
        self._ids = np.full((sets, WAYS), EMPTY, dtype=np.int64)
        self._stamps = np.zeros((sets, WAYS), dtype=np.int32)
        self._rows = np.empty((self.capacity, width), dtype=np.float32)
        self._counts = np.zeros(1 << (self.capacity * SKETCH - 1).bit_length(), dtype=np.uint8)
        self._since_aged = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Counts the rows that it holds."""
        return int((self._ids != EMPTY).sum())

    def read(self, keys: RowKeys) -> FoundRows:
        """Looks up keys."""
        spread = mixed(keys.ids)
        sets = self._sets(spread)
        with self._lock:
            self._count(spread)
            ways, is_found = self._find(sets, keys)
            rows = self._rows[sets * WAYS + ways]
        return FoundRows(rows, is_found, np.zeros(len(keys), dtype=np.bool_))

    def write(self, keys: RowKeys, rows: Floats) -> None:
        """Takes rows in that are worth it; of an id, one row is held, that of the last key."""
        spread = mixed(keys.ids)
        sets, left = self._sets(spread), np.arange(len(keys))
        with self._lock:
            while len(left):
                _, first = np.unique(sets[left], return_index=True)  # one row a set, and then the next ones
                at = left[first]
                self._put(at, sets[at], keys, rows)
                left = np.delete(left, first)

    def _put(self, at: Ints, sets: Ints, keys: RowKeys, rows: Floats) -> None:
        held = self._ids[sets]
        worth = self._worth(sets)
        worth[held == EMPTY] = -1
        worth[held == keys.ids[at][:, None]] = -2
        ways = worth.argmin(axis=1)
        self._ids[sets, ways], self._stamps[sets, ways] = keys.ids[at], keys.stamps[at]
        self._rows[sets * WAYS + ways] = rows[at]

    def _worth(self, sets: Ints) -> Ints:
        """Gives what each row of some sets is worth, 0 or more: the least goes."""
        held = self._ids[sets]
        return self._counted(mixed(held.ravel())).reshape(held.shape).astype(np.int64)

    def _find(self, sets: Ints, keys: RowKeys) -> tuple[Ints, Bools]:
        is_it = self._ids[sets] == keys.ids[:, None]
        ways = is_it.argmax(axis=1)
        rows = np.arange(len(sets))
        stamps: Stamps = self._stamps[sets, ways]
        return ways, is_it[rows, ways] & (stamps == keys.stamps) & (keys.ids != EMPTY)

    def _sets(self, spread: npt.NDArray[np.uint64]) -> Ints:
        if self._shift is None:
            return np.zeros(len(spread), dtype=np.int64)
        return (spread >> self._shift).astype(np.int64)

    def _places(self, spread: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """Gives the two counters of each id; the lower one counts."""
        mask = np.uint64(len(self._counts) - 1)
        return np.stack([spread & mask, (spread >> np.uint64(17)) & mask])

    def _count(self, spread: npt.NDArray[np.uint64]) -> None:
        places = self._places(spread)
        self._counts[places] = np.minimum(self._counts[places] + 1, MOST)
        self._since_aged += len(spread)
        if self._since_aged > AGED_AFTER * self.capacity:
            self._counts >>= 1
            self._since_aged = 0

    def _counted(self, spread: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
        counted: npt.NDArray[np.uint8] = self._counts[self._places(spread)].min(axis=0)
        return counted
