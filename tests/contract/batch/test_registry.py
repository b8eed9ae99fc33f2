"""What is read is switched as one, by whoever holds the lock alone; what is of no more use goes."""

from __future__ import annotations

import pytest
from redis import Redis

from batch.errors import BatchError, redis_explained
from batch.runs.lock import RunLock
from batch.runs.records import RunState, Trigger
from batch.runs.registry import KEPT_RECORDS, RunRegistry
from contract.environment import RedisUrl
from contract.keys import batch_key, batch_lock_key
from contract.slates import Published
from tests.builders.runs import DATASET, make_record, store_slates, stored


@pytest.fixture
def registry(redis: Redis) -> RunRegistry:
    return RunRegistry(redis, DATASET)


def publish(redis: Redis, run: str, **changes: object) -> Published:
    """Stores a run's slates and publishes it."""
    registry, record = RunRegistry(redis, DATASET), make_record(run, **changes)
    with RunLock(redis, DATASET) as lock:
        registry.save(record)
        store_slates(redis, run)
        return registry.publish(record, lock)


def test_nothing_is_published_at_first(registry: RunRegistry) -> None:
    assert registry.published() == Published(())
    assert registry.last() == []
    assert registry.get("r-1") is None


def test_a_record_comes_back_as_it_was_saved(registry: RunRegistry) -> None:
    record = make_record(
        "r-1", skipped={"malformed": 2}, stage_s={"score_candidates": 1.5}, trigger=Trigger.CHANGES
    )
    registry.save(record)
    assert registry.get("r-1") == record


def test_one_switch_publishes_a_run_and_keeps_the_one_before_it(redis: Redis, registry: RunRegistry) -> None:
    assert publish(redis, "r-1") == Published(("r-1",))
    assert publish(redis, "r-2") == Published(("r-2",), ("r-1",))
    assert registry.published() == Published(("r-2",), ("r-1",))
    assert stored(redis) == {"r-1", "r-2"}
    record = registry.get("r-2")
    assert record is not None
    assert record.state is RunState.PUBLISHED
    assert record.ended_at_s is not None


def test_the_slates_of_runs_before_the_former_one_go_and_their_records_stay(
    redis: Redis, registry: RunRegistry
) -> None:
    for run in ("r-1", "r-2", "r-3"):
        publish(redis, run)
    assert stored(redis) == {"r-2", "r-3"}
    assert [record.run for record in registry.last()] == ["r-3", "r-2", "r-1"]


def test_runs_of_other_data_sets_are_left_alone(redis: Redis) -> None:
    other = RunRegistry(redis, "other")
    with RunLock(redis, "other") as lock:
        other.save(make_record("o-1", dataset="other"))
        store_slates(redis, "o-1")
        other.publish(make_record("o-1", dataset="other"), lock)
    for run in ("r-1", "r-2", "r-3"):
        publish(redis, run)
    assert "o-1" in stored(redis)
    assert other.published() == Published(("o-1",))


def test_a_partial_run_is_read_before_the_runs_it_renews(redis: Redis, registry: RunRegistry) -> None:
    publish(redis, "r-1")
    publish(redis, "r-2", parent="r-1", selection="changed")
    assert publish(redis, "r-3", parent="r-2") == Published(("r-3", "r-2", "r-1"), ("r-2", "r-1"))
    assert stored(redis) == {"r-1", "r-2", "r-3"}, "every run of the lineage is read"
    publish(redis, "r-4")
    assert stored(redis) == {"r-1", "r-2", "r-3", "r-4"}, "all of the former lineage may be rolled back to"
    publish(redis, "r-5")
    assert stored(redis) == {"r-4", "r-5"}
    assert registry.published() == Published(("r-5",), ("r-4",))


def test_a_run_that_renews_what_is_read_no_more_is_not_published(redis: Redis, registry: RunRegistry) -> None:
    publish(redis, "r-1")
    publish(redis, "r-2")
    with pytest.raises(BatchError, match="r-3 renews r-1, which is no longer what is read"):
        publish(redis, "r-3", parent="r-1")
    assert registry.published() == Published(("r-2",), ("r-1",))


def test_without_the_lock_nothing_is_published(redis: Redis, registry: RunRegistry) -> None:
    publish(redis, "r-1")
    record = make_record("r-2")
    registry.save(record)
    with RunLock(redis, DATASET) as lock:
        redis.set(batch_lock_key(DATASET), "another")
        with pytest.raises(BatchError, match="lock of small was lost"):
            registry.publish(record, lock)
        redis.delete(batch_lock_key(DATASET))
        with pytest.raises(BatchError, match="lock of small was lost"):
            registry.publish(record, lock)
    assert registry.published() == Published(("r-1",))
    assert registry.get("r-2") == record, "the record is written with the switch, or not at all"


def test_publishing_twice_is_publishing_once(redis: Redis, registry: RunRegistry) -> None:
    publish(redis, "r-1")
    publish(redis, "r-2")
    store_slates(redis, "r-0")
    registry.save(make_record("r-0", state=RunState.PUBLISHED))
    redis.sadd("batch_stored:small", "r-0")  # as left by a process that died before it cleaned up
    with RunLock(redis, DATASET) as lock:
        assert registry.publish(make_record("r-2"), lock) == Published(("r-2",), ("r-1",))
    assert stored(redis) == {"r-1", "r-2"}


def test_a_rollback_reads_what_was_before_and_a_second_one_undoes_it(
    redis: Redis, registry: RunRegistry
) -> None:
    publish(redis, "r-1")
    publish(redis, "r-2")
    with RunLock(redis, DATASET) as lock:
        assert registry.rollback(lock) == Published(("r-1",), ("r-2",))
        assert registry.rollback(lock) == Published(("r-2",), ("r-1",))
        registry.rollback(lock)
    assert publish(redis, "r-3") == Published(("r-3",), ("r-1",))
    assert stored(redis) == {"r-1", "r-3"}


def test_a_rollback_needs_a_run_whose_slates_are_there(redis: Redis, registry: RunRegistry) -> None:
    with (
        RunLock(redis, DATASET) as lock,
        pytest.raises(BatchError, match="nothing to roll back to: small has no"),
    ):
        registry.rollback(lock)
    publish(redis, "r-1")
    publish(redis, "r-2")
    redis.delete(*redis.scan_iter("slate:r-1:*"))
    with RunLock(redis, DATASET) as lock, pytest.raises(BatchError, match="the slates of run r-1 have exp"):
        registry.rollback(lock)
    assert registry.published() == Published(("r-2",), ("r-1",))


def test_a_publication_ends_runs_that_were_not_finished(redis: Redis, registry: RunRegistry) -> None:
    publish(redis, "r-1")
    for run, parent in (("r-2", None), ("r-3", "r-1")):
        registry.save(make_record(run, parent=parent, state=RunState.FAILED))
        store_slates(redis, run)
    publish(redis, "r-4", parent="r-1")
    assert stored(redis) == {"r-1", "r-4"}, "r-2 may hold slates of users who changed before r-4"
    states = {record.run: record.state for record in registry.last()}
    assert states["r-2"] is RunState.ABANDONED
    assert states["r-3"] is RunState.ABANDONED


def test_only_the_last_records_are_kept_and_the_published_one(redis: Redis, registry: RunRegistry) -> None:
    publish(redis, "r-1")
    for number in range(2, KEPT_RECORDS + 5):
        registry.save(make_record(f"r-{number}", state=RunState.ABANDONED))
    publish(redis, "r-100", parent="r-1")
    runs = [record.run for record in registry.last(KEPT_RECORDS * 2)]
    assert runs[0] == "r-100"
    assert runs[-1] == "r-1"
    assert len(runs) == KEPT_RECORDS + 1


def test_a_run_that_is_read_is_not_forgotten(redis: Redis, registry: RunRegistry) -> None:
    publish(redis, "r-1")
    store_slates(redis, "r-2", range(2500))
    assert registry.forget("r-2") == 2500
    with pytest.raises(BatchError, match="r-1 is read"):
        registry.forget("r-1")


def test_a_record_of_another_version_is_passed_over(redis: Redis, registry: RunRegistry) -> None:
    publish(redis, "r-1")
    redis.set("batch_run:r-2", "[]")
    redis.zadd("batch_runs:small", {"r-2": 2})
    assert [record.run for record in registry.last()] == ["r-1"]


def test_a_pointer_that_is_none_is_told(redis: Redis, registry: RunRegistry) -> None:
    redis.set(batch_key(DATASET), "nonsense")
    with pytest.raises(BatchError, match=r"batch:small: .*; delete this key"):
        registry.published()


def test_a_full_redis_publishes_nothing_and_keeps_what_is_read(
    redis: Redis, registry: RunRegistry, redis_url: RedisUrl
) -> None:
    publish(redis, "r-1")
    with RunLock(redis, DATASET) as lock:
        redis.config_set("maxmemory", 1)
        with pytest.raises(BatchError, match="is full; raise its maxmemory"), redis_explained(redis_url):
            registry.publish(make_record("r-2"), lock)
        with pytest.raises(BatchError, match="is full; raise its maxmemory"), redis_explained(redis_url):
            registry.save(make_record("r-2"))
    assert registry.published() == Published(("r-1",))
    assert registry.get("r-2") is None
