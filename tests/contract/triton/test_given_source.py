"""A second source of candidates, in this file alone: no bundle names it, the chain is given it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from contract.arrays import Floats, Ints, filled
from contract.bundle import OrderSpec, SourceSpec
from contract.item_to_item import UNKNOWN
from contract.tensors import PAD_ID
from ensemble.bundle import LoadedBundle
from ensemble.sources.source import Source, Users
from ensemble.stores.catalogue import LiveItems
from service.triton.tensors import decode_slate
from tests.builders.triton import WIDTH, World, make_recommender, make_request, make_world
from tests.contract.triton.source_suite import ITEMS, SourceSuite


class PickedItems:
    """Gives the items that somebody picked, the first one first, whoever asks."""

    is_whole = True
    spec = SourceSpec(name="picked", kind="popular", share=1.0, file="none.npy")
    """`popular`: it is asked for users. No file is read of a source that is given."""

    def __init__(self, positions: Sequence[int]) -> None:
        """Takes the positions of the items in the catalogue."""
        self.picked = np.array(positions)
        self.worth = (1 / np.arange(1, len(positions) + 1)).astype(np.float32)

    def candidates(self, users: Users, counts: Sequence[int], width: int) -> Ints:
        found = filled((len(counts), width), UNKNOWN)
        for row, count in enumerate(counts):
            best = self.picked[users.eligible[row].take(self.picked)][: min(count, width)]
            found[row, : len(best)] = best
        return found

    def scores(self, users: Users, positions: Ints) -> Floats:  # noqa: ARG002  (the same for everyone)
        scores: Floats = (positions[..., None] == self.picked) @ self.worth
        return scores


class TestPicked(SourceSuite):
    @pytest.fixture
    def source(self) -> Source:
        return PickedItems([*range(5, ITEMS, 3)])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path / "bundle", items=ITEMS)


def far_from(world: World, user_id: int) -> list[int]:
    """Gives the positions of the items that the vectors say least of, and that the user may get."""
    (answer,) = make_recommender(world, k=ITEMS, max_overfetch=20).answer([make_request(user_id, n=10)])
    assert not isinstance(answer, Exception)
    ids = answer["candidate_ids"][0][::-1]
    bundle = LoadedBundle.open(world.folder)
    return [int(at) for at in np.searchsorted(bundle.item_ids, ids[ids != PAD_ID][:4])]


def test_what_it_gives_is_in_the_slate_under_its_name(world: World) -> None:
    user_id = world.user_ids[3]
    picked = far_from(world, user_id)
    order = OrderSpec(sources={"picked": 20.0})
    recommender = make_recommender(world, order, sources=(PickedItems(picked),))
    assert recommender.sources == ["nearest", "picked"]
    (answer,) = recommender.answer([make_request(user_id, n=10)])
    assert not isinstance(answer, Exception)
    slate = decode_slate(answer, 10, is_explained=True, sources=recommender.sources)
    assert slate.found_by is not None
    own = [world.item_ids[at] for at in picked]
    assert slate.item_ids[: len(own)] == own
    assert slate.found_by[: len(own)] == [["picked"]] * len(own)
    assert all("nearest" in names for names in slate.found_by[len(own) :])
    first = {one.item_id: one.found_by for one in slate.retrieved or []}[own[0]]
    assert [(one.source, one.rank) for one in first] == [("nearest", None), ("picked", 1)]


def test_it_stays_where_items_come_while_it_is_asked(world: World) -> None:
    user_id = world.user_ids[3]
    source = PickedItems(far_from(world, user_id))
    recommender = make_recommender(world, OrderSpec(sources={"picked": 20.0}), sources=(source,))
    (before,) = recommender.answer([make_request(user_id, n=4)])
    new = np.array([world.item_ids[-1] + 1])
    recommender.renew(new, LiveItems(new, np.zeros((1, WIDTH), np.float32)))
    (after,) = recommender.answer([make_request(user_id, n=4)])
    assert not isinstance(before, Exception)
    assert not isinstance(after, Exception)
    np.testing.assert_array_equal(after["item_ids"], before["item_ids"])
