"""Under Ray Train a worker may be killed: the model is the one that nobody disturbed."""

from __future__ import annotations

import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest

from tests.builders.forked import forked
from tests.builders.towers_task import CONFIG, towers_task
from training.retrieval.config import TorchrecConfig
from training.retrieval.task import FittingTask, TrainerError
from training.retrieval.torchrec import CONFIG_FILE, RESULT_FILE, OnnxTowers, Result, run_trainer
from training.torchrec import under_ray
from training.torchrec.fit import fit_folder

STEPS = CONFIG.model_copy(update={"steps": 48, "epochs": 1000, "evaluations": 3, "fresh_share": 0.0})
TRAINER = TorchrecConfig(checkpoint_steps=4)
PATIENCE_S = 500.0


def saved(task: FittingTask, folder: Path) -> Path:
    task.save(folder)
    (folder / CONFIG_FILE).write_text(TRAINER.model_dump_json())
    return folder


def onnx_towers(folder: Path) -> OnnxTowers:
    result = Result.model_validate_json((folder / RESULT_FILE).read_text())
    users, items = (onnx.load(folder / spec.file) for spec in (result.user_tower, result.item_tower))
    return OnnxTowers(users, items, result)


def workers() -> list[psutil.Process]:
    below = psutil.Process().children(recursive=True)
    return [process for process in below if "RayTrainWorker" in " ".join(process.cmdline())]


def wait_for_a_checkpoint(training: Future[None], folder: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while not list(folder.glob("checkpoints/at-*/progress.json")):
        assert not training.done(), training.exception()
        assert time.monotonic() < until, "no checkpoint was written"
        time.sleep(0.02)


def test_a_killed_worker_costs_the_model_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    task = towers_task(STEPS)
    alone = saved(task, tmp_path / "alone")
    forked(2, lambda ranks: fit_folder(FittingTask.load(alone), TRAINER, ranks, alone))
    capfd.readouterr()
    folder = saved(task, tmp_path / "killed")
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(run_trainer, folder, 2)
        wait_for_a_checkpoint(training, folder)
        first = workers()
        first[-1].send_signal(signal.SIGKILL)
        assert not (folder / RESULT_FILE).exists()
        training.result(PATIENCE_S)
    assert len(first) == 2
    assert "goes on after step" in capfd.readouterr().err
    one, other = onnx_towers(alone), onnx_towers(folder)
    losses = [[row["loss"] for row in model.history] for model in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    np.testing.assert_allclose(
        one.encode_items(task.catalogue), other.encode_items(task.catalogue), atol=1e-6
    )


def test_what_a_person_must_mend_is_written_down_and_not_tried_again(tmp_path: Path) -> None:
    folder = saved(towers_task(STEPS.model_copy(update={"batch_size": 47})), tmp_path / "odd")
    forked(2, lambda _: under_ray._work({"folder": str(folder)}))
    assert "BATCH_SIZE=47 does not divide among 2 workers" in (folder / under_ray.FAULT_FILE).read_text()


def test_a_cluster_that_is_away_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"RAY_ADDRESS=127\.0\.0\.1:9: .*refused; start the cluster"):
        under_ray.fit_under_ray(tmp_path, 2, "127.0.0.1:9")
