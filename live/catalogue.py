"""What changes items and users while bundles serve: items come, change and go, users are forgotten."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from contract import names
from contract.bundle import BundleError
from contract.bundles import bundles_folder
from contract.dataset import Dataset, DatasetError
from contract.environment import LOCAL_REDIS, RedisUrl
from contract.feast import encode_time, encode_value, event_time_field, feature_field, feature_key
from contract.items import Row, stored_row
from contract.keys import (
    bundles_key,
    catalogue_reply_key,
    catalogue_stream_key,
    forgotten_users_key,
    index_nodes_key,
    live_changes_key,
    live_items_key,
    live_version_key,
)
from contract.live_catalogue import (
    FIELD,
    FORGET,
    SHOW,
    Change,
    LiveState,
    catalogue_folder,
    decode_change,
    digest_of_user,
    read_changes,
    write_changes,
)
from contract.placement import IndexPlacement
from ensemble.publish.live_items import Command, LiveItemWriter
from ensemble.settings import Provider
from ensemble.stores.nodes import NodeClients
from live.archive import Archive
from live.beside import Beside
from live.person import Person
from live.streams import Entry
from live.transaction import Transaction

NODE_MS = 5_000
"""Milliseconds that a node of an index is waited for."""
REPLY_S = 30
"""Seconds for which an answer waits for who asked."""
_FIELD = FIELD.encode()


class CatalogueHandler:
    """Handles the changes of one data set. What is put or taken out is also kept in files, which preparing
    reads, and from which an emptied Redis is filled again."""

    archive: Archive | None = None

    def __init__(
        self,
        dataset: Dataset,
        var: Path,
        provider: Provider = Provider.CPU,
        url: RedisUrl = LOCAL_REDIS,
    ) -> None:
        """Takes where Redis is: the nodes of an index are entered in the same way."""
        self._url = url
        self.streams = [catalogue_stream_key(dataset.name)]
        self._dataset, self._var, self._provider = dataset, var, provider
        self._folder = catalogue_folder(var, dataset.name)
        self._writers: dict[str, LiveItemWriter | None] = {}
        self._clients: NodeClients | None = None
        self._beside = Beside("catalogue", _say)

    def apply(self, entries: Sequence[Entry], transaction: Transaction) -> None:
        """Adds what they change."""
        changes = _changes(entries)
        lasting = [_without_id(one) for one in changes if one.kind != SHOW]
        write_changes(self._folder, lasting)
        self._put(LiveState.of(lasting), max((one.at_ms for one in lasting), default=0), transaction)
        for change in changes:
            if change.kind == FORGET:
                self._forget(change, transaction)
            elif change.kind == SHOW:
                show = partial(self._show, change, transaction.redis)
                transaction.then(partial(self._beside.do, show, "a user is not told of"))

    def restore(self, redis: Redis) -> int:
        """Puts again what the files know, where Redis lost it; gives the number of items."""
        if redis.exists(live_version_key(self._dataset.name)):
            return 0
        changes = read_changes(self._folder)
        state = LiveState.of(changes)
        if not state.items and not state.forgotten:
            return 0
        with Transaction(redis) as transaction:
            self._put(state, max(one.at_ms for one in changes), transaction)
            transaction.commit()
        return len(state.items)

    def _put(self, state: LiveState, at_ms: int, transaction: Transaction) -> None:
        name = self._dataset.name
        if state.forgotten:
            pairs = [part for pair in state.forgotten.items() for part in pair]
            transaction.write("HSET", forgotten_users_key(name), *pairs)
        if not state.items:
            return
        (version,) = transaction.read([("GET", live_version_key(name))])
        version = int(version or 0) + 1
        gone = [number for number, row in state.items.items() if row is None]
        rows = {number: row for number, row in state.items.items() if row is not None}
        for number, row in rows.items():
            fields = self._feature_fields(row, at_ms // 1000)
            key = feature_key(names.ITEM_ID, number, name)
            transaction.write("HSET", key, *(part for pair in fields.items() for part in pair))
        if gone:
            keys = [feature_key(names.ITEM_ID, number, name) for number in gone]
            transaction.write("UNLINK", *keys)
        for writer in self._served(transaction):
            commands = [*writer.put(rows), *writer.take_out(gone)]
            self._tell_nodes(writer, commands, transaction)
            for command in commands:
                transaction.write(*command)
        pairs = [part for number, row in state.items.items() for part in (number, _json(row) if row else "")]
        transaction.write("HSET", live_items_key(name), *pairs)
        scores = [part for number in state.items for part in (version, number)]
        transaction.write("ZADD", live_changes_key(name), *scores)
        transaction.write("SET", live_version_key(name), version)

    def _tell_nodes(
        self, writer: LiveItemWriter, commands: Sequence[Command], transaction: Transaction
    ) -> None:
        """Writes to the nodes of an index before the transaction: what they have already is written once
        more where that fails, as it does where items are being moved meanwhile.

        Raises:
            RedisError: a node does not take it; nothing is committed.
        """
        (value,) = transaction.read([("GET", index_nodes_key(writer.manifest.bundle))])
        if value is None:
            return
        if self._clients is None or self._clients.redis is not transaction.redis:
            self._clients = NodeClients(transaction.redis, self._url, NODE_MS)
        for node, some in writer.spread(commands, IndexPlacement.decode(value), self._clients.home).items():
            pipe: Any = self._clients.of(node).pipeline(transaction=False)
            for command in some:
                pipe.execute_command(*command)
            try:
                pipe.execute()
            except RedisError as error:
                raise type(error)(f"index node {node}: {error}") from None

    def _feature_fields(self, row: Row, at_s: int) -> dict[bytes, bytes]:
        """Writes a row as Feast does."""
        view, values = names.ITEM_CATALOG, stored_row(row, self._dataset)
        columns = self._dataset.view_columns(view)
        fields = {feature_field(view, name): encode_value(c, values[name]) for name, c in columns.items()}
        return fields | {event_time_field(view): encode_time(at_s)}

    def _served(self, transaction: Transaction) -> list[LiveItemWriter]:
        """Opens the bundles that are indexed: those that serve, or may again."""
        (found,) = transaction.ask([("ZRANGE", bundles_key(self._dataset.name), 0, -1)])
        bundles = [one.decode() for one in found]
        self._writers = {name: one for name, one in self._writers.items() if name in bundles and one}
        for name in bundles:
            if name not in self._writers:
                self._writers[name] = self._opened(name)
        return [one for one in self._writers.values() if one is not None]

    def _opened(self, bundle: str) -> LiveItemWriter | None:
        try:
            return LiveItemWriter(bundles_folder(self._var) / bundle, self._provider)
        except (BundleError, DatasetError) as error:
            _say(f"{bundle} is indexed, and cannot be read: {error}")
            return None

    def _forget(self, change: Change, transaction: Transaction) -> None:
        person = Person(self._dataset, self._var, int(change.content))
        for command in person.forget(transaction):
            transaction.write(*command)
        rest = partial(person.forget_elsewhere, transaction.redis, change.at_ms)
        fault = "of a user who was forgotten, what streams and files hold stays until the data are prepared"
        transaction.then(partial(self._beside.do, rest, fault))

    def _show(self, change: Change, redis: Redis) -> None:
        """Tells of a user, unless who asked has gone: beside the streams, as an archive may be long."""
        if time.time() - change.at_ms / 1000 > REPLY_S:
            return
        with Transaction(redis) as reading:
            document = Person(self._dataset, self._var, int(change.content)).show(reading)
        key = catalogue_reply_key(self._dataset.name, change.change_id)
        redis.set(key, _json(document), ex=REPLY_S)


def _changes(entries: Sequence[Entry]) -> list[Change]:
    """Reads changes; what is none is said and left out."""
    found = []
    for entry in entries:
        try:
            found.append(decode_change(entry.entry_id, entry.fields.get(_FIELD, b"")))
        except ValueError as error:
            _say(f"{entry.stream} {entry.entry_id}: {error}; left out")
    return found


def _without_id(change: Change) -> Change:
    """What is kept of a change: a user who is forgotten is not named."""
    if change.kind != FORGET:
        return change
    return Change(change.change_id, FORGET, digest_of_user(int(change.content)))


def _json(value: Any) -> str:
    def plain(other: Any) -> Any:
        return other.isoformat() if isinstance(other, datetime) else str(other)

    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=plain)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
