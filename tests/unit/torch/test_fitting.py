"""From a task in a folder to towers as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from contract import names
from contract.arrays import Array, Floats
from contract.bundle import ModelSpec
from contract.encoders import OOV_CODE
from tests.builders.forked import forked
from tests.builders.towers_task import towers_task
from training.retrieval.config import TorchrecConfig
from training.retrieval.sampling import unknown_columns
from training.retrieval.task import FittingTask
from training.retrieval.torchrec import RESULT_FILE, OnnxTowers, Result
from training.retrieval.tower_design import NEWCOMER_TASTE, POPULARITY_BOUND
from training.torchrec import export
from training.torchrec.fit import fit_folder
from training.torchrec.ranks import Ranks

import onnx  # isort: skip


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[FittingTask, Path, Any]:
    """A trained task, its folder, and what the torch towers give of its items and users."""
    folder = tmp_path_factory.mktemp("task") / "work"
    towers_task().save(folder)
    task = FittingTask.load(folder)

    def work(ranks: Ranks) -> Any:
        given: list[Any] = []
        to_onnx = export.to_onnx

        def remembered(tower: Any, spec: ModelSpec) -> Any:
            columns = task.catalogue if spec.output == "item_vector" else users_of(task)
            given.append(export._encode(tower, spec.columns, columns))
            return to_onnx(tower, spec)

        export.to_onnx = remembered
        fit_folder(task, TorchrecConfig(), ranks, folder)
        return given

    return task, folder, forked(1, work)[0]


def users_of(task: FittingTask) -> dict[str, Array]:
    assert task.validation
    return dict(task.validation.users)


def onnx_towers(folder: Path) -> OnnxTowers:
    result = Result.model_validate_json((folder / RESULT_FILE).read_text())
    graphs = [onnx.load(folder / spec.file) for spec in (result.user_tower, result.item_tower)]
    return OnnxTowers(graphs[0], graphs[1], result)


def test_a_task_is_the_same_after_it_was_in_a_folder(tmp_path: Path) -> None:
    task = towers_task()
    task.save(tmp_path / "work")
    again = FittingTask.load(tmp_path / "work")
    assert again.digest() == task.digest()
    assert again.fields == {name: task.fields[name] for name in again.fields}
    rows, is_fresh = np.arange(5), np.arange(5) % 2 == 0
    for name, values in task.examples.batch(rows, is_fresh).items():
        assert np.array_equal(again.examples.batch(rows, is_fresh)[name], values)
    assert towers_task(seed=1).digest() != task.digest()


def test_onnx_gives_what_the_towers_give(fitted: tuple[FittingTask, Path, Any]) -> None:
    task, folder, (users, items) = fitted
    model = onnx_towers(folder)
    np.testing.assert_allclose(model.encode_users(users_of(task)), users, atol=1e-5)
    np.testing.assert_allclose(model.encode_items(task.catalogue), items, atol=1e-5)
    one = {name: values[:1] for name, values in users_of(task).items()}
    np.testing.assert_allclose(model.encode_users(one), users[:1], atol=1e-5)


def test_inputs_have_their_columns_own_names(fitted: tuple[FittingTask, Path, Any]) -> None:
    _, folder, _ = fitted
    session = ort.InferenceSession(str(folder / "user_tower.onnx"))
    assert {given.name for given in session.get_inputs()} == {
        "categorical",
        "numeric",
        "user_topics",
        names.USER_RECENT_ITEM_IDS,
        names.USER_RECENT_POSITIVE_ITEM_IDS,
    }
    spec = onnx_towers(folder).result.item_tower
    assert spec.categorical == (names.ITEM_ID, "item topic: größe")
    renamed = onnx_towers(folder).items_to_onnx(spec.model_copy(update={"output": "other"}))
    assert [given.name for given in renamed.graph.output] == ["other"]
    ort.InferenceSession(renamed.SerializeToString())


def test_unknown_users_and_new_items_are_placed(fitted: tuple[FittingTask, Path, Any]) -> None:
    task, folder, _ = fitted
    model = onnx_towers(folder)
    blank = unknown_columns(task.fields, {name: values[:1] for name, values in users_of(task).items()})
    vector: Floats = model.encode_users(blank)[0]
    assert np.linalg.norm(vector[:-1]) == pytest.approx(NEWCOMER_TASTE, abs=1e-4)
    assert vector[-1] == pytest.approx(POPULARITY_BOUND, abs=1e-4)
    new = task.catalogue[names.ITEM_ID] == OOV_CODE
    items = model.encode_items(task.catalogue)
    np.testing.assert_allclose(np.linalg.norm(items[:, :-1], axis=1), 1, atol=1e-4)
    assert len(np.unique(items[new].round(5), axis=0)) == new.sum()
    low, high = model.score_range
    scores = model.encode_users(users_of(task)) @ items.T
    assert low <= scores.min() <= scores.max() <= high


def test_how_popular_items_are_is_counted_anew_in_the_graph(fitted: tuple[FittingTask, Path, Any]) -> None:
    task, folder, _ = fitted
    model = onnx_towers(folder)
    known = task.catalogue[names.ITEM_ID] != OOV_CODE
    before, popularity = model.encode_items(task.catalogue), model.item_popularity
    model.renew_popularity(popularity[::-1].copy())
    after = model.encode_items(task.catalogue)
    np.testing.assert_array_equal(after[:, :-1], before[:, :-1])
    codes = task.catalogue[names.ITEM_ID][known]
    per_deviation = model.result.prior_factor * model.result.temperature
    np.testing.assert_allclose(before[known, -1], per_deviation * popularity[codes], rtol=1e-5)
    np.testing.assert_allclose(after[known, -1], per_deviation * popularity[::-1][codes], rtol=1e-5)
    low, high = model.score_range
    scores = model.encode_users(users_of(task)) @ after[known].T
    assert low <= scores.min() <= scores.max() <= high
