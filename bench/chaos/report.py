"""The tables of what faults and overload did."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from bench.chaos.faults import Outcome
from bench.chaos.judge import TOLERANCE_MS
from bench.chaos.overload import CLIENTS, Capacity, Overload


def of_faults(outcomes: Sequence[Outcome], budget_ms: float) -> list[str]:
    """One row per fault."""
    lines = _head(
        "what fails",
        "requests",
        "answered 200, marked",
        f"within {budget_ms + TOLERANCE_MS:g} ms",
        "p99.9 ms",
        "max ms",
        "generator late, max ms",
        "full / less / popular",
        "well again after",
        "healed by",
    )
    for one in outcomes:
        lines.append(
            _row(
                one.name,
                f"{one.requests:,}",
                f"{100 * one.answered / max(one.requests, 1):.4g} %",
                f"{100 * one.in_time:.2f} %",
                f"{one.p999_ms:.0f}",
                f"{one.max_ms:.0f}",
                f"{one.lag_max_ms:.0f}",
                f"{one.full:,} / {one.less:,} / {one.cheap:,}",
                _seconds(one.recovered_s),
                one.healed_by,
            )
        )
    return lines


def of_overload(
    can: Capacity,
    cheap_ms: Mapping[str, float],
    outcomes: Sequence[Overload],
    starts: Iterable[Mapping[str, float]],
) -> list[str]:
    """What the servers can do, one column per overload, and the first requests after a start."""
    lines = [
        f"Capacity: {can.rate:.0f} full answers/s to {CLIENTS} callers that wait for each answer, p50 "
        f"{can.p50_ms:.1f} ms, p95 {can.p95_ms:.1f} ms. CPU ms per full answer: {_listed(can.cpu_ms, 2)}. "
        f"CPU ms per popular slate: {_listed(cheap_ms, 2)}.",
        "",
        *_head("", *(f"{one.factor:g} times capacity" for one in outcomes)),
    ]
    served_ms = sum(ms for name, ms in cheap_ms.items() if name != "generator")
    rows: dict[str, Callable[[Overload], str]] = {
        "requests per s, for s": lambda one: f"{one.rate:.0f}, {one.seconds:.0f}",
        "answers within the budget plus 10 ms": lambda one: f"{100 * one.in_time:.2f} %",
        "p50 / p99 / max ms": lambda one: f"{one.p50_ms:.1f} / {one.p99_ms:.1f} / {one.max_ms:.0f}",
        "full answers per s": lambda one: f"{one.full_per_s:.0f}",
        "of capacity": lambda one: f"{100 * one.share_of_capacity:.0f} %",
        "full / less / popular": lambda one: f"{one.full:,} / {one.less:,} / {one.cheap:,}",
        "503 with Retry-After": lambda one: f"{one.refused:,}",
        "anything else": lambda one: f"{one.wrong:,}",
        "normal service after the load's end": lambda one: _seconds(one.normal_after_s),
        "CPU seconds": lambda one: _listed(one.cpu_s),
        "of these, popular slates, at most": lambda one: f"{one.cheap * served_ms / 1e3:.1f}",
        "memory before, MiB": lambda one: _listed(one.memory_before, 0),
        "memory after, MiB": lambda one: _listed(one.memory_after, 0),
        "generator late at p99, ms": lambda one: f"{one.lag_p99_ms:.1f}",
    }
    lines += [_row(name, *map(cell, outcomes)) for name, cell in rows.items()]
    heads = ("start of Triton and gateway", "ready after", "first request", "median of the next 100", "ratio")
    lines += ["", *_head(*heads)]
    for turn, one in enumerate(starts, 1):
        first, median = f"{one['first_ms']:.1f} ms", f"{one['median_ms']:.1f} ms"
        lines.append(_row(str(turn), f"{one['ready_s']:.1f} s", first, median, f"{one['ratio']:.2f}"))
    return lines


def _head(*names: str) -> list[str]:
    return [_row(*names), "|" + "---|" * len(names)]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _seconds(value: float | None) -> str:
    return "not in the run" if value is None else f"{value:.1f} s"


def _listed(figures: Mapping[str, float], digits: int = 1) -> str:
    return ", ".join(f"{name} {value:.{digits}f}" for name, value in figures.items())
