"""Measures the first trainer on a task: its steps after the first ones. Runs in the role training."""

from __future__ import annotations

import json
import resource
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from training.retrieval.model import RetrievalModel
from training.retrieval.task import FittingTask
from training.retrieval.two_tower import fit_two_tower

STEPS, PARTS = 120, 6

if __name__ == "__main__":
    task = FittingTask.load(Path(sys.argv[1]))
    changes = {"steps": STEPS, "epochs": 1000, "evaluations": PARTS, "patience": PARTS, "fresh_share": 0.0}
    marks: list[tuple[float, float]] = []

    def mark(_: RetrievalModel) -> float:
        marks.append((time.perf_counter(), time.process_time()))
        return float(len(marks))

    config = task.config.model_copy(update=changes)
    fit_two_tower(task.fields, task.examples, task.catalogue, config, task.seed, mark)
    taken = [np.subtract(end, begin) for begin, end in pairwise(marks[:PARTS])]
    wall, cpu = np.median(taken, axis=0) / (task.batch_size * (STEPS // PARTS))
    result = {
        "batch_size": task.batch_size,
        "examples_per_s": 1 / wall,
        "cpu_ms_per_1000": cpu * 1e6,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    sys.stdout.write(json.dumps(result) + "\n")
