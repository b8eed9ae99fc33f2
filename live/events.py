"""What events change: what users have seen, what is known of users and items, and who changed since the batch
job computed them; then the archive."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import compress
from pathlib import Path

import pyarrow as pa

from contract.dataset import Dataset
from contract.event_archive import event_table, events_folder, once
from contract.events import FIELD, PARTITIONS, Event, partition_of, position_of
from contract.ids import number_of
from contract.keys import batch_runs_key, changed_users_key, event_stream_key, forgotten_users_key
from contract.live_catalogue import digest_of_user
from live.activity import ActivityRows
from live.archive import Archive
from live.seen import add_seen
from live.streams import Entry
from live.transaction import Transaction

_FIELD = FIELD.encode()


class EventHandler:
    """Handles the events of one data set."""

    def __init__(self, dataset: Dataset, var: Path) -> None:
        self._dataset, self._activity = dataset, ActivityRows(dataset)
        self.streams = [event_stream_key(dataset.name, partition) for partition in range(PARTITIONS)]
        self.archive = Archive(events_folder(var, dataset.name), self._table, once)

    def apply(self, entries: Sequence[Entry], transaction: Transaction) -> None:
        """Adds what they change."""
        dataset = self._dataset
        read = _events(entries)
        everyone = [number_of(event.user_id, dataset.user_id_dtype) for event, _ in read]
        until_ms = self._forgotten_until(everyone, transaction)
        is_there = [entry.added_ms > until for (_, entry), until in zip(read, until_ms, strict=True)]
        found, users = [*compress(read, is_there)], [*compress(everyone, is_there)]
        events = [event for event, _ in found]
        items = [number_of(event.item_id, dataset.item_id_dtype) for event in events]
        triples = zip(users, items, events, strict=True)
        add_seen(dataset, [(u, i) for u, i, event in triples if event.is_seen(dataset)], transaction)
        activity = [
            event.as_activity(dataset, item, partition_of(user), position_of(entry.entry_id))
            for user, item, (event, entry) in zip(users, items, found, strict=True)
        ]
        self._activity.add(users, activity, transaction)
        self._note_changed(users, transaction)

    def _forgotten_until(self, users: Sequence[int], transaction: Transaction) -> list[int]:
        """Gives until when each of the users was forgotten, Unix time in milliseconds; 0 of who was not.
        Since their events were read, another consumer may have deleted all of them."""
        if not users:
            return []
        key, digests = forgotten_users_key(self._dataset.name), map(digest_of_user, users)
        (instants,) = transaction.read([("HMGET", key, *digests)])
        return [int(one or 0) for one in instants]

    def _note_changed(self, users: Sequence[int], transaction: Transaction) -> None:
        """Notes users for the batch job; not where no run ever began, as the first one computes everyone."""
        (has_runs, (seconds, micros)) = transaction.ask(
            [("EXISTS", batch_runs_key(self._dataset.name)), ("TIME",)]
        )
        if has_runs and users:
            at_s = seconds + micros / 1e6
            scores = [part for user_id in dict.fromkeys(users) for part in (at_s, user_id)]
            transaction.write("ZADD", changed_users_key(self._dataset.name), *scores)

    def _table(self, entries: Sequence[Entry]) -> pa.Table:
        found = _events(entries)
        events = [event for event, _ in found]
        return event_table(self._dataset, events, [position_of(entry.entry_id) for _, entry in found])


def _events(entries: Sequence[Entry]) -> list[tuple[Event, Entry]]:
    """Reads events; what is none is said and left out, so that it keeps no other from its effect."""
    found = []
    for entry in entries:
        try:
            found.append((Event.decode(entry.fields.get(_FIELD, b"")), entry))
        except ValueError as error:
            sys.stderr.write(f"{entry.stream} {entry.entry_id}: {error}; left out\n")
    return found
