"""The users of a run: each once, whatever the list looks like, and never half a list."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from batch.compute import users
from batch.compute.users import SelectedUsers, Shards, active_since, everyone, listed, write_shards
from batch.errors import BatchError
from contract.dataset import Dataset
from contract.ids import number_of_text
from tests.builders.triton import DATASET

DAY = datetime(2026, 1, 1, tzinfo=UTC)


def write(path: Path, values: Any, name: str = "user_id") -> str:
    pq.write_table(pa.table({name: values}), path)
    return str(path)


def read(folder: Path) -> list[list[int]]:
    tables = [pq.read_table(part) for part in sorted(folder.glob("*"))]
    assert all(table.schema.field("user_id").type == pa.int64() for table in tables)
    return [table["user_id"].to_pylist() for table in tables]


def written(selection: SelectedUsers, folder: Path, shard_users: int = 100) -> tuple[list[list[int]], Shards]:
    shards = write_shards(selection, folder / "users", shard_users)
    assert [path.name for path in folder.glob("users*")] == ["users"]
    return read(folder / "users"), shards


@pytest.mark.parametrize(
    ("values", "ids", "skipped"),
    [
        (pa.array([3, 1, 2], pa.int64()), [1, 2, 3], {}),
        (pa.array([3, 1, 3, 3], pa.int64()), [1, 3], {"duplicate": 2}),
        (pa.array([3, None, -1, -(2**63), 0], pa.int64()), [-1, 0, 3], {"malformed": 2}),
        (pa.array([2**63 - 1, 0], pa.int64()), [0, 2**63 - 1], {}),
        (pa.array([7, 255, 7], pa.uint8()), [7, 255], {"duplicate": 1}),
        (pa.array([2**63, 2**64 - 1, 5, None], pa.uint64()), [5], {"malformed": 3}),
        (pa.array([4, -4], pa.int16()), [-4, 4], {}),
        (
            pa.array(["12", "7", " 8", "9 ", "1.0", "-3", "", "abc", "1e3", "12", None, "٣", "9" * 18]),
            [-3, 7, 12, 10**18 - 1],
            {"malformed": 8, "duplicate": 1},
        ),
        (
            pa.array(["5", "9" * 19, str(2**63 - 1), str(-(2**63)), str(2**63)], pa.large_string()),
            [5, 2**63 - 1],
            {"malformed": 3},
        ),
        (
            pa.array([1.0, 2.5, float("nan"), float("inf"), -0.0, -1.0, 2.0**53, 1e300, None]),
            [-1, 0, 1],
            {"malformed": 6},
        ),
        (pa.array([3.0, 3.5], pa.float32()), [3], {"malformed": 1}),
        (pa.array(np.array([3.0, 3.5], dtype=np.float16)), [3], {"malformed": 1}),
        (pa.array(["4", "x", "4"]).dictionary_encode(), [4], {"malformed": 1, "duplicate": 1}),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array | pa.DictionaryArray) else "",
)
def test_a_list_is_read_each_user_once_the_rest_counted(
    tmp_path: Path, values: Any, ids: list[int], skipped: dict[str, int]
) -> None:
    shards, counted = written(listed(write(tmp_path / "list.parquet", values)), tmp_path)
    assert shards == [ids]
    assert counted == Shards(len(ids), skipped)


def test_a_list_may_be_a_folder_and_have_other_columns(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    pq.write_table(pa.table({"name": ["a", "b"], "user_id": [5, 1]}), folder / "a.parquet")
    write(folder / "b.parquet", pa.array([2, 5]))
    (folder / "_SUCCESS").touch()
    assert written(listed(str(folder)), tmp_path) == ([[1, 2, 5]], Shards(3, {"duplicate": 1}))


@pytest.mark.parametrize("protocol", ["file", "local", "memory"])
def test_a_list_may_be_at_any_address_that_fsspec_knows(tmp_path: Path, protocol: str) -> None:
    import fsspec

    url = f"{protocol}://{tmp_path}/list.parquet"
    with fsspec.open(url, "wb") as file:
        pq.write_table(pa.table({"user_id": [9, 8]}), file)
    assert written(listed(url), tmp_path)[0] == [[8, 9]]


def test_another_list_at_the_same_place_has_another_fingerprint(tmp_path: Path) -> None:
    url = write(tmp_path / "list.parquet", pa.array([1, 2]))
    first = listed(url)
    assert (first.description, first.fingerprint) == (listed(url).description, listed(url).fingerprint)
    write(tmp_path / "list.parquet", pa.array([1, 2, 3]))
    assert listed(url).fingerprint != first.fingerprint


def no_parquet(folder: Path) -> str:
    (folder / "list.csv").write_text("user_id\n1\n")
    return str(folder / "list.csv")


def cut_short(folder: Path) -> str:
    path = folder / "list.parquet"
    write(path, pa.array(np.arange(10_000)))
    path.write_bytes(path.read_bytes()[:-100])
    return str(path)


def one_of_two_is_no_parquet(folder: Path) -> str:
    (folder / "lists").mkdir()
    write(folder / "lists" / "a.parquet", pa.array([1]))
    (folder / "lists" / "b.parquet").write_text("user_id\n1\n")
    return str(folder / "lists")


def empty_folder(folder: Path) -> str:
    (folder / "lists").mkdir()
    return str(folder / "lists")


def no_bytes(folder: Path) -> str:
    (folder / "list.parquet").touch()
    return str(folder / "list.parquet")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (no_parquet, "name a Parquet file"),
        (cut_short, "name a Parquet file"),
        (one_of_two_is_no_parquet, "name a Parquet file"),
        (no_bytes, "name a Parquet file"),
        (empty_folder, "has no column user_id, only none"),
        (lambda folder: str(folder / "nothing.parquet"), "not found; name a Parquet file"),
        (lambda folder: write(folder / "l", pa.array([1]), "user"), "no column user_id, only user; rename"),
        (lambda folder: write(folder / "l", pa.array([[1]])), "user_id is of type list"),
        (lambda folder: write(folder / "l", pa.array([True])), "user_id is of type bool"),
        (lambda folder: write(folder / "l", pa.array([DAY])), "user_id is of type timestamp"),
        (lambda _: "nosuch://bucket/list.parquet", "Protocol not known: nosuch"),
        (lambda _: "gcs://bucket/list.parquet", "install what opens it into the batch environment"),
    ],
)
def test_what_is_no_list_is_told_in_one_line(tmp_path: Path, made: Any, said: str) -> None:
    url = made(tmp_path)
    with pytest.raises(BatchError, match=said) as caught:
        listed(url)
    assert str(caught.value).startswith(url)
    assert "\n" not in str(caught.value)


def damaged(folder: Path) -> str:
    """Its end, with what is in it, is whole; its pages are not."""
    path = folder / "list.parquet"
    write(path, pa.array(np.arange(100_000)))
    data = bytearray(path.read_bytes())
    data[4 : len(data) // 2] = b"\xff" * (len(data) // 2 - 4)
    path.write_bytes(bytes(data))
    return str(path)


def of_two_types(folder: Path) -> str:
    (folder / "lists").mkdir()
    write(folder / "lists" / "a.parquet", pa.array([1]))
    write(folder / "lists" / "b.parquet", pa.array(["x"]))
    return str(folder / "lists")


@pytest.mark.parametrize("made", [damaged, of_two_types])
def test_what_cannot_be_read_to_its_end_is_told_and_leaves_no_users(tmp_path: Path, made: Any) -> None:
    selection = listed(made(tmp_path))
    with pytest.raises(BatchError, match="write the file anew") as caught:
        write_shards(selection, tmp_path / "run" / "users", 10)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "users").exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (pa.array([], pa.int64()), "no users; nothing to compute"),
        (pa.array([None, -(2**63)], pa.int64()), r"no users \(2 malformed\); nothing to compute"),
    ],
    ids=["empty", "malformed"],
)
def test_a_list_of_nobody_is_refused(tmp_path: Path, values: Any, said: str) -> None:
    selection = listed(write(tmp_path / "list.parquet", values))
    with pytest.raises(BatchError, match=said):
        write_shards(selection, tmp_path / "users", 10)
    assert not list(tmp_path.glob("users*"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Gives the prepared tables: users 1 to 4 have rows, user i acted on day i, user 9 has no row."""
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "users.parquet", pa.array([1, 2, 3, 4]))
    acted = [1, 2, 2, 3, 9]
    times = pa.array([DAY + timedelta(days=day) for day in acted], pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table({"user_id": acted, "timestamp": times}), folder / "interactions.parquet")
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "dataset.yaml").write_text(DATASET.format(name="tiny", ttl_s="{}"))
    assert yaml.safe_load((folder / "dataset.yaml").read_text())["name"] == "tiny"
    return Dataset.load(folder)


def test_everyone_is_who_has_a_row_or_acted_and_nobody_counts_as_named_twice(
    data: Path, tmp_path: Path
) -> None:
    assert written(everyone(data), tmp_path) == ([[1, 2, 3, 4, 9]], Shards(5, {}))


def test_active_since_is_who_acted_then_or_later(data: Path, dataset: Dataset, tmp_path: Path) -> None:
    since = DAY + timedelta(days=2)
    selection = active_since(data, dataset, since)
    assert written(selection, tmp_path) == ([[2, 3, 9]], Shards(3, {}))
    assert selection.description == "active since 2026-01-03T00:00:00+00:00"
    later = active_since(data, dataset, since + timedelta(microseconds=1))
    assert written(later, tmp_path / "later")[0] == [[3, 9]]
    with pytest.raises(BatchError, match="no users"):
        write_shards(active_since(data, dataset, DAY + timedelta(days=10)), tmp_path / "none", 10)


def test_without_prepared_tables_it_says_how_to_make_them(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(BatchError, match=r"users\.parquet: not found; prepare the data with `make data`"):
        everyone(tmp_path)
    with pytest.raises(BatchError, match=r"interactions\.parquet: not found; prepare the data"):
        active_since(tmp_path, dataset, DAY)


@given(
    ids=st.lists(st.integers(0, 60), min_size=1, max_size=200),
    shard_users=st.integers(1, 70),
    bucket=st.integers(1, 90),
    page=st.integers(1, 50),
)
def test_each_user_is_in_one_shard_however_many_are_compared_at_a_time(
    tmp_path_factory: pytest.TempPathFactory, ids: list[int], shard_users: int, bucket: int, page: int
) -> None:
    folder = tmp_path_factory.mktemp("users")
    pages = [pa.array(ids[start : start + page]) for start in range(0, len(ids), page)]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(users, "BUCKET", bucket)
        shards, counted = written(
            SelectedUsers("some", "", pages, len(ids), is_list=True), folder, shard_users
        )
    together = [user_id for shard in shards for user_id in shard]
    assert sorted(together) == sorted(set(ids))
    assert [len(shard) for shard in shards[:-1]] == [shard_users] * (len(shards) - 1)
    assert 0 < len(shards[-1]) <= shard_users
    assert counted == Shards(len(set(ids)), {"duplicate": n} if (n := len(ids) - len(set(ids))) else {})
    shutil.rmtree(folder)


def test_users_are_never_all_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One page is taken after the former one is written, and no bucket holds more than its share."""
    monkeypatch.setattr(users, "BUCKET", 100)
    folder, held = tmp_path / "users", []

    def pages() -> Iterator[Any]:
        for start in range(0, 1000, 50):
            on_disk = sum(path.stat().st_size for path in tmp_path.glob("users.tmp/bucket-*"))
            assert on_disk == 8 * start, "the former pages are written before the next is taken"
            yield pa.array(np.arange(start, start + 50))

    unique = np.unique

    def counted(ids: Any) -> Any:
        held.append(len(ids))
        return unique(ids)

    monkeypatch.setattr(np, "unique", counted)
    write_shards(SelectedUsers("some", "", pages(), 1000), folder, 30)
    assert max(held) <= 100
    assert sum(map(len, read(folder))) == 1000


def test_a_preparation_that_is_killed_leaves_no_users(tmp_path: Path) -> None:
    def pages() -> Iterator[Any]:
        yield pa.array(np.arange(100))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(SelectedUsers("some", "", pages(), 200), tmp_path / "users", 10)
    assert not (tmp_path / "users").exists()
    shards, _ = written(SelectedUsers("some", "", [pa.array([1])], 1), tmp_path)
    assert shards == [[1]], "what it left does not get in the next one's way"


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_a_list_of_texts_is_read_by_their_numbers(tmp_path: Path, kind: Any) -> None:
    texts = ["anna@example.org", "\u05d0 {1}", "", "x" * 257, None, "7", "7"]
    path = write(tmp_path / "list.parquet", pa.array(texts).cast(kind))
    shards, counted = written(listed(path, "string"), tmp_path)
    known = sorted(map(number_of_text, ("anna@example.org", "\u05d0 {1}", "7")))
    assert [i for shard in shards for i in shard] == known
    assert counted.skipped == {"malformed": 3, "duplicate": 1}
