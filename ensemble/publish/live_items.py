"""Brings items to a bundle that its files do not know: vector, filter columns, and card, into Redis."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from redis import Redis

from contract import bundle as bundle_files
from contract import names
from contract.arrays import Array, Floats, Ids
from contract.bundle import read_dataset, read_manifest
from contract.encoders import Encoders
from contract.filters import has_range
from contract.items import Row, stored_row
from contract.keys import (
    encode_card,
    item_card_key,
    item_vector_key,
    item_vector_prefix,
    live_changes_key,
    live_items_key,
    live_version_key,
    number_field,
)
from contract.placement import IndexPlacement
from ensemble.bundle import Tower
from ensemble.publish.fields import card_of, item_fields
from ensemble.publish.places import Places, named
from ensemble.settings import Provider
from ensemble.stores.features import to_columns

CHUNK = 500
Command = tuple[Any, ...]


class LiveItemWriter:
    """Writes items beside those of one bundle's files, and what changed of those."""

    def __init__(self, folder: Path, provider: Provider = Provider.CPU, threads: int = 1) -> None:
        """Takes the bundle's folder.

        Raises:
            BundleError, DatasetError: it cannot be read.
        """
        self.manifest, self.dataset = read_manifest(folder, verify=False), read_dataset(folder)
        self._tower = Tower(folder, self.manifest.item_tower, provider, threads)
        self._folder = folder

    @cached_property
    def _encoders(self) -> Encoders:
        return Encoders.load(self._folder / bundle_files.ENCODERS_FILE)

    @cached_property
    def _bundle_ids(self) -> Ids:
        ids: Ids = np.load(self._folder / bundle_files.ITEM_IDS_FILE, allow_pickle=False)
        return ids

    def put(self, rows: Mapping[int, Row]) -> list[Command]:
        """Takes rows by number, gives the commands that write them."""
        if not rows:
            return []
        bundle, filters = self.manifest.bundle, self.manifest.filters
        ranges = [number_field(column) for column, dtype in filters.items() if has_range(dtype)]
        commands: list[Command] = []
        for (item_id, row), vector in zip(rows.items(), self.vectors(rows), strict=True):
            key, fields = item_vector_key(bundle, item_id), item_fields(row, vector, filters)
            if ranges:
                commands.append(("HDEL", key, *ranges))
            commands.append(("HSET", key, *(part for pair in fields.items() for part in pair)))
            card = encode_card(card_of(row, self.manifest))
            commands.append(("SET", item_card_key(bundle, item_id), card))
        return commands

    def take_out(self, item_ids: Sequence[int]) -> list[Command]:
        """Gives the commands that delete items' cards, and what the index holds of those that are not the
        bundle's own: of these their rows' being gone says enough."""
        if not item_ids:
            return []
        bundle = self.manifest.bundle
        others = np.setdiff1d(np.array(item_ids, dtype=np.int64), self._bundle_ids).tolist()
        keys = [item_card_key(bundle, item_id) for item_id in item_ids]
        return [("UNLINK", *keys, *(item_vector_key(bundle, item_id) for item_id in others))]

    def spread(
        self, commands: Sequence[Command], placement: IndexPlacement, home: str
    ) -> dict[str, list[Command]]:
        """Takes commands of `put` and `take_out`, gives what each node of the index but home runs of them."""
        prefix = item_vector_prefix(self.manifest.bundle)
        single = [
            (name, key, *(() if name == "UNLINK" else arguments[1:]))
            for name, *arguments in commands
            for key in (arguments if name == "UNLINK" else arguments[:1])
            if key.startswith(prefix)
        ]
        ids = np.array([int(key[len(prefix) :]) for _, key, *_ in single], dtype=np.int64)
        return {
            node: [single[at] for at in placement.holds(node, ids).nonzero()[0].tolist()]
            for node in placement.written
            if node != home
        }

    def vectors(self, rows: Mapping[int, Row]) -> Floats:
        """Runs the item tower (N,D): an item that the bundle knows stands where its id and its columns of now
        say, another where its columns do."""
        views = [self.dataset.view_columns(view) for view in names.ITEM_VIEWS]
        columns = {name: column for view in views for name, column in view.items()}
        stored = [stored_row(row, self.dataset) for row in rows.values()]
        raw: dict[str, Array] = to_columns(columns, [[one.get(name) for name in columns] for one in stored])
        raw[names.ITEM_ID] = np.fromiter(rows, np.int64, len(rows))
        return self._tower({name: self._encoders.encode(name, raw[name]) for name in self._tower.features})


def live_rows(redis: Redis, dataset: str) -> dict[int, Row | None]:
    """Reads the items that were put while serving, None for one that was taken out."""
    rows: Any = redis.hgetall(live_items_key(dataset))
    return {int(number): _row(value) for number, value in rows.items()}


def write_live_items(places: Places, folder: Path) -> int:
    """Brings what was put while other bundles served to this one as well; gives the number of items.

    The consumer writes to the bundle meanwhile: what changed is written again, so that the newest stays.

    Raises:
        NodeFault: a node of its index does not take them.
    """
    writer, home = LiveItemWriter(folder), places.home
    dataset = writer.manifest.dataset
    version, rows = _version(home, dataset), live_rows(home, dataset)
    put = sum(row is not None for row in rows.values())
    while rows:
        _write(writer, rows, places)
        since, version = version, _version(home, dataset)
        rows = _changed_rows(home, dataset, since, version)
    return put


def _version(redis: Redis, dataset: str) -> int:
    value: Any = redis.get(live_version_key(dataset))
    return int(value or 0)


def _changed_rows(redis: Redis, dataset: str, since: int, version: int) -> dict[int, Row | None]:
    """As `live_rows`, of those that changed after one version, up to another."""
    changed: Any = redis.zrangebyscore(live_changes_key(dataset), f"({since}", version)
    rows: Any = redis.hmget(live_items_key(dataset), changed) if changed else []
    return {int(number): _row(value) for number, value in zip(changed, rows, strict=True)}


def _row(value: bytes | None) -> Row | None:
    row: Row | None = json.loads(value) if value else None
    return row


def _write(writer: LiveItemWriter, rows: Mapping[int, Row | None], places: Places) -> None:
    put = {number: row for number, row in rows.items() if row is not None}
    commands = writer.take_out([number for number, row in rows.items() if row is None])
    for start in range(0, len(put), CHUNK):
        commands += writer.put({number: put[number] for number in [*put][start : start + CHUNK]})
    for node, some in writer.spread(commands, places.placement, places.clients.home).items():
        with named(node):
            _run(places.clients.of(node), some)
    _run(places.home, commands)


def _run(redis: Redis, commands: Sequence[Command]) -> None:
    for start in range(0, len(commands), CHUNK):
        pipe: Any = redis.pipeline(transaction=False)
        for command in commands[start : start + CHUNK]:
            pipe.execute_command(*command)
        pipe.execute()
