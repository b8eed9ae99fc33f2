"""A real Redis that is restarted builds its index anew: until every item is in it, answers say so."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from contract.environment import RedisUrl
from contract.errors import StageError
from contract.keys import index_search_key, item_vector_key
from contract.slates import Degradation, degradations
from ensemble.bundle import LoadedBundle
from ensemble.publish.index import build_index, drop_bundle
from ensemble.run.recommender import Recommender, redis_stores
from ensemble.stores import index_watch
from ensemble.stores.client import connect
from tests.builders.redis_server import free_port
from tests.builders.search_redis import running_redis
from tests.builders.triton import World, make_request, make_settings, make_world

ITEMS, WAIT_S = 2000, 30.0


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_watch, "EVERY_S", 0.02)


def graph_world(folder: Path) -> World:
    """Makes a bundle whose index is a graph that takes its time, searched so widely that it finds all."""
    world = make_world(folder, items=ITEMS)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["index"] = {"kind": "HNSW", "m": 32, "ef_construction": 400}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return world


class Served:
    """The chain over one Redis, as the model process holds it."""

    def __init__(self, world: World, url: RedisUrl) -> None:
        settings = make_settings(redis_url=url, redis_timeout_ms=5_000, redis_failures=10**6)
        bundle = LoadedBundle.open(world.folder)
        self.recommender = Recommender(bundle, redis_stores(bundle, settings), settings)
        self.recommender.stores.items.load()
        assert self.recommender.stores.watch is not None
        self.watch = self.recommender.stores.watch

    def answer(self) -> tuple[bool, list[int]] | None:
        """Gives whether one answer is marked, and what was retrieved; None where Redis does not answer."""
        (answer,) = self.recommender.answer([make_request(101)])
        if isinstance(answer, StageError):
            return None
        flags = degradations(int(answer["degraded"][0, 0]))
        return Degradation.PARTIAL_INDEX in flags, answer["retrieved_ids"][0].tolist()

    def is_marked(self) -> bool | None:
        """Tells whether one answer is marked; None where there is none."""
        answer = self.answer()
        return None if answer is None else answer[0]


@pytest.fixture
def served(redis_url: RedisUrl, redis: Redis, tmp_path: Path) -> Iterator[Served]:
    """Gives the chain over a Redis that goes on running, with a small exact index."""
    world = make_world(tmp_path / "bundle")
    build_index(redis, world.folder, 2)
    chain = Served(world, redis_url)
    chain.watch.start()
    yield chain
    chain.watch.stop()


def eventually(check: Callable[[], bool]) -> bool:
    """Asks until it is so, for a minute at most."""
    until = time.monotonic() + WAIT_S
    while not (found := check()) and time.monotonic() < until:
        time.sleep(0.005)
    return found


def looks(redis: Redis) -> int:
    """Counts how often Redis was asked for an index."""
    told: dict[str, Any] = redis.info("commandstats")
    return int(told.get("cmdstat_FT.INFO", {"calls": 0})["calls"])


def test_an_index_that_is_whole_is_not_looked_at_again(served: Served, redis: Redis) -> None:
    assert served.watch.share == 1.0
    before = looks(redis)
    assert [served.is_marked() for _ in range(20)] == [False] * 20
    time.sleep(0.1)
    assert looks(redis) == before


def test_a_lost_connection_is_not_taken_for_a_restart(served: Served, redis: Redis) -> None:
    assert served.is_marked() is False
    redis.client_kill_filter(_type="normal", skipme=False)
    assert served.is_marked() is False


def test_an_index_that_went_missing_is_in_doubt_until_it_is_built_again(
    served: Served, redis: Redis, tmp_path: Path
) -> None:
    drop_bundle(redis, "tiny-1")
    assert served.answer() is None
    assert not served.watch.is_whole
    build_index(redis, tmp_path / "bundle", 2)
    assert eventually(lambda: served.is_marked() is False)


def test_after_a_restart_answers_are_marked_until_every_item_is_indexed_again(tmp_path: Path) -> None:
    world, port, folder = graph_world(tmp_path / "bundle"), free_port(), tmp_path / "redis"
    folder.mkdir()
    with running_redis(folder, port=port, is_kept=True) as url:
        redis = connect(url, 60_000)
        build_index(redis, world.folder, 2)
        redis.set(index_search_key("tiny-1"), json.dumps({"beyond": ITEMS}))
        served = Served(world, url)
        served.watch.start()
        full = served.answer()
        assert full is not None
        assert not full[0]
    with running_redis(folder, port=port, is_kept=True):
        answers: list[tuple[bool, list[int]]] = []

        def is_well() -> bool:
            answer = served.answer()
            if answer is not None:
                answers.append(answer)
            return answer is not None and not answer[0]

        assert eventually(is_well)
        assert answers[0][0], "the first one cannot know yet that nothing is missing"
        assert answers[-1] == full, "what is not marked lacks nothing"
        assert all(is_marked for is_marked, _ in answers[:-1])
    served.watch.stop()


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
        served.watch.start()
        kept: dict[Any, Any] = redis.hgetall(key)
        redis.delete(key)
    with running_redis(folder, port=port, is_kept=True):
        assert eventually(lambda: served.is_marked() is True and served.watch.found == 59)
        assert served.watch.share == pytest.approx(59 / 60)
        before = looks(redis)
        assert eventually(lambda: looks(redis) >= before + 3)
        assert served.is_marked() is True
        redis.hset(key, mapping=kept)
        assert eventually(lambda: served.is_marked() is False)
        assert served.watch.share == 1.0
    served.watch.stop()
