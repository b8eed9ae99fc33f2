"""A run that dies at any point publishes nothing, and goes on where it stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from batch.compute.users import Selection
from batch.errors import BatchError
from batch.runs.lock import RunLock
from batch.runs.plan import RunPlan
from batch.runs.records import RunRecord, RunState
from batch.runs.registry import RunRegistry
from contract.keys import batch_lock_key, slate_key
from contract.slates import Published
from tests.builders.batch import BatchWorld
from tests.builders.runs import make_record, store_slates

FORMER = "r-1"
START_S = 240.0
LEFT_S = 60.0
"""The last ones look for the dead run for 15 seconds; the machine may be busy."""


@pytest.fixture
def world(batch_world: BatchWorld) -> Iterator[BatchWorld]:
    """Gives the world with a published run, which must stay what is read."""
    batch_world.forget()
    with RunLock(batch_world.redis, "tiny") as lock:
        store_slates(batch_world.redis, FORMER)
        registry(batch_world).publish(make_record(FORMER, dataset="tiny"), lock)
    yield batch_world
    batch_world.redis.config_set("maxmemory", 0)


def registry(world: BatchWorld) -> RunRegistry:
    return RunRegistry(world.redis, "tiny")


def still_read(world: BatchWorld) -> bool:
    """Whether what was published before is what is read, and is there."""
    keys = [slate_key(FORMER, user_id) for user_id in range(3)]
    return registry(world).published() == Published((FORMER,)) and world.redis.exists(*keys) == 3


def folder_of(world: BatchWorld) -> Path:
    (folder,) = (path for path in (world.var / "batch" / "tiny").iterdir() if path.is_dir())
    return folder


def made_at_ms(folder: Path) -> dict[str, list[int]]:
    """Gives when the slates of each finished shard were made."""
    parts = sorted((folder / "slates").glob("part-*.parquet"))
    return {part.name: pq.read_table(part)["made_at_ms"].to_pylist() for part in parts}


def interrupt(world: BatchWorld, one_ray: int) -> None:
    """Begins a run that is interrupted once its first shard is done."""

    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    job, _ = world.job(stop, workers=one_ray)
    with pytest.raises(KeyboardInterrupt):
        job.run(Selection())


def finish(world: BatchWorld, one_ray: int, progress: Any = lambda *_: None, **changed: Any) -> RunRecord:
    """Runs the same command again: it goes on, computes nothing twice, and publishes everyone."""
    folder, done = folder_of(world), made_at_ms(folder_of(world))
    assert still_read(world)
    job, said = world.job(progress, workers=one_ray, **changed)
    record = job.run(Selection())
    assert record.run == folder.name
    assert said[0].startswith(f"run {record.run} goes on: ")
    after = made_at_ms(folder)
    assert len(after) > len(done)
    assert {name: after[name] for name in done} == done
    assert set(world.slates(record.run)) == set(world.world.user_ids[1:])
    assert (record.users, record.done, record.skipped) == (1004, 1000, {"unknown": 4})
    assert registry(world).published() == Published((record.run,), (FORMER,))
    assert registry(world).get(record.run) == record
    return record


def test_a_full_redis_is_told_and_then_gone_on_with_even_where_a_worker_is_killed(
    world: BatchWorld, one_ray: int
) -> None:
    def fill(*_: int) -> None:
        world.redis.config_set("maxmemory", world.redis.info("memory")["used_memory"])

    job, _ = world.job(fill, workers=one_ray)
    with pytest.raises(BatchError, match="is full; raise its maxmemory") as caught:
        job.run(Selection())
    assert "\n" not in str(caught.value)
    assert still_read(world)
    with pytest.raises(BatchError, match="is full"):
        world.job()[0].run(Selection())
    world.redis.config_set("maxmemory", 0)
    assert 0 < len(made_at_ms(folder_of(world))) < 16
    killed: list[psutil.Process] = []

    def kill_one(*_: int) -> None:
        if not killed:
            workers = [child for child in psutil.Process().children(recursive=True) if is_worker(child)]
            killed.append(max(workers, key=lambda child: child.create_time()))
            killed[0].kill()

    finish(world, one_ray, kill_one)
    assert killed
    assert not killed[0].is_running()


def is_worker(process: psutil.Process) -> bool:
    try:
        return "MapWorker" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; a zombie does not, whose new parent does not look after it."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def test_who_lost_the_lock_publishes_nothing_and_leaves_the_run_to_the_other(
    world: BatchWorld, one_ray: int
) -> None:
    def lose(*_: int) -> None:
        world.redis.set(batch_lock_key("tiny"), "another")

    job, _ = world.job(lose, workers=one_ray, lock_s=3)
    with pytest.raises(BatchError, match="lock"):
        job.run(Selection())
    assert still_read(world)
    assert registry(world).last()[0].state is RunState.RUNNING
    assert world.redis.get(batch_lock_key("tiny")) == b"another"
    world.redis.delete(batch_lock_key("tiny"))


def test_slates_that_redis_lost_are_computed_again(world: BatchWorld, one_ray: int) -> None:
    """The files of some shards are there, and Redis came back without their slates."""
    interrupt(world, one_ray)
    folder = folder_of(world)
    record = registry(world).get(folder.name)
    assert record is not None
    assert (record.state, record.error[:11]) == (RunState.FAILED, "interrupted")
    plan = RunPlan.load(folder)
    assert plan is not None
    assert plan.run == folder.name
    done = made_at_ms(folder)
    assert done
    world.redis.unlink(*(slate_key(folder.name, user_id) for user_id in world.slates(folder.name)))
    job, _ = world.job(workers=one_ray)
    record = job.run(Selection())
    assert set(world.slates(record.run)) == set(world.world.user_ids[1:])
    assert record.done == 1000
    after = made_at_ms(folder)
    assert all(after[name] != done[name] for name in done)


def test_a_shard_that_a_worker_of_a_killed_run_ends_late_is_counted(world: BatchWorld, one_ray: int) -> None:
    """It is not done when the run says how many are, and is when the run looks what is to be computed."""
    interrupt(world, one_ray)
    part = min((folder_of(world) / "slates").glob("part-*.parquet"))
    late = part.rename(world.var / part.name)
    job, _ = world.job(workers=one_ray)
    say = job.say

    def end_late(line: str) -> None:
        if "goes on" in line:
            late.rename(part)
        say(line)

    job.say = end_late
    assert job.run(Selection()).done == 1000
    assert not late.exists()


def test_a_killed_process_publishes_nothing_leaves_no_process_and_is_gone_on_with(
    world: BatchWorld, one_ray: int, tmp_path: Path
) -> None:
    small = {"shard_users": 8, "step_users": 8}
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "batch"],
        env=os.environ | world.environment(**small),
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    batch, until = world.var / "batch", time.monotonic() + START_S
    while len(list(batch.glob("*/*/slates/part-*.parquet"))) < 3:
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < until
        time.sleep(0.005)
    family = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert world.redis.exists(batch_lock_key("tiny")), "whoever comes next waits until it expires"
    assert len(family) > 5
    assert still_read(world)
    until = time.monotonic() + LEFT_S
    while (left := [child for child in family if is_alive(child)]) and time.monotonic() < until:
        time.sleep(0.2)
    assert not left
    done = made_at_ms(folder_of(world))
    assert 3 <= len(done) < 126
    assert [record.state for record in registry(world).last()][:1] == [RunState.RUNNING]
    world.redis.delete(batch_lock_key("tiny"))
    finish(world, one_ray, **small)
