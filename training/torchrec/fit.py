"""One whole training: the steps on all ranks, then the export on the first."""

from __future__ import annotations

from pathlib import Path

from contract.environment import explain_full_disk, is_full_disk
from training.retrieval.config import TorchrecConfig
from training.retrieval.task import FittingTask, TrainerError
from training.shards.layout import ShardError
from training.torchrec.checkpoints import CheckpointError
from training.torchrec.plan import PlanError
from training.torchrec.ranks import Ranks
from training.torchrec.train import Trainer

FAULTS = (TrainerError, ShardError, PlanError, CheckpointError)
"""What a person can mend."""


def fit_folder(task: FittingTask, config: TorchrecConfig, ranks: Ranks, folder: Path) -> None:
    """Trains, resumed where it was, and leaves the towers as ONNX with their `Result` in the folder, which
    all ranks see.

    Raises:
        WorkersError: the batch does not divide among the ranks.
        ShardError: shards do not fit the ranks, are of other examples, damaged, or not reached.
        PlanError: the tables fit no memory.
        CheckpointError: the folder is of another training, or damaged.
        TrainerError: the disk is full.
    """

    def write() -> None:
        from training.torchrec.export import export  # the other ranks spare ONNX's loading

        export(task, trainer.start, progress, trainer.checkpoints, folder)

    try:
        trainer = Trainer(task, config, ranks, folder)
        progress = trainer.run()
        ranks.first_does(write)
    except OSError as error:
        if not is_full_disk(error):
            raise
        raise TrainerError(explain_full_disk(error, folder)) from None
