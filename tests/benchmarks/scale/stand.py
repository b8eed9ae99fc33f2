"""The servers of one size: a folder, free ports, and the commands that fill them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from deploy.local.ports import free_port
from deploy.local.settings import LOOPBACK, ROOT, LocalSettings, python_of
from deploy.local.stack import down, up
from tests.benchmarks.processes import by_kind, of_ours, used

PORTS = ("port", "redis_port", "triton_http_port", "triton_grpc_port", "triton_metrics_port")
READY_S = 3600.0


class ScaleError(RuntimeError):
    """Says in one line what could not be measured, and why."""


@dataclass(frozen=True)
class Stand:
    """Where a size is measured."""

    items: int
    users: int
    settings: LocalSettings

    @classmethod
    def of(cls, items: int, users: int, folder: Path) -> Stand:
        """Takes free ports; everything lies in `folder`."""
        ports: dict[str, Any] = {}
        while len(ports) < len(PORTS):
            if (port := free_port()) not in ports.values():
                ports[PORTS[len(ports)]] = port
        settings = LocalSettings(var_dir=folder, ready_timeout_s=READY_S, **ports)
        return cls(items, users, settings)

    @property
    def folder(self) -> Path:
        """Where its servers' files and its figures lie."""
        return self.settings.var

    @property
    def redis(self) -> redis.Redis:
        """A client of its Redis."""
        return redis.Redis(port=self.settings.redis_port, protocol=2)

    @property
    def bundle(self) -> str:
        """The name of its bundle."""
        return f"scale-{self.items}"

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest of its bundle."""
        read: dict[str, Any] = json.loads((self.settings.bundle / "manifest.json").read_text())
        return read

    @contextmanager
    def serving(self, *names: str) -> Iterator[None]:
        """Holds the named servers up, all by default, and ends all of them."""
        try:
            up(self.settings, names)
            yield
        finally:
            down(self.settings)

    def run(self, role: str, *arguments: str) -> tuple[float, str]:
        """Runs a command of a role to its end; gives its seconds and what it said.

        Raises:
            ScaleError: it failed; the message ends with its last lines.
        """
        log = self.folder / "log" / "scale.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with log.open("ab") as output:
            at = output.tell()
            done = subprocess.run(
                [str(python_of(role)), *arguments],
                cwd=ROOT,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        said = log.read_bytes()[at:].decode(errors="replace")
        if done.returncode:
            end = "\n".join(said.splitlines()[-15:])
            raise ScaleError(f"{' '.join(arguments[:2])} failed; the end of {log}:\n{end}")
        return time.monotonic() - started, said

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables of every command."""
        return {
            **os.environ,
            **self.settings.environment(),
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(ROOT),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }

    def memory_mib(self) -> dict[str, float]:
        """Reads the resident memory of its servers that run, by kind, in MiB."""
        return by_kind(used(of_ours(self.settings)).memory_mib)


def address_of(settings: LocalSettings) -> str:
    """host:port of Triton's gRPC."""
    return f"{LOOPBACK}:{settings.triton_grpc_port}"
