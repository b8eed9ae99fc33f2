"""One whole training: the steps on all ranks, then the export on the first."""

from __future__ import annotations

from pathlib import Path

from training.retrieval.config import TorchrecConfig
from training.retrieval.task import FittingTask, WorkersError
from training.shards.layout import ShardError
from training.torchrec.checkpoints import CheckpointError
from training.torchrec.export import export
from training.torchrec.plan import PlanError
from training.torchrec.ranks import Ranks
from training.torchrec.train import Trainer

FAULTS = (WorkersError, ShardError, PlanError, CheckpointError)
"""What a person can mend; every rank raises the same."""


def fit_folder(task: FittingTask, config: TorchrecConfig, ranks: Ranks, folder: Path) -> None:
    """Trains, resumed where it was, and leaves the towers as ONNX with their `Result` in the folder, which
    all ranks see.

    Raises:
        WorkersError: the batch does not divide among the ranks.
        ShardError: shards do not fit the ranks, are of other examples, damaged, or not reached.
        PlanError: the tables fit no memory.
        CheckpointError: the folder is of another training, or damaged.
    """
    trainer = Trainer(task, config, ranks, folder)
    progress = trainer.run()
    if ranks.is_first:
        export(task, trainer.start, progress, trainer.checkpoints, folder)
    ranks.wait()
