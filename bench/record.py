"""Records what was measured: rows, each with its machine, commit, bundle and command, as JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contract.whole_file import whole_file
from deploy.local.settings import ROOT

COMMAND = "make bench"


@dataclass(frozen=True)
class Row:
    """One measurement: of a group, named, with its figures and what must be known to read them."""

    group: str
    name: str
    figures: dict[str, float]
    note: str = ""
    labels: dict[str, Any] = field(default_factory=dict)


@dataclass
class Record:
    """One run: on which machine, of which commit and bundle, by which command, when."""

    bundle: str
    machine: dict[str, Any] = field(default_factory=lambda: machine())
    commit: str = field(default_factory=lambda: commit())
    command: str = COMMAND
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    rows: list[Row] = field(default_factory=list)

    def add(
        self,
        group: str,
        name: str,
        figures: dict[str, float],
        note: str = "",
        labels: dict[str, Any] | None = None,
    ) -> None:
        """Keeps a row and prints it; `labels` say what it is of, for pictures and ratios."""
        self.rows.append(Row(group, name, figures, note, labels or {}))
        text = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
        say(f"{name}: {text}{f' ({note})' if note else ''}")

    def write(self, folder: Path) -> Path:
        """Writes the JSON, each row with what it was measured on, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        facts = {key: value for key, value in asdict(self).items() if key != "rows"}
        path = folder / f"{self.at.replace(':', '-')}.json"
        write_json(path, [asdict(row) | facts for row in self.rows])
        return path


def write_json(path: Path, content: object) -> None:
    """Writes JSON to read, whole or not at all."""
    with whole_file(path) as file:
        file.write(f"{json.dumps(content, indent=1)}\n".encode())


def say(line: str) -> None:
    """Prints one line of progress at once."""
    print(f"bench    {line}", flush=True)


def machine() -> dict[str, Any]:
    """The processor, its cores, memory and how busy they are."""
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    cpu = models[0].partition(":")[2].strip() if models else platform.processor()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(memory),
        "system": f"{platform.system()}, Python {platform.python_version()}",
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def commit() -> str:
    """The commit that was measured, `+changes` where tracked files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    return (git("rev-parse", "HEAD") or "unknown") + ("+changes" if changed else "")
