"""The targets of a run, and what it measured of each: met or missed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.chain import CHAIN, OVERHEAD
from bench.designs import GATEWAY, OURS, REFERENCE_04, STOCK
from bench.record import Record, Row
from bench.series import CLOSED, COMPARED_AT, CPU, OPEN
from bench.side_by_side import RATIOS

TARGETS = "Targets"


@dataclass(frozen=True)
class Target:
    """A figure of one row, and the bound that it is held against."""

    what: str
    group: str
    is_row: Callable[[Row], bool]
    figure: str
    bound: float
    is_least: bool
    unit: str
    beside: str = ""
    """A figure of the same row that helps to read it."""

    def verdict(self, rows: Sequence[Row]) -> tuple[dict[str, float], str]:
        """What was measured, and whether that meets the bound."""
        sign = "at least" if self.is_least else "at most"
        wanted = f"{sign} {self.bound:g} {self.unit}".strip()
        found = [row.figures for row in rows if row.group == self.group and self.is_row(row)]
        if not found:
            return {}, f"{wanted}: **not measured**"
        measured = found[0][self.figure]
        is_met = measured >= self.bound if self.is_least else measured <= self.bound
        beside = {self.beside: found[0][self.beside]} if self.beside in found[0] else {}
        return {"measured": measured} | beside, f"{wanted}: **{'met' if is_met else 'missed'}**"


def _of(design: str, **labels: float) -> Callable[[Row], bool]:
    wanted = {"design": design, **labels}
    return lambda row: {key: row.labels.get(key) for key in wanted} == wanted


TABLE = (
    Target(
        f"full answers per second through the gateway, {COMPARED_AT} clients",
        CLOSED,
        _of(GATEWAY, clients=COMPARED_AT),
        "full_per_s",
        400,
        True,
        "",
    ),
    Target(
        f"throughput over stock, {COMPARED_AT} clients, both straight to Triton",
        RATIOS,
        _of(STOCK),
        "ratio",
        40,
        True,
        "times",
    ),
    Target(
        f"throughput over reference 04, {COMPARED_AT} clients, both straight to Triton",
        RATIOS,
        _of(REFERENCE_04),
        "ratio",
        4,
        True,
        "times",
    ),
    Target(
        f"times less CPU per answer than reference 04, {COMPARED_AT} clients, both straight to Triton",
        RATIOS,
        _of(REFERENCE_04),
        "cpu_ratio",
        6,
        True,
        "times",
    ),
    Target(
        "p99 at half of capacity, open loop, through the gateway",
        OPEN,
        _of(GATEWAY, share=0.5),
        "p99_ms",
        30,
        False,
        "ms",
        "unpaused_p99_ms",
    ),
    Target(
        f"time from execute to response that is neither Redis nor ONNX Runtime, {COMPARED_AT} clients",
        CHAIN,
        lambda row: row.labels.get("clients") == COMPARED_AT,
        "neither_percent",
        50,
        False,
        "%",
    ),
    Target(
        "the same, 1 client",
        CHAIN,
        lambda row: row.labels.get("clients") == 1,
        "neither_percent",
        50,
        False,
        "%",
    ),
    Target(
        "CPU of tritonserver and its stub less ONNX Runtime, 64 clients to 1",
        OVERHEAD,
        lambda row: bool(row.labels.get("ratio")),
        "ratio",
        0.7,
        False,
        "",
    ),
    Target(
        f"the generator's share of all cores, {COMPARED_AT} clients through the gateway",
        CPU,
        _of(GATEWAY, clients=COMPARED_AT),
        "generator_percent_of_all_cores",
        10,
        False,
        "%",
    ),
    Target(
        f"the generator's share of all cores, {COMPARED_AT} clients over gRPC",
        CPU,
        _of(OURS, clients=COMPARED_AT),
        "generator_percent_of_all_cores",
        10,
        False,
        "%",
    ),
)


def add_targets(record: Record) -> None:
    """Records each target with what was measured; they come first in the tables."""
    for target in reversed(TABLE):
        figures, note = target.verdict(record.rows)
        record.add(TARGETS, target.what, figures, note)
        record.rows.insert(0, record.rows.pop())
