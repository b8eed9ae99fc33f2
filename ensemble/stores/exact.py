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
TURNED = 1024
"""Items of a turned part: half a megabyte, which stays in the processor's cache from user to user. A block is
several of them."""
FEW = 12
"""Users from which on one product for all pays: it copies the part first."""


class ExactVectorIndex:
    """Finds the greatest inner products of all; what an index that approximates is measured against."""

    is_whole = True

    def __init__(self, item_ids: Ids, vectors: Floats, block: int = BLOCK) -> None:
        """Takes ids (I,), ascending, and vectors (I,D); a memory-mapped file serves as well."""
        self.item_ids, self.vectors, self.block = item_ids, vectors, block
        self.new_vectors = vectors[:0]
        self._turned: list[Floats] = []

    def turned(self) -> ExactVectorIndex:
        """Holds the vectors turned as well, in memory of its own: twice as fast for a few users at a time."""
        turned = copy(self)
        turned.block = BLOCK
        turned._turned = [
            np.ascontiguousarray(self.vectors[at : at + TURNED].T, dtype=np.float32)
            for at in range(0, len(self.vectors), TURNED)
        ]
        return turned

    def grown(self, catalogue: Catalogue, live: LiveItems) -> ExactVectorIndex:  # noqa: ARG002  (it holds ids itself)
        """Compares the new items as well, of equal scores theirs come last, and the changed ones as they are
        now."""
        grown = copy(self)
        grown.item_ids = np.concatenate([self.item_ids, live.new_ids])
        grown.vectors, grown.new_vectors = live.over(self.item_ids, self.vectors), live.new_vectors
        return grown.turned() if self._turned and grown.vectors is not self.vectors else grown

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
        for start, products in self._products(vectors):
            for nearest, of_user in zip(found, products, strict=True):
                nearest.take(start, of_user)
        ids, scores = blank(len(vectors), width)
        for row, nearest in enumerate(found):
            ids[row, : len(nearest.places)] = self.item_ids[nearest.places]
            scores[row, : len(nearest.places)] = nearest.scores
        return ids, scores

    def _products(self, vectors: Floats) -> Iterator[tuple[int, Floats]]:
        """Gives the users' products with a block of items at a time, (B,block), and its first's place."""
        for start in range(0, len(self.vectors), self.block):
            if self._turned:
                yield start, self._of_turned(vectors, start)
            else:
                block = self.vectors[start : start + self.block]
                yield start, np.ascontiguousarray((block @ vectors.T).T)
        if len(self.new_vectors):
            yield len(self.vectors), np.ascontiguousarray((self.new_vectors @ vectors.T).T)

    def _of_turned(self, vectors: Floats, start: int) -> Floats:
        parts = self._turned[start // TURNED : (start + self.block) // TURNED]
        products = np.empty((len(vectors), sum(part.shape[1] for part in parts)), dtype=np.float32)
        for at, part in enumerate(parts):
            columns = products[:, at * TURNED : (at + 1) * TURNED]
            if len(vectors) < FEW:
                for vector, of_user in zip(vectors, columns, strict=True):
                    np.dot(vector, part, out=of_user)
            else:
                columns[:] = vectors @ part
        return products


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
