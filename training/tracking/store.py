"""MLflow itself: the embedded one, an SQLite file and a folder of artifacts, or a server by its address."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import url2pathname, urlopen

from training.tracking.settings import LOCAL, TrackingSettings

LOOK_S = 3.0
"""Seconds that a server may take to say that it lives."""
QUIET = {
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
"""MLflow tells its maker nothing, draws no bars, does not wait for minutes, and runs no jobs of its own."""


class TrackingError(RuntimeError):
    """Says in one line why MLflow cannot be told, and what to do."""


def prepare_environment() -> None:
    """Sets what MLflow reads when it is imported, unless it is set."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


class ExperimentStore:
    """An MLflow that answers."""

    def __init__(self, settings: TrackingSettings) -> None:
        """Opens it; the first time an embedded one is made, which takes about 10 s.

        Raises:
            TrackingError: its file is damaged, or no server answers.
        """
        self.settings = settings
        self.is_local = settings.mlflow == LOCAL
        check_file(settings.database) if self.is_local else check_server(settings.mlflow)
        settings.folder.mkdir(parents=True, exist_ok=True)
        prepare_environment()
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):  # after the import, which sets them
            logging.getLogger(name).setLevel(logging.WARNING)
        self.client = MlflowClient(settings.uri, settings.uri)
        self._experiments: dict[str, Any] = {}

    def experiment(self, dataset: str) -> Any:
        """Gives the experiment of a data set, made where there is none.

        Raises:
            TrackingError: it was deleted.
        """
        if dataset not in self._experiments:
            self._experiments[dataset] = self._experiment(experiment_name(dataset))
        return self._experiments[dataset]

    def _experiment(self, name: str) -> Any:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            artifacts = (self.settings.folder / "artifacts").as_uri() if self.is_local else None
            found = self.client.get_experiment(self.client.create_experiment(name, artifacts))
        if found.lifecycle_stage != "active":
            raise TrackingError(f"the experiment {name} was deleted: restore it, or delete it for good")
        return found

    def put(self, run: Any, folder: Path, name: str) -> None:
        """Makes a folder's files an artifact of a run; what is there already is not copied again.

        The embedded MLflow links the files of a bundle, which never change.
        """
        run_id, files = run.info.run_id, sorted(path for path in folder.iterdir() if path.is_file())
        there = {Path(one.path).name: one.file_size for one in self.client.list_artifacts(run_id, name)}
        for file in [one for one in files if there.get(one.name) != one.stat().st_size]:
            if self.is_local:
                link(file, Path(url2pathname(urlsplit(run.info.artifact_uri).path)) / name / file.name)
            else:
                self.client.log_artifact(run_id, str(file), name)


def is_of_mlflow(error: Exception) -> bool:
    """Whether MLflow, or what it stands on, says the error."""
    kinds = [kind.__module__.partition(".")[0] for kind in type(error).__mro__]
    return not {"mlflow", "sqlalchemy", "requests"}.isdisjoint(kinds)


def experiment_name(dataset: str) -> str:
    """What a data set's experiment is called, and its model in the registry."""
    return f"shortlist-{dataset}"


def check_file(database: Path) -> None:
    """Reads an SQLite file through, if it is there.

    Raises:
        TrackingError: it is damaged.
    """
    if not database.is_file():
        return
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as opened:
            said = opened.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        said = str(error)
    if said != "ok":
        raise TrackingError(
            f"{database}: is damaged ({' '.join(said.split())}); move it away, and every training is brought "
            "anew from its record"
        )


def check_server(address: str) -> None:
    """Asks a server whether it is an MLflow that lives.

    Raises:
        TrackingError: it does not say so.
    """
    try:
        with urlopen(f"{address}/health", timeout=LOOK_S) as answer:
            if answer.read(16).strip() == b"OK":
                return
        said = "is no MLflow server"
    except (URLError, OSError, ValueError) as error:
        said = f"does not answer ({getattr(error, 'reason', error)})"
    raise TrackingError(f"SHORTLIST_MLFLOW={address}: {said}; start it, or set another address, or {LOCAL}")


def link(file: Path, target: Path) -> None:
    """Links a file, or copies it where that cannot be: whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(file, temporary)
    except OSError:
        shutil.copyfile(file, temporary)
    temporary.rename(target)
