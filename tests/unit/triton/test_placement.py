"""Which node holds which item: evenly spread, and little moves where a node comes or goes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.placement import IndexPlacement, owners

NODES = [f"10.0.0.{number}:6379" for number in range(6)]
IDS = np.arange(-3000, 9000)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(NODES), min_size=1, max_size=5, unique=True), st.sampled_from(NODES))
def test_a_node_that_comes_takes_its_share_and_nothing_else_moves(nodes: list[str], other: str) -> None:
    if other in nodes:
        return
    before = np.array(nodes)[owners(IDS, nodes)]
    after = np.array([*nodes, other])[owners(IDS, [*nodes, other])]
    has_moved = before != after
    assert (after[has_moved] == other).all()
    assert has_moved.mean() == pytest.approx(1 / (len(nodes) + 1), rel=0.15)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(NODES), min_size=1, max_size=6, unique=True))
def test_an_item_lies_on_one_node_whatever_their_order(nodes: list[str]) -> None:
    placement, other = IndexPlacement(tuple(nodes)), IndexPlacement(tuple(sorted(nodes)))
    held = np.array([placement.holds(node, IDS) for node in nodes])
    assert (held.sum(axis=0) == 1).all()
    np.testing.assert_array_equal(held, [other.holds(node, IDS) for node in nodes])
    assert not placement.holds("elsewhere:1", IDS).any()


def test_ids_of_text_that_lie_close_together_or_far_apart_are_spread_evenly() -> None:
    for ids in (IDS * 2**40, IDS * 8, np.random.default_rng(0).integers(-(2**62), 2**62, 12_000)):
        shares = np.bincount(owners(ids, NODES[:3])) / len(ids)
        np.testing.assert_allclose(shares, 1 / 3, atol=0.02)


def test_while_items_move_both_places_take_what_changes() -> None:
    two, three = tuple(NODES[:2]), tuple(NODES[:3])
    placement = IndexPlacement(two, three, moved=7)
    assert IndexPlacement.decode(placement.encode()) == placement
    assert placement.written == three
    held = np.array([placement.holds(node, IDS) for node in three])
    has_moved = owners(IDS, two) != owners(IDS, three)
    np.testing.assert_array_equal(held.sum(axis=0), 1 + has_moved)


def test_what_is_no_placement_is_refused() -> None:
    with pytest.raises(ValueError, match="no placement of an index"):
        IndexPlacement.decode(b'{"nodes": 3}')
