"""Retrieves candidates from one source or several."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from merlin.schema import Schema

from contract.arrays import Array, Bools, Floats, Ids
from contract.filters import decode_filters
from contract.tensors import PAD_ID
from ensemble.sources.source import Source, Users, merge
from ensemble.stage import Stage, Tensors, tensor
from ensemble.stages.filter import is_among
from ensemble.stages.lookup import SEEN_ITEM_IDS
from ensemble.stores.items import ItemTable

IS_PARTIAL_INDEX = "is_partial_index"
DEEPEST = 8192
"""Most items that the second round asks for; a user may have seen and excluded as many as 5,120."""
SLOWER = 3.0
"""How much longer than the first round the second may take; a user with less time left goes without."""


def considered(
    quality: Float[np.ndarray, "B 1"], n: Int[np.ndarray, "B 1"], k: int
) -> Int[np.ndarray, "B 1"]:
    """Counts the candidates that a request considers: its `quality` share of K, at least its `n`."""
    share = np.rint(np.clip(quality, 0, 1) * k).astype(np.int64)
    counts: Int[np.ndarray, "B 1"] = np.clip(share, np.minimum(n, k), k)
    return counts


def wanted(
    kept: Int[np.ndarray, "B 1"], seen: Int[np.ndarray, "B S"], excluded: Int[np.ndarray, "B E"]
) -> Int[np.ndarray, "B 1"]:
    """Counts how many items to retrieve per user: those to keep, and one more for each that is filtered."""
    filtered = (seen != PAD_ID).sum(axis=1, keepdims=True) + (excluded != PAD_ID).sum(axis=1, keepdims=True)
    counts: Int[np.ndarray, "B 1"] = kept + filtered
    return counts


def narrowed(
    ids: Int[np.ndarray, "B W"],
    scores: Float[np.ndarray, "B W"],
    survives: Bool[np.ndarray, "B W"],
    width: int,
) -> tuple[Int[np.ndarray, "B R"], Float[np.ndarray, "B R"]]:
    """Takes what a deeper retrieval found, keeps R of it in order: what survives the filter, and the best of
    the rest, so that it is told what was removed."""
    columns = np.sort(np.argsort(~survives, axis=1, kind="stable")[:, :width], axis=1)
    return np.take_along_axis(ids, columns, axis=1), np.take_along_axis(scores, columns, axis=1)


class RetrieveCandidates(Stage):
    """Asks each source for K items and as many more as the filter will take away, once for the batch.

    Where that is more than R, or items are not available, so that fewer than wanted would survive the
    filter, it asks once more for those users, deeper, if their deadlines leave the time. With a `quality`
    below 1 it asks for fewer than K. The request's filters are applied by the sources. One that fails, fails
    the request; one that lacks items is asked, and said to.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        items: ItemTable,
        features: Sequence[str],
        dtypes: Mapping[str, str],
        k: int,
        width: int,
    ) -> None:
        """Takes the sources, what is known of the items, the raw user columns that the sources are given, the
        columns that one may filter on, with their dtypes, and R, the width of what it writes."""
        super().__init__()
        self.sources, self.items, self.features, self.dtypes = tuple(sources), items, tuple(features), dtypes
        self.k, self.width = k, width
        own = ("user_vector", "n", "quality", SEEN_ITEM_IDS, "exclude_item_ids", "filters", "deadline_us")
        self.reads = (*own, *self.features)

    @property
    def writes(self) -> Schema:
        """Ids and scores (B,R), best first; how many of them may become candidates, and whether items were
        missing, (B,1)."""
        return Schema(
            [
                tensor("considered", np.int64, 1),
                tensor("retrieved_ids", np.int64, self.width),
                tensor("retrieved_scores", np.float32, self.width),
                tensor(IS_PARTIAL_INDEX, np.bool_, 1),
            ]
        )

    def run(  # type: ignore[override]
        self,
        user_vector: Array,
        n: Array,
        quality: Array,
        seen_item_ids: Array,
        exclude_item_ids: Array,
        filters: Array,
        deadline_us: Array,
        **features: Array,
    ) -> Tensors:
        """Asks for all users at once."""
        kept = considered(quality, n, self.k)
        depths = wanted(kept, seen_item_ids, exclude_item_ids)
        counts = np.minimum(depths, self.width)
        conditions = [decode_filters(row, self.dtypes) for row in filters]
        users = Users(user_vector, features, conditions, seen_item_ids, exclude_item_ids)
        was_whole = self._is_whole()  # a search that began before the last item came may have missed it
        started_s = time.perf_counter()
        ids, scores = self._candidates(users, counts, self.width)
        unavailable = self.items.unavailable
        if unavailable or (depths > counts).any():
            needed_s = SLOWER * (time.perf_counter() - started_s)
            is_in_time = deadline_us > (time.time() + needed_s) * 1e6
            lacks = self._survives(ids, users).sum(axis=1, keepdims=True) < kept
            has_more = (ids != PAD_ID).sum(axis=1, keepdims=True) >= counts
            rows = np.flatnonzero(lacks & has_more & is_in_time)
            if len(rows):
                deeper = np.minimum(depths[rows] + unavailable, DEEPEST)
                ids[rows], scores[rows] = self._deeper(users.some(rows.tolist()), deeper)
        is_partial = not (was_whole and self._is_whole())
        return {
            "considered": kept,
            "retrieved_ids": ids,
            "retrieved_scores": scores,
            IS_PARTIAL_INDEX: np.full((len(ids), 1), is_partial),
        }

    def _deeper(self, users: Users, counts: Array) -> tuple[Ids, Floats]:
        ids, scores = self._candidates(users, counts, max(self.width, int(counts.max())))
        return narrowed(ids, scores, self._survives(ids, users), self.width)

    def _survives(self, ids: Ids, users: Users) -> Bools:
        """Marks what the filter will leave (B,W); as far as is known, where the items were not read yet."""
        gone = is_among(ids, users.seen_item_ids) | is_among(ids, users.exclude_item_ids)
        survives: Bools = (ids != PAD_ID) & ~gone
        if self.items.unavailable:
            items = self.items.snapshot
            survives &= items.is_available[items.rows_of(ids)]
        return survives

    def _candidates(self, users: Users, counts: Array, width: int) -> tuple[Ids, Floats]:
        some = counts[:, 0].tolist()
        return merge([source.candidates(users, some, width) for source in self.sources], width)

    def _is_whole(self) -> bool:
        return all(source.is_whole for source in self.sources)
