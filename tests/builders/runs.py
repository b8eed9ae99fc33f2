"""Batch runs for tests: their records, and a few stored slates."""

from __future__ import annotations

from typing import Any

import numpy as np
from redis import Redis

from batch.runs.records import RunRecord, Trigger
from contract.keys import slate_key
from contract.slates import StoredSlate

DATASET = "small"


def make_record(run: str, **changes: Any) -> RunRecord:
    """Makes the record of a run of everyone that just began; a run's name ends with its start, in seconds."""
    made: dict[str, Any] = {
        "run": run,
        "dataset": DATASET,
        "bundle": "small-1",
        "trigger": Trigger.HAND,
        "selection": "everyone",
        "started_at_s": float(run.rpartition("-")[2]),
    }
    return RunRecord(**(made | changes))


def store_slates(redis: Redis, run: str, user_ids: range = range(3)) -> None:
    """Stores a slate of two items for each user."""
    for user_id in user_ids:
        scores = np.array([0.5, 0.25], dtype=np.float32)
        slate = StoredSlate(np.array([1, 2]), scores, 0, "small-1", run, 1_700_000_000_000)
        redis.set(slate_key(run, user_id), slate.encode())


def stored(redis: Redis) -> set[str]:
    """Names the runs that have slates."""
    return {key.decode().split(":")[1] for key in redis.scan_iter("slate:*")}
