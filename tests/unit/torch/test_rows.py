"""Users' rows go on learning from new examples, and nothing else of the served tower does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from contract import names
from contract.arrays import Array, Floats
from contract.encoders import Field
from tests.builders.forked import forked
from tests.builders.towers_task import CONFIG, USERS, towers_task
from training.examples.positives import RetrievalExamples
from training.export.tables import cut
from training.retrieval.config import TorchrecConfig
from training.retrieval.rows import RowsTask
from training.retrieval.task import FittingTask
from training.retrieval.torchrec import RESULT_FILE, USER_WEIGHTS, OnnxTowers, Result
from training.torchrec.fit import fit_folder
from training.torchrec.ranks import Ranks
from training.torchrec.rows import RowsError, RowsTrainer
from training.torchrec.user_weights import weights_of

ACTIVE = 20
"""Users who did something new."""


class Served:
    """Towers that were trained, the table of users cut out of their user tower."""

    def __init__(self, folder: Path) -> None:
        self.result = Result.model_validate_json((folder / RESULT_FILE).read_text())
        spec = self.result.user_tower
        self.whole, items = (onnx.load(folder / one.file) for one in (spec, self.result.item_tower))
        self.model = onnx.ModelProto()
        self.model.CopyFrom(self.whole)
        at = spec.categorical.index(names.USER_ID)
        self.table = cut(self.model, "categorical", at, names.USER_ID, USERS + 3)
        self.towers = OnnxTowers(self.whole, items, self.result)
        self.weights = dict(np.load(folder / USER_WEIGHTS))
        self.session = ort.InferenceSession(self.model.SerializeToString())

    def encode_users(self, columns: dict[str, Array], rows: Floats) -> Floats:
        """Asks the served graph, with rows (U,D)."""
        spec = self.result.user_tower
        left = tuple(name for name in spec.categorical if name != names.USER_ID)
        inputs = spec.model_copy(update={"categorical": left}).pack(columns)
        vectors: Floats = self.session.run(None, {**inputs, names.USER_ID: rows})[0]
        return vectors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where towers were trained."""
    folder = tmp_path_factory.mktemp("task") / "work"
    task = towers_task()
    task.save(folder)
    forked(1, lambda ranks: fit_folder(task, TorchrecConfig(), ranks, folder))
    return folder


def new_task(served: Served, *, users: int = ACTIVE) -> RowsTask:
    """Makes what the first users do next: what validation held back of them; users are numbered as rows of
    the last user first, so that numbers are not codes."""
    old = towers_task(CONFIG.model_copy(update={"user_dropout": 0.0, "unknown_user_share": 0.0}))
    assert old.validation
    chosen = old.validation.relevant.indices[:users].astype(np.int64)
    everyone = np.arange(USERS)[::-1]
    histories = replace(
        old.examples.histories, profile=old.examples.histories.profile | {names.USER_ID: everyone}
    )
    ends = histories.recent.starts[1 : users + 1] - 1
    ones = np.ones(users)
    examples = RetrievalExamples(
        histories=histories,
        users=np.arange(users),
        ends=ends,
        just_before=ends,
        items=chosen,
        user_count=USERS,
        item_count=old.examples.item_count,
        is_timed=ones > 0,
        is_target=ones > 0,
        age_days=ones,
        weights=ones,
    )
    count = old.examples.item_count
    fields: dict[str, Field] = {
        **old.fields,
        names.USER_ID: replace(old.fields[names.USER_ID], cardinality=USERS),
        names.ITEM_ID: replace(old.fields[names.ITEM_ID], cardinality=count),
    }
    task = FittingTask(fields, examples, {names.ITEM_ID: np.arange(count)}, old.config, 0)
    rows = served.table[3:][::-1].copy()
    columns = examples.batch(np.arange(users), np.ones(users, np.bool_))
    vectors = served.encode_users(columns, rows[columns[names.USER_ID]])
    return RowsTask(task, served.weights, rows, served.towers.encode_items(old.catalogue), vectors)


def learned(work: RowsTask, rate: float = 0.05) -> Any:
    """Trains; gives the rows, what they came to, the weights, and the vectors of everyone who is asked."""

    def run(_: Ranks) -> Any:
        trainer = RowsTrainer(work, TorchrecConfig(rows_learning_rate=rate, rows_epochs=5))
        result = trainer.run()
        columns = work.task.examples.batch(np.arange(ACTIVE), np.ones(ACTIVE, np.bool_))
        return trainer.rows, result, weights_of(trainer.tower), trainer.encode(columns)

    return forked(1, run)[0]


def test_only_rows_of_users_with_new_examples_change(folder: Path) -> None:
    served = Served(folder)
    work = new_task(served)
    rows, _, weights, _ = learned(work)
    is_changed = (rows != work.rows).any(axis=1)
    active = work.task.examples.histories.profile[names.USER_ID][work.task.examples.users]
    assert is_changed[active].sum() > ACTIVE // 2  # not everyone is drawn by so few steps
    assert not np.delete(is_changed, active).any()
    assert weights.keys() == served.weights.keys()
    for name, values in served.weights.items():
        assert np.array_equal(weights[name], values), name


def test_the_loss_on_the_new_examples_falls(folder: Path) -> None:
    _, result, _, _ = learned(new_task(Served(folder)))
    assert result.loss[1] < result.loss[0]
    assert result.steps > 1


def test_the_served_graph_makes_of_the_new_rows_what_torch_does(folder: Path) -> None:
    served = Served(folder)
    work = new_task(served)
    rows, _, _, vectors = learned(work)
    columns = work.task.examples.batch(np.arange(ACTIVE), np.ones(ACTIVE, np.bool_))
    np.testing.assert_allclose(served.encode_users(columns, rows[columns[names.USER_ID]]), vectors, atol=1e-5)
    assert np.abs(vectors - work.user_vectors).max() > 1e-3


def test_a_task_is_the_same_after_it_was_in_a_folder(folder: Path, tmp_path: Path) -> None:
    work = new_task(Served(folder))
    work.save(tmp_path / "rows")
    again = RowsTask.load(tmp_path / "rows")
    assert again.task.digest() == work.task.digest()
    for one, other in zip(learned(again)[:2], learned(work)[:2], strict=True):
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


def test_weights_of_another_tower_are_refused(folder: Path) -> None:
    work = new_task(Served(folder))
    gates = {**work.weights, "gate": work.weights["gate"] + 0.01}
    lacking = {name: values for name, values in work.weights.items() if name != "gate"}
    wide = {**work.weights, "base": np.zeros(9, np.float32)}

    def refusals(_: Ranks) -> list[str]:
        said = []
        for weights in (gates, lacking, wide):
            with pytest.raises(RowsError) as error:
                RowsTrainer(replace(work, weights=weights), TorchrecConfig())
            said.append(str(error.value))
        return said

    for said in forked(1, refusals)[0]:
        assert said.count("\n") == 0
        assert "are of another one than the bundle's" in said
        assert "train the bundle again with TRAINER=torchrec" in said
