"""The third level: every row of a bundle's tables, and of their updates, in one LMDB on the local disk."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from contract.arrays import Array, Floats, Ids, Ints
from ensemble.stores.embeddings.level import (
    EmbeddingError,
    FoundRows,
    RowKeys,
    Stamps,
    pack_rows,
    unpack_rows,
)

CHUNK = 50_000
"""Rows that are written at a time."""
MAP_BYTES = 1 << 40
"""Addresses that LMDB may use; the file is as long as what it holds."""
KEPT_S = 30.0
"""Seconds for which a row is kept that an update took the place of: who began before answers with it."""
_FACTS, _UPDATES = b"facts", b"updates"
_VERSION, _MADE_OF, _LET_GO = b"version", b"made_of", b"let_go"
_TIME = struct.Struct("<d")


@dataclass(frozen=True, eq=False)
class TableRows:
    """What a table is built from: `ids` int64 (N,), and where in `rows` (codes, W) each has its row, (N,)."""

    ids: Ids
    codes: Ints
    rows: Floats


@dataclass(frozen=True, eq=False)
class ChangedRows:
    """Rows of an update: of which column, `keys` with the update's stamp, and the stamps that they had."""

    column: str
    keys: RowKeys
    before: Stamps
    rows: Floats


class EmbeddingDisk:
    """One LMDB: a database per table, and the updates that were applied. Processes on one machine share it;
    each reads what was committed when it began, and one writes at a time."""

    def __init__(self, folder: Path) -> None:
        """Opens what `build` wrote.

        Raises:
            EmbeddingError: there is nothing, or it is damaged.
        """
        self.folder = folder
        if not (folder / "data.mdb").is_file():
            raise EmbeddingError(f"{folder}: holds no embeddings; run `make export`")
        with self._explained():
            self._env = _opened(folder)
            self._facts = self._env.open_db(_FACTS)
            self._updates = self._env.open_db(_UPDATES)
            self._tables: dict[str, Any] = {}

    @classmethod
    def build(cls, folder: Path, tables: Mapping[str, TableRows], made_of: str) -> bool:
        """Writes tables, by column, whole or not at all; `made_of` says from what. False where what is there
        was made of the same: it stays, with its updates.

        Raises:
            EmbeddingError: the folder cannot be made, or there is no room.
        """
        with suppress(EmbeddingError):  # nothing readable is there
            there = cls(folder)
            is_same = there._fact(_MADE_OF) == made_of.encode()
            there.close()
            if is_same:
                return False
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            with _explained(folder):
                temporary.mkdir(parents=True)
                _write(temporary, tables, made_of)
                shutil.rmtree(folder, ignore_errors=True)
                temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return True

    @property
    def version(self) -> int:
        """The newest update that it holds; 0 is the training."""
        return int(self._fact(_VERSION) or 0)

    def rows_of(self, column: str, width: int) -> DiskRows:
        """Gives a table as a level."""
        with self._explained():
            if column not in self._tables:
                self._tables[column] = self._env.open_db(column.encode(), create=False)
        return DiskRows(self, self._tables[column], width)

    def changed_since(self, version: int) -> Iterator[tuple[int, str, Ids]]:
        """Lists what the updates after one changed: update, column, ids (N,); the oldest first."""
        with self._explained(), self._env.begin(db=self._updates) as read:
            cursor = read.cursor()
            if not cursor.set_range(_update_key(version + 1, "")):
                return
            for key, record in cursor:
                changed_at, _, column = key.decode().partition(":")
                yield int(changed_at), column, _read_record(record)[1].ids

    def apply(self, version: int, changed: Iterable[ChangedRows], now_s: float) -> None:
        """Writes an update, whole or not at all, and lets go of rows that another one took the place of,
        `KEPT_S` before now, Unix time in seconds. Nothing where another process was faster.

        Raises:
            EmbeddingError: there is no room; what was there stays.
        """
        with self._explained(), self._env.begin(write=True) as write:
            if int(write.get(_VERSION, b"0", db=self._facts)) >= version:
                return
            gone: dict[str, list[tuple[Ids, Stamps]]] = {}
            for one in changed:
                items = zip(one.keys.packed(), pack_rows(one.keys, one.rows), strict=True)
                write.cursor(self._table(one.column)).putmulti(items)
                gone.setdefault(one.column, []).append((one.keys.ids, one.before))
            for column, parts in gone.items():
                ids, before = (np.concatenate(part) for part in zip(*parts, strict=True))
                record = _TIME.pack(now_s) + ids.tobytes() + before.tobytes()
                write.put(_update_key(version, column), record, db=self._updates)
            self._let_go(write, now_s - KEPT_S)
            write.put(_VERSION, str(version).encode(), db=self._facts)

    def close(self) -> None:
        """Closes the file."""
        self._env.close()

    def get(self, table: Any, keys: list[bytes]) -> dict[bytes, bytes]:
        """Reads what is there of some keys of a table.

        Raises:
            EmbeddingError: the file cannot be read.
        """
        with self._explained(), self._env.begin(db=table) as read:
            return dict(read.cursor().getmulti(keys))

    def put(self, table: Any, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Writes some keys of a table.

        Raises:
            EmbeddingError: there is no room.
        """
        with self._explained(), self._env.begin(db=table, write=True) as write:
            write.cursor().putmulti(items)

    def _let_go(self, write: Any, until_s: float) -> None:
        cursor, done = write.cursor(self._updates), int(write.get(_LET_GO, b"0", db=self._facts))
        if not cursor.set_range(_update_key(done + 1, "")):
            return
        for key, record in cursor:
            at_s, before = _read_record(record)
            if at_s > until_s:
                return
            changed_at, _, column = key.decode().partition(":")
            for one in before.packed():
                write.delete(one, db=self._table(column))
            write.put(_LET_GO, changed_at.encode(), db=self._facts)

    def _table(self, column: str) -> Any:
        if column not in self._tables:
            raise EmbeddingError(f"{self.folder}: has no table of {column}, which an update changes")
        return self._tables[column]

    def _fact(self, name: bytes) -> bytes | None:
        with self._explained(), self._env.begin(db=self._facts) as read:
            found: bytes | None = read.get(name)
            return found

    @contextmanager
    def _explained(self) -> Iterator[None]:
        with _explained(self.folder):
            yield


class DiskRows:
    """One table of an `EmbeddingDisk`."""

    name = "disk"

    def __init__(self, disk: EmbeddingDisk, table: Any, width: int) -> None:
        self._disk, self._table, self.width = disk, table, width

    def read(self, keys: RowKeys) -> FoundRows:
        """Looks up keys, in one transaction.

        Raises:
            EmbeddingError: the file cannot be read.
        """
        packed = keys.packed()
        found = self._disk.get(self._table, packed)
        return unpack_rows(keys, [found.get(key) for key in packed], self.width)

    def write(self, keys: RowKeys, rows: Floats) -> None:
        """Takes rows in, in one transaction.

        Raises:
            EmbeddingError: there is no room.
        """
        self._disk.put(self._table, zip(keys.packed(), pack_rows(keys, rows), strict=True))


def _opened(folder: Path, **options: Any) -> Any:
    # Rows are read from all over the file: reading ahead would fetch what nobody asked for.
    return lmdb.open(str(folder), map_size=MAP_BYTES, max_dbs=8, readahead=False, **options)


def _write(folder: Path, tables: Mapping[str, TableRows], made_of: str) -> None:
    env = _opened(folder, sync=False, lock=False)
    try:
        for column, table in tables.items():
            database, order = env.open_db(column.encode()), np.argsort(table.ids)
            for start in range(0, len(order), CHUNK):
                some: Array = order[start : start + CHUNK]
                keys = RowKeys.trained(table.ids[some])
                packed = pack_rows(keys, table.rows[table.codes[some]])
                with env.begin(db=database, write=True) as write:
                    write.cursor().putmulti(zip(keys.packed(), packed, strict=True), append=True)
        facts = env.open_db(_FACTS)
        with env.begin(db=facts, write=True) as write:
            write.put(_MADE_OF, made_of.encode())
        env.sync(True)
    finally:
        env.close()


def _update_key(version: int, column: str) -> bytes:
    return f"{version:010}:{column}".encode()


def _read_record(record: bytes) -> tuple[float, RowKeys]:
    """Gives when an update was applied, and the rows that it took the place of."""
    count = (len(record) - _TIME.size) // 12
    ids = np.frombuffer(record, np.int64, count, _TIME.size)
    before = np.frombuffer(record, np.int32, count, _TIME.size + 8 * count)
    return _TIME.unpack_from(record)[0], RowKeys(ids, before)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Says in one line what LMDB's error is."""
    try:
        yield
    except EmbeddingError:
        raise
    except (lmdb.Error, OSError) as error:
        said = " ".join(str(error).split())
        raise EmbeddingError(
            f"{folder}: {said}; nothing half-written is left: make room where the disk is full, or set "
            "SHORTLIST_EMBEDDINGS__FOLDER to a disk that has it, and run `make export` again"
        ) from error
