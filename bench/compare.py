"""Compares the designs' answers before any clock runs: the same candidates, the same scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferenceServerClient

from bench.designs import our_messages
from bench.grpc_traffic import METHOD
from bench.replies import tensors_of
from contract.tensors import PAD_ID

AGREES = 1e-4
OUTPUTS = ("retrieved_ids", "source_item_ids", "candidate_ids", "ranking_scores")
Tensors = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Agreement:
    """Shares of what was compared that is the same: the K nearest items, and the scores of one item each."""

    nearest: float
    scores: float
    compared: int


def answers(address: str, messages: Mapping[int, bytes]) -> dict[int, Tensors]:
    """Asks a Triton for each user, one after the other."""
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(METHOD)
        return {user: tensors_of(call(message, timeout=60)) for user, message in messages.items()}


def our_answers(
    address: str, bundle: str, users: Sequence[int], context: Sequence[str], n: int
) -> dict[int, Tensors]:
    """Asks our ensemble for what it retrieved, kept and scored."""
    return answers(address, our_messages(bundle, users, context, n, OUTPUTS))


def agree_reference(ours: Mapping[int, Tensors], theirs: Mapping[int, Tensors], k: int) -> Agreement:
    """Compares with a reference, which answers all its candidates and their scores."""
    nearest, scores = [], []
    for user, answer in theirs.items():
        ids = answer["item_id_raw"].tolist()
        nearest.append(set(ids) == set(_nearest(ours[user])[:k]))
        scores += _same(ours[user], dict(zip(ids, answer["ranking_scores"].tolist(), strict=True)))
    return Agreement(float(np.mean(nearest)), float(np.mean(scores)) if scores else 1.0, len(scores))


def agree_stock(
    ours: Mapping[int, Tensors], theirs: Mapping[int, Tensors], item_ids: npt.NDArray[np.int64]
) -> Agreement:
    """Compares with the stock ensemble, which answers its slate alone, as codes; its index is approximate."""
    nearest, scores = [], []
    for user, answer in theirs.items():
        ids = item_ids[answer["ordered_ids"].ravel()].tolist()
        named = {i: s for i, s in zip(ids, answer["ordered_scores"].ravel().tolist(), strict=True) if i >= 0}
        found = set(_nearest(ours[user]))
        nearest += [item in found for item in named]
        scores += _same(ours[user], named)
    return Agreement(float(np.mean(nearest)), float(np.mean(scores)) if scores else 1.0, len(scores))


def _nearest(ours: Tensors) -> list[int]:
    """What the vectors gave, which the others have alone: the first of a bundle's sources."""
    nearest: list[int] = ours["source_item_ids"][0, : ours["retrieved_ids"].shape[1]].tolist()
    return nearest


def _same(ours: Tensors, scores: Mapping[int, float]) -> list[bool]:
    """Whether each score is the one that our chain gives, of items that it ranks; none, where its order gives
    the ranker no weight, so that it is not run."""
    ids, ranked = ours["candidate_ids"][0].tolist(), ours["ranking_scores"][0].tolist()
    if not any(ranked):
        return []
    mine = {item: score for item, score in zip(ids, ranked, strict=True) if item != PAD_ID}
    return [abs(mine[item] - score) <= AGREES for item, score in scores.items() if item in mine]


def runs(address: str) -> dict[str, int]:
    """How often each model of a Triton has run, by its own count."""
    statistics = InferenceServerClient(address).get_inference_statistics(as_json=True)["model_stats"]
    return {one["name"]: int(one.get("inference_count", 0)) for one in statistics}
