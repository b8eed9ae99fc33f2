"""Items come and go, and a user is forgotten, while all servers run: what callers get, and what is left."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from shortlist import Client
from tests.builders.world import World, eventually

NEW, CATEGORY = 900_777, 4321
"""An item, and a category that no other has."""
STRANGER = 987_654_321_012
"""A user whom nothing but this test knows."""
WITHIN_S = 10.0


@pytest.fixture
def client(own_stack: World) -> Iterator[Client]:
    with Client(own_stack.url, timeout_s=20.0) as made:
        yield made


def found(world: World, **filters: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = world.recommend(7, n=5, filters=filters)["items"]
    return [one for one in items if one["source"] == "ensemble"]


def materialize(world: World) -> None:
    for role, arguments in (("training", ("-m", "training", "features")), ("training", _BRING)):
        done = world.run(role, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr


_TABLES = """
import json, re, sys
from pathlib import Path
import pyarrow.parquet as pq
var, number = Path(sys.argv[1]), re.compile(rf"\\b{sys.argv[2]}\\b")
found = [path for path in sorted(var.rglob("*.parquet")) if not path.is_symlink()]
tables = {path: repr(pq.read_table(path, partitioning=None).to_pydict()) for path in found}
print(json.dumps([str(path.relative_to(var)) for path, told in tables.items() if number.search(told)]))
"""
"""Lists the tables in which a number is: the environment of the tests reads none."""


def said(world: World, code: str, *arguments: str) -> str:
    done = world.run("training", "-c", code, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


_BRING = ("-m", "feature_repo", "materialize")


def test_an_item_is_in_the_slates_soon_and_goes(
    own_stack: World, client: Client, record_property: Any
) -> None:
    world, wanted = own_stack, {"item_category": [CATEGORY]}
    row = {"item_id": NEW, "item_name": "Brand new", "item_category": CATEGORY, "item_tags": [1, 2]}
    assert found(world, **wanted) == []
    began = time.monotonic()
    client.put_items([row])
    assert eventually(lambda: bool(found(world, **wanted)), WITHIN_S)
    record_property("put_to_slate_s", round(time.monotonic() - began, 2))
    (item,) = found(world, **wanted)
    assert (item["item_id"], item["item_name"]) == (NEW, "Brand new")
    assert "unknown_item" not in client.similar(NEW).degraded
    client.delete_item(NEW)
    assert eventually(lambda: not found(world, **wanted), WITHIN_S)
    assert eventually(lambda: "unknown_item" in client.similar(NEW).degraded, WITHIN_S)


def test_of_a_user_who_was_forgotten_nothing_is_left(own_stack: World, client: Client) -> None:
    world = own_stack
    items = [one["item_id"] for one in world.recommend(STRANGER, n=3)["items"]]
    client.send_events([{"user_id": STRANGER, "item_id": one, "type": "click"} for one in items])
    assert eventually(lambda: {*client.user(STRANGER)["seen"]} == {*items}, WITHIN_S)
    held = client.user(STRANGER)
    events = held["events"]["waiting"] + held["events"]["archived"]
    assert sorted(one["item_id"] for one in events) == sorted(items)
    assert eventually(lambda: any(client.user(STRANGER)["shown"].values()), WITHIN_S)
    assert places(world)
    client.delete_user(STRANGER)
    assert eventually(lambda: client.user(STRANGER)["seen"] == [], WITHIN_S)
    held = client.user(STRANGER)
    assert held["features"] == {}
    assert held["events"]["waiting"] == held["shown"]["waiting"] == held["slates"] == []
    materialize(world)
    assert places(world) == []


def places(world: World) -> list[str]:
    """Names every key of Redis and every file in which the stranger is: by number, in text or in a column.
    Logs, which say who asked, and Redis' own file of its commands are not looked at."""
    needles = (str(STRANGER).encode(), struct.pack("<q", STRANGER))
    there: list[str] = []
    with world.redis() as redis:
        client: Any = redis
        for key in client.scan_iter("*", count=1000):
            if any(one in key or one in _value(client, key) for one in needles):
                there.append(repr(key))
    for path in sorted(world.var.rglob("*")):
        relative = path.relative_to(world.var)
        if not path.is_file() or path.is_symlink() or relative.parts[0] in ("log", "run", "redis"):
            continue
        if path.suffix != ".parquet" and any(one in path.read_bytes() for one in needles):
            there.append(str(relative))
    tables: list[str] = json.loads(said(world, _TABLES, str(world.var), str(STRANGER)))
    return there + tables


def _value(client: Any, key: bytes) -> bytes:
    kind = client.type(key).decode()
    read = {
        "string": client.get,
        "hash": client.hgetall,
        "set": client.smembers,
        "list": lambda one: client.lrange(one, 0, -1),
        "zset": lambda one: client.zrange(one, 0, -1, withscores=True),
        "stream": client.xrange,
    }
    return _flat(read[kind](key)) if kind in read else b""


def _flat(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict):
        value = [part for pair in value.items() for part in pair]
    if isinstance(value, list | tuple | set):
        return b" ".join(map(_flat, value))
    return str(value).encode()
