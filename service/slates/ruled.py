"""The rules of the order on slates that the ensemble did not make: a list of items, best first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from contract.rules.attributes import ItemAttributes
from contract.rules.boosts import boosted, factors
from contract.rules.order_rules import CheckedRules
from contract.rules.places import (
    BIT,
    CappedColumn,
    Mover,
    Placement,
    SharedPlaces,
    Wishes,
    fill_places,
    movers,
)
from contract.rules.shares import places_due
from contract.slates import Degradation
from service.slate import MovedItem


@dataclass(frozen=True)
class RuledList:
    """Which of the items are shown, by their places in the list; what was moved; and what it lacks."""

    order: list[int]
    moves: list[MovedItem]
    degraded: list[str]


def columns_of(rules: CheckedRules) -> tuple[str, ...]:
    """Lists the columns of the items that rules are about."""
    filters = [one for one, _ in (*rules.boosts, *rules.shares) if one is not None]
    return tuple(
        dict.fromkeys([*(column for one in filters for column in one), *(c.column for c in rules.caps)])
    )


def order_by_rules(
    rules: CheckedRules,
    item_ids: Sequence[int],
    odds: Sequence[float],
    attributes: ItemAttributes,
    rows: Sequence[int],
    *,
    user_id: int,
    n: int,
    shown: Sequence[int] = (),
) -> RuledList:
    """Takes items, best first, the odds of each, descending, from 0 on, and what they hold, by their rows and
    by those of the items that earlier pages showed; gives the best `n` as the rules ask it.

    There are no vectors here, and nobody knows here what is new: diversity and the share of new items do not
    count. A pin that is none of the items is left out.
    """
    held, before = np.array(rows, dtype=np.intp), np.array(shown, dtype=np.intp)
    chances = np.array(odds, dtype=np.float64)
    boosts = boosted(chances / (1 + chances), factors(rules.boosts, attributes, held))
    held, ids = held[boosts.order], [item_ids[one] for one in boosts.order]
    pins = {
        place - len(shown) - 1: ids.index(one)
        for place, one in rules.pins
        if place > len(shown) and one in ids
    }
    placed = fill_places(
        Wishes(
            boosts.values,
            n,
            boosts.buried,
            len(ids),
            pins,
            [CappedColumn.of(cap, attributes, held, before) for cap in rules.caps],
            [
                SharedPlaces(
                    attributes.passing(filters)[held].tolist(), places_due(share, user_id, len(shown), n)
                )
                for filters, share in rules.shares
                if filters is not None
            ],
        )
    )
    masks = dict(zip(boosts.order.tolist(), placed.moved_by, strict=True))
    for one in np.flatnonzero(boosts.is_moved).tolist():
        masks[one] |= BIT[Mover.BOOST]
    order = [int(boosts.order[one]) for one in placed.order]
    return RuledList(order, moves_of(item_ids, order, masks), _degraded(placed))


def moves_of(item_ids: Sequence[int], order: Sequence[int], masks: dict[int, int]) -> list[MovedItem]:
    """Says which rule moved which item, from its place in the list to its place in the order."""
    places = {one: place for place, one in enumerate(order, 1)}
    return [
        MovedItem(item_ids[one], str(mover), one + 1, places.get(one))
        for one in [*order, *(one for one in masks if one not in places)]
        for mover in movers(masks[one])
        if places.get(one) != one + 1
    ]


def _degraded(placed: Placement) -> list[str]:
    return [str(Degradation.CAPS)] if placed.breaks_cap else []
