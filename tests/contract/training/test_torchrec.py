"""The second trainer behind `RetrievalModel`, in processes of its own role."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from contract.arrays import Array
from contract.encoders import Field
from tests.builders.towers_task import CONFIG, towers_task
from tests.contract.training.retrieval_suite import RetrievalModelSuite
from training.config import SettingError, TrainingSettings
from training.examples.positives import RetrievalExamples
from training.models import chosen_retrieval
from training.retrieval.config import TorchrecConfig
from training.retrieval.model import RetrievalModel, Validate
from training.retrieval.task import FittingTask, TrainerError
from training.retrieval.torchrec import OnnxTowers, fit_torchrec
from training.retrieval.validation import Validation


class TestTorchrec(RetrievalModelSuite):
    """Trained by the other role, and exported as any."""

    @staticmethod
    def fit(
        fields: Mapping[str, Field],
        examples: RetrievalExamples,
        catalogue: Mapping[str, Array],
        *,
        seed: int,
        validate: Validate | None = None,
    ) -> RetrievalModel:
        assert isinstance(validate, Validation | None)
        with tempfile.TemporaryDirectory(prefix="shortlist-") as folder:
            model = fit_torchrec(
                fields,
                examples,
                catalogue,
                CONFIG,
                TorchrecConfig(),
                workers=1,
                folder=Path(folder),
                seed=seed,
                validate=validate,
            )
            assert not list(Path(folder).iterdir())
        return model

    def test_it_reads_all_that_is_known_and_came_back_as_it_was_measured(
        self, model: OnnxTowers, task: FittingTask
    ) -> None:
        assert task.validation
        assert set(model.user_features) == set(task.user_columns)
        # But for what is placed afterwards.
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
