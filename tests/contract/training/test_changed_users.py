"""Who changed is noted for the batch job when features and seen items are loaded, by a real Feast."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from redis import Redis

from contract import names
from contract.environment import RedisUrl
from contract.keys import batch_runs_key, changed_users_key, seen_key
from tests.builders.datasets import small_world
from tests.builders.features import load
from tests.builders.redis_server import redis_server
from training.data.prepared import Prepared


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisUrl]:
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="module")
def redis(url: RedisUrl) -> Redis:
    return Redis(**url.connection_kwargs())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, url: RedisUrl) -> Prepared:
    """The world, loaded once."""
    world = small_world(tmp_path_factory.mktemp("var"))
    load(world, url)
    return world


def noted(world: Prepared, url: RedisUrl, redis: Redis) -> list[int]:
    """Loads a world, gives who was noted as changed since the last call."""
    key = changed_users_key(world.dataset.name)
    redis.delete(key)
    before = time.time()
    load(world, url)
    members: Any = redis.zrange(key, 0, -1, withscores=True)
    found = dict(members)
    assert all(before - 1 <= changed_s <= time.time() + 1 for changed_s in found.values())
    return sorted(map(int, found))


def a_day_later(world: Prepared) -> tuple[Prepared, list[int]]:
    """Gives the world as of a day later, and who did something on that day."""
    clock, day = world.dataset.clock(), timedelta(days=1)
    times = world.interactions[world.dataset.timestamp]
    active = world.interactions.loc[(times >= clock) & (times < clock + day), names.USER_ID]
    dataset = world.dataset.model_copy(update={"as_of": clock + day})
    return replace(world, dataset=dataset), sorted(map(int, active.unique()))


def test_who_did_something_since_is_noted(world: Prepared, url: RedisUrl, redis: Redis) -> None:
    later, active = a_day_later(world)
    assert 10 < len(active) < len(world.users)
    assert noted(later, url, redis) == [], "no batch run ever began"
    noted(world, url, redis)
    redis.zadd(batch_runs_key(world.dataset.name), {"r-1": 1.0})
    assert noted(later, url, redis) == active
    assert noted(later, url, redis) == [], "the same again"
    assert noted(world, url, redis) == active, "and back"


def test_whose_facts_changed_is_noted(world: Prepared, url: RedisUrl, redis: Redis) -> None:
    redis.zadd(batch_runs_key(world.dataset.name), {"r-1": 1.0})
    facts = world.users.copy()
    facts.loc[facts[names.USER_ID].isin([3, 5]), "user_loyalty_days"] += 7
    assert noted(replace(world, users=facts), url, redis) == [3, 5]
    assert noted(world, url, redis) == [3, 5]


def test_who_has_seen_something_else_is_noted(world: Prepared, url: RedisUrl, redis: Redis) -> None:
    redis.zadd(batch_runs_key(world.dataset.name), {"r-1": 1.0})
    noted(world, url, redis)
    redis.set(seen_key(world.dataset.name, 11), b"")
    redis.delete(seen_key(world.dataset.name, 12))
    redis.set(seen_key(world.dataset.name, 987_654_321), b"")
    assert noted(world, url, redis) == [11, 12, 987_654_321]
    assert not redis.exists(seen_key(world.dataset.name, 987_654_321))
    assert redis.exists(seen_key(world.dataset.name, 12))
