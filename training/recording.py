"""What goes into a training's record: its settings, its curves, what it reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from training.config import TrainingSettings
from training.data.prepared import Prepared
from training.export.write import git_commit, machine, versions
from training.identity import data_version
from training.record import BEST, VALIDATION, TrainingFacts, TrainingRecord, instant

PLACES = {"data_dir", "var_dir"}
"""Settings that say where files are, and nothing of a training."""
OF_SEVERAL = ("_interval", "_seeds")
"""Ends of names that tell how sure a metric is; they stand in the table alone."""


def facts_of(
    name: str, kind: str, prepared: Prepared, settings: TrainingSettings, **facts: Any
) -> TrainingFacts:
    """Tells what a training begins with; `facts` are those beside."""
    return TrainingFacts(
        name=name,
        kind=kind,
        dataset=prepared.dataset.name,
        data_version=data_version(prepared),
        parameters=parameters(settings),
        tags={"git_commit": git_commit(), **versions(), **machine(settings.threads)},
        began=instant(),
        **facts,
    )


def parameters(settings: TrainingSettings) -> dict[str, str]:
    """Gives the settings by dotted name, those of models that no setting names left out."""
    named = {value for _, value in settings if isinstance(value, str)}
    unnamed = {name for name, value in settings if isinstance(value, BaseModel) and name not in named}
    return dict(_flat(settings.model_dump(mode="json", exclude=PLACES | unnamed)))


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for name, value in values.items():
        is_section = isinstance(value, Mapping)
        flat += _flat(value, f"{before}{name}.") if is_section else [(f"{before}{name}", str(value))]
    return flat


def add_curves(record: TrainingRecord, part: str, model: object, seed: int, first: int) -> None:
    """Adds what the evaluations of a model's training measured, if it tells it: rows of `step` and measures.

    A row's `seed` is of the member that it concerns.
    """
    rows: Sequence[Mapping[str, float]] = getattr(model, "history", ())
    of_seed = "" if seed == first else f"/seed_{seed}"
    for row in rows:
        of_member = f"/member_{int(row['seed']) - seed}" if "seed" in row else ""
        for name in row.keys() - {"step", "seed"}:
            record.metric(f"{part}/{name}{of_seed}{of_member}", row[name], int(row["step"]))
    values = [row[VALIDATION] for row in rows if VALIDATION in row]
    if values and not of_seed:
        record.metric(f"{part}/{BEST}", max(values))


def add_results(record: TrainingRecord, metrics: Mapping[str, Any], models: Sequence[str]) -> None:
    """Adds what the test part says: the metrics of `models`, and everybody's as a table."""
    rows = []
    for section, of_models in metrics["sections"].items():
        for model, row in of_models.items():
            rows.append({"section": section, "model": model, **row})
            numbers = row if model in models else {}
            for name in [name for name in numbers if not name.endswith(OF_SEVERAL)]:
                record.metric(f"test/{section}/{name}", row[name])
    record.table("evaluation", rows)
    record.metric("training/seconds", sum(metrics["training"]["seconds"].values()))
    record.metric("training/peak_memory_mib", metrics["training"]["peak_memory_mib"])
