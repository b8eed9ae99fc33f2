from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from contract import names
from contract.columns import Column, Role
from contract.dataset import Dataset, DatasetError
from tests.builders.datasets import DECLARATION, own_tables, quiet, small_world, write_own
from training.data.prepared import default_split, in_order, load_prepared, to_numpy, write_prepared
from training.data.sources import catalog


def test_numbers_text_and_lists_have_one_null_each() -> None:
    whole = Column(role=Role.CATEGORICAL)
    text = Column(role=Role.CATEGORICAL, dtype="string")
    assert to_numpy(pd.Series([3, None], dtype="Int64"), whole).tolist() == [3, names.NULL_INT]
    assert to_numpy(pd.Series([2**60, None], dtype="Int64"), whole).tolist()[0] == 2**60
    assert to_numpy(pd.Series(["a", None]), text).tolist() == ["a", None]
    numbers = to_numpy(pd.Series([1.5, None], dtype="float32"), Column(role=Role.NUMERIC))
    assert numbers.dtype == np.float32
    assert np.isnan(numbers[1])
    assert to_numpy(pd.Series([True, None], dtype=object), Column(role=Role.AVAILABILITY)).tolist() == [
        True,
        False,
    ]


def test_lists_are_cut_and_padded() -> None:
    lists = pd.Series([np.array([5, 6, 7]), None, np.array([], dtype=np.int64), np.array([8])])
    found = to_numpy(lists, Column(role=Role.LIST, max_length=2))
    null = names.NULL_INT
    assert found.tolist() == [[5, 6], [null, null], [null, null], [8, null]]
    text = to_numpy(pd.Series([["a"], None]), Column(role=Role.LIST, dtype="string", max_length=2))
    assert text.tolist() == [["a", None], [None, None]]


def test_a_world_read_again_is_equal(tmp_path: Path) -> None:
    written = small_world(tmp_path)
    again = load_prepared(written.folder)
    assert again.dataset == written.dataset
    pd.testing.assert_frame_equal(again.interactions, written.interactions)
    assert again.users[names.USER_ID].is_monotonic_increasing
    assert again.items[names.ITEM_ID].is_monotonic_increasing


def test_histories_come_first_per_user_and_in_file_order(tmp_path: Path) -> None:
    tables = own_tables()
    tables["interactions"].loc[:39, "timestamp"] = pd.NaT
    declaration = DECLARATION | {"history_until": "2025-03-02T00:00:00Z"}
    folder = write_own(tmp_path / "own", tables, declaration)
    rows = catalog.prepare(str(folder), tmp_path, tmp_path / "var", say=quiet).interactions
    assert rows["timestamp"].isna().tolist() == [True] * 40 + [False] * 200
    assert rows["user_id"].tolist()[:4] == [0, 0, 1, 1]
    assert rows["item_id"].tolist()[:2] == [tables["interactions"]["item_id"][i] for i in (0, 20)]
    assert rows["timestamp"].tail(200).is_monotonic_increasing


def test_the_default_split_is_by_time() -> None:
    times = pd.Series(pd.date_range("2025-01-01", periods=100, freq="H", tz="UTC"))
    split = default_split(times)
    parts = [times < split.train_until, times < split.validate_until, times < split.test_until]
    assert [int(part.sum()) for part in parts] == [79, 89, 100]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    world = small_world(tmp_path)
    before = {path.name: path.read_bytes() for path in world.folder.iterdir()}
    frames = in_order(
        {"users": world.users, "items": world.items, "interactions": world.interactions}, world.dataset
    )
    with pytest.raises(KeyError):
        write_prepared(world.folder, world.dataset, frames | {"interactions": world.users}, {})
    assert {path.name: path.read_bytes() for path in world.folder.iterdir()} == before
    assert [path.name for path in world.folder.parent.iterdir()] == [world.folder.name]


def test_a_missing_table_says_to_prepare_again(tmp_path: Path) -> None:
    world = small_world(tmp_path)
    (world.folder / "items.parquet").unlink()
    with pytest.raises(DatasetError, match=r"items.parquet: not found; prepare the data set again"):
        load_prepared(world.folder)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"users": {"user_id": {"role": "id"}, "city": {"role": "numeric"}}},
            "users.city: rename it to user_city",
        ),
        ({"label": "is_liked"}, "label: 'is_liked' is not one of"),
        ({"ttl_s": {"user": 3}}, "ttl_s: 'user' is not a view"),
        ({"nam": "x"}, "nam: Extra inputs"),
        ({"name": "My Books"}, "name: String should match"),
    ],
)
def test_a_wrong_dataset_yaml_names_the_field(
    change: dict[str, object], expected: str, tmp_path: Path
) -> None:
    folder = write_own(tmp_path / "own", declaration=DECLARATION | change)
    with pytest.raises(DatasetError) as failure:
        Dataset.load(folder)
    assert expected in str(failure.value)
