"""What the chain would answer at one instant: ask every source, filter what was seen, rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from contract import names
from contract.arrays import Array, Bools, Floats, Ints
from contract.bundle import OrderSpec
from contract.candidates import unknown_shares
from contract.encoders import Encoders
from contract.ordering import known_items, order_scores
from training.data.prepared import Prepared
from training.examples.positives import UserHistories
from training.examples.snapshot import Candidates, items_as_of, users_as_of
from training.examples.split import HeldOut
from training.ranking.judged import Judged
from training.ranking.model import RankingModel
from training.retrieval.model import RetrievalModel
from training.slates.sources import FittedSource, RecentLists, SourceLists, lists_of, scores_of

USERS_AT_A_TIME = 256


@dataclass(frozen=True, eq=False)
class Retriever:
    """A retrieval model, the histories that users are made of, and the encoded catalogue."""

    model: RetrievalModel
    histories: UserHistories
    catalogue: Mapping[str, Array]

    def vectors(self, held: HeldOut, instant: datetime) -> tuple[Floats, Floats]:
        """Gives the vectors of the held-out users as of an instant, (U,D), and of the catalogue, (I,D)."""
        users = self.model.encode_users(self.histories.as_of(held.user_rows, instant))
        return users, self.model.encode_items(self.catalogue)


@dataclass(frozen=True, eq=False)
class Learned:
    """What one training run made: the chain that is served."""

    encoders: Encoders
    retriever: Retriever
    ranker: RankingModel
    sample: Mapping[str, Array]
    """Some encoded rows of the ranker, to compare its export on."""
    order: OrderSpec
    sources: tuple[FittedSource, ...] = ()
    """The sources of candidates beside the vectors."""


@dataclass(frozen=True, eq=False)
class RankedCandidates:
    """The candidates of every held-out user, as the sources gave them: all (U,K), `items` -1 in the tail;
    `lists` are what each source gave."""

    items: Ints
    retrieval_scores: Floats
    ranking_scores: Floats
    source_scores: Mapping[str, Floats]
    lists: SourceLists
    columns: Mapping[str, Floats]
    """The numeric columns of candidates that the ranker reads, as encoded."""
    known: Ints
    """How many recent items each user has, (U,1)."""

    def served(self, order: OrderSpec) -> Floats:
        """Gives the scores that slates are ordered by, (U,K)."""
        columns = np.stack([self.columns[n] for n in order.numeric], axis=2) if order.numeric else None
        scores = self.ranking_scores, self.retrieval_scores
        return order_scores(*scores, order, self.source_scores, self.known, columns)

    def judged(self, held: HeldOut) -> Judged:
        """Joins what the held-out users chose of them."""
        return Judged(
            ranking=self.ranking_scores,
            retrieval=self.retrieval_scores,
            sources=self.source_scores,
            clicked=clicked(self.items, held),
            live=self.items >= 0,
            relevant=np.diff(held.relevant.indptr).astype(np.int64),
            known=self.known,
            columns=self.columns,
        )


def clicked(items: Ints, held: HeldOut) -> Bools:
    """Says which candidates (U,K) of held-out users were clicked."""
    are_clicked: Bools = held.relevant[np.arange(len(items))[:, None], np.maximum(items, 0)].toarray() > 0
    return are_clicked


def rank_candidates(
    prepared: Prepared,
    learned: Learned,
    held: HeldOut,
    vectors: tuple[Floats, Floats],
    instant: datetime,
    k: int,
    lists: SourceLists | None = None,
) -> RankedCandidates:
    """Retrieves `k` unseen items of every held-out user and ranks them; context unknown.

    `vectors` are those users' (U,D) as of the instant, and the catalogue's (I,D); `lists` what the sources
    give them, where they were asked already.
    """
    user_vectors, item_vectors = vectors
    recent = RecentLists.of(prepared, instant)
    lists = lists or lists_of(learned.sources, recent, held, vectors, k)
    candidates = Candidates(
        prepared.dataset, learned.encoders, users_as_of(prepared, instant), items_as_of(prepared, instant)
    )
    known = known_items(candidates.users[names.USER_RECENT_ITEM_IDS][held.user_rows])
    items = _merged(learned, lists, known)
    retrieval_scores = np.empty(items.shape, dtype=np.float32)
    ranking_scores = np.empty(items.shape, dtype=np.float32)
    numeric = {n: np.empty(items.shape, np.float32) for n in candidates.numeric(learned.ranker.features)}
    for start in range(0, len(items), USERS_AT_A_TIME):
        part = slice(start, start + USERS_AT_A_TIME)
        some = np.maximum(items[part], 0)
        retrieval_scores[part] = np.einsum("ud,ukd->uk", user_vectors[part], item_vectors[some])
        columns = candidates.columns(held.user_rows[part], some)
        ranking_scores[part] = learned.ranker.predict_candidates(columns).reshape(some.shape)
        for name, values in numeric.items():
            values[part] = columns[name].reshape(some.shape)
    return RankedCandidates(
        items=items,
        retrieval_scores=retrieval_scores,
        ranking_scores=ranking_scores,
        source_scores=scores_of(learned.sources, recent, held, items),
        lists=lists,
        columns=numeric,
        known=known,
    )


def _merged(learned: Learned, lists: SourceLists, known: Ints) -> Ints:
    """Merges the lists by the sources' shares; of users with no item `known` (U,1), by theirs."""
    specs = [one.spec for one in learned.sources]
    items = lists.merged([spec.share for spec in specs])
    if learned.order.unknown is not None:
        are_unknown = known[:, 0] == 0
        theirs = replace(lists, positions=lists.positions[are_unknown])
        items[are_unknown] = theirs.merged(unknown_shares(specs, learned.order.unknown.weighed))
    return items
