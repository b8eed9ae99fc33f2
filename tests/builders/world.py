"""A small synthetic world: its run-time folder, its ports, and the commands that a user gives in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import redis

from deploy.local.settings import ROOT, LocalSettings, python_of
from deploy.local.supervisor import Supervisor, socket_path
from tests.builders.ports import free_port

SIZE = {"USERS": "400", "ITEMS": "200", "DAYS": "15", "INTERACTIONS": "20000"}
PORTS = ("PORT", "REDIS_PORT", "TRITON_HTTP_PORT", "TRITON_GRPC_PORT", "TRITON_METRICS_PORT")
COMMAND_S = 600.0


@dataclass(frozen=True)
class World:
    """One run-time folder with its own ports; nothing in it meets another world."""

    var: Path
    ports: dict[str, int]

    @classmethod
    def make(cls, var: Path) -> World:
        """Chooses free ports; starts nothing."""
        ports: dict[str, int] = {}
        while len(ports) < len(PORTS):
            if (port := free_port()) not in ports.values():
                ports[PORTS[len(ports)]] = port
        return cls(var, ports)

    def copy(self, var: Path) -> World:
        """Copies what was made into another folder with other ports; this world's servers must be down."""
        shutil.copytree(self.var, var, symlinks=True, ignore=shutil.ignore_patterns("run", "log"))
        return World.make(var)

    @property
    def settings(self) -> LocalSettings:
        """The settings of the servers."""
        values: dict[str, Any] = {name.lower(): port for name, port in self.ports.items()}
        return LocalSettings(var_dir=self.var, redis_url=None, **values)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of every command in this world."""
        given = {f"SHORTLIST_{name}": str(port) for name, port in self.ports.items()}
        size = {f"SHORTLIST_SYNTHETIC__{name}": value for name, value in SIZE.items()}
        return {
            **os.environ,
            **given,
            **size,
            **self.settings.environment(),
            "SHORTLIST_DATA": "synthetic",
            "SHORTLIST_QUALITY": "tiny",
            # Busy test machines are no reason for the popular slate; the budget has tests of its own.
            "SHORTLIST_LATENCY_BUDGET_MS": "5000",
            "SHORTLIST_REDIS_TIMEOUT_MS": "2000",
            "SHORTLIST_REFRESH_S": "0.5",
        }

    def run(self, role: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of a role to its end, as a user would."""
        command = [str(python_of(role)), *arguments]
        variables = self.environment | {f"SHORTLIST_{name}": value for name, value in settings.items()}
        return subprocess.run(
            command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=COMMAND_S
        )

    def stack(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Runs `up`, `down` or `status`."""
        return self.run("dev", "-m", "deploy.local.stack", *arguments, **settings)

    def up(self, *names: str, **settings: str) -> None:
        """Starts servers, all by default; a failure shows their logs."""
        done = self.stack("up", *names, **settings)
        assert done.returncode == 0, done.stdout + done.stderr

    def down(self) -> None:
        """Stops whatever runs."""
        done = self.stack("down")
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def supervisor(self) -> Supervisor:
        """The supervisor of this world's servers."""
        return Supervisor(socket_path(self.settings))

    def pids(self) -> dict[str, int]:
        """Server -> process id, of those that run."""
        return {name: state["pid"] for name, state in self.supervisor.states().items() if state["pid"]}

    @property
    def url(self) -> str:
        """The gateway's address."""
        return self.settings.gateway_url

    def redis(self) -> redis.Redis:
        """A client of this world's Redis; the caller closes it."""
        return redis.Redis(**self.settings.redis.connection_kwargs())

    def manifest(self) -> dict[str, Any]:
        """The manifest of the bundle that is served."""
        content: dict[str, Any] = json.loads((self.settings.bundle / "manifest.json").read_text())
        return content

    def post(self, **body: Any) -> httpx.Response:
        """Asks for a recommendation."""
        return httpx.post(f"{self.url}/v1/recommendations", json=body, timeout=30.0, trust_env=False)

    def recommend(self, user_id: int | str, **body: Any) -> dict[str, Any]:
        """Asks for a recommendation, which must be answered."""
        answer = self.post(user_id=user_id, **body)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document


def ids_of(answer: dict[str, Any]) -> list[Any]:
    """The ids of an answer's items, in their order: numbers, or texts."""
    return [item["item_id"] for item in answer["items"]]


def eventually(holds: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Waits until something holds; False where it does not in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.2)
    return holds()
