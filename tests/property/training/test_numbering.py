"""Whatever texts the tables hold as ids, each row's number leads back to its text."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from contract.columns import Column, Role
from contract.dataset import TableFile
from training.data.convert import convert
from training.data.files import read_parts
from training.data.numbering import with_numbers

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256)
TEXT = Column(role=Role.ID, dtype="string")


@given(st.lists(texts, min_size=1, max_size=40), st.lists(texts, max_size=20))
def test_a_number_in_any_table_leads_back_to_the_text(users: list[str], others: list[str]) -> None:
    rows = [*users[::2], *others, *users]
    tables = {"users": pa.table({"user_id": users}), "interactions": pa.table({"user_id": rows})}
    numbered, back, problems = with_numbers(tables)
    assert problems == []
    for table, given_texts in (("users", users), ("interactions", rows)):
        numbers = numbered[table]["user_id"]
        assert numbers.type == pa.int64()
        assert [back["user_id"][number] for number in numbers.to_pylist()] == given_texts


@given(st.lists(texts.filter(lambda text: "\r" not in text and "\x00" not in text), min_size=1, max_size=20))
def test_a_file_gives_texts_back_as_they_are(owns: list[str]) -> None:
    table = pa.table({"user_id": owns})
    with TemporaryDirectory() as folder:
        parquet, csv = Path(folder) / "users.parquet", Path(folder) / "users.csv"
        pq.write_table(table, parquet)
        pyarrow.csv.write_csv(table, csv)
        for file in (parquet, csv):
            read = read_parts([file], "users", TableFile(delimiter=",", encoding="utf-8"))
            done = convert(read.data["user_id"], TEXT, "", is_text=read.is_text)
            assert done.values is not None, done.problems
            assert done.values.to_pylist() == owns
