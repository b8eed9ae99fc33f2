"""What of a training goes into its record."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from training.config import TrainingSettings
from training.record import TrainingFacts, TrainingRecord, read_metrics, read_tables
from training.recording import add_curves, add_results, parameters


def empty(folder: Path) -> TrainingRecord:
    facts = TrainingFacts(name="t", kind="train", dataset="toy", data_version="", parameters={}, began="")
    return TrainingRecord(folder, facts)


def values(record: TrainingRecord) -> dict[tuple[str, int], float]:
    return {(one.name, one.step): one.value for one in read_metrics(record.folder)}


def test_settings_of_models_that_no_setting_names_are_left_out() -> None:
    listed = parameters(TrainingSettings(retrieval="mf_bpr", var_dir=Path("/somewhere")))
    assert listed["mf_bpr.width"] == "64"
    assert listed["dlrm.top"] == "[64, 32]"
    assert not [name for name in listed if name.startswith(("two_tower", "var_dir", "synthetic."))]


def test_curves_are_told_by_step_and_the_first_seed_has_the_plain_names(tmp_path: Path) -> None:
    record = empty(tmp_path)
    rows = [{"step": 5, "loss": 2.0, "validation": 0.3}, {"step": 10, "loss": 1.0, "validation": 0.2}]
    add_curves(record, "retrieval", SimpleNamespace(history=rows), 0, 0)
    add_curves(record, "retrieval", SimpleNamespace(history=rows[:1]), 1, 0)
    add_curves(record, "ranking", SimpleNamespace(history=[{"seed": 2, "step": 4, "log_loss": 0.6}]), 1, 0)
    add_curves(record, "ranking", object(), 0, 0)
    assert values(record) == {
        ("retrieval/loss", 5): 2.0,
        ("retrieval/validation", 5): 0.3,
        ("retrieval/loss", 10): 1.0,
        ("retrieval/validation", 10): 0.2,
        ("retrieval/best", 0): 0.3,
        ("retrieval/loss/seed_1", 5): 2.0,
        ("retrieval/validation/seed_1", 5): 0.3,
        ("ranking/log_loss/seed_1/member_1", 4): 0.6,
    }


def test_the_test_part_is_told_of_the_bundles_models_and_as_a_table_of_all(tmp_path: Path) -> None:
    record = empty(tmp_path)
    ours: dict[str, Any] = {"ndcg@10": 0.2, "ndcg@10_interval": [0.1, 0.3]}
    rows = {"two-tower": ours, "TopPop": {"ndcg@10": 0.1}}
    training = {"seconds": {"a": 1.0, "b": 2.0}, "peak_memory_mib": 7}
    add_results(record, {"sections": {"retrieval": rows}, "training": training}, ["two-tower"])
    assert values(record) == {
        ("test/retrieval/ndcg@10", 0): 0.2,
        ("training/seconds", 0): 3.0,
        ("training/peak_memory_mib", 0): 7.0,
    }
    (first, second) = read_tables(tmp_path)["evaluation"]
    assert first == {"section": "retrieval", "model": "two-tower", **ours}
    assert second["model"] == "TopPop"
