"""How Feast 0.48 lays features out in Redis, written and read here without its SDK.

Each entity has one hash per project: a field per view and feature, and one per view for its row's event time.
The values are Feast's protobuf messages, which the feature store decodes. Here they are known by their first
bytes, which tell the type. A null is empty, whatever its type.

Where a data set has a column otherwise than a bundle reads it, or no more, what the bundle reads is kept in a
field of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import mmh3

from contract import names
from contract.columns import Column, Columns, Role
from contract.dataset import Dataset

_STRING, _INT64, _FLOAT, _BOOL = 2, 4, 6, 7
"""Feast's types of values, and the fields of its message `Value`."""
_HEADS = {
    "string": bytes((_STRING << 3 | 2,)),
    "int64": bytes((_INT64 << 3,)),
    "float32": bytes((_FLOAT << 3 | 5,)),
    "bool": bytes((_BOOL << 3,)),
}
_LIST_HEADS = {"string": bytes((12 << 3 | 2,)), "int64": bytes((14 << 3 | 2,))}
_FLOATS_HEAD, _VALUES_HEAD = bytes((16 << 3 & 0x7F | 2 | 0x80, 1)), bytes((1 << 3 | 2,))
_SECONDS_HEAD = bytes((1 << 3,))


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


def kept_field(view: str, feature: str, head: bytes) -> bytes:
    """The field where values that begin with `head` are kept while the feature's own has others, or none."""
    return feature_field(view, f"{feature}:{head.hex()}")


def columns_of(dataset: Dataset, *views: str) -> Columns:
    """Lists the columns of some views that are read while serving, in order.

    Not an item's embedding: the item tower has read it when the bundle was made.
    """
    return {
        name: column
        for view in views
        for name, column in dataset.view_columns(view).items()
        if view in names.USER_VIEWS or column.role is not Role.EMBEDDING
    }


def head_of(column: Column) -> bytes:
    """Gives the bytes that every value of a column begins with, and none of another type; an embedding's tell
    its length too."""
    if column.role is Role.EMBEDDING:
        size = 4 * column.max_length
        inner = _VALUES_HEAD + _varint(size)
        return _FLOATS_HEAD + _varint(len(inner) + size) + inner
    return (_LIST_HEADS if column.is_several else _HEADS)[str(column.dtype)]


def _varint(value: int) -> bytes:
    """Writes a number that is not negative as protobuf does: seven bits a byte, the lowest first."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*written, value))


def event_time_field(view: str) -> bytes:
    """The field of the event time of a view's row, a protobuf `Timestamp`."""
    return f"_ts:{view}".encode()


def state_field(view: str) -> bytes:
    """The field of what a view's row is folded from, an `ActivityState`; not Feast's."""
    return f"_state:{view}".encode()


def encode_value(column: Column, value: Any) -> bytes:
    """Writes a value of a column as Feast does; None is null."""
    return encoder_of(column)(value)


def encoder_of(column: Column) -> Callable[[Any], bytes]:
    """Gives what writes the values of a column, as `encode_value`: for many of them."""
    head, element = head_of(column), _ELEMENTS[str(column.dtype)]
    if not column.is_several:
        return lambda value: b"" if value is None else head + element(value)

    def several(values: Any) -> bytes:
        if values is None:
            return b""
        if column.role is Role.EMBEDDING:
            return head + b"".join(map(element, values))
        if column.dtype == "string":
            return head + _sized(b"".join(_VALUES_HEAD + element(one) for one in values))
        packed = b"".join(map(element, values))
        return head + _sized(_VALUES_HEAD + _sized(packed) if packed else b"")

    return several


def encode_time(seconds: int) -> bytes:
    """Writes an event time, seconds of Unix time, as Feast does."""
    return _SECONDS_HEAD + _varint64(seconds) if seconds else b""


@lru_cache(65_536)
def _varint64(value: int) -> bytes:
    return _varint(value & 2**64 - 1)


def _sized(written: bytes) -> bytes:
    return _varint(len(written)) + written


_ELEMENTS: Mapping[str, Callable[[Any], bytes]] = {
    "string": lambda text: _sized(text.encode()),
    "int64": _varint64,
    "float32": struct.Struct("<f").pack,
    "bool": _varint,
}
"""How one value is written, by the dtype of its column."""


AVAILABILITY_FIELD = feature_field(names.ITEM_CATALOG, names.IS_AVAILABLE)
"""The field of an item's row that holds whether it is available."""
UNAVAILABLE = _HEADS["bool"] + b"\0"
"""That field's value where the item is not available; any other, and none, mean it is."""
