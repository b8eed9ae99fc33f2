"""`python -m batch retraining`: begins a training when it is due: by the clock, by drift, by enough events.

What was tried last stands in Redis, so that a restart repeats nothing; a training is a process of its own,
and its lock keeps two apart, whoever begins them. One that is due while another is at work waits for its end.
"""

from __future__ import annotations

import shlex
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from batch.errors import explain
from batch.schedule.training_lock import AT_WORK, is_at_work
from batch.schedule.tried import Tried, TriedTrainings
from batch.settings import BatchSettings
from contract.environment import RedisUrl
from contract.keys import watched_key
from contract.watched import Watched


class Retraining:
    """Looks whether a training is due, and runs it to its end."""

    def __init__(
        self,
        redis: Redis,
        url: RedisUrl,
        dataset: str,
        var: Path,
        settings: BatchSettings,
        say: Callable[[str], None],
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """`var` is the run-time folder, in which a training that is at work holds its lock."""
        self._redis: Any = redis
        self._tried = TriedTrainings(redis, dataset)
        self._url, self._dataset, self._var, self._settings = url, dataset, var, settings
        self._say, self._now_s = say, now_s

    def keep(self, stop: threading.Event) -> None:
        """Looks and runs until told to stop; a training at work goes on to its end."""
        problem = ""
        while not stop.is_set():
            try:
                self.look()
                problem = ""
            except RedisError as error:
                if (message := explain(error, self._url)) != problem:
                    self._say(message)
                    problem = message
            stop.wait(self._settings.poll_s)

    def look(self) -> int | None:
        """Runs what is due; gives the status with which it ended, None where nothing was, or another training
        is at work: `make` would not tell that by its status."""
        reason = self.due()
        if reason is None or is_at_work(self._var):
            return None
        former, tried = self._last(), Tried(self._now_s(), self._tried.events(), reason)
        self._tried.keep(tried)
        self._say(f"{reason}; a training begins")
        command = [*shlex.split(self._settings.retrain_command), f"REASON={reason}"]
        status = subprocess.run(command).returncode
        if status != AT_WORK:
            self._tried.keep(replace(tried, status=status))
        elif self._tried.last() == tried:  # else the other one has written itself meanwhile
            self._tried.keep(former)
        self._say("the training ended well" if not status else f"the training ended with status {status}")
        return status

    def due(self) -> str | None:
        """Says why a training is due; None where none is. After one, whatever became of it, drift and events
        wait for a pause."""
        last, settings = self._last(), self._settings
        slot = settings.slot_after(last.at_s, settings.retrain_cron)
        if slot is not None and slot.timestamp() <= self._now_s():
            return f"it is the schedule's time, {slot:%Y-%m-%d %H:%M %Z}"
        if self._now_s() - last.at_s < settings.retrain_pause_s:
            return None
        since = self._tried.events() - last.events
        if settings.retrain_events and since >= settings.retrain_events:
            return f"{since} events since the last training"
        if settings.retrain_on_drift:
            found = Watched.found(self._redis.get(watched_key(self._dataset)))
            if found and found.drifted:
                return f"drift of {', '.join(found.drifted[:3])}"
        return None

    def _last(self) -> Tried:
        """Reads what was tried last. Where nothing is known, now is the beginning: what came before is not
        counted. Fewer events than then: Redis was emptied, and they are counted anew."""
        last, events = self._tried.last(), self._tried.events()
        if last is None:
            last = Tried(self._now_s(), events)
            self._tried.keep(last)
        return last if events >= last.events else replace(last, events=0)
