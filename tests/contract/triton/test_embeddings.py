"""Embeddings beside the models, in levels: who answers, what an answer lacks, updates while it is served."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis import Redis

from contract.arrays import Array
from contract.environment import RedisUrl
from contract.errors import ErrorCode, StageError
from contract.keys import embedding_block_key, embedding_rows_key, embedding_updates_key
from contract.names import ITEM_ID, USER_ID
from contract.slates import Degradation, degradations
from ensemble.bundle import LoadedBundle
from ensemble.publish.embeddings import build_embeddings, drop_embeddings, warm_redis
from ensemble.publish.export import main as export
from ensemble.publish.updates import main as send
from ensemble.run.batch import Reply
from ensemble.run.embeddings import tiered_embeddings
from ensemble.run.recommender import Recommender
from ensemble.settings import EmbeddingSettings, EnsembleSettings
from ensemble.stores.client import connect
from ensemble.stores.embeddings.disk import EmbeddingDisk
from ensemble.stores.embeddings.level import RowKeys
from ensemble.stores.embeddings.mapped import MappedEmbeddings
from ensemble.stores.embeddings.tiers import PAUSE_S, Embeddings, TieredEmbeddings, TieredTable
from ensemble.stores.embeddings.updates import (
    Changes,
    UpdateWatch,
    decode_block,
    encode_block,
    publish_update,
)
from tests.builders.full_disk import files_up_to
from tests.builders.triton import (
    WIDTH,
    World,
    make_recommender,
    make_request,
    make_settings,
    make_world,
    put_beside,
)

UNKNOWN = 424242
BUNDLE = "tiny-1"
WIDTHS = {USER_ID: 2 * WIDTH, ITEM_ID: WIDTH}


class Served:
    """A bundle whose tables lie in levels, and what was counted of them."""

    def __init__(self, world: World, redis: Redis, settings: EnsembleSettings) -> None:
        self.world, self.redis, self.settings = world, redis, settings
        self.bundle = LoadedBundle.open(world.folder)
        build_embeddings(self.bundle, settings)
        embeddings, updates = tiered_embeddings(self.bundle, settings)
        assert isinstance(embeddings, TieredEmbeddings)
        assert updates is not None
        self.embeddings, self.updates = embeddings, updates
        self.counted: Counter[tuple[str, str]] = Counter()
        for table in embeddings.tables.values():
            table.count = self.count

    def count(self, _: str, amount: float = 1, **labels: str) -> None:
        self.counted[labels["level"], labels.get("why", "rows")] += int(amount)

    @property
    def users(self) -> TieredTable:
        return self.embeddings.tables[USER_ID]

    @property
    def known(self) -> Array:
        """The users whom training knew."""
        return np.array(self.world.user_ids[:-2])

    def trained(self, ids: Array, column: str = USER_ID) -> Array:
        """What the bundle's own files have of ids."""
        return self.bundle.embeddings.read(column, ids, 0).rows

    def forget(self) -> None:
        """Empties the process' own level."""
        for table in self.embeddings.tables.values():
            table.settle()
            table.cache.__init__(table.cache.width, table.cache.capacity)  # type: ignore[misc]

    def stop(self) -> None:
        for table in self.embeddings.tables.values():
            table.stop()
        self.updates.disk.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = make_world(tmp_path_factory.mktemp("beside") / "bundle")
    put_beside(made)
    return made


@pytest.fixture
def settings(redis_url: RedisUrl, tmp_path: Path) -> EnsembleSettings:
    chosen = EmbeddingSettings(cache_mb=1, redis_rows=1000, folder=tmp_path / "embeddings")
    return make_settings(redis_url=redis_url, redis_timeout_ms=2000, embeddings=chosen)


@pytest.fixture
def served(world: World, redis: Redis, settings: EnsembleSettings) -> Iterator[Served]:
    made = Served(world, redis, settings)
    yield made
    made.stop()


def answers_to(recommender: Recommender, *requests: dict[str, Array]) -> list[Reply]:
    """Asks; nobody fails."""
    answers = recommender.answer(requests)
    assert not [one for one in answers if isinstance(one, StageError)], answers
    return [one for one in answers if isinstance(one, Reply)]


def lacks(answer: Any) -> list[Degradation]:
    """What an answer lacks."""
    assert not isinstance(answer, StageError), answer
    return degradations(int(answer["degraded"][0, 0]))


def test_both_are_embeddings(served: Served) -> None:
    assert isinstance(served.embeddings, Embeddings)
    assert isinstance(served.bundle.embeddings, Embeddings)


def test_every_level_gives_the_rows_of_the_bundle_and_fills_those_above(served: Served) -> None:
    ids = np.array([*served.world.user_ids, UNKNOWN])
    for expected in ("disk", "redis", "cache"):
        if expected != "cache":
            served.forget()
        served.counted.clear()
        found = served.embeddings.read(USER_ID, ids, 0)
        served.users.settle()
        np.testing.assert_array_equal(found.rows, served.trained(ids))
        assert not found.is_lacking.any()
        assert served.counted[expected, "rows"] == len(ids) - (0 if expected == "cache" else 3)
    assert served.counted["disk", "rows"] == served.counted["redis", "rows"] == 0


def test_an_unknown_id_has_the_row_of_the_unknown_and_lacks_nothing(served: Served) -> None:
    found = served.embeddings.read(USER_ID, np.array([UNKNOWN, UNKNOWN]), 0)
    np.testing.assert_array_equal(found.rows, [served.users.unknown] * 2)
    assert not found.is_lacking.any()
    assert served.counted["none", "rows"] == 1
    served.embeddings.read(USER_ID, np.array([UNKNOWN]), 0)
    assert served.counted["none", "rows"] == 1, "that it is unknown is known now"


def test_slates_in_levels_are_those_of_the_tables_in_the_models(served: Served) -> None:
    inside = make_recommender(served.world)
    outside = make_recommender(served.world, embeddings=served.embeddings)
    requests = [make_request(user) for user in (*served.world.user_ids, UNKNOWN)]
    for expected, answer in zip(answers_to(inside, *requests), answers_to(outside, *requests), strict=True):
        np.testing.assert_array_equal(answer["item_ids"], expected["item_ids"])
        np.testing.assert_allclose(answer["item_scores"], expected["item_scores"], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(answer["degraded"], expected["degraded"])
    counted = {
        dict(labels)["level"] for (name, labels) in outside.counters.counts if name == "embedding_rows"
    }
    assert {"cache", "none"} <= counted


def test_it_begins_with_the_rows_of_the_most_frequent_ids(served: Served) -> None:
    served.embeddings.read(USER_ID, served.known, 0)
    assert served.counted == {("cache", "rows"): len(served.known)}
    assert served.users.hit_rate == 1


def test_the_hit_rate_is_of_late(served: Served) -> None:
    served.forget()
    served.embeddings.read(USER_ID, served.known, 0)
    assert served.users.hit_rate == 0
    for _ in range(200):
        served.embeddings.read(USER_ID, served.known, 0)
    assert served.users.hit_rate > 0.95


@pytest.mark.parametrize(("threshold", "is_behind"), [(0.0, True), (1.1, False)])
def test_a_row_is_put_in_before_the_answer_below_the_threshold_and_behind_it_above(
    served: Served, threshold: float, is_behind: bool
) -> None:
    served.forget()
    served.users.threshold = threshold
    written_by: list[threading.Thread] = []
    write = served.users.cache.write

    def noted(keys: RowKeys, rows: Array) -> None:
        written_by.append(threading.current_thread())
        write(keys, rows)

    served.users.cache.write = noted  # type: ignore[method-assign]
    served.embeddings.read(USER_ID, served.known, 0)
    served.users.settle()
    assert [one is not threading.main_thread() for one in written_by] == [is_behind]
    assert served.users.cache.read(RowKeys.trained(served.known)).is_found.all()


def test_insertions_that_come_too_fast_are_left_out_and_counted(served: Served) -> None:
    served.forget()
    served.users.threshold = 0
    is_free, write = threading.Event(), served.users.cache.write
    served.users.cache.write = lambda *row: (is_free.wait(), write(*row))[1]  # type: ignore[method-assign]
    for user in range(1000, 1100):
        served.embeddings.read(USER_ID, np.array([user]), 0)
    is_free.set()
    served.users.settle()
    assert served.counted["cache", "left_out"] > 0


def test_redis_away_the_disk_answers_and_it_is_counted(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    served.users.below[0].redis = connect(RedisUrl("redis://127.0.0.1:1/0"), 100)  # type: ignore[attr-defined]
    served.forget()
    found = served.embeddings.read(USER_ID, served.known, 0)
    np.testing.assert_array_equal(found.rows, served.trained(served.known))
    assert not found.is_lacking.any()
    assert served.counted["redis", "away"] == 1
    assert "redis is away" in caplog.text
    served.forget()
    served.embeddings.read(USER_ID, served.known, 0)
    assert served.counted["redis", "away"] == 1, "it is left alone for a while"
    monkeypatch.setattr("time.monotonic", lambda: 1e9 + PAUSE_S)
    served.forget()
    served.embeddings.read(USER_ID, served.known, 0)
    assert served.counted["redis", "away"] == 2


def test_the_disk_away_what_is_above_is_answered_and_the_rest_marked(served: Served) -> None:
    recommender = make_recommender(served.world, embeddings=served.embeddings)
    request = make_request(served.world.user_ids[1])
    assert lacks(answers_to(recommender, request)[0]) == []
    served.updates.disk.close()
    assert lacks(answers_to(recommender, request)[0]) == [], "the process has the rows"
    served.forget()
    assert lacks(answers_to(recommender, request)[0]) == [Degradation.EMBEDDINGS]
    counts = {
        (dict(labels)["level"], dict(labels)["why"]): count
        for (name, labels), count in recommender.counters.counts.items()
        if name == "embedding_failures"
    }
    assert counts["disk", "away"] >= 1
    found = served.embeddings.read(USER_ID, served.known[:2], 0)
    np.testing.assert_array_equal(found.rows, [served.users.unknown] * 2)
    assert found.is_lacking.all()


def test_a_damaged_row_is_told_and_has_the_row_of_the_unknown(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    disk, user = served.updates.disk, served.known[1:2]
    disk.put(disk._tables[USER_ID], [(RowKeys.trained(user).packed()[0], bytes(4 * (2 * WIDTH + 1)))])
    served.forget()
    with caplog.at_level(logging.WARNING):
        found = served.embeddings.read(USER_ID, served.known[:3], 0)
    assert found.is_lacking.tolist() == [False, True, False]
    np.testing.assert_array_equal(found.rows[1], served.users.unknown)
    assert f"rows of [{user[0]}] are damaged" in caplog.text
    assert served.counted["disk", "damaged"] == 1
    recommender = make_recommender(served.world, embeddings=served.embeddings)
    assert Degradation.EMBEDDINGS in lacks(answers_to(recommender, make_request(int(user[0])))[0])


def test_a_damaged_row_of_redis_is_read_from_the_disk_and_mended(served: Served, redis: Redis) -> None:
    warm_redis(redis, served.bundle, served.settings)
    for at in range(8):
        key = embedding_rows_key(BUNDLE, USER_ID, at)
        for field in redis.hkeys(key):
            redis.hset(key, field, b"damaged")
    for is_mended in (False, True):
        served.forget()
        served.counted.clear()
        found = served.embeddings.read(USER_ID, served.known, 0)
        np.testing.assert_array_equal(found.rows, served.trained(served.known))
        assert not found.is_lacking.any()
        assert (served.counted["redis", "damaged"] == 0) is is_mended


def test_redis_is_given_the_most_frequent_and_forgets_all_of_a_dropped_bundle(
    served: Served, redis: Redis
) -> None:
    assert warm_redis(redis, served.bundle, served.settings) == len(served.known) + 58
    publish_update(redis, BUNDLE, {USER_ID: (served.known, served.trained(served.known))})
    assert redis.dbsize() > 2
    drop_embeddings(redis, BUNDLE)
    assert redis.dbsize() == 0


def changed(served: Served, seed: int, column: str = USER_ID) -> tuple[Array, Array]:
    """New rows for some known ids, and for one that training did not know."""
    rng = np.random.default_rng(seed)
    known = served.known if column == USER_ID else np.array(served.world.item_ids[:-2])
    ids = np.array([*known[::2], UNKNOWN])
    return ids, rng.normal(size=(len(ids), WIDTHS[column])).astype(np.float32)


def test_an_update_is_taken_over_while_it_is_served(served: Served, redis: Redis) -> None:
    ids, rows = changed(served, 1)
    assert publish_update(redis, BUNDLE, {USER_ID: (ids, rows)}) == 1
    assert served.updates.look(served.embeddings.renew) == 1
    assert served.embeddings.version == 1
    for _ in range(2):
        np.testing.assert_array_equal(served.embeddings.read(USER_ID, ids, 1).rows, rows)
        others = served.known[1::2]
        np.testing.assert_array_equal(served.embeddings.read(USER_ID, others, 1).rows, served.trained(others))
        np.testing.assert_array_equal(
            served.embeddings.read(USER_ID, ids[:-1], 0).rows, served.trained(ids[:-1])
        )
        served.forget()
    assert served.updates.look(served.embeddings.renew) == 0


def test_an_update_changes_answers_and_each_says_nothing_is_lacking(served: Served, redis: Redis) -> None:
    recommender = make_recommender(served.world, embeddings=served.embeddings)
    user = int(served.known[2])
    before = answers_to(recommender, make_request(user))[0]
    publish_update(redis, BUNDLE, {USER_ID: changed(served, 1), ITEM_ID: changed(served, 2, ITEM_ID)})
    served.updates.look(served.embeddings.renew)
    after = answers_to(recommender, make_request(user))[0]
    assert not np.allclose(after["user_vector"], before["user_vector"])
    assert lacks(after) == []
    assert after["embedding_version"].tolist() == [[1]]


def test_an_answer_that_began_before_an_update_ends_as_of_before(
    served: Served, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = make_recommender(served.world, embeddings=served.embeddings)
    request = make_request(int(served.known[2]))
    before = answers_to(recommender, request)[0]
    publish_update(redis, BUNDLE, {USER_ID: changed(served, 1), ITEM_ID: changed(served, 2, ITEM_ID)})
    read, renewed = served.embeddings.read, list[int]()

    def read_and_renew(column: str, ids: Array, version: int) -> Any:
        found = read(column, ids, version)
        if not renewed:  # right after the first rows of the answer
            renewed.append(served.updates.look(served.embeddings.renew))
        return found

    monkeypatch.setattr(served.embeddings, "read", read_and_renew)
    (during,), (after,) = answers_to(recommender, request), answers_to(recommender, request)
    np.testing.assert_array_equal(during["ranking_scores"], before["ranking_scores"])
    assert not np.allclose(after["ranking_scores"], before["ranking_scores"])


def test_no_reader_ever_gets_rows_of_two_updates(served: Served, redis: Redis) -> None:
    ids, updates = served.known, 12
    mixed, is_over = [], threading.Event()

    def read() -> None:
        while not is_over.is_set():
            version = served.embeddings.version
            found = served.embeddings.read(USER_ID, ids, version).rows
            expected = np.full_like(found, version) if version else served.trained(ids)
            if not np.array_equal(found, expected):
                mixed.append(version)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for version in range(1, updates + 1):
        rows = np.full((len(ids), WIDTHS[USER_ID]), version, dtype=np.float32)
        publish_update(redis, BUNDLE, {USER_ID: (ids, rows)})
        served.updates.look(served.embeddings.renew)
    is_over.set()
    for reader in readers:
        reader.join()
    assert served.embeddings.version == updates
    assert mixed == []


def test_what_is_too_old_is_refused(served: Served, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (1, 2):
        served.embeddings.read(USER_ID, served.known, 0)
        publish_update(redis, BUNDLE, {USER_ID: changed(served, seed)})
        served.updates.look(served.embeddings.renew)
        monkeypatch.setattr("time.monotonic", lambda: 1e9)
    publish_update(redis, BUNDLE, {USER_ID: changed(served, 3)})
    served.updates.look(served.embeddings.renew)
    with pytest.raises(StageError, match="too old") as failed:
        served.embeddings.read(USER_ID, served.known, 0)
    assert failed.value.code is ErrorCode.DEPENDENCY


def test_a_process_that_comes_later_or_beside_has_the_same_updates(served: Served, redis: Redis) -> None:
    beside = UpdateWatch(redis, BUNDLE, served.updates.disk, WIDTHS)
    renewed: list[Changes] = []
    for seed in (1, 2):
        publish_update(redis, BUNDLE, {USER_ID: changed(served, seed)})
    served.updates.look(served.embeddings.renew)
    beside.look(renewed.append)
    later = UpdateWatch(redis, BUNDLE, served.updates.disk, WIDTHS)
    ids, rows = changed(served, 2)
    for changes in (renewed[-1], later.changes):
        assert changes.version == 2
        assert (
            TieredEmbeddings({USER_ID: served.users}, changes).read(USER_ID, ids, 2).rows.tolist()
            == rows.tolist()
        )


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda redis, token: redis.delete(embedding_block_key(BUNDLE, token, 0)),
            "block 0: no block of rows",
        ),
        (
            lambda redis, token: redis.setrange(embedding_block_key(BUNDLE, token, 0), 60, b"?"),
            "checksum differs",
        ),
    ],
)
def test_a_damaged_update_is_refused_and_what_was_served_stays(
    served: Served, redis: Redis, caplog: pytest.LogCaptureFixture, spoil: Any, says: str
) -> None:
    publish_update(redis, BUNDLE, {USER_ID: changed(served, 1)})
    token = next(redis.scan_iter("embedding_block*")).split(b":")[2].decode()
    spoil(redis, token)
    for _ in range(2):
        served.updates._try_to_look(served.embeddings.renew)
    assert len([one for one in caplog.messages if says in one]) == 1, "it is told once"
    assert served.embeddings.version == served.updates.disk.version == 0
    np.testing.assert_array_equal(
        served.embeddings.read(USER_ID, served.known, 0).rows, served.trained(served.known)
    )


def test_an_update_of_another_width_or_after_one_that_is_gone_is_refused(
    served: Served, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    publish_update(redis, BUNDLE, {USER_ID: (served.known, np.ones((len(served.known), 3), np.float32))})
    served.updates._try_to_look(served.embeddings.renew)
    assert "has rows of 3 floats of user_id, its table of 16" in caplog.text
    publish_update(redis, BUNDLE, {USER_ID: changed(served, 1)})
    redis.xdel(embedding_updates_key(BUNDLE), "1-0")
    served.updates._try_to_look(served.embeddings.renew)
    assert "update 1 of its embeddings is not in Redis any more" in caplog.text
    assert served.embeddings.version == 0


def test_the_watch_follows_in_the_background(served: Served, redis: Redis) -> None:
    publish_update(redis, BUNDLE, {USER_ID: changed(served, 1)})
    served.updates.start(served.embeddings.renew)
    served.updates.stop()
    assert served.embeddings.version == 1


def test_a_block_is_what_it_was() -> None:
    ids, rows = np.array([3, -4]), np.arange(6, dtype=np.float32).reshape(2, 3)
    column, read_ids, read_rows = decode_block(encode_block(ITEM_ID, ids, rows))
    assert (column, read_ids.tolist(), read_rows.tolist()) == (ITEM_ID, ids.tolist(), rows.tolist())


def test_without_a_disk_the_bundles_own_files_are_read(
    world: World, settings: EnsembleSettings, caplog: pytest.LogCaptureFixture
) -> None:
    embeddings, updates = tiered_embeddings(LoadedBundle.open(world.folder), settings)
    assert isinstance(embeddings, MappedEmbeddings)
    assert updates is None
    assert "run `make export`" in caplog.text


def test_the_export_brings_tables_to_the_disk_or_says_in_one_line_why_not(
    world: World,
    redis_url: RedisUrl,
    redis: Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SHORTLIST_REDIS_URL", redis_url.get_secret_value())
    monkeypatch.setenv("SHORTLIST_VAR_DIR", str(tmp_path))
    monkeypatch.setenv("SHORTLIST_EMBEDDINGS__REDIS_ROWS", "100")
    given = ["--bundle", str(world.folder)]
    with files_up_to(4096):
        assert export(given) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "make room" in said
    assert not (tmp_path / "models").exists()
    assert list((tmp_path / "embeddings").iterdir()) == []
    assert export(given) == 0
    exported = tmp_path / "models" / BUNDLE / "1" / "bundle" / "user_id_rows.npy"
    assert exported.samefile(world.folder / "user_id_rows.npy"), "a table is not copied"
    disk = EmbeddingDisk(tmp_path / "embeddings" / BUNDLE)
    assert (
        disk.rows_of(USER_ID, 2 * WIDTH).read(RowKeys.trained(np.array(world.user_ids))).is_found.sum() == 18
    )
    disk.close()
    assert redis.dbsize() > 0


def test_the_command_sends_a_file_of_changed_rows(
    served: Served,
    redis_url: RedisUrl,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SHORTLIST_REDIS_URL", redis_url.get_secret_value())
    ids, rows = changed(served, 3)
    file, given = tmp_path / "update.npz", ["--bundle", str(served.world.folder)]
    np.savez(file, user_id_ids=ids, user_id_rows=rows)
    assert send([str(file), *given]) == 0
    assert f"update 1, {len(ids)} rows" in capsys.readouterr().out
    served.updates.look(served.embeddings.renew)
    np.testing.assert_array_equal(served.embeddings.read(USER_ID, ids, 1).rows, rows)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({}, "has no row"),
        ({"user_id_ids": np.array([1])}, "user_id_rows must be float32"),
        ({"user_id_ids": np.array([1, 1]), "user_id_rows": np.ones((2, 16), np.float32)}, "each id once"),
        ({"user_id_ids": np.array([1]), "user_id_rows": np.ones((1, 16))}, "must be float32"),
        ({"user_id_ids": np.array([1]), "user_id_rows": np.full((1, 16), np.nan, np.float32)}, "no number"),
        ({"user_ids": np.array([1])}, "has user_ids"),
        (None, "is no .npz"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(
    served: Served, tmp_path: Path, arrays: Any, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "update.npz"
    if arrays is None:
        file.write_bytes(b"something else")
    else:
        np.savez(file, **arrays)
    assert send([str(file), "--bundle", str(served.world.folder)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert says in said
