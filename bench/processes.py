"""Reads what each process of a design costs: CPU seconds and resident memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from deploy.local.settings import LocalSettings

STUB = "triton_python_backend_stub"
TRITON, STUB_OF, REDIS, GATEWAY = "tritonserver", "stub ", "redis", "gateway"
MIB = 2**20
Processes = Mapping[str, Sequence[psutil.Process]]
"""The processes of one kind, by what the tables call it."""


@dataclass(frozen=True)
class Used:
    """CPU seconds since each process began, and its memory in MiB, by kind."""

    cpu_s: dict[str, float]
    memory_mib: dict[str, float]


def of_triton(pid: int) -> dict[str, list[psutil.Process]]:
    """Takes tritonserver, gives it and the process of each Python model, as `stub <model>`."""
    server = psutil.Process(pid)
    found: dict[str, list[psutil.Process]] = {TRITON: [server]}
    for process in server.children(recursive=True):
        found.setdefault(f"{STUB_OF}{_model(process)}", []).append(process)
    return found


def _model(stub: psutil.Process) -> str:
    """Reads the model's name from the path of the file that the stub runs: name/version/model.py."""
    paths = [Path(part) for part in stub.cmdline() if part.endswith("model.py")]
    return paths[0].parents[1].name if paths else stub.name()


def of_ours(settings: LocalSettings) -> dict[str, list[psutil.Process]]:
    """Finds Redis, Triton and the gateway below the supervisor that started them."""
    supervisor = psutil.Process(int((settings.var / "run" / "supervisord.pid").read_text()))
    found: dict[str, list[psutil.Process]] = {}
    for process in supervisor.children(recursive=False):
        command = " ".join(process.cmdline())
        if "redis-server" in command:
            found[REDIS] = [process]
        elif "tritonserver" in command:
            found |= of_triton(process.pid)
        elif "service" in command:
            found[GATEWAY] = [process, *process.children(recursive=True)]
    return found


def stubs_in(processes: Processes) -> list[psutil.Process]:
    """Lists the Python processes of Triton's models."""
    return [one for kind, members in processes.items() if kind.startswith(STUB_OF) for one in members]


def by_kind(of_each: Mapping[str, float]) -> dict[str, float]:
    """Sums the stubs up, and keeps the others as they are."""
    sums: dict[str, float] = {}
    for kind, value in of_each.items():
        name = "stubs" if kind.startswith(STUB_OF) else kind
        sums[name] = sums.get(name, 0.0) + value
    return sums


def used(processes: Processes) -> Used:
    """Sums over the processes of each kind; one that is gone counts nothing."""
    cpu_s, memory = dict.fromkeys(processes, 0.0), dict.fromkeys(processes, 0.0)
    for kind, members in processes.items():
        for process in members:
            try:
                times = process.cpu_times()
                cpu_s[kind] += times.user + times.system
                memory[kind] += process.memory_info().rss / MIB
            except psutil.NoSuchProcess:
                continue
    return Used(cpu_s, memory)
