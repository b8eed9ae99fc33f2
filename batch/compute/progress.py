"""Adds up the results of a run's shards."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace
from resource import RUSAGE_SELF, getrusage
from typing import Any

from batch.runs.plan import UNKNOWN
from batch.runs.records import RunRecord


class RunProgress:
    """Keeps a run's record up to date, shard by shard."""

    def __init__(self, record: RunRecord) -> None:
        self.record, self.opened_s = record, 0.0
        self.stage_s: Counter[str] = Counter(dict(record.stage_s))
        self.skipped: Counter[str] = Counter(dict(record.skipped))
        self.bytes = record.bytes_per_user * record.done
        self.memory_mib: dict[int, float] = {}

    def add(self, result: dict[str, Any], began_s: float, before_s: float) -> RunRecord:
        """Takes one shard's row, when this process began to compute, and the seconds that former ones did."""
        self.opened_s = min(self.opened_s or result["opened_at_s"], result["opened_at_s"])
        self.stage_s.update(json.loads(result["stage_s"]))
        self.bytes += result["bytes"]
        self.memory_mib[result["pid"]] = result["memory_mib"]
        if result["unknown"]:
            self.skipped[UNKNOWN] += result["unknown"]
        done = self.record.done + result["users"]
        driver_mib = getrusage(RUSAGE_SELF).ru_maxrss / 1024
        self.record = replace(
            self.record,
            done=done,
            skipped=dict(self.skipped),
            stage_s=dict(self.stage_s),
            start_up_s=self.opened_s - began_s,
            compute_s=before_s + time.time() - self.opened_s,
            bytes_per_user=self.bytes / done if done else 0.0,
            peak_mib={"driver": driver_mib, "workers": sum(self.memory_mib.values())},
        )
        return self.record
