"""Retrieves from the whole catalogue, and measures what is found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.arrays import Doubles, Floats, Ints
from training.examples.split import HeldOut
from training.metrics.lists import list_metrics, ranked, retrieval_metrics

PerUser = Mapping[str, Doubles]


def vector_scorer(users: Floats, items: Floats) -> Any:
    """Scores the whole catalogue for rows of users, by inner product."""
    return lambda rows: users[rows] @ items.T


def evaluate_vectors(held: HeldOut, users: Floats, items: Floats) -> PerUser:
    """Takes the vectors of the held-out users and of the catalogue, gives retrieval metrics per user."""
    return retrieval_metrics(vector_scorer(users, items), held.relevant, held.seen)


def retrieve(held: HeldOut, users: Floats, items: Floats, k: int) -> Ints:
    """Gives the `k` best unseen items of every held-out user, catalogue positions, best first; (U,K)."""
    return ranked(vector_scorer(users, items), held.seen, k)


def reorder(candidates: Ints, scores: npt.NDArray[np.float32]) -> Ints:
    """Takes candidates (U,K), -1 in the tail, and their ranking scores, gives them best first."""
    sunk = np.where(candidates >= 0, scores, -np.inf)
    return np.take_along_axis(candidates, np.argsort(-sunk, axis=1, kind="stable"), axis=1)


def evaluate_lists(held: HeldOut, lists: Ints) -> PerUser:
    """Takes ready lists of positions (U,N), gives Recall@10 and NDCG@10 per user."""
    return list_metrics(lists, held.relevant, cutoffs=(10,))
