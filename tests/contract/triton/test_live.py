"""The consumer gives each accepted event its effect once, in order, whoever dies, and archives it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import WatchError

from contract.environment import RedisUrl
from contract.event_archive import archive_files, events_folder, read_archive
from contract.events import GROUP, PARTITIONS, Event, partition_of
from contract.keys import (
    batch_runs_key,
    changed_users_key,
    consumers_key,
    decode_seen,
    event_stream_key,
    forgotten_users_key,
    seen_key,
    stream_lease_key,
)
from contract.live_catalogue import digest_of_user
from ensemble.stores.client import connect
from live.archive import Archive
from live.events import EventHandler
from live.streams import Entry, entries_of, positions_of
from live.transaction import Transaction
from tests.builders.guarded_redis import as_user
from tests.builders.live import CALM, HASTY, accept, click, drain, make_consumer, synthetic_dataset

DATASET = synthetic_dataset()
NAME = DATASET.name
STREAMS = [event_stream_key(NAME, partition) for partition in range(PARTITIONS)]


def seen_of(redis: Any, user_id: int) -> list[int]:
    items: list[int] = decode_seen(redis.get(seen_key(NAME, user_id))).tolist()
    return items


def test_events_are_seen_newest_first_each_item_once(redis: Redis, tmp_path: Path) -> None:
    consumer, _ = make_consumer(redis, DATASET, tmp_path)
    accept(redis, DATASET, [click(7, 1), click(7, 2, 1), click(7, 1, 2), click(8, 5)])
    assert drain(consumer) == 4
    assert (seen_of(redis, 7), seen_of(redis, 8)) == ([1, 2], [5])


@pytest.mark.parametrize(("labels", "expected"), [("none", []), ("is_purchase", [2])])
def test_what_counts_as_seen_is_as_the_data_set_says(
    redis: Redis, tmp_path: Path, labels: str, expected: list[int]
) -> None:
    dataset = synthetic_dataset(seen_labels=labels)
    consumer, _ = make_consumer(redis, dataset, tmp_path)
    accept(redis, dataset, [click(7, 1), click(7, 2, 1, labels={"is_purchase": 1})])
    drain(consumer)
    assert seen_of(redis, 7) == expected


def test_what_was_read_before_its_user_was_forgotten_has_no_effect(redis: Any, tmp_path: Path) -> None:
    handler = EventHandler(DATASET, tmp_path)
    stream = event_stream_key(NAME, partition_of(7))
    accept(redis, DATASET, [click(7, 1)])
    read = entries_of(stream, redis.xrange(stream))
    with Transaction(redis) as late:
        handler.apply(read, late)
        redis.hset(forgotten_users_key(NAME), digest_of_user(7), read[0].added_ms)
        with pytest.raises(WatchError):
            late.commit()
    time.sleep(0.002)
    accept(redis, DATASET, [click(7, 2, 1)])
    with Transaction(redis) as anew:
        handler.apply(entries_of(stream, redis.xrange(stream)), anew)
        anew.commit()
    assert seen_of(redis, 7) == [2], "who comes back begins anew"


def test_users_are_noted_for_the_batch_job_once_there_was_a_run(redis: Any, tmp_path: Path) -> None:
    consumer, _ = make_consumer(redis, DATASET, tmp_path)
    accept(redis, DATASET, [click(7, 1)])
    drain(consumer)
    assert not redis.exists(changed_users_key(NAME))
    redis.zadd(batch_runs_key(NAME), {"a run": 1})
    accept(redis, DATASET, [click(7, 2), click(9, 2)])
    drain(consumer)
    assert redis.zrange(changed_users_key(NAME), 0, -1) == [b"7", b"9"]


def test_another_consumer_takes_over_where_one_died_and_repeats_nothing(redis: Redis, tmp_path: Path) -> None:
    one, _ = make_consumer(redis, DATASET, tmp_path, HASTY)
    accept(redis, DATASET, [click(user, 1) for user in range(40)])
    drain(one)
    accept(redis, DATASET, [click(user, 2, 1) for user in range(40)])
    other, _ = make_consumer(redis, DATASET, tmp_path, HASTY)  # `one` works no more, and gave nothing back
    assert other.step() == 0
    time.sleep(HASTY.lease_s + 0.1)
    assert drain(other) == 40
    assert all(seen_of(redis, user) == [2, 1] for user in range(40))


def test_a_consumer_that_was_paused_writes_nothing_of_a_stream_that_another_took(
    redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused, _ = make_consumer(redis, DATASET, tmp_path)
    paused.step()
    accept(redis, DATASET, [click(user, 1) for user in range(40)])
    other, _ = make_consumer(redis, DATASET, tmp_path)
    commit = Transaction.commit

    def late(transaction: Transaction) -> list[Any]:
        monkeypatch.setattr(Transaction, "commit", commit)
        redis.delete(
            consumers_key(NAME), *map(stream_lease_key, STREAMS)
        )  # as if they had expired while it stood still
        assert drain(other) == 40
        return commit(transaction)

    monkeypatch.setattr(Transaction, "commit", late)
    paused.step()
    assert sum(group["entries-read"] for stream in STREAMS for group in redis.xinfo_groups(stream)[-1:]) == 40
    assert not paused.leases.held, "it has learned that they are somebody else's"


def test_two_consumers_share_the_streams_and_keep_the_order_of_each_user(
    redis: Redis, tmp_path: Path
) -> None:
    one, _ = make_consumer(redis, DATASET, tmp_path, HASTY)
    other, _ = make_consumer(redis, DATASET, tmp_path, HASTY)
    one.step()
    accept(redis, DATASET, [click(user, item, item) for item in range(1, 6) for user in range(40)])
    for _ in range(2):
        other.step()
        time.sleep(HASTY.lease_s / 3)
        one.step()
    drain(one, other)
    assert (len(one.leases.held), len(other.leases.held)) == (4, 4)
    accept(redis, DATASET, [click(user, item, item) for item in range(6, 11) for user in range(40)])
    assert drain(one, other) > 0
    assert all(seen_of(redis, user) == [*range(10, 0, -1)] for user in range(40))


def test_what_another_wrote_meanwhile_is_read_anew(
    redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer, _ = make_consumer(redis, DATASET, tmp_path)
    consumer.step()
    accept(redis, DATASET, [click(7, 1)])
    commit = Transaction.commit

    def late(transaction: Transaction) -> list[Any]:
        monkeypatch.setattr(Transaction, "commit", commit)
        redis.set(seen_key(NAME, 7), (5).to_bytes(8, "little"))
        return commit(transaction)

    monkeypatch.setattr(Transaction, "commit", late)
    drain(consumer)
    assert seen_of(redis, 7) == [1, 5]


def test_events_are_archived_then_trimmed_and_none_before_its_effect(redis: Any, tmp_path: Path) -> None:
    consumer, _ = make_consumer(redis, DATASET, tmp_path)
    consumer.step()
    events = [click(user, item, item, context={"context_hour": 3}) for user in range(20) for item in (1, 2)]
    accept(redis, DATASET, events)
    assert [consumer.archive(stream) for stream in STREAMS] == [0] * PARTITIONS
    drain(consumer)
    assert sum(consumer.archive(stream) for stream in STREAMS) == 40
    assert sum(redis.xlen(stream) for stream in STREAMS) == 0
    table = read_archive(events_folder(tmp_path, NAME))
    assert table is not None
    archived = {(row["user_id"], row["item_id"], row["event_id"]) for row in table.to_pylist()}
    assert archived == {(event.user_id, event.item_id, event.event_id) for event in events}
    assert set(table["context_hour"].to_pylist()) == {3}
    assert set(table["is_purchase"].to_pylist()) == {None}
    accept(redis, DATASET, [click(7, 3)])
    assert drain(consumer) == 1, "a stream that was trimmed goes on"


def test_a_crash_between_file_and_trim_archives_nothing_twice(
    redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer, _ = make_consumer(redis, DATASET, tmp_path)
    accept(redis, DATASET, [click(7, item, item) for item in range(5)])
    drain(consumer)
    (stream,) = [one for one in STREAMS if redis.xlen(one)]

    def crash(_: Transaction) -> list[Any]:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "commit", crash)
        with pytest.raises(RuntimeError, match="killed"):
            consumer.archive(stream)
    accept(redis, DATASET, [click(7, 9, 9)])
    drain(consumer)
    assert redis.xlen(stream) == 6
    assert consumer.archive(stream) == 6
    folder = events_folder(tmp_path, NAME)
    assert len(archive_files(folder)) == 1
    table = read_archive(folder)
    assert table is not None
    assert table["item_id"].to_pylist() == [0, 1, 2, 3, 4, 9]


def test_a_consumer_that_was_paused_while_it_wrote_a_file_takes_nothing_of_what_another_wrote(
    redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused, _ = make_consumer(redis, DATASET, tmp_path)
    accept(redis, DATASET, [click(7, 1)])
    drain(paused)
    (stream,) = [one for one in STREAMS if redis.xlen(one)]
    other, _ = make_consumer(redis, DATASET, tmp_path)
    write = Archive.write

    def late(archive: Archive, entries: Sequence[Entry]) -> None:
        monkeypatch.setattr(Archive, "write", write)
        redis.delete(consumers_key(NAME), *map(stream_lease_key, STREAMS))  # as if they had expired
        accept(redis, DATASET, [click(7, 2, 1)])
        drain(other)
        assert other.archive(stream) == 2
        write(archive, entries)

    monkeypatch.setattr(Archive, "write", late)
    assert paused.archive(stream) == 0
    assert (redis.xlen(stream), stream in paused.leases.held) == (0, False)
    table = read_archive(events_folder(tmp_path, NAME))
    assert table is not None
    assert sorted(table["item_id"].to_pylist()) == [1, 2], "each once, though it stands in two files"


def test_a_step_that_outlasts_the_lease_goes_on_where_it_was(
    redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer, _ = make_consumer(redis, DATASET, tmp_path, HASTY.model_copy(update={"most_entries": 4}))
    consumer.step()
    accept(redis, DATASET, [click(user, item, item) for item in (1, 2) for user in range(40)])
    pauses, commit = iter([0.0, HASTY.lease_s + 0.1]), Transaction.commit

    def slow(transaction: Transaction) -> list[Any]:
        time.sleep(next(pauses, 0.0))
        return commit(transaction)

    monkeypatch.setattr(Transaction, "commit", slow)
    consumer.step()
    assert read_of(redis) == 4, "the part that was committed in time"
    drain(consumer)
    assert (read_of(redis), len(consumer.leases.held)) == (80, PARTITIONS)
    assert all(seen_of(redis, user) == [2, 1] for user in range(40))


def read_of(redis: Any) -> int:
    """How many entries had their effect."""
    return sum(positions_of(redis.xinfo_groups(stream))[GROUP].read for stream in STREAMS)


def test_the_files_of_an_hour_that_is_over_become_one(redis: Any, tmp_path: Path) -> None:
    consumer, _ = make_consumer(redis, DATASET, tmp_path)
    accept(redis, DATASET, [click(user, 1) for user in range(40)])
    drain(consumer)
    for stream in STREAMS:
        consumer.archive(stream)
    folder, archive = events_folder(tmp_path, NAME), consumer._handlers[STREAMS[0]].archive
    assert archive is not None
    before = len(archive_files(folder))
    left = archive_files(folder)[0].with_name(".0-1-0.parquet.1.2.tmp")
    left.write_text("half of what was written when a consumer was killed")
    os.utime(left, (0, 0))
    archive.merge(time.time())
    assert not left.exists()
    assert len(archive_files(folder)) == before > 1, "its hour goes on"
    archive.merge(time.time() + 2 * 3600)
    assert len(archive_files(folder)) == 1
    table = read_archive(folder)
    assert table is not None
    assert sorted(table["user_id"].to_pylist()) == list(range(40))


def test_a_consumer_that_was_away_catches_up_by_and_by(redis: Any, tmp_path: Path) -> None:
    settings = CALM.model_copy(update={"most_entries": 100, "archive_entries": 250, "archive_s": 0.01})
    accept(redis, DATASET, [click(user, item, item) for item in range(100) for user in range(40)])
    consumer, _ = make_consumer(redis, DATASET, tmp_path, settings)
    redis.config_resetstat()
    assert (taken := consumer.step()) <= PARTITIONS * 100
    stats = redis.info("commandstats")
    assert stats["cmdstat_exec"]["calls"] >= taken / 100, "no transaction is large, of however many streams"
    drain(consumer, rounds=PARTITIONS * 4)
    assert all(seen_of(redis, user) == [*range(99, -1, -1)] for user in range(40))
    assert sum(redis.xlen(stream) for stream in STREAMS) == 0, "nothing is left in Redis"
    table = read_archive(events_folder(tmp_path, NAME))
    assert table is not None
    assert len(table) == 4000


def test_a_full_redis_is_waited_for_and_the_archive_makes_room(redis: Any, tmp_path: Path) -> None:
    settings = CALM.model_copy(update={"archive_s": 0.01})
    consumer, said = make_consumer(redis, DATASET, tmp_path, settings)
    accept(redis, DATASET, [click(7, 1)])
    consumer.step()
    consumer._archived_s = dict.fromkeys(STREAMS, float("inf"))
    accept(redis, DATASET, [click(8, 1)])
    redis.config_set("maxmemory", 1)
    stop = threading.Event()
    working = threading.Thread(target=consumer.keep, args=(stop,))
    consumer._archived_s = dict.fromkeys(STREAMS, 0.0)
    working.start()
    of_7 = event_stream_key(NAME, partition_of(7))
    wait_until(lambda: redis.xlen(of_7) == 0)
    assert [line.partition(":")[2][:40] for line in said] == [" it is full: raise its maxmemory (of the"]
    assert seen_of(redis, 8) == []
    redis.config_set("maxmemory", 0)
    wait_until(lambda: seen_of(redis, 8) == [1])
    stop.set()
    working.join(10)


def wait_until(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.05)


def test_the_rights_that_the_documentation_lists_suffice(
    redis: Any, redis_url: RedisUrl, tmp_path: Path
) -> None:
    consumer, _ = make_consumer(connect(as_user(redis_url), 5000), DATASET, tmp_path)
    redis.zadd(batch_runs_key(NAME), {"a run": 1})
    accept(redis, DATASET, [click(7, 1)])
    assert drain(consumer) == 1
    assert sum(consumer.archive(stream) for stream in STREAMS) == 1
    consumer.leases.release()


def test_one_that_gave_its_streams_back_takes_them_again_at_once(redis: Any, tmp_path: Path) -> None:
    consumer, _ = make_consumer(redis, DATASET, tmp_path)
    drain(consumer, rounds=1)
    consumer.leases.release()
    accept(redis, DATASET, [click(7, 1)])
    assert consumer.step() == 1


def test_a_damaged_entry_keeps_no_other_from_its_effect(
    redis: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    consumer, _ = make_consumer(redis, DATASET, tmp_path)
    redis.xadd(event_stream_key(NAME, partition_of(7)), {"event": "{nothing"})
    accept(redis, DATASET, [click(7, 1)])
    drain(consumer)
    assert seen_of(redis, 7) == [1]
    assert "no event" in capsys.readouterr().err


def test_a_redis_that_was_emptied_is_begun_anew(redis: Any, tmp_path: Path) -> None:
    consumer, _ = make_consumer(redis, DATASET, tmp_path, HASTY)
    accept(redis, DATASET, [click(7, 1)])
    drain(consumer)
    redis.flushall()
    time.sleep(HASTY.lease_s)
    accept(redis, DATASET, [click(7, 2)])
    drain(consumer, rounds=6)
    assert seen_of(redis, 7) == [2]


def test_an_event_comes_back_as_it_was_sent() -> None:
    event = Event("e", "ålice", 3, 5, {"is_click": 1}, {"context_hour": 2}, "r-1")
    assert Event.decode(event.encode()) == event
    with pytest.raises(ValueError, match="no event"):
        Event.decode(b"[1]")


def test_a_name_made_of_the_content_tells_events_apart_and_no_order_of_labels() -> None:
    one = Event("", 1, 2, 3, {"a": 1, "b": 0}).named()
    assert one.event_id == Event("x", 1, 2, 3, {"b": 0, "a": 1}).named().event_id
    assert one.event_id != Event("", 1, 2, 4, {"a": 1, "b": 0}).named().event_id
    assert one.mark != Event(one.event_id, 2, 2, 3).mark


def test_users_are_spread_over_the_partitions() -> None:
    counts = [0] * PARTITIONS
    for user_id in range(-8000, 8000, 8):
        counts[partition_of(user_id)] += 1
    assert min(counts) > 0.8 * max(counts)
