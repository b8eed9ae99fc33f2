"""`make materialize` on a real Redis and a real Feast: what the files hold is what Redis answers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore
from google.protobuf.timestamp_pb2 import Timestamp
from redis import Redis

from contract import names
from contract.columns import Column, Role
from contract.dataset import DatasetError
from contract.environment import RedisUrl
from contract.feast import event_time_field, feature_key, state_field
from contract.keys import (
    batch_runs_key,
    batch_stored_key,
    bundles_key,
    changed_users_key,
    decode_seen,
    item_card_key,
    materialized_at_key,
    materialized_key,
    removed_users_key,
    seen_key,
    slate_key,
)
from feature_repo import __main__ as command
from feature_repo import materialize as materialized
from feature_repo.computed import ACTIVITY
from feature_repo.connection import VARIABLE, connection_string
from feature_repo.definitions import live_source
from feature_repo.feast_store import SETTINGS_FILE, FeastStore
from feature_repo.later import LaterEvents
from feature_repo.materialize import ENTITIES, Arrived, materialize
from feature_repo.online import OnlineStore
from feature_repo.settle import Settlement
from tests.builders.activity import with_lists
from tests.builders.datasets import DECLARATION, own_tables, quiet, small_world, write_own
from tests.builders.features import load
from tests.builders.full_disk import files_up_to
from tests.builders.redis_server import redis_server
from training.data.prepared import Prepared, dataset_yaml
from training.data.sources import catalog
from training.examples.exposures import RankingTable
from training.features.tables import first_event, write_features


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisUrl]:
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="module")
def redis(url: RedisUrl) -> Redis:
    return Redis(**url.connection_kwargs())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A world, and two bundles: one that reads a column less, and one that reads a column that is gone. Its
    offline store is exact at any instant."""
    var_dir = tmp_path_factory.mktemp("var")
    world = small_world(var_dir)
    exact = world.dataset.activity.model_copy(update={"offline_each_event": True})
    world = replace(world, dataset=world.dataset.model_copy(update={"activity": exact}))
    less = {name: column for name, column in world.dataset.items.items() if name != "item_brand"}
    gone = world.dataset.users | {"user_shoe_size": Column(role=Role.NUMERIC)}
    for bundle, change in (("fewer", {"items": less}), ("gone", {"users": gone})):
        folder = var_dir / "bundles" / bundle
        folder.mkdir(parents=True)
        (folder / "dataset.yaml").write_text(dataset_yaml(world.dataset.model_copy(update=change)))
    return world


@pytest.fixture(scope="module")
def arrived(world: Prepared, url: RedisUrl) -> Arrived:
    """The world, loaded into a new Redis. Tests that load something else come last, one after another."""
    return load(world, url)


def store_of(prepared: Prepared, url: RedisUrl, patch: pytest.MonkeyPatch) -> FeatureStore:
    for name, value in variables(prepared, url).items():
        patch.setenv(name, value)
    return FeatureStore(repo_path=str(SETTINGS_FILE.parent))


def variables(prepared: Prepared, url: RedisUrl) -> dict[str, str]:
    """What Feast's own commands are told."""
    return {
        "SHORTLIST_DATASET": prepared.dataset.name,
        "SHORTLIST_VAR_DIR": str(prepared.folder.parents[1]),
        VARIABLE: connection_string(url),
    }


def by_hand(prepared: Prepared, url: RedisUrl, *command: str) -> str:
    """Runs one of Feast's own commands, gives what it prints."""
    return subprocess.run(
        [Path(sys.executable).with_name("feast"), "--chdir", SETTINGS_FILE.parent, *command],
        check=True,
        env=os.environ | variables(prepared, url),
        capture_output=True,
        text=True,
    ).stdout


def rows_of(redis: Redis, project: str) -> dict[bytes, dict[bytes, bytes]]:
    """Everything that is stored of a data set's users and items, by key."""
    found: dict[bytes, dict[bytes, bytes]] = {}
    for key in redis.scan_iter(b"*_id*" + project.encode()):
        value: Any = redis.hgetall(key)
        found[key] = value
    return found


def counted(redis: Redis, project: str) -> dict[str, int]:
    store = OnlineStore(redis, project)
    return {view: s.count for key, views in ENTITIES for view, s in store.stored(key, views).items()}


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
    missing = feature_key(names.USER_ID, int(world.users[names.USER_ID].iloc[0]), "synthetic")
    redis.rename(missing, "elsewhere")
    assert counted(redis, "synthetic")[names.USER_PROFILE] == len(world.users) - 1
    redis.rename("elsewhere", missing)


def test_feast_reads_online_what_the_files_hold(
    arrived: Arrived, world: Prepared, url: RedisUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert arrived.written == arrived.rows
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


@pytest.mark.usefixtures("arrived")
def test_feast_lists_what_is_live(world: Prepared, url: RedisUrl) -> None:
    listed = by_hand(world, url, "data-sources", "list").splitlines()[1:]
    live = {line.split()[0] for line in listed if "PushSource" in line}
    assert live == {live_source(view) for view in ACTIVITY}
    assert {line.split()[0] for line in listed} == {*names.VIEWS, *live}


def test_training_values_are_those_of_a_point_in_time_join(
    arrived: Arrived, world: Prepared, url: RedisUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = world.dataset
    rows = RankingTable.of(world).exposures(None, arrived.as_of)
    trained = with_lists(rows).assign(event_timestamp=pd.to_datetime(rows.times, utc=True))
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
            truncated = (
                found[: column.max_length] if column.role is Role.LIST and found is not None else found
            )
            assert_same(truncated, [] if absent else value, name)


def test_a_new_snapshot_writes_who_did_something_since(
    arrived: Arrived, world: Prepared, url: RedisUrl, redis: Redis
) -> None:
    before, seen = rows_of(redis, "synthetic"), redis.get(seen_key("synthetic", 1))
    later = world.dataset.model_copy(update={"as_of": arrived.as_of + timedelta(days=1)})
    moved = replace(world, dataset=later)
    again = load(moved, url)
    rows = latest(moved, names.USER_ACTIVITY)
    is_new = rows[names.EVENT_TIMESTAMP] >= arrived.as_of - timedelta(seconds=1)
    assert is_new.sum() > 10
    since = rows[names.EVENT_TIMESTAMP] > arrived.as_of
    assert again.written[names.USER_ACTIVITY] == since.sum() < len(rows)
    assert again.written[names.USER_PROFILE] == again.written[names.ITEM_CATALOG] == 0
    with pytest.MonkeyPatch.context() as patch:
        store = store_of(moved, url, patch)
        users = [{names.USER_ID: int(user)} for user in rows.loc[is_new, names.USER_ID]]
        reference = f"{names.USER_ACTIVITY}:{names.USER_RECENT_ITEM_IDS}"
        answer = store.get_online_features([reference], users).to_dict()
    expected = rows.loc[is_new, names.USER_RECENT_ITEM_IDS]
    assert [list(v) for v in answer[names.USER_RECENT_ITEM_IDS]] == [list(v) for v in expected]
    assert again.rows[names.USER_ACTIVITY] >= arrived.rows[names.USER_ACTIVITY]
    assert len(redis.get(seen_key("synthetic", 1)) or b"") >= len(seen or b"")
    assert load(world, url).written == again.written, "and back, to rows that are older"
    assert rows_of(redis, "synthetic") == before


def test_a_changed_fact_is_the_only_row_written_and_holds_from_now(
    world: Prepared, url: RedisUrl, redis: Redis
) -> None:
    load(world, url)
    before, began = rows_of(redis, "synthetic"), int(time.time())
    items = world.items.copy()
    items.loc[items[names.ITEM_ID] == 5, "item_brand"] = "another brand"
    arrived = load(replace(world, items=items), url)
    assert arrived.written == dict.fromkeys(names.VIEWS, 0) | {names.ITEM_CATALOG: 1}
    after = rows_of(redis, "synthetic")
    key = feature_key(names.ITEM_ID, 5, "synthetic")
    assert {k for k in after if after[k] != before[k]} == {key}
    assert (
        began <= Timestamp.FromString(after[key][event_time_field(names.ITEM_CATALOG)]).seconds <= time.time()
    )
    assert sum(after[key][field] != before[key][field] for field in after[key]) == 2
    with pytest.MonkeyPatch.context() as patch:
        store = store_of(world, url, patch)
        answer = store.get_online_features(["item_catalog:item_brand"], [{names.ITEM_ID: 5}]).to_dict()
    assert answer["item_brand"] == ["another brand"]
    again = load(replace(world, items=items), url)
    assert again.written == dict.fromkeys(names.VIEWS, 0)
    assert rows_of(redis, "synthetic") == after
    assert load(world, url).written[names.ITEM_CATALOG] == 1


def test_users_and_items_that_are_gone_are_deleted_last_and_come_back(
    world: Prepared, url: RedisUrl, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(world, url)
    before = rows_of(redis, "synthetic")
    commands: list[str] = []

    def watch(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            commands.append(name)
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, watched)

    user, item = 7, int(world.items[names.ITEM_ID].iloc[0])
    rows = world.interactions
    fewer = replace(
        world,
        users=world.users[world.users[names.USER_ID] != user],
        items=world.items[world.items[names.ITEM_ID] != item].assign(item_brand="new"),
        interactions=rows[(rows[names.USER_ID] != user) & (rows[names.ITEM_ID] != item)],
    )
    watch(FeastStore, "write")
    watch(OnlineStore, "write_seen")
    watch(Settlement, "delete_rows")
    arrived = load(fewer, url)
    monkeypatch.undo()
    assert arrived.deleted == dict.fromkeys(names.VIEWS, 1)
    keys = {feature_key(names.USER_ID, user, "synthetic"), feature_key(names.ITEM_ID, item, "synthetic")}
    assert set(before) - set(rows_of(redis, "synthetic")) == keys
    assert not redis.exists(seen_key("synthetic", user))
    assert commands.index("delete_rows") > commands.index("write")
    assert {*commands[commands.index("delete_rows") :]} == {"delete_rows"}, "what is gone goes last"
    arrived = load(world, url)
    assert set(rows_of(redis, "synthetic")) == set(before)
    assert redis.exists(seen_key("synthetic", user))


def test_a_user_without_interactions_loses_the_activity_and_keeps_the_profile(
    world: Prepared, url: RedisUrl, redis: Redis
) -> None:
    load(world, url)
    rows, key = world.interactions, feature_key(names.USER_ID, 9, "synthetic")
    before: Any = redis.hgetall(key)
    arrived = load(replace(world, interactions=rows[rows[names.USER_ID] != 9]), url)
    assert arrived.deleted[names.USER_ACTIVITY] == 1
    left: Any = redis.hgetall(key)
    assert event_time_field(names.USER_PROFILE) in left
    assert event_time_field(names.USER_ACTIVITY) not in left
    assert left.items() < before.items()
    assert len(before) - len(left) == 2 + len(world.dataset.user_activity)
    load(world, url)
    assert redis.hgetall(key) == before


def test_a_busy_stream_has_less_to_meet_at_each_try(
    world: Prepared, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = world.dataset.model_copy(update={"name": "busy"})
    later = LaterEvents(redis, dataset, tmp_path, {})
    settlement = Settlement(redis, dataset, {}, {}, later, later.effective())
    states, tried = Settlement._states, []

    def meeting(self: Settlement, entity: str, ids: Sequence[int]) -> Any:
        tried.append(len(ids))
        assert len(tried) < 1000, "it would never end"
        if len(ids) > 10:
            redis.set(seen_key("busy", ids[0]), b"")
        return states(self, entity, ids)

    monkeypatch.setattr(Settlement, "_states", meeting)
    settlement.seen({user: np.array([user + 1]) for user in range(300)})
    stored: Any = redis.mget([seen_key("busy", user) for user in range(300)])
    assert [decode_seen(one).tolist() for one in stored] == [[user + 1] for user in range(300)]
    assert tried[:5] == [200, 100, 50, 25, 12]


def test_a_name_that_ends_another_is_another_data_set(redis: Redis) -> None:
    assert counted(redis, "etic") == dict.fromkeys(names.VIEWS, 0)
    assert counted(redis, "synthetic")[names.ITEM_CATALOG] > 0


@pytest.mark.parametrize("loss", ["emptied", "a row", "a row of another time", "the state", "restored"])
def test_a_redis_that_is_not_what_was_loaded_is_mended(
    world: Prepared, url: RedisUrl, redis: Redis, loss: str
) -> None:
    older = replace(world, items=world.items.assign(item_brand="older"))
    load(older, url)
    backup: dict[bytes, Any] = {key: redis.dump(key) for key in redis.scan_iter()}
    load(world, url)
    expected, key = rows_of(redis, "synthetic"), feature_key(names.ITEM_ID, 5, "synthetic")
    if loss == "emptied":
        redis.flushall()
    elif loss == "a row":
        redis.delete(key)
    elif loss == "a row of another time":
        redis.hset(key, event_time_field(names.ITEM_CATALOG), Timestamp(seconds=2**33).SerializeToString())
    elif loss == "the state":
        redis.delete(materialized_key("synthetic"))
    else:
        for name, dump in backup.items():
            redis.restore(name, 0, dump, replace=True)
    arrived = load(world, url)
    assert rows_of(redis, "synthetic") == expected
    everything, catalogue = sum(arrived.rows.values()), arrived.rows[names.ITEM_CATALOG]
    written = {"a row": 2, "a row of another time": 1, "restored": catalogue}
    assert sum(arrived.written.values()) == written.get(loss, everything)


@pytest.mark.parametrize("step", ["date_back", "write", "write_seen", "delete_rows", "forget_seen"])
def test_a_run_that_dies_takes_nothing_away_and_the_next_one_is_right(
    world: Prepared, url: RedisUrl, redis: Redis, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    load(world, url)
    before = rows_of(redis, "synthetic")
    item = int(world.items[names.ITEM_ID].iloc[0])
    gone, rows = feature_key(names.ITEM_ID, item, "synthetic"), world.interactions.assign(is_click=0)
    changed = replace(
        world,
        items=world.items.iloc[1:].assign(item_brand="half"),
        interactions=rows[rows[names.ITEM_ID] != item],
    )
    owner: Any = {"write": FeastStore, "delete_rows": Settlement}.get(step, OnlineStore)
    real, calls = getattr(owner, step), [0]

    def die(*arguments: Any, **options: Any) -> None:
        calls[0] += 1
        real(*arguments, **options)
        if calls[0] == 2 or step in ("write_seen", "forget_seen"):
            raise KeyboardInterrupt

    monkeypatch.setattr(owner, step, die)
    with pytest.raises(KeyboardInterrupt):
        load(changed, url)
    monkeypatch.undo()
    half = rows_of(redis, "synthetic")
    assert set(half) in (set(before), set(before) - {gone})
    assert all(set(half[key]) == set(before[key]) for key in half), "no row misses a field"
    load(world, url)
    found = rows_of(redis, "synthetic")
    assert without_times(found) == without_times(before)
    load(changed, url)
    assert set(before) - set(rows_of(redis, "synthetic")) == {gone}


def without_times(
    rows: dict[bytes, dict[bytes, bytes]], views: Sequence[str] = names.FACTS
) -> dict[bytes, dict[bytes, bytes]]:
    """Leaves out the times of views; of facts, when they were found to have changed."""
    times = tuple(map(event_time_field, views))
    return {key: {f: v for f, v in row.items() if f not in times} for key, row in rows.items()}


def test_where_feast_fails_redis_stays_as_it_was(
    world: Prepared, url: RedisUrl, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(world, url)
    before = {key: redis.dump(key) for key in redis.scan_iter()}

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no registry")

    monkeypatch.setattr(FeatureStore, "apply", fail)
    with pytest.raises(
        DatasetError, match="Feast could not apply the definitions: RuntimeError: no registry"
    ):
        load(replace(world, items=world.items.assign(item_brand="x")), url)
    monkeypatch.undo()
    assert {key: redis.dump(key) for key in redis.scan_iter()} == before


def test_where_feast_writes_nothing_what_is_served_stays_as_it_was(
    world: Prepared, url: RedisUrl, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(world, url)
    before, user = rows_of(redis, "synthetic"), int(world.users[names.USER_ID].iloc[0])
    seen = {key: redis.get(key) for key in redis.scan_iter(seen_key("synthetic", 0)[:-1] + "*")}

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no row")

    monkeypatch.setattr(FeatureStore, "write_to_online_store", fail)
    rows = world.interactions
    changed = replace(
        world,
        users=world.users[world.users[names.USER_ID] != user],
        items=world.items.assign(item_brand="y"),
        interactions=rows[rows[names.USER_ID] != user],
    )
    with pytest.raises(DatasetError, match=r"Feast could not write \w+: RuntimeError: no row"):
        load(changed, url)
    monkeypatch.undo()
    left = rows_of(redis, "synthetic")
    assert without_times(left, names.VIEWS) == without_times(before, names.VIEWS), "times are not served"
    assert {key: redis.get(key) for key in seen} == seen
    assert all(seen.values())
    load(world, url)
    assert without_times(rows_of(redis, "synthetic")) == without_times(before)


@pytest.mark.parametrize("step", ["apply", "_write_loaded", "note_loaded"])
def test_a_disk_without_room_is_one_line_and_leaves_nothing_half_written(
    world: Prepared,
    url: RedisUrl,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: str,
) -> None:
    load(world, url)
    before, var = rows_of(redis, "synthetic"), world.folder.parents[1]
    files = sorted(var.rglob("*"))
    monkeypatch.setenv("SHORTLIST_VAR_DIR", str(var))
    monkeypatch.setenv("SHORTLIST_REDIS_URL", url.get_secret_value())
    write_features(replace(world, items=world.items.assign(item_brand="x")), "own")
    owner: Any = materialized if step == "_write_loaded" else FeastStore
    real = getattr(owner, step)

    def without_room(*arguments: Any) -> None:
        with files_up_to(500):
            real(*arguments)

    monkeypatch.setattr(owner, step, without_room)
    assert command.main(["materialize", "--data", "own"]) == 1
    monkeypatch.undo()
    error = capsys.readouterr().err
    assert error.startswith((f"{var}: File too large; ", f"{var}: No space left on device; "))
    assert error.count("\n") == 1
    assert sorted(var.rglob("*")) == files
    if step == "apply":
        assert rows_of(redis, "synthetic") == before
    load(world, url)
    assert without_times(rows_of(redis, "synthetic")) == without_times(before)


def test_two_runs_of_a_data_set_do_not_mix(
    world: Prepared, url: RedisUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def within(*_: Any) -> None:
        with pytest.raises(DatasetError, match="synthetic is being materialised already"):
            materialize(world.folder, url, say=quiet)

    monkeypatch.setattr(OnlineStore, "forget_seen", within)
    load(world, url)


def test_the_command_works_by_hand_and_an_emptied_redis_is_filled(
    arrived: Arrived, world: Prepared, url: RedisUrl, redis: Redis
) -> None:
    load(world, url)
    expected = rows_of(redis, "synthetic")
    redis.flushall()
    assert OnlineStore(redis, "synthetic").loaded() is None
    instants = [f"{at:%Y-%m-%dT%H:%M:%S}" for at in (first_event(world), arrived.as_of)]
    by_hand(world, url, "materialize", *instants)
    assert counted(redis, "synthetic") == arrived.rows
    states = [state_field(view) for view in ACTIVITY]
    by_feast = {k: {f: v for f, v in row.items() if f not in states} for k, row in expected.items()}
    assert without_times(rows_of(redis, "synthetic")) == without_times(by_feast)
    load(world, url)
    assert rows_of(redis, "synthetic") == expected


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
    fewer = replace(own, users=own.users.iloc[1:], interactions=own.interactions.query("user_id != 0"))
    assert load(fewer, url).deleted[names.USER_PROFILE] == 1
    assert {key: redis.dump(key) for key in before} == before
    assert load(world, url).written == dict.fromkeys(names.VIEWS, 0)


def test_columns_that_come_change_and_go_leave_no_row_without_the_others(
    url: RedisUrl, redis: Redis, tmp_path: Path
) -> None:
    def prepare(items: dict[str, Any], tables: dict[str, pd.DataFrame]) -> Prepared:
        declaration = DECLARATION | {"name": "shelf", "as_of": "2025-04-01T00:00:00Z", "items": items}
        folder = write_own(tmp_path / "shelf", tables, declaration)
        return catalog.prepare(str(folder), tmp_path, tmp_path / "var", say=quiet)

    first = prepare(DECLARATION["items"], own_tables())
    load(first, url)
    key, before = feature_key(names.ITEM_ID, 101, "shelf"), rows_of(redis, "shelf")
    items = {n: c for n, c in DECLARATION["items"].items() if n != "item_topics"}
    items |= {"item_price_usd": {"role": "categorical", "dtype": "string"}, "item_pages": {"role": "numeric"}}
    tables = own_tables()
    tables["items"] = tables["items"].assign(
        item_price_usd=[f"{i} dollars" for i in range(15)], item_pages=[float(i) for i in range(15)]
    )
    arrived = load(prepare(items, tables), url)
    assert arrived.written[names.ITEM_CATALOG] == 15
    assert arrived.written[names.ITEM_ACTIVITY] == 0
    after = rows_of(redis, "shelf")
    assert set(after) == set(before)
    assert len(set(before[key]) - set(after[key])) == 1, "the topics"
    assert len(set(after[key]) - set(before[key])) == 1, "the pages"
    load(first := prepare(DECLARATION["items"], own_tables()), url)
    assert without_times(rows_of(redis, "shelf")) == without_times(before)
    assert first.dataset.name == "shelf"


def test_rows_that_did_not_arrive_are_an_error_and_are_loaded_again(
    world: Prepared, url: RedisUrl, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(world, url)
    expected = rows_of(redis, "synthetic")
    redis.delete(materialized_key("synthetic"))  # so that everything is written
    evicted = feature_key(names.ITEM_ID, 5, "synthetic")
    forget = OnlineStore.forget_seen

    def evict(store: OnlineStore, rows: Any, write: Any) -> None:
        forget(store, rows, write)
        redis.delete(evicted)

    monkeypatch.setattr(OnlineStore, "forget_seen", evict)
    with pytest.raises(
        DatasetError, match=r"item_catalog: 118 of 119 rows arrived in Redis; look for evictions"
    ):
        load(world, url)
    monkeypatch.undo()
    load(world, url)
    assert rows_of(redis, "synthetic") == expected


def test_the_command_finds_what_was_computed(
    world: Prepared, url: RedisUrl, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load(world, url)
    monkeypatch.setenv("SHORTLIST_VAR_DIR", str(world.folder.parents[1]))
    monkeypatch.setenv("SHORTLIST_REDIS_URL", url.get_secret_value())
    for data in ("own", "synthetic"):  # as DATA was given, and the data set's name
        monkeypatch.setenv("SHORTLIST_DATA", data)
        assert command.main(["materialize"]) == 0
        assert "item_catalog: 119 rows in Redis, 0 written, 0 deleted" in capsys.readouterr().out
    assert command.main(["materialize", "--data", "films"]) == 1
    assert "no features were computed for DATA=films" in capsys.readouterr().err


def test_the_command_prints_no_warning_of_its_libraries(world: Prepared, tmp_path: Path) -> None:
    write_features(world, "synthetic")
    with redis_server(tmp_path) as own:
        run = subprocess.run(
            [sys.executable, "-m", "feature_repo", "materialize", "--data", "synthetic"],
            env=os.environ
            | {
                "SHORTLIST_VAR_DIR": str(world.folder.parents[1]),
                "SHORTLIST_REDIS_URL": own.get_secret_value(),
            },
            capture_output=True,
            text=True,
        )
    assert (run.returncode, run.stderr) == (0, "")


def test_features_of_other_columns_than_are_declared_are_refused(world: Prepared, url: RedisUrl) -> None:
    load(world, url)
    file = world.folder / "dataset.yaml"
    content = file.read_text()
    less = {name: column for name, column in world.dataset.items.items() if name != "item_brand"}
    file.write_text(dataset_yaml(world.dataset.model_copy(update={"items": less})))
    try:
        with pytest.raises(
            DatasetError, match=r"item_catalog.parquet: has the columns .*item_brand.*training"
        ):
            materialize(world.folder, url, say=quiet)
    finally:
        file.write_text(content)


def test_what_was_made_of_a_user_or_an_item_goes_with_its_row(
    world: Prepared, url: RedisUrl, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHORTLIST_BATCH_DIR", str(tmp_path))
    load(world, url)
    users, items = world.users[names.USER_ID].tolist(), world.items[names.ITEM_ID].tolist()
    redis.sadd(batch_stored_key("synthetic"), "run-1", "run-2")
    redis.zadd(batch_runs_key("synthetic"), {"run-1": 1.0})
    redis.zadd(bundles_key("synthetic"), {"one": 1.0, "two": 2.0})
    slates = {slate_key(run, user): user for run in ("run-1", "run-2") for user in users[:2]}
    cards = {item_card_key(bundle, item): item for bundle in ("one", "two") for item in items[:2]}
    for key in (*slates, *cards):
        redis.set(key, b"x")
    rows = world.interactions
    fewer = replace(
        world,
        users=world.users.iloc[1:],
        items=world.items.iloc[1:],
        interactions=rows[(rows[names.USER_ID] != users[0]) & (rows[names.ITEM_ID] != items[0])],
    )
    runs = tmp_path / "synthetic"
    for run in ("run-1", "run-2"):
        (runs / run / "slates").mkdir(parents=True)
        mine = pa.table({names.USER_ID: users[1:3], "item_ids": [items[:2], items[2:4]]})
        pq.write_table(mine, others_file := runs / run / "slates" / "part-00001.parquet")
        both = pa.table({names.USER_ID: users[:2], "item_ids": [items[:2], items[2:4]]})
        pq.write_table(both, others_file.with_name("part-00000.parquet"))
    untouched = others_file.stat().st_mtime_ns
    began = time.time()
    load(fewer, url)
    assert pq.read_table(runs)[names.USER_ID].to_pylist() == [users[1], users[1], users[2]] * 2
    assert pq.read_table(others_file.with_name("part-00000.parquet"))["item_ids"].to_pylist() == [items[2:4]]
    assert others_file.stat().st_mtime_ns == untouched, "a file without them is left alone"
    left = {key for key in (*slates, *cards) if redis.exists(key)}
    assert left == {k for k, user in slates.items() if user == users[1]} | {
        k for k, item in cards.items() if item == items[1]
    }
    stored = redis.get(materialized_at_key("synthetic"))
    assert isinstance(stored, bytes)
    assert began - 1 <= float(stored) <= time.time()
    assert redis.smembers(removed_users_key("synthetic")) == {b"%d" % users[0]}, "told to a run at work"
    load(world, url)
    assert not redis.exists(removed_users_key("synthetic")), "who is there again is no more removed"
    redis.delete(batch_stored_key("synthetic"), batch_runs_key("synthetic"), bundles_key("synthetic"), *left)
    redis.delete(changed_users_key("synthetic"))


def test_a_redis_that_does_not_answer_is_told(world: Prepared) -> None:
    with pytest.raises(DatasetError, match=r"Redis at 127.0.0.1:1: .*SHORTLIST_REDIS_URL"):
        load(world, RedisUrl("redis://127.0.0.1:1"))
