"""Retrieves candidates from one source or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from merlin.schema import Schema

from contract.arrays import Array
from contract.filters import decode_filters
from contract.tensors import PAD_ID
from ensemble.sources.source import Source, Users, merge
from ensemble.stage import Stage, Tensors, tensor
from ensemble.stages.lookup import SEEN_ITEM_IDS

IS_PARTIAL_INDEX = "is_partial_index"


def considered(
    quality: Float[np.ndarray, "B 1"], n: Int[np.ndarray, "B 1"], k: int
) -> Int[np.ndarray, "B 1"]:
    """Counts the candidates that a request considers: its `quality` share of K, at least its `n`."""
    share = np.rint(np.clip(quality, 0, 1) * k).astype(np.int64)
    counts: Int[np.ndarray, "B 1"] = np.clip(share, np.minimum(n, k), k)
    return counts


def wanted(
    kept: Int[np.ndarray, "B 1"], seen: Int[np.ndarray, "B S"], excluded: Int[np.ndarray, "B E"], width: int
) -> Int[np.ndarray, "B 1"]:
    """Counts how many items to retrieve per user: those to keep, and one more for each that will be filtered.

    At most `width`: the retrieved tensors have a fixed shape.
    """
    filtered = (seen != PAD_ID).sum(axis=1, keepdims=True) + (excluded != PAD_ID).sum(axis=1, keepdims=True)
    counts: Int[np.ndarray, "B 1"] = np.minimum(kept + filtered, width)
    return counts


class RetrieveCandidates(Stage):
    """Asks each source for K items and as many more as the filter will take away, once for the batch.

    With a `quality` below 1 it asks for fewer than K. The request's filters are applied by the sources. One
    that fails, fails the request; one that lacks items is asked, and said to.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        features: Sequence[str],
        dtypes: Mapping[str, str],
        k: int,
        width: int,
    ) -> None:
        """Takes the sources, the raw user columns that they are given, the columns that one may filter on,
        with their dtypes, and R, the width of what it writes."""
        super().__init__()
        self.sources, self.features, self.dtypes = tuple(sources), tuple(features), dtypes
        self.k, self.width = k, width
        own = ("user_vector", "n", "quality", SEEN_ITEM_IDS, "exclude_item_ids", "filters")
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
        **features: Array,
    ) -> Tensors:
        """Asks for all users at once."""
        kept = considered(quality, n, self.k)
        counts = wanted(kept, seen_item_ids, exclude_item_ids, self.width)[:, 0].tolist()
        conditions = [decode_filters(row, self.dtypes) for row in filters]
        users = Users(user_vector, features, conditions, seen_item_ids, exclude_item_ids)
        was_whole = self._is_whole()  # a search that began before the last item came may have missed it
        ids, scores = merge([s.candidates(users, counts, self.width) for s in self.sources], self.width)
        is_partial = not (was_whole and self._is_whole())
        return {
            "considered": kept,
            "retrieved_ids": ids,
            "retrieved_scores": scores,
            IS_PARTIAL_INDEX: np.full((len(ids), 1), is_partial),
        }

    def _is_whole(self) -> bool:
        return all(source.is_whole for source in self.sources)
