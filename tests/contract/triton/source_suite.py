"""What every source of candidates must do; an implementation inherits `SourceSuite` and gives `source`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.filters import check_filters
from contract.names import USER_ID
from contract.tensors import NO_CONTEXT, PAD_ID
from ensemble.bundle import LoadedBundle
from ensemble.sources.source import Source, Users
from tests.builders.triton import WIDTH, World, make_world

ITEMS, ROOM = 60, 80
"""Items of the small world, and the width that is asked for: all fit."""
FILTERS: list[dict[str, Any]] = [{}, {"item_category": [1, 2]}, {"item_tags": [4]}, {"item_category": [77]}]


def make_users(world: World, bundle: LoadedBundle, filters: list[dict[str, Any]]) -> Users:
    """Draws as many users as there are filters, with what the feature store knows of them."""
    rows = len(filters)
    vectors = np.random.default_rng(1).normal(size=(rows, WIDTH)).astype(np.float32)
    ids = np.array(world.user_ids[:rows])
    known = world.memory_store().read_users(ids)
    features = {n: a if a.ndim > 1 else a[:, None] for n, a in known.columns.items()}
    features |= {name: np.full((rows, 1), NO_CONTEXT) for name in world.dataset.context}
    allowed = [check_filters(wanted, bundle.manifest.filters) for wanted in filters]
    nothing = np.full((rows, 1), PAD_ID)
    return Users(vectors, features | {USER_ID: ids[:, None]}, allowed, known.seen_item_ids, nothing)


def only(users: Users, row: int) -> Users:
    """Gives one user alone."""
    some = slice(row, row + 1)
    features = {name: array[some] for name, array in users.features.items()}
    seen, excluded = users.seen_item_ids[some], users.exclude_item_ids[some]
    return Users(users.vectors[some], features, users.filters[some], seen, excluded)


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
        ids, scores = source.candidates(users, [7] * len(FILTERS), ROOM)
        assert ids.shape == scores.shape == (len(FILTERS), ROOM)
        assert ids.dtype == np.int64
        assert scores.dtype == np.float32
        for row in range(len(FILTERS)):
            found = ids[row][ids[row] != PAD_ID].tolist()
            assert len(found) == len(set(found)) <= 7
            assert set(found) <= set(bundle.item_ids.tolist())
            assert (ids[row, len(found) :] == PAD_ID).all()
            assert np.isneginf(scores[row, len(found) :]).all()

    def test_gives_no_more_than_asked_for_and_than_there_is_room(self, source: Source, users: Users) -> None:
        ids, _ = source.candidates(users, [0, 1, 2, 3], ROOM)
        assert ((ids != PAD_ID).sum(axis=1) <= [0, 1, 2, 3]).all()
        ids, _ = source.candidates(users, [9] * len(FILTERS), 4)
        assert ids.shape == (len(FILTERS), 4)

    def test_more_asked_for_begins_with_what_fewer_gives(self, source: Source, users: Users) -> None:
        few, _ = source.candidates(users, [3] * len(FILTERS), ROOM)
        many, _ = source.candidates(users, [9] * len(FILTERS), ROOM)
        np.testing.assert_array_equal(few[:, :3], many[:, :3])

    def test_every_item_passes_the_filters(self, source: Source, users: Users, world: World) -> None:
        ids, _ = source.candidates(users, [ITEMS] * len(FILTERS), ROOM)
        for row, wanted in enumerate(FILTERS):
            for item_id in ids[row][ids[row] != PAD_ID].tolist():
                held = world.rows.get(("item_catalog", item_id), {})
                for column, values in wanted.items():
                    mine = held[column] if isinstance(held[column], list) else [held[column]]
                    assert set(mine) & set(values)
        assert (ids[-1] == PAD_ID).all(), "no item has this value"

    def test_scores_are_inner_products(self, source: Source, users: Users, bundle: LoadedBundle) -> None:
        ids, scores = source.candidates(users, [9] * len(FILTERS), ROOM)
        for row, vector in enumerate(users.vectors):
            is_there = ids[row] != PAD_ID
            places = np.searchsorted(bundle.item_ids, ids[row][is_there])
            np.testing.assert_allclose(scores[row][is_there], bundle.item_vectors[places] @ vector, atol=1e-6)

    def test_a_user_gets_alone_what_it_gets_among_others(self, source: Source, users: Users) -> None:
        ids, scores = source.candidates(users, [9] * len(FILTERS), ROOM)
        for row in range(len(FILTERS)):
            alone_ids, alone_scores = source.candidates(only(users, row), [9], ROOM)
            np.testing.assert_array_equal(alone_ids[0], ids[row])
            np.testing.assert_allclose(alone_scores[0], scores[row], atol=1e-6)
