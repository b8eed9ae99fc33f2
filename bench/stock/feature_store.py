"""The stock ensemble's Feast project: two views, as the notebook has, in the same Redis as ours."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Array, FeastType, Float32, Int32, Int64

from contract import names
from contract.columns import Column, Columns, Role
from contract.dataset import Dataset
from contract.encoders import Encoders, Vocabulary
from feature_repo.connection import VARIABLE

USER_VIEW, ITEM_VIEW = "user_features", "item_features"
_KEYS = {
    USER_VIEW: (names.USER_ID, ValueType.INT64, Int64),
    ITEM_VIEW: (names.ITEM_ID, ValueType.INT32, Int32),  # what QueryFaiss gives
}
_SOURCES = {USER_VIEW: names.USER_VIEWS, ITEM_VIEW: names.ITEM_VIEWS}
_HISTORIES = (names.USER_RECENT_ITEM_IDS, names.USER_RECENT_POSITIVE_ITEM_IDS)
_NEVER = timedelta(0)


def stock_columns(dataset: Dataset) -> dict[str, Columns]:
    """Lists the features of each view."""
    return {
        USER_VIEW: {**dataset.user_profile, **dataset.user_activity},
        ITEM_VIEW: {**dataset.item_catalog, **dataset.item_activity},
    }


def stock_tables(
    features: Path, columns: Mapping[str, Columns], encoders: Encoders
) -> dict[str, pd.DataFrame]:
    """Reads both views' rows from the sources of our own Feast project.

    Only users with a history are kept: the stock chain raises on the others.
    """
    tables = {view: _latest(features, view, columns[view], encoders) for view in _KEYS}
    everyone = tables[USER_VIEW]
    is_known = np.logical_and.reduce([everyone[name].map(len) > 0 for name in _HISTORIES])
    tables[USER_VIEW] = everyone[is_known].reset_index(drop=True)
    return tables


def fill_feature_store(
    folder: Path,
    tables: Mapping[str, pd.DataFrame],
    columns: Mapping[str, Columns],
) -> None:
    """Defines the project in `folder` and writes its rows to Redis."""
    folder.mkdir(parents=True)
    (folder / "feature_store.yaml").write_text(
        "project: stock_benchmark\nprovider: local\nregistry: registry.db\n"
        f"online_store:\n  type: redis\n  connection_string: ${{{VARIABLE}}}\n"
        "offline_store:\n  type: file\nentity_key_serialization_version: 3\n"
    )
    store = FeatureStore(str(folder))
    for view, (key, value_type, dtype) in _KEYS.items():
        path = folder / f"{view}.parquet"
        tables[view].to_parquet(path)
        # QueryFeast sends the entity's name as the join key, so the two are the same.
        entity = Entity(name=key, join_keys=[key], value_type=value_type)
        schema = [Field(name=key, dtype=dtype)]
        schema += [Field(name=name, dtype=_feast_type(column)) for name, column in columns[view].items()]
        source = FileSource(name=view, path=str(path), timestamp_field=names.EVENT_TIMESTAMP)
        view_of = FeatureView(name=view, entities=[entity], ttl=_NEVER, schema=schema, source=source)
        store.apply([entity, view_of])
        store.write_to_online_store(view, tables[view])


def _latest(features: Path, view: str, columns: Columns, encoders: Encoders) -> pd.DataFrame:
    """Joins the newest row of each of our views, as QueryFeast can carry it."""
    key, *_ = _KEYS[view]
    frames = []
    for source in _SOURCES[view]:
        frame = pd.read_parquet(features / f"{source}.parquet").sort_values(names.EVENT_TIMESTAMP)
        frames.append(frame.drop_duplicates(key, keep="last").drop(columns=names.EVENT_TIMESTAMP))
    joined = frames[0].merge(frames[1], on=key, how="outer")
    table = pd.DataFrame({key: joined[key].astype("int64")})
    for name, column in columns.items():
        vocabulary = encoders.vocabularies.get(encoders.fields[name].vocabulary)
        table[name] = _storable(joined[name], column, vocabulary)
    # Not the data's clock: Feast skips a row of which Redis has one of the same instant.
    table[names.EVENT_TIMESTAMP] = pd.Timestamp.now(tz="UTC")
    return table


def _storable(values: pd.Series, column: Column, vocabulary: Vocabulary | None) -> pd.Series:
    """Avoids what raises in QueryFeast: null integers become unknown, null lists empty, strings codes."""
    if column.role is Role.LIST:
        return values.map(lambda value: list(value)[: column.max_length] if np.ndim(value) else [])
    if vocabulary is None:
        return values.astype("float32")
    if vocabulary.is_text:
        return pd.Series(vocabulary.encode(values.to_numpy(object)))
    return values.astype("Int64").fillna(names.NULL_INT).astype("int64")


def _feast_type(column: Column) -> FeastType:
    element = Float32 if column.dtype == "float32" else Int64
    return Array(element) if column.role is Role.LIST else element
