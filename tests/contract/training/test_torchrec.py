"""The second trainer behind `RetrievalModel`, in processes of its own role."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.builders.towers_task import CONFIG, towers_task
from training.config import SettingError, TrainingSettings
from training.export.towers import export_model, model_spec
from training.models import chosen_retrieval
from training.retrieval.config import TorchrecConfig
from training.retrieval.model import RetrievalModel
from training.retrieval.task import TrainerError
from training.retrieval.torchrec import fit_torchrec


def test_the_other_role_makes_a_model_that_is_exported_as_any(tmp_path: Path) -> None:
    task = towers_task()
    model = fit_torchrec(
        task.fields,
        task.examples,
        task.catalogue,
        CONFIG,
        TorchrecConfig(),
        workers=1,
        folder=tmp_path / "torchrec",
        seed=0,
        validate=task.validation,
    )
    assert isinstance(model, RetrievalModel)
    assert task.validation
    assert not list((tmp_path / "torchrec").iterdir())
    fields = dict(task.fields)
    user = model_spec(model.user_features, fields, "user_tower.onnx", "a_name")
    item = model_spec(model.item_features, fields, "item_tower.onnx", "another")
    export_model(model.users_to_onnx(user), model.encode_users, user, task.validation.users, tmp_path)
    export_model(model.items_to_onnx(item), model.encode_items, item, task.catalogue, tmp_path)
    assert set(model.user_features) == set(task.user_columns)
    # What was measured is what came back, but for what is placed afterwards.
    best = max(row["validation"] for row in model.history)
    assert task.validation(model) == pytest.approx(best, abs=0.05)


def test_workers_that_do_not_fit_are_refused_before_any_begins(tmp_path: Path) -> None:
    task = towers_task(CONFIG.model_copy(update={"batch_size": 47}))
    with pytest.raises(TrainerError, match="does not divide among 2"):
        fit_torchrec(
            task.fields,
            task.examples,
            task.catalogue,
            task.config,
            TorchrecConfig(),
            workers=2,
            folder=tmp_path,
            seed=0,
        )
    assert not list(tmp_path.iterdir())


def test_a_missing_role_names_the_command_that_builds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "training"))
    task = towers_task()
    with pytest.raises(TrainerError, match="make setup ROLES=torch"):
        fit_torchrec(
            task.fields,
            task.examples,
            task.catalogue,
            CONFIG,
            TorchrecConfig(),
            workers=1,
            folder=tmp_path,
            seed=0,
        )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"trainer": "torchrec", "retrieval": "mf_bpr"}, "trains two_tower alone"),
        ({"workers": 2}, "merlin trains in one process"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        chosen_retrieval(TrainingSettings(**asked))
