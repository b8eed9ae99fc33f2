"""Chooses on the validation part how slates of users are ordered of whom little is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from contract.bundle import FewOrder, OrderSpec
from training.data.prepared import Prepared
from training.examples.positives import UserHistories
from training.examples.split import HeldOut, at_users, first_users
from training.examples.strangers import FEW, with_strangers
from training.ranking.ordering import order_of_few, order_of_unknown
from training.slates.choose import CHOICE_USERS
from training.slates.slates import Learned, RankedCandidates, clicked, rank_candidates
from training.slates.sources import POPULAR, RecentLists, SourceLists, lists_of, scores_of


def with_orders_of_few(
    prepared: Prepared, learned: Learned, held: HeldOut, slates: RankedCandidates
) -> OrderSpec:
    """Gives the learned order, with others for users of whom no item is known, or few, where these are better
    to held-out users of whom no more were known; `slates` are what they have as they are."""
    if POPULAR not in {one.spec.name for one in learned.sources}:
        return learned.order
    k = slates.items.shape[1]
    unknown = _order_of_unknown(learned, _Strangers.of(prepared, learned, held, 0, k))
    order = learned.order.model_copy(update={"unknown": unknown})
    few = tuple(_orders_of_few(prepared, replace(learned, order=order), held, slates))
    return order.model_copy(update={"few": few})


def _orders_of_few(
    prepared: Prepared, learned: Learned, held: HeldOut, slates: RankedCandidates
) -> Iterator[FewOrder]:
    """Fits an order for each few of items, to those of whom so many are known and, as strangers, to those of
    whom more are; among the scores that are asked for everyone anyway, and what is popular, which costs next
    to nothing."""
    among = learned.order.weighed | {POPULAR}
    judged, served, known = slates.judged(held), slates.served(learned.order), slates.known[:, 0]
    for least, most in zip((1, *(count + 1 for count in FEW)), FEW, strict=False):
        others = at_users(held, known > most)
        if not len(others.user_rows):
            return
        strangers = _Strangers.of(prepared, learned, others, most, slates.items.shape[1])
        theirs = (known >= least) & (known <= most)
        everyones = np.concatenate([strangers.slates.served(learned.order), served[theirs]])
        both = strangers.slates.judged(strangers.held).and_those_of(judged.some(theirs))
        if order := order_of_few(both, everyones, among):
            yield FewOrder(least=least, most=most, order=order)


def _order_of_unknown(learned: Learned, strangers: _Strangers) -> OrderSpec | None:
    judged = strangers.slates.judged(strangers.held)
    popular = [one for one in learned.sources if one.spec.name == POPULAR]
    items = strangers.lists.merged([float(one in popular) for one in learned.sources])
    # Of these the popularity alone is read, and no model asked.
    alone = replace(
        judged,
        sources=scores_of(popular, strangers.recent, strangers.held, items),
        clicked=clicked(items, strangers.held),
        live=items >= 0,
    )
    return order_of_unknown(judged, strangers.slates.served(learned.order), alone, POPULAR)


@dataclass(frozen=True, eq=False)
class _Strangers:
    """Held-out users as strangers, what the sources give them, and the candidates made of it."""

    held: HeldOut
    recent: RecentLists
    lists: SourceLists
    slates: RankedCandidates

    @classmethod
    def of(cls, prepared: Prepared, learned: Learned, held: HeldOut, count: int, k: int) -> _Strangers:
        """Makes strangers of some of the users, the `count` newest items before validation known."""
        instant = prepared.split.train_until
        together, strangers = with_strangers(prepared, first_users(held, CHOICE_USERS), instant, count)
        retriever = replace(learned.retriever, histories=UserHistories.of(together, learned.encoders))
        vectors = retriever.vectors(strangers, instant)
        recent = RecentLists.of(together, instant)
        lists = lists_of(learned.sources, recent, strangers, vectors, k)
        anew = replace(learned, retriever=retriever)
        return cls(
            strangers, recent, lists, rank_candidates(together, anew, strangers, vectors, instant, k, lists)
        )
