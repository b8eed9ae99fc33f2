"""Models side by side: one table, whose finished rows are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from tests.builders.datasets import small_world
from training import comparison
from training.comparison import compare
from training.config import SettingError, TrainingSettings
from training.data.prepared import Prepared
from training.pipeline import train_bundle
from training.progress import TrainingProgress
from training.ranking.config import DeepConfig
from training.record import read_facts, read_metrics, trainings
from training.retrieval.config import BprConfig

MODELS = ("mf_bpr", "neumf")


def settings_of(var: Path) -> TrainingSettings:
    return TrainingSettings(
        var_dir=var,
        threads=1,
        k=20,
        retrieval="mf_bpr",
        mf_bpr=BprConfig(width=8, steps=40, evaluations=1),
        neumf=DeepConfig(width=4, deep=(8,), members=1),
    )


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, TrainingSettings, str]:
    var = tmp_path_factory.mktemp("var")
    prepared, settings = small_world(var), settings_of(var)
    return prepared, settings, compare(prepared, settings, MODELS, quiet())


def quiet() -> TrainingProgress:
    return TrainingProgress(Console(quiet=True))


def cells(table: str, model: str) -> dict[str, str]:
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    (row,) = [line for line in lines if line[0] == f"`{model}`"]
    return dict(zip(lines[0], row, strict=False))


def test_each_model_has_a_record_of_its_own(compared: tuple[Prepared, TrainingSettings, str]) -> None:
    _, settings, table = compared
    by_ranker = {read_facts(folder).parameters["ranker"]: folder for folder in trainings(settings.var_dir)}
    measured = {one.name: one.value for one in read_metrics(by_ranker["neumf"])}
    assert format(measured["compare/auc"], ".4f") == cells(table, "neumf")["AUC"]
    assert len(trainings(settings.var_dir)) == len(MODELS)


def test_a_row_tells_what_a_model_reaches_and_what_it_costs(
    compared: tuple[Prepared, TrainingSettings, str],
) -> None:
    _, _, table = compared
    ranker, retrieval = cells(table, "neumf"), cells(table, "mf_bpr")
    assert retrieval["model"] == "MF, BPR"
    assert 0 < float(retrieval["Recall@10"]) <= float(retrieval["Recall@100"]) <= 1
    assert 0.4 < float(ranker["AUC"]) < 1
    assert 0 < float(ranker["NDCG@10"]) < 1
    assert 0 < float(ranker["its own"]) < 1
    for row in (ranker, retrieval):
        assert float(row["MB"]) > 0
        assert float(row["ms"]) > 0


def test_finished_rows_are_kept_and_only_the_missing_ones_are_made(
    compared: tuple[Prepared, TrainingSettings, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, settings, table = compared
    asked: list[str] = []

    def ranking(_: object, name: str) -> dict[str, str]:
        asked.append(name)
        return {"name": name, "title": "made anew"}

    monkeypatch.setattr(comparison._Ground, "ranking", ranking)
    assert compare(prepared, settings, MODELS, quiet()) == table
    assert asked == []
    (row,) = (settings.var_dir / comparison.FOLDER / prepared.dataset.name).glob("neumf-*.json")
    row.unlink()
    again = compare(prepared, settings, MODELS, quiet())
    assert cells(again, "neumf")["model"] == "made anew"
    assert cells(again, "mf_bpr") == cells(table, "mf_bpr")
    compare(prepared, settings.model_copy(update={"seed": 1}), ["neumf"], quiet())
    assert asked == ["neumf", "neumf"], "other settings make another row"


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    prepared = small_world(tmp_path)
    with pytest.raises(SettingError, match="MODELS=trees: there is no such model; choose two_tower or"):
        compare(prepared, settings_of(tmp_path), ["dcn", "trees"], quiet())


@pytest.mark.parametrize(
    ("weights", "said"),
    [({"is_click": 2}, "no weight counts in dcn"), ({"is_liked": 1}, "no label is_liked")],
)
def test_weights_that_would_not_count_are_refused_before_anything_is_trained(
    tmp_path: Path, weights: dict[str, float], said: str
) -> None:
    prepared = small_world(tmp_path)
    settings = settings_of(tmp_path).model_copy(update={"task_weights": weights, "ranker": "dcn"})
    with pytest.raises(SettingError, match=said):
        compare(prepared, settings, ["mf_bpr", "dcn"], quiet())
    with pytest.raises(SettingError, match=said):
        train_bundle(prepared, settings, quiet())
    assert not trainings(tmp_path)
