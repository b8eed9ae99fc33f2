"""A real Feast repository of the project's own definitions, over a test's Redis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from contract import names
from contract.columns import Role
from contract.dataset import DATASET_FILE, Dataset
from contract.environment import RedisUrl
from feature_repo.connection import VARIABLE, connection_string
from tests.builders.triton import World

REPOSITORY = Path(__file__).parents[2] / "feature_repo"


def feast_repository(
    folder: Path, dataset: Dataset, url: RedisUrl, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """Applies the project's own definitions for a data set, gives Feast's store; `folder` is the run-time
    folder."""
    from feast import FeatureStore as Feast

    data = folder / "data" / dataset.name
    (data / "features").mkdir(parents=True, exist_ok=True)
    (folder / "feast" / dataset.name).mkdir(parents=True)
    (data / DATASET_FILE).write_text(yaml.safe_dump(dataset.model_dump(mode="json")))
    for view in names.VIEWS:  # Feast looks at a source's columns when it is applied
        empty = {name: pd.Series(dtype="object") for name in dataset.view_columns(view)}
        key = names.USER_ID if view in names.USER_VIEWS else names.ITEM_ID
        keys = {key: pd.Series(dtype="int64"), names.EVENT_TIMESTAMP: pd.Series(dtype="datetime64[ns, UTC]")}
        pd.DataFrame(keys | empty).to_parquet(data / "features" / f"{view}.parquet")
    monkeypatch.setenv("SHORTLIST_VAR_DIR", str(folder))
    monkeypatch.setenv("SHORTLIST_DATASET", dataset.name)
    monkeypatch.setenv(VARIABLE, connection_string(url))
    from feature_repo.definitions import feast_objects

    store = Feast(repo_path=str(REPOSITORY))
    store.apply(feast_objects(folder, dataset.name))
    yield store


def write_rows(
    feast: Any, dataset: Dataset, view: str, rows: Mapping[int, dict[str, Any]], at: datetime
) -> None:
    """Writes rows of a view through the Feast SDK."""
    key = names.USER_ID if view in names.USER_VIEWS else names.ITEM_ID
    frame = pd.DataFrame({key: list(rows), names.EVENT_TIMESTAMP: pd.to_datetime([at] * len(rows), utc=True)})
    for name, column in dataset.view_columns(view).items():
        values = [row.get(name) for row in rows.values()]
        dtype = {"int64": "Int64", "float32": "float32"}.get(str(column.dtype), "object")
        frame[name] = pd.Series(values, dtype="object" if column.role is Role.LIST else dtype)
    feast.write_to_online_store(view, df=frame)


def write_world(feast: Any, dataset: Dataset, world: World) -> None:
    """Writes every row of a world through the Feast SDK."""
    for view in names.VIEWS:
        rows = {key: values for (v, key), values in world.rows.items() if v == view}
        write_rows(feast, dataset, view, rows, world.event_timestamp)
