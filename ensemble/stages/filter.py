"""Filters what was retrieved: rules that remove items, then the first K survivors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Int
from merlin.schema import Schema

from contract.arrays import Array, Bools, Floats, Ids, filled
from contract.slates import Rule
from contract.tensors import PAD_ID
from ensemble.stage import Stage, Tensors, tensor
from ensemble.stages.lookup import SEEN_ITEM_IDS
from ensemble.stores.items import ItemTable

IS_FILTER_DEGRADED = "is_filter_degraded"
POSITION = {rule: position for position, rule in enumerate(Rule, start=1)}


def is_among(ids: Int[np.ndarray, "B R"], others: Int[np.ndarray, "B S"]) -> Bool[np.ndarray, "B R"]:
    """Marks the ids that are in the same row of `others`."""
    found = np.zeros(ids.shape, dtype=np.bool_)
    is_other = others != PAD_ID
    for row in is_other.any(axis=1).nonzero()[0].tolist():
        known = np.sort(others[row, is_other[row]])
        found[row] = known.take(np.searchsorted(known, ids[row]), mode="clip") == ids[row]
    return found


def removed_by(
    ids: Int[np.ndarray, "B R"], rules: dict[Rule, Callable[[], Bools]], considered: Int[np.ndarray, "B 1"]
) -> npt.NDArray[np.int8]:
    """Names for each item the first rule that removes it, as 1 + its position in `Rule`; 0 keeps it.

    What survives every rule but stands behind as many survivors as are `considered`, K or fewer, is
    `beyond_k`. Padding is removed by no rule.
    """
    found = np.zeros(ids.shape, dtype=np.int8)
    for rule, applies in rules.items():
        found[(found == 0) & applies() & (ids != PAD_ID)] = POSITION[rule]
    survives = (found == 0) & (ids != PAD_ID)
    found[survives & (np.cumsum(survives, axis=1) > considered)] = POSITION[Rule.BEYOND_K]
    return found


def first_k(
    ids: Int[np.ndarray, "B R"],
    scores: Float[np.ndarray, "B R"],
    of_sources: Float[np.ndarray, "B S R"],
    survives: Bool[np.ndarray, "B R"],
    k: int,
) -> tuple[
    Int[np.ndarray, "B K"], Float[np.ndarray, "B K"], Float[np.ndarray, "B S K"], Bool[np.ndarray, "B K"]
]:
    """Moves the first K kept items to the front, in order, and what each of S sources says of them; the tail
    is PAD_ID, score -inf, the sources' 0, mask False."""
    rows, columns = np.nonzero(survives)
    places = np.cumsum(survives, axis=1)[rows, columns] - 1
    is_first = places < k
    rows, columns, places = rows[is_first], columns[is_first], places[is_first]
    first_ids: Ids = filled((len(ids), k), PAD_ID)
    first_scores: Floats = filled((len(ids), k), -np.inf, np.float32)
    first_of_sources = np.zeros((*of_sources.shape[:2], k), dtype=np.float32)
    first_ids[rows, places], first_scores[rows, places] = ids[rows, columns], scores[rows, columns]
    first_of_sources[rows, :, places] = of_sources[rows, :, columns]
    return first_ids, first_scores, first_of_sources, first_ids != PAD_ID


def _longest(ids: Int[np.ndarray, "B R"]) -> int:
    (live,) = (ids != PAD_ID).any(axis=0).nonzero()
    return int(live[-1]) + 1 if len(live) else 0


class FilterCandidates(Stage):
    """Removes what the user has seen, what is not available, and what the request excludes.

    A rule is one line of `rules`. It may fail open: then the first K retrieved items go on, and the answer
    says `degraded: filter_candidates`.
    """

    reads = (
        "retrieved_ids",
        "retrieved_scores",
        "source_scores",
        "considered",
        SEEN_ITEM_IDS,
        "exclude_item_ids",
    )

    def __init__(self, items: ItemTable, sources: int, k: int, width: int) -> None:
        """Takes the items, how many sources there are, K, and R, the width of what was retrieved."""
        super().__init__()
        self.items, self.sources, self.k, self.width = items, sources, k, width

    @property
    def writes(self) -> Schema:
        """The candidates (B,K), what each source says of them (B,sources,K), what removed each retrieved item
        (B,R), and whether it failed open."""
        return Schema(
            [
                tensor("removed_by", np.int8, self.width),
                tensor("candidate_ids", np.int64, self.k),
                tensor("retrieval_scores", np.float32, self.k),
                tensor("candidate_source_scores", np.float32, self.sources, self.k),
                tensor("candidate_mask", np.bool_, self.k),
                tensor(IS_FILTER_DEGRADED, np.bool_, 1),
            ]
        )

    def run(  # type: ignore[override]
        self,
        retrieved_ids: Array,
        retrieved_scores: Array,
        source_scores: Array,
        considered: Array,
        seen_item_ids: Array,
        exclude_item_ids: Array,
    ) -> Tensors:
        """Applies the rules, cheap ones first, to as many columns as the longest list has."""
        items, ids = self.items.snapshot, retrieved_ids[:, : _longest(retrieved_ids)]
        rules: dict[Rule, Callable[[], Bools]] = {
            Rule.EXCLUDED: lambda: is_among(ids, exclude_item_ids),
            Rule.UNAVAILABLE: lambda: ~items.is_available[items.rows_of(ids)],
            Rule.SEEN: lambda: is_among(ids, seen_item_ids),
        }
        removed = removed_by(ids, rules, considered)
        return self._keep(ids, retrieved_scores, source_scores, removed, is_open=False)

    def fallback(  # type: ignore[override]
        self,
        retrieved_ids: Array,
        retrieved_scores: Array,
        source_scores: Array,
        considered: Array,
        **_: Any,
    ) -> Tensors:
        """Keeps the first retrieved items, unfiltered."""
        ids = retrieved_ids[:, : _longest(retrieved_ids)]
        removed = removed_by(ids, {}, considered)
        return self._keep(ids, retrieved_scores, source_scores, removed, is_open=True)

    def _keep(self, ids: Array, scores: Array, of_sources: Array, removed: Array, is_open: bool) -> Tensors:
        survives = (removed == 0) & (ids != PAD_ID)
        of_sources = of_sources.reshape(len(ids), self.sources, -1)
        candidates, retrieval_scores, source_scores, mask = first_k(ids, scores, of_sources, survives, self.k)
        removed_of_all = np.zeros(scores.shape, dtype=np.int8)
        removed_of_all[:, : ids.shape[1]] = removed
        return {
            "removed_by": removed_of_all,
            "candidate_ids": candidates,
            "retrieval_scores": retrieval_scores,
            "candidate_source_scores": source_scores,
            "candidate_mask": mask,
            IS_FILTER_DEGRADED: filled((len(ids), 1), is_open, np.bool_),
        }
