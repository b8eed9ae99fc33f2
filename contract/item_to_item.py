"""A table of what goes with each item, and what a user's items lead to by it. Training and the ensemble ask
by the same code, so that what is chosen on validation is what is served: numpy only.

The table is (I,M): a row per item of the catalogue, at most M entries each, so that a history's rows lie in
memory as wholes. Where catalogues are large, M is small: `most_entries` bounds their product.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contract.arrays import Array, Floats, Ints

ENTRY = np.dtype([("item", np.int32), ("weight", np.float32)])
"""An item, by its position in the catalogue, and how strongly it goes with the row's; no entry weighs 0."""
UNKNOWN = -1
"""Stands for an item that the catalogue does not have."""
DENSE_ITEMS = 200_000
"""Items up to which sums are kept for the whole catalogue, 0.1 ms for the largest; above, they are sorted."""
_ENTRIES = 64_000_000


def most_entries(items: int, wanted: int) -> int:
    """Bounds M for a catalogue of `items`, so that a table takes half a gigabyte at most, and 1 at least."""
    return max(1, min(wanted, items, _ENTRIES // max(items, 1)))


@dataclass(frozen=True, eq=False)
class Reached:
    """What a user's items lead to: positions (N,), ascending, each once, and their scores float32 (N,)."""

    positions: Ints
    scores: Floats

    def of(self, positions: Ints) -> Floats:
        """Takes positions, `UNKNOWN` among them, gives their scores in the same shape, 0 where unreached."""
        if not len(self.positions):
            return np.zeros(positions.shape, dtype=np.float32)
        at = np.minimum(np.searchsorted(self.positions, positions), len(self.positions) - 1)
        return np.where(self.positions[at] == positions, self.scores[at], np.float32(0))


class ItemToItem:
    """The table, in memory or mapped from its file."""

    def __init__(self, entries: Array) -> None:
        """Takes `ENTRY` (I,M), padded with a weight of 0.

        Raises:
            ValueError: it is not such a table.
        """
        if entries.dtype != ENTRY or entries.ndim != 2:
            raise ValueError(
                f"must be entries of {ENTRY} (I,M), not {entries.dtype} {entries.shape}; train again"
            )
        # As whole numbers, a row is copied as it lies; fields would be copied one by one.
        self._entries = np.ascontiguousarray(entries).view(np.int64)

    @property
    def entries(self) -> Array:
        """`ENTRY` (I,M)."""
        return self._entries.view(ENTRY)

    @classmethod
    def load(cls, path: Path) -> ItemToItem:
        """Maps a table of `save`: processes share it, and the system may drop what is not used.

        Raises:
            ValueError: the file holds no such table.
        """
        return cls(np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)))

    def save(self, path: Path) -> None:
        """Writes the table, to a temporary name first."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.save(file, self.entries)
        temporary.rename(path)

    def reach(self, history: Ints, weights: Floats) -> Reached:
        """Takes positions of a user's items (H,), `UNKNOWN` where there is none, and how much each counts
        (H,); sums weight x entry over all of them. An item that comes twice counts twice."""
        is_known = history != UNKNOWN
        if not is_known.all():
            history, weights = history[is_known], weights[is_known]
        rows = self._entries.take(history, axis=0).view(ENTRY)
        items, parts = rows["item"].ravel(), (rows["weight"] * weights[:, None]).ravel()
        if len(self._entries) <= DENSE_ITEMS:
            sums = np.bincount(items, parts, len(self._entries))
            positions = np.flatnonzero(sums)
            return Reached(positions.astype(np.int64), sums[positions].astype(np.float32))
        positions, at = np.unique(items, return_inverse=True)
        sums = np.bincount(at, parts, len(positions))
        kept = sums != 0
        return Reached(positions[kept].astype(np.int64), sums[kept].astype(np.float32))


def rank_weights(count: int, decay: float) -> Floats:
    """Weighs `count` items, newest first: 1, `decay`, its square and so on; (count,)."""
    weights: Floats = np.float32(decay) ** np.arange(count, dtype=np.float32)
    return weights
