"""The steps of the towers, the same on every rank, whoever draws the batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from contract import names
from training.torchrec.ranks import Ranks
from training.torchrec.towers import in_batch_loss


@dataclass(frozen=True, eq=False)
class TowerSteps:
    """Moves a model of sharded towers by its optimizer, a batch of all ranks at a time."""

    model: Any
    optimizer: torch.optim.Optimizer
    ranks: Ranks
    log_chances: Tensor
    """The logarithm of every item code's chance to be drawn, (item codes,)."""
    temperature: float

    def make(self, columns: Mapping[str, Tensor], rate: float) -> float:
        """Takes this rank's examples, encoded columns by safe name, (B,), lists (B,S); makes one step at a
        learning rate, and gives the loss of the whole batch."""
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        is_mixed = self.ranks.device.type == "cuda"
        with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=is_mixed):
            users, items = self.model(columns)
        codes = self.ranks.gather(columns[names.ITEM_ID].detach())
        loss = in_batch_loss(
            users.float(),
            self.ranks.gather(items.float()),
            codes,
            self.ranks.rank * len(users),
            self.log_chances,
            self.temperature,
        )
        loss.backward()
        self.optimizer.step()
        return float(self.ranks.mean(loss.detach()))
