"""The most popular items, compared exactly in the process: all of a small catalogue, else beside a graph.

A matrix product with some thousand vectors costs a fraction of a search in Redis. And a graph may miss what
is popular: the last coordinate of an item's vector is its popularity prior. A graph leads to items that are
alike; what is popular is alike in this one coordinate only, so a search along the others passes it by,
however wide.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from contract.arrays import Floats, Ids
from contract.filters import Filters
from contract.tensors import PAD_ID
from ensemble.stores.catalogue import Catalogue, LiveItems
from ensemble.stores.exact import ExactVectorIndex
from ensemble.stores.vectors import VectorIndex, blank

BLOCK = 50_000
"""Vectors looked at together, while the most popular are chosen."""


def head_of(item_ids: Ids, vectors: Floats, count: int) -> ExactVectorIndex:
    """Takes the catalogue's ids (I,), ascending, and vectors (I,D), gives an index of the `count` items whose
    prior is greatest."""
    priors = np.concatenate(
        [np.array(vectors[at : at + BLOCK, -1]) for at in range(0, len(item_ids), BLOCK)] or [vectors[:0, 0]]
    )
    rows = np.sort(np.argsort(-priors, kind="stable")[:count])
    return ExactVectorIndex(item_ids[rows], np.ascontiguousarray(vectors[rows], dtype=np.float32)).turned()


class HeadedVectorIndex:
    """Compares the head exactly, beside an index that holds every item.

    What an approximate index found of the head gives way to what the head has. Where the head is the whole
    catalogue, nothing is left to ask the index for. A user with filters gets what the index found alone: it
    applies them, and the head knows none.
    """

    def __init__(self, index: VectorIndex, head: ExactVectorIndex, is_all: bool = False) -> None:
        """Takes whether the head is the whole catalogue."""
        self.index, self.head, self.is_all = index, head, is_all
        self._head_ids = np.sort(head.item_ids)

    def grown(self, catalogue: Catalogue, live: LiveItems) -> HeadedVectorIndex:
        """Compares the new items exactly."""
        index, head = self.index.grown(catalogue, live), self.head.grown(catalogue, live)
        return HeadedVectorIndex(index, head, self.is_all)

    @property
    def is_whole(self) -> bool:
        """Whether every item can be found now, by users with filters as well."""
        return self.index.is_whole

    def search(
        self, vectors: Floats, counts: Sequence[int], filters: Sequence[Filters], width: int
    ) -> tuple[Ids, Floats]:
        """Finds the nearest items of both."""
        ids, scores = blank(len(vectors), width)
        rows = [row for row, wanted in enumerate(filters) if not wanted]
        searched = [row for row, wanted in enumerate(filters) if wanted or not self.is_all]
        if searched:
            of_searched = ([counts[row] for row in searched], [filters[row] for row in searched])
            ids[searched], scores[searched] = self.index.search(vectors[searched], *of_searched, width)
        if not rows or not len(self.head.item_ids):
            return ids, scores
        some = [counts[row] for row in rows]
        most = min(max(some), width)
        head_ids, head_scores = self.head.search(vectors[rows], some, [{}] * len(rows), most)
        if self.is_all:
            ids[rows, :most], scores[rows, :most] = head_ids, head_scores
            return ids, scores
        other_ids, other_scores = ids[rows, :most], scores[rows, :most]
        is_of_head = self._is_of_head(other_ids)
        all_ids = np.concatenate([head_ids, np.where(is_of_head, PAD_ID, other_ids)], axis=1)
        all_scores = np.concatenate([head_scores, np.where(is_of_head, -np.inf, other_scores)], axis=1)
        best = np.lexsort((all_ids, -all_scores), axis=1)[:, :most]
        is_beyond = np.arange(most) >= np.asarray(some)[:, None]
        ids[rows, :most] = np.where(is_beyond, PAD_ID, np.take_along_axis(all_ids, best, axis=1))
        scores[rows, :most] = np.where(is_beyond, -np.inf, np.take_along_axis(all_scores, best, axis=1))
        return ids, scores

    def _is_of_head(self, ids: Ids) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        known = self._head_ids
        return np.asarray(known.take(np.searchsorted(known, ids), mode="clip") == ids)
