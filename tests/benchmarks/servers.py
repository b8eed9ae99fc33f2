"""Starts what is measured: our servers with a bundle of their own folder, and the stock ensemble's Triton."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local import triton_server
from deploy.local.ports import free_port
from deploy.local.programs import http_fault
from deploy.local.settings import LOOPBACK, ROOT, LocalSettings, python_of
from deploy.local.stack import down, up

PORTS = ("port", "redis_port", "triton_http_port", "triton_grpc_port", "triton_metrics_port")
STOCK_MODEL = "executor_model"
COMMAND_S = 900


class BenchError(RuntimeError):
    """Says in one line what could not be measured, and why."""


def bench_settings(var: Path, bundle: Path) -> LocalSettings:
    """Gives the servers a folder and free ports of their own, so that nothing that runs is touched."""
    ports: dict[str, Any] = {}
    while len(ports) < len(PORTS):
        if (port := free_port()) not in ports.values():
            ports[PORTS[len(ports)]] = port
    address = f"{LOOPBACK}:{ports['redis_port']}"
    return LocalSettings(var_dir=var, bundle_dir=bundle, redis_address=address, **ports)


@dataclass(frozen=True)
class Finished:
    """A command that ended well."""

    seconds: float
    output: str


def run(settings: LocalSettings, role: str, *arguments: str, **variables: str) -> Finished:
    """Runs a command of a role to its end, its output in `var/log/bench.log`.

    Raises:
        BenchError: it failed; the message ends with its last lines.
    """
    log = settings.var / "log" / "bench.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("a") as output:
        at = output.tell()
        done = subprocess.run(
            [str(python_of(role)), *arguments],
            cwd=ROOT,
            env=environment(settings) | variables,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_S,
        )
    text = log.read_bytes()[at:].decode(errors="replace")
    if done.returncode:
        end = "\n".join(text.splitlines()[-15:])
        raise BenchError(f"{' '.join(arguments[:3])} failed; the end of {log}:\n{end}")
    return Finished(time.monotonic() - started, text)


def environment(settings: LocalSettings) -> dict[str, str]:
    """The variables of every command, as `make` gives them."""
    return {**os.environ, **settings.environment(), "PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}


@contextmanager
def our_servers(settings: LocalSettings) -> Iterator[None]:
    """Holds Redis up; whatever else was started with these settings ends with it."""
    up(settings, ["redis"])
    try:
        yield
    finally:
        down(settings)


@contextmanager
def stock_server(settings: LocalSettings, folder: Path) -> Iterator[str]:
    """Serves `folder/models` by the same Triton in the training environment; gives its gRPC address."""
    own = bench_settings(folder, settings.bundle)
    command = triton_server.command(own, triton_server.prepare_backends(settings.var / "triton" / "backends"))
    with (settings.var / "log" / "stock_triton.log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=ROOT, env=_stock_environment(settings), stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _wait(server, f"http://{LOOPBACK}:{own.triton_http_port}/v2/models/{STOCK_MODEL}/ready", log.name)
            yield f"{LOOPBACK}:{own.triton_grpc_port}"
        finally:
            server.terminate()
            try:
                server.wait(settings.stop_timeout_s)
            except subprocess.TimeoutExpired:
                server.kill()
            triton_server.clear_shared_memory(triton_server.shared_memory_prefix(own))


def _stock_environment(settings: LocalSettings) -> Mapping[str, str]:
    """As our Triton's, with the training environment's Python: the stock operators need TensorFlow."""
    given = triton_server.environment(environment(settings))
    return given | {"PATH": f"{python_of('training').parent}{os.pathsep}{given['PATH']}"}


def _wait(server: subprocess.Popen[bytes], url: str, log: str) -> None:
    until = time.monotonic() + COMMAND_S
    while fault := http_fault(url):
        if server.poll() is not None or time.monotonic() > until:
            raise BenchError(f"the stock ensemble does not answer ({fault}); see {log}")
        time.sleep(0.5)
