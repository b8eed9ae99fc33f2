"""Watches a running job from outside: the memory and the CPU of all its processes, by what they do.

Memory is the proportional set size: what is private to a process, and its share of what it shares; summed
over the job it counts the object store and every library once.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.processes import MIB

DRIVER, ACTORS, OTHER_WORKERS = "driver", "actors", "other workers"
RAYLET, HELPERS = "raylet", "Ray's helpers"
KINDS = (DRIVER, ACTORS, OTHER_WORKERS, RAYLET, HELPERS)
MACHINE = "the whole machine"
EVERY_S = 0.5
KIB = 1024
Beside = Mapping[str, psutil.Process]
"""Processes that do not belong to the job but work for it, by what the tables call them."""


@dataclass(frozen=True)
class Sample:
    """One look: the Unix time, and by kind the MiB and the CPU seconds so far; `shared` is of the MiB what
    lies in shared memory."""

    at_s: float
    mib: dict[str, float]
    resident: dict[str, float]
    shared: float
    cpu_s: dict[str, float]

    @property
    def total(self) -> float:
        """Everything of the job, shared memory once."""
        return sum(self.mib.values())


@dataclass
class Watch:
    """What was seen of a job, and the CPU seconds of each of its processes so far."""

    beside: Beside = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    cpu_of: dict[int, tuple[str, float]] = field(default_factory=dict)

    def look(self, pid: int) -> None:
        """Takes a sample of the process and all below it, and of what works beside."""
        try:
            driver = psutil.Process(pid)
            processes = [driver, *driver.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        mib, resident, shared = dict.fromkeys(KINDS, 0.0), dict.fromkeys(KINDS, 0.0), 0.0
        for process in processes:
            try:
                kind = DRIVER if process.pid == pid else kind_of(process.cmdline())
                times, memory = process.cpu_times(), rollup(process.pid)
            except (psutil.Error, OSError):
                continue  # it has just ended
            # An actor that waits for its end, or has not begun, has another title.
            before, _ = self.cpu_of.get(process.pid, (kind, 0.0))
            kind = before if before == ACTORS else kind
            self.cpu_of[process.pid] = (kind, times.user + times.system)
            mib[kind] += memory.get("Pss", 0) / MIB
            resident[kind] += memory.get("Rss", 0) / MIB
            shared += memory.get("Pss_Shmem", 0) / MIB
        self.samples.append(Sample(time.time(), mib, resident, shared, self._cpu()))

    def _cpu(self) -> dict[str, float]:
        """CPU seconds by kind so far, those of processes that have ended included."""
        sums = dict.fromkeys(KINDS, 0.0)
        for kind, seconds in self.cpu_of.values():
            sums[kind] += seconds
        for kind, process in self.beside.items():
            with suppress(psutil.NoSuchProcess):  # the job will say that it is gone
                times = process.cpu_times()
                sums[kind] = times.user + times.system
        all_ = psutil.cpu_times()
        return sums | {MACHINE: all_.user + all_.nice + all_.system + all_.irq + all_.softirq}

    def peak(self) -> Sample:
        """The sample with the most memory.

        Raises:
            ValueError: nothing was seen.
        """
        return max(self.samples, key=lambda sample: sample.total)

    def cores(self, start_s: float, end_s: float) -> dict[str, float]:
        """Gives how many cores each kind used between two Unix times; nothing where it was not seen then."""
        within = [sample for sample in self.samples if start_s <= sample.at_s <= end_s]
        if len(within) < 2:
            return {}
        first, last = within[0], within[-1]
        took = last.at_s - first.at_s
        return {
            kind: (last.cpu_s.get(kind, seconds) - seconds) / took for kind, seconds in first.cpu_s.items()
        }

    def figures(self) -> dict[str, object]:
        """What is kept of it: the peak by kind, what memory did over time, and the CPU of the job."""
        peak, start_s = self.peak(), self.samples[0].at_s
        return {
            "peak_mib": peak.total,
            "peak_mib_by_kind": {kind: mib for kind, mib in peak.mib.items() if mib},
            "peak_shared_mib": peak.shared,
            "peak_at_s": peak.at_s - start_s,
            "resident_sum_mib": max(sum(sample.resident.values()) for sample in self.samples),
            "mib_over_time": thinned([(sample.at_s - start_s, sample.total) for sample in self.samples]),
            "cpu_s": {kind: self.samples[-1].cpu_s[kind] for kind in KINDS},
        }


def kind_of(command: Sequence[str]) -> str:
    """Says what a process of Ray does, by its command line or the title that Ray gives it."""
    line = " ".join(command)
    if line.startswith("ray::"):
        return OTHER_WORKERS if line.startswith(("ray::IDLE", "ray::_")) else ACTORS
    if command and Path(command[0]).name == "raylet":
        return RAYLET
    return OTHER_WORKERS if "default_worker.py" in line else HELPERS


def rollup(pid: int) -> dict[str, int]:
    """Reads a process's memory in bytes, by the kernel's own names.

    Raises:
        OSError: it has ended, or belongs to someone else.
    """
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) * KIB
    return found


def thinned(points: Sequence[tuple[float, float]], most: int = 60) -> list[tuple[float, float]]:
    """Keeps at most so many points, evenly, the last among them."""
    step = -(-len(points) // most)
    return [(round(x, 1), round(y, 1)) for x, y in [*points[:-1:step], *points[-1:]]] if points else []


def watched(process: subprocess.Popen[bytes], patience_s: float, beside: Beside) -> Watch:
    """Looks at a running process until it ends.

    Raises:
        TimeoutError: it did not end in time.
    """
    watch, until = Watch(beside), time.monotonic() + patience_s
    while process.poll() is None:
        watch.look(process.pid)
        if time.monotonic() > until:
            raise TimeoutError(f"not done after {patience_s:.0f} s")
        time.sleep(EVERY_S)
    return watch
