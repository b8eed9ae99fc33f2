"""The levels of embeddings, each by the same suite; what is of one alone; a damaged row, a full disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from redis import Redis

from bench.embeddings.policies import OtherCache
from contract.keys import embedding_rows_key
from ensemble.stores.embeddings.cache import WAYS, RowCache
from ensemble.stores.embeddings.disk import KEPT_S, ChangedRows, DiskRows, EmbeddingDisk, TableRows
from ensemble.stores.embeddings.level import EmbeddingError, Level, RowKeys, pack_rows
from ensemble.stores.embeddings.redis import LEFT, PARTITIONS, RedisRows
from tests.builders.full_disk import files_up_to
from tests.contract.triton.level_suite import CAPACITY, LevelSuite, W, some_rows

IDS = np.arange(100)


def table_of(count: int = len(IDS)) -> TableRows:
    """Gives the ids from 0 on, the codes of their rows backwards."""
    codes = np.arange(count)[::-1].copy() + 3
    return TableRows(np.arange(count), codes, some_rows(count + 3))


def open_disk(folder: Path) -> tuple[EmbeddingDisk, DiskRows]:
    """Builds a table of the users 0 to 99."""
    EmbeddingDisk.build(folder, {"user_id": table_of()}, "a")
    disk = EmbeddingDisk(folder)
    return disk, disk.rows_of("user_id", W)


class TestRowCache(LevelSuite):
    @pytest.fixture
    def level(self) -> Level:
        return RowCache(W, CAPACITY)

    def test_holds_no_more_than_it_may(self) -> None:
        cache = RowCache(W, 1000)
        assert cache.capacity == 512, "a power of two of sets, no more than was asked for"
        for start in range(0, 4000, 500):
            cache.write(RowKeys.trained(np.arange(start, start + 500)), some_rows(500))
        assert len(cache) <= cache.capacity

    def test_many_rows_of_one_set_leave_as_many_as_it_has_ways(self) -> None:
        cache = RowCache(W, WAYS)
        keys = RowKeys.trained(np.arange(50))
        cache.write(keys, some_rows(50))
        found = cache.read(keys)
        assert found.is_found.sum() == len(cache) == WAYS
        np.testing.assert_array_equal(found.rows[found.is_found], some_rows(50)[found.is_found])

    def test_what_is_asked_for_often_stays_where_others_come_once_sooner_than_by_age(self) -> None:
        often, stay = RowKeys.trained(np.arange(200)), {}
        for evicts in ("rarest", "oldest"):
            rng = np.random.default_rng(0)
            cache = RowCache(W, 512) if evicts == "rarest" else OtherCache(W, 512, evicts)
            for start in range(1000, 40_000, 400):
                for keys in (often, RowKeys.trained(rng.permutation(400) + start)):
                    missing = np.flatnonzero(~cache.read(keys).is_found)
                    cache.write(keys.some(missing), some_rows(len(missing)))
            stay[evicts] = float(cache.read(often).is_found.mean())
        assert stay["rarest"] > stay["oldest"] + 0.1

    def test_a_row_of_a_later_update_takes_the_place_of_the_former(self) -> None:
        cache, keys = RowCache(W, 512), RowKeys.trained(np.array([4]))
        later = RowKeys(keys.ids, np.array([2], dtype=np.int32))
        cache.write(keys, some_rows(1))
        cache.write(later, some_rows(1, seed=1))
        assert len(cache) == 1
        assert not cache.read(keys).is_found.any()
        np.testing.assert_array_equal(cache.read(later).rows, some_rows(1, seed=1))


class TestRedisRows(LevelSuite):
    @pytest.fixture
    def level(self, redis: Redis) -> Level:
        return RedisRows(redis, "tiny-1", "user_id", W, CAPACITY)

    def test_a_full_one_lets_go_of_a_fifth(self, redis: Redis) -> None:
        rows = RedisRows(redis, "tiny-1", "user_id", W, 800)
        for start in range(0, 4000, 500):
            rows.write(RowKeys.trained(np.arange(start, start + 500)), some_rows(500))
        held = [redis.hlen(embedding_rows_key("tiny-1", "user_id", at)) for at in range(PARTITIONS)]
        assert max(held) <= 100
        assert min(held) >= int(LEFT * 100)

    def test_bundles_and_tables_are_kept_apart(self, redis: Redis, level: Level) -> None:
        keys = RowKeys.trained(IDS)
        level.write(keys, some_rows(100))
        for bundle, column in (("tiny-2", "user_id"), ("tiny-1", "item_id")):
            assert not RedisRows(redis, bundle, column, W, CAPACITY).read(keys).is_found.any()

    @pytest.mark.parametrize("damaged", [b"", b"short", bytes(4 * (W + 1))])
    def test_a_damaged_row_is_told_from_none(self, redis: Redis, level: Level, damaged: bytes) -> None:
        keys = RowKeys.trained(np.array([1, 2, 3]))
        level.write(keys.some(slice(0, 2)), some_rows(2))
        for at in range(PARTITIONS):
            key = embedding_rows_key("tiny-1", "user_id", at)
            if redis.hexists(key, keys.packed()[1]):
                redis.hset(key, keys.packed()[1], damaged)
        found = level.read(keys)
        assert found.is_found.tolist() == [True, False, False]
        assert found.is_damaged.tolist() == [False, True, False]


class TestDiskRows(LevelSuite):
    @pytest.fixture
    def level(self, tmp_path: Path) -> Level:
        table = TableRows(np.empty(0, np.int64), np.empty(0, np.int64), some_rows(3))
        EmbeddingDisk.build(tmp_path / "disk", {"user_id": table}, "a")
        return EmbeddingDisk(tmp_path / "disk").rows_of("user_id", W)


def test_the_disk_has_every_row_of_the_tables_it_was_built_from(tmp_path: Path) -> None:
    _, rows = open_disk(tmp_path / "disk")
    found = rows.read(RowKeys.trained(IDS[::-1]))
    assert found.is_found.all()
    np.testing.assert_array_equal(found.rows, some_rows(103)[3:])


def test_what_was_built_of_the_same_stays_and_what_was_not_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    assert EmbeddingDisk.build(folder, {"user_id": table_of()}, "a")
    assert not EmbeddingDisk.build(folder, {"user_id": table_of()}, "a")
    assert EmbeddingDisk.build(folder, {"user_id": table_of(7)}, "b")
    found = EmbeddingDisk(folder).rows_of("user_id", W).read(RowKeys.trained(IDS))
    assert found.is_found.sum() == 7
    assert [path.name for path in tmp_path.iterdir()] == ["disk"]


def test_a_row_whose_bytes_changed_is_damaged_and_one_of_another_key_too(tmp_path: Path) -> None:
    disk, rows = open_disk(tmp_path / "disk")
    keys = RowKeys.trained(np.array([1, 2, 3]))
    packed = pack_rows(keys, some_rows(3))
    changed = bytearray(packed[0])
    changed[5] ^= 1
    disk.put(disk._tables["user_id"], [(keys.packed()[0], bytes(changed)), (keys.packed()[1], packed[2])])
    found = rows.read(keys)
    assert found.is_damaged.tolist() == [True, True, False]
    assert found.is_found.tolist() == [False, False, True]


def test_a_disk_that_is_full_is_told_in_one_line_and_nothing_half_written_stays(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with files_up_to(100_000), pytest.raises(EmbeddingError, match="nothing half-written is left") as raised:
        EmbeddingDisk.build(folder, {"user_id": table_of(20_000)}, "a")
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(EmbeddingError, match=r"Not a directory.* set SHORTLIST_EMBEDDINGS__FOLDER") as raised:
        EmbeddingDisk.build(tmp_path / "file" / "disk", {"user_id": table_of()}, "a")
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_update_that_has_no_room_leaves_what_was_there(tmp_path: Path) -> None:
    disk, rows = open_disk(tmp_path / "disk")
    ids = np.arange(20_000)
    keys = RowKeys(ids, np.ones(len(ids), dtype=np.int32))
    update = ChangedRows("user_id", keys, np.zeros(len(ids), dtype=np.int32), some_rows(len(ids)))
    with files_up_to(100_000), pytest.raises(EmbeddingError):
        disk.apply(1, [update], 0.0)
    assert disk.version == 0
    assert not rows.read(keys).is_found.any()
    assert rows.read(RowKeys.trained(IDS)).is_found.all()
    disk.apply(1, [update], 0.0)
    assert disk.version == 1
    assert rows.read(keys).is_found.all()


def test_a_folder_that_holds_nothing_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EmbeddingError, match="run `make export`"):
        EmbeddingDisk(tmp_path)
    (tmp_path / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(EmbeddingError):
        EmbeddingDisk(tmp_path)


def test_rows_that_later_updates_took_the_place_of_are_let_go(tmp_path: Path) -> None:
    disk, rows = open_disk(tmp_path / "disk")
    before = np.zeros(2, dtype=np.int32)
    ids = np.array([1, 2])
    for version in range(1, 7):
        keys = RowKeys(ids, np.full(2, version, dtype=np.int32))
        update = ChangedRows("user_id", keys, before, some_rows(2, seed=version))
        disk.apply(version, [update], version * KEPT_S / 3)
        before = keys.stamps
    there = [bool(rows.read(RowKeys(ids, np.full(2, v, np.int32))).is_found.all()) for v in range(7)]
    assert there == [False, False, False, True, True, True, True]
    assert [(v, column, ids.tolist()) for v, column, ids in disk.changed_since(4)] == [
        (5, "user_id", [1, 2]),
        (6, "user_id", [1, 2]),
    ]
