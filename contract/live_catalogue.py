"""What changes the catalogue and the users while it serves: as it stands in a stream of Redis, and in files
under `live/{dataset}/catalogue` of the run-time folder, which preparing reads.

A file holds a JSON object a line, each a `Change`; after a crash two files may hold the same one, so whoever
reads takes each once, by its `change_id`, in the order of those.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from contract.items import Row
from contract.live_files import live_folder, read_files
from contract.whole_file import drop_abandoned, whole_file

FIELD = "change"
PUT, TAKE_OUT, FORGET, SHOW = "put", "take_out", "forget", "show"
"""Kinds: items are put; one is taken out; all that is held of a user is deleted, or told."""
WHOLE = "whole"
MOST_FILES = 64
"""Files of a folder until they are made one."""


@dataclass(frozen=True, slots=True)
class Change:
    """`content` is of `PUT`: the items' numbers as text, each with its row; of the others: a number, as
    text."""

    change_id: str
    """The id of its entry in the stream: when it was accepted, Unix time in milliseconds, and a count."""
    kind: str
    content: Any

    @property
    def at_ms(self) -> int:
        """When it was accepted."""
        return int(self.change_id.partition("-")[0])

    @property
    def order(self) -> tuple[int, int]:
        """What changes are in order by."""
        ms, _, count = self.change_id.partition("-")
        return int(ms), int(count or 0)


def encode_change(kind: str, content: Any) -> bytes:
    """Packs what the stream holds of a change."""
    return json.dumps([kind, content], ensure_ascii=False, separators=(",", ":")).encode()


def decode_change(change_id: str, value: bytes) -> Change:
    """Unpacks `encode_change`.

    Raises:
        ValueError: it is something else.
    """
    try:
        kind, content = json.loads(value)
        return Change(change_id, str(kind), content)
    except (TypeError, ValueError) as error:
        raise ValueError(f"no change: {error}") from None


def digest_of_user(user_id: int) -> str:
    """What a tombstone says of a user in the place of the number."""
    return blake2b(b"user %d" % user_id, digest_size=16).hexdigest()


def catalogue_folder(var: Path, dataset: str) -> Path:
    """Where the files of a data set lie."""
    return live_folder(var, dataset) / "catalogue"


def write_changes(folder: Path, changes: Sequence[Change]) -> None:
    """Writes changes to a file of their own, whole or not at all; they are on the disk when it returns. Many
    files become one, of those changes that still say something."""
    if not changes:
        return
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / f"{changes[0].change_id}.jsonl", changes)
    files = change_files(folder)
    if len(files) > MOST_FILES:
        drop_abandoned(folder)
        known = read_changes(folder)
        name = f"{WHOLE}-{known[-1].change_id}.jsonl"  # no file of fewer changes has this name
        _write(folder / name, _lasting(known))
        for file in files:
            if file.name != name:
                file.unlink(missing_ok=True)


def read_changes(folder: Path) -> list[Change]:
    """Reads all changes, in order, each once."""
    found: dict[str, Change] = {}
    for text in read_files(lambda: change_files(folder), lambda file: file.read_text("utf-8")):
        for line in text.split("\n")[:-1]:  # not where texts hold what else may end a line
            change_id, kind, content = json.loads(line)
            found[change_id] = Change(change_id, kind, content)
    return sorted(found.values(), key=lambda one: one.order)


def change_files(folder: Path) -> list[Path]:
    """Lists the files of changes."""
    return sorted(folder.glob("*.jsonl"))


@dataclass(frozen=True, eq=False)
class LiveState:
    """What changes amount to: by number the row of each item that was put, None of one that was taken out;
    and by the digest of each user who was forgotten, until when, Unix time in milliseconds."""

    items: dict[int, Row | None]
    forgotten: dict[str, int]

    @classmethod
    def of(cls, changes: Sequence[Change]) -> LiveState:
        """Takes changes in their order."""
        items: dict[int, Row | None] = {}
        forgotten: dict[str, int] = {}
        for change in changes:
            if change.kind == PUT:
                items |= {int(number): row for number, row in change.content.items()}
            elif change.kind == TAKE_OUT:
                items[int(change.content)] = None
            elif change.kind == FORGET:
                forgotten[str(change.content)] = change.at_ms
        return cls(items, forgotten)


def _lasting(changes: Sequence[Change]) -> list[Change]:
    """Takes changes in their order, gives what they amount to: of each item, and of each user who was
    forgotten, the last one, in the same order."""
    lasting: list[Change] = []
    items: set[str] = set()
    users: set[str] = set()
    for change in reversed(changes):
        if change.kind == PUT:
            rows = {number: row for number, row in change.content.items() if number not in items}
            if rows:
                lasting.append(replace(change, content=rows))
            items |= rows.keys()
            continue
        later = users if change.kind == FORGET else items
        if change.content not in later:
            lasting.append(change)
        later.add(change.content)
    return lasting[::-1]


def _write(path: Path, changes: Sequence[Change]) -> None:
    with whole_file(path, is_durable=True) as file:
        for one in changes:
            record = [one.change_id, one.kind, one.content]
            file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
