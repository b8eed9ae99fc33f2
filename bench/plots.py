"""Draws the pictures of `docs/performance.md` from the rows of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.designs import NAMES, STOCK
from bench.record import Row
from bench.series import CLIENTS, CLOSED, COMPARED_AT, CPU, OPEN, SHARES
from deploy.local.settings import ROOT

FOLDER = ROOT / "docs" / "images"
COLOURS = dict(zip(NAMES, ("#9c9c9c", "#8a6db1", "#3f77b5", "#d9752b", "#3d9a58"), strict=True))
KINDS = {
    "tritonserver_ms": "#3f77b5",
    "stubs_ms": "#d9752b",
    "redis_ms": "#d9534f",
    "gateway_ms": "#3d9a58",
    "generator_ms": "#9c9c9c",
}


def draw(rows: Sequence[Row], folder: Path = FOLDER) -> list[Path]:
    """Writes the pictures that the rows allow; gives their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update({"font.size": 10, "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True})
    made = {
        "latency": _latency(rows),
        "throughput": _throughput(rows),
        "open-loop": _open_loop(rows),
        "cpu": _cpu(rows),
    }
    paths = []
    for name, figure in made.items():
        path = folder / f"bench-{name}.png"
        figure.savefig(path, dpi=110, bbox_inches="tight")
        plt.close(figure)
        paths.append(path)
    return paths


def _by_design(rows: Sequence[Row], group: str) -> dict[str, list[Row]]:
    found = {name: [r for r in rows if r.group == group and r.labels.get("design") == name] for name in NAMES}
    return {name: of_design for name, of_design in found.items() if of_design}


def _latency(rows: Sequence[Row]) -> Figure:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    for axis, (key, title) in zip(axes, (("p50_ms", "median"), ("p99_ms", "99th percentile")), strict=True):
        for name, series in _by_design(rows, CLOSED).items():
            x = [row.labels["clients"] for row in series]
            axis.plot(x, [row.figures[key] for row in series], "o-", color=COLOURS[name], label=name)
        _clients_axis(axis)
        _log_axis(axis)
        axis.set_title(f"Latency, {title}, closed loop")
    axes[0].set_ylabel("milliseconds (log)")
    axes[1].legend(loc="lower left", bbox_to_anchor=(1.02, 0))
    return figure


def _throughput(rows: Sequence[Row]) -> Figure:
    figure, axis = plt.subplots(figsize=(7, 4.2))
    for name, series in _by_design(rows, CLOSED).items():
        x = [row.labels["clients"] for row in series]
        y = [row.figures["full_per_s"] for row in series]
        axis.plot(x, y, "o-", color=COLOURS[name], label=name)
        axis.annotate(f"{y[-1]:,.0f}", (x[-1], y[-1]), xytext=(6, 0), textcoords="offset points", va="center")
    _clients_axis(axis)
    _log_axis(axis)
    axis.set_ylabel("full answers per second (log)")
    axis.set_title("Throughput, closed loop")
    axis.legend(loc="lower left", bbox_to_anchor=(1.02, 0))
    return figure


def _open_loop(rows: Sequence[Row]) -> Figure:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2))
    for name, series in _by_design(rows, OPEN).items():
        x = [100 * row.labels["share"] for row in series]
        axes[0].plot(x, [row.figures["p99_ms"] for row in series], "o-", color=COLOURS[name], label=name)
        full = [100 * row.figures["full"] / row.figures["due"] for row in series]
        axes[1].plot(x, full, "o-", color=COLOURS[name], label=name)
    for axis in axes:
        axis.set_xticks([100 * share for share in SHARES])
        axis.set_xlabel("requests due, % of our capacity")
    _log_axis(axes[0])
    axes[0].set_ylabel("milliseconds (log)")
    axes[0].set_title("Latency from when due, p99 of the answered")
    axes[1].set_ylabel("% of the requests due")
    axes[1].set_ylim(0, 104)
    axes[1].set_title("Answered in full")
    if axes[1].lines:
        axes[1].legend(loc="lower left", bbox_to_anchor=(1.02, 0))
    return figure


def _cpu(rows: Sequence[Row]) -> Figure:
    figure, axis = plt.subplots(figsize=(8, 4.2))
    chosen = {
        name: row
        for name, series in _by_design(rows, CPU).items()
        for row in series
        if row.labels["clients"] == COMPARED_AT
    }
    left = dict.fromkeys(chosen, 0.0)
    for kind, colour in KINDS.items():
        widths = [row.figures.get(kind, 0.0) for row in chosen.values()]
        label = kind.removesuffix("_ms").replace("stubs", "Python processes")
        axis.barh(list(chosen), widths, left=list(left.values()), color=colour, label=label)
        left = {name: left[name] + width for name, width in zip(chosen, widths, strict=True)}
    shown = 1.15 * max((total for name, total in left.items() if name != STOCK), default=1.0)
    for position, total in enumerate(left.values()):
        caption = f"{total:.3g}" if total <= shown else f"{total:.3g}, beyond the picture"
        at, offset = (total, 4) if total <= shown else (shown, -150)
        axis.annotate(caption, (at, position), xytext=(offset, 0), textcoords="offset points", va="center")
    axis.set_xlim(0, shown)
    axis.set_xlabel("milliseconds of CPU per answer")
    axis.set_title(f"CPU by process, {COMPARED_AT} clients")
    axis.legend(loc="lower left", bbox_to_anchor=(1.0, 0))
    return figure


def _log_axis(axis: Axes) -> None:
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.yaxis.set_minor_formatter(lambda value, _: f"{value:,g}" if f"{value:e}"[0] in "25" else "")


def _clients_axis(axis: Axes) -> None:
    axis.set_xscale("log", base=4)
    axis.set_xticks(CLIENTS, [str(clients) for clients in CLIENTS])
    axis.set_xlabel("concurrent clients")
