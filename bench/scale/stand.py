"""The servers of one size: a folder, free ports, and the commands that fill them."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from bench.processes import by_kind, of_ours, used
from bench.servers import BenchError, own_ports, run, serving
from deploy.local.settings import LOOPBACK, ROOT, LocalSettings

READY_S = 3600.0
LOG = "scale.log"


class ScaleError(BenchError):
    """A size could not be measured."""


@dataclass(frozen=True)
class Stand:
    """Where a size is measured."""

    items: int
    users: int
    settings: LocalSettings

    @classmethod
    def of(cls, items: int, users: int, folder: Path) -> Stand:
        """Takes free ports; everything lies in `folder`."""
        settings = LocalSettings(var_dir=folder, redis_url=None, ready_timeout_s=READY_S, **own_ports())
        return cls(items, users, settings)

    @property
    def folder(self) -> Path:
        """Where its servers' files and its figures lie."""
        return self.settings.var

    @property
    def redis(self) -> redis.Redis:
        """A client of its Redis."""
        return redis.Redis(**self.settings.redis.connection_kwargs(), protocol=2)

    @property
    def bundle(self) -> str:
        """The name of its bundle."""
        return f"scale-{self.items}"

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest of its bundle."""
        read: dict[str, Any] = json.loads((self.settings.bundle / "manifest.json").read_text())
        return read

    def serving(self, *names: str) -> AbstractContextManager[None]:
        """Holds the named servers up, all by default, and ends all of them."""
        return serving(self.settings, *names)

    def run(self, role: str, *arguments: str) -> tuple[float, str]:
        """Runs a command of a role to its end, however long it takes; gives its seconds and what it said.

        Raises:
            ScaleError: it failed; the message ends with its last lines.
        """
        environment = {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        try:
            done = run(self.settings, role, *arguments, log_name=LOG, timeout_s=None, **environment)
        except BenchError as error:
            raise ScaleError(str(error)) from None
        return done.seconds, done.output

    def memory_mib(self) -> dict[str, float]:
        """Reads the resident memory of its servers that run, by kind, in MiB."""
        return by_kind(used(of_ours(self.settings)).memory_mib)


def address_of(settings: LocalSettings) -> str:
    """host:port of Triton's gRPC."""
    return f"{LOOPBACK}:{settings.triton_grpc_port}"
