"""One MLflow for all tests of this folder: making it takes ten seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.mlflow_server import MlflowServer
from training.tracking.settings import TrackingSettings
from training.tracking.store import ExperimentStore


@pytest.fixture(scope="session")
def mlflow_settings(tmp_path_factory: pytest.TempPathFactory) -> TrackingSettings:
    return TrackingSettings(var_dir=tmp_path_factory.mktemp("mlflow"), mlflow="local")


@pytest.fixture(scope="session")
def store(mlflow_settings: TrackingSettings) -> ExperimentStore:
    return ExperimentStore(mlflow_settings)


@pytest.fixture(scope="session", autouse=True)
def server(store: ExperimentStore, mlflow_settings: TrackingSettings) -> Iterator[MlflowServer]:
    """Starts while the other tests run."""
    assert store.is_local
    started = MlflowServer(mlflow_settings.var_dir)
    yield started
    started.stop()


@pytest.fixture
def var(tmp_path: Path) -> Path:
    return tmp_path
