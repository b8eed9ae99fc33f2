"""Items that came after the bundle: retrieved, filtered and ordered like the others."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract import names
from contract.arrays import Ids
from contract.item_to_item import UNKNOWN
from contract.rules.attributes import Attribute
from ensemble.run.recommender import Recommender
from ensemble.stores.catalogue import Catalogue, LiveItems
from ensemble.stores.exact import ExactVectorIndex
from ensemble.stores.head import HeadedVectorIndex, head_of
from ensemble.stores.positions import Positions
from tests.builders.triton import NOW, World, add_sources, make_recommender, make_request, make_world, slate

USER, NEW, SECOND = 101, 7_000_000, -900
ROW: dict[str, Any] = {
    "item_category": 3,
    "item_brand": "new brand",
    "item_tags": [1],
    "item_price": 2.0,
    names.IS_AVAILABLE: True,
}
HELD = {
    name: frozenset(values)
    for name, values in {
        "item_category": ["3"],
        "item_brand": ["new brand"],
        "item_tags": ["1"],
        "item_price": ["2"],
    }.items()
}


@pytest.fixture(params=[False, True], ids=["nearest alone", "several sources"])
def recommender(request: pytest.FixtureRequest, tmp_path: Path) -> Recommender:
    """The chain of a world of its own, whose features may be changed."""
    world = make_world(tmp_path / "bundle")
    if request.param:
        add_sources(world)
    return make_recommender(world)


def ask(recommender: Recommender, **request: Any) -> list[int]:
    (answer,) = recommender.answer([make_request(USER, **request)])
    return slate(answer)


def near(recommender: Recommender) -> np.ndarray:
    """The vector that the user's is nearest to."""
    vector: np.ndarray = recommender.run(make_request(USER))["user_vector"][0]
    return 3 * vector


def put(recommender: Recommender, *item_ids: int, held: Any = HELD) -> None:
    for item_id in item_ids:
        recommender.stores.features.put(  # type: ignore[attr-defined]
            names.ITEM_CATALOG, item_id, ROW, NOW - timedelta(days=1)
        )
    vectors = np.stack([near(recommender)] * len(item_ids)).astype(np.float32)
    ids = np.array(item_ids)
    recommender.renew(ids, LiveItems(ids, vectors, dict.fromkeys(item_ids, held)))


def test_new_items_are_retrieved_and_stand_in_the_slate_by_their_vectors(recommender: Recommender) -> None:
    before = ask(recommender, n=10)
    put(recommender, NEW, SECOND)
    table = recommender.run(make_request(USER, n=10))
    assert {*table["source_item_ids"][0][:2].tolist()} == {NEW, SECOND}, "the vectors come first"
    found = slate({"item_ids": table["item_ids"]})
    assert {NEW, SECOND} <= {*found}
    assert {*found} - {NEW, SECOND} <= {*before, *table["retrieved_ids"][0].tolist()}


def test_a_new_item_is_filtered_excluded_and_seen_like_any(recommender: Recommender) -> None:
    put(recommender, NEW)
    assert ask(recommender, filters={"item_brand": ["new brand"]}) == [NEW]
    assert NEW not in ask(recommender, n=10, filters={"item_brand": ["acme"]})
    assert NEW not in ask(recommender, n=10, excluded=[NEW])
    recommender.stores.features.seen[USER] = (NEW,)  # type: ignore[attr-defined]
    assert NEW not in ask(recommender, n=10)


def test_a_new_item_is_gone_once_its_row_is(recommender: Recommender) -> None:
    put(recommender, NEW)
    assert NEW in ask(recommender)
    del recommender.stores.features.rows[names.ITEM_CATALOG, NEW]  # type: ignore[attr-defined]
    recommender.renew(np.array([NEW]), LiveItems(np.array([NEW]), near(recommender)[None], {NEW: HELD}))
    assert NEW not in ask(recommender, n=10)
    assert recommender.stores.items.unavailable


def test_rules_know_new_items_and_that_they_are_new(recommender: Recommender) -> None:
    put(recommender, NEW, SECOND)
    assert ask(recommender, n=5, rules={"pins": [{"place": 2, "item_id": NEW}]})[1] == NEW
    assert {*ask(recommender, n=2, rules={"shares": [{"share": 1.0}]})} == {NEW, SECOND}
    buried = {"boosts": [{"filters": {"item_brand": ["new brand"]}, "times": 0}]}
    assert NEW not in ask(recommender, n=5, rules=buried)
    assert len(ask(recommender, n=5, rules={"diversity": 0.5})) == 5


def test_items_like_a_new_one_are_found_and_it_is_like_itself(recommender: Recommender) -> None:
    put(recommender, NEW, SECOND)
    assert ask(recommender, like=NEW, excluded=[NEW])[0] == SECOND


def test_what_a_known_item_holds_now_is_what_is_asked_for(world: World) -> None:
    recommender = make_recommender(world)
    known = ask(recommender)[0]
    nothing = np.empty((0, recommender.bundle.manifest.vector_width), dtype=np.float32)
    recommender.renew(np.array([known]), LiveItems(np.empty(0, np.int64), nothing, {known: HELD}))
    assert ask(recommender, n=5, filters={"item_brand": ["new brand"]}) == [known]


def test_a_reading_that_is_at_work_loses_no_item_that_comes_meanwhile(world: World) -> None:
    recommender = make_recommender(world)
    table, store = recommender.stores.items, recommender.stores.features
    read, known = store.read_items, world.item_ids[5]

    def read_and_change(item_ids: Ids) -> Any:
        rows = read(item_ids)
        if len(item_ids) == len(world.item_ids):  # the reading: then both items change
            for item_id in (NEW, known):
                row = {**ROW, names.IS_AVAILABLE: item_id == NEW}
                store.put(names.ITEM_CATALOG, item_id, row, NOW - timedelta(days=1))  # type: ignore[attr-defined]
            table.take(np.array([NEW, known]))
        return rows

    store.read_items = read_and_change  # type: ignore[method-assign]
    table.load()
    at = table.snapshot.rows_of(np.array([NEW, known, 12345]))
    assert at.tolist() == [len(world.item_ids), 5, len(world.item_ids) + 1]
    assert table.snapshot.is_available[at].tolist() == [True, False, False]


def test_positions_of_new_ids_follow_those_of_the_bundle() -> None:
    for first in (np.array([3, 5, 9]), np.array([3, 5_000, 9_000_000]), np.empty(0, np.int64)):
        grown = Positions(first).grown(np.array([90, 1, 40]))
        asked = np.array([[90, 40], [1, 2], [*first[:2]] if len(first) else [90, 90]])
        n = len(first)
        last = [0, 1] if n else [0, 0]
        assert grown.of(asked).tolist() == [[n, n + 2], [n + 1, UNKNOWN], last]
        assert len(grown) == n + 3


@pytest.mark.parametrize("head", [20, 200], ids=["a head beside a graph", "all in the process"])
def test_an_index_compares_new_items_exactly(head: int) -> None:
    rng = np.random.default_rng(0)
    ids, vectors = np.arange(200), rng.normal(size=(200, 8)).astype(np.float32)
    new_ids, new = np.array([900, 450]), rng.normal(size=(2, 8)).astype(np.float32) * 3
    catalogue, whole = Catalogue(ids, vectors), ExactVectorIndex(ids, vectors)
    index = HeadedVectorIndex(whole, head_of(ids, vectors, head), is_all=head == 200)
    live = LiveItems(new_ids, new, {})
    grown = index.grown(catalogue.grown(live), live)
    users = rng.normal(size=(5, 8)).astype(np.float32)
    found, scores = grown.search(users, [10] * 5, [{}] * 5, 10)
    products = users @ np.concatenate([vectors, new]).T
    best = np.argsort(-products, axis=1)[:, :10]
    assert np.concatenate([ids, new_ids])[best].tolist() == found.tolist()
    np.testing.assert_allclose(scores, np.take_along_axis(products, best, axis=1), rtol=1e-5)


@pytest.mark.parametrize("head", [20, 200], ids=["a head beside a graph", "all in the process"])
def test_an_item_that_moved_is_found_where_it_is_now_and_the_bundles_vectors_stay(head: int) -> None:
    rng = np.random.default_rng(1)
    ids, vectors = np.arange(0, 400, 2), rng.normal(size=(200, 8)).astype(np.float32)
    index = HeadedVectorIndex(ExactVectorIndex(ids, vectors), head_of(ids, vectors, head), is_all=head == 200)
    moved_ids, moved = np.array([6, 398]), rng.normal(size=(2, 8)).astype(np.float32) * 3
    live = LiveItems(np.array([7]), np.ones((1, 8), np.float32), {}, moved_ids, moved)
    catalogue, before = Catalogue(ids, vectors).grown(live), vectors.copy()
    now = vectors.copy()
    now[[3, 199]] = moved
    places = np.array([[0, 3], [199, 200]])
    expected = np.concatenate([now, live.new_vectors])
    np.testing.assert_array_equal(catalogue.vectors_of(places), expected[places])
    users = rng.normal(size=(5, 8)).astype(np.float32)
    found, _ = index.grown(catalogue, live).search(users, [10] * 5, [{}] * 5, 10)
    best = np.argsort(-(users @ expected.T), axis=1)[:, :10]
    assert np.append(ids, 7)[best].tolist() == found.tolist()
    np.testing.assert_array_equal(vectors, before)


@pytest.mark.parametrize("several", [False, True])
def test_a_column_of_changed_items_holds_what_they_hold_now(several: bool) -> None:
    before = [["a"], [], ["b", "a"] if several else ["b"]]
    starts = np.cumsum([0, *map(len, before), 0])
    texts = [text for one in before for text in one]
    known = np.array([True, True, True, False])
    column = Attribute.of_texts("string", texts, np.arange(len(texts)), starts, known)
    changed = column.changed(5, {1: {"c"}, 4: {"a"}, 0: frozenset()})

    def held(row: int) -> set[str]:
        return {changed.values[code] for code in changed.of(np.array([row]))[0].tolist() if code >= 0}

    assert [held(row) for row in range(6)] == [set(), {"c"}, {*before[2]}, set(), {"a"}, set()]
    assert changed.is_known.tolist() == [True, True, True, False, True, False]
