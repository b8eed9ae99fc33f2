"""No file and no `dataset.yaml` ends in a traceback: what cannot be read is refused in words, and nothing is
written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from contract.dataset import DatasetError
from tests.builders.datasets import own_tables, quiet, write_own
from training.data.sources import catalog

ID = {"role": "id"}
Spoil = Callable[[Path], object]
CSV = "user_id,user_city\n" + "".join(f"{i},a\n" for i in range(20))


def declare(**keys: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        file = folder / "dataset.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | keys))

    return spoil


def written(data: str | bytes) -> Spoil:
    return lambda folder: (folder / "dataset.yaml").write_bytes(
        data if isinstance(data, bytes) else data.encode()
    )


def users(name: str, data: str | bytes) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / "users.parquet").unlink()
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())

    return spoil


def table(data: pa.Table) -> Spoil:
    return lambda folder: pq.write_table(data, folder / "users.parquet")


def both(*spoils: Spoil) -> Spoil:
    return lambda folder: [spoil(folder) for spoil in spoils]


def two_parts(folder: Path) -> None:
    (folder / "users.parquet").rename(folder / "a.parquet")
    (folder / "users").mkdir()
    (folder / "a.parquet").rename(folder / "users" / "a.parquet")
    own_tables()["users"].assign(user_city=[[1]] * 20).to_parquet(folder / "users" / "b.parquet")


def a_folder_for_a_file(folder: Path) -> None:
    (folder / "dataset.yaml").unlink()
    (folder / "dataset.yaml").mkdir()


def ids(*more: tuple[str, pa.Array]) -> pa.Table:
    return pa.Table.from_arrays(
        [pa.array(range(20)), *(a for _, a in more)], names=["user_id", *(n for n, _ in more)]
    )


BROKEN: dict[str, tuple[Spoil, str]] = {
    "a name twice": (table(ids(("user_id", pa.array(range(20))))), "several columns"),
    "no rows": (lambda folder: own_tables()["users"].head(0).to_parquet(folder / "users.parquet"), "0 rows"),
    "no columns": (lambda folder: pd.DataFrame().to_parquet(folder / "users.parquet"), "is missing"),
    "a map": (
        table(ids(("user_city", pa.array([[("a", 1)]] * 20, pa.map_(pa.string(), pa.int64()))))),
        "map<string, int64",
    ),
    "an empty file": (lambda folder: (folder / "users.parquet").write_bytes(b""), "not a parquet file"),
    "no gzip": (users("users.csv.gz", b"nope"), "not a table of text"),
    "a zero byte": (users("users.csv", b"user_id,user_city\n1,a\0b\n2,\n"), "2 rows"),
    "a parquet file called csv": (
        lambda folder: (folder / "users.parquet").rename(folder / "users.csv"),
        "bytes that no text has",
    ),
    "a packed sheet called csv": (
        users("users.csv", b"PK\x03\x04\x14\0\x06\0\x08\0!\0\r\xee\x9dh^\n" * 9),
        "bytes that no text has",
    ),
    "noise called csv": (users("users.csv", bytes(range(256)) * 40), "no text has"),
    "letters of no encoding": (users("users.csv", b"user_id,user_city\n1,\x81\n"), "files.users.encoding"),
    "utf-16 without a mark": (users("users.csv", CSV.encode("utf-16-le")), "files.users.encoding"),
    "a quote that never ends": (users("users.csv", 'user_id,"' + "a" * 200_000), "close its quotes"),
    "a header alone": (users("users.csv", "user_id,user_city\n"), "0 rows"),
    "an encoding that is none": (
        both(users("users.csv", CSV), declare(files={"users": {"encoding": "utf-99"}})),
        "utf-99",
    ),
    "an encoding of bytes": (
        both(users("users.csv", CSV), declare(files={"users": {"encoding": "hex"}})),
        "hex",
    ),
    "another encoding than told": (
        both(users("users.csv", b"user_id\n\xe5\n"), declare(files={"users": {"encoding": "utf-8"}})),
        "files.users.encoding",
    ),
    "a delimiter of two bytes": (declare(files={"users": {"delimiter": "¦"}}), "files.users.delimiter"),
    "a delimiter that ends lines": (declare(files={"users": {"delimiter": "\n"}}), "files.users.delimiter"),
    "no path": (declare(files={"users": {"path": ""}}), "files.users.path"),
    "a path to what is no table": (declare(files={"users": {"path": "/etc/passwd"}}), "by its ending"),
    "json of two types": (users("users.jsonl", '{"user_id":1}\n{"user_id":"a"}\n'), "one object a line"),
    "json of one array": (users("users.json", json.dumps([{"user_id": 1}])), "one object a line"),
    "json of structs": (users("users.jsonl", '{"user_id":1,"user_city":{"a":1}}\n' * 20), "struct<a: int64>"),
    "a folder without a file": (both(users("users/note.md", ""),), "no file of users"),
    "a damaged part": (users("users/a.parquet", "x"), "not a parquet file"),
    "parts that disagree": (two_parts, "its parts disagree"),
    "an empty declaration": (written(""), "must be a mapping"),
    "a list": (written("- a"), "must be a mapping"),
    "a call": (written("!!python/object/apply:os.system ['true']"), "not valid YAML"),
    "bytes": (written(b"\xff\xfe\x00"), "not valid YAML"),
    "a tab": (written("name:\tx"), "not valid YAML"),
    "a thousand brackets": (written("a: " + "[" * 2_000), "nested too deeply"),
    "itself": (written("a: &a [*a]"), "name: Field required"),
    "a table of null": (written("name: a\nusers: null\nitems: null\ninteractions: null"), "valid dictionary"),
    "a column called 1": (written("name: a\nusers: {1: {role: id}}\nitems: {}\ninteractions: {}"), "users.1"),
    "a folder for a file": (a_folder_for_a_file, "cannot be read"),
    "a clock of the year 1": (declare(as_of="0001-01-01T00:00:00+14:00"), "as_of: 0001-01-01"),
    "a clock beyond the calendar": (declare(as_of="9999-12-31T23:59:59-23:00"), "as_of: 9999-12-31"),
    "a history until the year 9999": (declare(history_until="9999-12-31"), "history_until: 9999-12-31"),
    "a split from the year 1": (
        declare(
            split={"train_until": "0001-01-01", "validate_until": "2025-03-05", "test_until": "2025-03-09"}
        ),
        "split.train_until: 0001-01-01",
    ),
    "lists without end": (declare(activity={"recent_items": 10**9}), "activity.recent_items"),
    "a snapshot in a million years": (declare(activity={"snapshot_hours": 10**9}), "activity.snapshot_hours"),
    "a life without end": (declare(ttl_s={"user_profile": 10**30}), "ttl_s.user_profile"),
    "a word for a label": (
        declare(interactions={"user_id": ID, "item_id": ID, "none": {"role": "label"}}),
        "interactions.none",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "expected"), BROKEN.values(), ids=BROKEN.keys())
def test_what_cannot_be_read_is_refused_in_words(spoil: Spoil, expected: str, tmp_path: Path) -> None:
    folder = write_own(tmp_path / "books")
    spoil(folder)
    with pytest.raises(DatasetError) as failure:
        catalog.prepare(str(folder), folder, tmp_path / "var", say=quiet)
    assert expected in str(failure.value)
    assert not (tmp_path / "var").exists()
