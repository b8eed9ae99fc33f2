"""Turns interactions into activity features of users and items, as of snapshots. Nothing else makes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from contract import names
from contract.arrays import Bools, Doubles, Ints
from contract.dataset import Dataset

if TYPE_CHECKING:
    from training.data.prepared import Prepared

SMOOTHING = 10.0
"""Rows that the overall rate counts for in a user's or an item's own rate."""


def snapshot_instants(dataset: Dataset, first: datetime, last: datetime) -> pd.DatetimeIndex:
    """Lists the snapshots that events between `first` and `last` read: the last one at or before each."""
    step = pd.Timedelta(hours=dataset.activity.snapshot_hours)
    origin = pd.Timestamp(0, tz="UTC") + pd.Timedelta(hours=dataset.activity.snapshot_offset_hours)

    def floor(instant: datetime) -> pd.Timestamp:
        return origin + (pd.Timestamp(instant).tz_convert("UTC") - origin) // step * step

    return pd.date_range(floor(first), floor(last), freq=step)


def busy_instants(prepared: Prepared, until: datetime) -> pd.DatetimeIndex:
    """Lists the snapshots up to an instant before which something happened since the one before: at no other
    does anybody's activity change, however far apart the interactions lie. At least one, of nobody's."""
    times = event_times(prepared.dataset, prepared.interactions)
    instants = snapshot_instants(prepared.dataset, min(times.min(), pd.Timestamp(until)), until)
    after = np.searchsorted(instants.asi8, times.astype("int64").to_numpy(), side="right")
    busy = np.unique(after[after < len(instants)])
    return instants[busy] if len(busy) else instants[:1]


def event_times(dataset: Dataset, interactions: pd.DataFrame) -> pd.Series:
    """Gives every interaction an instant; a history row's is just before `history_until`, or all others."""
    times = pd.to_datetime(interactions[dataset.timestamp], utc=True)
    earliest = dataset.history_until or times.min()
    if earliest is pd.NaT:
        earliest = dataset.clock()
    return times.fillna(pd.Timestamp(earliest).tz_convert("UTC") - timedelta(microseconds=1))


def user_activity(prepared: Prepared, instants: pd.DatetimeIndex) -> pd.DataFrame:
    """Computes the users' activity: one row per user and snapshot at which the user has something new.

    Columns are `user_id`, `event_timestamp` (the snapshot) and those of `dataset.user_activity`. A snapshot
    counts the interactions strictly before it. Lists are newest first and not padded.
    """
    log = EntityLog.of(prepared, names.USER)
    return _in_order(log, (log.user_columns(log.changed(t, instants), t) for t in instants))


def item_activity(prepared: Prepared, instants: pd.DatetimeIndex) -> pd.DataFrame:
    """Computes the items' activity: one row per item and snapshot at which the item has something new.

    Columns are `item_id`, `event_timestamp` (the snapshot) and those of `dataset.item_activity`.
    """
    log = EntityLog.of(prepared, names.ITEM)
    return _in_order(log, (log.item_columns(log.changed(t, instants), t) for t in instants))


def countable_labels(prepared: Prepared) -> dict[str, Doubles]:
    """Gives every label, per interaction, as 0, 1, or NaN where a rate must not count it.

    That is where it is null, and in a history where it says nothing: a history may reach further back for
    its positives than for the rest, so only its last `recent_items` rows count, and none where no 0 is
    among them.
    """
    dataset, interactions = prepared.dataset, prepared.interactions
    is_timed = interactions[dataset.timestamp].notna().to_numpy()
    from_end = interactions.groupby([names.USER_ID, is_timed]).cumcount(ascending=False).to_numpy()
    is_late = ~is_timed & (from_end < dataset.activity.recent_items)
    labels = {}
    for name in dataset.labels:
        values: Doubles = interactions[name].to_numpy(np.float64, na_value=np.nan)
        tells = bool((values[is_late] == 0).any())
        labels[name] = np.where(is_timed | (is_late & tells), values, np.nan)
    return labels


@dataclass(frozen=True, eq=False)
class Spans:
    """Entities, and the span of their rows in an `EntityLog` that is known: [start, stop). All (E,)."""

    ids: Ints
    start: Ints
    stop: Ints


@dataclass(frozen=True, eq=False)
class EntityLog:
    """Interactions sorted by entity, then by time; ties keep file order."""

    dataset: Dataset
    entity: str
    order: Ints
    """The place of each row among the prepared interactions."""
    items: Ints
    times: Ints
    is_positive: Bools
    labels: dict[str, Doubles]
    before: dict[str, tuple[Ints, Ints]]
    """Of each label, how many 1 and how many known values lie before each row; one longer than the rows."""
    ids: Ints
    starts: Ints
    group: Ints

    @classmethod
    def of(cls, prepared: Prepared, entity: str) -> EntityLog:
        """Sorts the interactions by `entity`, user or item."""
        rows = prepared.interactions
        times = event_times(prepared.dataset, rows).astype("int64").to_numpy()
        entities = rows[id_of(entity)].to_numpy(np.int64)
        order = np.lexsort((times, entities))
        ids, starts, group = np.unique(entities[order], return_index=True, return_inverse=True)
        labels = {name: values[order] for name, values in countable_labels(prepared).items()}
        target = rows[prepared.dataset.target].to_numpy(np.float64, na_value=np.nan)
        return cls(
            dataset=prepared.dataset,
            entity=entity,
            order=order.astype(np.int64),
            items=rows[names.ITEM_ID].to_numpy(np.int64)[order],
            times=times[order],
            is_positive=(target == 1)[order],
            labels=labels,
            before={name: (_before(v == 1), _before(~np.isnan(v))) for name, v in labels.items()},
            ids=ids,
            starts=starts.astype(np.int64),
            group=group.astype(np.int64),
        )

    def changed(self, instant: pd.Timestamp, instants: pd.DatetimeIndex) -> Spans:
        """Finds the entities with rows since the snapshot of `instants` before this one."""
        now = self._counts_before(instant)
        earlier = instants[instants < instant]
        before = self._counts_before(earlier[-1]) if len(earlier) else np.zeros_like(now)
        kept = now > before
        return Spans(self.ids[kept], self.starts[kept], self.starts[kept] + now[kept])

    def _counts_before(self, instant: pd.Timestamp) -> Ints:
        return np.bincount(self.group[self.times < instant.value], minlength=len(self.ids)).astype(np.int64)

    def item_columns(self, spans: Spans, instant: pd.Timestamp) -> dict[str, object]:
        """Counts each entity's rows and smooths its rate of every label towards the overall rate then."""
        columns: dict[str, object] = {
            id_of(self.entity): spans.ids,
            names.EVENT_TIMESTAMP: np.full(len(spans.ids), instant.tz_convert(None).to_datetime64()),
            f"{self.entity}_event_count": (spans.stop - spans.start).astype(np.float32),
        }
        is_before = self.times < instant.value
        for label, values in self.labels.items():
            seen = is_before & ~np.isnan(values)
            overall = float(values[seen].mean()) if seen.any() else np.nan
            ones, counts = (_within(before, spans) for before in self.before[label])
            rate = (ones + SMOOTHING * overall) / (counts + SMOOTHING)
            columns[names.rate_of(self.entity, label)] = rate.astype(np.float32)
        return columns

    def user_columns(self, spans: Spans, instant: pd.Timestamp) -> dict[str, object]:
        """As `item_columns`, and the newest items of each user, all and the positive ones."""
        size = self.dataset.user_activity_stored[names.USER_RECENT_ITEM_IDS].max_length
        before = _before(self.is_positive)
        positives = self.items[self.is_positive]
        return {
            **self.item_columns(spans, instant),
            names.USER_RECENT_ITEM_IDS: _newest(self.items, spans.start, spans.stop, size),
            names.USER_RECENT_POSITIVE_ITEM_IDS: _newest(
                positives, before[spans.start], before[spans.stop], size
            ),
        }


def id_of(entity: str) -> str:
    """Names the id column of an entity."""
    return {names.USER: names.USER_ID, names.ITEM: names.ITEM_ID}[entity]


def _before(is_counted: Bools) -> Ints:
    """How many are counted before each place; one longer than its input."""
    return np.concatenate([[0], np.cumsum(is_counted)]).astype(np.int64)


def _within(before: Ints, spans: Spans) -> Ints:
    counts: Ints = before[spans.stop] - before[spans.start]
    return counts


def _newest(values: Ints, start: Ints, stop: Ints, size: int) -> pd.Series:
    """Takes the last `size` values of each span [start, stop), newest first."""
    lists = [values[max(a, b - size) : b][::-1] for a, b in zip(start.tolist(), stop.tolist(), strict=True)]
    return pd.Series(lists, dtype=object)


def _in_order(log: EntityLog, parts: Iterable[dict[str, object]]) -> pd.DataFrame:
    user, item = log.dataset.user_activity, log.dataset.item_activity
    columns = user if log.entity == names.USER else item
    frame = pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)
    frame[names.EVENT_TIMESTAMP] = pd.to_datetime(frame[names.EVENT_TIMESTAMP], utc=True)
    return frame[[id_of(log.entity), names.EVENT_TIMESTAMP, *columns]]
