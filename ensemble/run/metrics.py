"""What the chain counts, and how Triton's own /metrics shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from contract.slates import degradations
from ensemble.run.deadline import GONE, LATE, Watch
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
    "cancelled_rows": "Users whose caller went away, by the stage that was not run for them.",
    "degraded_rows": "Users answered with less, by what their slate lacks.",
    "failed_requests": "Requests answered with an error, by its code.",
}
GAUGES = {
    "warm": "1 once this instance has answered sample requests of every size.",
    "redis_circuit_open": "1 while this instance does not ask Redis, because it did not answer.",
    "indexed_share": "Share of the bundle's items that the vector index held at the last look at it.",
}
PREFIX = "shortlist_chain_"
Key = tuple[str, tuple[tuple[str, str], ...]]


class Tally:
    """Counts in plain numbers, by metric and labels: a request pays almost nothing for being counted."""

    def __init__(self) -> None:
        self.counts: dict[Key, float] = {}
        for metric in ("requests", "rows", "executions"):
            self.add(metric, 0)

    def add(self, metric: str, amount: float = 1, **labels: str) -> None:
        """Adds to one counter."""
        key = (metric, tuple(labels.items()))
        self.counts[key] = self.counts.get(key, 0) + amount

    def batch(
        self, requests: int, watch: Watch, stage_us: Mapping[str, int], tables: Sequence[Tensors]
    ) -> None:
        """Takes a batch that was run: who stopped on the way, the microseconds by stage, and the last table
        of each part that ran."""
        self.add("requests", requests)
        self.add("rows", len(watch.owners))
        self.add("executions")
        for (stage, why), rows in watch.counts.items():
            if why in (LATE, GONE):
                self.add("late_rows" if why == LATE else "cancelled_rows", rows, stage=stage)
        for stage, duration_us in stage_us.items():
            self.add("stage_seconds", duration_us / 1e6, stage=stage)
        for table in tables:
            for mask in table["degraded"][:, 0].tolist():
                for flag in degradations(mask) if mask else ():
                    self.add("degraded_rows", degradation=str(flag))


class Publication:
    """Shows a tally, and what is now, on Triton's /metrics. Instances of the model add to the same counters;
    a gauge is labelled by instance."""

    def __init__(self, pb_utils: Any, instance: str, tally: Tally) -> None:
        """Takes Triton's own module."""
        self.instance, self.tally = instance, tally
        family = pb_utils.MetricFamily
        self.families = {
            name: family(name=f"{PREFIX}{name}_total", description=text, kind=family.COUNTER)
            for name, text in COUNTERS.items()
        } | {
            name: family(name=PREFIX + name, description=text, kind=family.GAUGE)
            for name, text in GAUGES.items()
        }
        self.metrics: dict[Key, Any] = {}
        self.told: dict[Key, float] = {}

    def publish(self, gauges: Mapping[str, float]) -> None:
        """Adds what was counted since the last time, and sets the gauges."""
        for key, count in list(self.tally.counts.items()):
            if key not in self.told or count != self.told[key]:
                self._metric(key).increment(count - self.told.get(key, 0))
                self.told[key] = count
        for name, value in gauges.items():
            key = (name, (("instance", self.instance),))
            if self.told.get(key) != value:
                self._metric(key).set(value)
                self.told[key] = value

    def _metric(self, key: Key) -> Any:
        if key not in self.metrics:
            name, labels = key
            self.metrics[key] = self.families[name].Metric(labels=dict(labels))
        return self.metrics[key]
