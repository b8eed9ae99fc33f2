"""`python -m batch schedule`: runs what is due, each in a process of its own, one at a time.

What is due is found out from what is published, so that nothing else must be remembered: a run that a
schedule missed, or that failed, is due until one was published that began after its time.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.interval import IntervalTrigger
from redis.exceptions import RedisError

from batch.errors import BatchError, HeldError, explain
from batch.runs.changes import ChangedUsers
from batch.runs.lock import RunLock, holder
from batch.runs.records import Trigger
from batch.runs.registry import MOST_PARTIAL, Registry
from batch.schedule.cron import cron_trigger, next_time
from batch.settings import BatchSettings
from contract.bundle import BundleError, Manifest, read_manifest
from ensemble.settings import EnsembleSettings
from ensemble.stores.client import connect

RUN = (sys.executable, "-m", "batch", "run")
GRACE_S = 30.0
"""What a run has to end by itself when the schedule ends."""
LONGEST_RETRY_S = 3600.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Due:
    """A run that should begin: why, of which bundle, and the options of the command."""

    trigger: Trigger
    bundle: str
    why: str
    options: tuple[str, ...] = ()


class Watch:
    """Looks what is due, and runs it; `command` is what begins a run."""

    def __init__(
        self,
        chain: EnsembleSettings,
        batch: BatchSettings,
        cron: BaseTrigger | None,
        say: Say,
        command: Sequence[str] = RUN,
    ) -> None:
        self.chain, self.batch, self.cron, self.say, self.command = chain, batch, cron, say, command
        self.redis: Any = connect(chain.redis_url, batch.redis_timeout_ms)
        self._said = ""
        self._failed: tuple[Due, int, float] | None = None  # which, how often, and when it is tried again
        self._child: subprocess.Popen[bytes] | None = None
        self._is_ending = False
        self._starts = threading.Lock()

    def look(self) -> None:
        """Runs what is due; whatever stands in the way is told once, and looked at again the next time."""
        try:
            manifest = read_manifest(self.chain.bundle, verify=False)
            # Of several schedules one looks at a time, so that they do not all begin the same run.
            with RunLock(self.redis, f"{manifest.dataset}:schedule", self.batch.lock_s, waits=False) as lock:
                due = self.due(manifest)
                if due is not None and not lock.is_lost:
                    self._run(due)
        except HeldError:
            pass  # another schedule looks
        except (BundleError, BatchError) as error:
            self._once(str(error))
        except RedisError as error:
            self._once(explain(error, self.chain.redis_url))
        else:
            self._said = ""

    def due(self, manifest: Manifest) -> Due | None:
        """Says which run should begin now; None where none should, or one is at work."""
        if holder(self.redis, manifest.dataset) is not None:
            return None
        registry = Registry(self.redis, manifest.dataset)
        published = registry.published()
        # The last run that was published is either read, or was rolled back: then it is the former one. Who
        # rolled back does not want the same bundle's run again at once.
        ends = (published.lineage[:1], published.former[:1])
        last = max((r for run in ends for r in map(registry.get, run) if r), key=_begin, default=None)
        if last is None:
            return Due(Trigger.BUNDLE, manifest.bundle, "nothing is published")
        if last.bundle != manifest.bundle:
            return Due(Trigger.BUNDLE, manifest.bundle, f"bundle {manifest.bundle} was promoted")
        starts = (published.lineage[-1:], published.former[-1:])
        full = max((r for run in starts for r in map(registry.get, run) if r), key=_begin, default=last)
        if (slot := self._slot_since(full.started_at_s, registry.now_s())) is not None:
            return Due(
                Trigger.SCHEDULE, manifest.bundle, f"it is the schedule's time: {slot:%Y-%m-%d %H:%M %Z}"
            )
        count = ChangedUsers(self.redis, manifest.dataset).count()
        is_read = last.run == published.lineage[0]
        if count <= self.batch.changed_users or not is_read:
            return None
        why = f"{count:,} users changed"
        if len(published.lineage) > MOST_PARTIAL:
            return Due(
                Trigger.CHANGES, manifest.bundle, f"{why}, and the last {MOST_PARTIAL} runs were partial"
            )
        return Due(Trigger.CHANGES, manifest.bundle, why, ("--changed",))

    def end(self) -> None:
        """Ends the run that is at work, if any: what it computed is kept, and the next one goes on."""
        with self._starts:
            self._is_ending = True
            child = self._child
        if child is None or child.poll() is not None:
            return
        child.terminate()
        try:
            child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _slot_since(self, since_s: float, now_s: float) -> datetime | None:
        """Gives the first time of the schedule after an instant, where it is over; several count as one."""
        if self.cron is None:
            return None
        slot = next_time(self.cron, datetime.fromtimestamp(since_s, UTC))
        return slot if slot is not None and slot.timestamp() <= now_s else None

    def _run(self, due: Due) -> None:
        """Runs it to its end; one that failed is tried again after a while, which doubles each time."""
        key = Due(due.trigger, due.bundle, "", due.options)
        failed, attempts, again_s = self._failed or (None, 0, 0.0)
        if failed != key:
            attempts = 0
        elif time.monotonic() < again_s:
            return
        with self._starts:
            if self._is_ending:
                return
            self.say(f"{due.trigger}: {due.why}; a run begins")
            command = [*self.command, "--trigger", str(due.trigger), *due.options]
            # A session of its own: what a terminal sends to the schedule is passed on by `end` alone.
            self._child = subprocess.Popen(command, start_new_session=True)
        status = self._child.wait()
        self._child = None
        if self._is_ending:
            self.say("the run was ended; the next one goes on where it stopped")
        elif status:
            wait_s = min(self.batch.retry_s * 2**attempts, LONGEST_RETRY_S)
            self._failed = (key, attempts + 1, time.monotonic() + wait_s)
            self.say(f"{due.trigger}: the run ended with status {status}; tried again in {wait_s:.0f} s")
        else:
            self._failed = None
            self.say(f"{due.trigger}: the run ended well")

    def _once(self, line: str) -> None:
        if line != self._said:
            self._said = line
            self.say(line)


def keep_schedule(
    chain: EnsembleSettings, batch: BatchSettings, command: Sequence[str] = RUN, say: Say | None = None
) -> int:
    """Looks and runs until SIGTERM or SIGINT, which end the run at work as well; 0, or 2 where the schedule
    is none."""
    try:
        cron = cron_trigger(batch.cron, batch.timezone) if batch.cron else None
    except ValueError as error:
        sys.stderr.write(
            f"SHORTLIST_BATCH_CRON={batch.cron}, SHORTLIST_BATCH_TIMEZONE={batch.timezone}: {error}\n"
        )
        return 2
    logging.getLogger("apscheduler").setLevel(logging.ERROR)  # a look that is still at work is no news
    say = say or _say
    watch = Watch(chain, batch, cron, say, command)
    scheduler = BlockingScheduler(
        executors={"default": ThreadPoolExecutor(1)},
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        timezone=UTC,
    )
    now = datetime.now(UTC)
    scheduler.add_job(watch.look, IntervalTrigger(seconds=batch.poll_s, timezone=UTC), next_run_time=now)
    told = "by events alone"
    if cron is not None:
        scheduler.add_job(watch.look, cron)
        told = f"at `{batch.cron}` ({batch.timezone}), next {next_time(cron, now):%Y-%m-%d %H:%M %Z}"
    say(
        f"everyone {told}; every {batch.poll_s:g} s a look for a new bundle, and for more than "
        f"{batch.changed_users:,} changed users"
    )
    for number in (signal.SIGTERM, signal.SIGINT):  # the latter may be ignored, in a background of a shell
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        scheduler.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    watch.end()
    scheduler.shutdown()
    say("the schedule ended")
    return 0


def _begin(record: Any) -> float:
    began_s: float = record.started_at_s
    return began_s


def _say(line: str) -> None:
    sys.stdout.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {line}\n")
    sys.stdout.flush()
