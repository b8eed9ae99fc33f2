"""The streams of a data set's events, as the gateway appends to them and looks how far the consumer is."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from contract.environment import RedisUrl
from contract.events import FIELD, GROUP, PARTITIONS, Event, partition_of
from contract.feast import AVAILABILITY_FIELD, event_time_field, feature_key
from contract.keys import event_mark_key, event_stream_key
from contract.names import ITEM_ID, USER_ID, USER_VIEWS
from service.events.check import AHEAD_S
from service.failures import DependencyUnavailable, TooFarBehind
from service.settings import Settings
from service.store.redis_reader import REDIS, Fields, RedisReader
from service.store.redis_store import Cache

log = structlog.get_logger()

_APPEND = """
local most, seconds, field, at = tonumber(ARGV[1]), ARGV[2], ARGV[3], 4
for _, stream in ipairs(KEYS) do
  if redis.call('XLEN', stream) >= most then return -1 end
end
local accepted = 0
while at < #ARGV do
  local stream, mark, event = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2]
  if redis.call('SET', mark, '1', 'NX', 'EX', seconds) then
    redis.call('XADD', stream, '*', field, event)
    accepted = accepted + 1
  else
    redis.call('SET', mark, '1', 'XX', 'KEEPTTL')
  end
  at = at + 3
end
return accepted
"""
"""Appends the events whose marks do not stand yet, and sets those: whole or not at all, -1 where a stream is
too long. A mark that stands is written again as it is: to wait for this write is to wait for the first."""
_ADD = """
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then return -1 end
return redis.call('XADD', KEYS[1], '*', ARGV[2], ARGV[3])
"""
"""Appends one entry, or gives -1 where the stream is too long."""
_ON_DISK = ("WAITAOF", 1, 0)
_OF_USERS = tuple(event_time_field(view) for view in USER_VIEWS)
_KEPT, _KEPT_S = 100_000, 60.0
"""Users, and items, that are kept as known, and for how many seconds."""


@dataclass(frozen=True)
class EventLag:
    """How far the consumer is: events without their effect, how long the oldest waits in seconds, and events
    in the streams at all, those included that wait for the archive."""

    events: int
    seconds: float
    backlog: int


class EventLog:
    """The streams of one data set. Every method raises `DependencyUnavailable` where Redis does not answer in
    time or refuses."""

    def __init__(
        self,
        url: RedisUrl,
        dataset: str,
        *,
        timeout_s: float,
        keep_s: float,
        most: int,
        most_changes: int,
        is_synced: bool,
    ) -> None:
        """`keep_s`: seconds for which an event is known again; `most`: events that may wait in all streams;
        `most_changes`: the same of changes; `is_synced`: accepted means on the disk, not only in Redis."""
        self._url, self._dataset, self._timeout_s = url, dataset, timeout_s
        self._keep_s, self._most, self._is_synced = round(keep_s), max(1, most // PARTITIONS), is_synced
        self._most_changes = most_changes
        self._reader = RedisReader(url, timeout_s)
        self._known_users, self._known_items = Cache[bool](_KEPT, _KEPT_S), Cache[bool](_KEPT, _KEPT_S)
        self._streams = [event_stream_key(dataset, partition) for partition in range(PARTITIONS)]

    @classmethod
    def of(cls, dataset: str, settings: Settings) -> EventLog:
        """The streams of a data set, as the settings say."""
        events = settings.events
        return cls(
            settings.redis_url,
            dataset,
            timeout_s=events.timeout_ms / 1000,
            keep_s=events.max_age_s + AHEAD_S,
            most=events.most_waiting,
            most_changes=events.most_changes,
            is_synced=events.synced,
        )

    async def open(self) -> None:
        """Makes the client; it connects when needed."""
        await self._reader.open()

    async def close(self) -> None:
        """Closes all connections."""
        await self._reader.close()

    async def append(self, events: Sequence[tuple[Event, int]]) -> int:
        """Takes events with the numbers of their users, gives how many are new; those lie in the streams now.

        Raises:
            TooFarBehind: so many events wait already that no more are taken.
        """
        partitions = [partition_of(user_id) for _, user_id in events]
        places = {partition: place for place, partition in enumerate(dict.fromkeys(partitions), 1)}
        arguments: list[Any] = [self._most, self._keep_s, FIELD]
        for partition, (event, _) in zip(partitions, events, strict=True):
            mark = event_mark_key(self._dataset, event.mark)
            arguments += (places[partition], mark, event.encode())
        streams = map(self._streams.__getitem__, places)
        accepted = await self.write("EVAL", _APPEND, len(places), *streams, *arguments)
        if accepted < 0:
            raise TooFarBehind(self._most * PARTITIONS, "events")
        return int(accepted)

    async def add(self, stream: str, field: str, change: bytes) -> str:
        """Appends a change of items or users to a stream, gives its id.

        Raises:
            TooFarBehind: so many wait already that no more are taken.
        """
        entry = await self.write("EVAL", _ADD, 1, stream, self._most_changes, field, change)
        if entry == -1:
            raise TooFarBehind(self._most_changes, "changes of items and users")
        return _text(entry)

    async def write(self, *command: Any) -> Any:
        """Runs a command that writes, gives its reply: kept, and where that is asked for, on the disk."""
        waiting = [(*_ON_DISK, round(self._timeout_s * 1000))] if self._is_synced else []
        try:
            reply, *on_disk = await self._reader.pipelined([command, *waiting], self._timeout_s + 1)
        except DependencyUnavailable as error:
            log.warning("not_kept", command=str(command[0]), reason=error.reason)
            raise
        if on_disk and not on_disk[0][0] and reply != -1:
            raise DependencyUnavailable(REDIS, f"{self._url.address}: its disk is late", is_late=True)
        return reply

    async def take(self, key: str) -> bytes | None:
        """Reads a key, which is gone then: what it tells of a user outlasts no answer."""
        replies: list[bytes | None] = await self._reader.pipelined([("GETDEL", key)], self._timeout_s)
        return replies[0]

    async def unknown(self, user_ids: Sequence[int], item_ids: Sequence[int]) -> tuple[set[int], set[int]]:
        """Gives those of the users, and those of the items, of whom Redis holds nothing; who was known a
        minute ago is taken for known, an item until it is dropped."""
        known = self._known_users.get(user_ids), self._known_items.get(item_ids)
        users = [one for one in user_ids if one not in known[0]]
        items = [one for one in item_ids if one not in known[1]]
        wanted: list[Fields] = [(feature_key(USER_ID, one, self._dataset), *_OF_USERS) for one in users]
        wanted += [(feature_key(ITEM_ID, one, self._dataset), AVAILABILITY_FIELD) for one in items]
        replies = await self._reader.get_fields(wanted, self._timeout_s) if wanted else []
        is_known = [any(value is not None for value in values) for values in replies]
        found = (
            dict(zip(users, is_known, strict=False)),
            dict(zip(items, is_known[len(users) :], strict=True)),
        )
        for cache, are_known in zip((self._known_users, self._known_items), found, strict=True):
            cache.put({one: True for one, is_there in are_known.items() if is_there})
        return _false_of(found[0]), _false_of(found[1])

    def drop_items(self, item_ids: Iterable[int]) -> None:
        """Takes items for known no more: they may have been taken out."""
        self._known_items.drop(item_ids)

    async def lag(self, timeout_s: float) -> EventLag:
        """Looks how far the consumer is, in `timeout_s` seconds."""
        commands = [(command, stream) for stream in self._streams for command in ("XLEN", "XINFO GROUPS")]
        replies = await self._reader.pipelined(commands, timeout_s, raise_on_error=False)
        lengths, lags, unread = 0, 0, []
        for stream, length, groups in zip(self._streams, replies[::2], replies[1::2], strict=True):
            by_name = {_text(one["name"]): one for one in groups} if isinstance(groups, list) else {}
            mine = by_name.get(GROUP, {"lag": length, "last-delivered-id": "-"})
            lengths, lags = lengths + length, lags + int(length if mine["lag"] is None else mine["lag"])
            last = _text(mine["last-delivered-id"])
            unread.append(("XRANGE", stream, last if last == "-" else f"({last}", "+", "COUNT", 1))
        first = [found[0][0] for found in await self._reader.pipelined(unread, timeout_s) if found]
        oldest_s = min((int(_text(one).partition("-")[0]) / 1000 for one in first), default=time.time())
        return EventLag(lags, max(0.0, time.time() - oldest_s), lengths)


def _false_of(flags: Mapping[int, bool]) -> set[int]:
    return {one for one, is_true in flags.items() if not is_true}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
