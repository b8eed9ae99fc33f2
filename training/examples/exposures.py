"""Rows that the ranker learns from: an exposure, everything known just before it, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pandas as pd

from contract import names
from contract.affinity import LISTS
from contract.arrays import Array, Floats, Ints
from contract.columns import Column, Role
from contract.dataset import Dataset
from contract.encoders import Encoders
from training.data.prepared import Prepared
from training.data.raw import all_columns, raw_arrays
from training.examples.compared import CHUNK, ComparedItems
from training.features.activity import EntityLog, ListSpans, Spans, event_times


@dataclass(frozen=True, eq=False)
class RankingRows:
    """Exposures of items to users, one per row.

    `frame` holds every raw column that a model may read but the user's lists, which `lists` has: a list for
    each row would be an object for each. `labels` (rows, T) follow `dataset.labels`: 0, 1, or
    NaN where unknown. `times` (rows,) are the exposures' instants, ns.
    """

    frame: pd.DataFrame
    lists: Mapping[str, ListSpans]
    labels: Floats
    times: Ints

    def __len__(self) -> int:
        return len(self.frame)

    def encoded(self, encoders: Encoders, dataset: Dataset) -> dict[str, Array]:
        """Encodes every column, some rows at a time: (rows,), lists (rows, S). Codes come as int32."""
        parts = []
        for at in range(0, max(len(self), 1), CHUNK):
            coded = encoders.encode_all(self.raw(dataset, slice(at, at + CHUNK)))
            parts.append({n: v.astype(np.int32) if v.dtype.kind == "i" else v for n, v in coded.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def raw(self, dataset: Dataset, rows: slice = slice(None)) -> dict[str, Array]:
        """Gives every raw column of some rows: (rows,), lists (rows, S) padded with null."""
        columns = all_columns(dataset)
        raw = raw_arrays(self.frame.iloc[rows], columns)
        raw.update({name: lists.take(rows).padded() for name, lists in self.lists.items()})
        return {name: raw[name] for name in columns}


@dataclass(frozen=True, eq=False)
class RankingTable:
    """All that ranking rows are made of: the prepared tables, and what each user and item did, in order."""

    prepared: Prepared
    times: pd.Series
    users: EntityLog
    items: EntityLog
    compared: ComparedItems

    @classmethod
    def of(cls, prepared: Prepared) -> RankingTable:
        """Sorts what happened."""
        times = event_times(prepared.dataset, prepared.interactions)
        return cls(
            prepared=prepared,
            times=times,
            users=EntityLog.of(prepared, names.USER),
            items=EntityLog.of(prepared, names.ITEM),
            compared=ComparedItems.of(prepared),
        )

    def exposures(
        self, start: datetime | None, until: datetime, as_of: datetime | None = None
    ) -> RankingRows:
        """Collects the timed exposures in [start, until), with features as of just before each.

        With `as_of`, nothing since that instant is known: a test whose features are not updated.
        """
        dataset = self.prepared.dataset
        mask = self.prepared.interactions[dataset.timestamp].notna() & (self.times < pd.Timestamp(until))
        if start is not None:
            mask &= self.times >= pd.Timestamp(start)
        rows = self.prepared.interactions[mask].reset_index(drop=True)
        at = self.times[mask].reset_index(drop=True)
        clock = at if as_of is None else at.clip(upper=pd.Timestamp(as_of).tz_convert("UTC"))
        frame, lists = self._known_at(rows[[names.USER_ID, names.ITEM_ID]], clock)
        return RankingRows(
            frame=_ordered(dataset, frame.assign(**{name: rows[name] for name in dataset.context})),
            lists=lists,
            labels=np.stack([_label(rows[name]) for name in dataset.labels], axis=1),
            times=at.astype("int64").to_numpy(),
        )

    def pairs(self, user_ids: Ints, item_ids: Ints, as_of: datetime) -> RankingRows:
        """Makes a row of each user and item (rows,) as serving does at `as_of`: context and labels null."""
        dataset = self.prepared.dataset
        pairs = pd.DataFrame({names.USER_ID: user_ids, names.ITEM_ID: item_ids})
        clock = pd.Series(pd.Timestamp(as_of).tz_convert("UTC"), index=pairs.index)
        frame, lists = self._known_at(pairs, clock)
        return RankingRows(
            frame=_ordered(dataset, frame),
            lists=lists,
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
        spans = Spans(log.ids[users], log.starts[users], at)
        lists = log.lists(spans, dataset.user_activity)
        frame = _with_facts(
            prepared, pd.DataFrame({names.USER_ID: log.ids[users], names.ITEM_ID: log.items[at]})
        )
        known = log.numbers(spans, dataset.user_activity)
        frame = frame.assign(**known, **self.compared.matches(log.items[at], lists))
        return RankingRows(_ordered(dataset, frame), lists, labels[at], log.times[at])

    def _known_at(self, pairs: pd.DataFrame, clock: pd.Series) -> tuple[pd.DataFrame, dict[str, ListSpans]]:
        """Adds what is known of each user and item at each row's instant, and of the two together."""
        dataset, frame = self.prepared.dataset, _with_facts(self.prepared, pairs)
        instants = clock.astype("int64").to_numpy()
        lists: dict[str, ListSpans] = {}
        for log, entity_id, columns in (
            (self.users, names.USER_ID, dataset.user_activity),
            (self.items, names.ITEM_ID, dataset.item_activity),
        ):
            spans = log.known_at(pairs[entity_id].to_numpy(np.int64), instants)
            frame = frame.assign(**log.numbers(spans, columns))
            lists |= log.lists(spans, columns)
        return frame.assign(**self.compared.matches(pairs[names.ITEM_ID].to_numpy(np.int64), lists)), lists


def concatenate(parts: list[RankingRows]) -> RankingRows:
    """Joins rows, in order."""
    return RankingRows(
        frame=pd.concat([part.frame for part in parts], ignore_index=True),
        lists={
            n: lists.joined(*(part.lists[n] for part in parts[1:])) for n, lists in parts[0].lists.items()
        },
        labels=np.concatenate([part.labels for part in parts]),
        times=np.concatenate([part.times for part in parts]),
    )


def take(rows: RankingRows, selection: npt.NDArray[np.bool_] | Ints) -> RankingRows:
    """Picks rows, by mask or by place."""
    places = np.arange(len(rows))[selection]
    frame = rows.frame.iloc[places].reset_index(drop=True)
    lists = {name: one.take(places) for name, one in rows.lists.items()}
    return replace(rows, frame=frame, lists=lists, labels=rows.labels[places], times=rows.times[places])


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


def _ordered(dataset: Dataset, frame: pd.DataFrame) -> pd.DataFrame:
    """Puts the columns in the order of `all_columns`, without the lists; one that is not there is null
    throughout."""
    columns = {name: column for name, column in all_columns(dataset).items() if name not in LISTS}
    absent = {name: _nulls(column, len(frame)) for name, column in columns.items() if name not in frame}
    return frame.assign(**absent)[list(columns)]


def _label(values: pd.Series) -> Floats:
    label: Floats = values.to_numpy(np.float32, na_value=np.nan)
    return label


def _nulls(column: Column, rows: int) -> pd.Series:
    if column.role is Role.NUMERIC:
        return pd.Series(np.full(rows, np.nan, dtype=np.float32))
    return pd.Series(pd.arrays.IntegerArray(np.ones(rows, np.int64), np.ones(rows, np.bool_)))
