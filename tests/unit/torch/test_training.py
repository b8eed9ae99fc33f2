"""A training of the towers: it learns, goes on where it was, and says in one line what is wrong."""

from __future__ import annotations

import io
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders.forked import forked
from tests.builders.full_disk import files_up_to
from tests.builders.towers_task import CONFIG, towers_task
from training.retrieval.config import TorchrecConfig
from training.retrieval.task import TASK_FILE, FittingTask, TrainerError, WorkersError
from training.retrieval.torchrec import CONFIG_FILE
from training.torchrec.__main__ import read_task
from training.torchrec.checkpoints import CheckpointError
from training.torchrec.fit import fit_folder
from training.torchrec.plan import PlanError
from training.torchrec.ranks import Ranks
from training.torchrec.train import Trainer

PLAIN = TorchrecConfig(sharding="table_wise", checkpoint_steps=3)
SHORT = CONFIG.model_copy(update={"steps": 12, "evaluations": 2})
"""For what is trained several times by several ranks."""


class SlowFile(io.StringIO):
    """A standard error that takes its time."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def write(self, text: str) -> int:
        time.sleep(0.5)
        with self.file.open("a") as file:
            return file.write(text)


class Stopped(Exception):
    """The training was ended from outside."""


def trained(
    ranks: Ranks, task: FittingTask, folder: Path, config: TorchrecConfig, until: int | None = None
) -> Any:
    """Trains, to the end or until a step; gives the losses, the history and the final vectors."""
    trainer = Trainer(task, config, ranks, folder)
    losses: list[float] = []
    step = trainer.step

    def counted(columns: Any) -> float:
        if until is not None and trainer.progress.step == until:
            raise Stopped
        losses.append(step(columns))
        return losses[-1]

    trainer.step = counted  # type: ignore[method-assign]
    try:
        progress = trainer.run()
    except Stopped:
        return losses, None, None
    vectors = trainer.encode(trainer.model.module.item_tower, task.catalogue)
    return losses, progress, vectors


def test_it_learns_what_its_users_like(tmp_path: Path) -> None:
    losses, progress, vectors = forked(1, lambda ranks: trained(ranks, towers_task(), tmp_path, PLAIN))[0]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert progress.is_done
    assert progress.history[progress.best_at]["validation"] > 0.2
    assert vectors.shape == (43, 9)


def test_a_training_that_was_ended_goes_on_bit_for_bit(tmp_path: Path) -> None:
    task = towers_task()

    def both(ranks: Ranks) -> Any:
        whole = trained(ranks, task, tmp_path / "whole", PLAIN)
        first = trained(ranks, task, tmp_path / "ended", PLAIN, until=5)
        return whole, first, trained(ranks, task, tmp_path / "ended", PLAIN)

    (losses, progress, vectors), (begun, _, _), (gone_on, progress_2, vectors_2) = forked(1, both)[0]
    assert begun == losses[:5]
    assert gone_on == losses[3:]  # the last checkpoint was written after three steps
    assert progress_2 == progress
    assert np.array_equal(vectors_2, vectors)


@pytest.mark.parametrize("sharding", ["row_wise", "data_parallel", "auto"])
def test_however_tables_lie_the_training_is_the_same(tmp_path: Path, sharding: Any) -> None:
    task = towers_task()

    def both(ranks: Ranks) -> Any:
        other = PLAIN.model_copy(update={"sharding": sharding})
        return trained(ranks, task, tmp_path / "a", PLAIN), trained(ranks, task, tmp_path / "b", other)

    one, other = forked(1, both)[0]
    np.testing.assert_allclose(other[0], one[0], atol=1e-4)
    np.testing.assert_allclose(other[2], one[2], atol=1e-3)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """What one rank gives, and the folder of a training that it left after five steps."""
    task, whole, ended = towers_task(SHORT), *(tmp_path_factory.mktemp(name) for name in ("whole", "ended"))

    def work(ranks: Ranks) -> Any:
        trained(ranks, task, ended, PLAIN, until=5)
        return trained(ranks, task, whole, PLAIN)

    return forked(1, work)[0], ended


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise", "data_parallel"])
def test_two_ranks_have_the_losses_of_one_and_go_on_bit_for_bit_or_as_one(
    tmp_path: Path, sharding: Any, alone: tuple[Any, Path]
) -> None:
    task, (losses, _, vectors) = towers_task(SHORT), alone[0]
    config = PLAIN.model_copy(update={"sharding": sharding})

    def work(ranks: Ranks) -> Any:
        whole = trained(ranks, task, tmp_path / "two", config)
        trained(ranks, task, tmp_path / "ended", config, until=5)
        ranks.wait()
        if ranks.is_first:
            shutil.copytree(tmp_path / "ended", tmp_path / "left by two")
        ranks.wait()
        return whole, trained(ranks, task, tmp_path / "ended", config)

    for whole, gone_on in forked(2, work):
        np.testing.assert_allclose(whole[0], losses, atol=1e-3)
        np.testing.assert_allclose(whole[2], vectors, atol=1e-3)
        assert gone_on[0] == whole[0][3:]
        assert gone_on[1] == whole[1]
        assert np.array_equal(gone_on[2], whole[2])
    # What two ranks left is read by one, whose tables lie otherwise.
    after_two = forked(1, lambda ranks: trained(ranks, task, tmp_path / "left by two", PLAIN))[0]
    np.testing.assert_allclose(after_two[0], losses[3:], atol=1e-3)


def test_what_one_rank_left_is_read_by_two_that_cut_tables_by_rows(
    tmp_path: Path, alone: tuple[Any, Path]
) -> None:
    (losses, _, vectors), left = alone
    shutil.copytree(left, tmp_path / "left")
    config = PLAIN.model_copy(update={"sharding": "row_wise"})
    for gone_on in forked(2, lambda ranks: trained(ranks, towers_task(SHORT), tmp_path / "left", config)):
        np.testing.assert_allclose(gone_on[0], losses[3:], atol=1e-3)
        np.testing.assert_allclose(gone_on[2], vectors, atol=1e-3)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    def work(ranks: Ranks) -> str:
        trained(ranks, towers_task(), tmp_path, PLAIN, until=4)
        other = towers_task(CONFIG.model_copy(update={"temperature": 0.2}))
        with pytest.raises(CheckpointError, match="is of another model") as error:
            Trainer(other, PLAIN, ranks, tmp_path)
        return str(error.value)

    assert "\n" not in forked(1, work)[0]


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    def work(ranks: Ranks) -> str:
        trained(ranks, towers_task(), tmp_path, PLAIN, until=4)
        for file in (tmp_path / "checkpoints").glob("at-*/*.distcp"):
            file.write_bytes(file.read_bytes()[:100])
        with pytest.raises(CheckpointError, match="damaged") as error:
            Trainer(towers_task(), PLAIN, ranks, tmp_path)
        return str(error.value)

    assert "\n" not in forked(1, work)[0]


def test_a_checkpoint_that_was_being_written_does_not_count(tmp_path: Path) -> None:
    def work(ranks: Ranks) -> Any:
        trained(ranks, towers_task(), tmp_path, PLAIN, until=4)
        folder = tmp_path / "checkpoints"
        shutil.copytree(folder / "at-0-00000003", folder / ".at-0-00000006.tmp")
        (folder / ".at-0-00000006.tmp" / "progress.json").unlink()
        return trained(ranks, towers_task(), tmp_path, PLAIN)

    _, progress, _ = forked(1, work)[0]
    assert progress.is_done
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_full_disk_leaves_the_last_checkpoint_and_is_told_in_one_line(tmp_path: Path) -> None:
    task = towers_task(CONFIG.model_copy(update={"width": 64}))
    folder = tmp_path / "checkpoints"

    def work(ranks: Ranks) -> Any:
        trained(ranks, task, tmp_path, PLAIN, until=5)
        left = sorted(file.name for file in folder.iterdir())
        with files_up_to(50_000), pytest.raises(TrainerError) as error:
            fit_folder(task, PLAIN, ranks, tmp_path)
        ranks.wait()
        return left, sorted(file.name for file in folder.iterdir()), str(error.value)

    for left, after, said in forked(2, work):
        assert left == after == ["at-0-00000003"]
        assert said.startswith(f"{tmp_path}: File too large; nothing half-written is left: make room")
        assert "\n" not in said
    assert not list(tmp_path.rglob("*.tmp*"))
    _, progress, _ = forked(1, lambda ranks: trained(ranks, task, tmp_path, PLAIN))[0]
    assert progress.is_done


def test_what_all_ranks_have_to_say_is_said_once_before_any_of_them_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "said"

    def work(ranks: Ranks) -> str:
        sys.stderr = SlowFile(file)
        ranks.say_once("what is wrong")
        return file.read_text()

    assert forked(3, work) == ["what is wrong\n"] * 3


def test_what_one_rank_alone_has_to_say_is_said(tmp_path: Path) -> None:
    def work(ranks: Ranks) -> None:
        sys.stderr = SlowFile(tmp_path / f"of-{ranks.rank}")
        if ranks.rank == 1:
            ranks.say_once("what is wrong")
        ranks.wait()

    forked(2, work)
    assert [file.name for file in tmp_path.iterdir()] == ["of-1"]


def test_a_folder_without_a_task_is_told_in_one_line(tmp_path: Path) -> None:
    for folder, lacking in ((tmp_path / "nowhere", CONFIG_FILE), (tmp_path, TASK_FILE)):
        (tmp_path / CONFIG_FILE).write_text(PLAIN.model_dump_json())
        with pytest.raises(TrainerError, match="holds no task") as error:
            read_task(folder)
        assert f"({lacking} is not there)" in str(error.value)
        assert "make train TRAINER=torchrec" in str(error.value)
        assert "\n" not in str(error.value)


def test_a_plan_that_fits_no_memory_is_refused_in_one_line(tmp_path: Path) -> None:
    task = towers_task(CONFIG.model_copy(update={"width": 128}), items=3000)
    config = TorchrecConfig(sharding="table_wise", memory_mib=4)

    def work(ranks: Ranks) -> str:
        with pytest.raises(PlanError) as error:
            Trainer(task, config, ranks, tmp_path)
        return str(error.value)

    said = forked(1, work)[0]
    assert "do not fit 1 x 4 MiB" in said
    assert "MEMORY_MIB" in said
    assert "\n" not in said


@pytest.mark.parametrize(("batch", "count"), [(47, 2), (4, 3)])
def test_a_batch_that_does_not_divide_is_refused(batch: int, count: int) -> None:
    task = towers_task(CONFIG.model_copy(update={"batch_size": batch}))
    with pytest.raises(WorkersError, match=f"does not divide among {count} workers"):
        task.batch_of(count)
