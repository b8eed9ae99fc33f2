"""Exact search for many users at once: matrix products with the item vectors, a block of items at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.arrays import Floats, Ids
from contract.errors import ErrorCode, StageError
from contract.filters import Filters
from contract.tensors import PAD_ID, StageName
from ensemble.stores.vectors import blank

BLOCK = 8192
"""Items compared at a time: their products with 256 users take 8 MiB."""


class ExactVectorIndex:
    """Finds the greatest inner products of all; what an index that approximates is measured against.

    After the first block only products above a user's worst so far are looked at: few, so that a user costs
    little more than the products themselves.
    """

    is_whole = True

    def __init__(self, item_ids: Ids, vectors: Floats, block: int = BLOCK) -> None:
        """Takes ids (I,), ascending, and vectors (I,D); a memory-mapped file serves as well."""
        self.item_ids, self.vectors, self.block = item_ids, vectors, block

    def search(
        self, vectors: Floats, counts: Sequence[int], filters: Sequence[Filters], width: int
    ) -> tuple[Ids, Floats]:
        """Finds the `counts` nearest items of users (B,D): ids and scores (B,width), best first, equal scores
        by ascending id.

        Raises:
            StageError: `contract`, where there are filters: nobody who asks for many users has any.
        """
        if any(filters):
            message = "exact search for many users takes no filters"
            raise StageError(ErrorCode.CONTRACT, StageName.RETRIEVE_CANDIDATES, message)
        most = min(max(counts, default=0), width, len(self.item_ids))
        if not most:
            return blank(len(vectors), width)
        places, scores = self._nearest(vectors, most)
        ids = self.item_ids[places]  # every place is one: there are `most` items
        order = np.lexsort((ids, -scores), axis=1)
        found_ids, found_scores = blank(len(vectors), width)
        found_ids[:, :most] = np.take_along_axis(ids, order, axis=1)
        found_scores[:, :most] = np.take_along_axis(scores, order, axis=1)
        is_beyond = np.arange(width) >= np.asarray(counts)[:, None]
        found_ids[is_beyond], found_scores[is_beyond] = PAD_ID, -np.inf
        return found_ids, found_scores

    def _nearest(self, vectors: Floats, most: int) -> tuple[Ids, Floats]:
        """Gives the places of the `most` nearest items and their scores, (B,most), in no order."""
        places = np.full((len(vectors), 0), -1, dtype=np.int64)
        scores = np.full((len(vectors), 0), -np.inf, dtype=np.float32)
        for start in range(0, len(self.item_ids), self.block):
            products = vectors @ self.vectors[start : start + self.block].T
            if scores.shape[1] < most:
                columns = np.broadcast_to(np.arange(products.shape[1]), products.shape)
            else:
                columns, products = _above(products, scores.min(axis=1, keepdims=True, initial=np.inf))
            places = np.concatenate([places, np.where(columns < 0, -1, start + columns)], axis=1)
            scores = np.concatenate([scores, products], axis=1)
            if scores.shape[1] > most:
                kept = _best(places, scores, most)
                places, scores = _taken(places, kept), _taken(scores, kept)
        return places, scores


def _taken(array: npt.NDArray[Any], columns: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    return np.take_along_axis(array, columns, axis=1)


def _best(places: Ids, scores: Floats, most: int) -> npt.NDArray[np.intp]:
    """Gives the columns of each user's `most` best, (B,most), in no order; of equal ones the first places."""
    kept = np.argpartition(scores, -most, axis=1)[:, -most:]
    best = _taken(scores, kept)
    worst = best.min(axis=1, keepdims=True)
    cut = np.count_nonzero(scores == worst, axis=1) > np.count_nonzero(best == worst, axis=1)
    for row in np.flatnonzero(cut):  # the partition took any of the equal ones
        kept[row] = np.lexsort((places[row], -scores[row]))[:most]
    return kept


def _above(products: Floats, worst: Floats) -> tuple[Ids, Floats]:
    """Moves the products (B,I) above each user's `worst` (B,1) to the front: columns and products (B,M), M as
    many as the user with most has; the tail is -1 and -inf."""
    rows, found = np.nonzero(products > worst)
    counts = np.bincount(rows, minlength=len(products))
    at = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    columns = np.full((len(products), counts.max(initial=0)), -1, dtype=np.int64)
    above = np.full(columns.shape, -np.inf, dtype=np.float32)
    columns[rows, at], above[rows, at] = found, products[rows, found]
    return columns, above
