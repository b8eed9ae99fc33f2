"""Writes the measured part of `docs/growth.md` and its picture from the figures of all finished sizes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.designs import GATEWAY, OURS
from bench.scale.phases import PHASES
from bench.scale.picture import PICTURE, draw
from contract.marked import marks, put_between
from deploy.local.settings import ROOT

MARKS = "measured"
BEGIN, END = marks(MARKS)
PAGE = ROOT / "docs" / "growth.md"
Size = dict[str, Any]
"""The figures of one size, by phase; only those that were measured."""
Cell = Callable[[Size], str]

SERIES = {
    "1": "1 client",
    "4": "4 clients",
    "16": "16 clients",
    "half": "open loop at half of what 16 clients got",
}


def read(folder: Path) -> list[Size]:
    """Reads every size of which something was measured, smallest first."""
    found = []
    for each in sorted((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: int(p.name)):
        phases = {
            name: json.loads(path.read_text()) for name in PHASES if (path := each / f"{name}.json").is_file()
        }
        if phases:
            found.append({"items": int(each.name)} | phases)
    return found


def publish(folder: Path, page: Path = PAGE, picture: Path = PICTURE) -> tuple[Path, Path]:
    """Puts the tables between the page's two marks, and draws the picture.

    Raises:
        ValueError: the marks are not there, or nothing was measured.
    """
    sizes = read(folder)
    if not sizes:
        raise ValueError(f"{folder}: nothing was measured yet")
    content = (
        f"{markdown(sizes)}\n\n![Latency, memory and times against the number of items](images/growth.png)"
    )
    put_between(page, MARKS, content)
    draw(sizes, picture)
    return page, picture


def markdown(sizes: Sequence[Size]) -> str:
    """One table per question, a column per size."""
    parts = [_facts(sizes)]
    for title, rows in _tables(sizes).items():
        heads = ["", *(f"{size['items']:,} items" for size in sizes)]
        lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        for name, cell in rows.items():
            cells = [_cell(cell, size) for size in sizes]
            if any(cells):
                lines.append("| " + " | ".join([name, *cells]) + " |")
        parts += ["", f"### {title}", "", *lines]
    return "\n".join(parts)


def _facts(sizes: Sequence[Size]) -> str:
    lines = []
    for size in sizes:
        for name in PHASES:
            if name in size:
                one = size[name]
                machine = one["machine"]
                commit = one["commit"][:10] + ("+changes" if "+" in one["commit"] else "")
                lines.append(f"| {size['items']:,} | {name} | {one['at']} | `{commit}` | {machine['load']} |")
    machine = next(phase["machine"] for size in sizes for name, phase in size.items() if name in PHASES)
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}"
    table = ["| items | phase | at | commit | load average before |", "|---|---|---|---|---|", *lines]
    return "\n".join([f"`make bench-scale` on {where}.", "", *table])


def _tables(sizes: Sequence[Size]) -> dict[str, dict[str, Cell]]:
    kinds = list(dict.fromkeys(k for s in sizes for k in s.get("serve", {}).get("memory_mib", {})))
    keys = list(dict.fromkeys(k for s in sizes for k in s.get("index", {}).get("bytes_per_key", {})))
    tables: dict[str, dict[str, Cell]] = {
        "Recall": {
            "index": lambda s: s["index"]["kind"],
            "EF_RUNTIME that the export chose": lambda s: (
                str(s["index"]["chosen"]["ef"]) if s["index"]["chosen"] else "exact search"
            ),
            "recall@100, the thousand users that it was chosen on": lambda s: _recall(s["index"]["chosen"]),
            "recall@100, a thousand other users, as served": lambda s: _recall(s["index"]["fresh"]),
            "of which surely (95 %)": lambda s: f"{s['index']['fresh']['at_least']:.4f}",
            "ms per search, one after the other": lambda s: _number(s["index"]["fresh"]["ms_per_search"]),
        }
    }
    for design in (OURS, GATEWAY):
        rows: dict[str, Cell] = {}
        for series, title in SERIES.items():
            rows[f"{title}: full answers per s"] = _of(design, series, "full_per_s")
            rows[f"{title}: p50 / p95 / p99 ms"] = _percentiles(design, series)
            rows[f"{title}: other than full"] = _others(design, series)
        tables[f"Latency and throughput: {design}"] = rows
    tables["CPU per answer, 16 clients through the gateway, ms"] = {
        kind: _cpu(kind) for kind in ("redis", "tritonserver", "stubs", "gateway", "generator")
    }
    tables["Memory of each process after the load, MiB"] = {
        **{kind: _memory(kind) for kind in kinds},
        "all, bytes per item and its user": lambda s: _number(
            sum(s["serve"]["memory_mib"].values()) * 2**20 / s["items"]
        ),
    }
    tables["Memory per key in Redis, bytes"] = {
        **{key: _bytes_of(key) for key in keys},
        "the index beside them, per item": lambda s: _number(s["index"]["index_mib"] * 2**20 / s["items"]),
    }
    tables["Building, seconds"] = {
        "train on a sample, encode the catalogue": lambda s: _number(s["train"]["seconds"]),
        "bundle, MiB": lambda s: _number(s["train"]["bundle_mib"]),
        "load the features of all users and items": lambda s: _number(s["load"]["seconds"]),
        "write vectors and build the index, choose EF": lambda s: _number(s["index"]["seconds"]),
    }
    tables["From nothing to the first full answer, seconds"] = {
        "Redis answers after a restart": lambda s: _number(s["restart"]["answers_s"]),
        "Redis: every item is indexed again": lambda s: _number(s["restart"]["index_whole_s"]),
        "Triton: from its start": lambda s: _number(s["serve"]["triton_first_full_answer_s"]),
        "gateway: from its start": lambda s: _number(s["serve"]["gateway_first_full_answer_s"]),
        "all three, one after the other": lambda s: _number(
            s["serve"]["redis_whole_s"]
            + s["serve"]["triton_first_full_answer_s"]
            + s["serve"]["gateway_first_full_answer_s"]
        ),
    }
    return tables


def _cell(cell: Cell, size: Size) -> str:
    """A phase that was not measured leaves its cells empty."""
    try:
        return cell(size)
    except KeyError:
        return ""


def _recall(found: dict[str, Any] | None) -> str:
    return f"{found['recall']:.4f}" if found else ""


def _of(design: str, series: str, key: str) -> Cell:
    return lambda size: _number(size["serve"][design][series][key])


def _percentiles(design: str, series: str) -> Cell:
    def cell(size: Size) -> str:
        figures = size["serve"][design][series]
        return " / ".join(_number(figures[f"{p}_ms"]) for p in ("p50", "p95", "p99"))

    return cell


def _others(design: str, series: str) -> Cell:
    def cell(size: Size) -> str:
        figures = size["serve"][design][series]
        found = {
            kind: figures[kind] for kind in ("degraded", "popular", "refused", "failed") if kind in figures
        }
        return ", ".join(f"{count:,} {kind}" for kind, count in found.items())

    return cell


def _cpu(kind: str) -> Cell:
    return lambda size: _number(size["serve"][GATEWAY]["16"]["cpu_ms_per_answer"][kind])


def _memory(kind: str) -> Cell:
    return lambda size: _number(size["serve"]["memory_mib"][kind])


def _bytes_of(key: str) -> Cell:
    return lambda size: _number(size["index"]["bytes_per_key"][key])


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
