"""Between a request and the ensemble's tensors, both ways. Pure functions; axis B is 1 here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from ensemble import contract
from ensemble.contract import ErrorCode, StageError
from service.schemas import RecommendRequest

Array = npt.NDArray[np.generic]
_RULES = list(contract.Rule)


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What happened to one retrieved item; the meanings are those of `schemas.ExplainedItem`."""

    item_id: int
    retrieval_rank: int
    retrieval_score: float
    removed_by: str | None
    ranking_score: float | None = None
    ranking_rank: int | None = None
    slate_rank: int | None = None
    propensity: float | None = None


@dataclass(frozen=True, slots=True)
class Slate:
    """An ordered answer, without its display fields."""

    source: contract.Source
    item_ids: list[int]
    scores: list[float]
    degraded: list[str] = field(default_factory=list)
    stage_ms: dict[str, float] = field(default_factory=dict)
    propensities: list[float] = field(default_factory=list)
    retrieved: list[Retrieved] | None = None

    def removed(self) -> dict[str, int]:
        """Counts the retrieved items that each rule removed."""
        return dict(Counter(one.removed_by for one in self.retrieved or () if one.removed_by))


def seed_of(request_id: str) -> int:
    """Takes a request id, gives the seed of its exploration: the same id explores in the same way."""
    return int.from_bytes(blake2b(request_id.encode(), digest_size=8).digest(), "big") >> 1


def encode_request(
    request: RecommendRequest,
    context: Sequence[str],
    deadline_us: int,
    seed: int,
    quality: float = contract.FULL_QUALITY,
) -> dict[str, Array]:
    """Takes a request and the manifest's context names, gives every input tensor of the ensemble.

    Raises:
        StageError: `bad_request`, where the filters are longer than the widest tensor.
    """
    told = request.context
    scalars = {"user_id": request.user_id, "n": request.n, "seed": seed, "deadline_us": deadline_us}
    scalars |= {name: told.get(name, contract.NO_CONTEXT) for name in context}
    tensors: dict[str, Array] = {name: np.array([[value]], dtype=np.int64) for name, value in scalars.items()}
    tensors["quality"] = np.array([[quality]], dtype=np.float32)
    tensors["exclude_item_ids"] = contract.encode_excluded(request.exclude_item_ids)
    tensors["filters"] = contract.encode_filters(request.filters)
    return tensors


def decode_slate(outputs: Mapping[str, Array], n: int, is_explained: bool) -> Slate:
    """Takes the ensemble's outputs for one request, gives the slate without its padding.

    Raises:
        StageError: `contract`, where a tensor is missing or has another shape than promised.
    """
    try:
        item_ids = outputs["item_ids"][0].tolist()
        live = next(
            (place for place, item_id in enumerate(item_ids) if item_id == contract.PAD_ID), len(item_ids)
        )
        live = min(live, n)
        stage_us = outputs["stage_us"][0].tolist()
        return Slate(
            source=contract.Source.ENSEMBLE,
            item_ids=item_ids[:live],
            scores=outputs["item_scores"][0, :live].tolist(),
            degraded=[str(flag) for flag in contract.degradations(int(outputs["degraded"][0, 0]))],
            stage_ms={str(stage): us / 1000 for stage, us in zip(contract.Stage, stage_us, strict=True)},
            propensities=outputs["propensities"][0, :live].tolist(),
            retrieved=_decode_retrieved(outputs, item_ids[:live]) if is_explained else None,
        )
    except (KeyError, IndexError, ValueError, TypeError) as error:
        message = f"an output tensor is not as promised: {type(error).__name__}: {error}"
        raise StageError(ErrorCode.CONTRACT, contract.MODEL_NAME, message) from None


def _decode_retrieved(outputs: Mapping[str, Array], item_ids: list[int]) -> list[Retrieved]:
    ranking_scores = {
        item_id: score
        for item_id, score in zip(
            outputs["candidate_ids"][0].tolist(), outputs["ranking_scores"][0].tolist(), strict=True
        )
        if item_id != contract.PAD_ID
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
        Retrieved(
            item_id=item_id,
            retrieval_rank=rank,
            retrieval_score=score,
            removed_by=str(_RULES[rule - 1]) if rule else None,
            ranking_score=_finite(ranking_scores.get(item_id)),
            ranking_rank=ranking_ranks.get(item_id),
            slate_rank=slate_ranks.get(item_id),
            propensity=propensities.get(item_id),
        )
        for rank, (item_id, score, rule) in enumerate(rows, 1)
        if item_id != contract.PAD_ID
    ]


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
