"""Sources of candidates: the search for the nearest, and a second one, made here, that goes through the
chain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from redis import Redis

from contract.arrays import Floats, Ids
from contract.filters import check_filters, passes
from contract.slates import Degradation, degradations
from contract.tensors import PAD_ID
from ensemble.bundle import LoadedBundle
from ensemble.publish.index import build_index
from ensemble.run.recommender import Recommender
from ensemble.sources.source import NearestItems, Source, Users, merge
from ensemble.stores.vectors import Catalogue, MemoryVectorIndex, RedisVectorIndex, blank
from tests.builders.triton import World, make_recommender, make_request, memory_index, slate
from tests.contract.triton.source_suite import ITEMS, SourceSuite


class PopularItems:
    """A second source: the same items for everybody, in an order of their own."""

    is_whole = True

    def __init__(self, item_ids: Sequence[int], catalogue: MemoryVectorIndex) -> None:
        """Takes the items, most popular first, and the vectors and filter columns of all."""
        self.item_ids = np.array(item_ids, dtype=np.int64)
        self.scores = Catalogue(catalogue.item_ids, catalogue.vectors).scores
        self.held = dict(zip(catalogue.item_ids.tolist(), catalogue.held, strict=True))

    def candidates(self, users: Users, counts: Sequence[int], width: int) -> tuple[Ids, Floats]:
        ids, scores = blank(len(users.vectors), width)
        for row, (filters, count) in enumerate(zip(users.filters, counts, strict=True)):
            allowed = [i for i in self.item_ids.tolist() if passes(filters, self.held[i])]
            some = np.array(allowed[: min(count, width)], dtype=np.int64)
            ids[row, : len(some)], scores[row, : len(some)] = some, self.scores(some, users.vectors[row])
        return ids, scores


class TestNearestInMemory(SourceSuite):
    @pytest.fixture
    def source(self, world: World, bundle: LoadedBundle) -> Source:
        return NearestItems(memory_index(world, bundle))


class TestNearestInRedis(SourceSuite):
    @pytest.fixture
    def source(self, redis: Redis, world: World, bundle: LoadedBundle) -> Source:
        build_index(redis, world.folder, keep=2)
        catalogue = Catalogue(bundle.item_ids, bundle.item_vectors)
        name, filters = bundle.manifest.bundle, bundle.manifest.filters
        return NearestItems(RedisVectorIndex(redis, name, filters, catalogue=catalogue))


class TestPopular(SourceSuite):
    @pytest.fixture
    def source(self, world: World, bundle: LoadedBundle) -> Source:
        return PopularItems(world.item_ids[::-1], memory_index(world, bundle))


class TestBesideTheNearest(SourceSuite):
    """The chain with two sources."""

    @pytest.fixture
    def source(self, world: World, bundle: LoadedBundle) -> PopularItems:
        return PopularItems(world.item_ids[::-1], memory_index(world, bundle))

    @pytest.fixture
    def recommender(self, world: World, source: PopularItems) -> Recommender:
        return make_recommender(world, sources=(source,))

    def test_candidates_come_from_both_and_no_item_twice(
        self, recommender: Recommender, world: World, source: PopularItems
    ) -> None:
        request = make_request(world.user_ids[3], n=10, filters={"item_category": [1, 2]})
        (answer,) = recommender.answer([request])
        (nearest,) = make_recommender(world).answer([request])
        assert len(slate(answer)) == 10
        retrieved = answer["retrieved_ids"][0].tolist()  # type: ignore[index]
        found = [item_id for item_id in retrieved if item_id != PAD_ID]
        assert len(found) == len(set(found))
        assert found[0] == nearest["retrieved_ids"][0, 0]  # type: ignore[index]
        allowed = check_filters({"item_category": [1, 2]}, {"item_category": "int64"})
        popular = [i for i in source.item_ids.tolist() if passes(allowed, source.held[i])]
        assert found[1] == popular[0]
        assert set(slate(answer)) & set(popular[:5]) - set(slate(nearest))

    def test_an_answer_says_where_either_lacks_items(
        self, recommender: Recommender, source: PopularItems
    ) -> None:
        source.is_whole = False
        (answer,) = recommender.answer([make_request()])
        assert Degradation.PARTIAL_INDEX in degradations(int(answer["degraded"][0, 0]))  # type: ignore[index]


def test_merging_takes_turns_and_leaves_out_what_came_before() -> None:
    first = (
        np.array([[1, 2, 3], [4, PAD_ID, PAD_ID]]),
        np.array([[9, 8, 7], [6, -np.inf, -np.inf]], np.float32),
    )
    second = (np.array([[2, 5, 1], [7, 4, 8]]), np.array([[8, 1, 9], [3, 6, 2]], np.float32))
    ids, scores = merge([first, second], 3)
    assert ids.tolist() == [[1, 2, 5], [4, 7, 8]]
    assert scores.tolist() == [[9, 8, 1], [6, 3, 2]]
    ids, scores = merge([first, first], 3)
    np.testing.assert_array_equal(ids, first[0])
    np.testing.assert_array_equal(scores, first[1])
    assert merge([first], ITEMS) is first
