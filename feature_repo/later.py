"""Events that happened after those that were computed: of the streams in Redis, and of the archive."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis

from contract import names
from contract.activity import ActivityEvent, Position
from contract.dataset import Dataset
from contract.event_archive import archived_events, events_folder
from contract.events import FIELD, GROUP, PARTITIONS, Event, partition_of, position_of
from contract.ids import number_of
from contract.keys import event_stream_key

START: Position = (0, 0)


@dataclass(frozen=True)
class LaterEvent:
    """An event, and whether it counts as seen."""

    activity: ActivityEvent
    is_seen: bool


class LaterEvents:
    """What happened to users and items of a data set beyond a horizon: the position in each stream up to
    which events were computed."""

    def __init__(
        self, redis: Redis, dataset: Dataset, var_dir: Path, horizon: Mapping[int, Position]
    ) -> None:
        self._redis: Any = redis
        self._dataset, self._folder = dataset, events_folder(var_dir, dataset.name)
        self._ends: dict[int, Position] = {p: horizon.get(p, START) for p in range(PARTITIONS)}
        self._events: dict[tuple[str, int], dict[tuple[int, Position], LaterEvent]] = defaultdict(dict)
        self.wanted: dict[str, Collection[int]] | None = None
        """Whose events are kept; None for everybody's. Set before they are read."""

    def effective(self) -> dict[int, Position]:
        """Reads up to where events had their effect, by stream."""
        found = {}
        for partition in range(PARTITIONS):
            key = event_stream_key(self._dataset.name, partition)
            groups = self._redis.xinfo_groups(key) if self._redis.exists(key) else ()
            delivered_ids = [one["last-delivered-id"] for one in groups if one["name"] == GROUP.encode()]
            found[partition] = position_of(delivered_ids[0].decode()) if delivered_ids else START
        return found

    def read(self) -> None:
        """Reads what came since: the streams first, as what leaves them then is in the archive."""
        began = dict(self._ends)
        for partition in range(PARTITIONS):
            key = event_stream_key(self._dataset.name, partition)
            while True:
                ms, number = self._ends[partition]
                entries = self._redis.xrange(key, f"({ms}-{number}", "+", count=10_000)
                for entry_id, fields in entries:
                    self._ends[partition] = position_of(entry_id.decode())
                    self._add(fields.get(FIELD.encode(), b""), self._ends[partition])
                if not entries:
                    break
        for event, position in archived_events(self._folder, self._dataset, min(began.values())):
            partition = partition_of(number_of(event.user_id, self._dataset.user_id_dtype))
            if position > began[partition]:
                self._put(event, position)
                self._ends[partition] = max(self._ends[partition], position)

    def of(
        self, entity: str, entity_id: int, folded: Mapping[int, Position], effective: Mapping[int, Position]
    ) -> list[LaterEvent]:
        """Gives those of a user or an item that had their effect, in the order of their streams: what its row
        has folded, and what had it before there were rows."""
        until = {p: max(folded.get(p, START), effective[p]) for p in range(PARTITIONS)}
        if any(until[p] > self._ends[p] for p in until):
            self.read()
        mine = self._events.get((entity, entity_id), {})
        return [event for (p, position), event in sorted(mine.items(), key=_place) if position <= until[p]]

    def ids(self, entity: str) -> list[int]:
        """Lists of whom there are any, ascending."""
        return sorted(one for of, one in self._events if of == entity)

    def _add(self, value: bytes, position: Position) -> None:
        try:
            self._put(Event.decode(value), position)
        except ValueError:
            return  # the consumer has said it, and left it out

    def _put(self, event: Event, position: Position) -> None:
        dataset = self._dataset
        user = number_of(event.user_id, dataset.user_id_dtype)
        item = number_of(event.item_id, dataset.item_id_dtype)
        partition = partition_of(user)
        for entity, one in ((names.USER, user), (names.ITEM, item)):
            if self.wanted is None or one in self.wanted[entity]:
                activity = event.as_activity(dataset, item, partition, position)
                self._events[entity, one][partition, position] = LaterEvent(activity, event.is_seen(dataset))


def _place(pair: tuple[tuple[int, Position], LaterEvent]) -> tuple[int, Position]:
    return pair[0]
