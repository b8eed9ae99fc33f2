"""Streams of Redis as the consumer sees them: their entries, and how far a group of consumers is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from contract.events import ARCHIVE_GROUP, GROUP
from live.transaction import Transaction

START = "0-0"
"""The position before the first entry."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a stream. Its id begins with when it was added, Unix time in milliseconds."""

    stream: str
    entry_id: str
    fields: Mapping[bytes, bytes]

    @property
    def added_ms(self) -> int:
        """When it was added."""
        return int(self.entry_id.partition("-")[0])

    @property
    def size(self) -> int:
        """How many bytes its values have."""
        return sum(map(len, self.fields.values()))


@dataclass(frozen=True, slots=True)
class Position:
    """How far a consumer group is in a stream: the last entry's id, and how many were read."""

    last: str = START
    read: int = 0


def positions_of(groups: Iterable[Mapping[str, Any]]) -> dict[str, Position]:
    """Takes what XINFO GROUPS replied, gives the position of each group by its name."""
    return {
        _text(one["name"]): Position(_text(one["last-delivered-id"]), int(one.get("entries-read") or 0))
        for one in groups
    }


def set_position(transaction: Transaction, stream: str, group: str, position: Position) -> None:
    """Moves a group within a transaction."""
    transaction.write("XGROUP", "SETID", stream, group, position.last, "ENTRIESREAD", position.read)


def groups_of(redis: Any, stream: str) -> dict[str, Position]:
    """Gives the positions of a stream's groups; makes those that are missing, before its first entry."""
    try:
        found = positions_of(redis.xinfo_groups(stream))
    except ResponseError:  # there is no such stream yet
        found = {}
    for group in {GROUP, ARCHIVE_GROUP} - found.keys():
        redis.xgroup_create(stream, group, START, mkstream=True)
        found[group] = Position()
    return found


def entries_of(stream: str, found: Iterable[tuple[bytes, Mapping[bytes, bytes] | None]]) -> list[Entry]:
    """Takes entries as Redis replies with them; one that was deleted has no fields, and is left out."""
    return [Entry(stream, _text(entry_id), fields) for entry_id, fields in found if fields]


def parts_of(entries: Iterable[Entry], most: int, most_bytes: int) -> Iterator[list[Entry]]:
    """Cuts entries into parts of so many, and of so many bytes, at most; a larger entry is a part alone."""
    part: list[Entry] = []
    size = 0
    for entry in entries:
        if part and (len(part) == most or size + entry.size > most_bytes):
            yield part
            part, size = [], 0
        part.append(entry)
        size += entry.size
    if part:
        yield part


def after(entry_id: str) -> str:
    """The smallest id behind an entry's."""
    ms, _, number = entry_id.partition("-")
    return f"{ms}-{int(number) + 1}"


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
