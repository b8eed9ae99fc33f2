"""Brings rows of activity, and what users have seen, to what they are with all that happened since they
were computed. Each in a transaction that fails where the stream writes the row meanwhile: it is made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import WatchError

from contract import names
from contract.activity import ActivityEvent, ActivityReducer, ActivityState, Position, view_of
from contract.arrays import Ids
from contract.dataset import Dataset
from contract.events import PARTITIONS, partition_of
from contract.feast import event_time_field, feature_field, feature_key, state_field
from contract.keys import MAX_SEEN, encode_seen, seen_key
from feature_repo.later import LaterEvents

KEYS = {names.USER: names.USER_ID, names.ITEM: names.ITEM_ID}
_BATCH = 200
"""Rows per transaction, at most: more would meet the stream more often."""


@dataclass(frozen=True, eq=False)
class Settlement:
    """What was computed of a data set, and what happened since."""

    redis: Redis
    dataset: Dataset
    rates: Mapping[str, float | None]
    horizon: Mapping[int, Position]
    """The position in each stream up to which events were computed."""
    later: LaterEvents
    effective: Mapping[int, Position]
    """The position in each stream up to which events had their effect, at least, when rates were known."""

    def live(self, entity: str, ids: Sequence[int]) -> list[int]:
        """Tells of whom something happened since."""
        found = []
        for start in range(0, len(ids), _BATCH):
            some = ids[start : start + _BATCH]
            states = self._states(entity, some)
            found += [one for one, state in zip(some, states, strict=True) if self._since(entity, one, state)]
        return found

    def rows(self, entity: str, ids: Sequence[int], computed: Mapping[int, bytes]) -> None:
        """Writes the rows of some users or items: of whom something happened since, it is folded into what
        was computed; of whom nothing did, the state is written beside Feast's features."""
        field = state_field(view_of(entity))

        def write_state(one: int) -> tuple[Any, ...]:
            return "HSET", field, self._base(entity, one, computed[one]).encode()

        self._write(entity, ids, computed, write_state)

    def delete_rows(self, entity: str, ids: Sequence[int]) -> None:
        """Deletes all that is stored of some users or items; not of whom an event came meanwhile."""
        self._write(entity, ids, {}, lambda _: ("UNLINK",))

    def delete_activity(self, entity: str, ids: Sequence[int]) -> None:
        """Deletes the activity in some rows; not of whom an event came meanwhile."""
        reducer, view = ActivityReducer.of(self.dataset, entity), view_of(entity)
        fields = [event_time_field(view), state_field(view)]
        fields += [feature_field(view, name) for name in reducer.columns]
        self._write(entity, ids, {}, lambda _: ("HDEL", *fields))

    def _write(
        self,
        entity: str,
        ids: Sequence[int],
        computed: Mapping[int, bytes],
        otherwise: Callable[[int], tuple[Any, ...]],
    ) -> None:
        """Folds what happened since into what was computed, and does otherwise where nothing did."""
        reducer = ActivityReducer.of(self.dataset, entity)

        def write_some(pipe: Any, some: Sequence[int]) -> None:
            pipe.watch(*(self._key(entity, one) for one in some))
            states = self._states(entity, some)
            pipe.multi()
            for one, state in zip(some, states, strict=True):
                key, since = self._key(entity, one), self._since(entity, one, state)
                if since:
                    whole = reducer.fold(self._base(entity, one, computed.get(one)), *since)
                    pipe.hset(key, mapping=reducer.fields(whole, self.rates))
                else:
                    command, *rest = otherwise(one)
                    pipe.execute_command(command, key, *rest)

        self._commit(ids, write_some)

    def seen(self, computed: Mapping[int, Ids]) -> None:
        """Writes what some users have seen: what happened since, newest first, then what was computed;
        nothing of who has seen nothing."""

        def write_some(pipe: Any, some: Sequence[int]) -> None:
            keys = [seen_key(self.dataset.name, one) for one in some]
            pipe.watch(*keys, *(self._key(names.USER, one) for one in some))
            states = self._states(names.USER, some)
            pipe.multi()
            for one, key, state in zip(some, keys, states, strict=True):
                mine = self._later(names.USER, one, state)
                newest = [event.activity.item_id for event in reversed(mine) if event.is_seen]
                old = computed[one].tolist()
                items = list(dict.fromkeys([*newest, *old]))[: max(MAX_SEEN, len(old))]
                if items:
                    pipe.set(key, encode_seen(items))
                else:
                    pipe.unlink(key)

        self._commit([*computed], write_some)

    def _commit(self, ids: Sequence[int], write: Callable[[Any, Sequence[int]], None]) -> None:
        """Writes some at a time; where somebody wrote meanwhile what a transaction watches, half as many, so
        that those who are busiest do not keep the others waiting."""
        done, size = 0, _BATCH
        while done < len(ids):
            some = ids[done : done + size]
            transaction: Any = self.redis.pipeline(transaction=True)
            with transaction as pipe:
                write(pipe, some)
                try:
                    pipe.execute()
                except WatchError:
                    size = max(1, len(some) // 2)
                    continue
            done += len(some)
            size = min(2 * size, _BATCH)

    def _base(self, entity: str, entity_id: int, packed: bytes | None) -> ActivityState:
        """What was computed, and that it holds all up to the horizon, of streams that may bring more."""
        base = ActivityState() if packed is None else ActivityState.decode(packed)
        if not self.horizon:
            return base
        mine = (partition_of(entity_id),) if entity == names.USER else range(PARTITIONS)
        positions = {p: self.horizon[p] for p in mine if p in self.horizon}
        return ActivityState(base.count, base.newest_us, base.tallies, base.newest, positions)

    def _since(self, entity: str, entity_id: int, state: ActivityState | None) -> list[ActivityEvent]:
        return [event.activity for event in self._later(entity, entity_id, state)]

    def _later(self, entity: str, entity_id: int, state: ActivityState | None) -> list[Any]:
        folded = state.positions if state else {}
        return self.later.of(entity, entity_id, folded, self.effective)

    def _states(self, entity: str, ids: Sequence[int]) -> list[ActivityState | None]:
        """Reads the states that lie in Redis; None where there is none, or one of another version."""
        pipe: Any = self.redis.pipeline(transaction=False)
        for one in ids:
            pipe.hget(self._key(entity, one), state_field(view_of(entity)))
        return [_decoded(value) for value in pipe.execute()]

    def _key(self, entity: str, entity_id: int) -> bytes:
        return feature_key(KEYS[entity], entity_id, self.dataset.name)


def _decoded(value: bytes | None) -> ActivityState | None:
    try:
        return ActivityState.decode(value) if value else None
    except ValueError:
        return None
