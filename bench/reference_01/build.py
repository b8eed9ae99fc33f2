"""Builds reference 01: the Feast project with its rows in Redis, and the Triton repository.

Runs in the training environment: `python -m bench.reference_01.build --help`.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Array, FeastType, Float32, Int64

from bench.references.build import CANDIDATES, REQUEST, Given, arguments, finish, write_stages
from bench.references.repository import Stage
from bench.references.rows import Rows, Tensor
from contract import names
from contract.keys import index_name
from feature_repo.connection import VARIABLE

HERE = Path(__file__).parent
USER_VIEW, ITEM_VIEW = "user_features", "item_features"
ITEM_KEY = "item_id_raw"


def build(given: Given) -> None:
    """Writes everything into the target folder and Redis."""
    user_tensors = (*given.user_tensors, *given.raw_tensors)
    project = given.target / "feast"
    project.mkdir(parents=True)
    (project / "feature_store.yaml").write_text(
        "project: reference_01\nprovider: local\nregistry: registry.db\n"
        f"online_store:\n  type: redis\n  connection_string: ${{{VARIABLE}}}\n"
        "offline_store:\n  type: file\nentity_key_serialization_version: 3\n"
    )
    store = FeatureStore(str(project))
    _fill(store, project, USER_VIEW, REQUEST.name, given.users, user_tensors)
    _fill(store, project, ITEM_VIEW, ITEM_KEY, given.items, given.item_tensors)

    parameters = {"repo": str(project.resolve())}
    retrieved = Tensor("candidate_ids", np.int64)
    features = HERE / "feast_features.py"
    write_stages(
        given,
        lookup=Stage(
            "query-user-features",
            features,
            (REQUEST,),
            user_tensors,
            parameters | {"view": USER_VIEW, "key": REQUEST.name},
        ),
        candidates=(
            Stage(
                "redis-vss-candidates",
                HERE / "knn.py",
                (given.vector,),
                (retrieved,),
                {"index": index_name(given.manifest.bundle), "k": given.k},
            ),
            Stage(
                "query-item-features",
                features,
                (retrieved,),
                (CANDIDATES, *given.item_tensors),
                parameters | {"view": ITEM_VIEW, "key": ITEM_KEY},
            ),
        ),
    )
    finish(given)


def _fill(
    store: FeatureStore, folder: Path, view: str, key: str, rows: Rows, tensors: tuple[Tensor, ...]
) -> None:
    """Defines a view and writes its rows to Redis."""
    table = pd.DataFrame({key: rows.ids} | {t.name: list(rows.tensors[t.name]) for t in tensors})
    table[names.EVENT_TIMESTAMP] = pd.Timestamp.now(tz="UTC")
    path = folder / f"{view}.parquet"
    table.to_parquet(path)
    entity = Entity(name=key, join_keys=[key], value_type=ValueType.INT64)
    schema = [Field(name=key, dtype=Int64), *(Field(name=t.name, dtype=_feast_type(t)) for t in tensors)]
    source = FileSource(name=view, path=str(path), timestamp_field=names.EVENT_TIMESTAMP)
    feature_view = FeatureView(name=view, entities=[entity], ttl=timedelta(0), schema=schema, source=source)
    store.apply([entity, feature_view])
    store.write_to_online_store(view, table)


def _feast_type(tensor: Tensor) -> FeastType:
    element = Float32 if tensor.dtype is np.float32 else Int64
    return Array(element) if tensor.width else element


if __name__ == "__main__":
    build(arguments(__doc__))
