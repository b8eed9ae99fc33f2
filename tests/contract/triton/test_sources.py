"""Sources of candidates, each for itself, and in the chain beside each other."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from redis import Redis

from contract.bundle import ITEM_TABLE_FILE, BundleError, Correction, FewOrder, OrderSpec
from contract.filters import check_filters, passes
from contract.item_to_item import UNKNOWN, ItemToItem
from contract.ordering import order_scores
from contract.slates import Degradation, degradations
from contract.tensors import PAD_ID
from ensemble.bundle import LoadedBundle
from ensemble.publish.index import build_index
from ensemble.run.recommender import Recommender
from ensemble.sources.kinds import sources_of
from ensemble.sources.nearest import NearestItems
from ensemble.sources.new import NewItems
from ensemble.sources.source import Source, Users
from ensemble.stages.retrieve import RetrieveCandidates
from ensemble.stores.catalogue import Catalogue, LiveItems
from ensemble.stores.vectors import RedisVectorIndex
from tests.builders.triton import (
    SOURCES,
    WIDTH,
    World,
    add_sources,
    make_recommender,
    make_request,
    make_world,
    memory_index,
    process_index,
    slate,
)
from tests.contract.triton.source_suite import FILTERS, ITEMS, LIST_WIDTH, SourceSuite, make_users

NAMES = [spec.name for spec in SOURCES]
OF_USERS, OF_ITEMS = NAMES[:4], ["nearest", "similar"]


def made(world: World, name: str) -> Source:
    """Makes one of the sources that a bundle names."""
    bundle = LoadedBundle.open(world.folder)
    catalogue = Catalogue(bundle.item_ids, bundle.item_vectors)
    sources = sources_of(world.folder, bundle.manifest.sources, catalogue, memory_index(world, bundle))
    return {source.spec.name: source for source in sources}[name]


class TestNearestInMemory(SourceSuite):
    @pytest.fixture
    def source(self, world: World) -> Source:
        return made(world, "nearest")

    def test_scores_are_inner_products(self, source: Source, users: Users, bundle: LoadedBundle) -> None:
        found = source.candidates(users, [9] * len(FILTERS), LIST_WIDTH)
        scores = source.scores(users, found)
        for row, vector in enumerate(users.vectors):
            is_there = found[row] != UNKNOWN
            expected = bundle.item_vectors[found[row][is_there]] @ vector
            np.testing.assert_allclose(scores[row][is_there], expected, atol=1e-6)


class TestNearestInRedis(SourceSuite):
    @pytest.fixture
    def source(self, redis: Redis, world: World, bundle: LoadedBundle) -> Source:
        build_index(redis, world.folder, keep=2)
        catalogue = Catalogue(bundle.item_ids, bundle.item_vectors)
        name, filters = bundle.manifest.bundle, bundle.manifest.filters
        return NearestItems(
            SOURCES[0], RedisVectorIndex(redis, name, filters, catalogue=catalogue), catalogue
        )


class TestNearestInAGraph(SourceSuite):
    @pytest.fixture
    def source(self, bundle: LoadedBundle, tmp_path: Path) -> Source:
        index = process_index(bundle, tmp_path)
        return NearestItems(SOURCES[0], index, index.catalogue)


class InProcess(SourceSuite):
    """What sources in the process do beside: they leave out what the user may not get."""

    name = ""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        world = make_world(tmp_path / "bundle", items=ITEMS)
        add_sources(world)
        return world

    @pytest.fixture
    def source(self, world: World) -> Source:
        return made(world, self.name)

    def test_what_is_seen_or_excluded_is_left_out(
        self, source: Source, users: Users, bundle: LoadedBundle
    ) -> None:
        everyone = replace(users, filters=[{}] * len(FILTERS), worked_out={})
        first = source.candidates(everyone, [ITEMS] * len(FILTERS), LIST_WIDTH)
        gone = np.where(first[:, :1] == UNKNOWN, PAD_ID, bundle.item_ids[first[:, :1]])
        rest = source.candidates(
            replace(everyone, exclude_item_ids=gone, worked_out={}), [ITEMS] * len(FILTERS), LIST_WIDTH
        )
        np.testing.assert_array_equal(rest[:, :-1], first[:, 1:])
        for row, seen in enumerate(users.seen_item_ids):
            assert not set(bundle.item_ids[first[row][first[row] != UNKNOWN]]) & set(seen.tolist())

    def test_no_more_than_survive_are_wanted(self, source: Source, users: Users) -> None:
        few = replace(users, survivors=np.full(len(FILTERS), 2), worked_out={})
        assert ((source.candidates(few, [9] * len(FILTERS), LIST_WIDTH) != UNKNOWN).sum(axis=1) <= 2).all()


class TestItemToItem(InProcess):
    name = "chain"


class TestPopular(InProcess):
    name = "popular"


class TestNew(InProcess):
    name = "fresh"

    def test_gives_the_new_items_alone_nearest_first(
        self, source: Source, users: Users, world: World, bundle: LoadedBundle
    ) -> None:
        everyone = replace(users, filters=[{}] * len(FILTERS), worked_out={})
        found = source.candidates(everyone, [ITEMS] * len(FILTERS), LIST_WIDTH)
        is_new = np.load(world.folder / "fresh.npy") != 0
        for row, vector in enumerate(users.vectors):
            may_be_given = np.flatnonzero(everyone.eligible[row, :-1] & is_new)
            nearest = may_be_given[np.argsort(-bundle.item_vectors[may_be_given] @ vector)]
            np.testing.assert_array_equal(found[row, : len(nearest)], nearest)
            assert (found[row, len(nearest) :] == UNKNOWN).all()

    def test_what_came_after_the_bundle_is_new_as_well(self, bundle: LoadedBundle) -> None:
        later = np.full((2, WIDTH), 0.5, np.float32)
        bare = Catalogue(bundle.item_ids, bundle.item_vectors)
        catalogue = bare.grown(LiveItems(bundle.item_ids[-1] + np.arange(1, 3), later))
        marks = np.zeros(ITEMS + 2, np.float32)
        marks[3] = 1
        source = NewItems(SOURCES[3], marks, catalogue)
        np.testing.assert_array_equal(source.listed, [3, ITEMS, ITEMS + 1])
        np.testing.assert_array_equal(source.vectors[1:], later)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Gives a world whose bundle names every kind of source."""
    world = make_world(tmp_path / "bundle")
    add_sources(world)
    return world


def explained(recommender: Recommender, **asked: Any) -> dict[str, Any]:
    """Answers one request, gives every tensor's only row."""
    (answer,) = recommender.answer([make_request(**asked)])
    assert not isinstance(answer, Exception), answer
    return {name: array[0] for name, array in answer.items()}


def lists_of(answer: dict[str, Any]) -> dict[str, list[int]]:
    """Lists what each source gave, by its name."""
    return {
        name: [i for i in ids.tolist() if i != PAD_ID]
        for name, ids in zip(NAMES, answer["source_item_ids"].reshape(len(NAMES), -1), strict=True)
    }


def test_each_source_has_its_share_of_the_candidates(world: World) -> None:
    answer = explained(make_recommender(world), user_id=world.user_ids[3], n=10)
    given, candidates = lists_of(answer), answer["candidate_ids"].tolist()
    survives = set(answer["retrieved_ids"][answer["removed_by"] == 0].tolist())
    assert len(set(candidates)) == 10
    for spec in SOURCES[:4]:
        assured = [i for i in given[spec.name] if i in survives][: round(spec.share * 10)]
        assert set(assured) <= set(candidates), spec.name
    assert given["chain"], "the user has a history"
    assert not given["similar"], "nobody asked for the items like another"


def test_every_source_scores_every_candidate_whoever_gave_it(world: World) -> None:
    recommender = make_recommender(world)
    answer = explained(recommender, user_id=world.user_ids[3], n=10)
    bundle = recommender.bundle
    places = np.searchsorted(bundle.item_ids, answer["candidate_ids"])
    expected = bundle.item_vectors[places] @ answer["user_vector"]
    np.testing.assert_allclose(answer["retrieval_scores"], expected, atol=1e-6)
    scores = dict(zip(NAMES, answer["candidate_source_scores"], strict=True))
    np.testing.assert_allclose(scores["nearest"], expected, atol=1e-6)
    popular, new = (np.load(world.folder / f"{name}.npy")[places] for name in ("popular", "fresh"))
    np.testing.assert_array_equal(scores["popular"], popular)
    np.testing.assert_allclose(scores["fresh"], np.where(new != 0, expected, 0), atol=1e-6)
    table, history = ItemToItem.load(world.folder / "chain.npy"), answer["user_recent_item_ids"]
    sums = np.zeros(len(bundle.item_ids))
    for rank, item_id in enumerate(history[history != PAD_ID].tolist()):
        row = np.searchsorted(bundle.item_ids, item_id)
        np.add.at(sums, table.items[row], 0.8**rank * table.weights[row])
    np.testing.assert_allclose(scores["chain"], sums[places], rtol=1e-5)
    assert not scores["similar"].any()


def test_the_order_is_by_the_weights_of_all(world: World) -> None:
    order = OrderSpec(ranking=0.5, retrieval=1.0, sources={"chain": 2.0, "fresh": -1.0}, intercept=-0.3)
    answer = explained(make_recommender(world, order), user_id=world.user_ids[3], n=10)
    chance = answer["ranking_scores"].astype(np.float64)
    z = 0.5 * np.log(chance / (1 - chance)) + answer["retrieval_scores"] - 0.3
    z += 2 * answer["candidate_source_scores"][1] - answer["candidate_source_scores"][3]
    np.testing.assert_allclose(answer["order_scores"], 1 / (1 + np.exp(-z)), rtol=1e-4)
    best = answer["candidate_ids"][np.argsort(-z, kind="stable")]
    assert answer["item_ids"][:10].tolist() == best.tolist()


@pytest.mark.parametrize("ranking", [0.0, 0.5])
def test_the_order_is_corrected_by_the_columns_and_by_how_much_is_known(world: World, ranking: float) -> None:
    order = OrderSpec(
        ranking=ranking,
        retrieval=1.0,
        sources={"chain": 2.0},
        corrections={"chain": Correction(many=-0.4, bent=1.5, knee=0.2)},
        columns={"user_item_recent": -0.3, "item_price": 0.6},
    )
    recommender = make_recommender(world, order)
    answer = explained(recommender, user_id=world.user_ids[3], n=10)
    bundle = recommender.bundle
    price = pq.read_table(world.folder / ITEM_TABLE_FILE, columns=["item_price"]).column(0).to_numpy()
    places = np.searchsorted(bundle.item_ids, answer["candidate_ids"])
    history = answer["user_recent_item_ids"]
    columns = {
        "user_item_recent": (answer["candidate_ids"][:, None] == history).sum(axis=1).astype(np.float32),
        "item_price": price[places].astype(np.float32),
    }
    encoded = [bundle.encoders.encode(name, column) for name, column in columns.items()]
    given = np.stack(encoded, axis=1).astype(np.float32)
    expected = order_scores(
        answer["ranking_scores"][None],
        answer["retrieval_scores"][None],
        order,
        {"chain": answer["candidate_source_scores"][1][None]},
        np.array([[(history != PAD_ID).sum()]]),
        given[None],
    )[0]
    np.testing.assert_allclose(answer["order_scores"], expected, rtol=1e-5)
    assert answer["ranking_scores"].any() == (ranking > 0)


def test_a_user_of_whom_nothing_is_known_has_an_order_of_their_own(world: World) -> None:
    unknown = OrderSpec(ranking=0, sources={"popular": 1.0}, intercept=-2)
    recommender = make_recommender(world, OrderSpec(ranking=0, retrieval=1, unknown=unknown))
    popular = NAMES.index("popular")
    stranger = explained(recommender, user_id=-77, n=10)
    expected = 1 / (1 + np.exp(2 - stranger["candidate_source_scores"][popular]))
    np.testing.assert_allclose(stranger["order_scores"], expected, rtol=1e-5)
    given = lists_of(stranger)
    assert not given["nearest"]
    assert set(stranger["candidate_ids"].tolist()) - {PAD_ID} <= {*given["popular"], *given["fresh"]}
    found = np.load(world.folder / "popular.npy")[np.searchsorted(world.item_ids, stranger["item_ids"][:10])]
    assert found.tolist() == sorted(found.tolist(), reverse=True)
    known = explained(recommender, user_id=world.user_ids[3], n=10)
    assert lists_of(known)["nearest"]
    expected = 1 / (1 + np.exp(-known["retrieval_scores"].astype(np.float64)))
    np.testing.assert_allclose(known["order_scores"], expected, rtol=1e-5)


def test_a_user_of_whom_few_items_are_known_has_the_order_of_so_many(world: World) -> None:
    columns = {"item_price": 0.6}
    few = FewOrder(least=1, most=200, order=OrderSpec(ranking=0, sources={"popular": 1.0}, columns=columns))
    order = OrderSpec(ranking=0, retrieval=1, few=(few,))
    recommender = make_recommender(world, order)
    known = explained(recommender, user_id=world.user_ids[3], n=10)
    price = pq.read_table(world.folder / ITEM_TABLE_FILE, columns=["item_price"]).column(0).to_numpy()
    places = np.searchsorted(recommender.bundle.item_ids, known["candidate_ids"])
    encoded = recommender.bundle.encoders.encode("item_price", price[places].astype(np.float32))
    z = known["candidate_source_scores"][NAMES.index("popular")] + 0.6 * encoded
    np.testing.assert_allclose(known["order_scores"], 1 / (1 + np.exp(-z)), rtol=1e-5)
    stranger = explained(recommender, user_id=-77, n=10)
    expected = 1 / (1 + np.exp(-stranger["retrieval_scores"].astype(np.float64)))
    np.testing.assert_allclose(stranger["order_scores"], expected, rtol=1e-5)


@pytest.mark.parametrize(("share", "least"), [(0.0, 0), (0.3, 3), (0.5, 5)])
def test_new_items_have_the_places_that_the_settings_promise_them(
    world: World, share: float, least: int
) -> None:
    """The bundle gives its new items a hundredth of the candidates, which would be none at all."""
    few = [one.model_copy(update={"share": 0.01 if one.kind == "new" else 0.33}) for one in SOURCES]
    add_sources(world, few, OrderSpec(ranking=0, retrieval=1))
    order = {"shares": [{"share": share}]} if share else {}
    recommender = make_recommender(world, order=order)
    new = set(recommender.bundle.item_ids[recommender.bundle.is_new[:-1]].tolist())
    for user_id in world.user_ids[:20]:
        served = explained(recommender, user_id=user_id, n=10)["item_ids"]
        assert len(new & set(served.tolist())) >= least


@pytest.mark.parametrize(
    "order", [OrderSpec(columns={"gone": 1.0}), OrderSpec(corrections={"gone": Correction(few=1.0)})]
)
def test_a_bundle_whose_order_weighs_what_it_does_not_have_is_refused(world: World, order: OrderSpec) -> None:
    add_sources(world, order=order)
    with pytest.raises(BundleError, match="the order weighs gone"):
        LoadedBundle.open(world.folder)


def test_filters_and_what_was_seen_hold_for_every_source(world: World) -> None:
    recommender = make_recommender(world)
    wanted = {"item_category": [1, 2], "item_price": {"gte": 1.0}}
    answer = explained(recommender, user_id=world.user_ids[3], n=10, filters=wanted)
    dtypes = recommender.bundle.manifest.filters
    held = dict(zip(world.item_ids, memory_index(world, recommender.bundle).held, strict=True))
    for item_ids in lists_of(answer).values():
        assert all(passes(check_filters(wanted, dtypes), held[item_id]) for item_id in item_ids)
    assert len(lists_of(answer)["popular"]) > 1
    assert not set(answer["item_ids"].tolist()) & set(world.seen[world.user_ids[3]])


def test_the_items_like_another_come_from_its_table_and_its_vector(world: World) -> None:
    order = OrderSpec(sources={"similar": 0.5})
    like = world.item_ids[7]
    answer = explained(make_recommender(world, order), user_id=PAD_ID, like=like, n=10, excluded=[like])
    given = lists_of(answer)
    assert given["nearest"]
    table = ItemToItem.load(world.folder / "similar.npy")
    assert set(given["similar"]) <= {world.item_ids[at] for at in table.items[7]}
    assert not any(given[name] for name in ("chain", "popular", "fresh"))
    of_table = answer["candidate_source_scores"][NAMES.index("similar")]
    expected = answer["retrieval_scores"] + np.float32(0.5) * of_table
    np.testing.assert_allclose(answer["order_scores"], expected, rtol=1e-6)
    assert of_table.any()


def fail(*_: Any, **__: Any) -> Any:
    raise ConnectionError("gone")


def panel_of(recommender: Recommender) -> dict[str, Any]:
    """Gives the chain's sources by their names."""
    (stage,) = [node.op for node in recommender.chain if isinstance(node.op, RetrieveCandidates)]
    return {source.spec.name: source for source in stage.offers.current.panel.sources}


def test_a_table_may_be_asked_for_users_and_for_the_items_like_another(world: World) -> None:
    both = SOURCES[1].model_copy(update={"of_items": True})
    order = OrderSpec(retrieval=4.0, sources={"chain": 2.0})
    add_sources(world, (SOURCES[0], both), order)
    recommender, like = make_recommender(world), world.item_ids[7]
    requests = [make_request(world.user_ids[3], n=10), make_request(PAD_ID, n=10, like=like, excluded=[like])]
    user, item = recommender.answer(requests)
    assert not isinstance(user, Exception)
    assert not isinstance(item, Exception)
    table = ItemToItem.load(world.folder / "chain.npy")
    given = {i for i in item["source_item_ids"].reshape(2, -1)[1].tolist() if i != PAD_ID}
    assert given <= {world.item_ids[at] for at in table.items[7]}
    assert (user["source_item_ids"].reshape(2, -1)[1] != PAD_ID).sum() > len(given)
    of_table = item["candidate_source_scores"][0, 1]
    np.testing.assert_allclose(item["order_scores"][0], item["retrieval_scores"][0] + of_table / 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "method"),
    [*product(OF_USERS, ["candidates"]), *product(OF_USERS[1:], ["scores"])],  # the vectors' are always known
)
def test_a_source_that_fails_is_left_out_and_told(world: World, name: str, method: str) -> None:
    recommender = make_recommender(world, OrderSpec(sources={"chain": 1.0, "popular": 1.0}))
    before = explained(recommender, user_id=world.user_ids[3], n=5)
    setattr(panel_of(recommender)[name], method, fail)
    answer = explained(recommender, user_id=world.user_ids[3], n=5)
    assert Degradation.SOURCES not in degradations(int(before["degraded"][0]))
    assert degradations(int(answer["degraded"][0])) == [Degradation.SOURCES]
    assert (answer["item_ids"][:5] != PAD_ID).all()
    assert not answer["candidate_source_scores"][NAMES.index(name)].any()
    if method == "candidates":
        assert not lists_of(answer)[name]
    counted = {key: n for key, n in recommender.counters.counts.items() if key[0] == "failed_sources"}
    assert counted == {("failed_sources", (("source", name),)): 1}


def test_all_but_one_may_fail(world: World) -> None:
    recommender = make_recommender(world)
    for name in OF_USERS[:-1]:
        panel_of(recommender)[name].candidates = fail
    answer = explained(recommender, user_id=world.user_ids[3], n=3)
    assert answer["item_ids"][0] != PAD_ID
    assert set(answer["candidate_ids"].tolist()) - {PAD_ID} <= set(lists_of(answer)["fresh"])


def test_where_no_source_is_left_the_request_fails(world: World) -> None:
    recommender = make_recommender(world)
    for source in panel_of(recommender).values():
        source.candidates = fail
    (answer,) = recommender.answer([make_request()])
    assert str(answer) == "dependency|retrieve_candidates|ConnectionError: gone"


def test_who_asks_for_nothing_of_a_failed_source_is_not_told(world: World) -> None:
    recommender = make_recommender(world)
    panel_of(recommender)["similar"].candidates = fail
    user, item = recommender.answer(
        [make_request(world.user_ids[3]), make_request(like=world.item_ids[7], excluded=[world.item_ids[7]])]
    )
    assert not isinstance(user, Exception)
    assert not isinstance(item, Exception)
    assert degradations(int(user["degraded"][0, 0])) == []
    assert Degradation.SOURCES in degradations(int(item["degraded"][0, 0]))
    assert slate(item)


def test_a_user_gets_alone_what_it_gets_among_others(world: World) -> None:
    recommender = make_recommender(world)
    requests = [make_request(user_id, n=7) for user_id in range(98, 112)]
    requests += [make_request(like=item_id, excluded=[item_id]) for item_id in world.item_ids[:3]]
    for request, together in zip(requests, recommender.answer(requests), strict=True):
        (alone,) = recommender.answer([request])
        assert not isinstance(together, Exception)
        assert not isinstance(alone, Exception)
        assert slate(together) == slate(alone)
        np.testing.assert_array_equal(together["source_item_ids"], alone["source_item_ids"])
        np.testing.assert_allclose(together["source_scores"], alone["source_scores"], atol=1e-6)


def with_share(world: World, name: str, **changed: Any) -> Recommender:
    """Makes a chain whose candidates come from one source, the others having no share."""
    add_sources(world, [one.model_copy(update={"share": float(one.name == name)}) for one in SOURCES])
    return make_recommender(world, **changed)


def test_a_source_without_a_share_scores_and_lists_nothing_where_the_others_find_enough(world: World) -> None:
    answer = explained(with_share(world, "nearest"), user_id=world.user_ids[3], n=10)
    given = lists_of(answer)
    assert set(answer["candidate_ids"].tolist()) <= set(given.pop("nearest"))
    assert not any(given.values())
    scores = dict(zip(NAMES, answer["candidate_source_scores"], strict=True))
    assert scores["chain"].any()
    assert scores["popular"].any()


def test_where_those_with_a_share_run_out_the_others_fill_up_as_if_all_had_been_asked(world: World) -> None:
    recommender = with_share(world, "chain", k=60, max_overfetch=60, max_seen=60)
    panel = recommender.offers.current.panel
    short, like = make_request(world.user_ids[3], n=10), make_request(like=world.item_ids[7], n=10)
    enough = make_request(world.user_ids[3], n=1, quality=0.05)
    requests = [short, like, enough]
    lazy = recommender.answer(requests)
    panel._have_shares[:] = True
    eager = recommender.answer(requests)
    for one, other in zip(lazy, eager, strict=True):
        assert not isinstance(one, Exception)
        assert not isinstance(other, Exception)
        np.testing.assert_array_equal(one["candidate_ids"], other["candidate_ids"])
        np.testing.assert_array_equal(one["item_ids"], other["item_ids"])
    lists = [lists_of({name: array[0] for name, array in one.items()}) for one in lazy]  # type: ignore[union-attr]
    assert lists[0]["nearest"], "what the chain leads to is less than is wanted"
    assert lists[1]["nearest"], "items like another come from all that know some"
    assert not lists[2]["nearest"], "the chain has one"


def test_who_has_no_share_is_told_where_it_fails_to_score(world: World) -> None:
    recommender = with_share(world, "nearest")
    panel_of(recommender)["chain"].scores = fail
    answer = explained(recommender, user_id=world.user_ids[3], n=3)
    assert Degradation.SOURCES in degradations(int(answer["degraded"][0]))
    assert answer["item_ids"][0] != PAD_ID


def test_without_the_vectors_the_other_sources_answer(world: World) -> None:
    add_sources(world, SOURCES[1:4])
    answer = explained(make_recommender(world), user_id=world.user_ids[3], n=3)
    assert slate({"item_ids": answer["item_ids"][None]})
    assert answer["retrieval_scores"].any(), "the vectors' scores are known all the same"


def test_an_answer_says_where_one_lacks_items(world: World) -> None:
    recommender = make_recommender(world)
    panel_of(recommender)["popular"].is_whole = False
    answer = explained(recommender)
    assert Degradation.PARTIAL_INDEX in degradations(int(answer["degraded"][0]))


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("chain", np.zeros((3, 2), dtype=np.float32), "must be int32"),
        ("chain", "short", "not one per item"),
        ("popular", np.zeros(3, dtype=np.float32), "one per item"),
        ("fresh", "nan", "must be finite"),
    ],
)
def test_a_table_of_another_catalogue_is_named(world: World, name: str, wrong: Any, said: str) -> None:
    path = world.folder / f"{name}.npy"
    if isinstance(wrong, str):
        array = np.load(path)
        wrong = array[:, :-1] if wrong == "short" else np.full_like(array, np.nan)
    np.save(path, wrong)
    bundle = LoadedBundle.open(world.folder, verify=False)
    catalogue = Catalogue(bundle.item_ids, bundle.item_vectors)
    with pytest.raises(BundleError, match=rf"{name}\.npy: .*{said}"):
        sources_of(world.folder, bundle.manifest.sources, catalogue, memory_index(world, bundle))


def test_a_failure_is_logged_with_the_sources_name(world: World, caplog: pytest.LogCaptureFixture) -> None:
    recommender = make_recommender(world)
    panel_of(recommender)["chain"].candidates = fail
    with caplog.at_level(logging.WARNING):
        explained(recommender)
    assert "went on without the source chain" in caplog.text


def test_a_large_catalogue_is_scored_as_a_small_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = LoadedBundle.open(world.folder)
    users, table = make_users(world, bundle, [{}] * 4), made(world, "chain")
    everything = np.arange(-1, ITEMS)[None].repeat(4, axis=0)
    small = table.scores(users, everything)
    monkeypatch.setattr("contract.item_to_item.DENSE_ITEMS", 10)
    large = table.scores(replace(users, worked_out={}), everything)
    np.testing.assert_allclose(large, small, rtol=1e-6)
    assert small.any(axis=1).all()
