"""`python -m bench.scale.load`: writes a world's features into Redis, byte for byte as Feast does.

Feast's own materialisation writes about ten thousand rows a second and holds a view in memory as objects. A
benchmark of millions of rows writes the same hashes itself; a test compares them with Feast's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from redis import Redis

from bench.scale.world import make_world
from contract import names
from contract.activity import view_of
from contract.columns import Column, Columns, Role
from contract.environment import read_settings
from contract.feast import event_time_field, feature_field, feature_key, state_field
from contract.features import STATE
from feature_repo.connection import ConnectionSettings
from feature_repo.online import OnlineStore
from training.config import load_settings
from training.data.prepared import Prepared
from training.export.write import write_json
from training.features.activity import EntityLog
from training.features.seen import seen_items
from training.features.states import activity_states
from training.features.tables import first_event

CHUNK = 20_000
ROUND_TRIP = 1000
Rows = dict[str, pd.DataFrame]
ENTITY_OF = {names.USER_ID: names.USER, names.ITEM_ID: names.ITEM}


def latest_rows(world: Prepared) -> Rows:
    """Gives each view's row per key as of the world's clock."""
    as_of, first = pd.Timestamp(world.dataset.clock()), pd.Timestamp(first_event(world))
    now = pd.DatetimeIndex([as_of])
    flag = str(world.dataset.availability)
    items = world.items.assign(**{names.IS_AVAILABLE: world.items[flag].fillna(True)})
    facts = {names.USER_PROFILE: world.users, names.ITEM_CATALOG: items}
    rows = {view: frame.assign(**{names.EVENT_TIMESTAMP: first}) for view, frame in facts.items()}
    for entity in ENTITY_OF.values():
        rows[view_of(entity)] = EntityLog.of(world, entity).activity(now)
    return rows


def load(world: Prepared, redis: Redis, max_seen: int) -> dict[str, float]:
    """Writes features and seen items, gives how many keys of each and the seconds taken."""
    rows = latest_rows(world)
    facts: dict[str, float] = {}
    for join_key, views in ((names.USER_ID, names.USER_VIEWS), (names.ITEM_ID, names.ITEM_VIEWS)):
        started = time.monotonic()
        columns = {view: world.dataset.view_columns(view) for view in views}
        facts[f"{join_key}_keys"] = _write(
            redis, world.dataset.name, join_key, columns, {v: rows.pop(v) for v in views}
        )
        _write_states(redis, world, join_key, views[-1])
        facts[f"{join_key}_s"] = time.monotonic() - started
    started = time.monotonic()
    seen = seen_items(world, world.dataset.clock(), max_seen)
    online = OnlineStore(redis, world.dataset.name)
    online.write_seen(seen, online.unlike_seen(seen))
    facts["seen_keys"] = len(seen)
    facts["seen_s"] = time.monotonic() - started
    return facts


def _write(redis: Redis, project: str, join_key: str, views: Mapping[str, Columns], rows: Rows) -> int:
    """Writes one hash per key that any view has: Feast keeps all views of an entity together."""
    keys = np.unique(np.concatenate([frame[join_key].to_numpy(np.int64) for frame in rows.values()]))
    for at in range(0, len(keys), CHUNK):
        some = keys[at : at + CHUNK]
        parts: list[list[Any]] = [[] for _ in some]
        for view, columns in views.items():
            frame = rows[view]
            lies = np.searchsorted(frame[join_key].to_numpy(np.int64), [some[0], some[-1] + 1])
            part = frame.iloc[lies[0] : lies[1]]
            places = np.searchsorted(some, part[join_key].to_numpy(np.int64))
            for place, values in zip(places.tolist(), _encoded(view, columns, part), strict=True):
                parts[place] += values
        for start in range(0, len(some), ROUND_TRIP):
            pipe: Any = redis.pipeline(transaction=False)
            for key, values in zip(
                some[start : start + ROUND_TRIP].tolist(), parts[start : start + ROUND_TRIP], strict=True
            ):
                pipe.execute_command("HSET", feature_key(join_key, key, project), *values)
            pipe.execute()
    return len(keys)


def _write_states(redis: Redis, world: Prepared, join_key: str, view: str) -> None:
    """Writes beside an entity's activity what the stream goes on from."""
    table = activity_states(EntityLog.of(world, ENTITY_OF[join_key]), world.dataset.clock())
    field, project = state_field(view), world.dataset.name
    for some in table.to_batches(max_chunksize=ROUND_TRIP):
        pipe: Any = redis.pipeline(transaction=False)
        for entity_id, state in zip(some[join_key].to_pylist(), some[STATE].to_pylist(), strict=True):
            pipe.hset(feature_key(join_key, entity_id, project), field, state)
        pipe.execute()


def _encoded(view: str, columns: Columns, frame: pd.DataFrame) -> Iterator[list[bytes]]:
    """Gives the fields and values of every row's hash."""
    fields = [feature_field(view, name) for name in columns]
    values = [_serialized(frame[name], column) for name, column in columns.items()]
    seconds = frame[names.EVENT_TIMESTAMP].astype("int64").to_numpy() // 10**9
    stamps = {s: Timestamp(seconds=s).SerializeToString() for s in np.unique(seconds).tolist()}
    stamp_field = event_time_field(view)
    for second, row in zip(seconds.tolist(), zip(*values, strict=True), strict=True):
        pairs = [part for pair in zip(fields, row, strict=True) for part in pair]
        yield [*pairs, stamp_field, stamps[second]]


def _serialized(values: pd.Series, column: Column) -> list[bytes]:
    kind = {"float32": "float_val", "int64": "int64_val", "string": "string_val", "bool": "bool_val"}[
        str(column.dtype)
    ]
    if column.role is Role.LIST:
        made = [Value() for _ in range(len(values))]
        for value, elements in zip(made, values, strict=True):
            getattr(value, kind.replace("_val", "_list_val")).val.extend(elements)
        return [value.SerializeToString() for value in made]
    memo: dict[Any, bytes] = {}
    found = []
    for value in values.astype(object).where(values.notna(), None).tolist():
        data = memo.get(value)
        if data is None:
            data = Value(**{} if value is None else {kind: value}).SerializeToString()
            if column.dtype != "float32":
                memo[value] = data
        found.append(data)
    return found


def main() -> int:
    """Draws the same world as the build did, loads it, and notes how long it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--report", type=Path, required=True, help="where the times are written, as JSON")
    chosen = parser.parse_args()
    settings = load_settings()
    world = make_world(chosen.users, chosen.items, settings.seed)
    write_json(
        chosen.report,
        load(
            world, Redis(**read_settings(ConnectionSettings).redis_url.connection_kwargs()), settings.max_seen
        ),
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
