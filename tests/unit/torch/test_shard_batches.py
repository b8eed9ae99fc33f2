"""The second trainer on shards: the same on one rank and on two, and on none of other examples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.builders.forked import forked
from tests.builders.shards import shards_of
from tests.builders.towers_task import towers_task
from training.retrieval.config import TorchrecConfig
from training.shards.layout import ShardError
from training.torchrec.ranks import Ranks
from training.torchrec.shard_batches import ShardBatches
from training.torchrec.train import Trainer

ALONE = Ranks(0, 1, torch.device("cpu"))


def test_two_ranks_have_the_losses_of_one_from_shards(tmp_path: Path) -> None:
    task = towers_task()
    config = TorchrecConfig(shards=shards_of(task, tmp_path / "shards"))

    def work(ranks: Ranks) -> list[float]:
        folder = tmp_path / f"of-{ranks.count}"
        folder.mkdir(exist_ok=True)
        return [row["loss"] for row in Trainer(task, config, ranks, folder).run().history]

    one, (two, _) = forked(1, work)[0], forked(2, work)
    assert len(one) > 1
    assert two == pytest.approx(one, abs=1e-3)
    assert one[-1] < one[0]


def test_shards_of_other_examples_are_refused(tmp_path: Path) -> None:
    address = shards_of(towers_task(), tmp_path / "shards")
    ShardBatches(towers_task(seed=1), address, ALONE)
    with pytest.raises(ShardError, match="of other examples than those at hand; write them anew"):
        ShardBatches(towers_task(items=80), address, ALONE)
