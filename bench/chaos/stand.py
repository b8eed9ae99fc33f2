"""The servers that are harmed: their processes, what these use, and whether they are well again."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from xmlrpc.client import Fault

import psutil

from bench.servers import BenchError, run
from deploy.local.programs import http_fault
from deploy.local.settings import LocalSettings
from deploy.local.stack import up
from deploy.local.supervisor import Supervisor, socket_path
from ensemble.triton.watch import stubs_of

STUB = "stub"
GATEWAY, TRITON, REDIS = "gateway", "triton", "redis"
WELL_S = 120.0


@dataclass(frozen=True)
class Usage:
    """CPU seconds so far and resident MiB of each server, the Python processes of Triton as one."""

    cpu_s: Mapping[str, float]
    memory_mib: Mapping[str, float]

    def spent_since(self, before: Usage) -> dict[str, float]:
        """CPU seconds between two looks; a server that was started anew counts from its start."""
        return {
            name: now - before.cpu_s.get(name, 0.0) if now >= before.cpu_s.get(name, 0.0) else now
            for name, now in self.cpu_s.items()
        }


class Stand:
    """One set of servers under the supervisor."""

    def __init__(self, settings: LocalSettings) -> None:
        self.settings = settings
        self.supervisor = Supervisor(socket_path(settings))

    def serve(self, dataset: str) -> None:
        """Brings the bundle's features and vectors to Redis, and starts Triton and the gateway."""
        run(self.settings, "training", "-m", "training", "features", "--data", dataset)
        run(self.settings, "training", "-m", "feature_repo", "materialize", "--data", dataset)
        for module in ("ensemble.publish.index", "ensemble.publish.export"):
            run(self.settings, "triton", "-m", module)
        up(self.settings, [TRITON, GATEWAY])
        self.wait_until_well()

    def pids(self) -> dict[str, int]:
        """Server -> process id, of those that run."""
        try:
            states = self.supervisor.states()
        except (OSError, HTTPException, Fault):
            return {}
        return {name: state["pid"] for name, state in states.items() if state["pid"]}

    def stubs(self) -> list[int]:
        """Triton's Python processes."""
        return list(stubs_of(self.pids().get(TRITON, 0)))

    def signal(self, name: str, number: int) -> None:
        """Sends a signal to a server, or to the first of Triton's Python processes.

        Raises:
            BenchError: it does not run.
        """
        found = self.stubs()[:1] if name == STUB else [self.pids().get(name, 0)]
        if not found or not found[0]:
            raise BenchError(f"{name} does not run, so it cannot be harmed")
        os.kill(found[0], number)

    def is_ready(self) -> bool:
        """Whether the gateway says that everything works."""
        return not http_fault(f"{self.settings.gateway_url}/readyz")

    def wait_until_well(self) -> float:
        """Waits until everything works; gives the seconds.

        Raises:
            BenchError: it does not within two minutes.
        """
        started = time.monotonic()
        while not self.is_ready():
            if time.monotonic() - started > WELL_S:
                fault = http_fault(f"{self.settings.gateway_url}/readyz")
                raise BenchError(f"not well again within {WELL_S:.0f} s: {fault}")
            time.sleep(0.1)
        return time.monotonic() - started

    def restart(self, *names: str) -> None:
        """Stops servers and starts them again; returns before they are ready."""
        for name in names:
            self.supervisor.stop(name)
        for name in names:
            self.supervisor.start(name)

    def usage(self) -> Usage:
        """Looks at each server's processes."""
        cpu_s, memory = dict[str, float](), dict[str, float]()
        groups = {name: [pid] for name, pid in self.pids().items()} | {STUB: self.stubs()}
        for name, pids in groups.items():
            for pid in pids:
                try:
                    process = psutil.Process(pid)
                    times = process.cpu_times()
                    used = process.memory_info().rss / 2**20
                except psutil.Error:
                    continue
                cpu_s[name] = cpu_s.get(name, 0.0) + times.user + times.system
                memory[name] = memory.get(name, 0.0) + used
        return Usage(cpu_s, memory)
