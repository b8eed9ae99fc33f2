"""The files of batch runs forget users, whatever their ids are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contract.archive import forget_users
from contract.dataset import DatasetError
from contract.ids import number_of_text
from contract.names import NULL_INT


@pytest.fixture
def slates(tmp_path: Path) -> Path:
    folder = tmp_path / "run-1" / "slates"
    folder.mkdir(parents=True)
    return folder


def test_a_user_of_text_is_found_by_the_number_and_a_row_of_nobody_stays(slates: Path) -> None:
    table = pa.table({"user_id": ["ann", None, "bob"], "item_ids": [["x"], ["y"], []]})
    pq.write_table(table, slates / "part-00000.parquet")
    numbers = np.array([number_of_text("ann"), 0, 7])
    assert forget_users(slates.glob("*"), numbers) == 1
    assert pq.read_table(slates / "part-00000.parquet").equals(table.slice(1))
    assert forget_users(slates.glob("*"), numbers) == 0
    assert [path.name for path in slates.iterdir()] == ["part-00000.parquet"]


def test_answers_to_nobody_stay_beside_a_user_who_is_forgotten(slates: Path) -> None:
    pq.write_table(pa.table({"user_id": [NULL_INT, 7, NULL_INT]}), slates / "part-00000.parquet")
    assert forget_users(slates.glob("*"), np.array([7])) == 1
    assert pq.read_table(slates / "part-00000.parquet")["user_id"].to_pylist() == [NULL_INT, NULL_INT]


def test_a_file_whose_users_are_all_gone_stays_empty(slates: Path) -> None:
    pq.write_table(pa.table({"user_id": [1, 2]}), slates / "part-00000.parquet")
    assert forget_users(slates.glob("*"), np.array([1, 2])) == 2
    assert pq.read_table(slates).num_rows == 0, "its shard is done"


def test_a_file_that_cannot_be_read_is_named(slates: Path) -> None:
    (slates / "part-00000.parquet").write_text("no parquet")
    with pytest.raises(DatasetError, match=r"part-00000.parquet: removed users are still in it .*delete the"):
        forget_users(slates.glob("*"), np.array([1]))
    assert forget_users(slates.glob("*"), np.array([], np.int64)) == 0
