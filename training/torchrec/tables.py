"""Embedding tables: sharded ones that train, and whole ones that serve; both answer the same lookups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor


@dataclass(frozen=True)
class Table:
    """A table and the features that are looked up in it."""

    name: str
    rows: int
    features: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Lookup:
    """Asks for weighted sums of a table's rows: where `is_there` (B,S), the rows `ids` times `weights`."""

    feature: str
    ids: Tensor
    is_there: Tensor
    weights: Tensor


class WholeTables(nn.Module):
    """Tables in one piece, without a process group; their state has the names of `bags`'."""

    def __init__(self, tables: Sequence[Table], width: int) -> None:
        super().__init__()
        self.embedding_bags = nn.ModuleDict({table.name: nn.Embedding(table.rows, width) for table in tables})
        self.table_of = {feature: table.name for table in tables for feature in table.features}

    def forward(self, lookups: Sequence[Lookup]) -> list[Tensor]:
        """Gives a sum per lookup, (B,D)."""
        return [
            (self.embedding_bags[self.table_of[one.feature]](one.ids) * _counted(one)[:, :, None]).sum(1)
            for one in lookups
        ]


def _counted(lookup: Lookup) -> Tensor:
    return torch.where(lookup.is_there, lookup.weights, 0.0)


def bags(tables: Sequence[Table], width: int) -> EmbeddingBagCollection:
    """Makes tables that are not filled yet; they are when they have been sharded."""
    configs = [
        EmbeddingBagConfig(
            name=table.name,
            embedding_dim=width,
            num_embeddings=table.rows,
            feature_names=list(table.features),
            pooling=PoolingType.SUM,
        )
        for table in tables
    ]
    return EmbeddingBagCollection(configs, is_weighted=True, device=torch.device("meta"))


def look_up(tables: nn.Module, lookups: Sequence[Lookup]) -> list[Tensor]:
    """Gives a sum per lookup, (B,D); sharded tables are asked for all their features at once."""
    if isinstance(tables, WholeTables):
        found: list[Tensor] = tables(lookups)
        return found
    pooled: KeyedTensor = tables(jagged(lookups))
    parts = pooled.to_dict()
    return [parts[one.feature] for one in lookups]


def jagged(lookups: Sequence[Lookup]) -> KeyedJaggedTensor:
    """Takes padded lookups (B,S), gives what of them is there, feature after feature, row after row."""
    return KeyedJaggedTensor(
        keys=[one.feature for one in lookups],
        values=torch.cat([one.ids[one.is_there] for one in lookups]),
        weights=torch.cat([one.weights[one.is_there] for one in lookups]),
        lengths=torch.cat([one.is_there.sum(1) for one in lookups]),
    )
