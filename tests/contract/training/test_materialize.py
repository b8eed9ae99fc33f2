"""`make materialize` on a real Redis and a real Feast: what the files hold is what Redis answers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore
from redis import Redis

from contract import names
from contract.columns import Column, Role
from contract.dataset import DatasetError
from contract.environment import RedisUrl
from contract.keys import decode_seen, seen_key
from feature_repo.connection import VARIABLE, connection_string
from feature_repo.materialize import Arrived, Feast, check_arrival, materialize
from feature_repo.online import OnlineStore
from tests.builders.datasets import DECLARATION, own_tables, quiet, small_world, write_own
from tests.builders.redis_server import redis_server
from training.data.prepared import Prepared, dataset_yaml
from training.data.sources import catalog
from training.examples.exposures import RankingTable
from training.features.tables import feature_tables, first_event


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisUrl]:
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="module")
def redis(url: RedisUrl) -> Redis:
    return Redis(**url.connection_kwargs())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A world, and two bundles: one that reads a column less, and one that reads a column that is gone."""
    var_dir = tmp_path_factory.mktemp("var")
    world = small_world(var_dir)
    less = {name: column for name, column in world.dataset.items.items() if name != "item_brand"}
    gone = world.dataset.users | {"user_shoe_size": Column(role=Role.NUMERIC)}
    for bundle, change in (("fewer", {"items": less}), ("gone", {"users": gone})):
        folder = var_dir / "bundles" / bundle
        folder.mkdir(parents=True)
        (folder / "dataset.yaml").write_text(dataset_yaml(world.dataset.model_copy(update=change)))
    return world


def load(prepared: Prepared, url: RedisUrl) -> Arrived:
    return materialize(prepared, url, say=quiet, is_quiet=True)


@pytest.fixture(scope="module")
def arrived(world: Prepared, url: RedisUrl) -> Arrived:
    """The world, loaded into a new Redis. Tests that load something else come last, one after another."""
    return load(world, url)


def store_of(prepared: Prepared, url: RedisUrl, patch: pytest.MonkeyPatch) -> FeatureStore:
    feast = Feast(prepared, url)
    for name, value in feast.variables.items():
        patch.setenv(name, value)
    patch.setenv(VARIABLE, connection_string(url))
    return FeatureStore(repo_path=str(Path(__file__).parents[3] / "feature_repo"))


def latest(prepared: Prepared, view: str) -> pd.DataFrame:
    """The last row of every key of a view, from the file that Feast reads."""
    frame = pq.read_table(prepared.folder / "features" / f"{view}.parquet").to_pandas()
    key = frame.columns[0]
    return frame.sort_values([key, names.EVENT_TIMESTAMP]).groupby(key, as_index=False).tail(1)


def assert_same(found: Any, expected: Any, name: str) -> None:
    """Compares one value, null equal to null; Feast gives numbers as it likes."""
    is_list = isinstance(expected, (list, np.ndarray))
    if is_list:
        assert list(found if found is not None else []) == list(expected), name
    elif pd.isna(expected):
        assert found is None or pd.isna(found), name
    elif isinstance(expected, (float, np.floating)):
        assert found == pytest.approx(expected, rel=1e-6), name
    else:
        assert found == expected, name


def test_rows_that_arrived_are_counted_in_redis(arrived: Arrived, world: Prepared, redis: Redis) -> None:
    assert arrived.rows == {view: len(latest(world, view)) for view in names.VIEWS}
    assert arrived.rows[names.USER_PROFILE] == len(world.users)
    keys = set(OnlineStore(redis).keys("synthetic", names.USER_ID))
    missing = keys.pop()
    redis.rename(missing, "elsewhere")
    assert OnlineStore(redis).rows("synthetic")[names.USER_PROFILE] == len(world.users) - 1
    redis.rename("elsewhere", missing)


def test_feast_reads_online_what_the_files_hold(
    arrived: Arrived, world: Prepared, url: RedisUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert arrived.command == "materialize"
    store = store_of(world, url, monkeypatch)
    for key, views, service in (
        (names.USER_ID, names.USER_VIEWS, names.USER_SERVICE),
        (names.ITEM_ID, names.ITEM_VIEWS, names.ITEM_SERVICE),
    ):
        for view in views:
            expected = latest(world, view).head(60)
            rows = [{key: int(value)} for value in expected[key]]
            answer = store.get_online_features(store.get_feature_service(service), rows).to_dict()
            for name in world.dataset.view_columns(view):
                for found, value in zip(answer[name], expected[name], strict=True):
                    assert_same(found, value, name)


def test_a_bundle_has_a_service_of_what_it_reads(
    arrived: Arrived, world: Prepared, url: RedisUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert arrived.rows
    store = store_of(world, url, monkeypatch)
    assert {s.name for s in store.list_feature_services()} == {
        "user_features",
        "item_features",
        "bundle_fewer",
    }
    reads = {
        feature.name
        for projection in store.get_feature_service("bundle_fewer").feature_view_projections
        for feature in projection.features
    }
    stored = {name for view in names.VIEWS for name in world.dataset.view_columns(view)}
    assert reads == stored - {"item_brand"}


def test_training_values_are_those_of_a_point_in_time_join(
    arrived: Arrived, world: Prepared, url: RedisUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = world.dataset
    rows = RankingTable.of(world, arrived.as_of).exposures(None, arrived.as_of)
    trained = rows.frame.assign(event_timestamp=pd.to_datetime(rows.times, utc=True))
    trained = trained.drop_duplicates([names.USER_ID, names.EVENT_TIMESTAMP]).sample(1_500, random_state=0)
    order = [names.USER_ID, names.ITEM_ID, names.EVENT_TIMESTAMP]
    store = store_of(world, url, monkeypatch)
    services = [store.get_feature_service(name) for name in (names.USER_SERVICE, names.ITEM_SERVICE)]
    features = [
        f"{p.name}:{f.name}" for s in services for p in s.feature_view_projections for f in p.features
    ]
    asked = trained[order].sort_values(names.EVENT_TIMESTAMP)
    joined = store.get_historical_features(entity_df=asked, features=features).to_df()

    # Feast's file store leaves out a row whose user or item has no value yet; ours is null there.
    is_told = pd.MultiIndex.from_frame(trained[order]).isin(pd.MultiIndex.from_frame(joined[order]))
    has_none_yet = trained[[names.USER_EVENT_COUNT, names.ITEM_EVENT_COUNT]].isna().any(axis=1)
    assert has_none_yet[~is_told].all()
    joined, expected = joined.sort_values(order), trained[is_told].sort_values(order)
    assert len(joined) == len(expected) >= 1_000
    columns = dataset.user_profile | dataset.user_activity | dataset.item_catalog | dataset.item_activity
    for name, column in columns.items():
        for found, value in zip(joined[name], expected[name], strict=True):
            absent = column.role is Role.LIST and not isinstance(value, (list, np.ndarray))
            assert_same(found, [] if absent else value, name)


def test_incremental_picks_up_a_new_snapshot(
    arrived: Arrived, world: Prepared, url: RedisUrl, redis: Redis
) -> None:
    assert arrived.command == "materialize"
    before = redis.get(seen_key("synthetic", 1))
    later = world.dataset.model_copy(update={"as_of": arrived.as_of + timedelta(days=1)})
    moved = replace(world, dataset=later)
    again = load(moved, url)
    assert again.command == "materialize-incremental"
    rows = latest(moved, names.USER_ACTIVITY)
    is_new = rows[names.EVENT_TIMESTAMP] >= arrived.as_of - timedelta(seconds=1)
    assert is_new.sum() > 10
    with pytest.MonkeyPatch.context() as patch:
        store = store_of(moved, url, patch)
        users = [{names.USER_ID: int(user)} for user in rows.loc[is_new, names.USER_ID]]
        reference = f"{names.USER_ACTIVITY}:{names.USER_RECENT_ITEM_IDS}"
        answer = store.get_online_features([reference], users).to_dict()
    expected = rows.loc[is_new, names.USER_RECENT_ITEM_IDS]
    assert [list(v) for v in answer[names.USER_RECENT_ITEM_IDS]] == [list(v) for v in expected]
    assert again.rows[names.USER_ACTIVITY] >= arrived.rows[names.USER_ACTIVITY]
    assert len(redis.get(seen_key("synthetic", 1)) or b"") >= len(before or b"")


def test_facts_that_changed_are_loaded_again(world: Prepared, url: RedisUrl, redis: Redis) -> None:
    changed = replace(world, items=world.items.assign(item_brand="another brand"))
    assert load(changed, url).command == "materialize"
    with pytest.MonkeyPatch.context() as patch:
        store = store_of(changed, url, patch)
        answer = store.get_online_features(["item_catalog:item_brand"], [{names.ITEM_ID: 5}]).to_dict()
    assert answer["item_brand"] == ["another brand"]
    assert redis.exists(seen_key("synthetic", 1))


def test_one_name_at_the_end_of_another_is_another_data_set(redis: Redis) -> None:
    before = OnlineStore(redis).rows("synthetic")
    assert OnlineStore(redis).forget("etic") == 0
    assert OnlineStore(redis).rows("synthetic") == before


def test_the_command_works_by_hand_and_an_emptied_redis_is_filled(
    arrived: Arrived, world: Prepared, url: RedisUrl, redis: Redis
) -> None:
    redis.flushall()
    assert OnlineStore(redis).loaded("synthetic") is None
    command = Feast(world, url).by_hand(
        "materialize", f"{first_event(world):%Y-%m-%dT%H:%M:%S}", f"{arrived.as_of:%Y-%m-%dT%H:%M:%S}"
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    given = {"PATH": path, "SHORTLIST_REDIS_URL": url.get_secret_value()}
    subprocess.run(command, shell=True, check=True, env=os.environ | given, capture_output=True)
    assert OnlineStore(redis).rows("synthetic") == arrived.rows


def test_two_data_sets_live_in_one_redis(
    world: Prepared, url: RedisUrl, redis: Redis, tmp_path: Path
) -> None:
    load(world, url)
    before = {key: redis.dump(key) for key in redis.scan_iter()}
    declaration = DECLARATION | {
        "name": "etic",
        "as_of": "2025-04-01T00:00:00Z",
        "ttl_s": {"user_activity": 86_400},
    }
    folder = write_own(tmp_path / "own", own_tables(), declaration)
    own = catalog.prepare(str(folder), tmp_path, tmp_path / "var", say=quiet)
    assert load(own, url).rows == {
        names.USER_PROFILE: 20,
        names.USER_ACTIVITY: 20,
        names.ITEM_CATALOG: 15,
        names.ITEM_ACTIVITY: 15,
    }
    assert {key: redis.dump(key) for key in before} == before
    of_own = [key for key in set(redis.scan_iter()) - set(before) if not key.endswith(b"etic")]
    assert sorted(of_own) == sorted(seen_key("etic", user).encode() for user in range(20))
    newest_first = own.interactions.iloc[::-1]
    mine = newest_first.loc[newest_first[names.USER_ID] == 3, names.ITEM_ID].drop_duplicates()
    stored = redis.get(seen_key("etic", 3))
    assert isinstance(stored, bytes)
    assert decode_seen(stored).tolist() == mine.tolist()
    with pytest.MonkeyPatch.context() as patch:
        store = store_of(own, url, patch)
        assert store.get_feature_view(names.USER_ACTIVITY).ttl == timedelta(days=1)
        assert not store.get_feature_view(names.ITEM_CATALOG).ttl


def test_rows_that_did_not_arrive_are_an_error_and_are_loaded_again(world: Prepared, url: RedisUrl) -> None:
    feast = Feast(world, url)
    load(world, url)
    tables = feature_tables(world, world.dataset.clock())
    complete = {view: table.column(0).value_counts() for view, table in tables.items()}
    rows = {view: len(counts) for view, counts in complete.items()}
    check_arrival(rows, tables, feast)
    assert feast.materialized_until() is not None
    with pytest.raises(
        DatasetError, match=r"item_catalog: 118 of 119 rows arrived in Redis; look for evictions"
    ):
        check_arrival(rows | {names.ITEM_CATALOG: 118}, tables, feast)
    assert feast.materialized_until() is None


def test_a_redis_that_does_not_answer_is_told(world: Prepared) -> None:
    with pytest.raises(DatasetError, match=r"Redis does not answer at 127.0.0.1:1: .*SHORTLIST_REDIS_URL"):
        load(world, RedisUrl("redis://127.0.0.1:1"))
