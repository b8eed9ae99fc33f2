"""Exact search for many users at once: matrix products with the item vectors, a block of items at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy

import numpy as np

from contract.arrays import Floats, Ids
from contract.candidates import least_of_best
from contract.errors import ErrorCode, StageError
from contract.filters import Filters
from contract.tensors import StageName
from ensemble.stores.catalogue import Catalogue, LiveItems
from ensemble.stores.vectors import blank

BLOCK = 8192
"""Items compared at a time: their products with 256 users take 8 MiB."""


class ExactVectorIndex:
    """Finds the greatest inner products of all; what an index that approximates is measured against."""

    is_whole = True

    def __init__(self, item_ids: Ids, vectors: Floats, block: int = BLOCK) -> None:
        """Takes ids (I,), ascending, and vectors (I,D); a memory-mapped file serves as well."""
        self.item_ids, self.vectors, self.block = item_ids, vectors, block
        self.new_vectors = vectors[:0]

    def grown(self, catalogue: Catalogue, live: LiveItems) -> ExactVectorIndex:  # noqa: ARG002  (it holds ids itself)
        """Compares the new items as well, of equal scores theirs come last, and the changed ones as they are
        now."""
        grown = copy(self)
        grown.item_ids = np.concatenate([self.item_ids, live.new_ids])
        grown.vectors, grown.new_vectors = live.over(self.item_ids, self.vectors), live.new_vectors
        return grown

    def search(
        self, vectors: Floats, counts: Sequence[int], filters: Sequence[Filters], width: int
    ) -> tuple[Ids, Floats]:
        """Finds the `counts` nearest items of users (B,D): ids and scores (B,width), best first, equal scores
        by ascending id.

        Raises:
            StageError: `contract`, where there are filters: it knows nothing of an item but its vector.
        """
        if any(filters):
            message = "exact search takes no filters"
            raise StageError(ErrorCode.CONTRACT, StageName.RETRIEVE_CANDIDATES, message)
        found = [_Nearest(min(count, width)) for count in counts]
        for start, block in self._blocks():
            products = np.ascontiguousarray((block @ vectors.T).T)
            for nearest, of_user in zip(found, products, strict=True):
                nearest.take(start, of_user)
        ids, scores = blank(len(vectors), width)
        for row, nearest in enumerate(found):
            ids[row, : len(nearest.places)] = self.item_ids[nearest.places]
            scores[row, : len(nearest.places)] = nearest.scores
        return ids, scores

    def _blocks(self) -> Iterator[tuple[int, Floats]]:
        """Gives the vectors a block at a time, each with the place of its first item."""
        for start in range(0, len(self.vectors), self.block):
            yield start, self.vectors[start : start + self.block]
        if len(self.new_vectors):
            yield len(self.vectors), self.new_vectors


class _Nearest:
    """One user's nearest items so far: their places in the catalogue and their scores, best first."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.places, self.scores = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)

    def take(self, start: int, products: Floats) -> None:
        """Takes the products (I,) of a block of items that begins at `start`, later than all before.

        Most are passed over by one comparison: with the worst so far, or else with a score that as many
        items reach as are wanted.
        """
        if not self.count:
            return
        if len(self.places) == self.count:
            (at,) = (products > self.scores[-1]).nonzero()  # an equal one has a greater id
        else:
            (at,) = (products >= least_of_best(products, self.count)).nonzero()
        if len(at):
            places = np.concatenate([self.places, start + at])
            scores = np.concatenate([self.scores, products[at]])
            best = np.argsort(-scores, kind="stable")[: self.count]
            self.places, self.scores = places[best], scores[best]
