"""Between requests and the ensemble's tensors, both ways. Pure functions; axis B is a call's requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from contract.arrays import Array
from contract.errors import ErrorCode, StageError
from contract.filters import encode_filters
from contract.slates import Rule, SlateSource, degradations
from contract.tensors import MODEL_NAME, NO_CONTEXT, PAD_ID, StageName, encode_excluded
from contract.user_features import encode_user_features
from service.limits.deadline import Deadline
from service.schemas import SlateBody
from service.slate import ItemTrace, Slate

_RULES = list(Rule)
_STAGES = [str(stage) for stage in StageName]


def seed_of(request_id: str) -> int:
    """Takes a request id, gives the seed of its exploration: the same id explores in the same way."""
    return int.from_bytes(blake2b(request_id.encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One request as a row of the ensemble's tensors."""

    request: SlateBody
    deadline: Deadline
    seed: int
    quality: float
    excluded: Array
    filters: Array
    user_features: Array | None

    @classmethod
    def of(cls, request: SlateBody, deadline: Deadline, seed: int, quality: float) -> RequestRow:
        """Packs what has a width of its own.

        Raises:
            StageError: `bad_request`, where the filters or the features are longer than the widest tensor.
        """
        excluded = request.exclude_item_ids
        if request.like_item_id != PAD_ID:
            excluded = [*excluded, request.like_item_id]
        return cls(
            request=request,
            deadline=deadline,
            seed=seed,
            quality=quality,
            excluded=encode_excluded(excluded),
            filters=encode_filters(request.filters),
            user_features=encode_user_features(request.user_features) if request.user_features else None,
        )


def encode_rows(rows: Sequence[RequestRow], context: Sequence[str]) -> dict[str, Array]:
    """Takes B rows and the manifest's context names, gives every input tensor of the ensemble.

    Lists of different widths are padded to the widest among them; an optional tensor is there where a row
    needs it.
    """
    scalars: dict[str, list[int]] = {
        "user_id": [row.request.user_id for row in rows],
        "n": [row.request.n for row in rows],
        "seed": [row.seed for row in rows],
        "deadline_us": [row.deadline.unix_us() for row in rows],
    }
    scalars |= {name: [row.request.context.get(name, NO_CONTEXT) for row in rows] for name in context}
    tensors: dict[str, Array] = {
        name: np.array(values, dtype=np.int64).reshape(-1, 1) for name, values in scalars.items()
    }
    tensors["quality"] = np.array([row.quality for row in rows], dtype=np.float32).reshape(-1, 1)
    tensors["exclude_item_ids"] = _stacked([row.excluded for row in rows], PAD_ID)
    tensors["filters"] = _stacked([row.filters for row in rows], 0)
    like = [row.request.like_item_id for row in rows]
    if any(item_id != PAD_ID for item_id in like):
        tensors["like_item_id"] = np.array(like, dtype=np.int64).reshape(-1, 1)
    if any(row.user_features is not None for row in rows):
        nothing = np.zeros((1, 1), dtype=np.uint8)
        given = [nothing if row.user_features is None else row.user_features for row in rows]
        tensors["user_features"] = _stacked(given, 0)
    return tensors


def _stacked(rows: Sequence[Array], padding: int) -> Array:
    if len(rows) == 1:
        return rows[0]
    stack = np.full((len(rows), max(row.shape[1] for row in rows)), padding, dtype=rows[0].dtype)
    for place, row in enumerate(rows):
        stack[place, : row.shape[1]] = row[0]
    return stack


def decode_slate(
    outputs: Mapping[str, Array], n: int, is_explained: bool, row: int = 0, is_ranked: bool = True
) -> Slate:
    """Takes the ensemble's outputs, gives the slate of one row without its padding; items like another are
    not ranked.

    Raises:
        StageError: `contract`, where a tensor is missing or has another shape than promised.
    """
    try:
        item_ids = outputs["item_ids"][row, :n].tolist()
        live = item_ids.index(PAD_ID) if PAD_ID in item_ids else len(item_ids)
        stage_us = outputs["stage_us"][row].tolist()
        return Slate(
            source=SlateSource.ENSEMBLE,
            item_ids=item_ids[:live],
            scores=outputs["item_scores"][row, :live].tolist(),
            degraded=_degradations(int(outputs["degraded"][row, 0])),
            stage_ms={stage: us / 1000 for stage, us in zip(_STAGES, stage_us, strict=True)},
            propensities=outputs["propensities"][row, :live].tolist(),
            retrieved=_decode_retrieved(outputs, item_ids[:live], is_ranked) if is_explained else None,
            bundle_id=int(outputs["bundle_id"][row, 0]),
        )
    except (KeyError, IndexError, ValueError, TypeError) as error:
        message = f"an output tensor is not as promised: {type(error).__name__}: {error}"
        raise StageError(ErrorCode.CONTRACT, MODEL_NAME, message) from None


def _degradations(mask: int) -> list[str]:
    return [str(flag) for flag in degradations(mask)] if mask else []


def _decode_retrieved(outputs: Mapping[str, Array], item_ids: list[int], is_ranked: bool) -> list[ItemTrace]:
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
    rows = zip(
        outputs["retrieved_ids"][0].tolist(),
        outputs["retrieved_scores"][0].tolist(),
        outputs["removed_by"][0].tolist(),
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
        )
        for rank, (item_id, score, rule) in enumerate(rows, 1)
        if item_id != PAD_ID
    ]


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
