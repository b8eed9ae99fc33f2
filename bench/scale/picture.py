"""Draws what serving costs against the size of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")

from matplotlib import pyplot as plt

from bench.designs import GATEWAY, OURS
from deploy.local.settings import ROOT

PICTURE = ROOT / "docs" / "images" / "growth.png"
Size = dict[str, Any]


def draw(sizes: Sequence[Size], path: Path) -> None:
    """Draws latency, memory and times against the number of items, both axes logarithmic."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), constrained_layout=True)
    latency = {
        f"{design}, {p}": _value("serve", design, "1", f"{p}_ms")
        for design in (OURS, GATEWAY)
        for p in ("p50", "p99")
    }
    memory = {
        kind: _value("serve", "memory_mib", kind) for kind in ("redis", "stubs", "tritonserver", "gateway")
    }
    times = {
        "load features": _value("load", "seconds"),
        "write and build the index": _value("index", "seconds"),
        "index whole after a restart": _value("restart", "index_whole_s"),
        "Triton's first full answer": _value("serve", "triton_first_full_answer_s"),
    }
    panels = (("Latency, one client", "ms", latency), ("Memory", "MiB", memory), ("Times", "s", times))
    for axis, (title, unit, curves) in zip(axes, panels, strict=True):
        for name, value in curves.items():
            points = [(s["items"], v) for s in sizes if (v := value(s)) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", label=name)
        axis.set(xscale="log", yscale="log", title=title, xlabel="items, and as many users", ylabel=unit)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _value(*keys: str) -> Callable[[Size], float | None]:
    def value(size: Size) -> float | None:
        found: Any = size
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return None if found is None else float(found)

    return value
