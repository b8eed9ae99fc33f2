"""Turns interactions into activity features of users and items, as of snapshots. Nothing else makes them."""

from __future__ import annotations

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


def user_activity(prepared: Prepared, instants: pd.DatetimeIndex, *, is_latest: bool = False) -> pd.DataFrame:
    """Computes the users' activity: one row per user and snapshot at which the user has something new.

    Columns are `user_id`, `event_timestamp` (the snapshot) and those of `dataset.user_activity`. A snapshot
    counts the interactions strictly before it. Lists are newest first and not padded. With `is_latest`, only
    each user's last row is made.
    """
    log = EntityLog.of(prepared, names.USER)
    return log.frame(log.user_columns(log.changes(instants, is_latest=is_latest)))


def item_activity(prepared: Prepared, instants: pd.DatetimeIndex, *, is_latest: bool = False) -> pd.DataFrame:
    """Computes the items' activity: one row per item and snapshot at which the item has something new.

    Columns are `item_id`, `event_timestamp` (the snapshot) and those of `dataset.item_activity`. With
    `is_latest`, only each item's last row is made.
    """
    log = EntityLog.of(prepared, names.ITEM)
    return log.frame(log.item_columns(log.changes(instants, is_latest=is_latest)))


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
    """Entities, the span of their rows in an `EntityLog` that is known, [start, stop), and when. All (E,)."""

    ids: Ints
    start: Ints
    stop: Ints
    at: Ints
    """The instant, ns."""


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
    before: dict[str, Tally]
    """Of each label, what lies before each row."""
    clock: Ints
    """The same rows' times, ascending."""
    overall: dict[str, Tally]
    """Of each label, what lies before each place of `clock`."""
    ids: Ints
    starts: Ints
    group: Ints

    @classmethod
    def of(cls, prepared: Prepared, entity: str) -> EntityLog:
        """Sorts the interactions by `entity`, user or item."""
        rows = prepared.interactions
        times = event_times(prepared.dataset, rows).astype("int64").to_numpy()
        entities = rows[id_of(entity)].to_numpy(np.int64)
        order, by_time = np.lexsort((times, entities)), np.argsort(times, kind="stable")
        ids, starts, group = np.unique(entities[order], return_index=True, return_inverse=True)
        labels = countable_labels(prepared)
        target = rows[prepared.dataset.target].to_numpy(np.float64, na_value=np.nan)
        return cls(
            dataset=prepared.dataset,
            entity=entity,
            order=order.astype(np.int64),
            items=rows[names.ITEM_ID].to_numpy(np.int64)[order],
            times=times[order],
            is_positive=(target == 1)[order],
            labels={name: values[order] for name, values in labels.items()},
            before={name: Tally.of(values[order]) for name, values in labels.items()},
            clock=times[by_time],
            overall={name: Tally.of(values[by_time]) for name, values in labels.items()},
            ids=ids,
            starts=starts.astype(np.int64),
            group=group.astype(np.int64),
        )

    def changes(self, instants: pd.DatetimeIndex, *, is_latest: bool = False) -> Spans:
        """Finds, by instant and then by entity, who has rows since the one of `instants` before.

        With `is_latest`, of each entity the last time alone.
        """
        known_from = np.searchsorted(instants.asi8, self.times, side="right")
        rows = np.flatnonzero(known_from < len(instants))
        group, known_from = self.group[rows], known_from[rows]
        is_last = np.diff(group, append=-1) != 0
        if not is_latest:
            is_last |= np.diff(known_from, append=-1) != 0
        rows, group, known_from = rows[is_last], group[is_last], known_from[is_last]
        order = np.lexsort((group, known_from))
        stop, of = rows[order] + 1, group[order]
        return Spans(self.ids[of], self.starts[of], stop, instants.asi8[known_from[order]])

    def frame(self, columns: dict[str, object]) -> pd.DataFrame:
        """Puts columns of one row per span in their order."""
        known = self.dataset.user_activity if self.entity == names.USER else self.dataset.item_activity
        return pd.DataFrame(columns)[[id_of(self.entity), names.EVENT_TIMESTAMP, *known]]

    def item_columns(self, spans: Spans) -> dict[str, object]:
        """Counts each entity's rows and smooths its rate of every label towards the overall rate then."""
        columns: dict[str, object] = {
            id_of(self.entity): spans.ids,
            names.EVENT_TIMESTAMP: pd.DatetimeIndex(spans.at.astype("datetime64[ns]"), tz="UTC"),
            f"{self.entity}_event_count": (spans.stop - spans.start).astype(np.float32),
        }
        known = np.searchsorted(self.clock, spans.at)
        for label in self.labels:
            ones, counts = self.overall[label].within(np.zeros_like(known), known)
            overall = np.where(counts > 0, ones / np.maximum(counts, 1), np.nan)
            ones, counts = self.before[label].within(spans.start, spans.stop)
            rate = (ones + SMOOTHING * overall) / (counts + SMOOTHING)
            columns[names.rate_of(self.entity, label)] = rate.astype(np.float32)
        return columns

    def user_columns(self, spans: Spans) -> dict[str, object]:
        """As `item_columns`, and the newest items of each user, all and the positive ones."""
        size = self.dataset.user_activity_stored[names.USER_RECENT_ITEM_IDS].max_length
        before = _before(self.is_positive)
        positives = self.items[self.is_positive]
        return {
            **self.item_columns(spans),
            names.USER_RECENT_ITEM_IDS: _newest(self.items, spans.start, spans.stop, size),
            names.USER_RECENT_POSITIVE_ITEM_IDS: _newest(
                positives, before[spans.start], before[spans.stop], size
            ),
        }


@dataclass(frozen=True, eq=False)
class Tally:
    """How many 1 and how many known values of a label lie before each place; one longer than its rows."""

    ones: Ints
    known: Ints

    @classmethod
    def of(cls, values: Doubles) -> Tally:
        """Counts 0, 1 and NaN, in the order given."""
        return cls(_before(values == 1), _before(~np.isnan(values)))

    def within(self, start: Ints, stop: Ints) -> tuple[Ints, Ints]:
        """Gives how many 1 and how many known values each span [start, stop) holds."""
        return self.ones[stop] - self.ones[start], self.known[stop] - self.known[start]


def id_of(entity: str) -> str:
    """Names the id column of an entity."""
    return {names.USER: names.USER_ID, names.ITEM: names.ITEM_ID}[entity]


def _before(is_counted: Bools) -> Ints:
    """How many are counted before each place; one longer than its input."""
    return np.concatenate([[0], np.cumsum(is_counted)]).astype(np.int64)


def _newest(values: Ints, start: Ints, stop: Ints, size: int) -> pd.Series:
    """Takes the last `size` values of each span [start, stop), newest first."""
    lists = [values[max(a, b - size) : b][::-1] for a, b in zip(start.tolist(), stop.tolist(), strict=True)]
    return pd.Series(lists, dtype=object)
