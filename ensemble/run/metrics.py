"""What the chain counts, and how Triton's own /metrics shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from contract.slates import degradations
from contract.tensors import StageName
from ensemble.run.deadlines import Deadlines
from ensemble.stage import Tensors

EVERY_S = 1.0
"""Seconds between two publications: Triton takes 9 microseconds to add to a counter, too much per request."""
COUNTERS = {
    "requests": "Requests that came to the chain.",
    "rows": "Users that they asked for.",
    "executions": "Batches that they came in; requests by batch is the batch size.",
    "seconds": "Seconds from execute to response, by part.",
    "cpu_seconds": "CPU seconds inside ONNX Runtime, by the threads that called it.",
    "stage_seconds": "Seconds by stage.",
    "late_rows": "Users whose deadline passed, by the stage that was not run for them.",
    "failed_sources": "Users for whom a source of candidates failed, by its name.",
    "degraded_rows": "Users answered with less, by what their slate lacks.",
    "embedding_rows": "Rows of tables beside the models that were read, by table, and by the level that had "
    "them; none: no level, so that they were those of an unknown id.",
    "embedding_failures": "Times that a level of such a table was away, was not written, had no time for "
    "insertions, or had a damaged row.",
    "failed_requests": "Requests answered with an error, by its code.",
}
GAUGES = {
    "warm": "1 once this instance has answered sample requests of every size.",
    "indexed_share": "Share of the bundle's items that the vector index held at the last look at it.",
    "embedding_hit_rate": "Share of the rows of tables beside the models that the process had, of late.",
    "index_nodes_away": "Nodes of the vector index that are not asked, as they did not answer.",
}
PREFIX = "shortlist_chain_"
Key = tuple[str, tuple[tuple[str, str], ...]]


class Counters:
    """Counts in plain numbers, by metric and labels: a request pays almost nothing for being counted."""

    def __init__(self) -> None:
        self.counts: dict[Key, float] = {}
        for metric in ("requests", "rows", "executions"):
            self.add(metric, 0)

    def add(self, metric: str, amount: float = 1, **labels: str) -> None:
        """Adds to one counter."""
        key = (metric, tuple(labels.items()))
        self.counts[key] = self.counts.get(key, 0) + amount

    def run(self, deadlines: Deadlines, table: Tensors, sources: Sequence[str]) -> None:
        """Takes the deadlines of a run of the chain, its last table, empty where there is none, and the names
        of the sources."""
        for stage, rows in deadlines.late.items():
            self.add("late_rows", rows, stage=stage)
        if table:
            for stage, duration_us in zip(StageName, table["stage_us"][0].tolist(), strict=True):
                self.add("stage_seconds", duration_us / 1e6, stage=str(stage))
            for mask in table["degraded"][:, 0].tolist():
                for flag in degradations(mask) if mask else ():
                    self.add("degraded_rows", degradation=str(flag))
            for failed in table["failed_sources"][:, 0].tolist():
                for at, name in enumerate(sources) if failed else ():
                    if failed >> at & 1:
                        self.add("failed_sources", source=name)


class Publication:
    """Shows counters, and what is now, on Triton's /metrics. Instances of the model add to the same counters;
    a gauge is labelled by instance."""

    def __init__(self, pb_utils: Any, instance: str, counters: Counters) -> None:
        """Takes Triton's own module."""
        self.instance, self.counters = instance, counters
        family = pb_utils.MetricFamily
        self.families = {
            name: family(name=f"{PREFIX}{name}_total", description=text, kind=family.COUNTER)
            for name, text in COUNTERS.items()
        } | {
            name: family(name=PREFIX + name, description=text, kind=family.GAUGE)
            for name, text in GAUGES.items()
        }
        self.metrics: dict[Key, Any] = {}
        self.published: dict[Key, float] = {}

    def publish(self, gauges: Mapping[str, float]) -> None:
        """Adds what was counted since the last time, and sets the gauges."""
        for key, count in list(self.counters.counts.items()):
            if key not in self.published or count != self.published[key]:
                self._metric(key).increment(count - self.published.get(key, 0))
                self.published[key] = count
        for name, value in gauges.items():
            key = (name, (("instance", self.instance),))
            if self.published.get(key) != value:
                self._metric(key).set(value)
                self.published[key] = value

    def _metric(self, key: Key) -> Any:
        if key not in self.metrics:
            name, labels = key
            self.metrics[key] = self.families[name].Metric(labels=dict(labels))
        return self.metrics[key]
