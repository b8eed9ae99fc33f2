"""What users' rows go on learning, the rest of the towers left alone: a folder that the role torch reads."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from contract.arrays import Array, Floats
from training.retrieval.config import TorchrecConfig
from training.retrieval.task import FittingTask, TrainerError
from training.retrieval.torchrec import CONFIG_FILE, USER_WEIGHTS, trainer_python

FOLDER = "user_weights"
"""Below `var`: one file per bundle that TorchRec trained."""
SERVED_FILE, ROWS_FILE, RESULT_FILE = "served.npz", "rows.npy", "rows.json"


def user_weights_file(var_dir: Path, bundle: str) -> Path:
    """Names the file of the weights with which a bundle's rows go on learning: beside the bundles, as it is
    no part of what is served."""
    return var_dir / FOLDER / f"{bundle}.npz"


class RowsResult(BaseModel):
    """What the rows came to: on some batches of the new examples, and on whom validation holds back."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int
    loss: tuple[float, float]
    """The mean of -log P(chosen among the batch), before and after."""
    validation: tuple[float, float] | None = None
    """NDCG@100, before and after."""

    def __str__(self) -> str:
        text = f"{self.steps} steps: loss {self.loss[0]:.4f} -> {self.loss[1]:.4f}"
        if self.validation:
            text += f", NDCG@100 {self.validation[0]:.4f} -> {self.validation[1]:.4f} of users held back"
        return text


@dataclass(frozen=True, eq=False)
class RowsTask:
    """New examples, and what is served. Users are numbered as `rows` and items as `item_vectors` are: these
    numbers stand in the places of their codes in `task`."""

    task: FittingTask
    weights: Mapping[str, Array]
    """Of the user tower, as torch names them, without its table of users."""
    rows: Floats
    """The users' part of that table, (U,D)."""
    item_vectors: Floats
    """As the index has them, (I, D + 1)."""
    user_vectors: Floats
    """What the served tower makes of the users of the first examples as of just before, (P, D + 1): by it the
    weights are known to be the tower's."""

    def save(self, folder: Path) -> None:
        """Writes a folder, which is not there yet."""
        self.task.save(folder)
        weights: dict[str, Any] = dict(self.weights)
        np.savez(folder / USER_WEIGHTS, **weights)
        served: dict[str, Any] = {
            name: getattr(self, name) for name in ("rows", "item_vectors", "user_vectors")
        }
        np.savez(folder / SERVED_FILE, **served)

    @classmethod
    def load(cls, folder: Path) -> RowsTask:
        """Opens a folder that `save` wrote."""
        with np.load(folder / USER_WEIGHTS) as weights, np.load(folder / SERVED_FILE) as served:
            return cls(FittingTask.load(folder), dict(weights), **served)


def fit_rows(work: RowsTask, config: TorchrecConfig, folder: Path) -> tuple[Floats, RowsResult]:
    """Trains rows in the role torch, by way of a folder that is not there yet; gives them as they are then,
    (U,D), and what they came to.

    Raises:
        TrainerError: there is no role torch, the weights are of another tower, or it failed.
    """
    work.save(folder)
    (folder / CONFIG_FILE).write_text(config.model_dump_json())
    command = [trainer_python(), "-m", "training.torchrec", "rows", str(folder)]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if ended.returncode:
        said = ended.stderr.strip().splitlines()[-1:] or [f"the trainer ended with {ended.returncode}"]
        raise TrainerError(said[0])
    return np.load(folder / ROWS_FILE), RowsResult.model_validate_json((folder / RESULT_FILE).read_text())
