"""The popular items are found whatever the graph misses; all else is as the graph found it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from contract.arrays import Floats, Ids
from contract.filters import Filters, check_filters
from contract.tensors import PAD_ID
from ensemble.stores.catalogue import Catalogue, LiveItems
from ensemble.stores.exact import FEW, ExactVectorIndex
from ensemble.stores.head import HeadedVectorIndex, head_of
from ensemble.stores.vectors import MemoryVectorIndex

ITEMS, WIDTH, D = 300, 40, 8


class Forgetful:
    """Stands for a graph: exact, but it never finds some items."""

    is_whole = False

    def __init__(self, ids: Ids, vectors: Floats, missing: Ids) -> None:
        is_held = ~np.isin(ids, missing)
        self.exact = MemoryVectorIndex(
            ids[is_held], vectors[is_held], [{"item_kind": {str(i % 2)}} for i in ids[is_held]]
        )

    def search(
        self, vectors: Floats, counts: Sequence[int], filters: Sequence[Filters], width: int
    ) -> tuple[Ids, Floats]:
        return self.exact.search(vectors, counts, filters, width)

    def grown(self, catalogue: Catalogue, live: LiveItems) -> MemoryVectorIndex:
        return self.exact.grown(catalogue, live)


@pytest.fixture
def catalogue() -> tuple[Ids, Floats]:
    """Gives ids that are no positions, and vectors whose last coordinate is the prior."""
    rng = np.random.default_rng(0)
    ids = np.sort(rng.choice(5000, ITEMS, replace=False)).astype(np.int64)
    return ids, rng.normal(size=(ITEMS, D)).astype(np.float32)


def test_the_head_is_what_has_the_greatest_prior(catalogue: tuple[Ids, Floats]) -> None:
    ids, vectors = catalogue
    head = head_of(ids, vectors, 20)
    assert head.item_ids.tolist() == sorted(ids[np.argsort(-vectors[:, -1])[:20]].tolist())
    np.testing.assert_array_equal(head.vectors, vectors[np.isin(ids, head.item_ids)])
    assert not len(head_of(ids, vectors, 0).item_ids)
    assert len(head_of(ids, vectors, 10_000).item_ids) == ITEMS


def test_what_the_graph_misses_of_the_head_is_found_nonetheless(catalogue: tuple[Ids, Floats]) -> None:
    ids, vectors = catalogue
    head = head_of(ids, vectors, 50)
    index = HeadedVectorIndex(Forgetful(ids, vectors, head.item_ids[::2]), head)
    users = np.random.default_rng(1).normal(size=(6, D)).astype(np.float32)
    counts = [40, 1, 17, 3, 40, 25]
    found, scores = index.search(users, counts, [{}] * 6, WIDTH)
    expected, best = ExactVectorIndex(ids, vectors).search(users, counts, [{}] * 6, WIDTH)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(scores, best, rtol=1e-6)


@pytest.mark.parametrize("users", [1, 2, FEW - 1, FEW, 3 * FEW])
def test_turned_vectors_find_what_others_do_however_many_ask(users: int) -> None:
    rng = np.random.default_rng(2)
    ids, vectors = np.arange(9_000), rng.normal(size=(9_000, D)).astype(np.float32)  # more than a block
    asking = rng.normal(size=(users, D)).astype(np.float32)
    counts = rng.integers(1, WIDTH, users).tolist()
    plain = ExactVectorIndex(ids, vectors, block=700)
    found, scores = plain.turned().search(asking, counts, [{}] * users, WIDTH)
    expected, best = plain.search(asking, counts, [{}] * users, WIDTH)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(scores, best, rtol=1e-5)


def test_users_with_filters_get_what_the_graph_found(catalogue: tuple[Ids, Floats]) -> None:
    ids, vectors = catalogue
    head = head_of(ids, vectors, 50)
    graph = Forgetful(ids, vectors, head.item_ids)
    users = np.random.default_rng(2).normal(size=(3, D)).astype(np.float32)
    filters: list[Filters] = [
        check_filters({"item_kind": [kind]} if kind is not None else {}, {"item_kind": "int64"})
        for kind in (1, None, 0)
    ]
    found, _ = HeadedVectorIndex(graph, head).search(users, [10] * 3, filters, WIDTH)
    alone, _ = graph.search(users, [10] * 3, filters, WIDTH)
    np.testing.assert_array_equal(found[[0, 2]], alone[[0, 2]])
    assert set(found[1].tolist()) & set(head.item_ids.tolist())
    assert (found[:, 10:] == PAD_ID).all()


def test_without_a_head_it_is_the_graph(catalogue: tuple[Ids, Floats]) -> None:
    ids, vectors = catalogue
    graph = Forgetful(ids, vectors, ids[:50])
    index = HeadedVectorIndex(graph, head_of(ids, vectors, 0))
    users = vectors[:4]
    for ours, its in zip(
        index.search(users, [9] * 4, [{}] * 4, WIDTH),
        graph.search(users, [9] * 4, [{}] * 4, WIDTH),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, its)
    assert not index.is_whole, "it is as whole as the graph"


def test_a_head_of_all_items_asks_the_index_for_users_with_filters_alone(
    catalogue: tuple[Ids, Floats],
) -> None:
    ids, vectors = catalogue
    graph = Forgetful(ids, vectors, ids[::3])
    index = HeadedVectorIndex(graph, head_of(ids, vectors, ITEMS), is_all=True)
    users = np.random.default_rng(3).normal(size=(4, D)).astype(np.float32)
    counts, filters = [40, 7, 12, 3], list[Filters]()
    for asked in ({}, {"item_kind": [1]}, {}, {"item_kind": [0]}):
        filters.append(check_filters(asked, {"item_kind": "int64"}))
    found, scores = index.search(users, counts, filters, WIDTH)
    expected, best = ExactVectorIndex(ids, vectors).search(users[::2], counts[::2], [{}] * 2, WIDTH)
    np.testing.assert_array_equal(found[::2], expected)
    np.testing.assert_array_equal(scores[::2], best)
    alone, _ = graph.search(users[1::2], counts[1::2], filters[1::2], WIDTH)
    np.testing.assert_array_equal(found[1::2], alone)
