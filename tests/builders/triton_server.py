"""A real Triton without a model, on free ports of this machine, for tests."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from deploy.local.settings import LocalSettings
from deploy.local.triton_server import command, environment, prepare_backends
from ensemble.triton.repository import ModelRepository
from ensemble.triton.watch import kill
from tests.builders.ports import free_port

START_S = 60.0


@dataclass(frozen=True)
class RunningTriton:
    """Where it answers, and its process."""

    http_port: int
    grpc_port: int
    pid: int
    log: Path

    @property
    def repository(self) -> ModelRepository:
        """Its models."""
        return ModelRepository("127.0.0.1", self.http_port)


@contextmanager
def running_triton(var: Path, given: Mapping[str, str]) -> Iterator[RunningTriton]:
    """Starts Triton over `var/models` with these variables, gives it once it listens, and stops it."""
    ports: dict[str, Any] = {f"triton_{name}_port": free_port() for name in ("http", "grpc", "metrics")}
    settings, log = LocalSettings(var_dir=var, **ports), var / "triton.log"
    (var / "models").mkdir(exist_ok=True)
    arguments = command(settings, prepare_backends(var / "triton" / "backends"))
    variables = environment({**os.environ, "SHORTLIST_VAR_DIR": str(var), **given})
    with log.open("wb") as output:
        process = subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT, env=variables)
    running = RunningTriton(settings.triton_http_port, settings.triton_grpc_port, process.pid, log)
    try:
        until = time.monotonic() + START_S
        while not _listens(running.repository):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"Triton did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        yield running
    finally:
        kill(process.pid)
        process.wait(START_S)


def _listens(repository: ModelRepository) -> bool:
    with suppress(OSError, HTTPException, ValueError):
        repository.states()
        return True
    return False
