"""Brings the records of trainings that have ended to MLflow, each once, and what was broken off again."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from contract.bundle import MANIFEST_FILE
from contract.bundles import bundles_folder
from contract.whole_file import whole_file
from training.record import (
    FACTS_FILE,
    FOLDER,
    TrainingFacts,
    TrainingState,
    is_at_work,
    read_facts,
    read_metrics,
    read_tables,
    trainings,
)
from training.tracking.plots import plots
from training.tracking.store import ExperimentStore

BROUGHT_FILE = "brought.json"
"""In the record's folder: which MLflow has it, as which run, and what of."""
NAME_TAG = "shortlist.training"
BUNDLE = "bundle"
"""The artifact that is a bundle."""
ENDS = {
    TrainingState.FINISHED: "FINISHED",
    TrainingState.FAILED: "FAILED",
    TrainingState.KILLED: "KILLED",
}
BATCH = 100
"""Parameters or metrics that one call takes."""
Say = Callable[[str], None]


def bring(var: Path, store: ExperimentStore, say: Say) -> int:
    """Brings what is not there yet, and gives how many trainings that were.

    One that is at work is left for the next time, and so are the trials of one. An unreadable record is told
    and left out.
    """
    brought = 0
    (var / FOLDER).mkdir(parents=True, exist_ok=True)
    with (var / FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for folder, facts in ended(var, say):
            if not is_brought(folder, store, facts):
                bring_one(var, folder, facts, store)
                say(f"{facts.name}: {facts.state}, brought to MLflow")
                brought += 1
    return brought


def ended(var: Path, say: Say) -> list[tuple[Path, TrainingFacts]]:
    """Lists what has ended and is part of nothing that is at work; what began first stands first."""
    found = []
    for folder in trainings(var):
        try:
            facts = read_facts(folder)
        except ValueError as error:
            say(str(error))
            continue
        whole = folder.with_name(facts.part_of) if facts.part_of else folder
        if not is_at_work(folder) and not (whole.is_dir() and is_at_work(whole)):
            found.append((folder, facts))
    return sorted(found, key=lambda one: (one[1].part_of is not None, one[1].began, one[1].name))


def is_brought(folder: Path, store: ExperimentStore, facts: TrainingFacts) -> bool:
    """Whether this MLflow, and not one that stood there before, has the record as it is."""
    mark = read_mark(folder)
    return mark.get("store") == identity(store, facts) and mark.get("facts") == digest(folder)


def bring_one(var: Path, folder: Path, facts: TrainingFacts, store: ExperimentStore) -> None:
    """Brings one record; what a former try left is completed, and the run of a former record replaced."""
    client, former = store.client, read_mark(folder)
    run = find_run(store, facts)
    if run is not None and former.get("run") == run.info.run_id and former.get("facts") != digest(folder):
        client.delete_run(run.info.run_id)
        run = None
    if run is None:
        experiment = store.experiment(facts.dataset).experiment_id
        began = milliseconds(facts.began)
        run = client.create_run(experiment, began, tags_of(folder, facts), run_name=facts.name)
    run_id = run.info.run_id
    log_parameters_and_metrics(client, run_id, folder, facts)
    log_data(client, run_id, facts)
    tables = read_tables(folder)
    log_tables(client, run_id, tables)
    for name, figure in plots(tables).items():
        client.log_figure(run_id, figure, f"plots/{name}.png")
    bundle = bundles_folder(var) / facts.bundle if facts.bundle else None
    if bundle and (bundle / MANIFEST_FILE).is_file():
        store.put(run, bundle, BUNDLE)
    client.set_terminated(run_id, ENDS[facts.state], milliseconds(facts.ended or facts.began))
    mark = {"store": identity(store, facts), "run": run_id, "facts": digest(folder)}
    with whole_file(folder / BROUGHT_FILE) as file:
        file.write(json.dumps(mark).encode())


def find_run(store: ExperimentStore, facts: TrainingFacts) -> Any:
    """Finds the run of a training, None where there is none."""
    experiment = store.experiment(facts.dataset).experiment_id
    found = store.client.search_runs([experiment], f"tags.`{NAME_TAG}` = '{facts.name}'", max_results=1)
    return found[0] if found else None


def log_parameters_and_metrics(client: Any, run_id: str, folder: Path, facts: TrainingFacts) -> None:
    """Logs the settings, and every value at its step; a value that is there already is not doubled."""
    from mlflow.entities import Metric, Param

    params = [Param(name, value[:500]) for name, value in facts.parameters.items()]
    metrics = [Metric(metric_name(one.name), one.value, one.at, one.step) for one in read_metrics(folder)]
    for at in range(0, len(params), BATCH):
        client.log_batch(run_id, params=params[at : at + BATCH])
    for at in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[at : at + BATCH])


def log_data(client: Any, run_id: str, facts: TrainingFacts) -> None:
    """Logs the data set and its version; MLflow shows the first half of the digest."""
    from mlflow.entities import Dataset, DatasetInput

    source = json.dumps({"data_version": facts.data_version})
    data = Dataset(facts.dataset, facts.data_version[:32], "prepared", source)
    client.log_inputs(run_id, [DatasetInput(data)])


def log_tables(client: Any, run_id: str, tables: Mapping[str, Any]) -> None:
    """Logs tables as MLflow's page shows them, each whole."""
    shown = []
    for name, rows in tables.items():
        columns = list(dict.fromkeys(column for row in rows for column in row))
        data = [[row.get(column) for column in columns] for row in rows]
        file = f"tables/{name}.json"
        client.log_dict(run_id, {"columns": columns, "data": data}, file)
        shown.append({"path": file, "type": "table"})
    if shown:
        client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps(shown))


def tags_of(folder: Path, facts: TrainingFacts) -> dict[str, str]:
    """Gives what is told of a run beside its settings; a trial stands below its search."""
    tags = {
        **facts.tags,
        NAME_TAG: facts.name,
        "kind": facts.kind,
        "data_version": facts.data_version,
        "mlflow.source.name": f"make {facts.kind}",
        "mlflow.source.type": "LOCAL",
    }
    tags |= {"bundle": facts.bundle} if facts.bundle else {}
    tags |= {"mlflow.note.content": facts.why[:4000]} if facts.why else {}
    if facts.part_of and (whole := read_mark(folder.with_name(facts.part_of)).get("run")):
        tags["mlflow.parentRunId"] = whole
    return tags


def metric_name(name: str) -> str:
    """Writes `recall@100` as `recall_at_100`, and what else MLflow takes in no name as a line."""
    return re.sub(r"[^\w./ :-]", "_", name.replace("@", "_at_"), flags=re.ASCII)


def milliseconds(instant: str) -> int:
    """Takes an instant in ISO 8601, gives milliseconds since 1970."""
    return int(datetime.fromisoformat(instant).timestamp() * 1000)


def identity(store: ExperimentStore, facts: TrainingFacts) -> str:
    """Tells this MLflow from every other, and from one that stood at the same place before."""
    experiment = store.experiment(facts.dataset)
    return f"{experiment.experiment_id}-{experiment.creation_time}"


def digest(folder: Path) -> str:
    """A hash of a record's facts, which tell its end."""
    return hashlib.sha256((folder / FACTS_FILE).read_bytes()).hexdigest()


def read_mark(folder: Path) -> dict[str, str]:
    """Reads where a record was brought; empty where it was not."""
    try:
        mark: dict[str, str] = json.loads((folder / BROUGHT_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return mark
