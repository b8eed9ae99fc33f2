"""Two runs never overlap, and a holder that died does not stand in the way for long."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from redis import Redis

from batch.errors import BatchError
from batch.runs.lock import RunLock, holder
from contract.environment import RedisUrl
from contract.keys import batch_lock_key

DATASET = "small"
HOLD = """
import sys, time
from redis import Redis
from batch.runs.lock import RunLock
with RunLock(Redis.from_url(sys.argv[1]), "small", seconds=1.0):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(url: RedisUrl) -> subprocess.Popen[str]:
    """Starts a process that holds the lock for as long as it lives."""
    command = [sys.executable, "-c", HOLD, url.get_secret_value()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_it_is_free_again_after_the_with(redis: Redis) -> None:
    with RunLock(redis, DATASET) as lock:
        assert not lock.is_lost
        assert f"process {lock.token.split('process ')[1].split(',')[0]}" in (holder(redis, DATASET) or "")
    assert holder(redis, DATASET) is None
    with RunLock(redis, DATASET):
        pass


def test_one_that_lives_keeps_the_others_out_beyond_the_expiry(redis: Redis, redis_url: RedisUrl) -> None:
    process = hold(redis_url)
    try:
        time.sleep(1.5)
        with pytest.raises(BatchError, match=rf"another run of small is at work \(.*process {process.pid}\)"):
            RunLock(redis, DATASET, seconds=1.0).__enter__()
    finally:
        process.kill()
        process.wait()


def test_the_next_one_takes_over_by_itself_where_the_holder_was_killed(
    redis: Redis, redis_url: RedisUrl
) -> None:
    process = hold(redis_url)
    process.kill()
    process.wait()
    assert holder(redis, DATASET) is not None, "nobody gave it back"
    with RunLock(redis, DATASET, seconds=1.0) as lock:
        assert not lock.is_lost


def test_locks_of_two_data_sets_are_two(redis: Redis) -> None:
    with RunLock(redis, DATASET), RunLock(redis, "other"):
        pass


def test_a_lock_that_was_taken_over_is_lost_and_not_given_back_by_the_first(redis: Redis) -> None:
    with RunLock(redis, DATASET, seconds=0.3) as lock:
        redis.set(batch_lock_key(DATASET), "another")
        deadline = time.monotonic() + 10
        while not lock.is_lost and time.monotonic() < deadline:
            time.sleep(0.02)
        assert lock.is_lost
    assert redis.get(batch_lock_key(DATASET)) == b"another"


def test_a_lock_that_could_not_be_renewed_in_time_counts_as_lost(redis: Redis) -> None:
    with RunLock(redis, DATASET, seconds=0.6) as lock:
        redis.client_pause(1200, all=False)  # as a Redis that is busy elsewhere
        time.sleep(0.9)
        assert lock.is_lost
        redis.client_unpause()
