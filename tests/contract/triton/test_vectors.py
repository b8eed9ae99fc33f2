"""The contract of a vector index: the same tests for every implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from redis import Redis

from contract.errors import ErrorCode, StageError
from contract.filters import Filters, Wanted, check_filters
from contract.tensors import PAD_ID
from ensemble.bundle import LoadedBundle
from ensemble.publish.index import build_index
from ensemble.run.recommender import graph_index
from ensemble.stores.catalogue import Catalogue
from ensemble.stores.vectors import RedisVectorIndex, VectorIndex
from tests.builders.triton import BRANDS, WIDTH, World, make_world, memory_index, process_index

ITEMS = 60


class VectorIndexSuite:
    """What every vector index must do."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return make_world(tmp_path / "bundle", items=ITEMS)

    @pytest.fixture
    def bundle(self, world: World) -> LoadedBundle:
        return LoadedBundle.open(world.folder)

    @pytest.fixture
    def index(self, world: World, bundle: LoadedBundle) -> VectorIndex:
        raise NotImplementedError

    def test_is_a_vector_index(self, index: VectorIndex) -> None:
        assert isinstance(index, VectorIndex)

    def test_finds_the_greatest_inner_products_best_first(
        self, index: VectorIndex, bundle: LoadedBundle
    ) -> None:
        vectors = np.random.default_rng(1).normal(size=(3, WIDTH)).astype(np.float32)
        ids, scores = index.search(vectors, [7, 7, 7], [{}, {}, {}], 9)
        products = vectors @ bundle.item_vectors.T
        best = np.argsort(-products, axis=1)[:, :7]
        np.testing.assert_array_equal(ids[:, :7], bundle.item_ids[best])
        np.testing.assert_allclose(scores[:, :7], np.take_along_axis(products, best, axis=1), atol=1e-6)
        assert (ids[:, 7:] == PAD_ID).all()
        assert np.isneginf(scores[:, 7:]).all()
        assert ids.dtype == np.int64
        assert scores.dtype == np.float32

    def test_gives_each_user_as_many_as_asked_for(self, index: VectorIndex) -> None:
        vectors = np.ones((3, WIDTH), dtype=np.float32)
        ids, _ = index.search(vectors, [1, 5, 9], [{}, {}, {}], 6)
        assert (ids != PAD_ID).sum(axis=1).tolist() == [1, 5, 6]

    def test_gives_the_whole_catalogue_where_more_is_asked_for(
        self, index: VectorIndex, bundle: LoadedBundle
    ) -> None:
        ids, _ = index.search(np.ones((1, WIDTH), dtype=np.float32), [500], [{}], 500)
        assert sorted(ids[0][ids[0] != PAD_ID].tolist()) == bundle.item_ids.tolist()

    @pytest.mark.parametrize(
        "filters",
        [
            {"item_category": [2]},
            {"item_category": [0, 3]},
            {"item_brand": [BRANDS[1]]},
            {"item_brand": [BRANDS[2], BRANDS[3]]},
            {"item_tags": [4]},
            {"item_price": [0.5, 1.5]},
            {"item_category": [1, 2], "item_brand": [BRANDS[0]]},
            {"item_category": [77]},
        ],
        ids=str,
    )
    def test_filters_before_it_searches(
        self, index: VectorIndex, world: World, bundle: LoadedBundle, filters: Wanted
    ) -> None:
        def holds(item_id: int) -> bool:
            row = world.rows.get(("item_catalog", item_id), {})
            held = {c: v if isinstance(v := row.get(c), list) else [v] for c in filters}
            return all(set(held[c]) & set(filters[c]) for c in filters)

        allowed = check_filters(filters, bundle.manifest.filters)
        ids, _ = index.search(np.ones((1, WIDTH), dtype=np.float32), [ITEMS], [allowed], ITEMS)
        assert sorted(ids[0][ids[0] != PAD_ID].tolist()) == [i for i in world.item_ids if holds(i)]

    def test_filters_each_user_apart(self, index: VectorIndex) -> None:
        vectors = np.ones((2, WIDTH), dtype=np.float32)
        wanted: list[Filters] = [check_filters({"item_category": [1]}, {"item_category": "int64"})]
        both, _ = index.search(vectors, [ITEMS] * 2, [*wanted, {}], ITEMS)
        alone, _ = index.search(vectors[:1], [ITEMS], wanted, ITEMS)
        np.testing.assert_array_equal(both[0], alone[0])
        assert (both[1] != PAD_ID).sum() == ITEMS


class TestMemory(VectorIndexSuite):
    @pytest.fixture
    def index(self, world: World, bundle: LoadedBundle) -> VectorIndex:
        return memory_index(world, bundle)


class TestProcess(VectorIndexSuite):
    """Every item compared in the process, as of a small catalogue."""

    @pytest.fixture
    def index(self, bundle: LoadedBundle, tmp_path: Path) -> VectorIndex:
        return graph_index(bundle, tmp_path, Catalogue(bundle.item_ids, bundle.item_vectors))


class TestGraph(VectorIndexSuite):
    """A graph in a file, searched wherever it can be."""

    @pytest.fixture
    def index(self, bundle: LoadedBundle, tmp_path: Path) -> VectorIndex:
        return process_index(bundle, tmp_path)


class TestRedis(VectorIndexSuite):
    @pytest.fixture
    def index(self, redis: Redis, bundle: LoadedBundle) -> VectorIndex:
        build_index(redis, bundle.folder, keep=2)
        return RedisVectorIndex(redis, bundle.manifest.bundle, bundle.manifest.filters)

    def test_scores_computed_here_are_those_that_redis_computes(
        self, index: RedisVectorIndex, redis: Redis, bundle: LoadedBundle
    ) -> None:
        catalogue = Catalogue(bundle.item_ids, bundle.item_vectors)
        here = RedisVectorIndex(redis, bundle.manifest.bundle, bundle.manifest.filters, catalogue=catalogue)
        vectors = np.random.default_rng(2).normal(size=(4, WIDTH)).astype(np.float32)
        asked: list[Wanted] = [{}, {"item_category": [1]}, {"item_category": {"not": [77]}}, {}]
        wanted = [check_filters(one, bundle.manifest.filters) for one in asked]
        counts = [3, 7, 9, ITEMS]
        ids, scores = here.search(vectors, counts, wanted, 20)
        expected_ids, expected = index.search(vectors, counts, wanted, 20)
        np.testing.assert_array_equal(ids, expected_ids)
        np.testing.assert_allclose(scores, expected, atol=1e-6)

    def test_reads_in_one_round_trip(self, index: RedisVectorIndex, redis: Redis) -> None:
        index.search(np.ones((1, WIDTH), dtype=np.float32), [5], [{}], 9)  # reads how the index is searched
        before = redis.info("stats")["total_reads_processed"]
        index.search(np.ones((8, WIDTH), dtype=np.float32), [5] * 8, [{}] * 8, 9)
        after = redis.info("stats")["total_reads_processed"]
        assert after - before <= 2, "eight searches and the INFO itself"

    def test_says_which_index_is_missing(self, redis: Redis, bundle: LoadedBundle) -> None:
        index = RedisVectorIndex(redis, "nowhere", bundle.manifest.filters)
        with pytest.raises(
            StageError, match=r"no index item_vectors:nowhere; run python -m ensemble.publish.index"
        ) as caught:
            index.search(np.ones((1, WIDTH), dtype=np.float32), [5], [{}], 9)
        assert caught.value.code is ErrorCode.DEPENDENCY

    def test_an_empty_index_gives_nothing(self, index: RedisVectorIndex, redis: Redis) -> None:
        redis.delete(*redis.keys("item_vector:*"))
        ids, scores = index.search(np.ones((1, WIDTH), dtype=np.float32), [5], [{}], 9)
        assert (ids == PAD_ID).all()
        assert np.isneginf(scores).all()
