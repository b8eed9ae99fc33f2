"""Activity of a user or an item: what is counted of events, and the features that are made of it.

This is their one definition. A state is the fold of an entity's events. Events that arrive in any order make
the same state; one that is delivered again changes nothing. The stream folds one event at a time into the
state that lies in Redis, materialising folds the log, and training's columns are those of the fold before
each row.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np

from contract import names
from contract.arrays import Ints
from contract.columns import Columns
from contract.dataset import Dataset
from contract.feast import encode_time, encode_value, event_time_field, feature_field, state_field

SMOOTHING = 10.0
"""Rows that the overall rate counts for in a user's or an item's own rate."""
NEVER = -(2**63)
"""The newest instant of a state without events."""
_VERSION = 1
_HEAD = struct.Struct("<BQqHH")  # version, events, newest instant, bytes of labels, positions
_TALLY = struct.Struct("<QQ")
_POSITION = struct.Struct("<HQQ")
_ITEMS = struct.Struct("<IBBBq")  # items, widths of the columns, newest instant
POSITIVE, TIMED = 1, 2
"""What is noted of an item: whether the event was positive, and whether it has a time of its own."""

_NO_ROWS: Ints = np.zeros(0, dtype=np.int64)
Position = tuple[int, int]
"""The id of an entry of a stream: milliseconds and a number."""


class ActivityEvent(NamedTuple):
    """What happened once between a user and an item."""

    at_us: int
    """Microseconds of Unix time."""
    item_id: int
    labels: Mapping[str, float | None]
    """0, 1, or None where it is not known or must not count; a label that is missing is not known."""
    is_positive: bool
    """Whether the data set's target is 1."""
    is_timed: bool = True
    """Whether it has a time of its own; a row of a history has not, and comes after those folded earlier."""
    partition: int | None = None
    """Which stream it came by; None for a row of the data set's own log."""
    position: Position = (0, 0)


@dataclass(frozen=True, eq=False)
class NewestItems:
    """The newest items of a user, newest first: of all events as many as are kept, then the others among as
    many positives. Columns (N,)."""

    times: Ints
    """Microseconds of Unix time."""
    items: Ints
    flags: Ints
    """`POSITIVE` and `TIMED`, or none of them."""

    @classmethod
    def none(cls) -> NewestItems:
        """Gives those of a user who did nothing."""
        return cls(_NO_ROWS, _NO_ROWS, _NO_ROWS)

    def with_events(self, events: Sequence[ActivityEvent], limit: int) -> NewestItems:
        """Adds events, where they belong by their time.

        At the same instant, those with a time of their own come after those without and are told apart by
        what they hold, so that their order is that of no arrival; the others come as they are added.
        """
        rows = [(e.at_us, e.item_id, TIMED * e.is_timed | POSITIVE * e.is_positive) for e in reversed(events)]
        added = np.array(rows, dtype=np.int64).reshape(-1, 3).T
        columns = [
            np.concatenate([new, old])
            for new, old in zip(added, (self.times, self.items, self.flags), strict=True)
        ]
        if len(events) > 1 or (len(self.times) and len(events) and events[0].at_us <= self.times[0]):
            times, items, flags = (column[::-1] for column in columns)
            is_timed = flags & TIMED > 0
            order = np.lexsort((flags * is_timed, items * is_timed, is_timed, times))[::-1]
            columns = [times[order], items[order], flags[order]]
        if len(columns[0]) > limit:
            positives = np.flatnonzero(columns[2] & POSITIVE)[:limit]
            places = np.concatenate([np.arange(limit), positives[positives >= limit]])
            columns = [column[places] for column in columns]
        return NewestItems(*columns)

    def recent(self, limit: int) -> list[int]:
        """Lists the newest items."""
        recent: list[int] = self.items[:limit].tolist()
        return recent

    def positive(self, limit: int) -> list[int]:
        """Lists the newest items of positives."""
        positive: list[int] = self.items[self.flags & POSITIVE > 0][:limit].tolist()
        return positive

    def encode(self) -> bytes:
        """Packs the items: steps into the past, ids and flags, each in as few bytes as its largest needs."""
        if not len(self.times):
            return b""
        columns = (self.times[:-1] - self.times[1:], self.items, self.flags)
        widths = [_width(column) for column in columns]
        return _ITEMS.pack(len(self.items), *widths, self.times[0]) + b"".join(
            np.ascontiguousarray(column, dtype="<i8").view(np.uint8).reshape(-1, 8)[:, :width].tobytes()
            for column, width in zip(columns, widths, strict=True)
        )

    @classmethod
    def decode(cls, packed: bytes) -> NewestItems:
        """Unpacks `encode`.

        Raises:
            ValueError: it is something else.
        """
        if not packed:
            return cls.none()
        count, *widths, newest = _ITEMS.unpack_from(packed)
        at, columns = _ITEMS.size, []
        for width, rows in zip(widths, (count - 1, count, count), strict=True):
            wide = np.zeros((rows, 8), dtype=np.uint8)
            wide[:, :width] = np.frombuffer(packed, np.uint8, rows * width, at).reshape(rows, width)
            columns.append(wide.view("<i8")[:, 0])
            at += rows * width
        if at != len(packed):
            raise ValueError(f"{len(packed)} bytes, of which {at} are known")
        times = np.full(count, newest)
        times[1:] -= np.cumsum(columns[0])
        return cls(times, columns[1], columns[2])


def _width(column: Ints) -> int:
    """How many of its low bytes tell every number of a column; all where one is negative."""
    if not len(column) or int(column.min()) < 0:
        return 8 if len(column) else 0
    return (int(column.max()).bit_length() + 7) // 8


@dataclass(frozen=True, eq=False)
class ActivityState:
    """What is remembered of an entity's events."""

    count: int = 0
    newest_us: int = NEVER
    tallies: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Of each label, how many events were 1, and of how many it is known."""
    newest: NewestItems = field(default_factory=NewestItems.none)
    positions: Mapping[int, Position] = field(default_factory=dict)
    """Of each stream, the last entry that was folded: it and what came before are counted."""

    def encode(self) -> bytes:
        """Packs the state."""
        labels = "\0".join(self.tallies).encode()
        return b"".join(
            (
                _HEAD.pack(_VERSION, self.count, self.newest_us, len(labels), len(self.positions)),
                labels,
                *(_TALLY.pack(*tally) for tally in self.tallies.values()),
                *(_POSITION.pack(partition, *at) for partition, at in self.positions.items()),
                self.newest.encode(),
            )
        )

    @classmethod
    def decode(cls, packed: bytes) -> Self:
        """Unpacks `encode`.

        Raises:
            ValueError: it is something else.
        """
        try:
            version, count, newest_us, text, positions = _HEAD.unpack_from(packed)
            if version != _VERSION:
                raise ValueError(f"it is of version {version}; run `make materialize`")
            at = _HEAD.size + text
            labels = packed[_HEAD.size : at].decode().split("\0") if text else []
            tallies = {}
            for name in labels:
                tallies[name] = _TALLY.unpack_from(packed, at)
                at += _TALLY.size
            folded = {}
            for _ in range(positions):
                partition, *position = _POSITION.unpack_from(packed, at)
                folded[partition] = (position[0], position[1])
                at += _POSITION.size
            return cls(count, newest_us, tallies, NewestItems.decode(packed[at:]), folded)
        except (struct.error, ValueError) as error:
            raise ValueError(f"no activity state: {error}") from None


@dataclass(frozen=True)
class ActivityReducer:
    """Folds the events of one entity of a data set, and makes its features."""

    entity: str
    """user or item."""
    labels: tuple[str, ...]
    newest_limit: int
    """How many of the newest items are kept; of an item none."""
    columns: Columns
    """The features, as the store has them."""

    @classmethod
    def of(cls, dataset: Dataset, entity: str) -> Self:
        """Takes an entity, user or item."""
        stored = dataset.view_columns(view_of(entity))
        lists = stored.get(names.USER_RECENT_ITEM_IDS)
        return cls(entity, dataset.labels, lists.max_length if lists else 0, stored)

    def fold(self, state: ActivityState, *events: ActivityEvent) -> ActivityState:
        """Adds events to a state, except those of a stream that it has already.

        The log's own rows come in their order. Those of one stream come in its order too, whenever each of
        them happened: what lies before the last one that was folded is taken for known.
        """
        tallies = {name: state.tallies.get(name, (0, 0)) for name in self.labels}
        positions, added = dict(state.positions), []
        newest_us = state.newest_us
        for event in events:
            if event.partition is not None:
                if positions.get(event.partition, (-1, 0)) >= event.position:
                    continue
                positions[event.partition] = event.position
            added.append(event)
            newest_us = max(newest_us, event.at_us)
            for name in self.labels:
                value = event.labels.get(name)
                if value is not None:
                    ones, known = tallies[name]
                    tallies[name] = ones + (value == 1), known + 1
        return ActivityState(
            count=state.count + len(added),
            newest_us=newest_us,
            tallies=tallies,
            newest=state.newest.with_events(added, self.newest_limit) if self.newest_limit else state.newest,
            positions=positions,
        )

    def features(
        self, state: ActivityState, rates: Mapping[str, float | None]
    ) -> dict[str, float | list[int] | None]:
        """Gives the columns of the entity's view; `rates` are the data set's overall ones, by label, towards
        which few events are smoothed. A rate of which nothing is known is None."""
        made: dict[str, float | list[int] | None] = {f"{self.entity}_event_count": float(state.count)}
        for label in self.labels:
            ones, known = state.tallies.get(label, (0, 0))
            overall = rates.get(label)
            rate = None if overall is None else (ones + SMOOTHING * overall) / (known + SMOOTHING)
            made[names.rate_of(self.entity, label)] = rate
        if self.newest_limit:
            made[names.USER_RECENT_ITEM_IDS] = state.newest.recent(self.newest_limit)
            made[names.USER_RECENT_POSITIVE_ITEM_IDS] = state.newest.positive(self.newest_limit)
        return {name: made[name] for name in self.columns}

    def fields(self, state: ActivityState, rates: Mapping[str, float | None]) -> dict[bytes, bytes]:
        """Gives the fields of the entity's hash in Redis: its view's features and time as Feast writes them,
        and the state itself."""
        view, made = view_of(self.entity), self.features(state, rates)
        values = {feature_field(view, n): encode_value(c, made[n]) for n, c in self.columns.items()}
        return {
            **values,
            event_time_field(view): encode_time(known_from_us(state) // 1_000_000),
            state_field(view): state.encode(),
        }


def view_of(entity: str) -> str:
    """Names the view of a user's or an item's activity."""
    return {names.USER: names.USER_ACTIVITY, names.ITEM: names.ITEM_ACTIVITY}[entity]


def known_from_us(state: ActivityState) -> int:
    """The instant from which a state holds, microseconds: just after its newest event, so that a join at the
    instant of an event does not find the event itself."""
    return state.newest_us + 1
