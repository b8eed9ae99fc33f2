"""A table of what goes with each item, and what a user's items lead to by it. Training and the ensemble ask
by the same code, so that what is chosen on validation is what is served: numpy only.

The table is (I,M): a row per item of the catalogue, at most M entries each, so that a history's rows lie in
memory as wholes. Where catalogues are large, M is small: `most_entries` bounds their product.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from contract.arrays import Array, Floats, Ints
from contract.whole_file import whole_file

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
class ReachedItems:
    """What a user's items lead to: positions (N,), ascending, each once, and their scores float32 (N,)."""

    positions: Ints
    scores: Floats

    def of(self, positions: Ints) -> Floats:
        """Takes positions, `UNKNOWN` among them, gives their scores in the same shape, 0 where unreached."""
        if not len(self.positions):
            return np.zeros(positions.shape, dtype=np.float32)
        at = np.minimum(np.searchsorted(self.positions, positions), len(self.positions) - 1)
        return np.where(self.positions[at] == positions, self.scores[at], np.float32(0))

    def divided_by(self, divisor: float) -> ReachedItems:
        """Divides every score."""
        return ReachedItems(self.positions, self.scores / np.float32(divisor))


@dataclass(frozen=True, eq=False)
class ReachedSums:
    """The same, kept for the whole catalogue: `sums` float32 (I + 1,) by `divisor` are the scores of all
    positions, 0 where unreached, the last that of `UNKNOWN`."""

    sums: Floats
    divisor: float = 1.0

    @cached_property
    def positions(self) -> Ints:
        """What is reached, (N,), ascending."""
        return np.flatnonzero(self.sums != 0)  # of truth values: ten times as fast as of numbers

    @property
    def scores(self) -> Floats:
        """The scores of what is reached, (N,)."""
        return self.sums[self.positions] / np.float32(self.divisor)

    def of(self, positions: Ints) -> Floats:
        """Takes positions, `UNKNOWN` among them, gives their scores in the same shape, 0 where unreached."""
        return self.sums.take(positions, mode="wrap") / np.float32(self.divisor)

    def divided_by(self, divisor: float) -> ReachedSums:
        """Divides every score, once it is asked for: most are not."""
        return ReachedSums(self.sums, divisor)


Reached = ReachedItems | ReachedSums


class ItemToItem:
    """The table, in memory or mapped from its file: the entries' items beside each other, and their weights.

    So a row of each is copied as it lies, and nothing is picked out of entries one by one.
    """

    def __init__(self, items: Array, weights: Floats) -> None:
        """Takes int32 (I,M) and float32 (I,M), padded with weights of 0."""
        self.items, self.weights = items, weights

    @classmethod
    def of(cls, entries: Array) -> ItemToItem:
        """Makes a table of `ENTRY` (I,M), padded with a weight of 0."""
        return cls(np.ascontiguousarray(entries["item"]), np.ascontiguousarray(entries["weight"]))

    @classmethod
    def load(cls, path: Path) -> ItemToItem:
        """Maps a table of `save`: processes share it, and the system may drop what is not used.

        Raises:
            ValueError: the file holds no such table.
        """
        halves = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        if halves.dtype != np.int32 or halves.ndim != 3 or len(halves) != 2:
            raise ValueError(f"must be int32 (2,I,M), not {halves.dtype} {halves.shape}; train again")
        return cls(halves[0], halves[1].view(np.float32))

    def save(self, path: Path) -> None:
        """Writes the table, whole or not at all: int32 (2,I,M), items, then their weights' bits."""
        with whole_file(path) as file:
            np.save(file, np.stack([self.items, self.weights.view(np.int32)]))

    def reach(self, history: Ints, weights: Floats) -> Reached:
        """Takes positions of a user's items (H,), `UNKNOWN` where there is none, and how much each counts
        (H,); sums weight x entry over all of them. An item that comes twice counts twice."""
        is_known = history != UNKNOWN
        if not is_known.all():
            history, weights = history[is_known], weights[is_known]
        items = self.items.take(history, axis=0).ravel()
        parts = (self.weights.take(history, axis=0) * weights[:, None]).ravel()
        count = len(self.items)
        if count <= DENSE_ITEMS:
            return ReachedSums(np.bincount(items, parts, count + 1).astype(np.float32))
        positions, at = np.unique(items, return_inverse=True)
        found = np.bincount(at, parts, len(positions)).astype(np.float32)
        is_reached = found != 0
        return ReachedItems(positions[is_reached].astype(np.int64), found[is_reached])


@lru_cache(64)
def rank_weights(count: int, decay: float) -> Floats:
    """Weighs `count` items, newest first: 1, `decay`, its square and so on; (count,), read-only."""
    weights: Floats = np.float32(decay) ** np.arange(count, dtype=np.float32)
    weights.flags.writeable = False
    return weights
