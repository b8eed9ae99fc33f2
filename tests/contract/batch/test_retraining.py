"""A training is due by the clock, by drift, by events; it is begun once, and its end is kept."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from batch.schedule.retraining import Retraining
from batch.schedule.training_lock import AT_WORK, alone, is_at_work
from batch.schedule.tried import Tried, TriedTrainings
from batch.settings import BatchSettings
from contract.environment import RedisUrl
from contract.events import PARTITIONS
from contract.keys import event_stream_key, retrained_key, watched_key
from contract.watched import FeatureDrift, Watched

NAME = "tiny"
HOUR = 3600.0


class Stand:
    """A watch of trainings over a real Redis, with a clock of its own and a small program that trains."""

    def __init__(self, redis: Redis, url: RedisUrl, folder: Path, status: int = 0, **settings: Any) -> None:
        self.redis: Any = redis
        self.now_s, self.said = 1_800_000_000.0, list[str]()
        self.ran = folder / "ran"
        program = folder / "train.py"
        program.write_text(
            f"import sys; open({str(self.ran)!r}, 'a').write(sys.argv[1] + '\\n'); sys.exit({status})"
        )
        defaults = {"retrain_command": f"{sys.executable} {program}", "retrain_pause_s": HOUR, "poll_s": 0.1}
        made = BatchSettings(**{**defaults, **settings})
        self.var = folder / "var"
        self.watch = Retraining(redis, url, NAME, self.var, made, self.said.append, lambda: self.now_s)
        self.watch.look()  # it begins to count

    def accept(self, events: int) -> None:
        for event in range(events):
            self.redis.xadd(event_stream_key(NAME, event % PARTITIONS), {"event": b"x"})

    def drift(self, *, is_drifted: bool) -> None:
        one = FeatureDrift(psi=0.5, jensen_shannon=0.1, is_drifted=is_drifted)
        found = Watched(at_s=0, bundle="b", answers=9, drift={"user_region": one})
        self.redis.set(watched_key(NAME), found.model_dump_json())

    @property
    def reasons(self) -> list[str]:
        return self.ran.read_text().splitlines() if self.ran.is_file() else []


def test_by_itself_nothing_is_due(redis: Redis, redis_url: RedisUrl, tmp_path: Path) -> None:
    stand = Stand(redis, redis_url, tmp_path)
    stand.accept(50)
    stand.drift(is_drifted=True)
    stand.now_s += 1e6
    assert stand.watch.look() is None
    assert stand.reasons == []


def test_enough_events_begin_one_and_are_counted_anew_after(
    redis: Redis, redis_url: RedisUrl, tmp_path: Path
) -> None:
    stand = Stand(redis, redis_url, tmp_path, retrain_events=20)
    stand.now_s += 2 * HOUR
    stand.accept(19)
    assert stand.watch.look() is None
    stand.accept(3)
    assert stand.watch.look() == 0
    assert stand.reasons == ["REASON=22 events since the last training"]
    stand.accept(30)
    assert stand.watch.look() is None, "the pause"
    stand.now_s += HOUR
    assert stand.watch.look() == 0
    assert stand.reasons[1] == "REASON=30 events since the last training"
    for partition in range(PARTITIONS):
        stand.redis.delete(event_stream_key(NAME, partition))
    stand.now_s += HOUR
    stand.accept(20)
    assert stand.watch.look() == 0, "an emptied Redis counts from 0"


def test_drift_begins_one_where_that_is_asked_for(redis: Redis, redis_url: RedisUrl, tmp_path: Path) -> None:
    stand = Stand(redis, redis_url, tmp_path, retrain_on_drift=True)
    stand.now_s += HOUR
    for nothing in (b"", b"{}"):
        redis.set(watched_key(NAME), nothing)
        assert stand.watch.look() is None
    stand.drift(is_drifted=False)
    assert stand.watch.look() is None
    stand.drift(is_drifted=True)
    assert stand.watch.look() == 0
    assert stand.reasons == ["REASON=drift of user_region"]
    assert stand.watch.look() is None


def test_the_clock_begins_one_once_a_time_that_was_missed_included(
    redis: Redis, redis_url: RedisUrl, tmp_path: Path
) -> None:
    stand = Stand(redis, redis_url, tmp_path, retrain_cron="0 4 * * *")
    assert stand.watch.look() is None
    stand.now_s += 48 * HOUR
    assert stand.watch.look() == 0
    assert stand.watch.look() is None
    assert len(stand.reasons) == 1
    assert "the schedule's time" in stand.reasons[0]


def test_one_that_failed_is_kept_as_failed_and_not_begun_again_at_once(
    redis: Redis, redis_url: RedisUrl, tmp_path: Path
) -> None:
    stand = Stand(redis, redis_url, tmp_path, status=3, retrain_events=1)
    stand.now_s += HOUR
    stand.accept(1)
    assert stand.watch.look() == 3
    record = json.loads(stand.redis.get(retrained_key(NAME)))
    assert (record["status"], record["reason"]) == (3, "1 events since the last training")
    assert stand.watch.look() is None
    assert "ended with status 3" in stand.said[-1]


def test_one_that_did_nothing_as_another_is_at_work_is_as_due_as_before(
    redis: Redis, redis_url: RedisUrl, tmp_path: Path
) -> None:
    stand = Stand(redis, redis_url, tmp_path, status=AT_WORK, retrain_events=20, retrain_cron="0 4 * * *")
    begun = redis.get(retrained_key(NAME))
    stand.now_s += 48 * HOUR
    stand.accept(20)
    for tries in (1, 2):
        assert stand.watch.look() == AT_WORK
        assert len(stand.reasons) == tries
        assert redis.get(retrained_key(NAME)) == begun


def test_one_that_is_due_waits_for_another_that_is_at_work(
    redis: Redis, redis_url: RedisUrl, tmp_path: Path
) -> None:
    stand = Stand(redis, redis_url, tmp_path, retrain_cron="0 4 * * *")
    stand.now_s += 48 * HOUR
    with alone(stand.var):
        assert stand.watch.look() is None
        assert stand.reasons == []
    assert stand.watch.look() == 0
    assert len(stand.reasons) == 1


def test_to_look_whether_one_is_at_work_makes_no_lock(tmp_path: Path) -> None:
    assert not is_at_work(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with alone(tmp_path):
        assert is_at_work(tmp_path)
    assert not is_at_work(tmp_path)


def test_events_are_counted_from_a_training_by_hand_on(
    redis: Redis, redis_url: RedisUrl, tmp_path: Path
) -> None:
    stand = Stand(redis, redis_url, tmp_path, retrain_events=20)
    stand.now_s += 2 * HOUR
    stand.accept(19)
    by_hand = TriedTrainings(redis, NAME)
    by_hand.keep(Tried(stand.now_s, by_hand.events(), "by hand", 0))
    stand.now_s += 2 * HOUR
    stand.accept(19)
    assert stand.watch.look() is None
    stand.accept(1)
    assert stand.watch.look() == 0
    assert stand.reasons == ["REASON=20 events since the last training"]


def test_it_ends_when_told(redis: Redis, redis_url: RedisUrl, tmp_path: Path) -> None:
    stand, stop = Stand(redis, redis_url, tmp_path), threading.Event()
    thread = threading.Thread(target=stand.watch.keep, args=(stop,))
    thread.start()
    time.sleep(0.3)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("cron", ["99 * * * *", "often"])
def test_a_wrong_cron_is_refused(cron: str) -> None:
    with pytest.raises(ValueError, match="cron"):
        BatchSettings(retrain_cron=cron)
