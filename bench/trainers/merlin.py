"""Measures the first trainer on a task: its steps after the first ones. Runs in the role training."""

from __future__ import annotations

import json
import resource
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import tensorflow as tf

from training.config import load_settings
from training.retrieval.model import RetrievalModel
from training.retrieval.task import FittingTask
from training.retrieval.two_tower import fit_two_tower

STEPS, PARTS = 120, 6

if __name__ == "__main__":
    tf.config.threading.set_intra_op_parallelism_threads(load_settings().threads)
    task = FittingTask.load(Path(sys.argv[1]))
    asked = {"steps": STEPS, "epochs": 1000, "evaluations": PARTS, "patience": PARTS, "fresh_share": 0.0}
    marks: list[float] = []

    def mark(_: RetrievalModel) -> float:
        marks.append(time.perf_counter())
        return float(len(marks))

    config = task.config.model_copy(update=asked)
    fit_two_tower(task.fields, task.examples, task.catalogue, config, task.seed, mark)
    seconds = float(np.median([end - begin for begin, end in pairwise(marks[:PARTS])]))
    told = {
        "batch_size": task.batch_size,
        "examples_per_s": task.batch_size * (STEPS // PARTS) / seconds,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    sys.stdout.write(json.dumps(told) + "\n")
