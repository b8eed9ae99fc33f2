"""The weights of a trained user tower, apart from its table of users, whose rows lie beside the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from contract import names
from contract.arrays import Array, Floats
from contract.encoders import Field
from training.examples.safe_names import safe_name
from training.retrieval.config import TwoTowerConfig
from training.retrieval.tower_design import TowersStart
from training.torchrec.tables import WholeTables
from training.torchrec.towers import HISTORY_ITEMS, TorchUserTower

PLACED = ("newcomer", "is_placed")
"""What is fitted after the training, which a tower's state leaves out."""


def weight_of(table: str) -> str:
    """Names the weight of a table in a tower's state."""
    return f"tables.embedding_bags.{table}.weight"


USERS = weight_of(f"of_{safe_name(names.USER_ID)}")


def weights_of(tower: TorchUserTower) -> dict[str, Any]:
    """Gives all weights of a tower with whole tables, by name, but `USERS`."""
    state = tower.state_dict() | {name: getattr(tower, name) for name in PLACED}
    return {name: values.numpy() for name, values in state.items() if name != USERS}


def tower_of(
    fields: Sequence[Field], config: TwoTowerConfig, weights: Mapping[str, Array], rows: Floats
) -> TorchUserTower:
    """Makes the tower again of `weights_of` and its table of users, (users, D); it does not train.

    Raises:
        ValueError: the weights are of other fields, or of another width.
    """
    none = np.zeros((0, config.width), np.float32)
    base = np.zeros(config.width, np.float32)
    start = TowersStart(weights.get(weight_of(HISTORY_ITEMS), none), none, none, base)
    tower: TorchUserTower = TorchUserTower(fields, start, config, WholeTables).eval()
    try:
        placed = {name: torch.tensor(weights[name]) for name in PLACED}
        state = {name: torch.tensor(values) for name, values in weights.items() if name not in PLACED}
        tower.load_state_dict(state | {USERS: torch.tensor(rows)})
        for name, values in placed.items():
            getattr(tower, name).copy_(values)
    except (KeyError, RuntimeError) as error:
        said = str(error).strip().splitlines()[-1].strip()
        raise ValueError(f"the weights do not fit the tower: {said}") from None
    tower.requires_grad_(False)
    return tower
