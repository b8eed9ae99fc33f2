"""What the chain would answer at one instant: retrieve, filter what was seen, rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from contract.arrays import Array, Floats, Ints
from contract.encoders import Encoders
from training.data.prepared import Prepared
from training.examples.positives import UserHistories
from training.examples.snapshot import Candidates, items_as_of, users_as_of
from training.examples.split import HeldOut
from training.ranking.dlrm import Dlrm
from training.retrieval.two_tower import TwoTower
from training.slates.search import retrieve

USERS_AT_A_TIME = 256


@dataclass(frozen=True, eq=False)
class Retrieval:
    """The trained towers, the histories that users are made of, and the encoded catalogue."""

    two_tower: TwoTower
    histories: UserHistories
    catalogue: Mapping[str, Array]

    def vectors(self, held: HeldOut, instant: datetime) -> tuple[Floats, Floats]:
        """Gives the vectors of the held-out users as of an instant, (U,D), and of the catalogue, (I,D)."""
        users = self.two_tower.encode_users(self.histories.as_of(held.user_rows, instant))
        return users, self.two_tower.encode_items(self.catalogue)


@dataclass(frozen=True, eq=False)
class Slates:
    """The candidates of every held-out user, in the retrieval's order: all (U,K), `items` -1 in the tail."""

    items: Ints
    retrieval_scores: Floats
    ranking_scores: Floats


def make_slates(
    prepared: Prepared,
    encoders: Encoders,
    dlrm: Dlrm,
    held: HeldOut,
    vectors: tuple[Floats, Floats],
    instant: datetime,
    k: int,
) -> Slates:
    """Retrieves the `k` best unseen items of every held-out user and ranks them; context unknown.

    `vectors` are those users' (U,D) as of the instant, and the catalogue's (I,D).
    """
    user_vectors, item_vectors = vectors
    items = retrieve(held, user_vectors, item_vectors, k)
    candidates = Candidates(
        prepared.dataset, encoders, users_as_of(prepared, instant), items_as_of(prepared, instant)
    )
    retrieval_scores = np.empty(items.shape, dtype=np.float32)
    ranking_scores = np.empty(items.shape, dtype=np.float32)
    for start in range(0, len(items), USERS_AT_A_TIME):
        part = slice(start, start + USERS_AT_A_TIME)
        some = np.maximum(items[part], 0)
        retrieval_scores[part] = np.einsum("ud,ukd->uk", user_vectors[part], item_vectors[some])
        columns = candidates.columns(held.user_rows[part], some)
        ranking_scores[part] = dlrm.predict_candidates(columns).reshape(some.shape)
    return Slates(items, retrieval_scores, ranking_scores)
