"""Retrieves candidates from one source or several."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from merlin.schema import Schema

from contract.arrays import Array, Bools, Ints, filled
from contract.filters import decode_filters
from contract.item_to_item import UNKNOWN
from contract.tensors import PAD_ID
from ensemble.sources.panel import Found
from ensemble.sources.source import Users
from ensemble.stage import Stage, Tensors, tensor
from ensemble.stages.filter import is_among
from ensemble.stages.lookup import SEEN_ITEM_IDS
from ensemble.stages.offer import Offer, Offers
from ensemble.stores.items import ItemTable

IS_PARTIAL_INDEX, FAILED_SOURCES = "is_partial_index", "failed_sources"
DEEPEST = 8192
"""Most items that the second round asks for; a user may have seen and excluded as many as 5,120."""
SLOWER = 3.0
"""How much longer than the first round the second may take; a user with less time left goes without."""


def considered(
    quality: Float[np.ndarray, "B 1"], n: Int[np.ndarray, "B 1"], k: int
) -> Int[np.ndarray, "B 1"]:
    """Counts the candidates that a request considers: its `quality` share of K, at least its `n`."""
    share = np.rint(np.minimum(np.maximum(quality, 0), 1) * k).astype(np.int64)
    counts: Int[np.ndarray, "B 1"] = np.minimum(np.maximum(share, np.minimum(n, k)), k)
    return counts


def wanted(
    survivors: Int[np.ndarray, "B 1"], seen: Int[np.ndarray, "B S"], excluded: Int[np.ndarray, "B E"]
) -> Int[np.ndarray, "B 1"]:
    """Counts how many items to retrieve per user: those to keep, and one more for each that is filtered."""
    filtered = (seen != PAD_ID).sum(axis=1, keepdims=True) + (excluded != PAD_ID).sum(axis=1, keepdims=True)
    counts: Int[np.ndarray, "B 1"] = survivors + filtered
    return counts


def narrowed(survives: Bool[np.ndarray, "B W"], width: int) -> Int[np.ndarray, "B R"]:
    """Takes which of the items of a deeper retrieval survive the filter, gives the columns of the R that are
    kept, in order: what survives, and the best of the rest, so that it is told what was removed."""
    columns: Int[np.ndarray, "B R"] = np.sort(np.argsort(~survives, axis=1, kind="stable")[:, :width], axis=1)
    return columns


class RetrieveCandidates(Stage):
    """Asks each source for K items and as many more as the filter will take away, once for the batch.

    Where that is more than R, or items are not available, so that fewer than wanted would survive the
    filter, it asks once more for those users, deeper, if their deadlines leave the time. With a `quality`
    below 1 it asks for fewer than K. The request's filters are applied by the sources. Of several sources
    each has its share, and one that fails is left out and told; where none is left, the request fails. One
    that lacks items is asked, and said to.
    """

    def __init__(
        self,
        offers: Offers,
        items: ItemTable,
        features: Sequence[str],
        dtypes: Mapping[str, str],
        k: int,
        width: int,
    ) -> None:
        """Takes what there is to retrieve, what is known of the items, the raw user columns that the sources
        are given, the columns that one may filter on, with their dtypes, K, and R, the width of what it
        writes."""
        super().__init__()
        self.offers, self.items, self.sources = offers, items, len(offers.current.panel.sources)
        self.features, self.dtypes, self.k, self.width = tuple(features), dtypes, k, width
        own = ("user_vector", "n", "quality", "like_item_id", SEEN_ITEM_IDS, "exclude_item_ids", "filters")
        self.reads = (*own, "deadline_us", *self.features)

    @property
    def writes(self) -> Schema:
        """Ids and the vectors' scores (B,R), best first; how many of them may become candidates, whether
        items were missing, and which sources failed, a bit for each, (B,1); what each source gave, and what
        it says of each item, (B, sources x R)."""
        several = self.sources * self.width
        return Schema(
            [
                tensor("considered", np.int64, 1),
                tensor("retrieved_ids", np.int64, self.width),
                tensor("retrieved_scores", np.float32, self.width),
                tensor("source_item_ids", np.int64, several),
                tensor("source_scores", np.float32, several),
                tensor(IS_PARTIAL_INDEX, np.bool_, 1),
                tensor(FAILED_SOURCES, np.int64, 1),
            ]
        )

    def run(  # type: ignore[override]
        self,
        user_vector: Array,
        n: Array,
        quality: Array,
        like_item_id: Array,
        seen_item_ids: Array,
        exclude_item_ids: Array,
        filters: Array,
        deadline_us: Array,
        **features: Array,
    ) -> Tensors:
        """Asks for all users at once."""
        offer = self.offers.current
        survivors = considered(quality, n, self.k)
        depths = wanted(survivors, seen_item_ids, exclude_item_ids)
        counts = np.minimum(depths, self.width)
        users = Users(
            user_vector,
            features,
            [decode_filters(row, self.dtypes) for row in filters],
            seen_item_ids,
            exclude_item_ids,
            like_item_id[:, 0],
            survivors[:, 0],
            offer.eligible.of,
        )
        was_whole = offer.panel.is_whole  # a search that began before the last item came may have missed it
        started_s = time.perf_counter()
        found = offer.panel.ask(users, counts[:, 0].tolist(), self.width)
        unavailable = self.items.unavailable
        if unavailable or (depths > counts).any():
            needed_s = SLOWER * (time.perf_counter() - started_s)
            is_in_time = deadline_us > (time.time() + needed_s) * 1e6
            lacks = self._survives(offer, found.positions, users).sum(axis=1, keepdims=True) < survivors
            if (lacks & is_in_time).any():
                has_more = (found.lists != UNKNOWN).sum(axis=2).max(axis=1, keepdims=True) >= counts
                rows = np.flatnonzero(lacks & has_more & is_in_time)
                deeper = np.minimum(depths[rows, 0] + unavailable, DEEPEST)
                self._deepen(offer, found, rows, users.some(rows.tolist()), deeper)
        is_partial = not (was_whole and offer.panel.is_whole)
        return self._tensors(offer, found, users, survivors, is_partial)

    def _deepen(self, offer: Offer, found: Found, rows: Ints, users: Users, counts: Ints) -> None:
        """Asks once more for some of the users, and writes what survives into their rows."""
        if not len(rows):
            return
        deeper = offer.panel.ask(users, counts.tolist(), max(self.width, int(counts.max())))
        columns = narrowed(self._survives(offer, deeper.positions, users), self.width)
        found.lists[rows] = deeper.lists[:, :, : self.width]
        found.depth = min(max(found.depth, deeper.depth), self.width)
        found.positions[rows] = np.take_along_axis(deeper.positions, columns, axis=1)
        found.failed[rows] |= deeper.failed
        found.queried[rows] &= deeper.queried

    def _tensors(
        self, offer: Offer, found: Found, users: Users, survivors: Array, is_partial: bool
    ) -> Tensors:
        retrieved, scores = offer.panel.scores(found, users)
        lists = filled(found.lists.shape, PAD_ID)
        lists[..., : found.depth] = offer.catalogue.ids_of(found.lists[..., : found.depth])
        return {
            "considered": survivors,
            "retrieved_ids": offer.catalogue.ids_of(found.positions),
            "retrieved_scores": retrieved,
            "source_item_ids": lists.reshape(len(survivors), -1),
            "source_scores": scores.reshape(len(survivors), -1),
            IS_PARTIAL_INDEX: filled(survivors.shape, is_partial, np.bool_),
            FAILED_SOURCES: found.failed,
        }

    def _survives(self, offer: Offer, positions: Ints, users: Users) -> Bools:
        """Marks what the filter will leave (B,W); as far as is known, where the items were not read yet."""
        if offer.panel.is_merged:
            return offer.panel.survives(positions, users)
        ids = offer.catalogue.ids_of(positions)
        gone = is_among(ids, users.seen_item_ids) | is_among(ids, users.exclude_item_ids)
        survives: Bools = (positions != UNKNOWN) & ~gone
        if self.items.unavailable:
            survives &= self.items.available[positions]
        return survives
