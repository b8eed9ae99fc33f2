"""Ids as people have them: text, and integers of either sign and 64 bits, from a file to a prepared table."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from contract.dataset import Dataset, DatasetError
from contract.ids import number_of_text
from contract.texts import USERS, Texts
from tests.builders.datasets import (
    DECLARATION,
    OWN_USERS,
    TEXT_IDS,
    own_tables,
    quiet,
    text_tables,
    write_own,
)
from training.data.first_draft import write_draft
from training.data.numbering import with_numbers
from training.data.prepared import Prepared
from training.data.sources import catalog
from training.data.validate import ProblemsError
from training.export.serving_files import popular_slate


def prepare(folder: Path) -> Prepared:
    return catalog.prepare(str(folder), folder, folder / "var", say=quiet)


def fault(folder: Path) -> str:
    with pytest.raises(DatasetError) as refused:
        prepare(folder)
    return str(refused.value)


def texts_of(prepared: Prepared) -> list[str]:
    texts = Texts.open(prepared.folder, USERS)
    return sorted(str(texts.of(number)) for number in prepared.users["user_id"])


def as_csv(folder: Path) -> Path:
    """Writes the tables of a folder as CSV instead."""
    for file in folder.glob("*.parquet"):
        frame = pd.read_parquet(file)
        if "item_topics" in frame:
            frame = frame.drop(columns="item_topics")
        frame.to_csv(file.with_suffix(".csv"), index=False)
        file.unlink()
    return folder


def test_text_ids_become_numbers_and_the_text_stays_beside_them(tmp_path: Path) -> None:
    prepared = prepare(write_own(tmp_path / "books", text_tables(), TEXT_IDS))
    assert set(prepared.users["user_id"]) == {number_of_text(text) for text in OWN_USERS}
    assert texts_of(prepared) == sorted(OWN_USERS)
    assert sorted(prepared.items["own_item_id"]) == [f"B00{i}" for i in range(100, 115)]
    assert set(prepared.interactions["user_id"]) == {number_of_text(text) for text in OWN_USERS}
    assert prepared.interactions["item_id"].isin(prepared.items["item_id"]).all()
    assert Dataset.load(prepared.folder).item_id_dtype == "string"


def test_text_ids_of_a_csv_are_what_parquet_has(tmp_path: Path) -> None:
    tables = text_tables()
    for frame in tables.values():  # an empty text, and a byte of zero, are what CSV does not hold
        if "user_id" in frame:
            frame["user_id"] = frame["user_id"].str.replace("\x00", " ", regex=False) + " "
    declaration = TEXT_IDS | {"items": {n: c for n, c in TEXT_IDS["items"].items() if n != "item_topics"}}
    one = prepare(write_own(tmp_path / "parquet", tables, declaration))
    other = prepare(as_csv(write_own(tmp_path / "csv", tables, declaration)))
    pd.testing.assert_frame_equal(one.users, other.users)
    assert texts_of(one) == texts_of(other)
    assert all(text.endswith(" ") for text in texts_of(other))


@pytest.mark.parametrize("shift", [-(2**63) + 1, -7, 2**63 - 20], ids=["smallest", "around 0", "largest"])
@pytest.mark.parametrize("is_csv", [False, True], ids=["parquet", "csv"])
def test_an_integer_of_any_sign_stays_itself(shift: int, is_csv: bool, tmp_path: Path) -> None:
    tables = own_tables()
    for name in ("users", "interactions"):
        tables[name]["user_id"] += shift
    declaration = DECLARATION | {
        "items": {n: c for n, c in DECLARATION["items"].items() if n != "item_topics"}
    }
    folder = write_own(tmp_path / "books", tables, declaration)
    prepared = prepare(as_csv(folder) if is_csv else folder)
    assert prepared.users["user_id"].tolist() == [shift + i for i in range(20)]
    assert set(prepared.interactions["user_id"]) == set(prepared.users["user_id"])
    assert not (prepared.folder / "user_texts.npy").exists()


KINDS: dict[str, Any] = {
    "uint64": lambda numbers: pd.Series([2**64 - 30 + n for n in numbers], dtype="uint64"),
    "decimal": lambda numbers: pd.Series([Decimal(2**70 + n) for n in numbers]),
    "category": lambda numbers: pd.Series([f"u {n}" for n in numbers], dtype="category"),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_ids_beyond_int64_are_refused_by_name_and_the_remedy_works(kind: Any, tmp_path: Path) -> None:
    tables = own_tables()
    for name in ("users", "interactions"):
        tables[name]["user_id"] = kind(tables[name]["user_id"])
    message = fault(write_own(tmp_path / "books", tables))
    assert "users.parquet: column user_id" in message
    assert "`dtype: string` on it, in each table" in message
    prepared = prepare(write_own(tmp_path / "mended", tables, _texts("user_id")))
    assert texts_of(prepared) == sorted(tables["users"]["user_id"].astype(str))
    assert set(prepared.interactions["user_id"]) == set(prepared.users["user_id"])


def _texts(key: str) -> dict[str, Any]:
    return DECLARATION | {
        table: columns | {key: TEXT_IDS[table][key]}
        for table, columns in DECLARATION.items()
        if isinstance(columns, dict) and key in columns
    }


def test_two_texts_of_one_number_are_refused_with_both() -> None:
    tables = {
        "users": pa.table({"user_id": ["ann", "bob", "cid"]}),
        "interactions": pa.table({"user_id": ["ann", "dora"], "item_id": [1, 2]}),
    }
    _, _, problems = with_numbers(tables, number=len)
    assert len(problems) == 2
    assert "'ann' and 'bob' would have the same number (3)" in problems[0]
    numbered, texts, none = with_numbers(tables)
    assert none == []
    assert numbered["interactions"]["user_id"].to_pylist() == [number_of_text("ann"), number_of_text("dora")]
    assert texts["user_id"][number_of_text("cid")] == "cid"
    assert "item_id" not in texts


def test_a_collision_refuses_the_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weak = with_numbers.__defaults__
    monkeypatch.setattr(with_numbers, "__defaults__", (lambda text: number_of_text(text) % 7,))
    assert "would have the same number" in fault(write_own(tmp_path / "books", text_tables(), TEXT_IDS))
    assert weak == (number_of_text,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", "is an empty text in 1 rows"), ("å" * 257, "longer than 256 characters in 1 rows")],
)
def test_texts_that_cannot_be_ids_are_refused(text: str, expected: str, tmp_path: Path) -> None:
    tables = text_tables()
    tables["users"].loc[0, "user_id"] = text
    assert expected in fault(write_own(tmp_path / "books", tables, TEXT_IDS))


def test_messages_name_text_ids_as_the_file_has_them(tmp_path: Path) -> None:
    tables = text_tables()
    tables["users"].loc[1, "user_id"] = OWN_USERS[0]
    with pytest.raises(ProblemsError) as refused:
        prepare(write_own(tmp_path / "books", tables, TEXT_IDS))
    assert f"repeats an id in 1 rows (such as {OWN_USERS[0]})" in str(refused.value)
    assert f"(5.0%, such as {OWN_USERS[1]})" in str(refused.value)


def test_a_dtype_that_only_one_table_declares_is_refused(tmp_path: Path) -> None:
    users = DECLARATION["users"] | {"user_id": TEXT_IDS["users"]["user_id"]}
    message = fault(write_own(tmp_path / "books", text_tables(), DECLARATION | {"users": users}))
    assert "users.user_id is string and interactions.user_id is int64; write dtype: string on both" in message


def test_a_draft_declares_text_ids(tmp_path: Path) -> None:
    folder = as_csv(write_own(tmp_path / "books", text_tables()))
    (folder / "dataset.yaml").unlink()
    file, open_ends = write_draft(folder)
    assert "user_id: {role: id, dtype: string}" in file.read_text()
    assert not any("text" in line for line in open_ends)
    assert len(prepare(folder).users) == 20


def test_items_of_which_nothing_but_the_id_is_known_are_popular_too(tmp_path: Path) -> None:
    bare = {"item_id": TEXT_IDS["items"]["item_id"]}
    prepared = prepare(write_own(tmp_path / "books", text_tables(), TEXT_IDS | {"items": bare}))
    slate = popular_slate(prepared, "books-1")
    assert len(slate["items"]) == 15
    assert slate["items"][0].keys() == {"item_id", "score"}
