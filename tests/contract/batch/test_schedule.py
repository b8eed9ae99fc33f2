"""What is due is run once: by the clock, after a new bundle, after enough changes; missed times included."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis import Redis

from batch.runs.changes import ChangedUsers
from batch.runs.lock import RunLock
from batch.runs.records import RunRecord, Trigger
from batch.runs.registry import MOST_PARTIAL, RunRegistry
from batch.schedule.schedule import DueRun, Schedule
from batch.settings import BatchSettings
from contract.bundle import Manifest, read_manifest
from contract.environment import RedisUrl
from ensemble.settings import EnsembleSettings
from tests.builders.runs import make_record, store_slates
from tests.builders.triton import make_world

DATASET = "tiny"
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
PUBLISHES = """
import sys, time
from redis import Redis
from batch.runs.lock import RunLock
from batch.runs.registry import RunRegistry
from tests.builders.runs import make_record, store_slates
url, begun, *options = sys.argv[1:]
with open(begun, "a") as file:
    file.write(" ".join(options) + "\\n")
redis = Redis.from_url(url)
with RunLock(redis, "tiny") as lock:
    registry = RunRegistry(redis, "tiny")
    run = f"r-{time.time_ns()}"
    record = make_record(run, dataset="tiny", bundle="tiny-1", started_at_s=registry.now_s())
    time.sleep(0.5)
    store_slates(redis, run)
    registry.publish(record, lock)
"""
FAILS = "import sys; open(sys.argv[2], 'a').write('failed\\n'); sys.exit(1)"


@dataclass
class Stand:
    """A schedule over a real Redis, whose runs are small processes of the test's own."""

    redis: Redis
    url: RedisUrl
    folder: Path
    said: list[str]

    @property
    def secret_url(self) -> str:
        return self.url.get_secret_value()

    @property
    def registry(self) -> RunRegistry:
        return RunRegistry(self.redis, DATASET)

    @property
    def manifest(self) -> Manifest:
        return read_manifest(self.folder / "bundle", verify=False)

    @property
    def runs(self) -> list[str]:
        """The options of every run that was begun."""
        begun = self.folder / "begun"
        return begun.read_text().splitlines() if begun.exists() else []

    def schedule(self, script: str = PUBLISHES, **settings: Any) -> Schedule:
        chain = EnsembleSettings(redis_url=self.url, bundle_dir=self.folder / "bundle", var_dir=self.folder)
        command = (sys.executable, "-c", script, self.secret_url, str(self.folder / "begun"))
        return Schedule(chain, BatchSettings(**settings), command, self.said.append)

    def due(self, cron: str = "", **settings: Any) -> DueRun | None:
        return self.schedule(cron=cron, **settings).due(self.manifest)

    def publish(self, run: str, began: datetime, **changes: object) -> None:
        made = {"dataset": DATASET, "bundle": "tiny-1", "started_at_s": began.timestamp()}
        record: RunRecord = make_record(run, **(made | changes))
        with RunLock(self.redis, DATASET) as lock:
            store_slates(self.redis, run)
            self.registry.publish(record, lock)


@pytest.fixture
def stand(redis: Redis, redis_url: RedisUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    monkeypatch.setattr(RunRegistry, "now_s", lambda _: NOON.timestamp())
    make_world(tmp_path / "bundle")
    return Stand(redis, redis_url, tmp_path, [])


def ago(**since: float) -> datetime:
    return NOON - timedelta(**since)


def test_the_first_run_is_due_at_once(stand: Stand) -> None:
    due = stand.due()
    assert due is not None
    assert (due.trigger, due.bundle, due.options) == (Trigger.BUNDLE, "tiny-1", ())


def test_nothing_is_due_before_the_next_time(stand: Stand) -> None:
    stand.publish("r-1", ago(hours=2))
    assert stand.due() is None
    assert stand.due("0 3 * * *") is None


def test_a_time_that_passed_since_the_last_full_run_is_due(stand: Stand) -> None:
    stand.publish("r-1", ago(days=5))
    due = stand.due("0 3 * * *")
    assert due is not None
    assert due.trigger is Trigger.SCHEDULE
    stand.publish("r-2", ago(hours=1))
    assert stand.due("0 3 * * *") is None, "five missed times are one run"


def test_a_partial_run_does_not_stand_in_for_the_schedule(stand: Stand) -> None:
    stand.publish("r-1", ago(days=1))
    stand.publish("r-2", ago(hours=1), parent="r-1")
    due = stand.due("0 3 * * *")
    assert due is not None
    assert due.trigger is Trigger.SCHEDULE
    stand.publish("r-3", ago(hours=1))
    stand.publish("r-4", ago(minutes=30), parent="r-3")
    assert stand.due("0 3 * * *") is None


def test_another_bundle_is_a_run_of_everyone(stand: Stand) -> None:
    stand.publish("r-1", ago(hours=1), bundle="tiny-0")
    due = stand.due()
    assert due is not None
    assert (due.trigger, due.options) == (Trigger.BUNDLE, ())


def test_who_rolled_back_does_not_get_the_same_run_again(stand: Stand) -> None:
    stand.publish("r-1", ago(hours=2), bundle="tiny-0")
    stand.publish("r-2", ago(hours=1))
    with RunLock(stand.redis, DATASET) as lock:
        stand.registry.rollback(lock)
    ChangedUsers(stand.redis, DATASET).note(np.arange(20), ago(minutes=1).timestamp())
    assert stand.due(changed_users=10) is None
    assert stand.due("0 3 * * *") is None
    late = stand.due("30 11 * * *")
    assert late is not None, "the schedule's next time is another matter"
    assert late.trigger is Trigger.SCHEDULE


def test_more_changed_users_than_the_setting_are_a_partial_run(stand: Stand) -> None:
    stand.publish("r-1", ago(hours=1))
    noted = ChangedUsers(stand.redis, DATASET)
    noted.note(np.arange(10), ago(minutes=1).timestamp())
    assert stand.due(changed_users=10) is None
    noted.note(np.arange(11), ago(minutes=1).timestamp())
    due = stand.due(changed_users=10)
    assert due is not None
    assert (due.trigger, due.options) == (Trigger.CHANGES, ("--changed",))


def test_many_partial_runs_are_followed_by_a_full_one(stand: Stand) -> None:
    stand.publish("r-0", ago(hours=1))
    for number in range(MOST_PARTIAL):
        stand.publish(f"r-{number + 1}", ago(minutes=30 - number), parent=f"r-{number}")
    ChangedUsers(stand.redis, DATASET).note(np.arange(11), ago(minutes=1).timestamp())
    due = stand.due(changed_users=10)
    assert due is not None
    assert (due.trigger, due.options) == (Trigger.CHANGES, ())


def test_nothing_is_due_while_a_run_is_at_work(stand: Stand) -> None:
    with RunLock(stand.redis, DATASET):
        assert stand.due() is None
    assert stand.due() is not None


def test_a_look_runs_what_is_due_and_the_next_finds_nothing(stand: Stand) -> None:
    schedule = stand.schedule()
    asyncio.run(schedule.look())
    asyncio.run(schedule.look())
    assert stand.runs == ["--trigger bundle"]
    assert len(stand.registry.published().lineage) == 1


def test_of_two_schedules_one_runs(stand: Stand) -> None:
    """As on two machines: each looks again and again while the other's run is at work, and after it."""
    script = textwrap.dedent(
        """
        import asyncio, sys, time
        from pathlib import Path
        from batch.schedule.schedule import Schedule
        from batch.settings import BatchSettings
        from ensemble.settings import EnsembleSettings
        url, folder, publishes = sys.argv[1:]
        chain = EnsembleSettings(redis_url=url, bundle_dir=Path(folder) / "bundle")
        command = (sys.executable, "-c", publishes, url, folder + "/begun")
        schedule = Schedule(chain, BatchSettings(), command, print)
        for _ in range(40):
            asyncio.run(schedule.look())
            time.sleep(0.1)
        """
    )
    command = [sys.executable, "-c", script, stand.secret_url, str(stand.folder), PUBLISHES]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert stand.runs == ["--trigger bundle"]


def test_a_run_that_failed_is_tried_again_after_a_while(stand: Stand) -> None:
    schedule = stand.schedule(script=FAILS, retry_s=1)
    asyncio.run(schedule.look())
    asyncio.run(schedule.look())
    assert stand.runs == ["failed"]
    assert stand.said[-1] == "bundle: the run ended with status 1; tried again in 1 s"
    time.sleep(1.1)
    asyncio.run(schedule.look())
    assert stand.runs == ["failed", "failed"]
    assert stand.said[-1] == "bundle: the run ended with status 1; tried again in 2 s"


def test_another_run_that_is_due_does_not_wait_for_one_that_failed(stand: Stand) -> None:
    schedule = stand.schedule(script=FAILS, retry_s=1000)
    asyncio.run(schedule.look())
    stand.publish("r-1", ago(days=2))
    asyncio.run(schedule.look())
    assert len(stand.runs) == 1, "nothing is due now"
    stand.publish("r-2", ago(days=1), bundle="tiny-0")
    asyncio.run(schedule.look())
    assert len(stand.runs) == 1, "the same run as the one that failed"
    schedule.batch = BatchSettings(cron="0 3 * * *", retry_s=1000)
    stand.publish("r-3", ago(days=1))
    asyncio.run(schedule.look())
    assert len(stand.runs) == 2


def test_what_stands_in_the_way_is_told_once(stand: Stand) -> None:
    schedule = stand.schedule()
    (stand.folder / "bundle" / "manifest.json").rename(stand.folder / "away")
    asyncio.run(schedule.look())
    asyncio.run(schedule.look())
    assert len(stand.said) == 1
    assert "manifest.json: not found" in stand.said[0]
    (stand.folder / "away").rename(stand.folder / "bundle" / "manifest.json")
    asyncio.run(schedule.look())
    assert stand.runs == ["--trigger bundle"]


def test_an_unreachable_redis_is_told_and_looked_at_again(stand: Stand) -> None:
    stand = replace(stand, url=RedisUrl("redis://127.0.0.1:1"))
    schedule = stand.schedule()
    asyncio.run(schedule.look())
    assert "Redis at 127.0.0.1:1: " in stand.said[0]
    assert "set SHORTLIST_REDIS_URL" in stand.said[0]


SLEEPS = """
import os, sys, time, pathlib
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(120)
"""
KEEPS = """
import asyncio, sys
from pathlib import Path
from batch.schedule.schedule import Schedule
from batch.settings import BatchSettings
from ensemble.settings import EnsembleSettings
url, folder, *command = sys.argv[1:]
chain = EnsembleSettings(redis_url=url, bundle_dir=Path(folder) / "bundle")
asyncio.run(Schedule(chain, BatchSettings(poll_s=0.2), (sys.executable, "-c", *command)).keep())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_schedule_and_its_run(stand: Stand, number: signal.Signals) -> None:
    pid = stand.folder / "pid"
    command = [sys.executable, "-c", KEEPS, stand.secret_url, str(stand.folder), SLEEPS, str(pid)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_until(lambda: pid.exists() and bool(pid.read_text()))
        child = int(pid.read_text())
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert "the schedule ended" in output
    assert "Traceback" not in output
    assert not Path(f"/proc/{child}").exists()


def test_a_second_signal_ends_a_run_that_does_not_end_by_itself(stand: Stand) -> None:
    pid = stand.folder / "pid"
    script = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPS
    process = subprocess.Popen(
        [sys.executable, "-c", KEEPS, stand.secret_url, str(stand.folder), script, str(pid)]
    )
    try:
        wait_until(lambda: pid.exists() and bool(pid.read_text()))
        process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
    assert not Path(f"/proc/{pid.read_text()}").exists()


def test_the_clock_itself_begins_a_run(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a look only every hour, nothing but the cron expression can begin the second run."""
    monkeypatch.undo()
    script = KEEPS.replace("BatchSettings(poll_s=0.2)", "BatchSettings(poll_s=3600, cron='* * * * *')")
    runs = [PUBLISHES, stand.secret_url, str(stand.folder / "begun")]
    process = subprocess.Popen([sys.executable, "-c", script, stand.secret_url, str(stand.folder), *runs])
    try:
        wait_until(lambda: len(stand.runs) >= 2)
    finally:
        process.terminate()
        process.wait(60)
    assert stand.runs[:2] == ["--trigger bundle", "--trigger schedule"]


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 150
    while not is_so():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)
