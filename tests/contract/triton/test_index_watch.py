"""A real Redis that is restarted builds its index anew: until every item is in it, answers say so."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from contract.environment import RedisUrl
from contract.errors import StageError
from contract.keys import index_search_key, item_vector_key
from ensemble.publish.index import build_index, drop_bundle
from ensemble.stores.client import connect
from tests.builders.index_nodes import Served
from tests.builders.ports import free_port
from tests.builders.search_redis import running_redis
from tests.builders.triton import World, make_request, make_world

ITEMS, WAIT_S = 2000, 30.0


def graph_world(folder: Path) -> World:
    """Makes a bundle whose index is a graph that takes its time, searched so widely that it finds all."""
    world = make_world(folder, items=ITEMS)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["index"] = {"kind": "HNSW", "m": 32, "ef_construction": 400}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return world


@pytest.fixture
def served(redis_url: RedisUrl, redis: Redis, tmp_path: Path) -> Served:
    """Gives the chain over a Redis that goes on running, with a small exact index."""
    world = make_world(tmp_path / "bundle")
    build_index(redis, world.folder, 2)
    chain = Served(world, redis_url)
    chain.start()
    return chain


def eventually(check: Callable[[], bool]) -> bool:
    """Asks until it is so, for a minute at most."""
    until = time.monotonic() + WAIT_S
    while not (found := check()) and time.monotonic() < until:
        time.sleep(0.005)
    return found


def looks(redis: Redis) -> int:
    """Counts how often Redis was asked for an index."""
    return calls(redis, "FT.INFO")


def calls(redis: Redis, command: str) -> int:
    """Counts how often Redis has run a command."""
    stats: dict[str, Any] = redis.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


def test_an_index_that_is_whole_is_not_looked_at_again(served: Served, redis: Redis) -> None:
    assert served.watch.share == 1.0
    before = looks(redis)
    for _ in range(20):
        served.watch.look()
        assert served.is_marked() is False
    assert looks(redis) == before


def test_a_new_connection_may_lead_to_a_restarted_redis_and_is_looked_at_once(
    served: Served, redis: Redis
) -> None:
    assert served.is_marked() is False
    before = looks(redis)
    redis.client_kill_filter(_type="normal", skipme=False)
    assert served.is_marked() is True
    assert eventually(lambda: served.looked_and_marked() is False)
    assert looks(redis) == before + 1


def test_a_look_at_the_redis_of_before_a_new_connection_proves_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes: Any = served.watch
    ask: Any = nodes.watch.redis.execute_command

    def asked_while_it_is_restarted(*command: str) -> Any:
        answer = ask(*command)
        served.watch.doubt()
        return answer

    served.watch.doubt()
    monkeypatch.setattr(nodes.watch.redis, "execute_command", asked_while_it_is_restarted)
    assert eventually(lambda: served.looked_and_marked() is not None)
    assert served.looked_and_marked() is True
    monkeypatch.undo()
    assert eventually(lambda: served.looked_and_marked() is False)


def test_an_index_that_went_missing_is_in_doubt_until_it_is_built_again(
    redis_url: RedisUrl, redis: Redis, tmp_path: Path
) -> None:
    world = make_world(tmp_path / "bundle")
    build_index(redis, world.folder, 2)
    served = Served(world, redis_url, head_items=0)
    served.start()
    assert served.is_marked() is False
    drop_bundle(redis, "tiny-1")
    assert served.answer() is None
    assert not served.watch.is_whole
    build_index(redis, tmp_path / "bundle", 2)
    assert eventually(lambda: served.looked_and_marked() is False)


def test_a_small_catalogue_is_searched_in_the_process_and_the_index_for_filters_alone(
    served: Served, redis: Redis
) -> None:
    before = served.answer()
    searches = calls(redis, "FT.SEARCH")
    assert served.answer() == before
    assert calls(redis, "FT.SEARCH") == searches
    wanted = make_request(101, filters={"item_category": [1]})
    (answer,) = served.recommender.answer([wanted])
    assert not isinstance(answer, StageError)
    assert calls(redis, "FT.SEARCH") == searches + 1
    drop_bundle(redis, "tiny-1")
    assert served.answer() == before
    (answer,) = served.recommender.answer([wanted])
    assert isinstance(answer, StageError)
    assert not served.watch.is_whole


def test_after_a_restart_answers_are_marked_until_every_item_is_indexed_again(tmp_path: Path) -> None:
    world, port, folder = graph_world(tmp_path / "bundle"), free_port(), tmp_path / "redis"
    folder.mkdir()
    with running_redis(folder, port=port, is_kept=True) as url:
        redis = connect(url, 60_000)
        build_index(redis, world.folder, 2)
        redis.set(index_search_key("tiny-1"), json.dumps({"beyond": ITEMS}))
        served = Served(world, url, head_items=0)
        served.start()
        full = served.answer()
        assert full is not None
        assert not full[0]
    with running_redis(folder, port=port, is_kept=True):
        answers: list[tuple[bool, list[int]]] = []

        def is_well() -> bool:
            answer = served.answer()
            served.watch.look()
            if answer is not None:
                answers.append(answer)
            return answer is not None and not answer[0]

        assert eventually(is_well)
        assert answers[0][0], "the first one cannot know yet that nothing is missing"
        assert answers[-1] == full, "what is not marked lacks nothing"
        assert all(is_marked for is_marked, _ in answers[:-1])


def test_an_item_that_is_missing_after_a_restart_keeps_answers_marked_until_it_is_back(
    tmp_path: Path,
) -> None:
    world, port, folder = make_world(tmp_path / "bundle", items=60), free_port(), tmp_path / "redis"
    folder.mkdir()
    key = item_vector_key("tiny-1", world.item_ids[0])
    with running_redis(folder, port=port, is_kept=True) as url:
        redis = connect(url, 5_000)
        build_index(redis, world.folder, 2)
        served = Served(world, url)
        served.start()
        fields: dict[Any, Any] = redis.hgetall(key)
        redis.delete(key)
    with running_redis(folder, port=port, is_kept=True):
        assert eventually(lambda: served.looked_and_marked() is True and served.watch.found == 59)
        assert served.watch.share == pytest.approx(59 / 60)
        before = looks(redis)
        assert eventually(lambda: served.looked_and_marked() is True and looks(redis) >= before + 3)
        assert served.is_marked() is True
        redis.hset(key, mapping=fields)
        assert eventually(lambda: served.looked_and_marked() is False)
        assert served.watch.share == 1.0


def test_answers_are_marked_while_redis_evicts_keys(served: Served, redis: Redis) -> None:
    assert served.looked_and_marked() is False
    try:
        redis.mset({f"filler:{i}": b"x" * 4096 for i in range(1000)})
        redis.config_set("maxmemory-policy", "allkeys-lru")
        redis.config_set("maxmemory", redis.info("memory")["used_memory"] - 2**20)
        redis.set("more", b"x")
        redis.config_set("maxmemory", 0)
        assert redis.info("stats")["evicted_keys"] > 0
        assert served.looked_and_marked() is True
        redis.config_set("maxmemory-policy", "noeviction")
        drop_bundle(redis, "tiny-1")
        redis.zrem("bundles:tiny", "tiny-1")
        build_index(redis, served.recommender.bundle.folder, 2)
        served.watch.doubt()
        assert eventually(lambda: served.looked_and_marked() is False), "mended"
    finally:
        redis.config_set("maxmemory", 0)
        redis.config_set("maxmemory-policy", "noeviction")
