"""Whatever is killed or stands still, and whenever: what is published is whole, and of the rightful run."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

from redis import Redis

from batch.runs.lock import RunLock
from batch.runs.records import RunState
from batch.runs.registry import RunRegistry
from contract.environment import RedisUrl
from contract.slates import Published
from tests.builders.runs import DATASET, make_record, store_slates, stored

KILLS = 12
PUBLISHES = """
import sys
from redis import Redis
from batch.runs.lock import RunLock
from batch.runs.registry import RunRegistry
from tests.builders.runs import DATASET, make_record, store_slates
redis = Redis.from_url(sys.argv[1])
registry = RunRegistry(redis, DATASET)
print("ready", flush=True)
while True:
    number = redis.incr("number")
    with RunLock(redis, DATASET, seconds=0.5) as lock:
        lineage = registry.published().lineage
        is_partial = lineage and number % 3 and len(lineage) < 4
        record = make_record(f"r-{number}", parent=lineage[0] if is_partial else None)
        registry.save(record)
        store_slates(redis, record.run)
        registry.publish(record, lock)
        if number % 5 == 0:
            registry.rollback(lock)
"""
STALLS = """
import sys
from redis import Redis
from batch.errors import BatchError
from batch.runs.lock import RunLock
from batch.runs.registry import RunRegistry
from tests.builders.runs import DATASET, make_record, store_slates
redis = Redis.from_url(sys.argv[1])
with RunLock(redis, DATASET, seconds=0.5) as lock:
    record = make_record("r-1")
    RunRegistry(redis, DATASET).save(record)
    store_slates(redis, "r-1")
    print("stored", flush=True)
    sys.stdin.readline()
    try:
        RunRegistry(redis, DATASET).publish(record, lock)
    except BatchError as error:
        print(error, flush=True)
"""


def start(script: str, url: RedisUrl) -> subprocess.Popen[str]:
    """Starts a process, and waits until it says its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, url.get_secret_value()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def test_a_kill_at_any_instant_leaves_what_is_published_whole(redis: Redis, redis_url: RedisUrl) -> None:
    rng = random.Random(0)
    registry = RunRegistry(redis, DATASET)
    seen = set()
    for _ in range(KILLS):
        process = start(PUBLISHES, redis_url)
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        process.wait()
        published = registry.published()
        runs = {*published.lineage, *published.former}
        assert runs <= stored(redis), "all that is read, or may be rolled back to, has its slates"
        records = [registry.get(run) for run in runs]
        assert all(record is not None and record.state is RunState.PUBLISHED for record in records)
        seen.add(published.lineage)
    assert len(seen) > KILLS / 2, "the kills fell between publications"


def test_a_run_that_stood_still_while_another_published_does_not_publish(
    redis: Redis, redis_url: RedisUrl
) -> None:
    process = start(STALLS, redis_url)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.send_signal(signal.SIGSTOP)
        with RunLock(redis, DATASET, seconds=0.5) as lock:  # waits for the other's to expire
            store_slates(redis, "r-2")
            RunRegistry(redis, DATASET).publish(make_record("r-2"), lock)
            process.send_signal(signal.SIGCONT)
            process.stdin.write("\n")
            process.stdin.flush()
            said = process.stdout.readline()
        assert process.wait(60) == 0
    finally:
        process.kill()
    assert said.startswith("the lock of small was lost: ")
    assert RunRegistry(redis, DATASET).published() == Published(("r-2",))
