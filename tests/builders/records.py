"""Records of trainings that nobody trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.record import TrainingFacts, recorded


def facts(name: str, **changed: Any) -> TrainingFacts:
    """Gives facts of a training of `toy`."""
    given = {"kind": "train", "dataset": "toy", "data_version": "ab" * 32, "parameters": {"seed": "0"}}
    return TrainingFacts(**{"name": name, "began": "2026-01-01T00:00:00+00:00", **given, **changed})


def write_record(var: Path, name: str, **changed: Any) -> Path:
    """Writes the record of a training that finished, with a curve and tables, gives its folder."""
    with recorded(var, facts(name, **changed)) as record:
        for step in (10, 20):
            record.metric("retrieval/validation", step / 40, step)
        record.metric("test/retrieval/recall@100", 0.5)
        record.table("calibration", [{"rows": 5.0, "predicted": 0.1, "observed": 0.2}])
        rows = [{"section": "end_to_end", "model": "slates as served", "ndcg@10": 0.2}]
        record.table("evaluation", [*rows, {"section": "ranking", "model": "DLRM", "auc": 0.7}])
    return record.folder
