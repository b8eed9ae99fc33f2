"""Between requests and the ensemble's tensors, both ways. Pure functions; axis B is a call's requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from contract.arrays import Array
from contract.errors import ErrorCode, StageError
from contract.filters import encode_filters
from contract.rules.order_rules import encode_rules
from contract.rules.places import Mover, movers
from contract.slates import Rule, SlateSource, degradations
from contract.tensors import (
    ANSWER,
    ANSWER_TENSORS,
    CHAIN,
    NO_CONTEXT,
    OPTIONAL_FILL,
    OPTIONAL_TENSORS,
    PAD_ID,
    StageName,
    Tensor,
    encode_excluded,
    request_layout,
    unpack,
)
from contract.user_features import encode_user_features
from service.limits.deadline import Deadline
from service.schemas import SlateBody
from service.slate import ItemTrace, MovedItem, Slate, SourceTrace

_RULES = list(Rule)
_STAGES = [str(stage) for stage in StageName]


def seed_of(request_id: str) -> int:
    """Takes a request id, gives the seed of its exploration: the same id explores in the same way."""
    return int.from_bytes(blake2b(request_id.encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One request as a row of the ensemble's tensors; `optional` holds those that it needs, (1,width)."""

    request: SlateBody
    deadline: Deadline
    seed: int
    quality: float
    optional: Mapping[str, Array]

    @classmethod
    def of(cls, request: SlateBody, deadline: Deadline, seed: int, quality: float) -> RequestRow:
        """Packs what has a width of its own.

        Raises:
            StageError: `bad_request`, where filters, features or rules are longer than the widest tensor.
        """
        excluded = request.exclude_item_ids
        if request.like_item_id != PAD_ID:
            excluded = [request.like_item_id, *excluded]  # what was shown stays last
        optional: dict[str, Array] = {}
        if excluded:
            optional["exclude_item_ids"] = encode_excluded(excluded)
        if request.filters:
            optional["filters"] = encode_filters(request.filters)
        if request.user_features:
            optional["user_features"] = encode_user_features(request.user_features)
        if request.rules is not None or request.shown:
            optional["rules"] = encode_rules(request.rules, len(request.shown))
        return cls(request, deadline, seed, quality, optional)


def encode_rows(rows: Sequence[RequestRow], context: Sequence[str]) -> dict[str, Array]:
    """Takes B rows and the manifest's context names, gives the call's tensors by name; an optional one where
    a row needs it, as wide as its widest."""
    values: dict[str, list[Any]] = {
        "user_id": [row.request.user_id for row in rows],
        "n": [row.request.n for row in rows],
        "seed": [row.seed for row in rows],
        "deadline_us": [row.deadline.unix_us() for row in rows],
        "quality": [row.quality for row in rows],
        "like_item_id": [row.request.like_item_id for row in rows],
    }
    values |= {name: [row.request.context.get(name, NO_CONTEXT) for row in rows] for name in context}
    tensors = {t.name: np.array(values[t.name], t.dtype).reshape(-1, 1) for t in request_layout(context)}
    for t in OPTIONAL_TENSORS:
        if any(t.name in row.optional for row in rows):
            tensors[t.name] = _stacked([row.optional.get(t.name) for row in rows], t)
    return tensors


def _stacked(rows: Sequence[Array | None], t: Tensor) -> Array:
    width = max(row.shape[1] for row in rows if row is not None)
    stack = np.full((len(rows), width), OPTIONAL_FILL[t.name], dtype=t.dtype)
    for place, row in enumerate(rows):
        if row is not None:
            stack[place, : row.shape[1]] = row[0]
    return stack


def decode_answer(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Takes the outputs of a call, gives them by name.

    Raises:
        StageError: `contract`, where there is no answer in them, or it has another shape than promised.
    """
    try:
        return {**outputs, **unpack(outputs[ANSWER.name], ANSWER_TENSORS)}
    except (KeyError, ValueError) as error:
        raise _unlike_promised(error) from None


def decode_slate(
    outputs: Mapping[str, Array],
    n: int,
    is_explained: bool,
    row: int = 0,
    is_ranked: bool = True,
    sources: Sequence[str] = (),
) -> Slate:
    """Takes the ensemble's outputs, and the names of the manifest's sources where it is to be told which gave
    an item; gives the slate of one row without its padding. Items like another are not ranked.

    Raises:
        StageError: `contract`, where a tensor is missing or has another shape than promised.
    """
    try:
        item_ids = outputs["item_ids"][row, :n].tolist()
        live = item_ids.index(PAD_ID) if PAD_ID in item_ids else len(item_ids)
        stage_us = outputs["stage_us"][row].tolist()
        ranks = _source_ranks(outputs["source_item_ids"][row], sources) if sources else {}
        return Slate(
            source=SlateSource.ENSEMBLE,
            item_ids=item_ids[:live],
            scores=outputs["item_scores"][row, :live].tolist(),
            degraded=_degradations(int(outputs["degraded"][row, 0])),
            stage_ms={stage: us / 1000 for stage, us in zip(_STAGES, stage_us, strict=True)},
            propensities=outputs["propensities"][row, :live].tolist(),
            retrieved=_decode_retrieved(outputs, item_ids[:live], is_ranked, ranks) if is_explained else None,
            moves=_decode_moves(outputs, item_ids[:live]) if is_explained else [],
            found_by=[[name for name in sources if item_id in ranks[name]] for item_id in item_ids[:live]]
            if sources
            else None,
            bundle_id=int(outputs["bundle_id"][row, 0]),
        )
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise _unlike_promised(error) from None


def _unlike_promised(error: Exception) -> StageError:
    message = f"an output tensor is not as promised: {type(error).__name__}: {error}"
    return StageError(ErrorCode.CONTRACT, CHAIN, message)


def _degradations(mask: int) -> list[str]:
    return [str(flag) for flag in degradations(mask)] if mask else []


def _source_ranks(item_ids: Array, sources: Sequence[str]) -> dict[str, dict[int, int]]:
    """Takes what the sources gave, (sources x R,), gives by their names each item's rank from 1."""
    lists = item_ids.reshape(len(sources), -1).tolist()
    return {
        name: {item_id: rank for rank, item_id in enumerate(of_source, 1) if item_id != PAD_ID}
        for name, of_source in zip(sources, lists, strict=True)
    }


def _decode_retrieved(
    outputs: Mapping[str, Array],
    item_ids: list[int],
    is_ranked: bool,
    source_ranks: Mapping[str, Mapping[int, int]],
) -> list[ItemTrace]:
    ranking_scores = {
        item_id: score
        for item_id, score in zip(
            outputs["candidate_ids"][0].tolist(), outputs["ranking_scores"][0].tolist(), strict=True
        )
        if is_ranked and item_id != PAD_ID
    }
    best_first = sorted(ranking_scores, key=lambda item_id: -ranking_scores[item_id])
    ranking_ranks = {item_id: rank for rank, item_id in enumerate(best_first, 1)}
    slate_ranks = {item_id: rank for rank, item_id in enumerate(item_ids, 1)}
    propensities = dict(zip(item_ids, outputs["propensities"][0].tolist(), strict=False))
    scores = outputs["source_scores"][0].reshape(len(source_ranks) or 1, -1).T.tolist()
    rows = zip(
        outputs["retrieved_ids"][0].tolist(),
        outputs["retrieved_scores"][0].tolist(),
        outputs["removed_by"][0].tolist(),
        scores,
        strict=True,
    )
    return [
        ItemTrace(
            item_id=item_id,
            source=SlateSource.ENSEMBLE,
            retrieval_rank=rank,
            retrieval_score=score,
            removed_by=str(_RULES[rule - 1]) if rule else None,
            ranking_score=_finite(ranking_scores.get(item_id)),
            ranking_rank=ranking_ranks.get(item_id),
            slate_rank=slate_ranks.get(item_id),
            propensity=propensities.get(item_id),
            found_by=tuple(
                SourceTrace(name, ranks.get(item_id), said)
                for (name, ranks), said in zip(source_ranks.items(), of_sources, strict=False)
                if item_id in ranks or said
            ),
        )
        for rank, (item_id, score, rule, of_sources) in enumerate(rows, 1)
        if item_id != PAD_ID
    ]


def _decode_moves(outputs: Mapping[str, Array], item_ids: list[int]) -> list[MovedItem]:
    """Says of each candidate that a rule moved from where to where; only a pin may be no candidate."""
    candidates = outputs["candidate_ids"][0].tolist()
    rows = zip(candidates, outputs["plain_places"][0].tolist(), outputs["moved_by"][0].tolist(), strict=True)
    places = {item_id: place for place, item_id in enumerate(item_ids, 1)}
    moves = [
        MovedItem(item_id, str(mover), from_place, places.get(item_id))
        for item_id, from_place, mask in rows
        for mover in movers(mask)
        if from_place != places.get(item_id)
    ]
    others = set(item_ids) - set(candidates)
    moves += [MovedItem(item_id, str(Mover.PIN), None, places[item_id]) for item_id in others]
    return sorted(moves, key=lambda one: (one.to_place is None, one.to_place or one.from_place or 0))


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
