"""Starts what is measured: our servers in a folder of their own, and the Triton of each other design."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local import triton_server
from deploy.local.programs import http_fault
from deploy.local.settings import LOOPBACK, ROOT, LocalSettings, python_of
from deploy.local.stack import down, up
from feature_repo.connection import VARIABLE, connection_string
from tests.builders.ports import free_port

PORTS = ("port", "redis_port", "triton_http_port", "triton_grpc_port", "triton_metrics_port")
COMMAND_S = 900


class BenchError(RuntimeError):
    """Says in one line what could not be measured, and why."""


def own_ports() -> dict[str, Any]:
    """Finds a free port for each setting of one, so that nothing that runs is touched."""
    ports: dict[str, Any] = {}
    while len(ports) < len(PORTS):
        if (port := free_port()) not in ports.values():
            ports[PORTS[len(ports)]] = port
    return ports


def bench_settings(var: Path, bundle: Path) -> LocalSettings:
    """Gives the servers a folder and ports of their own."""
    ports = own_ports()
    return LocalSettings(var_dir=var, bundle_dir=bundle, redis_url=None, **ports)


@dataclass(frozen=True)
class Server:
    """A Triton that answers: its gRPC address and its process."""

    address: str
    pid: int


@dataclass(frozen=True)
class Finished:
    """A command that ended well."""

    seconds: float
    output: str


def run(
    settings: LocalSettings,
    role: str,
    *arguments: str,
    log_name: str = "bench.log",
    timeout_s: float | None = COMMAND_S,
    **variables: str,
) -> Finished:
    """Runs a command of a role to its end, its output in `var/log`.

    Raises:
        BenchError: it failed; the message ends with its last lines.
    """
    log = settings.var / "log" / log_name
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
            timeout=timeout_s,
        )
    text = log.read_bytes()[at:].decode(errors="replace")
    if done.returncode:
        end = "\n".join(text.splitlines()[-15:])
        raise BenchError(f"{' '.join(arguments[:3])} failed; the end of {log}:\n{end}")
    return Finished(time.monotonic() - started, text)


def environment(settings: LocalSettings) -> dict[str, str]:
    """The variables of every command, as `make` gives them; batch runs lie in the benchmark's own folder."""
    feast = {VARIABLE: connection_string(settings.redis)}
    quiet = {"PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    return {**os.environ, **settings.environment(), **feast, **quiet, "SHORTLIST_BATCH_DIR": ""}


@contextmanager
def serving(settings: LocalSettings, *names: str) -> Iterator[None]:
    """Holds the named servers up, all by default, and ends all of them."""
    try:
        up(settings, names)
        yield
    finally:
        down(settings)


@contextmanager
def our_servers(settings: LocalSettings) -> Iterator[None]:
    """Holds an empty Redis up; whatever else was started with these settings ends with it."""
    for left in ("redis", "feast"):  # Feast's registry tells which rows it has written already
        shutil.rmtree(settings.var / left, ignore_errors=True)
    up(settings, ["redis"])
    try:
        yield
    finally:
        down(settings)


@contextmanager
def other_server(settings: LocalSettings, folder: Path, model: str) -> Iterator[Server]:
    """Serves `folder/models` by the same Triton in the training environment, until the block ends."""
    own = bench_settings(folder, settings.bundle)
    backends = triton_server.prepare_backends(settings.var / "triton" / "backends")
    command = [*triton_server.command(own, backends), "--load-model=*"]  # nobody loads them by name
    with (settings.var / "log" / f"{folder.name}_triton.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=_training_environment(settings), stdout=log, stderr=subprocess.STDOUT
        )
        try:
            wait_until_ready(
                process, f"http://{LOOPBACK}:{own.triton_http_port}/v2/models/{model}/ready", log.name
            )
            yield Server(f"{LOOPBACK}:{own.triton_grpc_port}", process.pid)
        finally:
            process.terminate()
            try:
                process.wait(settings.stop_timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            triton_server.clear_shared_memory(triton_server.shared_memory_prefix(own))


def _training_environment(settings: LocalSettings) -> Mapping[str, str]:
    """As our Triton's, with the training environment's Python: the other designs need TensorFlow."""
    given = triton_server.environment(environment(settings))
    return given | {"PATH": f"{python_of('training').parent}{os.pathsep}{given['PATH']}"}


def wait_until_ready(
    server: subprocess.Popen[bytes], url: str, log: str, within_s: float = COMMAND_S
) -> None:
    """Waits until a server that was started says at a URL that it is ready.

    Raises:
        BenchError: it ended, or is not ready in time; the message names its log.
    """
    until = time.monotonic() + within_s
    while fault := http_fault(url):
        if server.poll() is not None or time.monotonic() > until:
            raise BenchError(f"a server does not answer ({fault}); see {log}")
        time.sleep(0.5)
