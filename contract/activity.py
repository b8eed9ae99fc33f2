"""Activity of a user or an item: what is counted of events, and the features that are made of it.

This is their one definition. A state is the fold of an entity's events. Events that arrive in any order make
the same state; one that is delivered again changes nothing. The stream folds one event at a time into the
state that lies in Redis, materialising folds the log, and training's columns are those of the fold before
each row.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np

from contract import names
from contract.arrays import Ints
from contract.columns import Columns
from contract.dataset import Dataset
from contract.feast import encode_time, encoder_of, event_time_field, feature_field, state_field

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

_NO_ROWS: Ints = np.zeros((3, 0), dtype=np.int64)
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
    many positives."""

    rows: Ints
    """(3,N): instants in microseconds of Unix time, ids, and of each `POSITIVE` and `TIMED`, or none of
    them. One array, as they are read and written for each event, which costs what numpy's calls do."""

    @classmethod
    def none(cls) -> NewestItems:
        """Gives those of a user who did nothing."""
        return cls(_NO_ROWS)

    def with_events(self, events: Sequence[ActivityEvent], limit: int) -> NewestItems:
        """Adds events, where they belong by their time.

        At the same instant, those with a time of their own come after those without and are told apart by
        what they hold, so that their order is that of no arrival; the others come as they are added.
        """
        if not events:
            return self
        added = [(e.at_us, e.item_id, TIMED * e.is_timed | POSITIVE * e.is_positive) for e in events[::-1]]
        rows = np.concatenate([np.array(added, dtype=np.int64).T, self.rows], axis=1)
        if len(events) > 1 or (rows.shape[1] > 1 and rows[0, 0] <= rows[0, 1]):
            oldest_first = rows[:, ::-1]
            times, items, flags = oldest_first
            is_timed = flags & TIMED > 0
            order = np.lexsort((flags * is_timed, items * is_timed, is_timed, times))[::-1]
            rows = oldest_first[:, order]
        if rows.shape[1] > limit:
            positives = (rows[2] & POSITIVE).nonzero()[0][:limit]
            rows = np.concatenate([rows[:, :limit], rows[:, positives[positives >= limit]]], axis=1)
        return NewestItems(rows)

    def recent(self, limit: int) -> list[int]:
        """Lists the newest items."""
        recent: list[int] = self.rows[1, :limit].tolist()
        return recent

    def positive(self, limit: int) -> list[int]:
        """Lists the newest items of positives."""
        positive: list[int] = self.rows[1, self.rows[2] & POSITIVE > 0][:limit].tolist()
        return positive

    def encode(self) -> bytes:
        """Packs the items: steps into the past, ids and flags, each in as few bytes as its largest needs."""
        count = self.rows.shape[1]
        if not count:
            return b""
        packed = np.array(self.rows, dtype="<i8", order="C")
        newest = int(packed[0, 0])
        packed[0, 0] = 0
        packed[0, 1:] = self.rows[0, :-1] - self.rows[0, 1:]
        # As if without a sign: a negative number is the largest, and needs all of its bytes.
        largest = np.maximum.reduce(packed.view("<u8"), axis=1).tolist()
        widths = [(number.bit_length() + 7) // 8 for number in largest]
        steps, items, flags = packed.view(np.uint8).reshape(3, count, 8)
        columns = zip((steps[1:], items, flags), widths, strict=True)
        head = _ITEMS.pack(count, *widths, newest)
        return head + b"".join(column[:, :width].tobytes() for column, width in columns)

    @classmethod
    def decode(cls, packed: bytes) -> NewestItems:
        """Unpacks `encode`.

        Raises:
            ValueError: it is something else.
        """
        if not packed:
            return cls.none()
        count, *widths, newest = _ITEMS.unpack_from(packed)
        rows, at = np.zeros((3, count, 8), dtype=np.uint8), _ITEMS.size
        for column, first, width in zip(rows, (1, 0, 0), widths, strict=True):
            size = (count - first) * width
            column[first:, :width] = np.frombuffer(packed, np.uint8, size, at).reshape(count - first, width)
            at += size
        if at != len(packed):
            raise ValueError(f"{len(packed)} bytes, of which {at} are known")
        numbers: Ints = rows.view("<i8")[..., 0]
        np.subtract(newest, np.add.accumulate(numbers[0]), out=numbers[0])
        return cls(numbers)


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
        for label, rate in self._rates.items():
            ones, known = state.tallies.get(label, (0, 0))
            overall = rates.get(label)
            made[rate] = None if overall is None else (ones + SMOOTHING * overall) / (known + SMOOTHING)
        if self.newest_limit:
            made[names.USER_RECENT_ITEM_IDS] = state.newest.recent(self.newest_limit)
            made[names.USER_RECENT_POSITIVE_ITEM_IDS] = state.newest.positive(self.newest_limit)
        return {name: made[name] for name in self.columns}

    def fields(self, state: ActivityState, rates: Mapping[str, float | None]) -> dict[bytes, bytes]:
        """Gives the fields of the entity's hash in Redis: its view's features and time as Feast writes them,
        and the state itself."""
        view, made = view_of(self.entity), self.features(state, rates)
        return {
            **{field: encode(made[name]) for name, (field, encode) in self._encoders.items()},
            event_time_field(view): encode_time(known_from_us(state) // 1_000_000),
            state_field(view): state.encode(),
        }

    @cached_property
    def _rates(self) -> dict[str, str]:
        """The feature of each label's rate."""
        return {label: names.rate_of(self.entity, label) for label in self.labels}

    @cached_property
    def _encoders(self) -> dict[str, tuple[bytes, Callable[[Any], bytes]]]:
        """The field of each feature, and what writes its values."""
        view = view_of(self.entity)
        return {name: (feature_field(view, name), encoder_of(c)) for name, c in self.columns.items()}


def view_of(entity: str) -> str:
    """Names the view of a user's or an item's activity."""
    return {names.USER: names.USER_ACTIVITY, names.ITEM: names.ITEM_ACTIVITY}[entity]


def known_from_us(state: ActivityState) -> int:
    """The instant from which a state holds, microseconds: just after its newest event, so that a join at the
    instant of an event does not find the event itself."""
    return state.newest_us + 1
