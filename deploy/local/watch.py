"""Replaces a Triton or a Redis that lives and does not work: the supervisor starts again what it kills.

The supervisor sees a process that ends. It does not see a Triton whose Python process died, which goes on
reporting ready and fails every request, nor a server that accepts and never answers. The watch asks Triton
for a real slate and Redis for a PING, once a second, and looks at Triton's Python processes.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from typing import Protocol
from xmlrpc.client import Fault

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from deploy.local.settings import LOOPBACK, LocalSettings, load_settings
from deploy.local.supervisor import Supervisor, socket_path
from ensemble.triton.probe import Look, Probe, Sign

STUB = "triton_python_backend_stub"
INTERVAL_S, SUSPICIOUS_S = 1.0, 0.2
"""Seconds between two looks: while all is well, and while something is not."""
PING_S = 1.0
TRITON_LOOKS, REDIS_LOOKS = 3, 3
"""Bad looks in excess before a server is replaced: one may be a stall of the whole machine."""
BUSY_S = 0.02
"""Seconds of CPU between two looks above which a silent Redis is busy, not stuck."""
FIRST_PAUSE_S, LONGEST_PAUSE_S, STEADY_S = 10.0, 300.0, 60.0


class Server(Protocol):
    """What the watch knows of one program."""

    name: str

    def look(self, pid: int) -> Look:
        """Looks at the process `pid`."""

    def progress(self, pid: int) -> bool:
        """Says whether it worked since this was last asked, though it gave no answer."""


class Triton:
    """Triton and its Python processes. Those are known once it answers; while it loads there may be none."""

    name = "triton"

    def __init__(self, settings: LocalSettings) -> None:
        self._probe = Probe(LOOPBACK, settings.triton_http_port)
        self._executions: int | None = None
        self._pid = 0
        self._stubs: dict[int, int] = {}

    def look(self, pid: int) -> Look:
        """Looks at the Python processes, then asks for a slate."""
        if pid != self._pid:
            self.forget()
            self._pid = pid
        if self.lost():
            return Look(Sign.BROKEN, "a Python process died")
        found = self._probe.look()
        if found.sign is Sign.ANSWERS and not self._stubs:
            self._stubs = {os.pidfd_open(stub): stub for stub in stubs_of(pid)}
        return found

    def lost(self) -> bool:
        """Says whether a Python process that was there is gone."""
        return bool(self._stubs) and bool(select.select(list(self._stubs), [], [], 0.0)[0])

    def wait(self, seconds: float) -> None:
        """Waits, and no longer than until a Python process ends."""
        select.select([] if self.lost() else list(self._stubs), [], [], seconds)

    def progress(self, pid: int) -> bool:  # noqa: ARG002  (the port tells)
        """Says whether batches were run."""
        before, self._executions = self._executions, self._probe.executions()
        return None not in (before, self._executions) and before != self._executions

    def forget(self) -> None:
        """Lets go of the Python processes of a server that is gone."""
        for descriptor in self._stubs:
            os.close(descriptor)
        self._stubs = {}


class Redis:
    """The local Redis. Reading its file after a start, it says so: that is an answer."""

    name = "redis"

    def __init__(self, settings: LocalSettings) -> None:
        self._client = redis.Redis(
            **settings.local_redis.connection_kwargs(),
            socket_timeout=PING_S,
            socket_connect_timeout=PING_S,
            retry=Retry(NoBackoff(), 0),  # the client's own would take minutes to find it silent
        )
        self._cpu_s = 0.0

    def look(self, pid: int) -> Look:  # noqa: ARG002  (the port tells)
        """Sends PING."""
        try:
            self._client.ping()
        except redis.TimeoutError as error:
            return Look(Sign.SILENT, str(error))
        except redis.ConnectionError as error:
            return Look(Sign.STARTING, str(error))
        except redis.RedisError as error:
            return Look(Sign.ANSWERS, str(error))
        return Look(Sign.ANSWERS)

    def progress(self, pid: int) -> bool:
        """Says whether it used the CPU, or waits for the disk: neither is cured by a restart."""
        process = psutil.Process(pid)
        before, times = self._cpu_s, process.cpu_times()
        self._cpu_s = times.user + times.system
        return self._cpu_s - before > BUSY_S or process.status() == psutil.STATUS_DISK_SLEEP


class Tolerance:
    """Decides from one look after the other when a server is replaced, and never in a loop.

    A bad look counts one, a good one takes back a half: where one of two Python processes is stuck, every
    second look is good. After a replacement it waits, each time twice as long, until the server has been
    well for a minute.
    """

    def __init__(self, looks: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._looks, self._clock = looks, clock
        self._pid, self._bad = 0, 0.0
        self._pause_s, self._not_before, self._well_since = FIRST_PAUSE_S, 0.0, clock()

    @property
    def is_suspicious(self) -> bool:
        """Whether a bad look is not made up for."""
        return self._bad > 0.0

    def must_replace(self, pid: int, found: Look, *, works: bool, is_certain: bool = False) -> bool:
        """Takes a look at the process `pid`, whether it `works` nevertheless, and whether it is hopeless."""
        now = self._clock()
        if pid != self._pid:
            self._pid, self._bad, self._well_since = pid, 0.0, now
        is_bad = found.sign is Sign.BROKEN or (found.sign is Sign.SILENT and not works)
        if not is_bad:
            self._bad = max(self._bad - 0.5, 0.0)
            if found.sign is not Sign.ANSWERS:
                self._well_since = now
            elif now - self._well_since > STEADY_S:
                self._pause_s = FIRST_PAUSE_S
            return False
        self._bad += 1.0
        self._well_since = now
        if (self._bad < self._looks and not is_certain) or now < self._not_before:
            return False
        self._not_before, self._pause_s = now + self._pause_s, min(2 * self._pause_s, LONGEST_PAUSE_S)
        return True


def stubs_of(pid: int) -> list[int]:
    """Finds the Python processes of the Triton `pid`."""
    with suppress(psutil.Error):
        children = psutil.Process(pid).children(recursive=True)
        return [child.pid for child in children if STUB in " ".join(child.cmdline())]
    return []


def kill(pid: int) -> None:
    """Ends a server and its children. SIGKILL: asked to end, Triton waits for its dead process."""
    with suppress(psutil.Error):
        server = psutil.Process(pid)
        for process in (server, *server.children(recursive=True)):
            with suppress(psutil.Error):
                process.kill()


def main() -> None:
    """Looks once a second, as long as the supervisor lives."""
    settings = load_settings()
    supervisor, triton = Supervisor(socket_path(settings)), Triton(settings)
    servers: dict[Server, Tolerance] = {triton: Tolerance(TRITON_LOOKS)}
    if not settings.has_own_redis:
        servers[Redis(settings)] = Tolerance(REDIS_LOOKS)
    parent = os.getppid()
    while os.getppid() == parent:
        try:
            states = supervisor.states()
        except (OSError, HTTPException, Fault):  # it is being stopped, or reads its configuration
            states = {}
        for server, patience in servers.items():
            state = states.get(server.name, {})
            if state.get("statename") != "RUNNING":
                continue
            pid = state["pid"]
            with suppress(psutil.NoSuchProcess):  # it has just ended: the supervisor's task
                found, works = server.look(pid), server.progress(pid)
                is_certain = server is triton and triton.lost()
                if patience.must_replace(pid, found, works=works, is_certain=is_certain):
                    print(f"{server.name} {pid} {found.sign}: {found.why}; replacing it", file=sys.stderr)
                    kill(pid)
        is_well = not any(patience.is_suspicious for patience in servers.values())
        triton.wait(INTERVAL_S if is_well else SUSPICIOUS_S)


if __name__ == "__main__":
    main()
