"""Tells what a load run saw: lines for people, JSON for programs, a picture of the latencies."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from hdrh.histogram import HdrHistogram

from bench.load.result import Result
from bench.record import write_json

PERCENTILES = (50.0, 95.0, 99.0)
ROWS, BAR = 14, 40


def milliseconds(latency: HdrHistogram, percentile: float) -> float:
    """Reads a percentile in ms; 100 is the maximum."""
    return float(latency.get_value_at_percentile(percentile)) / 1000.0


def summary(result: Result, settings: dict[str, float | int | str]) -> dict[str, Any]:
    """Gives every figure of the run by name, with what it was asked to do."""
    latency = result.latency
    count = max(result.scheduled, 1)
    return {
        **settings,
        "scheduled": result.scheduled,
        "answered": result.answered,
        "errors": dict(result.errors),
        "sources": dict(result.sources),
        "degraded": dict(result.degraded),
        "took_s": round(result.took_s, 3),
        "achieved_rate": round(result.achieved_rate, 2),
        "latency_ms": {
            **{f"p{percentile:.0f}": milliseconds(latency, percentile) for percentile in PERCENTILES},
            "max": milliseconds(latency, 100.0),
            "mean": round(latency.get_mean_value() / 1000.0, 3),
        },
        "generator": {
            "cpu_ms_per_request": round(1000.0 * result.cpu_s / count, 3),
            "lag_p99_ms": milliseconds(result.lag, 99.0),
        },
    }


def recorded(latency: HdrHistogram) -> list[tuple[float, int]]:
    """Lists the values that occurred, in ms, and how often; ascending."""
    # The iterator hands out one object again and again, so it is read at every step.
    return [
        (item.value_iterated_to / 1000.0, item.count_added_in_this_iter_step)
        for item in latency.get_recorded_iterator()
    ]


def _buckets(latency: HdrHistogram) -> list[tuple[float, float, int]]:
    """Splits the range into geometric buckets: from ms, to ms, count."""
    values = recorded(latency)
    if not values:
        return []
    low, high = values[0][0], values[-1][0]
    step = max((high / low) ** (1.0 / ROWS), 1.001)
    counts = [0] * ROWS
    for value, count in values:
        counts[min(int(math.log(value / low) / math.log(step)), ROWS - 1)] += count
    return [(low * step**row, low * step ** (row + 1), counts[row]) for row in range(ROWS)]


def text(summary: dict[str, Any], latency: HdrHistogram) -> str:
    """Renders the figures and a histogram with geometric buckets."""
    figures, generator = summary["latency_ms"], summary["generator"]
    listed = ", ".join(
        f"{name} {count}" for name, count in {**summary["sources"], **summary["degraded"]}.items()
    )
    failed = ", ".join(f"{count} x {name}" for name, count in summary["errors"].items())
    requested = f"{summary['rate']:g} requests/s for {summary['duration_s']:g} s, {summary['users']} users"
    achieved = f"{summary['achieved_rate']:g} good answers/s: {summary['answered']} of {summary['scheduled']}"
    percentiles = "  ".join(f"{name} {figures[name]:.1f} ms" for name in ("p50", "p95", "p99", "max"))
    cost = f"{generator['cpu_ms_per_request']:.2f} ms of CPU per request"
    lines = [
        f"asked for   {requested}, seed {summary['seed']}",
        f"achieved    {achieved}",
        f"errors      {failed or 'none'}",
        f"answers     {listed or 'none'}",
        f"latency     {percentiles}  (from the scheduled instant)",
        f"generator   {cost}, sent {generator['lag_p99_ms']:.1f} ms late at p99",
        "",
    ]
    buckets = _buckets(latency)
    most = max((count for _, _, count in buckets), default=1)
    for low, high, count in buckets:
        bar = "█" * math.ceil(BAR * count / most) if count else ""
        lines.append(f"{low:9.2f} - {high:9.2f} ms {count:7d} {bar}")
    return "\n".join(lines)


def plot(summary: dict[str, Any], latency: HdrHistogram, path: Path) -> None:
    """Draws latency against percentile, the tail stretched out as 1 / (1 - p)."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib import pyplot

    total = latency.get_total_count()
    so_far, shares, values = 0, [], []
    for value, count in recorded(latency):
        so_far += count
        shares.append(1.0 / max(1.0 - so_far / total, 0.5 / total))
        values.append(value)
    figure, axes = pyplot.subplots(figsize=(8, 4.5), constrained_layout=True)
    axes.step(shares, values, where="pre", color="#1f6feb")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    ticks = {1: "0", 2: "50", 10: "90", 20: "95", 100: "99", 1000: "99.9", 10000: "99.99"}
    axes.set_xticks(
        [tick for tick in ticks if tick <= 2 * total], [ticks[t] for t in ticks if t <= 2 * total]
    )
    axes.minorticks_off()
    for percentile in PERCENTILES:
        value = summary["latency_ms"][f"p{percentile:.0f}"]
        axes.annotate(
            f"p{percentile:.0f} {value:.1f} ms",
            (1.0 / (1.0 - percentile / 100.0), value),
            xytext=(0, 10),
            textcoords="offset points",
            ha="center",
        )
    axes.set_xlabel("percentile")
    axes.set_ylabel("ms from the scheduled instant")
    axes.set_title(
        f"{summary['achieved_rate']:g} of {summary['rate']:g} requests/s answered "
        f"for {summary['duration_s']:g} s"
    )
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def write(summary: dict[str, Any], latency: HdrHistogram, folder: Path, name: str) -> tuple[Path, Path]:
    """Writes `name`.json and `name`.png into the folder and gives both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    figures, picture = folder / f"{name}.json", folder / f"{name}.png"
    write_json(figures, summary)
    plot(summary, latency, picture)
    return figures, picture
