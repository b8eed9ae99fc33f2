"""What every source of candidates must do; an implementation inherits `SourceSuite` and gives `source`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.bundle import Inputs
from contract.filters import check_filters
from contract.item_to_item import UNKNOWN
from contract.names import USER_ID
from contract.tensors import NO_CONTEXT, PAD_ID
from ensemble.bundle import LoadedBundle
from ensemble.sources.eligible import EligibleItems
from ensemble.sources.source import Source, Users
from ensemble.stores.items import ItemTable
from ensemble.stores.positions import Positions
from tests.builders.triton import WIDTH, World, make_world

ITEMS, LIST_WIDTH = 60, 80
"""Items of the small world, and the width that is asked for: all fit."""
FILTERS: list[dict[str, Any]] = [{}, {"item_category": [1, 2]}, {"item_tags": [4]}, {"item_category": [77]}]


def make_users(world: World, bundle: LoadedBundle, filters: list[dict[str, Any]]) -> Users:
    """Draws as many users as there are filters, with what the feature store knows of them."""
    rows = len(filters)
    vectors = np.random.default_rng(1).normal(size=(rows, WIDTH)).astype(np.float32)
    ids = np.array(world.user_ids[1 : 1 + rows])  # of the first nothing is known
    known = world.memory_store().read_users(ids)
    features = {n: a if a.ndim > 1 else a[:, None] for n, a in known.columns.items()}
    features |= {name: np.full((rows, 1), NO_CONTEXT) for name in world.dataset.context}
    allowed = [check_filters(wanted, bundle.manifest.filters) for wanted in filters]
    nothing = np.full((rows, 1), PAD_ID)
    eligible = EligibleItems(
        Positions(bundle.item_ids), known_items(world, bundle), lambda: bundle.attributes
    )
    return Users(
        vectors,
        features | {USER_ID: ids[:, None]},
        allowed,
        known.seen_item_ids,
        nothing,
        like_item_ids=nothing[:, 0],
        survivors=np.full(rows, LIST_WIDTH),
        eligible_of=eligible.of,
    )


def known_items(world: World, bundle: LoadedBundle) -> ItemTable:
    """Reads which items are available."""
    items = ItemTable(world.memory_store(), bundle.item_ids, bundle.encoders, Inputs(), (), 60)
    items.load()
    return items


class SourceSuite:
    """What every source of candidates must do."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return make_world(tmp_path / "bundle", items=ITEMS)

    @pytest.fixture
    def bundle(self, world: World) -> LoadedBundle:
        return LoadedBundle.open(world.folder)

    @pytest.fixture
    def source(self, world: World, bundle: LoadedBundle) -> Source:
        raise NotImplementedError

    @pytest.fixture
    def users(self, world: World, bundle: LoadedBundle) -> Users:
        return make_users(world, bundle, FILTERS)

    def test_is_a_source_that_has_every_item(self, source: Source) -> None:
        assert isinstance(source, Source)
        assert source.is_whole

    def test_gives_items_once_and_then_padding(
        self, source: Source, users: Users, bundle: LoadedBundle
    ) -> None:
        found = source.candidates(users, [7] * len(FILTERS), LIST_WIDTH)
        assert found.shape == (len(FILTERS), LIST_WIDTH)
        assert found.dtype == np.int64
        for row in range(len(FILTERS)):
            live = found[row][found[row] != UNKNOWN].tolist()
            assert len(live) == len(set(live)) <= 7
            assert all(0 <= at < len(bundle.item_ids) for at in live)
            assert (found[row, len(live) :] == UNKNOWN).all()
        assert (found[0] != UNKNOWN).any(), "the first user asks for nothing special"

    def test_gives_no_more_than_asked_for_and_than_there_is_room(self, source: Source, users: Users) -> None:
        found = source.candidates(users, [0, 1, 2, 3], LIST_WIDTH)
        assert ((found != UNKNOWN).sum(axis=1) <= [0, 1, 2, 3]).all()
        assert source.candidates(users, [9] * len(FILTERS), 4).shape == (len(FILTERS), 4)

    def test_more_asked_for_begins_with_what_fewer_gives(self, source: Source, users: Users) -> None:
        few = source.candidates(users, [3] * len(FILTERS), LIST_WIDTH)
        many = source.candidates(users, [9] * len(FILTERS), LIST_WIDTH)
        np.testing.assert_array_equal(few[:, :3], many[:, :3])

    def test_every_item_passes_the_filters(
        self, source: Source, users: Users, world: World, bundle: LoadedBundle
    ) -> None:
        found = source.candidates(users, [ITEMS] * len(FILTERS), LIST_WIDTH)
        for row, wanted in enumerate(FILTERS):
            for item_id in bundle.item_ids[found[row][found[row] != UNKNOWN]].tolist():
                held = world.rows.get(("item_catalog", item_id), {})
                for column, values in wanted.items():
                    mine = held[column] if isinstance(held[column], list) else [held[column]]
                    assert set(mine) & set(values)
        assert (found[-1] == UNKNOWN).all(), "no item has this value"

    def test_the_best_come_first_by_what_it_says_of_each(self, source: Source, users: Users) -> None:
        found = source.candidates(users, [9] * len(FILTERS), LIST_WIDTH)
        scores = source.scores(users, found)
        assert scores.shape == found.shape
        assert scores.dtype == np.float32
        for row in range(len(FILTERS)):
            live = scores[row][found[row] != UNKNOWN]
            assert (np.diff(live) <= 1e-6).all()
            assert (live != 0).all()
        assert (scores[found == UNKNOWN] == 0).all()

    def test_what_it_says_of_an_item_is_the_same_whoever_retrieved_it(
        self, source: Source, users: Users
    ) -> None:
        found = source.candidates(users, [9] * len(FILTERS), LIST_WIDTH)
        everything = np.arange(-1, ITEMS)[::-1][None].repeat(len(FILTERS), axis=0)
        of_all = source.scores(users, everything)
        assert of_all[:, -1].tolist() == [0] * len(FILTERS), "of nothing, nothing"
        at = np.where(found == UNKNOWN, ITEMS, ITEMS - 1 - found)
        np.testing.assert_allclose(
            np.take_along_axis(of_all, at, axis=1), source.scores(users, found), atol=1e-6
        )

    def test_a_user_gets_alone_what_it_gets_among_others(self, source: Source, users: Users) -> None:
        found = source.candidates(users, [9] * len(FILTERS), LIST_WIDTH)
        scores = source.scores(users, found)
        for row in range(len(FILTERS)):
            only = users.some([row])
            alone = source.candidates(only, [9], LIST_WIDTH)
            np.testing.assert_array_equal(alone[0], found[row])
            np.testing.assert_allclose(source.scores(only, alone)[0], scores[row], atol=1e-6)
