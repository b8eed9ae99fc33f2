"""Retrieves the items nearest to the user vector."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int
from merlin.schema import Schema

from ensemble.contract import PAD_ID, decode_filters
from ensemble.stage import Array, Stage, Tensors, tensor
from ensemble.stages.lookup import SEEN_ITEM_IDS
from ensemble.stores.vectors import VectorIndex


def wanted(
    seen: Int[np.ndarray, "B S"], excluded: Int[np.ndarray, "B E"], k: int, width: int
) -> Int[np.ndarray, "B 1"]:
    """Counts how many items to retrieve per user: K, and one more for each item that will be filtered.

    At most `width`: the retrieved tensors have a fixed shape.
    """
    filtered = (seen != PAD_ID).sum(axis=1, keepdims=True) + (excluded != PAD_ID).sum(axis=1, keepdims=True)
    counts: Int[np.ndarray, "B 1"] = np.minimum(k + filtered, width)
    return counts


class RetrieveCandidates(Stage):
    """Asks the vector index for K items and as many more as the filter will take away, in one round trip.

    The request's filters are applied inside the search. An index that fails, fails the request.
    """

    reads = ("user_vector", SEEN_ITEM_IDS, "exclude_item_ids", "filters")

    def __init__(self, index: VectorIndex, k: int, width: int) -> None:
        """Takes R, the width of what it writes."""
        super().__init__()
        self.index, self.k, self.width = index, k, width

    @property
    def writes(self) -> Schema:
        """Ids and scores (B,R), best first."""
        return Schema(
            [
                tensor("retrieved_ids", np.int64, self.width),
                tensor("retrieved_scores", np.float32, self.width),
            ]
        )

    def run(  # type: ignore[override]
        self, user_vector: Array, seen_item_ids: Array, exclude_item_ids: Array, filters: Array
    ) -> Tensors:
        """Searches once per user."""
        counts = wanted(seen_item_ids, exclude_item_ids, self.k, self.width)[:, 0].tolist()
        conditions = [decode_filters(row) for row in filters]
        ids, scores = self.index.search(user_vector, counts, conditions, self.width)
        return {"retrieved_ids": ids, "retrieved_scores": scores}
