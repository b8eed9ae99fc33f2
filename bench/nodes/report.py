"""Writes what was measured into docs/scale.md."""

from __future__ import annotations

import json
from pathlib import Path

from bench.nodes.vectors import SPEC, WIDTH, K
from bench.record import machine
from contract.marked import marks, put_between
from deploy.local.settings import ROOT

MARKS = "nodes"
BEGIN, END = marks(MARKS)
PAGE = ROOT / "docs" / "scale.md"
ROWS: dict[str, str] = {
    "build_s": "build, s",
    "build_cpu_s": "of that CPU, of the busiest server, s",
    "memory_mib": "memory, MiB",
    "file_mib": "file that is mapped, MiB",
    "ef": "EF_RUNTIME that reaches the recall",
    "recall": f"recall@{K}",
    "p50_ms": "one client: p50, ms",
    "p99_ms": "one client: p99, ms",
    "search_cpu_ms": "CPU of a search, client and servers, ms",
    "per_s": "4 clients: searches per s",
    "restart_s": "restart, until every item is found again, s",
    "restart_cpu_s": "of that CPU, of the busiest server, s",
    "load": "load average of the machine",
}


def markdown(folder: Path) -> str:
    """A table for each number of items that was measured."""
    parts = []
    for path in sorted(folder.glob("*.json"), key=lambda one: int(one.stem)):
        known = dict(sorted(json.loads(path.read_text()).items()))
        lines = [
            f"| {int(path.stem):,} items x {WIDTH} | " + " | ".join(known) + " |",
            "|---" * (len(known) + 1) + "|",
        ]
        for row, title in ROWS.items():
            cells = [f"{one[row]:,.4g}" if row in one else "" for one in known.values()]
            if any(cells):
                lines.append(f"| {title} | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    facts = machine()
    where = (
        f"`python -m bench.nodes.run` on {facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB"
    )
    return "\n\n".join([f"{where}; M {SPEC.m}, EF_CONSTRUCTION {SPEC.ef_construction}, K {K}.", *parts])


def publish(folder: Path, page: Path = PAGE) -> None:
    """Puts the tables between the page's two marks.

    Raises:
        ValueError: the marks are not there.
    """
    put_between(page, MARKS, markdown(folder))
