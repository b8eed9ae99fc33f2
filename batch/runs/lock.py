"""The lock that keeps two batch runs apart: held in Redis, renewed while its holder lives, and gone soon
after the holder is."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.exceptions import LockError, RedisError
from redis.lock import Lock

from batch.errors import HeldError
from contract.keys import batch_lock_key

RENEWALS = 6
"""How often the lock is renewed within its expiry: so many lost round trips in a row are borne, less one."""
LOOK_S = 0.1
"""Between two looks at a lock that another holds."""


class RunLock:
    """Holds the lock of a data set's runs within a `with`, and renews it from a thread of its own.

    A holder that dies lets it expire after `seconds`, which the next one waits for. `is_lost` is for those
    who may stop early; what counts is the fence: Redis compares `token` in the same instant in which it
    switches the published run.
    """

    def __init__(
        self,
        redis: Redis,
        dataset: str,
        seconds: float = 30.0,
        say: Callable[[str], None] = lambda _: None,
        *,
        waits: bool = True,
    ) -> None:
        self.dataset, self.seconds, self.key = dataset, seconds, batch_lock_key(dataset)
        self._redis: Any = redis
        self._say, self._waits = say, waits
        self.token = f"{socket.gethostname()}, process {os.getpid()}, {uuid.uuid4().hex}"
        self._lock = Lock(redis, self.key, timeout=seconds, thread_local=False)
        self._is_lost = False
        self._good_until_s = 0.0  # of time.monotonic
        self._ended = threading.Event()
        self._renewer: threading.Thread | None = None

    @property
    def is_lost(self) -> bool:
        """Whether another may hold it by now: Redis said so, or could not be told in time that we live."""
        return self._is_lost or time.monotonic() > self._good_until_s

    def note_lost(self) -> None:
        """Takes another's word for it: Redis refused this token before the next renewal could find out."""
        self._is_lost = True

    def __enter__(self) -> RunLock:
        """Takes the lock, after at most its expiry.

        Raises:
            HeldError: another run that lives holds it.
        """
        self._acquire()
        self._renewer = threading.Thread(target=self._renew, name="batch-lock", daemon=True)
        self._renewer.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Gives it back; where Redis does not answer, it expires."""
        self._ended.set()
        if self._renewer is not None:
            self._renewer.join(self.seconds)
        with contextlib.suppress(LockError, RedisError):
            self._lock.release()

    def _acquire(self) -> None:
        gives_up_s = time.monotonic() + self.seconds + 1.0
        left_ms = None
        while True:
            asked_s = time.monotonic()
            if self._lock.acquire(blocking=False, token=self.token):
                self._good_until_s = asked_s + self.seconds
                return
            if not self._waits:
                raise HeldError(self._held())
            if left_ms is None and (held_by := holder(self._redis, self.dataset)):
                self._say(f"waiting up to {self.seconds:g} s to see whether the run of {held_by} lives")
            before_ms, left_ms = left_ms, self._redis.pttl(self.key)
            is_renewed = before_ms is not None and left_ms > before_ms  # so its holder lives
            if is_renewed or asked_s > gives_up_s:
                raise HeldError(self._held())
            time.sleep(LOOK_S)

    def _held(self) -> str:
        who = holder(self._redis, self.dataset) or "a process that just ended"
        return (
            f"another run of {self.dataset} is at work ({who}); wait until it ends: "
            f"`python -m batch status` shows how far it is"
        )

    def _renew(self) -> None:
        while not self._ended.wait(self.seconds / RENEWALS):
            asked_s = time.monotonic()
            try:
                self._lock.reacquire()
                self._good_until_s = asked_s + self.seconds
            except LockError:
                self._is_lost = True
                return
            except RedisError:
                continue  # asked again; `is_lost` says when it was too long


def holder(redis: Redis, dataset: str) -> str | None:
    """Says who holds the lock of a data set's runs, machine and process; None where nobody does."""
    token: Any = redis.get(batch_lock_key(dataset))
    if token is None:
        return None
    text: str = token.decode(errors="replace")
    return text.rpartition(", ")[0] or text
