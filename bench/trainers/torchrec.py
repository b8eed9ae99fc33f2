"""Measures the second trainer on a task, alone or as one of torchrun's processes. Runs in the role torch."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from training.retrieval.config import TorchrecConfig
from training.retrieval.task import FittingTask

STEPS, PARTS = 120, 6


def measured(folder: Path) -> str | None:
    """Trains some steps; gives what the first rank tells of all."""
    from training.torchrec.batches import tensors
    from training.torchrec.ranks import process_group
    from training.torchrec.train import Trainer

    task = FittingTask.load(folder)
    with process_group() as ranks, tempfile.TemporaryDirectory() as scratch:
        own = ranks.told_by_first(scratch)
        trainer = Trainer(task, TorchrecConfig(), ranks, Path(own))
        drawn = trainer.batches.read(0.0, 0)
        taken = []
        for _ in range(PARTS):
            begun = np.array([time.perf_counter(), time.process_time()])
            for _ in range(STEPS // PARTS):
                trainer.step(tensors(next(drawn), ranks.device))
            taken.append(np.array([time.perf_counter(), time.process_time()]) - begun)
        wall, cpu = np.median(taken[1:], axis=0) / (trainer.batches.size * (STEPS // PARTS))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        cpus, peaks = ranks.joined(np.array([[cpu, peak]], dtype=np.float32)).sum(0)
        result = {
            "batch_size": trainer.batches.size,
            "examples_per_s": 1 / wall,
            "cpu_ms_per_1000": float(cpus) * 1e6,
            "peak_mib": int(peaks),
        }
        ranks.wait()
        return json.dumps(result) if ranks.is_first else None


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    if line := measured(Path(sys.argv[1])):
        sys.stdout.write(f"{line}\n")
