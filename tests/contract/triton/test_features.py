"""The contract of a feature store: the same tests for every implementation, and Redis beside Feast itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis import Redis

from contract import names
from contract.bundle import Inputs
from contract.dataset import DATASET_FILE, Dataset
from contract.encoders import NULL_CODE, Encoders, Field, Scale, Vocabulary
from contract.environment import RedisUrl
from contract.feast import feature_field, feature_key
from contract.keys import encode_seen, seen_key
from contract.tensors import PAD_ID
from ensemble.stores import items
from ensemble.stores.features import FeatureStore, MemoryFeatureStore, RedisFeatureStore
from ensemble.stores.items import ItemTable
from tests.builders.feast_store import feast_repository, write_rows, write_world
from tests.builders.triton import DATASET, NOW, make_world

TTL = timedelta(days=30)


class FeatureStoreSuite:
    """What every feature store must do. A subclass gives `store`, and `write`, which puts a row where it
    reads."""

    @pytest.fixture
    def dataset(self, tmp_path: Path) -> Dataset:
        (tmp_path / DATASET_FILE).write_text(
            DATASET.format(name="tiny", ttl_s=f"{{user_activity: {int(TTL.total_seconds())}}}")
        )
        return Dataset.load(tmp_path)

    def write(self, store: Any, view: str, key: int, values: Mapping[str, Any], at: datetime) -> None:
        raise NotImplementedError

    def write_seen(self, store: Any, user_id: int, item_ids: list[int]) -> None:
        raise NotImplementedError

    def test_is_a_feature_store(self, store: FeatureStore) -> None:
        assert isinstance(store, FeatureStore)

    def test_gives_what_was_written_in_the_order_of_the_keys(self, store: FeatureStore) -> None:
        self.write(
            store, names.USER_PROFILE, 7, {"user_age": 3, "user_region": "Å", "user_tags": [5, 6]}, NOW
        )
        self.write(store, names.USER_PROFILE, 8, {"user_age": -4, "user_region": "", "user_tags": [9]}, NOW)
        rows = store.read_users(np.array([8, 7]))
        assert rows.columns["user_age"].tolist() == [-4, 3]
        assert rows.columns["user_region"].tolist() == ["", "Å"]
        null = names.NULL_INT
        assert rows.columns["user_tags"].tolist() == [[9, null, null], [5, 6, null]]
        assert rows.is_found.tolist() == [True, True]

    def test_activity_alone_is_found_and_makes_no_item_stored(self, store: FeatureStore) -> None:
        self.write(store, names.ITEM_ACTIVITY, 5, {names.ITEM_EVENT_COUNT: 1.0}, NOW)
        self.write(store, names.ITEM_CATALOG, 6, {"item_brand": "b", names.IS_AVAILABLE: True}, NOW)
        rows = store.read_items(np.array([5, 6, 404]))
        assert rows.is_found.tolist() == [True, True, False]
        assert rows.is_stored.tolist() == [False, True, False]

    def test_a_key_without_a_row_is_null_everywhere(self, store: FeatureStore, dataset: Dataset) -> None:
        rows = store.read_users(np.array([404]))
        assert not rows.is_found.any()
        assert (rows.columns["user_age"] == names.NULL_INT).all()
        assert rows.columns["user_region"].tolist() == [None]
        assert np.isnan(rows.columns[names.USER_EVENT_COUNT]).all()
        assert rows.columns[names.USER_RECENT_ITEM_IDS].shape == (1, dataset.activity.history_items)
        assert (rows.seen_item_ids == PAD_ID).all()

    def test_a_null_in_a_live_row_is_null(self, store: FeatureStore) -> None:
        values = {"item_category": None, "item_brand": None, "item_tags": None, "item_price": None}
        self.write(store, names.ITEM_CATALOG, 5, {**values, names.IS_AVAILABLE: True}, NOW)
        rows = store.read_items(np.array([5]))
        assert rows.is_found.all()
        assert rows.columns["item_category"].tolist() == [names.NULL_INT]
        assert rows.columns["item_brand"].tolist() == [None]
        assert (rows.columns["item_tags"] == names.NULL_INT).all()
        assert np.isnan(rows.columns["item_price"]).all()
        assert rows.columns[names.IS_AVAILABLE].tolist() == [1]

    def test_a_list_longer_than_its_column_is_cut(self, store: FeatureStore) -> None:
        self.write(store, names.USER_PROFILE, 7, {"user_tags": [1, 2, 3, 4, 5]}, NOW)
        assert store.read_users(np.array([7])).columns["user_tags"].tolist() == [[1, 2, 3]]

    @pytest.mark.parametrize(("age", "is_live"), [(TTL, True), (TTL + timedelta(seconds=1), False)], ids=str)
    def test_a_row_older_than_its_ttl_reads_as_missing(
        self, store: FeatureStore, age: timedelta, is_live: bool
    ) -> None:
        self.write(store, names.USER_ACTIVITY, 7, {names.USER_EVENT_COUNT: 2.0}, NOW - age)
        rows = store.read_users(np.array([7]))
        assert rows.is_found.tolist() == [is_live]
        assert np.isnan(rows.columns[names.USER_EVENT_COUNT][0]) != is_live

    def test_a_view_without_ttl_never_expires(self, store: FeatureStore) -> None:
        self.write(store, names.USER_PROFILE, 7, {"user_age": 3}, NOW - 100 * TTL)
        self.write(store, names.USER_ACTIVITY, 7, {names.USER_EVENT_COUNT: 2.0}, NOW - 100 * TTL)
        rows = store.read_users(np.array([7]))
        assert rows.columns["user_age"].tolist() == [3]
        assert np.isnan(rows.columns[names.USER_EVENT_COUNT]).all()
        assert rows.is_found.all()

    def test_seen_items_come_newest_first_and_bounded(self, store: FeatureStore) -> None:
        self.write_seen(store, 7, list(range(50, 0, -1)))
        self.write_seen(store, 9, [3])
        seen = store.read_users(np.array([7, 8, 9])).seen_item_ids
        assert seen[0].tolist() == list(range(50, 18, -1))
        assert seen[1].tolist() == [PAD_ID] * 32
        assert seen[2].tolist() == [3] + [PAD_ID] * 31


class TestMemory(FeatureStoreSuite):
    @pytest.fixture
    def store(self, dataset: Dataset) -> MemoryFeatureStore:
        return MemoryFeatureStore(dataset, lambda: NOW, max_seen=32)

    def write(self, store: Any, view: str, key: int, values: Mapping[str, Any], at: datetime) -> None:
        store.put(view, key, values, at)

    def write_seen(self, store: Any, user_id: int, item_ids: list[int]) -> None:
        store.seen[user_id] = item_ids


class TestRedis(FeatureStoreSuite):
    """Rows are written by the Feast SDK, from the project's own definitions."""

    @pytest.fixture
    def repository(
        self,
        tmp_path: Path,
        dataset: Dataset,
        redis: Redis,
        redis_url: RedisUrl,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Iterator[Any]:
        del redis  # emptied
        yield from feast_repository(tmp_path, dataset, redis_url, monkeypatch)

    @pytest.fixture
    def store(self, repository: Any, redis: Redis, dataset: Dataset) -> RedisFeatureStore:
        self.feast: Any = repository
        return RedisFeatureStore(redis, dataset, lambda: NOW, max_seen=32)

    def write(self, store: Any, view: str, key: int, values: Mapping[str, Any], at: datetime) -> None:
        write_rows(self.feast, store._users.dataset, view, {key: dict(values)}, at)

    def write_seen(self, store: Any, user_id: int, item_ids: list[int]) -> None:
        store.redis.set(seen_key(store._users.dataset.name, user_id), encode_seen(item_ids))

    def test_equals_get_online_features_on_every_live_and_missing_row(
        self, tmp_path: Path, store: RedisFeatureStore, dataset: Dataset
    ) -> None:
        world = make_world(tmp_path / "bundle", items=40, users=30, seed=3)
        write_world(self.feast, dataset, world)
        users = np.array([*world.user_ids, 9_999])
        items = np.array([*world.item_ids, 9_999])
        for keys, key, service, rows in (
            (users, names.USER_ID, names.USER_SERVICE, store.read_users(users)),
            (items, names.ITEM_ID, names.ITEM_SERVICE, store.read_items(items)),
        ):
            answer = self.feast.get_online_features(
                features=self.feast.get_feature_service(service),
                entity_rows=[{key: k} for k in keys.tolist()],
            ).to_dict()
            assert set(rows.columns) == set(answer) - {key}
            for name, column in rows.columns.items():
                found = [_as_python(row) for row in column]
                # Feast's own SDK gives an empty list for a null one.
                expected = [v or None if isinstance(v, list) else v for v in answer[name]]
                assert found == expected, name
        assert store.read_users(users).is_found.tolist() == [False, *[True] * 29, False]

    def test_an_item_table_decodes_again_only_what_changed(self, store: RedisFeatureStore) -> None:
        ids = np.arange(100, 300)
        table = ItemTable(store, ids, COUNTS, Inputs(numeric=(names.ITEM_EVENT_COUNT,)), (), refresh_s=60)
        self.write(store, names.ITEM_ACTIVITY, 123, {names.ITEM_EVENT_COUNT: 1.0}, NOW - TTL)
        assert table.load()
        before = table.snapshot
        assert not table.load()
        assert table.snapshot is before
        self.write(store, names.ITEM_ACTIVITY, 123, {names.ITEM_EVENT_COUNT: 2.0}, NOW)
        assert table.load()
        row = table.snapshot.rows_of(np.array([123]))
        assert table.snapshot.inputs["candidate_numeric"][row].tolist() == [[2.0]]

    def test_a_catalogue_of_many_chunks_is_read_whole_and_only_changed_items_are_decoded(
        self, store: RedisFeatureStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(items, "CHUNK", 20)
        monkeypatch.setattr(items, "REFRESH_CHUNK", 15)
        ids = np.arange(100, 300)
        for item_id in (100, 149, 150, 299):
            self.write(store, names.ITEM_CATALOG, item_id, {"item_brand": f"brand {item_id}"}, NOW)
        table = ItemTable(
            store, ids, BRANDS, Inputs(categorical=("item_brand",)), ("item_brand",), refresh_s=60
        )
        table.load()
        before = table.snapshot
        rows = before.rows_of(np.array([100, 149, 150, 299, 7]))
        brands = [[3], [4], [5], [6], [NULL_CODE]]
        assert before.inputs["candidate_categorical"][rows].tolist() == brands
        assert not table.load(breathe=True)

        decoded: list[int] = []
        decode = store.decode_items

        def counted(replies: Any) -> Any:
            decoded.append(len(replies))
            return decode(replies)

        monkeypatch.setattr(store, "decode_items", counted)
        self.write(store, names.ITEM_CATALOG, 150, {"item_brand": "brand 100"}, NOW + timedelta(days=1))
        assert table.load()
        assert decoded == [1]
        assert before.inputs["candidate_categorical"][rows].tolist() == brands, (
            "a snapshot in use never changes"
        )
        after = table.snapshot
        assert after.inputs["candidate_categorical"][rows].tolist() == [*brands[:2], [3], *brands[3:]]
        assert after.comparable["item_brand"][rows[2]] == after.comparable["item_brand"][rows[0]]
        assert after.comparable["item_brand"][rows[3]] == before.comparable["item_brand"][rows[3]]

        decoded.clear()
        for item_id in ids.tolist():
            brand = {"item_brand": "brand 299"}
            self.write(store, names.ITEM_CATALOG, item_id, brand, NOW + timedelta(days=2))
        assert table.load(breathe=True)
        assert sum(decoded) == len(ids)
        assert max(decoded) <= 15, "a refresh decodes few at a time, so that requests hardly notice it"
        assert (table.snapshot.inputs["candidate_categorical"][rows[:4]] == 6).all()

    def test_a_column_of_another_type_or_missing_is_null_marked_and_logged_once(
        self, store: RedisFeatureStore, redis: Redis, dataset: Dataset, caplog: pytest.LogCaptureFixture
    ) -> None:
        values = {"user_age": 3, "user_region": "north", "user_tags": [5, 6]}
        for user_id in (7, 8, 9, 10):
            self.write(store, names.USER_PROFILE, user_id, values, NOW)
        keys = {u: feature_key(names.USER_ID, u, dataset.name) for u in (7, 8, 9)}
        age, region, tags = (feature_field(names.USER_PROFILE, name) for name in values)
        stored: Any = redis.hgetall(keys[7])
        redis.hset(keys[7], mapping={age: stored[region], region: stored[tags], tags: stored[age]})
        redis.hdel(keys[8], region)
        redis.hset(keys[9], tags, b"\xff no message")
        for _ in range(2):
            rows = store.read_users(np.array([7, 8, 9, 10]))
            assert rows.columns["user_age"].tolist() == [names.NULL_INT, 3, 3, 3]
            assert rows.columns["user_region"].tolist() == [None, None, "north", "north"]
            is_null = rows.columns["user_tags"][:, 0] == names.NULL_INT
            assert is_null.tolist() == [True, False, True, False]
            assert rows.is_found.all()
            assert rows.is_lacking.tolist() == [True, True, True, False]
        assert len(caplog.messages) == 3, "each column once"
        assert "user_age is string_val in Redis, not what the bundle reads" in caplog.text
        assert not store.read_users(np.array([404])).is_stored.any()

    def test_reads_a_batch_in_one_round_trip(self, store: RedisFeatureStore, redis: Redis) -> None:
        before = redis.info("stats")["total_reads_processed"]
        store.read_users(np.arange(16))
        after = redis.info("stats")["total_reads_processed"]
        assert after - before <= 2, "sixteen users and the INFO itself"


COUNTS = Encoders(
    {names.ITEM_EVENT_COUNT: Field(names.ITEM_EVENT_COUNT, "numeric")},
    {},
    {names.ITEM_EVENT_COUNT: Scale(0, 1)},
)
"""Leaves the count as it is."""
BRANDS = Encoders(
    {"item_brand": Field("item_brand", "categorical", "item_brand", 7)},
    {
        "item_brand": Vocabulary(
            np.array([f"brand {i}" for i in (100, 149, 150, 299)], object), np.arange(3, 7)
        )
    },
    {},
)


def _as_python(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        elements = [e for e in value.tolist() if e not in (names.NULL_INT, None)]
        return elements or None
    if value is None or value == names.NULL_INT or value != value:
        return None
    return value.item() if isinstance(value, np.generic) else value
