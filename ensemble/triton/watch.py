"""The watch: ends a server that lives and does not work, so that who runs it starts it again.

Who runs a server sees a process that ends. They do not see a Triton whose Python process died, which goes on
reporting ready and fails every request, nor a server that accepts and never answers. `Watch` looks at one
server and decides; `deploy/local/watch.py` looks so at the servers of one machine. In a container,
`python -m ensemble.triton.watch COMMAND` runs Triton as its child: the container ends with it.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Protocol

import psutil

from ensemble.settings import load_settings
from ensemble.triton.keeper import keeper_of
from ensemble.triton.probe import Look, Probe, Sign
from ensemble.triton.repository import PORT, ModelRepository

STUB = "triton_python_backend_stub"
LOOKS = 3
"""Bad looks in excess before a server is replaced: one may be a stall of the whole machine."""
INTERVAL_S, SUSPICIOUS_S = 1.0, 0.2
"""Seconds between two looks: while all is well, and while something is not."""
FIRST_PAUSE_S, LONGEST_PAUSE_S, STEADY_S = 10.0, 300.0, 60.0


class WatchedServer(Protocol):
    """What the watch knows of one server."""

    name: str

    def look(self, pid: int) -> Look:
        """Looks at the process `pid`."""

    def progress(self, pid: int) -> bool:
        """Says whether it worked of late, though it gave no answer."""

    def lost(self) -> bool:
        """Says whether a part that it cannot work without is gone for certain."""

    def wait(self, seconds: float) -> None:
        """Waits, and no longer than until something is lost."""


class WatchedTriton:
    """Triton and the Python processes of its models. A process that ends with its model, which is unloaded or
    loaded anew, is no loss; one whose model Triton goes on calling ready is."""

    name = "triton"

    def __init__(self, host: str, port: int) -> None:
        self._probe, self._repository = Probe(host, port), ModelRepository(host, port)
        self._executions: int | None = None
        self._pid = 0
        self._stubs: dict[int, int] = {}
        self._models: set[str] = set()

    def look(self, pid: int) -> Look:
        """Looks at the Python processes, then asks every model for a slate."""
        if pid != self._pid:
            self.forget()
            self._pid = pid
        if self.lost():
            return Look(Sign.BROKEN, "a Python process died")
        found = self._probe.look()
        if found.sign is Sign.ANSWERS:
            self._know(stubs_of(pid))
        return found

    def progress(self, pid: int) -> bool:  # noqa: ARG002  (the port tells)
        """Says whether batches were run."""
        before, self._executions = self._executions, self._probe.executions()
        return None not in (before, self._executions) and before != self._executions

    def lost(self) -> bool:
        """Says whether a model is called ready whose Python processes are gone."""
        if not self._ended():
            return False
        alive = set(stubs_of(self._pid).values())
        gone = self._models - alive
        with suppress(OSError, HTTPException, ValueError):
            gone &= set(self._repository.ready())
        if not gone:
            self._know(stubs_of(self._pid))
        return bool(gone)

    def wait(self, seconds: float) -> None:
        """Waits, and no longer than until a Python process ends."""
        select.select([] if self._ended() else list(self._stubs), [], [], seconds)

    def forget(self) -> None:
        """Lets go of the Python processes of a server that is gone."""
        self._know({})

    def _ended(self) -> bool:
        return bool(self._stubs) and bool(select.select(list(self._stubs), [], [], 0.0)[0])

    def _know(self, stubs: Mapping[int, str]) -> None:
        """Holds on to these processes: a descriptor of each, which tells when it ends."""
        self._models = set(stubs.values())
        for descriptor, stub in list(self._stubs.items()):
            if stub not in stubs:
                os.close(descriptor)
                del self._stubs[descriptor]
        for stub in stubs.keys() - self._stubs.values():
            with suppress(ProcessLookupError):
                self._stubs[os.pidfd_open(stub)] = stub


class Tolerance:
    """Decides from one look after the other when a server is replaced, and never in a loop.

    A bad look counts one, a good one takes back a half: where one of two Python processes is stuck, every
    second look is good. After a replacement it waits, each time twice as long, until the server has been
    well for a minute.
    """

    def __init__(self, looks: int = LOOKS, clock: Callable[[], float] = time.monotonic) -> None:
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


class Watch:
    """One server under watch."""

    def __init__(self, server: WatchedServer) -> None:
        self._server, self._tolerance = server, Tolerance()

    def look(self, pid: int) -> None:
        """Looks once at the process `pid`, and kills it where it will not answer again."""
        with suppress(psutil.NoSuchProcess):  # it has just ended: who runs it sees that
            found, works = self._server.look(pid), self._server.progress(pid)
            if self._tolerance.must_replace(pid, found, works=works, is_certain=self._server.lost()):
                why = f"{self._server.name} {pid} {found.sign}: {found.why}; replacing it"
                print(why, file=sys.stderr)  # noqa: T201
                kill(pid)

    def wait(self) -> None:
        """Waits until the next look is due."""
        self._server.wait(SUSPICIOUS_S if self._tolerance.is_suspicious else INTERVAL_S)


def stubs_of(pid: int) -> dict[int, str]:
    """Finds the Python processes of the Triton `pid` that live, and the model of each."""
    found: dict[int, str] = {}
    with suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):
                command = child.cmdline()
                if command and STUB in command[0] and child.status() != psutil.STATUS_ZOMBIE:
                    found[child.pid] = _model_of(command)
    return found


def _model_of(command: Sequence[str]) -> str:
    """Names the model of a Python process by the file that it runs: `.../<model>/<version>/model.py`."""
    files = [Path(part) for part in command[1:] if part.endswith(".py")]
    return files[0].parent.parent.name if files else ""


def kill(pid: int) -> None:
    """Ends a server and its children. SIGKILL: asked to end, Triton waits for its dead process."""
    with suppress(psutil.Error):
        server = psutil.Process(pid)
        for process in (server, *server.children(recursive=True)):
            with suppress(psutil.Error):
                process.kill()


def main() -> int:
    """Runs a Triton under watch until it ends; gives its exit status, 1 where a signal ended it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=PORT, help=f"Triton's HTTP port (default: {PORT})")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what starts Triton")
    given = parser.parse_args()
    is_told = False  # to end: what ends is not looked at
    with subprocess.Popen(given.command) as server:

        def pass_on(number: int, _: object) -> None:
            nonlocal is_told
            is_told = True
            server.send_signal(number)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, pass_on)
        watch = Watch(WatchedTriton("127.0.0.1", given.port))
        keeper = keeper_of("127.0.0.1", given.port, load_settings())
        threading.Thread(target=keeper.run, name="keeper", daemon=True).start()
        while server.poll() is None and not is_told:
            watch.look(server.pid)
            watch.wait()
    return max(server.returncode, 0) or int(server.returncode < 0)


if __name__ == "__main__":
    sys.exit(main())
