"""Users' rows that lie beside a bundle go on learning in the other role, and come back as a file to send."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from contract import names
from contract.bundle import RANKER, USER_TOWER, BundleError, read_manifest
from contract.encoders import OOV_CODE
from tests.builders.datasets import quiet, small_world
from tests.unit.training.test_bundle import facts
from training.changed_rows import FOLDER, ServedRows, measure_changed_rows, write_changed_rows
from training.config import QualityLevel, TrainingSettings
from training.data.prepared import Prepared
from training.export.write import seal, staged
from training.pipeline import train_bundle
from training.progress import TrainingProgress
from training.retrieval.rows import user_weights_file
from training.retrieval.task import TrainerError

STRANGER = 10**9


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Path, TrainingSettings]:
    """The small world, a bundle of it that TorchRec trained, and the settings."""
    var_dir = tmp_path_factory.mktemp("var")
    settings = TrainingSettings(
        var_dir=var_dir,
        quality=QualityLevel.TINY,
        threads=1,
        trainer="torchrec",
        tables_beside=(names.USER_ID,),
    ).at_quality()
    prepared = small_world(var_dir)
    return prepared, train_bundle(prepared, settings, TrainingProgress(Console(quiet=True))), settings


@pytest.fixture
def weights(trained: tuple[Prepared, Path, TrainingSettings]) -> Iterator[Path]:
    """The file of the kept weights, which is as it was afterwards."""
    _, folder, settings = trained
    path = user_weights_file(settings.var_dir, folder.name)
    content = path.read_bytes()
    yield path
    path.write_bytes(content)


def test_rows_of_users_who_did_something_since_are_written_with_the_rankers_part_as_it_was(
    trained: tuple[Prepared, Path, TrainingSettings],
) -> None:
    prepared, folder, settings = trained
    served = ServedRows.of(folder, settings.var_dir)
    said: list[str] = []
    path = write_changed_rows(served, prepared, settings, said.append)
    assert path is not None
    assert [one.name for one in (settings.var_dir / FOLDER).iterdir()] == [path.name]
    manifest = read_manifest(folder)
    (table,) = manifest.tables
    with np.load(path) as file:
        assert set(file.files) == {"user_id_ids", "user_id_rows"}
        ids, rows = file["user_id_ids"], file["user_id_rows"]
    assert (ids.dtype, rows.dtype) == (np.int64, np.float32)
    assert len(np.unique(ids)) == len(ids) > 0
    assert rows.shape == (len(ids), table.width)
    clock = prepared.interactions[prepared.dataset.timestamp]
    since = prepared.interactions[clock >= pd.Timestamp(manifest.trained_until)]
    assert set(ids.tolist()) <= set(since[names.USER_ID].tolist())
    found = served.rows_since(prepared, settings, prepared.split.test_until)
    assert found is not None
    before = found.served[np.searchsorted(found.user_ids, ids)]
    assert np.array_equal(rows[:, table.part(RANKER)], before[:, table.part(RANKER)])
    assert (rows[:, table.part(USER_TOWER)] != before[:, table.part(USER_TOWER)]).any(axis=1).all()

    assert write_changed_rows(served, prepared, settings, said.append) is None, (
        "of the same data nothing is new"
    )
    assert f"make embeddings FILE={path}" in said[-1]
    assert path.is_file()


def test_what_users_learn_has_served_items_alone_and_their_own_rows(
    trained: tuple[Prepared, Path, TrainingSettings],
) -> None:
    prepared, folder, settings = trained
    log = prepared.interactions
    last = log.iloc[[-1]].assign(**{names.USER_ID: STRANGER})
    unseen = log.iloc[[-1]].assign(**{names.ITEM_ID: STRANGER})
    more = replace(prepared, interactions=pd.concat([log, last, unseen], ignore_index=True))
    served = ServedRows.of(folder, settings.var_dir)
    found = served.rows_since(more, settings, prepared.split.test_until)
    assert found is not None
    task = found.work.task
    assert task.examples.items.max() < len(found.work.item_vectors) == read_manifest(folder).items
    numbers = task.examples.batch(np.arange(len(task.examples)), np.ones(len(task.examples), np.bool_))
    assert np.array_equal(
        found.user_ids[numbers[names.USER_ID]], task.examples.histories.user_ids[task.examples.users]
    )
    table = np.load(folder / found.table.file)
    assert found.user_ids[-1] == STRANGER, "who is new gets a row"
    assert np.array_equal(found.served[-1], table[OOV_CODE])
    assert task.config.width == found.table.parts[USER_TOWER]
    assert served.rows_since(prepared, settings, served.trained_until) is None, "nothing is new"


def test_what_comes_after_is_measured_and_nothing_is_kept(
    trained: tuple[Prepared, Path, TrainingSettings],
) -> None:
    prepared, folder, settings = trained
    said: list[str] = []
    there = sorted(settings.var_dir.rglob("*"))
    measure_changed_rows(ServedRows.of(folder, settings.var_dir), prepared, settings, said.append)
    assert "NDCG@100" in said[-1]
    assert sorted(settings.var_dir.rglob("*")) == there


def test_weights_that_are_missing_or_of_another_tower_are_told_in_one_line(
    trained: tuple[Prepared, Path, TrainingSettings], weights: Path
) -> None:
    prepared, folder, settings = trained
    later = replace(prepared, interactions=prepared.interactions.iloc[:-1])
    rows = settings.var_dir / FOLDER
    there = sorted(rows.glob("*"))
    with np.load(weights) as file:
        other: dict[str, Any] = {name: file[name] + (name == "gate") for name in file.files}
    np.savez(weights, **other)
    with pytest.raises(TrainerError, match="are of another one than the bundle's") as error:
        write_changed_rows(ServedRows.of(folder, settings.var_dir), later, settings, quiet)
    assert "\n" not in str(error.value)
    weights.unlink()
    with pytest.raises(BundleError, match="train again with TRAINER=torchrec, and promote it") as missing:
        ServedRows.of(folder, settings.var_dir)
    assert "\n" not in str(missing.value)
    assert sorted(rows.glob("*")) == there


def test_a_bundle_without_a_table_beside_it_names_the_setting(tmp_path: Path) -> None:
    with staged(tmp_path / "bundles", "toy-1") as folder:
        (folder / "x.onnx").write_text("model")
        seal(folder, facts("toy-1"))
    with pytest.raises(BundleError, match="SHORTLIST_TABLES_BESIDE=") as error:
        ServedRows.of(tmp_path / "bundles" / "toy-1", tmp_path)
    assert "\n" not in str(error.value)
