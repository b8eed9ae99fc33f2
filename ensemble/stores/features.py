"""Reads features as Feast wrote them: a protocol, its memory twin, and Redis in one pipelined round trip."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import repeat
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from redis import Redis

from contract import names
from contract.arrays import Array, Ids, filled
from contract.columns import Column, Columns
from contract.dataset import Dataset
from contract.feast import columns_of, event_time_field, feature_field, feature_key, head_of, kept_field
from contract.keys import MAX_SEEN, decode_seen, seen_prefix
from contract.tensors import PAD_ID
from ensemble.stores.feast_values import Value

LOG = logging.getLogger(__name__)
SHORT, CACHED_VALUES = 16, 4096
"""Bytes up to which a stored value's meaning is kept, as it comes again and again; of how many a column."""
UNREAD: Any = object()
"""Stands for a value that did not come before."""
Clock = Callable[[], datetime]


@dataclass(frozen=True)
class FeatureRows:
    """Raw features of some keys, and three bool (rows,). `is_found`: at least one view has a live row of the
    key. `is_stored`: the view of its facts has a row, live or not; an event alone makes none. `is_lacking`: a
    live row is without a column, or has one of another type than the bundle's; that column is null.

    A column is int64 with `NULL_INT`, float32 with NaN, or object with None: (rows,), or (rows, S) for a
    list.
    """

    columns: dict[str, Array]
    is_found: npt.NDArray[np.bool_]
    is_stored: npt.NDArray[np.bool_]
    is_lacking: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class UserRows(FeatureRows):
    """Features of users, and `seen_item_ids` int64 (rows, S), newest first, padded with `PAD_ID`."""

    seen_item_ids: Ids


@runtime_checkable
class FeatureStore(Protocol):
    """Gives the live features of known keys. A key without a row reads as null, never as an error."""

    def read_users(self, user_ids: Ids) -> UserRows:
        """Reads the features and the seen items of users (B,) in one round trip."""
        ...

    def read_items(self, item_ids: Ids) -> FeatureRows:
        """Reads the features of items (rows,) in one round trip."""
        ...


class MemoryFeatureStore:
    """Features in a dict: the twin for tests and for a laptop."""

    def __init__(self, dataset: Dataset, clock: Clock, max_seen: int = MAX_SEEN) -> None:
        self.dataset, self.clock, self.max_seen = dataset, clock, max_seen
        self.rows: dict[tuple[str, int], tuple[datetime, dict[str, Any]]] = {}
        self.seen: dict[int, Sequence[int]] = {}

    def put(self, view: str, key: int, values: Mapping[str, Any], event_timestamp: datetime) -> None:
        """Stores a row of a view; None is null."""
        self.rows[view, key] = (event_timestamp, dict(values))

    def read_users(self, user_ids: Ids) -> UserRows:
        """Reads the features and the seen items of users."""
        rows = self._read(names.USER_VIEWS, user_ids)
        seen = [np.asarray(self.seen.get(int(u), ()), dtype=np.int64) for u in user_ids]
        return UserRows(**vars(rows), seen_item_ids=_pad_seen(seen, self.max_seen))

    def read_items(self, item_ids: Ids) -> FeatureRows:
        """Reads the features of items."""
        return self._read(names.ITEM_VIEWS, item_ids)

    def _read(self, views: Sequence[str], keys: Ids) -> FeatureRows:
        found, stored_rows = np.zeros(len(keys), dtype=np.bool_), np.zeros(len(keys), dtype=np.bool_)
        values: list[list[Any]] = [[] for _ in keys]
        for view in views:
            for row, key in enumerate(keys.tolist()):
                timestamp, stored = self.rows.get((view, key), (None, {}))
                is_live = timestamp is not None and _is_live(
                    self.dataset, view, timestamp.timestamp(), self.clock
                )
                found[row] |= is_live
                stored_rows[row] |= view in names.FACTS and timestamp is not None
                values[row] += [stored.get(n) if is_live else None for n in columns_of(self.dataset, view)]
        columns = to_columns(columns_of(self.dataset, *views), values)
        return FeatureRows(columns, found, stored_rows, np.zeros_like(found))


class RedisFeatureStore:
    """Reads Feast 0.48's Redis layout without its SDK: one HMGET per key, all in one pipeline.

    Feast keeps all views of an entity in one hash per key and project, a view's event time under
    `_ts:{view}`. A view's row older than its ttl, against the serving clock, reads as missing; Feast itself
    does not check.

    A column that is not as the bundle reads it is looked for where a materialisation kept it, from then on in
    the same round trip.
    """

    def __init__(self, redis: Redis, dataset: Dataset, clock: Clock, max_seen: int = MAX_SEEN) -> None:
        self.redis, self.max_seen = redis, max_seen
        self._seen = seen_prefix(dataset.name)
        self._users = _EntityReader(dataset, names.USER_ID, names.USER_VIEWS, clock)
        self._items = _EntityReader(dataset, names.ITEM_ID, names.ITEM_VIEWS, clock)

    def read_users(self, user_ids: Ids) -> UserRows:
        """Reads the features and the seen items of users."""
        field_count = len(self._users.fields)
        rows = self._read_users(user_ids)
        return rows if len(self._users.fields) == field_count else self._read_users(user_ids)

    def _read_users(self, user_ids: Ids) -> UserRows:
        pipe: Any = self.redis.pipeline(transaction=False)
        for user_id in user_ids.tolist():
            pipe.execute_command("HMGET", self._users.key(user_id), *self._users.fields)
            pipe.execute_command("GETRANGE", f"{self._seen}{user_id}", 0, 8 * self.max_seen - 1)
        replies = pipe.execute()
        rows = self._users.decode(replies[::2])
        seen = [decode_seen(value) for value in replies[1::2]]
        return UserRows(**vars(rows), seen_item_ids=_pad_seen(seen, self.max_seen))

    def read_items(self, item_ids: Ids) -> FeatureRows:
        """Reads the features of items."""
        fields = self.item_fields
        rows = self.decode_items(self.fetch_items(item_ids))
        return rows if self.item_fields == fields else self.decode_items(self.fetch_items(item_ids))

    @property
    def lacking(self) -> list[str]:
        """The columns that were found nowhere as the bundle reads them."""
        return sorted(self._users.lacking | self._items.lacking)

    @property
    def item_fields(self) -> int:
        """How many values one item's reply has; more once `decode_items` has found a column missing or of
        another type, which is then looked for where it is kept."""
        return len(self._items.fields)

    @property
    def items_expire(self) -> bool:
        """Whether an unchanged row may read differently later, because its view has a ttl."""
        return any(self._items.dataset.ttl(view) is not None for view in names.ITEM_VIEWS)

    def fetch_items(self, item_ids: Ids) -> list[list[bytes | None]]:
        """Reads items as they are stored, so that a refresh can tell which of them changed."""
        pipe: Any = self.redis.pipeline(transaction=False)
        for item_id in item_ids.tolist():
            pipe.execute_command("HMGET", self._items.key(item_id), *self._items.fields)
        replies: list[list[bytes | None]] = pipe.execute()
        return replies

    def decode_items(self, replies: Sequence[Sequence[bytes | None]]) -> FeatureRows:
        """Decodes what `fetch_items` gave."""
        return self._items.decode(replies)


class _EntityReader:
    """Knows the keys and hash fields of one entity, and decodes its replies."""

    def __init__(self, dataset: Dataset, join_key: str, views: Sequence[str], clock: Clock) -> None:
        self.dataset, self.clock = dataset, clock
        self.columns = columns_of(dataset, *views)
        self.fields: list[bytes] = []
        self.slices: list[tuple[str, int, int]] = []  # a view, its first feature, its event time
        self.heads: dict[str, list[tuple[str, bytes]]] = {}  # of a view's columns
        self.read: dict[str, list[dict[bytes | None, Any]]] = {}  # of each, the short values that came before
        for view in views:
            start, columns = len(self.fields), columns_of(dataset, view)
            self.fields += [feature_field(view, name) for name in columns]
            self.slices.append((view, start, len(self.fields)))
            self.heads[view] = [(name, head_of(column)) for name, column in columns.items()]
            self.read[view] = [{} for _ in columns]
            self.fields.append(event_time_field(view))
        self.join_key = join_key
        self.lacking: set[str] = set()
        self._kept: dict[str, int] = {}  # where in a reply is what was kept of a column

    def key(self, value: int) -> bytes:
        return feature_key(self.join_key, value, self.dataset.name)

    def decode(self, replies: Sequence[Sequence[bytes | None]]) -> FeatureRows:
        found, stored, lacking = (np.zeros(len(replies), dtype=np.bool_) for _ in range(3))
        values: list[list[Any]] = []
        for row, reply in enumerate(replies):
            decoded: list[Any] = []
            for view, start, end in self.slices:
                stamp = reply[end]
                is_live = bool(stamp) and _is_live(
                    self.dataset, view, Timestamp.FromString(stamp).seconds, self.clock
                )
                found[row] |= is_live
                stored[row] |= view in names.FACTS and stamp is not None
                if not is_live:
                    decoded += [None] * (end - start)
                    continue
                columns = zip(self.heads[view], self.read[view], reply[start:end], strict=True)
                for (name, head), known, data in columns:
                    value = known.get(data, UNREAD)
                    if value is UNREAD:
                        try:
                            value = _value(data, head)
                        except DecodeError:
                            value, is_kept = self._kept_value(view, name, head, reply, data)
                            lacking[row] |= not is_kept
                        else:
                            _keep(known, data, value)
                    decoded.append(value)
            values.append(decoded)
        return FeatureRows(to_columns(self.columns, values), found, stored, lacking)

    def _kept_value(
        self, view: str, name: str, head: bytes, reply: Sequence[bytes | None], data: bytes | None
    ) -> tuple[Any, bool]:
        """Decodes what was kept of a column that the store has otherwise, and says whether there is any. Asks
        for it from now on, where the reply did not."""
        place = self._kept.get(name, len(reply))
        if place < len(reply):
            try:
                return _value(reply[place], head), True
            except DecodeError:
                self._tell(view, name, data)
        elif name not in self._kept:
            self._kept[name] = len(self.fields)
            self.fields.append(kept_field(view, name, head))
        return None, False

    def _tell(self, view: str, name: str, data: bytes | None) -> None:
        """Logs once for each column that the store has it not, or otherwise."""
        if name not in self.lacking:
            self.lacking.add(name)
            there = f"is {_kind(data)} in Redis, not what the bundle reads" if data else "is missing in Redis"
            LOG.warning(
                "%s: %s %s: it is null; if the data set changed, run "
                "`make train promote materialize export up`, else `make materialize`",
                view,
                name,
                there,
            )


def to_columns(columns: Columns, values: Sequence[Sequence[Any]]) -> dict[str, Array]:
    """Takes rows of Python values in the columns' order, None for null, gives one array per column."""
    by_column: Iterable[Sequence[Any]] = zip(*values, strict=True) if values else repeat(())
    return {
        name: _to_array(column, of) for (name, column), of in zip(columns.items(), by_column, strict=False)
    }


def _to_array(column: Column, values: Sequence[Any]) -> Array:
    dtype, null = _storage(column)
    if not column.is_several:
        return np.array([null if v is None else v for v in values], dtype=dtype)
    array = filled((len(values), column.max_length), null, dtype)
    for row, elements in enumerate(values):
        if elements:
            fitting = elements[: column.max_length]
            array[row, : len(fitting)] = fitting
    return array


def _storage(column: Column) -> tuple[type, Any]:
    if column.dtype == "string":
        return object, None
    if column.dtype == "float32":
        return np.float32, np.nan
    return np.int64, names.NULL_INT


def _is_live(dataset: Dataset, view: str, stamp_s: float, clock: Clock) -> bool:
    ttl = dataset.ttl(view)
    return ttl is None or clock().timestamp() - stamp_s <= ttl.total_seconds()


def _value(data: bytes | None, head: bytes) -> Any:
    """Decodes one of Feast's values that must begin with `head`; None for null.

    Raises:
        DecodeError: there is none, or another.
    """
    if not data:
        if data is None:
            raise DecodeError("no field")
        return None
    if not data.startswith(head):
        raise DecodeError("of another type")
    value = Value.FromString(data)
    kind = value.WhichOneof("val")
    found = getattr(value, kind)
    return list(found.val) if kind.endswith("_list_val") else found


def _keep(known: dict[bytes | None, Any], data: bytes | None, value: Any) -> None:
    """Keeps what a short value means."""
    if data is not None and len(data) <= SHORT:
        if len(known) >= CACHED_VALUES:
            known.clear()
        known[data] = value


def _kind(data: bytes) -> str:
    """What Feast calls a value that is stored."""
    try:
        return Value.FromString(data).WhichOneof("val") or "null"
    except DecodeError:
        return "no value"


def _pad_seen(seen: Sequence[Ids], width: int) -> Ids:
    padded = filled((len(seen), width), PAD_ID)
    for row, item_ids in enumerate(seen):
        fitting = item_ids[:width]
        padded[row, : len(fitting)] = fitting
    return padded
