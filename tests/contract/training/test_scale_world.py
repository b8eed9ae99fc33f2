"""The growth benchmark's world: its bulk loader writes what Feast would; it is a data set like any other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from redis import Redis

from bench.scale.build import restricted
from bench.scale.load import load
from bench.scale.world import CATEGORIES, make_world
from contract.dataset import DATASET_FILE
from contract.environment import RedisUrl
from contract.feast import feature_key
from contract.keys import seen_prefix
from feature_repo.materialize import ENTITIES
from feature_repo.online import OnlineStore
from tests.builders.features import load as materialized
from tests.builders.redis_server import redis_server
from training.data.files import RawTable
from training.data.prepared import Prepared, dataset_yaml, to_arrow
from training.data.validate import validate
from training.features import tables as features

USERS, ITEMS = 200, 150


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    made = make_world(USERS, ITEMS)
    folder = tmp_path_factory.mktemp("var") / "data" / made.dataset.name
    folder.mkdir(parents=True)
    (folder / DATASET_FILE).write_text(dataset_yaml(made.dataset))
    return replace(made, folder=folder)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    with redis_server(tmp_path) as url:
        yield Redis(**url.connection_kwargs())


def hashes(redis: Redis, project: str) -> dict[bytes, dict[bytes, bytes]]:
    store = OnlineStore(redis, project)
    keys = [
        feature_key(join_key, entity_id, project)
        for join_key, views in ENTITIES
        for entity_id in store.stored(join_key, views)[views[0]].ids.tolist()
    ]
    found: dict[bytes, dict[bytes, bytes]] = {}
    for key in keys:
        value: Any = redis.hgetall(key)
        found[key] = value
    return found


def test_the_bulk_loader_writes_what_feast_writes(
    world: Prepared, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one snapshot: the loader makes the last one for everyone, `make materialize` each one's last busy
    one."""
    monkeypatch.setattr(features, "busy_instants", lambda _, until: pd.DatetimeIndex([until]))
    url = RedisUrl("redis://{host}:{port}".format(**redis.connection_pool.connection_kwargs))
    materialized(world, url)
    project = world.dataset.name
    by_feast, seen_by_feast = (
        hashes(redis, project),
        redis.mget(sorted(redis.keys(f"{seen_prefix(project)}*"))),
    )
    redis.flushall()
    facts = load(world, redis, max_seen=1024)
    assert len(by_feast) == facts["user_id_keys"] + facts["item_id_keys"] == USERS + ITEMS
    assert hashes(redis, project) == by_feast
    assert redis.mget(sorted(redis.keys(f"{seen_prefix(project)}*"))) == seen_by_feast
    assert facts["seen_keys"] == len(seen_by_feast) == USERS


def test_the_same_seed_is_the_same_world_and_it_passes_validation(world: Prepared) -> None:
    again = make_world(USERS, ITEMS)
    tables = {"users": world.users, "items": world.items, "interactions": world.interactions}
    declared = world.dataset.tables
    arrow = {name: to_arrow(frame, declared[name]) for name, frame in tables.items()}
    assert arrow["interactions"].equals(to_arrow(again.interactions, declared["interactions"]))
    raw = {name: RawTable(table, is_text=False) for name, table in arrow.items()}
    validate(world.dataset, raw, world.dataset.clock())


def test_users_find_items_near_their_taste_and_click_those_they_like() -> None:
    world = make_world(3000, 2000)
    log = world.interactions.merge(world.items[["item_id", "item_category"]], on="item_id")
    log = log.merge(world.users[["user_id", "user_interests"]], on="user_id")
    own = log["user_interests"].map(lambda interests: interests[0]) == log["item_category"]
    assert own.mean() > 10 / CATEGORIES
    clicked = (log["is_click"] == 1).to_numpy(bool)
    assert 0.1 < clicked.mean() < 0.9
    assert own[clicked].mean() > own[~clicked].mean()


def test_a_sample_keeps_whole_histories_and_only_its_own_items(world: Prepared) -> None:
    users = np.array([3, 7, 11])
    sample = restricted(world, users, np.array([1, 2]))
    mine = world.interactions[world.interactions["user_id"].isin(users)]
    assert len(sample.interactions) == len(mine)
    assert set(sample.items["item_id"]) == {1, 2, *mine["item_id"]}
    assert restricted(world, users, None).items is world.items
