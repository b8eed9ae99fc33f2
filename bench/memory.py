"""Holds a process to a limit of memory, and says how much of it was used."""

from __future__ import annotations

import resource
from pathlib import Path

MIB = 2**20


def status_mib(name: str, pid: int | str = "self") -> float:
    """Reads a line of `/proc/PID/status`: `VmHWM`, the most that was resident, `VmData`, what is limited."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields[name].split()[0]) / 1024


def limit_mib(beyond: float) -> None:
    """Lets this process hold so much private memory beyond what it holds now; the kernel refuses more."""
    limit = int((status_mib("VmData") + beyond) * MIB)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
