"""An index over several real nodes: found as on one, told where one is away, moved while it is asked."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from redis import Redis
from redis.exceptions import RedisError

from contract.environment import RedisUrl
from contract.errors import ErrorCode, StageError
from contract.keys import index_name, index_nodes_key, item_vector_key, item_vector_prefix
from contract.live_catalogue import TAKE_OUT
from contract.placement import IndexPlacement
from contract.tensors import PAD_ID
from ensemble.bundle import LoadedBundle
from ensemble.publish import index as index_module
from ensemble.publish import nodes as nodes_module
from ensemble.publish.index import build_index, drop_bundle, main
from ensemble.publish.nodes import main as move_nodes
from ensemble.publish.parts import IndexBuildError
from ensemble.publish.places import NodeFault
from ensemble.run.metrics import GAUGES
from ensemble.settings import EnsembleSettings
from ensemble.sources.nearest import NearestItems
from ensemble.sources.source import Source
from ensemble.stores import nodes as stores_nodes
from ensemble.stores.catalogue import Catalogue
from ensemble.stores.client import connect
from ensemble.stores.index_watch import IndexWatch
from ensemble.stores.nodes import IndexNodes
from ensemble.stores.spread import SpreadVectorIndex
from ensemble.stores.vectors import MemoryVectorIndex, RedisVectorIndex, VectorIndex
from live.consumer import Consumer
from tests.builders.catalogue import ask_for, make_catalogue, put_items
from tests.builders.index_nodes import Cluster, Served, running_nodes
from tests.builders.live import drain
from tests.builders.ports import free_port
from tests.builders.search_redis import running_redis
from tests.builders.site import Site
from tests.builders.triton import SOURCES, WIDTH, World, make_world
from tests.contract.triton.source_suite import SourceSuite
from tests.contract.triton.test_live_catalogue import NEW, ROW
from tests.contract.triton.test_vectors import VectorIndexSuite

ITEMS = 60


@pytest.fixture(scope="module")
def node_urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisUrl]]:
    with running_nodes(tmp_path_factory.mktemp("nodes"), 3) as urls:
        yield urls


@pytest.fixture
def cluster(redis: Redis, redis_url: RedisUrl, node_urls: list[RedisUrl]) -> Cluster:
    return Cluster(redis, redis_url, node_urls)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path / "bundle", items=ITEMS)


def index_of(cluster: Cluster, bundle: LoadedBundle, catalogue: Catalogue | None) -> SpreadVectorIndex:
    name, filters = bundle.manifest.bundle, bundle.manifest.filters
    client: Any = cluster.redis
    watch = IndexWatch(client, name, bundle.manifest.items)
    nodes = IndexNodes(client, cluster.url, name, bundle.item_ids, watch, 5_000)
    return SpreadVectorIndex(RedisVectorIndex(client, name, filters, catalogue=catalogue), nodes)


class TestSpread(VectorIndexSuite):
    @pytest.fixture
    def index(self, cluster: Cluster, world: World, bundle: LoadedBundle) -> VectorIndex:
        cluster.build(world, cluster.nodes[:2])
        return index_of(cluster, bundle, None)

    @pytest.mark.usefixtures("index")
    def test_each_node_has_its_share_and_home_the_columns_alone(self, cluster: Cluster, world: World) -> None:
        one, other = (cluster.held(node) for node in cluster.nodes[:2])
        assert one | other == set(world.item_ids)
        assert not one & other
        assert min(len(one), len(other)) > ITEMS / 4
        assert not cluster.held(cluster.home)
        assert cluster.redis.hget(item_vector_key("tiny-1", world.item_ids[1]), "item_category")


class TestSpreadAtHomeAsWell(VectorIndexSuite):
    @pytest.fixture
    def index(self, cluster: Cluster, world: World, bundle: LoadedBundle) -> VectorIndex:
        cluster.build(world, (cluster.home, cluster.nodes[0]))
        return index_of(cluster, bundle, Catalogue(bundle.item_ids, bundle.item_vectors))


class TestNearestOverNodes(SourceSuite):
    @pytest.fixture
    def source(self, cluster: Cluster, world: World, bundle: LoadedBundle) -> Source:
        cluster.build(world, cluster.nodes)
        catalogue = Catalogue(bundle.item_ids, bundle.item_vectors)
        return NearestItems(SOURCES[0], index_of(cluster, bundle, catalogue), catalogue)


REAL = st.floats(-8, 8, width=32).map(lambda x: np.float32(round(x * 4) / 4))
"""Quarters: many products are equal, and all are exact."""


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    vectors=arrays(np.float32, (24, 3), elements=REAL),
    users=arrays(np.float32, (2, 3), elements=REAL),
    count=st.integers(1, 24),
)
def test_what_is_merged_is_what_one_node_with_every_item_gives(
    cluster: Cluster, vectors: np.ndarray, users: np.ndarray, count: int
) -> None:
    ids, placement = np.arange(24) * 5 - 31, IndexPlacement(cluster.nodes)
    client: Any = cluster.redis
    for node in (cluster.home, *cluster.nodes):
        redis: Any = cluster.clients.of(node)
        redis.flushall()
        schema = ("vector", "VECTOR", "FLAT", 6, "TYPE", "FLOAT32", "DIM", 3, "DISTANCE_METRIC", "IP")
        prefix = ("ON", "HASH", "PREFIX", 1, item_vector_prefix("some"))
        redis.execute_command("FT.CREATE", index_name("some"), *prefix, "SCHEMA", *schema)
        pipe = redis.pipeline(transaction=False)
        held = np.ones(24, dtype=bool) if node == cluster.home else placement.holds(node, ids)
        for at in held.nonzero()[0]:
            pipe.hset(item_vector_key("some", ids[at]), "vector", vectors[at].tobytes())
        pipe.execute()
    client.set(index_nodes_key("some"), placement.encode())
    catalogue = Catalogue(ids, vectors)
    one = RedisVectorIndex(client, "some", {}, catalogue=catalogue)
    nodes = IndexNodes(client, cluster.url, "some", ids, IndexWatch(client, "some", 24), 5_000, False)
    asked: Any = (users, [count] * 2, [{}] * 2, 24)
    found, scores = SpreadVectorIndex(one, nodes).search(*asked)
    of_one, expected = one.search(*asked)
    exact, _ = MemoryVectorIndex(ids, vectors).search(*asked)
    np.testing.assert_array_equal(scores, expected)
    is_sure = scores > scores[:, count - 1 : count]  # of those that equal the last, any will do
    np.testing.assert_array_equal(found[is_sure], of_one[is_sure])
    np.testing.assert_array_equal(found[is_sure], exact[is_sure])
    for row in found:
        live = row[row != PAD_ID].tolist()
        assert len(live) == len(set(live)) == count


@pytest.fixture
def served(cluster: Cluster, world: World) -> Served:
    """The chain over two nodes, all of whose searches go there."""
    cluster.build(world, cluster.nodes[:2])
    served = Served(world, cluster.url, head_items=0)
    served.start()
    return served


def test_a_spread_index_answers_as_one_that_is_not(cluster: Cluster, world: World) -> None:
    cluster.build(world, (cluster.home,))
    alone, wanted = Served(world, cluster.url, head_items=0), {"item_category": [1, 2]}
    alone.start()
    expected = (alone.answer(), alone.answer(filters=wanted))
    cluster.redis.flushall()
    cluster.build(world, cluster.nodes)
    spread = Served(world, cluster.url, head_items=0)
    spread.start()
    assert (spread.answer(), spread.answer(filters=wanted)) == expected
    assert spread.watch.share == 1.0
    assert spread.watch.found == ITEMS


def test_of_a_node_that_is_away_the_answers_say_so_and_the_rest_comes(
    cluster: Cluster, world: World, tmp_path: Path
) -> None:
    port = free_port()
    (tmp_path / "redis").mkdir()
    with running_redis(tmp_path / "redis", port=port, is_kept=True) as url:
        cluster.build(world, (cluster.nodes[0], url.address))
        served = Served(world, cluster.url, head_items=0)
        served.start()
        whole = served.answer()
        assert whole is not None
        assert not whole[0]
    for _ in range(3):
        answer = served.answer()
        assert answer is not None
        assert answer[0], "it is marked"
        there, found = cluster.held(cluster.nodes[0]), {one for one in answer[1] if one != PAD_ID}
        assert there & set(whole[1]) <= found <= there
        assert len(found) == sum(one != PAD_ID for one in whole[1]), "as many, of those that are there"
        served.watch.look()
    assert [*served.watch.away] == [url.address]
    assert 0 < served.watch.share < 1
    with running_redis(tmp_path / "redis", port=port, is_kept=True):
        assert eventually(lambda: served.looked_and_marked() is False)
        assert served.answer() == whole
        assert not served.watch.away


def eventually(check: Callable[[], bool]) -> bool:
    until_s = time.monotonic() + 20
    while not (found := check()) and time.monotonic() < until_s:
        time.sleep(0.005)
    return found


def test_a_node_that_stalls_is_late_first_and_then_not_asked(
    cluster: Cluster, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.build(world, cluster.nodes[:2])
    served = Served(world, cluster.url, head_items=0, index_timeout_ms=300)
    served.start()
    stalled: Any = cluster.clients.of(cluster.nodes[1])
    process_id = int(stalled.info("server")["process_id"])
    os.kill(process_id, signal.SIGSTOP)
    try:
        assert served.is_marked() is True
        assert not served.watch.away, "one late answer is none of a node that is gone"
        monkeypatch.setattr(stores_nodes, "ALL_LATE_S", 0.0)
        assert served.is_marked() is True
        assert [*served.watch.away] == [cluster.nodes[1]]
        nodes: Any = served.watch
        (_, node) = nodes.current
        monkeypatch.setattr(node.redis.connection_pool, "get_connection", _nobody_asks)
        assert served.is_marked() is True
    finally:
        monkeypatch.undo()
        os.kill(process_id, signal.SIGCONT)
    assert eventually(lambda: served.looked_and_marked() is False)


def _nobody_asks(*_: object, **__: object) -> None:
    raise AssertionError("it was asked")


def test_where_no_node_has_the_index_the_request_fails_and_says_so(served: Served, cluster: Cluster) -> None:
    for node in cluster.nodes:
        cluster.clients.of(node).flushall()
    request: Any = (np.ones((1, WIDTH), dtype=np.float32), [5], [{}], 9)
    index: Any = served.recommender.stores.vectors
    with pytest.raises(StageError, match="no index item_vectors:tiny-1") as caught:
        getattr(index, "index", index).search(*request)
    assert caught.value.code is ErrorCode.DEPENDENCY
    assert served.answer() is None


def test_an_item_that_one_node_lost_keeps_answers_marked(served: Served, cluster: Cluster) -> None:
    node: Any = cluster.clients.of(cluster.nodes[1])
    key = item_vector_key("tiny-1", next(iter(cluster.held(cluster.nodes[1]))))
    fields = node.hgetall(key)
    node.delete(key)
    served.watch.doubt()
    assert served.looked_and_marked() is True
    assert eventually(lambda: served.looked_and_marked() is True and served.watch.found == ITEMS - 1)
    node.hset(key, mapping=fields)
    assert eventually(lambda: served.looked_and_marked() is False)
    assert {"indexed_share", "index_nodes_away"} <= set(GAUGES)


def test_a_chain_that_cannot_learn_where_items_lie_says_that_some_may_lack(
    served: Served, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores_nodes, "STALE_S", 0.0)
    assert served.is_marked() is True
    monkeypatch.undo()
    cluster.redis.set(index_nodes_key("tiny-1"), b"damaged")
    assert served.looked_and_marked() is False, "it goes on with what it knows"
    monkeypatch.setattr(stores_nodes, "STALE_S", 0.0)
    assert served.looked_and_marked() is True


def test_a_chain_that_never_learned_where_items_lie_fails_its_requests(
    cluster: Cluster, world: World
) -> None:
    cluster.build(world, (cluster.home, cluster.nodes[0]))
    cluster.redis.set(index_nodes_key("tiny-1"), b"damaged")
    served = Served(world, cluster.url, head_items=0)
    assert (served.answer(), served.looked_and_marked()) == (None, None)


def test_a_chain_that_starts_while_items_move_asks_nobody_for_those_to_come(
    cluster: Cluster, world: World
) -> None:
    cluster.build(world, cluster.nodes[:2])
    moving = IndexPlacement(cluster.nodes[:2], coming=cluster.nodes[:1])
    cluster.redis.set(index_nodes_key("tiny-1"), moving.encode())
    served = Served(world, cluster.url, head_items=0)
    served.start()
    assert served.is_marked() is False
    assert (served.watch.found, served.watch.share) == (ITEMS, 1.0)


def asked_while(served: Served, work: Callable[[], Any]) -> list[tuple[bool, list[int]] | None]:
    """Asks again and again, looking in between, while something is done; gives every answer."""
    answers: list[tuple[bool, list[int]] | None] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive():
        answers.append(served.answer())
        served.watch.look()
    thread.join()
    assert not failed, failed
    return [*answers, served.answer()]


@pytest.mark.parametrize("way", ["a node comes", "a node goes", "home goes", "home comes", "from home alone"])
def test_items_move_while_they_are_asked_for_and_never_lack(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    home, (one, other, third) = (cluster.home,), cluster.nodes
    before, after = {
        "a node comes": ((one, other), (one, other, third)),
        "a node goes": ((one, other, third), (third, one)),
        "home goes": ((*home, one), (one, other)),
        "home comes": ((one, other), (other, *home)),
        "from home alone": (home, (*home, one)),
    }[way]
    world = make_world(tmp_path / "bundle", items=400)
    monkeypatch.setattr(nodes_module, "CHUNK", 10)
    cluster.build(world, before)
    served = Served(world, cluster.url, head_items=0)
    served.start()
    whole = served.answer()
    move, moved = cluster.move(world, grace_s=0.3), []
    answers = asked_while(served, lambda: moved.append(move.run(after)))
    assert len(answers) > 5
    assert {str(answer) for answer in answers} == {str(whole)}
    placement = IndexPlacement(before).holds, IndexPlacement(after).holds
    ids = np.array(world.item_ids)
    expected = sum(int((placement[1](node, ids) & ~placement[0](node, ids)).sum()) for node in after)
    assert moved == [expected]
    for node in (*home, *cluster.nodes):
        assert cluster.held(node) == set(ids[placement[1](node, ids)].tolist()), node
    watch: Any = served.watch
    assert [node.address for node in watch.current] == list(after)
    assert served.watch.share == 1.0
    assert cluster.move(world).run(after) == 0, "and again there is nothing to do"
    assert not cluster.build(world, after), "it is known to be built"


def test_a_move_that_broke_off_goes_on_or_is_taken_back(
    cluster: Cluster, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, third = cluster.nodes
    cluster.build(world, (one, other))
    served = Served(world, cluster.url, head_items=0)
    served.start()
    whole = served.answer()

    def breaks_off(nodes: tuple[str, ...]) -> None:
        def breaks(*_: object) -> None:
            raise NodeFault("index node: gone")

        with monkeypatch.context() as patch:
            patch.setattr(nodes_module, "wait_for_parts", breaks)
            move = cluster.move(world)
            with pytest.raises(NodeFault):
                move.run(nodes)

    breaks_off((one, other, third))
    assert cluster.held(third)
    with pytest.raises(NodeFault, match=r"is being moved, and SHORTLIST_INDEX_NODES .*run `make nodes`"):
        cluster.build(world, (one, other))
    served.watch.look()
    assert served.answer() == whole
    assert cluster.move(world).run((one, other)) == 0
    assert not cluster.held(third), "taken back"
    breaks_off((one, other, third))
    assert cluster.move(world).run((one, other, third)) > 0
    served.watch.look()
    assert served.answer() == whole
    assert sum(len(cluster.held(node)) for node in cluster.nodes) == ITEMS


def test_a_node_that_is_gone_for_good_is_moved_away_from(
    cluster: Cluster, world: World, tmp_path: Path
) -> None:
    (tmp_path / "redis").mkdir()
    with running_redis(tmp_path / "redis") as url:
        cluster.build(world, (cluster.nodes[0], url.address))
        served = Served(world, cluster.url, head_items=0)
        served.start()
        whole = served.answer()
    assert served.is_marked() is True
    assert cluster.move(world).run(cluster.nodes[:2]) >= ITEMS / 4
    served.watch.look()
    assert served.answer() == whole
    assert not cluster.build(world, cluster.nodes[:2])


def test_an_index_elsewhere_is_not_built_again_but_moved(cluster: Cluster, world: World) -> None:
    cluster.build(world, cluster.nodes[:2])
    assert not cluster.build(world, cluster.nodes[1::-1]), "their order says nothing"
    with pytest.raises(NodeFault, match=r"tiny-1: lies on .*, and SHORTLIST_INDEX_NODES .*`make nodes`"):
        cluster.build(world, cluster.nodes)
    assert not cluster.held(cluster.nodes[2])


def test_older_bundles_go_from_every_node(cluster: Cluster, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        cluster.build(make_world(tmp_path / name, items=20, bundle=name), cluster.nodes)
    for node in cluster.nodes:
        redis: Any = cluster.clients.of(node)
        assert not redis.keys("item_vector:one:*")
        assert {name.decode() for name in redis.execute_command("FT._LIST")} == {
            index_name("two"),
            index_name("three"),
        }
    assert not cluster.redis.exists(index_nodes_key("one"))
    drop_bundle(cluster.redis, "two", cluster.clients)
    assert not any(cluster.held(node, "two") for node in cluster.nodes)


def test_a_build_that_fails_leaves_nothing_on_any_node(
    cluster: Cluster, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise IndexBuildError("no")

    monkeypatch.setattr(index_module, "wait_for_parts", refused)
    with pytest.raises(IndexBuildError):
        cluster.build(world, cluster.nodes)
    assert not any(cluster.clients.of(node).keys("*") for node in (cluster.home, *cluster.nodes))


@pytest.mark.parametrize("command", [main, move_nodes])
@pytest.mark.parametrize("fault", ["away", "no module", "another name", "another name of home"])
def test_a_node_that_is_unfit_is_one_line_and_nothing_is_written(
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: Callable[[list[str]], int],
    fault: str,
) -> None:
    make_world(tmp_path / "bundles" / "tiny-1", items=20)
    (tmp_path / "bundles" / "current").symlink_to("tiny-1")
    (tmp_path / "redis").mkdir()
    with running_redis(tmp_path / "redis", with_search=False) as url:
        node, said = {
            "away": (f"127.0.0.1:{free_port()}", "start it, or leave it out of SHORTLIST_INDEX_NODES"),
            "no module": (url.address, "has no search module; start it with the module"),
            "another name of home": (
                cluster.home.replace("127.0.0.1", "localhost"),
                "by another name; name it",
            ),
            "another name": (cluster.nodes[0].replace("127.0.0.1", "localhost"), "by another name; name it"),
        }[fault]
        monkeypatch.setenv("SHORTLIST_VAR_DIR", str(tmp_path))
        monkeypatch.setenv("SHORTLIST_REDIS_URL", cluster.url.get_secret_value())
        monkeypatch.setenv("SHORTLIST_INDEX_NODES", f"{cluster.nodes[0]},{node}")
        assert command([]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"index node {node}: ")
        assert said in error
        assert len(error.splitlines()) == 1
        clients = [cluster.clients.of(one) for one in (cluster.home, *cluster.nodes)]
        assert not any(client.keys("*") for client in (*clients, connect(url, 1_000)))


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ("a:1,b:2,a:1", "names a:1 twice: name each node once"),
        ("a:1,b", "names 'b', which is no host:port"),
        ("a", "names 'a', which is no host:port"),
    ],
)
def test_a_list_that_is_none_is_refused(nodes: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        EnsembleSettings(index_nodes=nodes)


def test_a_redis_that_is_away_is_told_by_its_own_setting(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("SHORTLIST_VAR_DIR", str(site.var))
    monkeypatch.setenv("SHORTLIST_REDIS_URL", f"redis://{address}/0")
    assert move_nodes([]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"Redis at {address}: ")
    assert error.endswith("; start it (`make up`), or set SHORTLIST_REDIS_URL\n")
    assert len(error.splitlines()) == 1


def test_the_commands_spread_an_index_and_move_it(
    cluster: Cluster, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHORTLIST_VAR_DIR", str(site.var))
    monkeypatch.setattr(nodes_module, "GRACE_S", 0.0)
    monkeypatch.setenv("SHORTLIST_INDEX_NODES", ",".join(cluster.nodes[:2]))
    assert site.export() == 1
    assert "run `make nodes`" in capsys.readouterr().err
    assert move_nodes([]) == 0
    assert f"old: on {cluster.nodes[0]}, {cluster.nodes[1]}; 60 of 60 items moved" in capsys.readouterr().out
    assert not cluster.held(cluster.home, "old")
    assert site.export() == 0
    site.trained(site.old, "newer")
    site.promote("newer")
    assert site.export() == 0
    assert len(cluster.held(cluster.nodes[0], "newer") | cluster.held(cluster.nodes[1], "newer")) == ITEMS


@pytest.fixture
def consumer(site: Site, cluster: Cluster) -> Consumer:
    return make_catalogue(site.redis, site.old.dataset, site.var, cluster.url)[0]


def test_items_that_come_change_and_go_do_so_on_their_nodes(
    cluster: Cluster, site: Site, consumer: Consumer
) -> None:
    dataset, known = site.old.dataset, site.old.item_ids[7]
    put_items(site.redis, dataset, {**ROW, "item_id": known, "item_category": 1})
    drain(consumer)
    cluster.move(site.old).run(cluster.nodes[:2])
    served = Served(site.old, cluster.url, head_items=0)
    served.start()
    live = served.recommender.stores.live
    assert live is not None

    def found(**wanted: Any) -> set[int]:
        live.look(served.recommender.renew)
        answer = served.answer(filters=wanted)
        assert answer is not None
        return {one for one in answer[1] if one != PAD_ID}

    def holders(item_id: int) -> list[str]:
        return [node for node in cluster.nodes if item_id in cluster.held(node, "old")]

    def are_as_at_home() -> bool:
        keys = [item_vector_key("old", item_id) for item_id in (NEW, known)]
        at_home = [cluster.redis.hgetall(key) for key in keys]
        there = [cluster.clients.of(node).hgetall(key) for key in keys for node in cluster.nodes]
        return all(at_home) and at_home == [one for one in there if one]

    before = np.load(site.old.folder / "item_vectors.npy")[7]
    assert cluster.redis.hget(item_vector_key("old", known), "vector") != before.tobytes(), "it moved"
    put_items(site.redis, dataset, ROW, {**ROW, "item_id": known})
    drain(consumer)
    assert found(item_brand=["new brand"]) == {NEW, known}
    assert all(len(holders(item_id)) == 1 for item_id in (NEW, known))
    assert are_as_at_home()
    cluster.move(site.old).run(cluster.nodes)
    served.watch.look()
    assert found(item_brand=["new brand"]) == {NEW, known}
    assert all(len(holders(item_id)) == 1 for item_id in (NEW, known))
    assert are_as_at_home()
    ask_for(site.redis, dataset, TAKE_OUT, str(NEW))
    put_items(site.redis, dataset, {**ROW, "item_id": known, "item_brand": "other brand"})
    drain(consumer)
    assert found(item_brand=["new brand"]) == set()
    assert found(item_brand=["other brand"]) == {known}
    assert holders(NEW) == []


def test_what_comes_while_items_move_is_at_its_new_place_too(
    cluster: Cluster, site: Site, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.move(site.old).run(cluster.nodes[:2])
    monkeypatch.setattr(nodes_module, "CHUNK", 5)
    numbers = [*range(NEW, NEW + 40), *site.old.item_ids[:10]]
    copy = nodes_module.IndexMove._copy_some

    def copied(move: Any, node: str, ids: np.ndarray) -> None:
        if numbers:  # between what was read and what was told
            some = [numbers.pop() for _ in range(min(7, len(numbers)))]
            put_items(site.redis, site.old.dataset, *({**ROW, "item_id": number} for number in some))
            drain(consumer)
        copy(move, node, ids)

    monkeypatch.setattr(nodes_module.IndexMove, "_copy_some", copied)
    cluster.move(site.old).run(cluster.nodes)
    put_items(site.redis, site.old.dataset, *({**ROW, "item_id": number} for number in numbers))
    drain(consumer)
    ids = np.array([*range(NEW, NEW + 40), *site.old.item_ids])
    for node in cluster.nodes:
        expected = set(ids[IndexPlacement(cluster.nodes).holds(node, ids)].tolist())
        assert cluster.held(node, "old") == expected


def test_a_change_waits_for_a_node_that_is_away_and_is_lost_by_none(
    cluster: Cluster, site: Site, consumer: Consumer
) -> None:
    cluster.move(site.old).run(cluster.nodes)
    put_items(site.redis, site.old.dataset, ROW)
    (holder,) = [n for n in cluster.nodes if IndexPlacement(cluster.nodes).holds(n, np.array([NEW]))[0]]
    node: Any = cluster.clients.of(holder)
    node.config_set("maxmemory", 1)
    try:
        with pytest.raises(RedisError, match=f"index node {holder}: "):
            drain(consumer)
        assert not site.redis.exists(item_vector_key("old", NEW)), "nothing is committed"
    finally:
        node.config_set("maxmemory", 0)
    drain(consumer)
    assert NEW in cluster.held(holder, "old")
    assert site.redis.exists(item_vector_key("old", NEW))


def test_a_rebuilt_bundle_gets_what_came_live(cluster: Cluster, site: Site, consumer: Consumer) -> None:
    put_items(site.redis, site.old.dataset, ROW)
    drain(consumer)
    newer = site.trained(site.old, "newer")
    build_index(site.redis, newer.folder, 2, clients=cluster.clients, nodes=cluster.nodes)
    assert sum(NEW in cluster.held(node, "newer") for node in cluster.nodes) == 1
