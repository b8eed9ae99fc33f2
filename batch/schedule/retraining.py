"""`python -m batch retraining`: begins a training when it is due: by the clock, by drift, by enough events.

What was tried last stands in Redis, so that a restart repeats nothing; a training is a process of its own,
and its lock keeps two apart, whoever begins them.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from batch.errors import explain
from batch.settings import BatchSettings
from contract.environment import RedisUrl
from contract.events import PARTITIONS
from contract.keys import event_stream_key, retrained_key, watched_key
from contract.watched import Watched


@dataclass(frozen=True)
class Tried:
    """The last training that was begun: when, Unix time in seconds, how many events had come until then, why,
    and with which status it ended; None while it is at work, or where it was killed."""

    at_s: float
    events: int
    reason: str = ""
    status: int | None = None


class Retraining:
    """Looks whether a training is due, and runs it to its end."""

    def __init__(
        self,
        redis: Redis,
        url: RedisUrl,
        dataset: str,
        settings: BatchSettings,
        say: Callable[[str], None],
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._redis: Any = redis
        self._url, self._dataset, self._settings = url, dataset, settings
        self._say, self._now_s = say, now_s

    def keep(self, stop: threading.Event) -> None:
        """Looks and runs until told to stop; a training at work goes on to its end."""
        problem = ""
        while not stop.is_set():
            try:
                self.look()
                problem = ""
            except RedisError as error:
                if (told := explain(error, self._url)) != problem:
                    self._say(told)
                    problem = told
            stop.wait(self._settings.poll_s)

    def look(self) -> int | None:
        """Runs what is due; gives the status with which it ended, None where nothing was."""
        reason = self.due()
        if reason is None:
            return None
        tried = Tried(self._now_s(), self._events(), reason)
        self._keep(tried)
        self._say(f"{reason}; a training begins")
        command = [*shlex.split(self._settings.retrain_command), f"REASON={reason}"]
        status = subprocess.run(command).returncode
        self._keep(Tried(tried.at_s, tried.events, reason, status))
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
        if settings.retrain_events and (since := self._events() - last.events) >= settings.retrain_events:
            return f"{since} events since the last training"
        if settings.retrain_on_drift:
            found = Watched.found(self._redis.get(watched_key(self._dataset)))
            if found and found.drifted:
                return f"drift of {', '.join(found.drifted[:3])}"
        return None

    def _last(self) -> Tried:
        """Reads what was tried last. Where nothing is known, now is the beginning: what came before is not
        counted. Fewer events than then: Redis was emptied, and they are counted anew."""
        value = self._redis.get(retrained_key(self._dataset))
        if value is None:
            begun = Tried(self._now_s(), self._events())
            self._keep(begun)
            return begun
        last = Tried(**json.loads(value))
        return last if self._events() >= last.events else Tried(last.at_s, 0, last.reason, last.status)

    def _keep(self, tried: Tried) -> None:
        self._redis.set(retrained_key(self._dataset), json.dumps(asdict(tried)))

    def _events(self) -> int:
        """Counts the events that ever came."""
        pipe: Any = self._redis.pipeline(transaction=False)
        for partition in range(PARTITIONS):
            pipe.xinfo_stream(event_stream_key(self._dataset, partition))
        replies = pipe.execute(raise_on_error=False)
        return sum(int(one["entries-added"]) for one in replies if not isinstance(one, Exception))
