"""Computes what is known of users and items, and writes it: the four tables that are Feast's sources, one row
per user or item and instant at which it changed, what the last one is folded from, and what users have seen.
"""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from contract import names
from contract.activity import view_of
from contract.columns import Columns
from contract.features import FOLDER, SEEN_FILE, FeatureSet, state_file, view_file
from training.data.prepared import Prepared, arrow_schema, now, replace_folder
from training.features.activity import EntityLog, busy_instants, event_times
from training.features.seen import seen_items
from training.features.states import activity_states

JUST_BEFORE = pd.Timedelta(microseconds=1)
"""Feast loads [start, end), and a load up to an instant must hold the rows of what happened before it."""


def first_event(prepared: Prepared) -> datetime:
    """The instant from which features are known: that of the first interaction, in whole seconds."""
    first: datetime = event_times(prepared.dataset, prepared.interactions).min().floor("s").to_pydatetime()
    return first


def feature_tables(
    prepared: Prepared, until: datetime, users: EntityLog, items: EntityLog
) -> dict[str, pa.Table]:
    """Makes the rows of every view up to an instant, in the order of their key and time, of what is prepared
    and its logs.

    Activity is that of every snapshot and of the instant itself. Facts of users and items have no time of
    their own: they hold from the first event on.
    """
    dataset = prepared.dataset
    instants = offline_instants(prepared, until)
    frames = {
        names.USER_PROFILE: (names.USER_ID, prepared.users, dataset.user_profile),
        names.USER_ACTIVITY: (names.USER_ID, users.activity(instants), dataset.user_activity_stored),
        names.ITEM_CATALOG: (names.ITEM_ID, _catalog(prepared), dataset.item_catalog_stored),
        names.ITEM_ACTIVITY: (names.ITEM_ID, items.activity(instants), dataset.item_activity),
    }
    first = pd.Timestamp(first_event(prepared))
    tables = {}
    for view, (key, frame, columns) in frames.items():
        if names.EVENT_TIMESTAMP in frame:
            last = pd.Timestamp(until) - JUST_BEFORE
            frame = frame.assign(event_timestamp=frame[names.EVENT_TIMESTAMP].clip(upper=last))
        else:
            frame = frame.assign(event_timestamp=first)
        tables[view] = _table(frame.sort_values([key, names.EVENT_TIMESTAMP]), key, columns)
    return tables


def offline_instants(prepared: Prepared, until: datetime) -> pd.DatetimeIndex:
    """Lists the instants up to one of which Feast's offline store holds everybody's activity: the snapshots,
    or with `offline_each_event` just after every event; the instant itself at any rate."""
    if prepared.dataset.activity.offline_each_event:
        times = event_times(prepared.dataset, prepared.interactions)
        instants = pd.DatetimeIndex(times[times < pd.Timestamp(until)] + pd.Timedelta(1)).unique()
    else:
        instants = busy_instants(prepared, until)
    return instants.union(pd.DatetimeIndex([pd.Timestamp(until).tz_convert("UTC")]))


def _catalog(prepared: Prepared) -> pd.DataFrame:
    flag = prepared.dataset.availability
    is_available = prepared.items[flag].fillna(True) if flag else True
    return prepared.items.assign(**{names.IS_AVAILABLE: is_available})


def _table(frame: pd.DataFrame, key: str, columns: Columns) -> pa.Table:
    """The pandas metadata stays in: by it Feast's reader keeps nullable integers whole."""
    stamp = pa.field(names.EVENT_TIMESTAMP, pa.timestamp("us", tz="UTC"))
    schema = pa.schema([pa.field(key, pa.int64()), stamp, *arrow_schema(columns)])
    return pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)


def write_features(prepared: Prepared, data: str, *, max_seen: int = 1024) -> FeatureSet:
    """Computes a data set's features as of its clock, and writes them into its folder, whole or not at all.

    `data` is the setting `DATA`, by which they are found again.
    """
    as_of = prepared.dataset.clock().astimezone(UTC).replace(microsecond=0)
    logs = EntityLog.of(prepared, names.USER), EntityLog.of(prepared, names.ITEM)
    tables = {view_file(view): table for view, table in feature_tables(prepared, as_of, *logs).items()}
    for log in logs:
        tables[state_file(view_of(log.entity))] = activity_states(log, as_of)
    tables[SEEN_FILE] = seen_items(prepared, as_of, max_seen)
    made = FeatureSet(
        dataset=prepared.dataset.name,
        data=data,
        as_of=as_of,
        first_event=first_event(prepared),
        rates=logs[0].rates,
        horizon=prepared.horizon,
        made_at=now(),
    )
    temporary = prepared.folder / f".{FOLDER}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for file, table in tables.items():
            pq.write_table(table, temporary / file, compression="zstd")
        made.write(temporary)
        replace_folder(temporary, prepared.folder / FOLDER)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return made
