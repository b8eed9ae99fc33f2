"""Turns interactions into activity features of users and items as of any instant, all rows at once.

They are what `contract/activity.py` folds, row by row, of the same interactions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from contract import names
from contract.activity import SMOOTHING
from contract.arrays import Bools, Doubles, Floats, Ints
from contract.columns import Columns
from contract.dataset import Dataset

if TYPE_CHECKING:
    from training.data.prepared import Prepared

HOLDS_AFTER = pd.Timedelta(microseconds=1).value
"""How long after its newest event a row holds, ns: a join at that event's instant does not find it."""


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


def log_order(prepared: Prepared, entities: Ints) -> Ints:
    """Sorts the interactions by their entities (N,), then by time, and gives their places: in this order is
    everything that an entity did, served or trained on.

    Ties of rows with a time of their own are told apart by what they hold, as the stream does; those of
    histories keep file order.
    """
    dataset, rows = prepared.dataset, prepared.interactions
    times = event_times(dataset, rows).astype("int64").to_numpy()
    is_timed = rows[dataset.timestamp].notna().to_numpy()
    items = rows[names.ITEM_ID].to_numpy(np.int64)
    is_positive = (rows[dataset.target] == 1).to_numpy(np.bool_, na_value=False)
    order = np.lexsort((is_positive & is_timed, items * is_timed, is_timed, times, entities))
    return order.astype(np.int64)


def overall_rates(
    prepared: Prepared, times: pd.Series, labels: dict[str, Doubles]
) -> dict[str, float | None]:
    """Gives the rate of every label in the train part, towards which rates of few rows are smoothed; of all
    rows where the train part tells nothing, and None where they neither. Takes the instants and countable
    labels of every interaction."""
    is_train = (times < pd.Timestamp(prepared.train_until)).to_numpy()
    rates: dict[str, float | None] = {}
    for name, values in labels.items():
        is_known = ~np.isnan(values)
        is_counted = is_train & is_known if (is_train & is_known).any() else is_known
        rates[name] = float((values[is_counted] == 1).mean()) if is_counted.any() else None
    return rates


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
    """Entities, and the span of their rows in an `EntityLog` that is known, [start, stop). All (E,)."""

    ids: Ints
    start: Ints
    stop: Ints


@dataclass(frozen=True, eq=False)
class ListSpans:
    """A list for each row: the last `size` of a span [start, stop) of `values`, newest first."""

    values: Ints
    start: Ints
    stop: Ints
    size: int

    def take(self, rows: slice | Ints) -> ListSpans:
        """Picks rows, by a slice or by place."""
        return replace(self, start=self.start[rows], stop=self.stop[rows])

    def joined(self, *more: ListSpans) -> ListSpans:
        """Adds the rows of others, whose `values` are these."""
        parts = (self, *more)
        assert all(part.values is self.values and part.size == self.size for part in parts), "of one log"
        start, stop = (np.concatenate([getattr(part, end) for part in parts]) for end in ("start", "stop"))
        return replace(self, start=start, stop=stop)

    def padded(self, null: int = names.NULL_INT) -> Ints:
        """Copies the lists, (rows, size); of many rows take a block at a time."""
        at = self.stop[:, None] - 1 - np.arange(self.size)
        if not len(self.values):
            return np.full(at.shape, null, dtype=np.int64)
        return np.where(at >= self.start[:, None], self.values[np.maximum(at, 0)], null)

    def series(self) -> pd.Series:
        """Gives the lists as arrays of their own lengths, views that copy nothing."""
        first = np.maximum(self.start, self.stop - self.size)
        lists = [self.values[a:b][::-1] for a, b in zip(first.tolist(), self.stop.tolist(), strict=True)]
        return pd.Series(lists, dtype=object)


@dataclass(frozen=True, eq=False)
class EntityLog:
    """Interactions in the order of `log_order`."""

    dataset: Dataset
    entity: str
    order: Ints
    """The place of each row among the prepared interactions."""
    items: Ints
    positive_items: Ints
    """The items of its positives."""
    times: Ints
    is_positive: Bools
    is_timed: Bools
    """Whether the row has a time of its own."""
    labels: dict[str, Doubles]
    before: dict[str, Tally]
    """Of each label, what lies before each row."""
    positives_before: Ints
    """How many positives lie before each row; one longer than the rows."""
    rates: dict[str, float | None]
    """The overall rate of each label."""
    ids: Ints
    starts: Ints
    group: Ints
    clock: Ints
    """Every instant at which something happened, ascending."""
    places: Ints
    """Each row's entity and instant as one number, ascending."""

    @classmethod
    def of(cls, prepared: Prepared, entity: str) -> EntityLog:
        """Sorts the interactions by `entity`, user or item."""
        rows = prepared.interactions
        instants = event_times(prepared.dataset, rows)
        times = instants.astype("int64").to_numpy()
        entities = rows[id_of(entity)].to_numpy(np.int64)
        items = rows[names.ITEM_ID].to_numpy(np.int64)
        is_timed = rows[prepared.dataset.timestamp].notna().to_numpy()
        is_positive = rows[prepared.dataset.target].to_numpy(np.float64, na_value=np.nan) == 1
        order = log_order(prepared, entities)
        ids, starts, group = np.unique(entities[order], return_index=True, return_inverse=True)
        labels = countable_labels(prepared)
        clock = np.unique(times)
        return cls(
            dataset=prepared.dataset,
            entity=entity,
            order=order,
            items=items[order],
            positive_items=items[order[is_positive[order]]],
            times=times[order],
            is_positive=is_positive[order],
            is_timed=is_timed[order],
            labels={name: values[order] for name, values in labels.items()},
            before={name: Tally.of(values[order]) for name, values in labels.items()},
            positives_before=_before(is_positive[order]),
            rates=overall_rates(prepared, instants, labels),
            ids=ids,
            starts=starts.astype(np.int64),
            group=group.astype(np.int64),
            clock=clock,
            places=group * (len(clock) + 1) + np.searchsorted(clock, times[order]),
        )

    def changes(self, instants: pd.DatetimeIndex) -> Spans:
        """Finds, by instant and then by entity, who has rows since the one of `instants` before."""
        known_from = np.searchsorted(instants.asi8, self.times, side="right")
        rows = np.flatnonzero(known_from < len(instants))
        group, known_from = self.group[rows], known_from[rows]
        is_last = (np.diff(group, append=-1) != 0) | (np.diff(known_from, append=-1) != 0)
        rows, group, known_from = rows[is_last], group[is_last], known_from[is_last]
        order = np.lexsort((group, known_from))
        of = group[order]
        return Spans(self.ids[of], self.starts[of], rows[order] + 1)

    def known_at(self, ids: Ints, instants: Ints) -> Spans:
        """Finds the rows of entities (E,) strictly before instants (E,), ns; none of an unknown entity."""
        of = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        at = of * (len(self.clock) + 1) + np.searchsorted(self.clock, instants)
        stop = np.searchsorted(self.places, at)
        is_known = self.ids[of] == ids
        return Spans(ids, np.where(is_known, self.starts[of], 0), np.where(is_known, stop, 0))

    def activity(self, instants: pd.DatetimeIndex) -> pd.DataFrame:
        """Computes one row per entity and instant at which the entity has something new, as the store has it.

        Columns are the id, `event_timestamp`, from when the row holds, and those of the dataset's
        `user_activity_stored` or `item_activity`. A row counts the interactions strictly before its instant.
        Lists are newest first and not padded.
        """
        spans = self.changes(instants)
        is_user = self.entity == names.USER
        stored = self.dataset.user_activity_stored if is_user else self.dataset.item_activity
        since = (self.times[spans.stop - 1] + HOLDS_AFTER).astype("datetime64[ns]")
        return pd.DataFrame(
            {
                id_of(self.entity): spans.ids,
                names.EVENT_TIMESTAMP: pd.DatetimeIndex(since, tz="UTC"),
                **self.numbers(spans, stored),
                **{name: lists.series() for name, lists in self.lists(spans, stored).items()},
            }
        )[[id_of(self.entity), names.EVENT_TIMESTAMP, *stored]]

    def numbers(self, spans: Spans, columns: Columns) -> dict[str, Floats]:
        """Counts each span's rows, and smooths its rate of every label towards the overall one; of an empty
        span all is null."""
        counts, is_known = spans.stop - spans.start, spans.stop > spans.start
        made = {f"{self.entity}_event_count": _or_null(counts, is_known)}
        for label, before in self.before.items():
            ones, known = before.within(spans.start, spans.stop)
            overall = self.rates[label]
            rate = (ones + SMOOTHING * (np.nan if overall is None else overall)) / (known + SMOOTHING)
            made[names.rate_of(self.entity, label)] = _or_null(rate, is_known)
        return {name: made[name] for name in columns if name in made}

    def lists(self, spans: Spans, columns: Columns) -> dict[str, ListSpans]:
        """Takes the newest items of each span, as many as `columns` say; an item's log has no such lists."""
        if self.entity != names.USER:
            return {}
        size, before = columns[names.USER_RECENT_ITEM_IDS].max_length, self.positives_before
        return {
            names.USER_RECENT_ITEM_IDS: ListSpans(self.items, spans.start, spans.stop, size),
            names.USER_RECENT_POSITIVE_ITEM_IDS: ListSpans(
                self.positive_items, before[spans.start], before[spans.stop], size
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


def _or_null(values: npt.NDArray[Any], is_known: Bools) -> Floats:
    return np.where(is_known, values, np.nan).astype(np.float32)
