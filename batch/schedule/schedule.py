"""`python -m batch schedule`: begins the runs that are due, each in a process of its own, one at a time.

What is due follows from what is published, so that nothing else must be remembered: a run that a schedule
missed, or that failed, is due until one was published that began after its time.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis.exceptions import RedisError

from batch.errors import BatchError, HeldError, explain
from batch.runs.changes import ChangedUsers
from batch.runs.lock import RunLock, holder
from batch.runs.records import RunRecord, Trigger
from batch.runs.registry import MOST_PARTIAL, RunRegistry
from batch.settings import BatchSettings
from contract.bundle import BundleError, Manifest, read_manifest
from ensemble.settings import EnsembleSettings
from ensemble.stores.client import connect

RUN = (sys.executable, "-m", "batch", "run")
GRACE_S = 30.0
"""What a run has to end by itself when the schedule ends."""
LONGEST_RETRY_S = 3600.0


def say(line: str) -> None:
    """Writes a line with its time."""
    sys.stdout.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {line}\n")
    sys.stdout.flush()


@dataclass(frozen=True)
class DueRun:
    """A run that should begin: what triggers it, of which bundle, why, and the options of the command."""

    trigger: Trigger
    bundle: str
    reason: str
    options: tuple[str, ...] = ()


class Schedule:
    """Looks what is due, and runs it; `command` is what begins a run."""

    def __init__(
        self,
        chain: EnsembleSettings,
        batch: BatchSettings,
        command: Sequence[str] = RUN,
        say: Callable[[str], None] = say,
    ) -> None:
        self.chain, self.batch, self.command, self.say = chain, batch, command, say
        self.redis: Any = connect(chain.redis_url, batch.redis_timeout_ms)
        self._last_problem = ""
        self._failed: tuple[DueRun, int, float] | None = None  # which, how often, and when it is tried again

    async def keep(self) -> None:
        """Looks and runs until SIGTERM or SIGINT, which end the run at work as well: within `GRACE_S` by
        itself, or at once after a second signal."""
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        for number in (signal.SIGTERM, signal.SIGINT):  # a shell's background ignores the latter
            loop.add_signal_handler(number, task.cancel)
        batch, slot, when = self.batch, self.batch.slot_after(time.time()), "by events alone"
        if slot is not None:
            when = f"at `{batch.cron}` ({batch.timezone}), next {slot:%Y-%m-%d %H:%M %Z}"
        self.say(
            f"everyone {when}; every {batch.poll_s:g} s a look for a new bundle, and for more than "
            f"{batch.changed_users:,} changed users"
        )
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await self.look()
                await asyncio.sleep(self._pause_s(time.time()))
        self.say("the schedule ended")

    async def look(self) -> None:
        """Runs what is due; whatever stands in the way is said once, and looked at again the next time."""
        problem = ""
        try:
            manifest = read_manifest(self.chain.bundle, verify=False)
            # Of several schedules one looks at a time, so that they do not all begin the same run.
            with RunLock(self.redis, f"{manifest.dataset}:schedule", self.batch.lock_s, waits=False) as lock:
                due = self.due(manifest)
                if due is not None and not lock.is_lost:
                    await self._run(due)
        except HeldError:
            return  # another schedule looks
        except (BundleError, BatchError) as error:
            problem = str(error)
        except RedisError as error:
            problem = explain(error, self.chain.redis_url)
        if problem and problem != self._last_problem:
            self.say(problem)
        self._last_problem = problem

    def due(self, manifest: Manifest) -> DueRun | None:
        """Says which run should begin now; None where none should, or one is at work."""
        if holder(self.redis, manifest.dataset) is not None:
            return None
        registry = RunRegistry(self.redis, manifest.dataset)
        published = registry.published()
        # The last run that was published is either read, or was rolled back: then it is the former one. Who
        # rolled back does not want the same bundle's run again at once.
        last = _latest(registry, (*published.lineage[:1], *published.former[:1]))
        if last is None:
            return DueRun(Trigger.BUNDLE, manifest.bundle, "nothing is published")
        if last.bundle != manifest.bundle:
            return DueRun(Trigger.BUNDLE, manifest.bundle, f"bundle {manifest.bundle} was promoted")
        full = _latest(registry, (*published.lineage[-1:], *published.former[-1:])) or last
        slot = self.batch.slot_after(full.started_at_s)  # of several that were missed, the first counts
        if slot is not None and slot.timestamp() <= registry.now_s():
            reason = f"it is the schedule's time: {slot:%Y-%m-%d %H:%M %Z}"
            return DueRun(Trigger.SCHEDULE, manifest.bundle, reason)
        count = ChangedUsers(self.redis, manifest.dataset).count()
        if count <= self.batch.changed_users or last.run != published.lineage[0]:
            return None
        reason = f"{count:,} users changed"
        if len(published.lineage) > MOST_PARTIAL:
            reason += f", and the last {MOST_PARTIAL} runs were partial"
            return DueRun(Trigger.CHANGES, manifest.bundle, reason)
        return DueRun(Trigger.CHANGES, manifest.bundle, reason, ("--changed",))

    def _pause_s(self, now_s: float) -> float:
        """Gives the seconds to the next look, which meets the schedule's next time."""
        slot = self.batch.slot_after(now_s)
        return self.batch.poll_s if slot is None else min(self.batch.poll_s, slot.timestamp() - now_s)

    async def _run(self, due: DueRun) -> None:
        """Runs it to its end; one that failed is tried again after a while, which doubles each time."""
        key = DueRun(due.trigger, due.bundle, "", due.options)
        failed, attempts, again_s = self._failed or (None, 0, 0.0)
        if failed != key:
            attempts = 0
        elif time.monotonic() < again_s:
            return
        self.say(f"{due.trigger}: {due.reason}; a run begins")
        # A session of its own: what a terminal sends to the schedule is passed on by it alone.
        run = await asyncio.create_subprocess_exec(
            *self.command, "--trigger", str(due.trigger), *due.options, start_new_session=True
        )
        try:
            status = await run.wait()
        except asyncio.CancelledError:
            await _end(run)
            self.say("the run was ended; the next one goes on where it stopped")
            raise
        if status:
            wait_s = min(self.batch.retry_s * 2**attempts, LONGEST_RETRY_S)
            self._failed = (key, attempts + 1, time.monotonic() + wait_s)
            self.say(f"{due.trigger}: the run ended with status {status}; tried again in {wait_s:.0f} s")
        else:
            self._failed = None
            self.say(f"{due.trigger}: the run ended well")


async def _end(run: asyncio.subprocess.Process) -> None:
    """Ends a run: what it computed is kept, and the next one goes on."""
    try:
        run.terminate()
        await asyncio.wait_for(run.wait(), GRACE_S)
    except (TimeoutError, asyncio.CancelledError):
        run.kill()
        await run.wait()
    except ProcessLookupError:
        pass  # it had ended by itself


def _latest(registry: RunRegistry, runs: Sequence[str]) -> RunRecord | None:
    """Gives the record of the run that began last; None where none has one."""
    records = [record for run in runs if (record := registry.get(run)) is not None]
    return max(records, key=lambda record: record.started_at_s, default=None)
