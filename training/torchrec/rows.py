"""The rows of users that go on learning: steps of their table alone, in one process, on the CPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from contract import names
from contract.arrays import Array, Floats
from contract.whole_file import whole_file
from training.retrieval.config import TorchrecConfig
from training.retrieval.pieces import in_pieces
from training.retrieval.rows import RESULT_FILE, ROWS_FILE, RowsResult, RowsTask
from training.torchrec.batches import DrawnBatches, tensors
from training.torchrec.ranks import Ranks
from training.torchrec.towers import in_batch_loss
from training.torchrec.user_weights import USERS, tower_of

CPU = torch.device("cpu")
TOLERANCE = 1e-5
"""What the served tower may differ from the one that the weights make; as of an export."""
LOOKED_AT = 8
"""Batches on which the loss is measured before and after."""
JUST_BEFORE = 1.0
"""The share of examples whose user is as of just before: so the served tower reads them."""


class RowsError(RuntimeError):
    """Says why rows cannot go on learning, and the remedy."""


class RowsTrainer:
    """The served user tower, of whose weights only the rows of users learn."""

    def __init__(self, work: RowsTask, config: TorchrecConfig) -> None:
        """Takes what is to be learned.

        Raises:
            RowsError: the weights are of another tower than the one that is served.
        """
        self.work, self.task, self.config = work, work.task, config
        self.batches = DrawnBatches(self.task, Ranks(0, 1, CPU))
        try:
            self.tower = tower_of(self.task.tower_fields[0], self.task.config, work.weights, work.rows)
            first = np.arange(len(work.user_vectors))
            columns = self.task.examples.batch(first, np.ones(len(first), np.bool_))
            worst = float(np.abs(self.encode(columns) - work.user_vectors).max(initial=0.0))
        except (ValueError, IndexError) as error:
            raise RowsError(_refusal(str(error))) from None
        if not worst <= TOLERANCE:
            raise RowsError(_refusal(f"vectors differ by {worst:.2g}"))
        self.table = self.tower.get_parameter(USERS)
        self.items = torch.from_numpy(np.array(work.item_vectors))
        self.log_chances = torch.from_numpy(self.batches.log_chances)

    @property
    def steps(self) -> int:
        """How many are made: some passes over the examples, and no more than a training makes."""
        passes = self.config.rows_epochs * len(self.task.examples) // self.batches.size
        return max(1, min(self.task.config.steps, passes))

    @property
    def rows(self) -> Floats:
        """The rows as they are, (U,D)."""
        rows: Floats = self.table.detach().numpy().copy()
        return rows

    def run(self) -> RowsResult:
        """Makes all steps; says what they came to."""
        loss, validation = self.mean_loss(), self.validation()
        for module in self.tower.tables.embedding_bags.values():
            module.sparse = True  # else every step would touch every user
        optimizer = torch.optim.Adagrad([self.table.requires_grad_()], lr=self.config.rows_learning_rate)
        for columns in islice(self.batches.read(JUST_BEFORE, 0), self.steps):
            optimizer.zero_grad()
            self.loss(columns).backward()
            optimizer.step()
        self.table.requires_grad_(False)
        after = self.validation()
        return RowsResult(
            steps=self.steps,
            loss=(loss, self.mean_loss()),
            validation=None if validation is None or after is None else (validation, after),
        )

    def loss(self, columns: Mapping[str, Array]) -> Tensor:
        """Gives the corrected in-batch softmax of a batch, as the towers were trained by it."""
        codes = torch.from_numpy(columns[names.ITEM_ID])
        users = self.tower(tensors(columns, CPU))
        return in_batch_loss(
            users, self.items[codes], codes, 0, self.log_chances, self.task.config.temperature
        )

    def mean_loss(self) -> float:
        """Measures it on batches that no step takes."""
        with torch.no_grad():
            some = islice(self.batches.read(JUST_BEFORE, self.steps), LOOKED_AT)
            return float(np.mean([float(self.loss(columns)) for columns in some]))

    def validation(self) -> float | None:
        """Measures whom the task holds back, if anybody."""
        held = self.task.validation
        return None if held is None else held.measure(self.encode(held.users), self.work.item_vectors)

    def encode(self, columns: Mapping[str, Array]) -> Floats:
        """Takes encoded columns (U,), lists (U,S), gives vectors (U, D + 1)."""
        with torch.no_grad():
            return in_pieces(lambda some: self.tower(tensors(some, CPU)).numpy(), columns)


def _refusal(said: str) -> str:
    return (
        f"the kept weights of the user tower are of another one than the bundle's ({said}); train the bundle "
        "again with TRAINER=torchrec, and promote it"
    )


def fit_rows_folder(folder: Path, config: TorchrecConfig) -> None:
    """Trains the rows of a folder that `RowsTask.save` wrote, and leaves them in it beside their
    `RowsResult`, that last.

    Raises:
        RowsError: the weights are of another tower than the one that is served.
    """
    trainer = RowsTrainer(RowsTask.load(folder), config)
    result = trainer.run()
    with whole_file(folder / ROWS_FILE) as file:
        np.save(file, trainer.rows)
    with whole_file(folder / RESULT_FILE) as file:
        file.write(json.dumps(result.model_dump(mode="json")).encode())
