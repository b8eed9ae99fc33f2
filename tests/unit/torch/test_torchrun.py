"""Under torchrun: agents that find each other train what one process does, and what is wrong is said once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from contract import names
from contract.encoders import OOV_CODE
from tests.builders.forked import forked
from tests.builders.ports import free_port
from tests.builders.shards import shards_of
from tests.builders.towers_task import CONFIG, towers_task
from training.retrieval.config import TorchrecConfig
from training.retrieval.task import FittingTask
from training.retrieval.torchrec import CONFIG_FILE, RESULT_FILE, OnnxTowers, Result
from training.torchrec.ranks import Ranks
from training.torchrec.train import Trainer

SHORT = CONFIG.model_copy(update={"steps": 8, "evaluations": 2, "fresh_share": 0.0})
TIMEOUT_S = 300.0


def saved(task: FittingTask, folder: Path, config: TorchrecConfig) -> Path:
    task.save(folder)
    (folder / CONFIG_FILE).write_text(config.model_dump_json())
    return folder


def agents(folder: Path, nodes: int, each: int) -> list[tuple[int, str]]:
    """Starts so many agents on loopback, as on so many machines; gives how each ended, and what it said."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={each}"]
    command += ["--rdzv-backend=c10d", "--rdzv-id=towers", f"--rdzv-endpoint=127.0.0.1:{free_port()}"]
    command += ["--local-addr=127.0.0.1", "-m", "training.torchrec", "fit", str(folder)]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(nodes)
    ]
    try:
        said = [agent.communicate(timeout=TIMEOUT_S)[0] for agent in started]
    finally:
        for agent in started:
            agent.kill()
    return [(agent.returncode, text) for agent, text in zip(started, said, strict=True)]


def onnx_towers(folder: Path) -> OnnxTowers:
    result = Result.model_validate_json((folder / RESULT_FILE).read_text())
    users, items = (onnx.load(folder / spec.file) for spec in (result.user_tower, result.item_tower))
    return OnnxTowers(users, items, result)


def test_two_agents_make_the_model_of_one_process(tmp_path: Path) -> None:
    task = towers_task(SHORT)
    folder = saved(task, tmp_path / "work", TorchrecConfig())
    for code, said in agents(folder, nodes=2, each=1):
        assert code == 0, said

    def work(ranks: Ranks) -> tuple[Any, Any]:
        trainer = Trainer(task, TorchrecConfig(), ranks, tmp_path)
        return trainer.run().history, trainer.encode(trainer.model.module.item_tower, task.catalogue)

    history, vectors = forked(1, work)[0]
    model = onnx_towers(folder)
    assert [row["loss"] for row in model.history] == pytest.approx([row["loss"] for row in history], abs=1e-3)
    known = task.catalogue[names.ITEM_ID] != OOV_CODE  # new items are placed once all is trained
    np.testing.assert_allclose(model.encode_items(task.catalogue)[known], vectors[known], atol=1e-3)


def test_ranks_that_do_not_fit_the_shards_are_told_once(tmp_path: Path) -> None:
    task = towers_task(SHORT)
    config = TorchrecConfig(shards=shards_of(task, tmp_path / "shards"))
    ((code, said),) = agents(saved(task, tmp_path / "work", config), nodes=1, each=3)
    assert code != 0
    assert said.count("3 ranks do not fit shards of 4 lanes: take 1, 2, 4, or write them with") == 1, said
