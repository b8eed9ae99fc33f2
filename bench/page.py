"""Writes the tables and pictures of a run into `docs/performance.md`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench import chain, path, series, side_by_side, targets
from bench.record import Record, Row
from contract.marked import marks, put_between
from deploy.local.settings import ROOT

MARKS = "measured"
BEGIN, END = marks(MARKS)
PAGE = ROOT / "docs" / "performance.md"
GROUPS: dict[str, tuple[str, ...]] = {
    targets.TARGETS: (),
    side_by_side.RATIOS: (
        "Ours is measured again right before and after each other design's series, so that a busy minute "
        "falls on both. CPU is milliseconds per answer of all servers: Triton, its Python processes, Redis.",
    ),
    series.CLOSED: (
        "Each client asks for the next user when it has its answer. `full` and the columns after it count"
        " answers.",
        "![Latency against clients](images/bench-latency.png)",
        "![Throughput against clients](images/bench-throughput.png)",
    ),
    series.OPEN: (
        "Requests fall due at random instants, at 50, 80 and 120 % of our capacity: the most full answers "
        "per second of our closed loops, of the gateway's for the gateway, of those over gRPC for the "
        "others. Latency counts from when a request was due. Over gRPC at most 64 wait at once, which "
        "bounds the queue of a design that is too slow; what falls due beyond is `not sent`, and the "
        "percentiles are of what was answered.",
        "![Open loop](images/bench-open-loop.png)",
    ),
    series.CPU: (
        "Milliseconds of CPU per answer, whatever the answer is; first that of all servers. `stubs` are "
        "Triton's Python processes, one in ours, one per model in the others. The last column is what the "
        "generator took of the whole machine.",
        "![CPU by process](images/bench-cpu.png)",
    ),
    chain.OVERHEAD: ("Per request, over gRPC. ONNX Runtime's is the CPU of the threads that call it.",),
    series.MEMORY: (
        "MiB resident after the series of 64 clients. Redis is one, and holds the rows of all designs.",
    ),
    side_by_side.CORRECT: ("Before any clock runs.",),
    chain.CHAIN: (
        "From `execute` to the response. Redis is what its client takes and waits for, ONNX Runtime the "
        "two models, the rest the chain's own. The picture is the sampled time of 16 clients; open it by "
        "itself and hover.",
        "![Flame graph of the chain](images/chain.svg)",
    ),
    path.STAGES: ("One client of the gateway.",),
    series.STUBS: ("With 16 clients.",),
    side_by_side.RUNS: (),
    path.FEATURES: (),
    path.PARTS: ("Each in a process of its own, without servers.",),
}
"""The tables in their order on the page, and what stands above each."""


def publish(record: Record, page: Path = PAGE) -> None:
    """Puts the tables between the page's two marks.

    Raises:
        ValueError: the marks are not there.
    """
    put_between(page, MARKS, markdown(record))


def markdown(record: Record) -> str:
    """The run's facts, then the tables."""
    machine = record.machine
    lines = [
        f"`{record.command}` on {record.at[:10]}, commit `{record.commit[:10]}`, bundle `{record.bundle}`, "
        f"on {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}; "
        f"load average before the run {machine['load']}. The last column of each row names its commit, "
        "machine and command."
    ]
    measured = f"`{record.commit[:8]}`, {machine['cores']} cores, `{record.command}`"
    found = list(dict.fromkeys(row.group for row in record.rows))
    for group in [*(g for g in GROUPS if g in found), *(g for g in found if g not in GROUPS)]:
        paragraphs = [line for paragraph in GROUPS.get(group, ()) for line in (paragraph, "")]
        rows = [row for row in record.rows if row.group == group]
        lines += ["", f"### {group}", "", *paragraphs, *_table(rows, measured)]
    return "\n".join(lines)


def _table(rows: Sequence[Row], measured: str) -> list[str]:
    keys = list(dict.fromkeys(key for row in rows for key in row.figures))
    has_notes = any(row.note for row in rows)
    heads = ["", *(key.replace("_", " ") for key in keys), *(["note"] if has_notes else []), "measured by"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = [_number(row.figures[key]) if key in row.figures else "" for key in keys]
        cells = [row.name, *cells, *([row.note] if has_notes else []), measured]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
