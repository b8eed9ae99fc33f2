"""The training itself, the same on every rank, resumed where it was."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from contract.arrays import Array, Floats
from contract.encoders import Field
from contract.whole_file import whole_file
from training.retrieval.config import TorchrecConfig, TwoTowerConfig
from training.retrieval.pieces import ROWS
from training.retrieval.task import FittingTask
from training.retrieval.tower_design import TowersStart
from training.torchrec.batches import tensors
from training.torchrec.checkpoints import MOMENTS, Checkpoints, Progress
from training.torchrec.plan import plan_tables
from training.torchrec.ranks import Ranks
from training.torchrec.shard_batches import batches_of
from training.torchrec.steps import TowerSteps
from training.torchrec.tables import bags
from training.torchrec.towers import HISTORY_ITEMS, ITEMS, TwoTowers


class Trainer:
    """The model, its optimizer, and where the training is: the steps of training/retrieval/two_tower.py."""

    def __init__(self, task: FittingTask, config: TorchrecConfig, ranks: Ranks, folder: Path) -> None:
        """Takes a folder that all ranks see; a training that ended early in it goes on.

        Raises:
            WorkersError: the batch does not divide among the ranks.
            ShardError: shards do not fit the ranks, are of other examples, or not reached.
            PlanError: the tables fit no memory.
            CheckpointError: the folder is of another training, or damaged.
        """
        self.task, self.config, self.ranks = task, config, ranks
        self.batches = batches_of(task, config, ranks)
        self.checkpoints = Checkpoints(folder / "checkpoints", ranks)
        self.progress = Progress(f"{task.digest()}-{self.batches.size}")
        found = self.checkpoints.last(self.progress.digest)
        self.start = shared_start(task, ranks, folder)
        self.model = sharded(task.tower_fields, self.start, task.config, config, ranks, self.batches.size)
        self.optimizer = adam(self.model, task.config.learning_rate)
        log_chances = torch.from_numpy(self.batches.log_chances).to(ranks.device)
        self.steps = TowerSteps(self.model, self.optimizer, ranks, log_chances, task.config.temperature)
        self.per_evaluation = task.steps_per_evaluation
        if found:
            self.checkpoints.load(found[0], self.model, self.optimizer)
            self.progress = found[1]
            self.say(f"goes on after step {self.progress.step}")

    def say(self, line: str) -> None:
        """Prints one line, once."""
        if self.ranks.is_first:
            sys.stderr.write(f"{line}\n")

    def run(self) -> Progress:
        """Trains to the end; the best weights are among the checkpoints then."""
        settings, progress = self.task.config, self.progress
        while not progress.is_done:
            evaluations = settings.fresh_evaluations if progress.is_fresh else settings.evaluations
            self._train_until(evaluations * self.per_evaluation)
            if progress.best_at >= 0:
                self.checkpoints.load_best(self.model, progress.best_at)
            has_fresh = settings.fresh_share > 0 and self.task.validation is not None
            progress.is_done = progress.is_fresh or not has_fresh
            if not progress.is_done:
                progress.begin_fresh()
            self.checkpoints.save(self.model, self.optimizer, progress)
        return progress

    def _train_until(self, steps: int) -> None:
        progress, patience = self.progress, self.task.config.patience
        fresh_share = self.task.config.fresh_share if progress.is_fresh else 0.0
        drawn = self.batches.read(fresh_share, progress.step)
        while progress.step < steps and progress.waited < patience:
            progress.losses.append(self.step(tensors(next(drawn), self.ranks.device)))
            progress.step += 1
            if progress.step % self.per_evaluation == 0:
                self._evaluate()
            elif progress.step % self.config.checkpoint_steps:
                continue
            self.checkpoints.save(self.model, self.optimizer, progress)

    def step(self, columns: Mapping[str, Tensor]) -> float:
        """Makes one step of Adam; gives the loss of the whole batch."""
        settings = self.task.config
        skipped = max(0, settings.evaluations - settings.fresh_evaluations) if self.progress.is_fresh else 0
        done = self.progress.step + skipped * self.per_evaluation
        rate = learning_rate(settings, done, self.per_evaluation * settings.evaluations)
        return self.steps.make(columns, rate)

    def _evaluate(self) -> None:
        progress, validation = self.progress, self.task.validation
        row = {
            "step": float((len(progress.history) + 1) * self.per_evaluation),
            "loss": float(np.mean(progress.losses)),
        }
        progress.losses = []
        best = max((past["validation"] for past in progress.history if "validation" in past), default=-np.inf)
        progress.history.append(row)
        if validation is None:
            progress.best_at = len(progress.history) - 1
        else:
            users = self.encode(self.model.module.user_tower, validation.users)
            items = self.encode(self.model.module.item_tower, validation.catalogue)
            value = validation.measure(users, items) if self.ranks.is_first else 0.0
            row["validation"] = self.ranks.told_by_first(value)
            is_better = row["validation"] > best
            progress.best_at = len(progress.history) - 1 if is_better else progress.best_at
            progress.waited = 0 if is_better else progress.waited + 1
        self.say(", ".join(f"{name} {value:.6g}" for name, value in row.items()))
        if progress.best_at == len(progress.history) - 1:
            self.checkpoints.save_best(self.model, progress.best_at)

    def encode(self, tower: nn.Module, columns: Mapping[str, Array]) -> Floats:
        """Takes encoded columns (R,), gives vectors (R, D + 1): each rank encodes its part, all have all."""
        self.model.eval()
        rows = len(next(iter(columns.values())))
        each = math.ceil(rows / self.ranks.count)
        mine = np.minimum(np.arange(each) + self.ranks.rank * each, rows - 1)
        with torch.no_grad():
            parts = [
                tower(tensors({name: values[at] for name, values in columns.items()}, self.ranks.device))
                for at in _pieces(mine)
            ]
        return self.ranks.joined(torch.cat(parts).float().cpu().numpy())[:rows]


def _pieces(rows: Array) -> Iterator[Array]:
    for at in range(0, len(rows), ROWS):
        yield rows[at : at + ROWS]


def learning_rate(settings: TwoTowerConfig, done: int, steps: int) -> float:
    """Rises linearly over the first twentieth of the steps, then falls linearly to zero."""
    return settings.learning_rate * min((done + 1) / max(1.0, steps / 20), max(1 - done / steps, 0.0))


def shared_start(task: FittingTask, ranks: Ranks, folder: Path) -> TowersStart:
    """Computes where the towers start, once for all ranks; tables are mapped into memory."""
    parts = ("history", "candidates", "popularity", "base")

    def write() -> None:
        start = TowersStart.of(task)
        for part in parts:
            with whole_file(folder / f"start-{part}.npy") as file:
                np.save(file, getattr(start, part))

    ranks.first_does(write)
    return TowersStart(*(np.load(folder / f"start-{part}.npy", mmap_mode="c") for part in parts))


def sharded(
    fields: tuple[Sequence[Field], Sequence[Field]],
    start: TowersStart,
    towers_config: TwoTowerConfig,
    config: TorchrecConfig,
    ranks: Ranks,
    batch_size: int,
) -> Any:
    """Makes the towers of fields of users and of items with their tables laid out over the ranks and filled.

    Raises:
        PlanError: the tables fit no memory.
    """
    towers = TwoTowers(fields, start, towers_config, bags)
    plan, sharders = plan_tables(towers, config, ranks, batch_size)
    model = DistributedModelParallel(towers, device=ranks.device, plan=plan, sharders=sharders)
    fill(model, {HISTORY_ITEMS: start.history, ITEMS: start.candidates})
    return model


def fill(model: nn.Module, starts: Mapping[str, Floats]) -> None:
    """Puts the rows of `starts`, by table, where their shards lie; all other tables start at zero."""
    for name, values in model.state_dict().items():
        if "embedding_bags." not in name:
            continue
        table = name.removesuffix(".weight").rpartition("embedding_bags.")[2]
        for tensor, (row, column) in _parts(values):
            rows, width = tensor.shape
            part = np.zeros((rows, width), np.float32)
            if table in starts:
                part = np.ascontiguousarray(starts[table][row : row + rows, column : column + width])
            tensor.detach().copy_(torch.from_numpy(part))


def _parts(values: Tensor | ShardedTensor) -> list[tuple[Tensor, Sequence[int]]]:
    """Gives what this rank has of a table, and where in the table it begins."""
    if isinstance(values, ShardedTensor):
        return [(one.tensor, one.metadata.shard_offsets) for one in values.local_shards()]
    return [(values, (0, 0))]


def adam(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """Makes Adam for all that this rank holds, with its state, so that a checkpoint can be read into it."""
    held = [parameter for parameter in model.parameters() if parameter.numel()]
    optimizer = torch.optim.Adam(held, lr=rate, eps=1e-7, foreach=False)
    for parameter in held:
        moments = {name: torch.zeros(parameter.shape, device=parameter.device) for name in MOMENTS}
        optimizer.state[parameter] = {"step": torch.tensor(0.0), **moments}
    return optimizer
