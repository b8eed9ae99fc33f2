"""Rows that the ranker learns from: an exposure, everything known just before it, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pandas as pd

from contract import names
from contract.affinity import BITS, LISTS, affinity_columns, as_bits, user_item_features
from contract.arrays import Array, Floats, Ints
from contract.columns import Column, Role
from contract.dataset import Dataset
from contract.encoders import Encoders
from training.data.prepared import Prepared, to_numpy
from training.data.raw import all_columns, raw_arrays
from training.examples.split import rows_of
from training.features.activity import EntityLog, Spans, event_times

CHUNK = 32_768


@dataclass(frozen=True, eq=False)
class RankingRows:
    """Exposures of items to users, one per row.

    `frame` holds every raw column that a model may read. `labels` (rows, T) follow `dataset.labels`: 0, 1, or
    NaN where unknown. `times` (rows,) are the exposures' instants, ns.
    """

    frame: pd.DataFrame
    labels: Floats
    times: Ints

    def __len__(self) -> int:
        return len(self.frame)

    def encoded(self, encoders: Encoders, dataset: Dataset) -> dict[str, Array]:
        """Encodes every column, some rows at a time: (rows,), lists (rows, S). Codes come as int32."""
        columns = all_columns(dataset)
        parts = []
        for at in range(0, max(len(self), 1), CHUNK):
            coded = encoders.encode_all(raw_arrays(self.frame.iloc[at : at + CHUNK], columns))
            parts.append({n: v.astype(np.int32) if v.dtype.kind == "i" else v for n, v in coded.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True, eq=False)
class RankingTable:
    """All that ranking rows are made of: the prepared tables, and what each user and item did, in order."""

    prepared: Prepared
    times: pd.Series
    users: EntityLog
    items: EntityLog

    @classmethod
    def of(cls, prepared: Prepared) -> RankingTable:
        """Sorts what happened."""
        times = event_times(prepared.dataset, prepared.interactions)
        return cls(prepared, times, EntityLog.of(prepared, names.USER), EntityLog.of(prepared, names.ITEM))

    def exposures(
        self, start: datetime | None, until: datetime, as_of: datetime | None = None
    ) -> RankingRows:
        """Collects the timed exposures in [start, until), with features as of just before each.

        With `as_of`, nothing since that instant is known: a test whose features are not updated.
        """
        dataset = self.prepared.dataset
        kept = self.prepared.interactions[dataset.timestamp].notna() & (self.times < pd.Timestamp(until))
        if start is not None:
            kept &= self.times >= pd.Timestamp(start)
        rows = self.prepared.interactions[kept].reset_index(drop=True)
        at = self.times[kept].reset_index(drop=True)
        clock = at if as_of is None else at.clip(upper=pd.Timestamp(as_of).tz_convert("UTC"))
        frame = self._known_at(rows[[names.USER_ID, names.ITEM_ID]], clock)
        return RankingRows(
            frame=_ordered(dataset, frame.assign(**{name: rows[name] for name in dataset.context})),
            labels=np.stack([_label(rows[name]) for name in dataset.labels], axis=1),
            times=at.astype("int64").to_numpy(),
        )

    def pairs(self, user_ids: Ints, item_ids: Ints, as_of: datetime) -> RankingRows:
        """Makes a row of each user and item (rows,) as serving does at `as_of`: context and labels null."""
        dataset = self.prepared.dataset
        pairs = pd.DataFrame({names.USER_ID: user_ids, names.ITEM_ID: item_ids})
        clock = pd.Series(pd.Timestamp(as_of).tz_convert("UTC"), index=pairs.index)
        return RankingRows(
            frame=_ordered(dataset, self._known_at(pairs, clock)),
            labels=np.full((len(pairs), len(dataset.labels)), np.nan, dtype=np.float32),
            times=clock.astype("int64").to_numpy(),
        )

    def histories(self) -> RankingRows:
        """Makes a row of each of the last `recent_items` exposures of every history, only its prefix known.

        When such a row happened is not known, so neither are its context and its item's activity: they are
        null. Labels that tell nothing in histories are NaN; see `countable_labels`.
        """
        prepared, dataset = self.prepared, self.prepared.dataset
        log = self.users
        is_history = prepared.interactions[dataset.timestamp].isna().to_numpy()[log.order]
        labels = np.stack(list(log.labels.values()), axis=1).astype(np.float32)
        at = np.flatnonzero(is_history & ~np.isnan(labels).all(axis=1))
        users = log.group[at]
        known = log.columns(Spans(log.ids[users], log.starts[users], at), dataset.user_activity)
        frame = _with_facts(
            prepared, pd.DataFrame({names.USER_ID: log.ids[users], names.ITEM_ID: log.items[at]})
        )
        frame = _with_user_item(prepared, frame.assign(**known))
        return RankingRows(frame=_ordered(dataset, frame), labels=labels[at], times=log.times[at])

    def _known_at(self, pairs: pd.DataFrame, clock: pd.Series) -> pd.DataFrame:
        """Adds what is known of each user and item at each row's instant, and of the two together."""
        dataset, frame = self.prepared.dataset, _with_facts(self.prepared, pairs)
        instants = clock.astype("int64").to_numpy()
        for log, entity_id, columns in (
            (self.users, names.USER_ID, dataset.user_activity),
            (self.items, names.ITEM_ID, dataset.item_activity),
        ):
            spans = log.known_at(pairs[entity_id].to_numpy(np.int64), instants)
            frame = frame.assign(**log.columns(spans, columns))
        return _with_user_item(self.prepared, frame)


def concatenate(parts: list[RankingRows]) -> RankingRows:
    """Joins rows, in order."""
    return RankingRows(
        frame=pd.concat([part.frame for part in parts], ignore_index=True),
        labels=np.concatenate([part.labels for part in parts]),
        times=np.concatenate([part.times for part in parts]),
    )


def take(rows: RankingRows, kept: npt.NDArray[np.bool_] | Ints) -> RankingRows:
    """Picks rows, by mask or by place."""
    places = np.arange(len(rows))[kept]
    frame = rows.frame.iloc[places].reset_index(drop=True)
    return replace(rows, frame=frame, labels=rows.labels[places], times=rows.times[places])


def _with_facts(prepared: Prepared, frame: pd.DataFrame) -> pd.DataFrame:
    """Adds the profile of each row's user and the facts of its item; null where there are none."""
    dataset, read = prepared.dataset, all_columns(prepared.dataset)
    for entity_id, table, columns in (
        (names.USER_ID, prepared.users, dataset.user_profile),
        (names.ITEM_ID, prepared.items, dataset.item_catalog),
    ):
        facts = table[[entity_id, *(name for name in columns if name in read)]]
        frame = frame.merge(facts, on=entity_id, how="left", validate="many_to_one")
    return frame


def _with_user_item(prepared: Prepared, frame: pd.DataFrame) -> pd.DataFrame:
    """Adds the user-item features."""
    dataset = prepared.dataset
    compared = [name for name in affinity_columns(dataset) if name != names.ITEM_ID]
    item_ids = prepared.items[names.ITEM_ID].to_numpy(np.int64)
    table = {name: _comparable(to_numpy(prepared.items[name], dataset.items[name])) for name in compared}

    def facts(ids: Ints) -> dict[str, Array]:
        at = rows_of(item_ids, ids)  # -1, the row of nulls, for items that the table does not have
        return {names.ITEM_ID: ids, **{name: values[at] for name, values in table.items()}}

    parts = []
    for start in range(0, max(len(frame), 1), CHUNK):
        chunk = frame.iloc[start : start + CHUNK]
        recents = {
            name: facts(np.asarray(to_numpy(chunk[name], dataset.user_activity[name]), dtype=np.int64))
            for name in LISTS
        }
        candidates = facts(chunk[names.ITEM_ID].to_numpy(np.int64)[:, None])
        parts.append(user_item_features(dataset, recents, candidates))
    return frame.assign(**{n: np.concatenate([part[n][:, 0] for part in parts]) for n in parts[0]})


def _comparable(values: Array) -> Array:
    """Numbers the values of an item column, (I,) or lists (I,L), so that they match alike in fewer bytes.

    Appends a row of nulls. Lists of few distinct values become bits, (I+1,).
    """
    codes, distinct = pd.factorize(values.ravel())
    null = np.iinfo(np.int32).min
    is_known = codes >= 0
    if values.dtype.kind == "i":
        is_known &= values.ravel() != names.NULL_INT
    numbered = np.where(is_known, codes, null).astype(np.int32).reshape(values.shape)
    numbered = np.concatenate([numbered, np.full((1, *values.shape[1:]), null, dtype=np.int32)])
    return as_bits(numbered, numbered != null) if values.ndim > 1 and len(distinct) <= BITS else numbered


def _ordered(dataset: Dataset, frame: pd.DataFrame) -> pd.DataFrame:
    """Puts the columns in the order of `all_columns`; one that is not there is null throughout."""
    columns = all_columns(dataset)
    absent = {name: _nulls(column, len(frame)) for name, column in columns.items() if name not in frame}
    return frame.assign(**absent)[list(columns)]


def _label(values: pd.Series) -> Floats:
    label: Floats = values.to_numpy(np.float32, na_value=np.nan)
    return label


def _nulls(column: Column, rows: int) -> pd.Series:
    if column.role is Role.NUMERIC:
        return pd.Series(np.full(rows, np.nan, dtype=np.float32))
    return pd.Series(pd.array([pd.NA] * rows, dtype="Int64"))
