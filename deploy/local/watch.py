"""Keeps the servers of one machine under watch: the supervisor starts again what the watch ends; and keeps in
Triton what is served.

Each is looked at in a thread of its own, so that a silent one delays no look at another.
"""

from __future__ import annotations

import os
import threading
import time
from http.client import HTTPException
from xmlrpc.client import Fault

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from deploy.local.routing import ensemble_settings
from deploy.local.settings import LOOPBACK, LocalSettings, load_settings
from deploy.local.supervisor import Supervisor, socket_path
from ensemble.triton.keeper import keeper_of
from ensemble.triton.probe import Look, Sign
from ensemble.triton.watch import INTERVAL_S, Watch, WatchedServer, WatchedTriton

PING_S = 1.0
BUSY_S = 0.02
"""Seconds of CPU during a look above which a silent Redis is busy, not stuck."""


class WatchedRedis:
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

    def look(self, pid: int) -> Look:
        """Sends PING."""
        self._cpu_s = _cpu_s(psutil.Process(pid))  # now: what it used before it fell silent tells nothing
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
        return _cpu_s(process) - self._cpu_s > BUSY_S or process.status() == psutil.STATUS_DISK_SLEEP

    def lost(self) -> bool:
        """Says no: it is one process."""
        return False

    def wait(self, seconds: float) -> None:
        """Waits."""
        time.sleep(seconds)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def keep_watch(settings: LocalSettings, server: WatchedServer) -> None:
    """Looks at one server once a second, as long as the supervisor lives."""
    supervisor, watch = Supervisor(socket_path(settings)), Watch(server)
    parent = os.getppid()
    while os.getppid() == parent:
        try:
            state = supervisor.states().get(server.name, {})
        except (OSError, HTTPException, Fault):  # it is being stopped, or reads its configuration
            state = {}
        if state.get("statename") == "RUNNING":
            watch.look(state["pid"])
        watch.wait()


def main() -> None:
    """Ends when a thread does: the supervisor starts the watch again."""
    settings = load_settings()
    servers: list[WatchedServer] = [WatchedTriton(LOOPBACK, settings.triton_http_port)]
    if not settings.has_own_redis:
        servers.append(WatchedRedis(settings))
    threads = [
        threading.Thread(target=keep_watch, args=(settings, server), name=server.name, daemon=True)
        for server in servers
    ]
    keeper = keeper_of(LOOPBACK, settings.triton_http_port, ensemble_settings(settings))
    threads.append(threading.Thread(target=keeper.run, name="keeper", daemon=True))
    for thread in threads:
        thread.start()
    while all(thread.is_alive() for thread in threads):
        threads[0].join(INTERVAL_S)


if __name__ == "__main__":
    main()
