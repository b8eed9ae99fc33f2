"""How Feast 0.48 lays features out in Redis, written and read here without its SDK.

Each entity has one hash per project: a field per view and feature, and one per view for its row's event time.
The values are Feast's protobuf messages, which the feature store decodes; one of them is known here by its
bytes.
"""

from __future__ import annotations

import struct
from functools import lru_cache

import mmh3

from contract import names

_STRING, _INT64, _BOOL = 2, 4, 7
"""Feast's types of values, and the fields of its message `Value`."""


def feature_key(join_key: str, value: int, project: str) -> bytes:
    """The key of the row of a `user_id` or `item_id`: Feast's entity key of version 3, then the project."""
    return _head(join_key) + struct.pack("<q", value) + project.encode()


def feature_keys_pattern(join_key: str, project: str) -> bytes:
    """What matches every key of an entity's rows in a project, and in others whose name ends alike."""
    return _head(join_key) + b"*" + project.encode()


def feature_id(key: bytes, join_key: str, project: str) -> int | None:
    """The `user_id` or `item_id` whose row a key holds; None where it is not one of this project."""
    head, tail = _head(join_key), project.encode()
    is_own = key.startswith(head) and key.endswith(tail) and len(key) == len(head) + 8 + len(tail)
    return int.from_bytes(key[len(head) : len(head) + 8], "little", signed=True) if is_own else None


@lru_cache
def _head(join_key: str) -> bytes:
    name = join_key.encode()
    return struct.pack("<III", 1, _STRING, len(name)) + name + struct.pack("<II", _INT64, 8)


def feature_field(view: str, feature: str) -> bytes:
    """The field of a feature: a hash of its view's name and its own."""
    return struct.pack("<I", mmh3.hash(f"{view}:{feature}", signed=False))


def event_time_field(view: str) -> bytes:
    """The field of the event time of a view's row, a protobuf `Timestamp`."""
    return f"_ts:{view}".encode()


AVAILABILITY_FIELD = feature_field(names.ITEM_CATALOG, names.IS_AVAILABLE)
"""The field of an item's row that holds whether it is available."""
UNAVAILABLE = bytes((_BOOL << 3, False))
"""That field's value where the item is not available; any other, and none, mean it is."""
