"""Records of trainings in a real MLflow, embedded and as a server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders.mlflow_server import MlflowServer
from tests.builders.records import facts, write_record
from tests.unit.training.test_promotion import write as write_bundle
from training.promotion import promote, rollback
from training.record import TrainingState, recorded
from training.tracking.__main__ import main
from training.tracking.bring import BROUGHT_FILE, bring, bring_one, find_run
from training.tracking.registry import follow, register
from training.tracking.settings import TrackingSettings
from training.tracking.store import ExperimentStore, check_file

MARGIN = 1.0


@pytest.fixture(scope="module")
def mlflow_settings(tmp_path_factory: pytest.TempPathFactory) -> TrackingSettings:
    return TrackingSettings(var_dir=tmp_path_factory.mktemp("mlflow"), mlflow="local")


@pytest.fixture(scope="module")
def store(mlflow_settings: TrackingSettings) -> ExperimentStore:
    """One for all tests: making it takes ten seconds."""
    return ExperimentStore(mlflow_settings)


@pytest.fixture(scope="module", autouse=True)
def server(store: ExperimentStore, mlflow_settings: TrackingSettings) -> Iterator[MlflowServer]:
    """Starts while the other tests run."""
    assert store.is_local
    started = MlflowServer(mlflow_settings.var_dir)
    yield started
    started.stop()


@pytest.fixture
def var(tmp_path: Path) -> Path:
    return tmp_path


def hear(_: str) -> None:
    """Drops what is said."""


def runs(store: ExperimentStore, dataset: str) -> list[Any]:
    found: list[Any] = store.client.search_runs([store.experiment(dataset).experiment_id])
    return found


def names(store: ExperimentStore, run_id: str, path: str) -> set[str]:
    return {Path(one.path).name for one in store.client.list_artifacts(run_id, path)}


def test_a_record_is_brought_whole_and_once(var: Path, store: ExperimentStore) -> None:
    bundle = write_bundle(var / "bundles", "whole-1", dataset="whole")
    write_record(var, bundle, dataset="whole", bundle=bundle, parameters={"two_tower.width": "128"})
    assert bring(var, store, hear) == 1
    assert bring(var, store, hear) == 0
    (run,) = runs(store, "whole")
    assert (run.info.run_name, run.info.status) == ("whole-1", "FINISHED")
    assert run.data.params == {"two_tower.width": "128"}
    assert run.data.metrics["test/retrieval/recall_at_100"] == 0.5
    curve = store.client.get_metric_history(run.info.run_id, "retrieval/validation")
    assert [(one.step, one.value) for one in curve] == [(10, 0.25), (20, 0.5)]
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, run.data.tags["data_version"]) == ("whole", "ab" * 32)
    assert names(store, run.info.run_id, "plots") == {"calibration.png", "slates.png"}
    assert names(store, run.info.run_id, "tables") == {"calibration.json", "evaluation.json"}
    files = {path.name for path in (var / "bundles" / bundle).iterdir()}
    assert names(store, run.info.run_id, "bundle") == files


def test_what_was_broken_off_is_completed_without_doubling_a_value_or_copying_a_file_again(
    var: Path, store: ExperimentStore
) -> None:
    bundle = write_bundle(var / "bundles", "half-1", dataset="half")
    folder = write_record(var, bundle, dataset="half", bundle=bundle)
    bring_one(var, folder, facts(bundle, dataset="half", bundle=bundle, state=TrainingState.FINISHED), store)
    (folder / BROUGHT_FILE).unlink()
    (first,) = runs(store, "half")
    artifacts = Path(first.info.artifact_uri.removeprefix("file://")) / "bundle"
    before = {path.name: path.stat().st_ctime_ns for path in artifacts.iterdir()}
    (artifacts / "x.onnx").unlink()
    assert bring(var, store, hear) == 1
    (run,) = runs(store, "half")
    assert run.info.run_id == first.info.run_id
    assert len(store.client.get_metric_history(run.info.run_id, "retrieval/validation")) == 2
    after = {path.name: path.stat().st_ctime_ns for path in artifacts.iterdir()}
    assert after.keys() == before.keys()
    assert (artifacts / "x.onnx").samefile(var / "bundles" / bundle / "x.onnx"), "linked, not copied"


def test_trials_stand_below_their_search_once_that_has_ended(var: Path, store: ExperimentStore) -> None:
    with recorded(var, facts("nested-tune", kind="tune", dataset="nested")):
        write_record(var, "nested-tune-1", kind="trial", dataset="nested", part_of="nested-tune")
        assert bring(var, store, hear) == 0
    assert bring(var, store, hear) == 2
    by_name = {run.info.run_name: run for run in runs(store, "nested")}
    parent = by_name["nested-tune"].info.run_id
    assert by_name["nested-tune-1"].data.tags["mlflow.parentRunId"] == parent


def test_a_training_that_failed_is_told_and_one_that_goes_on_replaces_its_run(
    var: Path, store: ExperimentStore
) -> None:
    def fail() -> None:
        with recorded(var, facts("failed-1", dataset="failed")):
            raise ValueError("no such label")

    with pytest.raises(ValueError, match="no such label"):
        fail()
    bring(var, store, hear)
    (run,) = runs(store, "failed")
    assert run.info.status == "FAILED"
    assert "no such label" in run.data.tags["mlflow.note.content"]
    write_record(var, "failed-1", dataset="failed")
    assert bring(var, store, hear) == 1
    (again,) = runs(store, "failed")
    assert again.info.status == "FINISHED"


def test_the_aliases_follow_promote_and_rollback(var: Path, store: ExperimentStore) -> None:
    bundles = var / "bundles"

    def aliases() -> dict[str, str]:
        bring(var, store, hear)
        register(var, store)
        follow(var, store)
        model = store.client.get_registered_model("shortlist-served")
        version = store.client.get_model_version
        return {name: version(model.name, at).tags["bundle"] for name, at in model.aliases.items()}

    for name in ("served-1", "served-2"):
        write_record(var, write_bundle(bundles, name, dataset="served"), dataset="served", bundle=name)
    assert aliases() == {"candidate": "served-2"}
    promote(bundles, "served-1", MARGIN)
    assert aliases() == {"champion": "served-1", "candidate": "served-2"}
    promote(bundles, "served-2", MARGIN)
    assert aliases() == {"champion": "served-2"}
    rollback(bundles)
    assert aliases() == {"champion": "served-1", "candidate": "served-2"}
    shutil.rmtree(bundles / "served-1")
    promote(bundles, "served-2", MARGIN)
    assert aliases() == {"champion": "served-2"}
    assert len(store.client.search_model_versions("name = 'shortlist-served'")) == 2


def test_an_experiment_that_was_made_anew_gets_everything_again(var: Path, store: ExperimentStore) -> None:
    folder = write_record(var, "anew-1", dataset="anew")
    bring(var, store, hear)
    mark = json.loads((folder / BROUGHT_FILE).read_text())
    (folder / BROUGHT_FILE).write_text(json.dumps({**mark, "store": "another", "run": "gone"}))
    assert bring(var, store, hear) == 1
    assert len(runs(store, "anew")) == 1


def test_an_unreadable_record_is_told_and_the_others_are_brought(var: Path, store: ExperimentStore) -> None:
    broken = write_record(var, "broken-1", dataset="broken")
    (broken / "facts.json").write_text("{")
    write_record(var, "broken-2", dataset="broken")
    said: list[str] = []
    assert bring(var, store, said.append) == 1
    register(var, store)
    assert [line for line in said if str(broken) in line]
    assert [run.info.run_name for run in runs(store, "broken")] == ["broken-2"]


def test_a_damaged_file_is_told_before_mlflow_is_asked(
    var: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mlflow_settings: TrackingSettings,
    store: ExperimentStore,
) -> None:
    assert store.is_local
    check_file(mlflow_settings.database)
    (var / "mlflow").mkdir()
    broken = bytearray(mlflow_settings.database.read_bytes())
    broken[100:40_000] = b"x" * 39_900
    (var / "mlflow" / "mlflow.db").write_bytes(broken)
    write_record(var, "kept-1")
    monkeypatch.setenv("SHORTLIST_VAR_DIR", str(var))
    monkeypatch.setenv("SHORTLIST_MLFLOW", "local")
    assert main(["bring"]) == 1
    error = capsys.readouterr().err
    assert f"{var}/mlflow/mlflow.db: is damaged" in error
    assert "move it away" in error
    assert error.count("\n") == 1


def test_off_asks_nobody(monkeypatch: pytest.MonkeyPatch, var: Path) -> None:
    monkeypatch.setenv("SHORTLIST_VAR_DIR", str(var))
    monkeypatch.setenv("SHORTLIST_MLFLOW", "off")
    write_record(var, "off-1")
    assert main(["bring"]) == 0
    assert not (var / "mlflow").exists()


def test_a_server_is_told_by_its_address_and_its_absence_loses_nothing(
    var: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], server: MlflowServer
) -> None:
    monkeypatch.setenv("SHORTLIST_VAR_DIR", str(var))
    bundle = write_bundle(var / "bundles", "remote-1", dataset="remote")
    write_record(var, bundle, dataset="remote", bundle=bundle)
    monkeypatch.setenv("SHORTLIST_MLFLOW", "http://127.0.0.1:9")
    assert main(["bring"]) == 1
    error = capsys.readouterr().err
    assert "SHORTLIST_MLFLOW=http://127.0.0.1:9: does not answer" in error
    assert error.count("\n") == 1
    monkeypatch.setenv("SHORTLIST_MLFLOW", server.wait())
    assert main(["bring"]) == 0
    assert "remote-1: finished, brought" in capsys.readouterr().out
    store = ExperimentStore(TrackingSettings())
    run = find_run(store, facts("remote-1", dataset="remote"))
    assert names(store, run.info.run_id, "bundle") == {"manifest.json", "metrics.json", "x.onnx"}
    assert store.client.get_model_version_by_alias("shortlist-remote", "candidate").tags["bundle"] == bundle
