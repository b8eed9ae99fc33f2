"""All that is held of one user, place by place: what is told of the user is what is deleted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from redis import Redis

from contract import names
from contract.archive import forget_users
from contract.arrays import Array
from contract.batch_files import slate_files
from contract.dataset import Dataset
from contract.event_archive import EVENT_ID, events_folder, read_archive
from contract.events import FIELD, Event, partition_of
from contract.feast import feature_key
from contract.ids import number_of
from contract.keys import (
    batch_key,
    batch_stored_key,
    changed_users_key,
    decode_seen,
    event_stream_key,
    removed_users_key,
    seen_key,
    shown_key,
    slate_key,
)
from contract.shown import Shown
from contract.slates import Published, StoredSlate
from ensemble.stores.features import RedisFeatureStore
from live.shown import read_shown
from live.streams import Entry, entries_of
from live.transaction import Command, Key, Transaction

PAGE = 5_000
"""Entries of a stream that are read at a time."""


class Person:
    """One user of a data set."""

    def __init__(self, dataset: Dataset, var: Path, user_id: int) -> None:
        """Takes the user's number."""
        self._dataset, self._var, self.user_id = dataset, var, user_id

    def show(self, transaction: Transaction) -> dict[str, Any]:
        """Tells all that is held. Users and items are numbers, but in events, which are as they were sent."""
        (stored,) = transaction.ask([("SMEMBERS", batch_stored_key(self._name))])
        runs = sorted(run.decode() for run in stored)
        keys = [seen_key(self._name, self.user_id), *(slate_key(run, self.user_id) for run in runs)]
        seen, *slates = transaction.ask([("GET", key) for key in keys])
        found = (StoredSlate.decode(slate) for slate in slates if slate is not None)
        return {
            "features": self._features(transaction),
            "seen": decode_seen(seen).tolist(),
            "slates": [{"run": one.run, "item_ids": list(one.item_ids)} for one in found],
            "events": {
                "waiting": [_of_event(event) for _, event in self._events(transaction)],
                "archived": self._archived_events(),
            },
            "shown": {
                "waiting": [_of_note(note) for _, note in self._notes(transaction)],
                "archived": [_of_note(note) for note in read_shown(self._var, self._name, self.user_id)],
            },
        }

    def forget(self, transaction: Transaction) -> Iterator[Command]:
        """Gives the commands that delete what the user's own keys hold."""
        # A batch run that begins meanwhile lets the commit fail; one that begins later finds nothing to read.
        commands = [("SMEMBERS", batch_stored_key(self._name)), ("GET", batch_key(self._name))]
        stored, pointer = transaction.read(commands)
        runs = {run.decode() for run in stored}
        keys: list[Key] = [feature_key(names.USER_ID, self.user_id, self._name)]
        keys.append(seen_key(self._name, self.user_id))
        keys += [slate_key(run, self.user_id) for run in sorted(runs)]
        yield ("UNLINK", *keys)
        yield ("ZREM", changed_users_key(self._name), self.user_id)
        if _is_one_unfinished(runs, pointer):  # it takes the user out before it is read
            yield ("SADD", removed_users_key(self._name), self.user_id)

    def forget_elsewhere(self, redis: Redis, until_ms: int) -> None:
        """Deletes what others' streams and files hold too, as of an instant, Unix time in milliseconds: it is
        looked for among all of theirs, which takes longer than events may wait. What a crash leaves of it,
        and the archive, follow with the next preparation."""
        with Transaction(redis) as reading:
            entries = [*(entry for entry, _ in self._events(reading))]
            entries += [entry for entry, _ in self._notes(reading)]
            gone = [("XDEL", one.stream, one.entry_id) for one in entries if one.added_ms <= until_ms]
            reading.ask(gone)
        forget_users(slate_files(self._var, self._name), np.array([self.user_id]))

    @property
    def _name(self) -> str:
        return self._dataset.name

    def _features(self, transaction: Transaction) -> dict[str, Any]:
        store = RedisFeatureStore(transaction.redis, self._dataset, self._dataset.clock)
        rows = store.read_users(np.array([self.user_id]))
        return {name: _plain(column[0]) for name, column in rows.columns.items() if rows.is_found[0]}

    def _events(self, transaction: Transaction) -> Iterator[tuple[Entry, Event]]:
        """Gives the user's events that are in the stream, with or without their effect."""
        stream = event_stream_key(self._name, partition_of(self.user_id))
        for entry in _entries(transaction, stream):
            try:
                event = Event.decode(entry.fields.get(FIELD.encode(), b""))
            except ValueError:
                continue
            if self._is_mine(event.user_id):
                yield entry, event

    def _notes(self, transaction: Transaction) -> Iterator[tuple[Entry, Shown]]:
        """Gives the answers to the user that are noted in the stream."""
        for entry in _entries(transaction, shown_key(self._name)):
            try:
                note = Shown.of(entry.fields)
            except ValueError:
                continue
            if note.user_id == self.user_id:
                yield entry, note

    def _archived_events(self) -> list[dict[str, Any]]:
        table = read_archive(events_folder(self._var, self._name), self.user_id)
        return [] if table is None else table.to_pylist()

    def _is_mine(self, own: Any) -> bool:
        try:
            return number_of(own, self._dataset.user_id_dtype) == self.user_id
        except ValueError:
            return False


def _entries(transaction: Transaction, stream: str) -> Iterator[Entry]:
    start = "-"
    while True:
        (found,) = transaction.ask([("XRANGE", stream, start, "+", "COUNT", PAGE)])
        yield from entries_of(stream, found)
        if len(found) < PAGE:
            return
        start = f"({found[-1][0].decode()}"


def _is_one_unfinished(runs: set[str], pointer: bytes | None) -> bool:
    """Whether one of these batch runs is at work, or may go on, so that it may have read the user before."""
    try:
        return not runs <= Published.decode(pointer).readable
    except ValueError:
        return True


def _of_event(event: Event) -> dict[str, Any]:
    fields: dict[str, Any] = {EVENT_ID: event.event_id, names.ITEM_ID: event.item_id}
    fields |= {"at_s": event.at_us / 1e6, **event.labels}
    return fields | dict(event.context) | ({"request_id": event.request_id} if event.request_id else {})


def _of_note(note: Shown) -> dict[str, Any]:
    fields = {name: value for name, value in asdict(note).items() if name not in (names.USER_ID, "at_ms")}
    return fields | {"at_s": note.at_ms / 1000}


def _plain(value: Array) -> Any:
    """Gives a feature as JSON holds it; null is None."""
    if value.ndim if isinstance(value, np.ndarray) else False:
        return [one for one in map(_plain, value) if one is not None]
    one = value.item() if isinstance(value, np.generic) else value
    return None if one == names.NULL_INT or one != one else one
