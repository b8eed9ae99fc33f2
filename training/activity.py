"""Turns interactions into activity features of users and items, as of snapshots. Nothing else makes them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from feature_repo import names
from feature_repo.dataset import Dataset

if TYPE_CHECKING:
    from training.prepared import Prepared

SMOOTHING = 10.0
"""Rows that the overall rate counts for in a user's or an item's own rate."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def snapshot_instants(dataset: Dataset, first: datetime, last: datetime) -> pd.DatetimeIndex:
    """Lists the snapshots that events between `first` and `last` read: the last one at or before each."""
    step = pd.Timedelta(hours=dataset.activity.snapshot_hours)
    origin = pd.Timestamp(0, tz="UTC") + pd.Timedelta(hours=dataset.activity.snapshot_offset_hours)

    def floor(instant: datetime) -> pd.Timestamp:
        return origin + (pd.Timestamp(instant).tz_convert("UTC") - origin) // step * step

    return pd.date_range(floor(first), floor(last), freq=step)


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
    dataset = prepared.dataset
    log = _Log.of(prepared, names.USER_ID)
    items = log.rows[names.ITEM_ID].to_numpy(np.int64)
    positive = log.label(dataset.target) == 1
    positives = np.concatenate([[0], np.cumsum(positive)])
    positive_items = items[positive]
    size = dataset.activity.recent_items
    parts = []
    for instant in instants:
        changed = log.changed(instant, instants)
        part = _counts_and_rates(log, changed, instant, dataset, names.USER)
        part[names.USER_RECENT_ITEM_IDS] = _newest(items, changed.start, changed.stop, size)
        part[names.USER_RECENT_POSITIVE_ITEM_IDS] = _newest(
            positive_items, positives[changed.start], positives[changed.stop], size
        )
        parts.append(part)
    return _in_order(parts, names.USER_ID, dataset.user_activity)


def item_activity(prepared: Prepared, instants: pd.DatetimeIndex) -> pd.DataFrame:
    """Computes the items' activity: one row per item and snapshot at which the item has something new.

    Columns are `item_id`, `event_timestamp` (the snapshot) and those of `dataset.item_activity`.
    """
    log = _Log.of(prepared, names.ITEM_ID)
    parts = [
        _counts_and_rates(log, log.changed(instant, instants), instant, prepared.dataset, names.ITEM)
        for instant in instants
    ]
    return _in_order(parts, names.ITEM_ID, prepared.dataset.item_activity)


@dataclass(frozen=True)
class _Spans:
    """Entities with something new at a snapshot, and the span of their rows until then: [start, stop)."""

    ids: Ints
    start: Ints
    stop: Ints


@dataclass(frozen=True)
class _Log:
    """Interactions sorted by entity, then by time; ties keep file order."""

    rows: pd.DataFrame
    times: Ints
    ids: Ints
    starts: Ints
    group: Ints

    @classmethod
    def of(cls, prepared: Prepared, entity_id: str) -> _Log:
        interactions = prepared.interactions
        times = event_times(prepared.dataset, interactions).astype("int64").to_numpy()
        order = np.lexsort((times, interactions[entity_id].to_numpy(np.int64)))
        rows = interactions.iloc[order]
        ids, starts, group = np.unique(
            rows[entity_id].to_numpy(np.int64), return_index=True, return_inverse=True
        )
        return cls(rows, times[order], ids, starts.astype(np.int64), group.astype(np.int64))

    def label(self, name: str) -> Floats:
        """A label as 0, 1 or NaN."""
        column: Floats = self.rows[name].to_numpy(np.float64, na_value=np.nan)
        return column

    def counts_before(self, instant: pd.Timestamp) -> Ints:
        """Counts the rows of every entity strictly before an instant."""
        return np.bincount(self.group[self.times < instant.value], minlength=len(self.ids)).astype(np.int64)

    def changed(self, instant: pd.Timestamp, instants: pd.DatetimeIndex) -> _Spans:
        """Finds the entities with rows since the previous snapshot of `instants`."""
        now = self.counts_before(instant)
        earlier = instants[instants < instant]
        before = self.counts_before(earlier[-1]) if len(earlier) else np.zeros_like(now)
        kept = now > before
        return _Spans(self.ids[kept], self.starts[kept], self.starts[kept] + now[kept])


def _counts_and_rates(
    log: _Log, spans: _Spans, instant: pd.Timestamp, dataset: Dataset, entity: str
) -> dict[str, object]:
    """Counts each entity's rows and smooths its rate of every label towards the overall rate at that instant.

    A history's labels may be known for its positives alone, so rates count timed rows only.
    """
    part: dict[str, object] = {
        names.USER_ID if entity == names.USER else names.ITEM_ID: spans.ids,
        names.EVENT_TIMESTAMP: np.full(len(spans.ids), instant.tz_convert(None).to_datetime64()),
        names.USER_EVENT_COUNT if entity == names.USER else names.ITEM_EVENT_COUNT: spans.stop - spans.start,
    }
    is_timed = log.rows[dataset.timestamp].notna().to_numpy()
    is_before = log.times < instant.value
    for label in dataset.labels:
        values = np.where(is_timed, log.label(label), np.nan)
        known = ~np.isnan(values)
        ones = np.concatenate([[0], np.cumsum(values == 1)])
        counts = np.concatenate([[0], np.cumsum(known)])
        seen = known & is_before
        overall = float(values[seen].mean()) if seen.any() else np.nan
        own_ones, own_counts = ones[spans.stop] - ones[spans.start], counts[spans.stop] - counts[spans.start]
        part[names.rate_of(entity, label)] = (own_ones + SMOOTHING * overall) / (own_counts + SMOOTHING)
    return part


def _newest(values: Ints, start: Ints, stop: Ints, size: int) -> list[Ints]:
    """Takes the last `size` values of each span [start, stop), newest first."""
    return [values[max(a, b - size) : b][::-1] for a, b in zip(start.tolist(), stop.tolist(), strict=True)]


def _in_order(parts: list[dict[str, object]], entity_id: str, columns: dict[str, object]) -> pd.DataFrame:
    frame = pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)
    frame[names.EVENT_TIMESTAMP] = pd.to_datetime(frame[names.EVENT_TIMESTAMP], utc=True)
    numeric = [name for name in columns if "recent" not in name]
    frame[numeric] = frame[numeric].astype(np.float32)
    return frame[[entity_id, names.EVENT_TIMESTAMP, *columns]]
