"""Filters what was retrieved: rules that remove items, then the first K survivors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Int
from merlin.schema import Schema

from ensemble.contract import PAD_ID, Rule
from ensemble.stage import Array, Stage, Tensors, tensor
from ensemble.stages.lookup import SEEN_ITEM_IDS
from ensemble.stores.items import ItemTable

IS_FILTER_DEGRADED = "is_filter_degraded"
Mask = npt.NDArray[np.bool_]
POSITION = {rule: position for position, rule in enumerate(Rule, start=1)}


def is_among(ids: Int[np.ndarray, "B R"], others: Int[np.ndarray, "B S"]) -> Bool[np.ndarray, "B R"]:
    """Marks the ids that are in the same row of `others`."""
    used = int(np.flatnonzero((others != PAD_ID).any(axis=0)).max(initial=-1)) + 1
    return np.stack([np.isin(row, other[:used]) for row, other in zip(ids, others, strict=True)])


def removed_by(
    ids: Int[np.ndarray, "B R"], rules: dict[Rule, Callable[[], Mask]], k: int
) -> npt.NDArray[np.int8]:
    """Names for each item the first rule that removes it, as 1 + its position in `Rule`; 0 keeps it.

    What survives every rule but stands behind K survivors is `beyond_k`. Padding is removed by no rule.
    """
    found = np.zeros(ids.shape, dtype=np.int8)
    for rule, applies in rules.items():
        found[(found == 0) & applies() & (ids != PAD_ID)] = POSITION[rule]
    survives = (found == 0) & (ids != PAD_ID)
    found[survives & (np.cumsum(survives, axis=1) > k)] = POSITION[Rule.BEYOND_K]
    return found


def first_k(
    ids: Int[np.ndarray, "B R"], scores: Float[np.ndarray, "B R"], kept: Bool[np.ndarray, "B R"], k: int
) -> tuple[Int[np.ndarray, "B K"], Float[np.ndarray, "B K"], Bool[np.ndarray, "B K"]]:
    """Moves the first K kept items to the front, in order; the tail is PAD_ID, score -inf, mask False."""
    order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
    mask = np.take_along_axis(kept, order, axis=1)
    first_ids = np.where(mask, np.take_along_axis(ids, order, axis=1), PAD_ID)
    first_scores = np.where(mask, np.take_along_axis(scores, order, axis=1), np.float32(-np.inf))
    return first_ids, first_scores, mask


class FilterCandidates(Stage):
    """Removes what the user has seen, what is not available, and what the request excludes.

    A rule is one line of `rules`. It may fail open: then the first K retrieved items go on, and the answer
    says `degraded: filter_candidates`.
    """

    reads = ("retrieved_ids", "retrieved_scores", SEEN_ITEM_IDS, "exclude_item_ids")

    def __init__(self, items: ItemTable, k: int, width: int) -> None:
        super().__init__()
        self.items, self.k, self.width = items, k, width

    @property
    def writes(self) -> Schema:
        """The candidates (B,K), what removed each retrieved item (B,R), and whether it failed open."""
        return Schema(
            [
                tensor("removed_by", np.int8, self.width),
                tensor("candidate_ids", np.int64, self.k),
                tensor("retrieval_scores", np.float32, self.k),
                tensor("candidate_mask", np.bool_, self.k),
                tensor(IS_FILTER_DEGRADED, np.bool_, 1),
            ]
        )

    def run(  # type: ignore[override]
        self, retrieved_ids: Array, retrieved_scores: Array, seen_item_ids: Array, exclude_item_ids: Array
    ) -> Tensors:
        """Applies the rules, cheap ones first."""
        items = self.items.snapshot
        rules: dict[Rule, Callable[[], Mask]] = {
            Rule.EXCLUDED: lambda: is_among(retrieved_ids, exclude_item_ids),
            Rule.UNAVAILABLE: lambda: ~items.is_available[items.rows_of(retrieved_ids)],
            Rule.SEEN: lambda: is_among(retrieved_ids, seen_item_ids),
        }
        return self._keep(
            retrieved_ids, retrieved_scores, removed_by(retrieved_ids, rules, self.k), is_open=False
        )

    def fallback(self, retrieved_ids: Array, retrieved_scores: Array, **_: Any) -> Tensors:  # type: ignore[override]
        """Keeps the first K retrieved items, unfiltered."""
        return self._keep(
            retrieved_ids, retrieved_scores, removed_by(retrieved_ids, {}, self.k), is_open=True
        )

    def _keep(self, ids: Array, scores: Array, removed: Array, is_open: bool) -> Tensors:
        candidates, retrieval_scores, mask = first_k(ids, scores, (removed == 0) & (ids != PAD_ID), self.k)
        return {
            "removed_by": removed,
            "candidate_ids": candidates,
            "retrieval_scores": retrieval_scores,
            "candidate_mask": mask,
            IS_FILTER_DEGRADED: np.full((len(ids), 1), is_open),
        }
