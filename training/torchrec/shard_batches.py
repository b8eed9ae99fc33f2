"""What each step trains on, read as a stream from shards of the task's examples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from contract import names
from contract.arrays import Array
from training.retrieval.config import TorchrecConfig
from training.retrieval.task import FittingTask
from training.shards.layout import ShardError
from training.shards.read import ExampleShards
from training.torchrec.batches import DrawnBatches, logarithms
from training.torchrec.ranks import Ranks


def batches_of(task: FittingTask, config: TorchrecConfig, ranks: Ranks) -> DrawnBatches | ShardBatches:
    """Gives the task's batches: drawn from it, or streamed from the shards that the settings name.

    Raises:
        WorkersError: the batch does not divide among the ranks.
        ShardError: shards do not fit the ranks, are of other examples, or not reached.
    """
    return ShardBatches(task, config.shards, ranks) if config.shards else DrawnBatches(task, ranks)


class ShardBatches:
    """`Batches` of shards. Their size is the task's, down to a multiple of the shards' lanes."""

    def __init__(self, task: FittingTask, address: str, ranks: Ranks) -> None:
        """Opens shards, which must be of the task's examples.

        Raises:
            WorkersError: the batch does not divide among the ranks.
            ShardError: shards do not fit the ranks, are of other examples, or not reached.
        """
        shards = ExampleShards.open(address)
        lanes = shards.header.lanes
        self.task, self.shards, self.ranks = task, shards, ranks
        self.size = max(lanes, task.batch_of(ranks.count) // lanes * lanes)
        shards.check_fit(self.size, ranks.count)
        if not _are_of(shards, task):
            raise ShardError(f"{address}: shards of other examples than those at hand; write them anew")
        each = self.size // lanes
        self._withheld = round(task.config.unknown_user_share * each) / each
        known, newcomers = shards.item_shares(task.config)
        codes, items = task.catalogue[names.ITEM_ID], known + (newcomers - known) * self._withheld
        shares = np.bincount(codes, items, task.fields[names.ITEM_ID].cardinality)
        self.log_chances = logarithms(shares)
        """The logarithm of every item code's chance to be drawn, (item codes,)."""

    def read(self, fresh_share: float, start: int) -> Iterator[dict[str, Array]]:
        """Streams from a step on; nothing that came before it is read."""
        config = self.task.config
        drawn = self.shards.batches(
            self.size,
            config=config,
            seed=2 * self.task.seed + (fresh_share > 0),
            rank=self.ranks.rank,
            ranks=self.ranks.count,
            start=start,
            withheld_share=self._withheld,
            fresh_share=fresh_share,
            user_dropout=config.user_dropout,
        )
        return (batch.columns for batch in drawn)


def _are_of(shards: ExampleShards, task: FittingTask) -> bool:
    if len(shards) != len(task.examples) or not np.array_equal(shards.facts.items, task.examples.items):
        return False
    return all(shards.fields.get(name) == field for name, field in task.fields.items())
