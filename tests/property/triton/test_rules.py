"""Invariants of the rules of the order, against plain Python."""

from __future__ import annotations

from itertools import pairwise, permutations
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.filters import check_filters, held_values, passes
from contract.rules.attributes import NONE, ItemAttributes
from contract.rules.boosts import boosted
from contract.rules.diversity import Likeness, relevance
from contract.rules.order_rules import Cap
from contract.rules.places import CappedColumn, SharedPlaces, Wishes, fill_places
from contract.rules.shares import places_due

HELD = st.one_of(st.just([NONE]), st.sets(st.integers(0, 2), min_size=1, max_size=2).map(sorted))


@st.composite
def wishes(draw: st.DrawFn, most: int = 12) -> Wishes:
    """Some candidates, best first, and anything that may be asked of them."""
    count = draw(st.integers(0, most))
    held = draw(st.lists(HELD, min_size=count + 2, max_size=count + 2))
    caps = []
    for _ in range(draw(st.integers(0, 2))):
        window = draw(st.integers(2, 5))
        before = draw(st.lists(st.sampled_from(held), max_size=5))
        caps.append(
            CappedColumn(Cap(column="c", most=draw(st.integers(1, window - 1)), window=window), held, before)
        )
    extra = draw(st.integers(0, 2))
    pinned = (
        draw(st.lists(st.integers(0, count + extra - 1), unique=True, max_size=3)) if count + extra else []
    )
    pinned += [one for one in range(count, count + extra) if one not in pinned]
    places = draw(st.lists(st.integers(0, 15), unique=True, min_size=len(pinned), max_size=len(pinned)))
    values = np.sort(np.array(draw(st.lists(st.floats(0, 1, width=32), min_size=count, max_size=count))))[
        ::-1
    ]
    likeness, diversity = None, 0.0
    if draw(st.booleans()):
        diversity = draw(st.floats(0, 1))
        vectors = np.random.default_rng(draw(st.integers(0, 99))).normal(size=(count + extra, 3))
        likeness = Likeness(vectors.astype(np.float32), vectors[:1].astype(np.float32))
    shares = []
    if draw(st.booleans()):
        members = draw(st.lists(st.booleans(), min_size=count + extra, max_size=count + extra))
        shares = [
            SharedPlaces(members, places_due(draw(st.floats(0.01, 1)), draw(st.integers(-5, 99)), 0, 12))
        ]
    return Wishes(
        np.append(values * (1 - diversity), np.zeros(extra)),
        draw(st.integers(1, 12)),
        draw(st.integers(0, count)),
        count,
        dict(zip(places, pinned, strict=True)),
        caps,
        shares,
        diversity,
        likeness,
    )


def is_kept(order: list[int], caps: Any) -> bool:
    for one in caps:
        line = [*one.before, *(one.held[candidate] for candidate in order)]
        for end in range(len(one.before), len(line)):
            window = line[max(0, end - one.cap.window + 1) : end + 1]
            if any(
                sum(value in held for held in window) > one.cap.most for value in line[end] if value != NONE
            ):
                return False
    return True


@given(asked=wishes())
def test_no_candidate_is_lost_or_repeated_and_no_place_stays_empty(asked: Wishes) -> None:
    placed = fill_places(asked)
    assert len(placed.order) == len(set(placed.order)) == min(asked.places, len(asked.values))
    assert all(0 <= one < len(asked.values) for one in placed.order)
    assert placed.chances == [1.0] * len(placed.order)


@given(asked=wishes())
def test_pins_stand_at_their_places(asked: Wishes) -> None:
    placed = fill_places(asked)
    free = len([one for one in range(asked.reserved) if one not in asked.pins.values()])
    early = [place for place in sorted(asked.pins) if place < asked.places]
    for nth, place in enumerate(early):
        if place <= free + nth:  # nobody is missing before it
            assert placed.order[place] == asked.pins[place]


@given(asked=wishes())
def test_caps_are_kept_or_said_to_be_broken(asked: Wishes) -> None:
    placed = fill_places(asked)
    assert placed.breaks_cap == (not is_kept(placed.order, asked.caps))


@settings(max_examples=60)
@given(asked=wishes(most=5))
def test_a_cap_is_broken_only_where_no_order_keeps_it(asked: Wishes) -> None:
    placed = fill_places(asked)
    at_place = {place: one for place, one in asked.pins.items() if place < len(placed.order)}
    left = set(asked.pins.values()) - set(at_place.values())
    if placed.breaks_cap and not left & set(placed.order):
        for order in permutations(set(range(len(asked.values))) - left, len(placed.order)):
            if all(order[place] == one for place, one in at_place.items()):
                assert not is_kept(list(order), asked.caps), order


@given(count=st.integers(0, 30), places=st.integers(1, 30), data=st.data())
def test_a_knob_of_0_is_the_order_of_the_scores_exactly(count: int, places: int, data: st.DataObject) -> None:
    scores = np.sort(np.array(data.draw(st.lists(st.floats(0, 1, width=32), min_size=count, max_size=count))))
    boosts = boosted(scores[::-1], None)
    values, _ = relevance(boosts.values) if count else (boosts.values, 1.0)
    vectors = np.random.default_rng(count).normal(size=(count, 4)).astype(np.float32)
    plain = Wishes(values, places, count, count, diversity=0.0, likeness=Likeness(vectors, vectors[:0]))
    assert fill_places(plain).order == list(range(min(count, places)))


@given(
    scores=st.lists(st.tuples(st.floats(0, 1, width=32), st.sampled_from([0, 0.5, 1, 1, 3])), max_size=20),
)
def test_boosts_multiply_odds_and_keep_the_order_of_equals(scores: list[tuple[float, float]]) -> None:
    scores.sort(key=lambda one: -one[0])
    chances, times = (np.array([one[at] for one in scores], dtype=np.float64) for at in (0, 1))
    found = boosted(chances, times)
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = np.where(chances == 1, np.inf, chances / (1 - chances)) * np.where(times == 0, 1, times)
    order = found.order.tolist()
    assert sorted(order) == list(range(len(scores)))
    buried = [times[one] == 0 for one in order]
    assert buried == sorted(buried)
    assert found.buried == len(scores) - sum(buried)
    for a, b in pairwise(order):
        if (times[a] == 0) == (times[b] == 0):
            assert odds[a] >= odds[b] * (1 - 1e-6)
            assert times[a] != times[b] or a < b
    assert (np.diff(found.values[: found.buried]) <= 1e-9).all()


@given(
    share=st.floats(0.01, 1),
    user=st.integers(-(2**62), 2**63 - 1),
    pages=st.lists(st.integers(1, 20), max_size=5),
)
def test_a_share_is_due_alike_whatever_the_pages(share: float, user: int, pages: list[int]) -> None:
    whole, shown, total = places_due(share, user, 0, max(1, sum(pages))), 0, 0
    for places in pages:
        total += places_due(share, user, shown, places)[-1]
        shown += places
    assert not pages or total == whole[-1]
    assert all(b - a in (0, 1) for a, b in pairwise(whole))
    assert abs(whole[-1] - share * len(whole)) <= 1


VALUES = st.one_of(st.none(), st.lists(st.integers(0, 4), max_size=3))
PRICES = st.one_of(st.none(), st.floats(0, 3, width=32))
SOME = st.lists(st.one_of(st.none(), st.integers(0, 5)), min_size=1, max_size=3)
BOUNDS = st.fixed_dictionaries(
    {}, optional={"gt": st.floats(0, 3), "lte": st.floats(0, 3), "any": st.just([1.5])}
)


@given(
    rows=st.lists(st.tuples(VALUES, PRICES), min_size=1, max_size=8),
    tags=st.one_of(SOME, SOME.map(lambda one: {"not": one})),
    price=BOUNDS.filter(bool),
    known=st.integers(0, 8),
)
def test_items_pass_filters_for_many_as_one_by_one(
    rows: list[tuple[Any, Any]], tags: Any, price: Any, known: int
) -> None:
    dtypes = {"tags": "list[int64]", "price": "float32"}
    held = [
        {"tags": held_values(row[0], "list[int64]")}
        | ({"price": held_values(row[1], "float32")} if at != known else {})
        for at, row in enumerate(rows)
    ]
    filters = check_filters({"tags": tags, "price": price}, dtypes)
    found = ItemAttributes.of_held(held, dtypes).passes(filters, np.arange(len(rows)))
    assert found.tolist() == [passes(filters, one) for one in held]
