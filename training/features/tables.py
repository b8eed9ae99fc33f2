"""Writes the four parquet files that are Feast's sources: one row per user or item and instant at which it
changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contract import names
from contract.columns import Columns
from training.data.prepared import Prepared, arrow_schema, replace_folder
from training.features.activity import event_times, item_activity, snapshot_instants, user_activity

FOLDER = "features"
JUST_BEFORE = pd.Timedelta(microseconds=1)
"""A snapshot at T holds what happened before T, so its row is as of just before T: Feast loads [start, end),
and a load up to T must hold it.
"""


def first_event(prepared: Prepared) -> datetime:
    """The instant from which features are known: that of the first interaction, in whole seconds."""
    first: datetime = event_times(prepared.dataset, prepared.interactions).min().floor("s").to_pydatetime()
    return first


def feature_tables(prepared: Prepared, until: datetime) -> dict[str, pa.Table]:
    """Makes the rows of every view up to an instant, in the order of their key and time.

    Facts of users and items have no time of their own: they hold from the first event on.
    """
    dataset = prepared.dataset
    instants = busy_instants(prepared, until)
    frames = {
        names.USER_PROFILE: (names.USER_ID, prepared.users, dataset.user_profile),
        names.USER_ACTIVITY: (names.USER_ID, user_activity(prepared, instants), dataset.user_activity),
        names.ITEM_CATALOG: (names.ITEM_ID, _catalog(prepared), dataset.item_catalog_stored),
        names.ITEM_ACTIVITY: (names.ITEM_ID, item_activity(prepared, instants), dataset.item_activity),
    }
    first = pd.Timestamp(first_event(prepared))
    tables = {}
    for view, (key, frame, columns) in frames.items():
        if names.EVENT_TIMESTAMP in frame:
            frame = frame.assign(event_timestamp=frame[names.EVENT_TIMESTAMP] - JUST_BEFORE)
        else:
            frame = frame.assign(event_timestamp=first)
        tables[view] = _table(frame.sort_values([key, names.EVENT_TIMESTAMP]), key, columns)
    return tables


def busy_instants(prepared: Prepared, until: datetime) -> pd.DatetimeIndex:
    """Lists the snapshots up to an instant before which something happened since the one before."""
    times = event_times(prepared.dataset, prepared.interactions)
    instants = snapshot_instants(prepared.dataset, times.min(), until)
    after = np.searchsorted(instants.asi8, times.astype("int64").to_numpy(), side="right")
    return instants[np.unique(after[after < len(instants)])]


def _catalog(prepared: Prepared) -> pd.DataFrame:
    flag = prepared.dataset.availability
    is_available = prepared.items[flag].fillna(True) if flag else True
    return prepared.items.assign(**{names.IS_AVAILABLE: is_available})


def _table(frame: pd.DataFrame, key: str, columns: Columns) -> pa.Table:
    """The pandas metadata stays in: by it Feast's reader keeps nullable integers whole."""
    stamp = pa.field(names.EVENT_TIMESTAMP, pa.timestamp("us", tz="UTC"))
    schema = pa.schema([pa.field(key, pa.int64()), stamp, *arrow_schema(columns)])
    return pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)


def write_features(folder: Path, tables: dict[str, pa.Table]) -> None:
    """Writes every view's rows into `folder/features`, whole or not at all."""
    target = folder / FOLDER
    temporary = folder / f".{FOLDER}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for view, table in tables.items():
            pq.write_table(table, temporary / f"{view}.parquet", compression="zstd")
        replace_folder(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def digest(table: pa.Table, until: datetime) -> str:
    """Takes a view's rows, gives a hash of those before an instant, columns included."""
    stamp = table[names.EVENT_TIMESTAMP]
    rows = table.filter(pc.less(stamp, pa.scalar(until, type=stamp.type))).replace_schema_metadata()
    sink = hashlib.sha256(rows.schema.to_string().encode())
    # Equal rows may lie in other chunks and buffers, so the values are hashed, not the memory.
    for name in rows.column_names:
        column = rows[name].combine_chunks()
        if pa.types.is_list(column.type):
            lengths = pc.list_value_length(column).fill_null(-1)
            sink.update(lengths.to_numpy(zero_copy_only=False).tobytes())
            column = column.flatten()
        sink.update(pd.util.hash_array(column.to_pandas().to_numpy()).tobytes())
    return sink.hexdigest()
