"""Trains the towers of a task where torch computes, and encodes by the same weights there and on the CPU.

Runs in the role torch.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from contract.arrays import Array, Floats
from training.retrieval.config import TorchrecConfig
from training.retrieval.task import FittingTask
from training.torchrec.batches import tensors
from training.torchrec.export import best_towers
from training.torchrec.ranks import Ranks, process_group
from training.torchrec.train import Trainer

STEPS, TIMES, ROWS = 200, 20, 4096
CPU = torch.device("cpu")


def checked(ranks: Ranks, folder: Path) -> dict[str, object]:
    """Gives how long training took, the greatest difference of any coordinate of a user or item between the
    device and the CPU, and vectors per second on each."""
    task = FittingTask.load(folder)
    task = replace(task, config=task.config.model_copy(update={"steps": STEPS, "fresh_share": 0.0}))
    device, trainer, begun = ranks.device, Trainer(task, TorchrecConfig(), ranks, folder), time.monotonic()
    progress = trainer.run()
    trained_s = time.monotonic() - begun
    model = best_towers(task, trainer.start, progress, trainer.checkpoints)
    rows = np.arange(min(ROWS, len(task.examples)))
    towers = (
        (model.user_tower, task.examples.batch(rows, np.zeros(len(rows), np.bool_))),
        (model.item_tower, {name: values[:ROWS] for name, values in task.catalogue.items()}),
    )
    result: dict[str, object] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "steps": progress.step,
        "trained_s": trained_s,
    }
    greatest = 0.0
    for name, (tower, columns) in zip(("users", "items"), towers, strict=True):
        on_cpu, cpu_s = _encoded(tower, columns, CPU)
        on_device, device_s = _encoded(tower.to(device), columns, device)
        greatest = max(greatest, float(np.abs(on_device - on_cpu).max()))
        result[f"{name}_per_s"] = {"cpu": len(on_cpu) / cpu_s, "device": len(on_cpu) / device_s}
    return result | {"greatest_difference": greatest}


def _encoded(tower: nn.Module, columns: Mapping[str, Array], device: torch.device) -> tuple[Floats, float]:
    """Gives vectors (R, D + 1), and the seconds that the fastest of some tries took."""
    given = tensors(columns, device)
    wait: Callable[[], object] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    took = []
    with torch.no_grad():
        for _ in range(TIMES):
            wait()
            begun = time.perf_counter()
            found = tower(given)
            wait()
            took.append(time.perf_counter() - begun)
    vectors: Floats = found.float().cpu().numpy()
    return vectors, min(took)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    with process_group() as group:
        found = checked(group, Path(sys.argv[1]))
    sys.stdout.write(f"{json.dumps(found)}\n")
