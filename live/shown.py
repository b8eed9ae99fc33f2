"""The notes of what was shown: from their stream to the archive, and back."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from contract import names
from contract.dataset import Dataset
from contract.event_archive import TIME, archive_tables, tables_of_user
from contract.keys import shown_key
from contract.shown import Shown, shown_folder
from live.archive import Archive
from live.streams import Entry
from live.transaction import Transaction

SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("at", TIME),
        ("bundle", pa.string()),
        ("arm", pa.string()),
        ("source", pa.string()),
        (names.USER_ID, pa.int64()),
        ("item_ids", pa.list_(pa.int64())),
        ("scores", pa.list_(pa.float32())),
        ("chances", pa.list_(pa.float32())),
        ("degraded", pa.list_(pa.string())),
        ("context", pa.string()),
        ("first_place", pa.int64()),
        ("is_plain", pa.bool_()),
    ]
)
"""A row is one answer; users and items are numbers (`contract/ids.py`), the context is JSON."""


class ShownHandler:
    """Handles the notes of one data set: they change nothing, and are archived."""

    def __init__(self, dataset: Dataset, var: Path) -> None:
        self.streams = [shown_key(dataset.name)]
        self.archive = Archive(shown_folder(var, dataset.name), lambda entries: table_of(notes_in(entries)))

    def apply(self, entries: Sequence[Entry], transaction: Transaction) -> None:
        """Adds nothing."""


def notes_in(entries: Sequence[Entry]) -> list[Shown]:
    """Reads notes; what is none is said and left out."""
    notes = []
    for entry in entries:
        try:
            notes.append(Shown.of(entry.fields))
        except ValueError as error:
            sys.stderr.write(f"{entry.stream} {entry.entry_id}: {error}; left out\n")
    return notes


def table_of(notes: Sequence[Shown]) -> pa.Table:
    """Takes notes, gives the rows of the archive."""
    rows: dict[str, list[Any]] = {
        name: [getattr(note, name, None) for note in notes] for name in SCHEMA.names if name != "at"
    }
    rows["at"] = [note.at_ms * 1000 for note in notes]
    rows["context"] = [json.dumps(note.context or {}) for note in notes]
    return pa.table([pa.array(rows[one.name], one.type) for one in SCHEMA], schema=SCHEMA)


def read_shown(var: Path, dataset: str, user_id: int | None = None) -> list[Shown]:
    """Reads the archive's notes, all or those of one user, oldest first, each answer once: after a crash it
    may stand in two files."""
    notes: dict[tuple[str, int, int], Shown] = {}
    folder = shown_folder(var, dataset)
    for table in archive_tables(folder) if user_id is None else tables_of_user(folder, user_id):
        for row in table.to_pylist():
            at_ms = round(row.pop("at").timestamp() * 1000)
            places = {name: tuple(row[name]) for name in ("item_ids", "scores", "chances", "degraded")}
            note = Shown(at_ms=at_ms, **row | places | {"context": json.loads(row["context"]) or None})
            notes.setdefault((note.request_id, note.user_id, at_ms), note)
    return sorted(notes.values(), key=lambda note: note.at_ms)
