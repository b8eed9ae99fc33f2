"""The users whom a run computes: read from where they are named, checked, each once, and cut into shards."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from batch.errors import BatchError
from batch.runs.changes import ChangedUsers
from contract.arrays import Ids
from contract.dataset import Dataset
from contract.ids import FIRST, LAST, MAX_LENGTH, IdDtype, number_of_text
from contract.names import USER_ID

BUCKET = 2_000_000
"""Ids that are compared with each other at a time, so that memory does not grow with their number."""
ROWS = 65_536
"""Rows read at a time."""
DIGITS = r"^-?\d{1,19}$"
MALFORMED, DUPLICATE = "malformed", "duplicate"
ADVICE = "prepare the data with `make data`, or name users by --users"


@dataclass(frozen=True)
class Selection:
    """Whose slates are made: everyone's, or those of some users. `is_alone` publishes only theirs; else they
    renew a part of what is published."""

    users: str = ""
    active_since: datetime | None = None
    changed: bool = False
    is_alone: bool = False

    @property
    def is_everyone(self) -> bool:
        """Whether nobody is left out."""
        return not self.users and self.active_since is None and not self.changed


@dataclass(frozen=True)
class SelectedUsers:
    """The users of a run: a description, a fingerprint that changes when they may have, and `ids` that reads
    them."""

    description: str
    fingerprint: str
    ids: Iterable[Any]
    at_most: int
    is_list: bool = False
    """Whether each user is meant to be named once: a second time is counted."""
    read: Callable[[Any], Ids] = lambda values: _whole_numbers(values)
    """Takes an array of `ids`, gives numbers of users; what is none is left out."""


def everyone(data: Path) -> SelectedUsers:
    """Takes the folder of the prepared tables, selects each user with a row or an interaction.

    Raises:
        BatchError: the tables are not there.
    """
    tables = [_table(data / name) for name in ("users.parquet", "interactions.parquet")]
    return SelectedUsers(
        "everyone", _fingerprint(data / "interactions.parquet"), _columns(tables), _rows(tables)
    )


def active_since(data: Path, dataset: Dataset, since: datetime) -> SelectedUsers:
    """Selects the users with an interaction at or after an instant.

    Raises:
        BatchError: the tables are not there.
    """
    path = data / "interactions.parquet"
    table = _table(path)
    later = ds.field(dataset.timestamp) >= pa.scalar(since, pa.timestamp("us", tz="UTC"))
    description = f"active since {since.isoformat()}"
    return SelectedUsers(description, _fingerprint(path), _columns([table], later), table.count_rows())


def listed(url: str, dtype: IdDtype = "int64") -> SelectedUsers:
    """Selects the users that the column `user_id` of a Parquet file or folder names, by their own ids of this
    dtype; a path, or any address that fsspec knows, such as s3://bucket/users.parquet.

    Raises:
        BatchError: it cannot be read, or has no such column of ids.
    """
    try:
        files, path = fsspec.core.url_to_fs(url)
        if not files.exists(path):
            raise BatchError(f"{url}: not found; name a Parquet file or a folder of them")
        table = ds.dataset(path, filesystem=files, format="parquet")
        fingerprint = ",".join(str(files.ukey(name)) for name in sorted(files.find(path)))
        rows = table.count_rows()  # looks into each file, so that what is no Parquet is told here
    except ImportError as error:
        raise BatchError(f"{url}: {error}; install what opens it into the batch environment") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BatchError(f"{url}: {str(error).splitlines()[0]}; name a Parquet file") from None
    if USER_ID not in table.schema.names:
        found = ", ".join(table.schema.names[:8]) or "none"
        raise BatchError(f"{url}: has no column {USER_ID}, only {found}; rename the column of the users")
    kind = table.schema.field(USER_ID).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_number = pa.types.is_integer(kind) or (pa.types.is_floating(kind) and dtype == "int64")
    if not (is_number or _is_text(kind)):
        wanted = "text" if dtype == "string" else "whole numbers"
        raise BatchError(f"{url}: {USER_ID} is of type {kind}; write {wanted}")
    read = _numbers_of_texts if dtype == "string" else _whole_numbers
    return SelectedUsers(f"users of {url}", fingerprint, _columns([table]), rows, is_list=True, read=read)


def changed(users: ChangedUsers, until_s: float) -> SelectedUsers:
    """Selects the users who are noted as changed up to a Unix time."""
    return SelectedUsers("changed", "", map(pa.array, users.read(until_s)), users.count(until_s))


@dataclass(frozen=True)
class Shards:
    """What was written: users in all, and how many entries were skipped, by reason."""

    users: int
    skipped: dict[str, int]


def write_shards(selected: SelectedUsers, folder: Path, shard_users: int) -> Shards:
    """Writes each selected user once, as `part-00000.parquet` and so on of at most `shard_users`, int64.

    A folder that is there is whole: it is written under another name first. Neither the users nor what they
    are compared with are ever all in memory.

    Raises:
        BatchError: nobody is selected, or they cannot be read.
    """
    temporary = folder.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    skipped: Counter[str] = Counter()
    buckets = [temporary / f"bucket-{number}" for number in range(selected.at_most // BUCKET + 1)]
    for values in _readable(selected):
        ids = selected.read(values)
        skipped[MALFORMED] += len(values) - len(ids)
        for number, bucket in enumerate(buckets):
            with bucket.open("ab") as file:
                ids[ids % len(buckets) == number].tofile(file)
    users = parts = 0
    left = np.empty(0, dtype=np.int64)
    for bucket in buckets:
        ids = np.fromfile(bucket, dtype=np.int64) if bucket.is_file() else left[:0]
        unique = np.unique(ids)
        if selected.is_list:
            skipped[DUPLICATE] += len(ids) - len(unique)
        users += len(unique)
        left = np.concatenate([left, unique])
        is_last = bucket is buckets[-1]
        while len(left) >= shard_users or (is_last and len(left)):
            _write(left[:shard_users], temporary / f"part-{parts:05}.parquet")
            left, parts = left[shard_users:], parts + 1
        bucket.unlink(missing_ok=True)
    if not users:
        shutil.rmtree(temporary)
        malformed = f" ({skipped[MALFORMED]} malformed)" if skipped[MALFORMED] else ""
        raise BatchError(f"{selected.description}: no users{malformed}; nothing to compute")
    temporary.rename(folder)
    return Shards(users, {reason: count for reason, count in skipped.items() if count})


def _readable(selected: SelectedUsers) -> Iterator[Any]:
    """Gives the ids as they are read."""
    try:
        yield from selected.ids
    except (OSError, pa.ArrowException) as error:
        said = str(error).splitlines()[0]
        raise BatchError(f"{selected.description}: {said}; write the file anew, then run it again") from None


def _write(ids: Ids, path: Path) -> None:
    pq.write_table(pa.table({USER_ID: ids}), path)


def _whole_numbers(values: Any) -> Ids:
    """Takes an Arrow array of any readable type, gives its ids: whole numbers of 64 bits; the rest is left
    out."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if _is_text(values.type):
        whole = values.filter(pc.match_substring_regex(values, DIGITS)).cast(pa.decimal128(20, 0))
        inside = pc.and_(pc.less_equal(whole, LAST), pc.greater_equal(whole, FIRST))
        values = whole.filter(inside).cast(pa.int64())
    elif pa.types.is_floating(values.type):
        values = values.cast(pa.float64())  # Arrow does not compare half floats
        is_whole = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), 2.0**53))
        values = values.filter(is_whole).cast(pa.int64())
    elif pa.types.is_uint64(values.type):
        values = values.filter(pc.less(values, pa.scalar(2**63, pa.uint64())))
    ids: Ids = values.drop_null().cast(pa.int64()).to_numpy(zero_copy_only=False)
    return ids[ids >= FIRST]


def _numbers_of_texts(values: Any) -> Ids:
    """Takes an Arrow array of ids that are text, gives their numbers; what cannot be an id is left out."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    texts = values.drop_null().cast(pa.string())
    sizes = pc.utf8_length(texts)
    texts = texts.filter(pc.and_(pc.greater(sizes, 0), pc.less_equal(sizes, MAX_LENGTH)))
    return np.fromiter(map(number_of_text, texts.to_pylist()), np.int64, len(texts))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _table(path: Path) -> Any:
    if not path.is_file():
        raise BatchError(f"{path}: not found; {ADVICE}")
    return ds.dataset(path, format="parquet")


def _columns(tables: Iterable[Any], condition: Any = None) -> Iterator[Any]:
    for table in tables:
        for batch in table.to_batches(columns=[USER_ID], filter=condition, batch_size=ROWS):
            yield batch.column(0)


def _rows(tables: Iterable[Any]) -> int:
    return sum(int(table.count_rows()) for table in tables)


def _fingerprint(path: Path) -> str:
    facts = path.stat()
    return f"{facts.st_size}-{facts.st_mtime_ns}"
