"""Writes the tables of `docs/batch-performance.md` from the figures of all finished phases."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.batch.phases import AT_SCALE, OF_BUNDLE
from bench.batch.sections import SECTIONS, Found, Row
from contract.marked import marks, put_between
from deploy.local.settings import ROOT

PAGE = ROOT / "docs" / "batch-performance.md"
MARKS = "batch"
BEGIN, END = marks(MARKS)


def read(folder: Path) -> Found:
    """Reads what was measured of the newest bundle, and of the largest world.

    Raises:
        ValueError: nothing was measured yet.
    """
    worlds = sorted(folder.glob("scale-*/scale.json"), key=lambda path: int(path.parent.name[6:]))
    bundles = sorted(folder.glob("*/throughput.json"), key=lambda path: path.stat().st_mtime)
    found = {
        name: json.loads(path.read_text())
        for paths, names in ((bundles, OF_BUNDLE), (worlds, AT_SCALE))
        for name in names
        if paths and (path := paths[-1].with_name(f"{name}.json")).is_file()
    }
    if not found:
        raise ValueError(f"{folder}: nothing was measured yet")
    return found


def publish(folder: Path, page: Path = PAGE) -> Path:
    """Puts the tables between the page's two marks.

    Raises:
        ValueError: the marks are not there, or nothing was measured.
    """
    put_between(page, MARKS, markdown(read(folder)))
    return page


def markdown(found: Found) -> str:
    """Which machine, then one table per question; what was not measured has no row."""
    first = next(iter(found.values()))
    machine = first["machine"]
    bundles = [f"`{one['bundle']}`" for name, one in found.items() if name in ("throughput", "scale")]
    lines = [
        f"On {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}, "
        f"bundle{'s' if len(bundles) > 1 else ''} {' and '.join(bundles)}. The last column of each row names "
        "its commit, machine, command, time, and the machine's load average before it."
    ]
    for section in SECTIONS:
        rows = section.rows(found)
        if rows:
            text = [section.text, ""] if section.text else []
            lines += ["", f"## {section.title}", "", *text, *table(rows)]
    return "\n".join(lines)


def table(rows: Sequence[Row]) -> list[str]:
    """One line per row, a column per heading that any row has."""
    heads = list(dict.fromkeys(head for row in rows for head in row.cells))
    lines = ["| " + " | ".join(["", *heads, "measured by"]) + " |", "|" + "---|" * (len(heads) + 2)]
    for row in rows:
        cells = [_cell(row.cells.get(head, "")) for head in heads]
        lines.append("| " + " | ".join([row.name, *cells, measured_by(row.phase)]) + " |")
    return lines


def measured_by(phase: Mapping[str, Any]) -> str:
    """Says of which commit, where, how and when a phase was measured."""
    commit = phase["commit"][:8] + ("+changes" if "+" in phase["commit"] else "")
    machine = phase["machine"]
    at = phase["at"][:16].replace("T", " ")
    return f"`{commit}`, {machine['cores']} cores, `{phase['command']}`, {at}, load {machine['load']}"


def _cell(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
