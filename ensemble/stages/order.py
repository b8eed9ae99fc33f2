"""Orders the candidates into the slate: the best first, or with a little exploration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np
from jaxtyping import Bool, Float, Int
from merlin.schema import Schema

from contract import names
from contract.arrays import Array, filled
from contract.bundle import OrderSpec, SourceSpec
from contract.ordering import known_items, likeness, order_scores, unranked_scores
from contract.slates import Degradation, degradation_mask
from contract.tensors import MAX_N, PAD_ID
from ensemble.stage import Stage, Tensors, tensor
from ensemble.stages.beside import CANDIDATES_LACK_EMBEDDINGS, LACKS_EMBEDDINGS
from ensemble.stages.encode import IS_UNKNOWN_ITEM
from ensemble.stages.filter import IS_FILTER_DEGRADED
from ensemble.stages.lookup import (
    CANDIDATE_NUMERIC,
    IS_LACKING_ITEMS,
    IS_LACKING_USER,
    IS_UNKNOWN_USER,
    LACKS_FEATURES,
    SEEN_ITEM_IDS,
    encoded,
)
from ensemble.stages.retrieve import FAILED_SOURCES, IS_PARTIAL_INDEX
from ensemble.stages.ruled import RuledOrder
from ensemble.stages.score import IS_RANKED

_BITS = {flag: degradation_mask([flag]) for flag in Degradation}
_TOLD_BY = {
    Degradation.UNKNOWN_USER: (IS_UNKNOWN_USER,),
    Degradation.FILTER_CANDIDATES: (IS_FILTER_DEGRADED,),
    Degradation.PARTIAL_INDEX: (IS_PARTIAL_INDEX,),
    Degradation.UNKNOWN_ITEM: (IS_UNKNOWN_ITEM,),
    Degradation.USER_FEATURES: (LACKS_FEATURES,),
    Degradation.FEATURES: (IS_LACKING_USER, IS_LACKING_ITEMS),
    Degradation.SOURCES: (FAILED_SOURCES,),
    Degradation.EMBEDDINGS: (LACKS_EMBEDDINGS, CANDIDATES_LACK_EMBEDDINGS),
}
"""The tensors (B,1) by which stages before this one say what an answer lacks: where they are not 0."""


def top_n(
    ids: Int[np.ndarray, "B K"], scores: Float[np.ndarray, "B K"], mask: Bool[np.ndarray, "B K"], n: int
) -> tuple[Int[np.ndarray, "B N"], Float[np.ndarray, "B N"]]:
    """Takes the `n` highest-scoring live candidates, best first; ties keep retrieval order.

    Live means mask True and score finite. With fewer than `n`, the tail is PAD_ID, score -inf.
    """
    sunk = np.where(mask & np.isfinite(scores), scores, -np.inf).astype(np.float32)
    best, rows = (-sunk).argsort(axis=1, kind="stable")[:, :n], np.arange(len(sunk))[:, None]
    top_scores = sunk[rows, best]
    top_ids = np.where(top_scores == -np.inf, PAD_ID, ids[rows, best])
    if (missing := n - ids.shape[1]) > 0:
        top_ids = np.pad(top_ids, ((0, 0), (0, missing)), constant_values=PAD_ID)
        top_scores = np.pad(top_scores, ((0, 0), (0, missing)), constant_values=-np.inf)
    return top_ids, top_scores


def gumbel_keys(
    scores: Float[np.ndarray, "B K"], seeds: Int[np.ndarray, "B 1"], temperature: float
) -> tuple[Float[np.ndarray, "B K"], Float[np.ndarray, "B K"]]:
    """Gives log-weights log(p)/temperature, and those plus Gumbel noise: sorting the latter samples without
    replacement in proportion to the weights.

    Each row draws from a generator of its own seed, so that it never depends on its neighbours.
    Source: Kool, van Hoof, Welling 2019, Stochastic Beams and Where to Find Them, section 2.
    """
    weights = np.log(np.maximum(scores.astype(np.float64), 1e-12)) / temperature
    noise = [np.random.default_rng(abs(int(seed))).gumbel(size=scores.shape[1]) for seed in seeds[:, 0]]
    return weights, weights + np.stack(noise)


def propensities_of(
    weights: Float[np.ndarray, "B K"], mask: Bool[np.ndarray, "B K"], order: Int[np.ndarray, "B N"]
) -> Float[np.ndarray, "B N"]:
    """Gives the probability that each place of the slate got its item, given the places before it.

    Source: Plackett-Luce, P(item | before) = exp(w) / sum of exp(w) over the candidates not placed yet.
    """
    sunk = np.where(mask, weights, -np.inf)
    top = np.max(sunk, axis=1, keepdims=True, initial=-1e300)
    mass = np.exp(sunk - top)
    placed = np.take_along_axis(mass, order, axis=1)
    left = mass.sum(axis=1, keepdims=True) - np.cumsum(placed, axis=1) + placed
    return np.divide(placed, left, out=np.zeros_like(placed), where=left > 0).clip(0, 1).astype(np.float32)


def _degraded(lacks: Mapping[Degradation, Array], table: Tensors) -> Array:
    """Takes what this stage found lacking, (B,1) each, and what those before it told; gives the bit masks
    (B,1)."""
    reported = {
        flag: reduce(np.logical_or, (table[name] for name in told_by)) for flag, told_by in _TOLD_BY.items()
    }
    marks = {**lacks, **reported}
    bits = np.array([[_BITS[flag]] for flag in marks])
    masks: Array = (np.concatenate([*marks.values()], axis=1) != 0) @ bits
    return masks


class OrderCandidates(Stage):
    """Writes the slate: the `n` best of each request, deterministic unless a temperature is set.

    Rules of the settings or of the request order anew what the scores ordered; `plain_places` and `moved_by`
    then say of each candidate where it stood, from 1, and what moved it.

    Candidates are ordered by `order_scores`, P(click) from the ranker's score, each source's, and the columns
    that the order weighs; so are `item_scores`. A user who was not ranked has the sources' order; items like
    another have their `likeness`.
    With exploration, the order is a seeded Gumbel top-k draw, and `propensities` are logged with the answer;
    without, every propensity is 1. It sums up what `degraded` says.
    """

    reads: tuple[str, ...] = (
        "candidate_ids",
        "retrieval_scores",
        "candidate_source_scores",
        "ranking_scores",
        "candidate_mask",
        "considered",
        "n",
        "seed",
        "like_item_id",
        "user_id",
        "user_vector",
        "filters",
        "exclude_item_ids",
        "rules",
        SEEN_ITEM_IDS,
        IS_RANKED,
        *(name for told_by in _TOLD_BY.values() for name in told_by),
    )

    def __init__(
        self,
        order: OrderSpec,
        sources: Sequence[SourceSpec],
        numeric: Sequence[str],
        k: int,
        ruled: RuledOrder,
        temperature: float = 0.0,
    ) -> None:
        """Takes the bundle's order, what its weights are about, the sources and the numeric columns of
        candidates, K, the rules, and the temperature."""
        super().__init__()
        self.weighed = [(at, one.name) for at, one in enumerate(sources) if one.name in order.weighed]
        columns = [numeric.index(name) for name in order.numeric]
        self.columns = slice(None) if columns == [*range(len(numeric))] else np.array(columns, dtype=np.intp)
        self.order, self.k, self.ruled, self.temperature = order, k, ruled, temperature
        self.reads = (
            *self.reads,
            *([names.USER_RECENT_ITEM_IDS] if order.asks_known else []),
            *([encoded(CANDIDATE_NUMERIC)] if order.numeric else []),
        )

    @property
    def writes(self) -> Schema:
        """What orders (B,K), the slate (B,N), its propensities, what rules moved (B,K), and `degraded`, a
        mask of `Degradation`."""
        return Schema(
            [
                tensor("order_scores", np.float32, self.k),
                tensor("item_ids", np.int64, MAX_N),
                tensor("item_scores", np.float32, MAX_N),
                tensor("propensities", np.float32, MAX_N),
                tensor("plain_places", np.int64, self.k),
                tensor("moved_by", np.int8, self.k),
                tensor("degraded", np.int64, 1),
            ]
        )

    def run(  # type: ignore[override]
        self,
        candidate_ids: Array,
        candidate_mask: Array,
        considered: Array,
        n: Array,
        seed: Array,
        like_item_id: Array,
        is_ranked: Array,
        **others: Array,
    ) -> Tensors:
        """Orders each row, and cuts it to its own `n`."""
        is_like = like_item_id != PAD_ID
        scores = self._scores(is_ranked, is_like, others)
        if self.temperature:
            item_ids, item_scores, chances = self._explore(candidate_ids, scores, candidate_mask, seed)
        else:
            item_ids, item_scores = top_n(candidate_ids, scores, candidate_mask, MAX_N)
            chances = filled(item_ids.shape, 1, np.float32)
        plain_places = np.zeros(scores.shape, dtype=np.int64)
        moved_by = np.zeros(scores.shape, dtype=np.int8)
        breaks_cap = np.zeros(n.shape, dtype=np.bool_)
        if rows := self.ruled.users(others["rules"]):
            table = others | {"candidate_ids": candidate_ids, "candidate_mask": candidate_mask}
            table |= {"n": n, "seed": seed, "like_item_id": like_item_id}
            for row in rows:
                slate = self.ruled.slate({name: tensor[row] for name, tensor in table.items()}, scores[row])
                if slate is None:
                    continue
                count = len(slate.item_ids)
                item_ids[row, :count], item_ids[row, count:] = slate.item_ids, PAD_ID
                item_scores[row, :count], chances[row, :count] = slate.item_scores, slate.chances
                plain_places[row], moved_by[row] = slate.plain_places, slate.moved_by
                breaks_cap[row] = slate.breaks_cap
        is_served = (np.arange(MAX_N) < n) & (item_ids != PAD_ID)
        lacks = {
            Degradation.SHORT: is_served.sum(axis=1, keepdims=True) < n,
            Degradation.FEWER_CANDIDATES: (considered < self.k) & ~is_like,
            Degradation.SCORE_CANDIDATES: ~is_ranked & ~is_like,
            Degradation.CAPS: breaks_cap,
        }
        return {
            "order_scores": scores,
            "item_ids": np.where(is_served, item_ids, PAD_ID),
            "item_scores": np.where(is_served, item_scores, np.float32(-np.inf)),
            "propensities": np.where(is_served, chances, np.float32(0)),
            "plain_places": plain_places,
            "moved_by": moved_by,
            "degraded": _degraded(lacks, others),
        }

    def _scores(self, is_ranked: Array, is_like: Array, table: Tensors) -> Array:
        """Gives what orders candidates, (B,K)."""
        retrieval_scores, of_all = table["retrieval_scores"], table["candidate_source_scores"]
        of_sources = {name: of_all[:, at] for at, name in self.weighed}
        known = known_items(table[names.USER_RECENT_ITEM_IDS]) if self.order.asks_known else None
        columns = table[encoded(CANDIDATE_NUMERIC)][..., self.columns] if self.order.numeric else None
        ranking_scores = table["ranking_scores"]
        scores = order_scores(ranking_scores, retrieval_scores, self.order, of_sources, known, columns)
        if not is_ranked.all():
            unranked = unranked_scores(retrieval_scores, self.order, of_sources, known)
            scores = np.where(is_ranked, scores, unranked)
        if is_like.any():
            scores = np.where(is_like, likeness(retrieval_scores, self.order, of_sources), scores)
        return scores

    def _explore(self, ids: Array, scores: Array, mask: Array, seeds: Array) -> tuple[Array, Array, Array]:
        weights, keys = gumbel_keys(scores, seeds, self.temperature)
        places = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        order, _ = top_n(places, keys, mask, MAX_N)
        taken = np.where(order == PAD_ID, 0, order)
        item_ids = np.where(order == PAD_ID, PAD_ID, np.take_along_axis(ids, taken, axis=1))
        item_scores = np.where(
            order == PAD_ID, np.float32(-np.inf), np.take_along_axis(scores, taken, axis=1)
        )
        return item_ids, item_scores, propensities_of(weights, mask, taken)
