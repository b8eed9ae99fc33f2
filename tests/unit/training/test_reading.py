"""Tables as people keep them: every kind of file, every way to write a value, gives the same tables."""

from __future__ import annotations

import copy
import gzip
import json
import shutil
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import yaml

from contract.dataset import DatasetError, SplitBy, TableFile
from tests.builders.datasets import DECLARATION, assert_same, own_tables, quiet, write_own
from training.data.files import read_parts
from training.data.prepared import Prepared
from training.data.sources import catalog
from training.data.validate import ProblemsError

Tables = dict[str, pd.DataFrame]


def prepare(folder: Path, said: list[str] | None = None) -> Prepared:
    say = quiet if said is None else said.append
    return catalog.prepare(str(folder), folder, folder / "var", say=say)


def fault(folder: Path) -> str:
    with pytest.raises(DatasetError) as failure:
        prepare(folder)
    return str(failure.value)


def declared(**columns: dict[str, Any]) -> dict[str, Any]:
    """The declaration of books with other lines for some columns; `__` stands between table and column."""
    declaration = copy.deepcopy(DECLARATION)
    for place, line in columns.items():
        table, column = place.split("__")
        declaration[table][column] = line
    return declaration


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(write_own(tmp_path_factory.mktemp("plain") / "books"))


def _csv(
    delimiter: str = ",",
    encoding: str = "utf-8",
    ending: str = ".csv",
    line_end: str = "\n",
    lists: Callable[[list[str]], str] | None = None,
) -> Callable[[pd.DataFrame, Path], None]:
    def write(frame: pd.DataFrame, stem: Path) -> None:
        flat = frame.copy()
        if "item_topics" in flat:
            flat["item_topics"] = flat["item_topics"].map(lists or (";" if delimiter != ";" else "/").join)
        data = flat.to_csv(index=False, sep=delimiter, lineterminator=line_end).encode(encoding)
        path = stem.with_name(stem.name + ending)
        path.write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)

    return write


def _arrow(frame: pd.DataFrame, stem: Path) -> None:
    pyarrow.feather.write_feather(frame, str(stem) + ".feather")


def _stream(frame: pd.DataFrame, stem: Path) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    with pa.OSFile(str(stem) + ".arrow", "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def _json(frame: pd.DataFrame, stem: Path) -> None:
    frame.to_json(str(stem) + ".jsonl", orient="records", lines=True, date_format="iso")


def _parts(frame: pd.DataFrame, stem: Path) -> None:
    stem.mkdir()
    (stem / "_SUCCESS").write_text("")
    half = len(frame) // 2
    frame.iloc[:half].to_parquet(stem / "part-0.parquet", index=False)
    frame.iloc[half:].to_parquet(stem / "part-1.parquet", index=False)


WRITERS: dict[str, tuple[Callable[[pd.DataFrame, Path], None], str]] = {
    "csv": (_csv(), ";"),
    "csv with semicolons": (_csv(";"), "/"),
    "csv with JSON arrays": (_csv(lists=lambda topics: json.dumps(list(topics))), ""),
    "csv with lists as pandas writes them": (_csv(lists=lambda topics: str(list(topics))), ""),
    "tab separated": (_csv("\t", ending=".tsv"), ";"),
    "csv of utf-16": (_csv(encoding="utf-16"), ";"),
    "csv with lines that end by CR": (_csv(line_end="\r"), ";"),
    "csv with lines that end by CR LF": (_csv(line_end="\r\n"), ";"),
    "packed csv": (_csv(ending=".csv.gz"), ";"),
    "csv called parquet": (_csv(ending=".parquet"), ";"),
    "feather": (_arrow, ""),
    "arrow stream": (_stream, ""),
    "json lines": (_json, ""),
    "folder of parts": (_parts, ""),
}


@pytest.mark.parametrize(("write", "separator"), WRITERS.values(), ids=WRITERS.keys())
def test_every_kind_of_file_gives_the_same_tables(
    write: Callable[[pd.DataFrame, Path], None], separator: str, plain: Prepared, tmp_path: Path
) -> None:
    topics = DECLARATION["items"]["item_topics"] | ({"separator": separator} if separator else {})
    folder = write_own(tmp_path / "books", {}, declared(items__item_topics=topics))
    for name, frame in own_tables().items():
        write(frame, folder / name)
    assert_same(prepare(folder), plain)


def test_brackets_that_are_no_list_are_refused_and_not_joined(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "books", {}, DECLARATION)
    for name, frame in own_tables().items():
        as_numpy_prints = _csv(lists=lambda topics: "[" + " ".join(repr(topic) for topic in topics) + " 'x']")
        as_numpy_prints(frame, folder / name)
    with pytest.raises(DatasetError, match="column item_topics holds brackets that are no list"):
        prepare(folder)


def test_letters_that_are_not_utf_8_are_read_and_told(tmp_path: Path) -> None:
    tables = own_tables()
    tables["users"]["user_city"] = ["Tromsø", "Ålesund", "Bodø", "Hønefoss"] * 5
    folder = write_own(tmp_path / "books", tables)
    (folder / "users.parquet").unlink()
    _csv(encoding="latin-1")(tables["users"], folder / "users")
    said: list[str] = []
    found = prepare(folder, said)
    assert list(found.users["user_city"][:4]) == ["Tromsø", "Ålesund", "Bodø", "Hønefoss"]
    assert any("users.csv: is not UTF-8, read as" in line and "files.users.encoding" in line for line in said)


def test_a_long_csv_with_lines_that_end_by_cr_is_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "users.csv"
    rows = 200_000
    file.write_bytes(b"user_id,user_city\r" + b"".join(b'%d,"Oslo,\rNorge"\r' % i for i in range(rows)))
    found = read_parts([file], "users", TableFile()).data
    assert found["user_id"].to_pylist() == [str(i) for i in range(rows)]
    assert found["user_city"].unique().to_pylist() == ["Oslo,\rNorge"]


def test_columns_keep_their_names_in_the_file(plain: Prepared, tmp_path: Path) -> None:
    tables = own_tables()
    tables["users"] = tables["users"].rename(columns={"user_id": "User ID", "user_city": "Wohnort (Stadt)"})
    folder = write_own(
        tmp_path / "books",
        tables,
        declared(
            users__user_id={"role": "id", "from": "User ID"},
            users__user_city={"role": "categorical", "dtype": "string", "from": "Wohnort (Stadt)"},
        ),
    )
    found = prepare(folder)
    assert_same(found, plain)
    assert found.dataset == plain.dataset  # how it was read is done


def test_an_id_in_an_index_is_read(plain: Prepared, tmp_path: Path) -> None:
    folder = write_own(tmp_path / "books")
    own_tables()["users"].set_index("user_id").to_parquet(folder / "users.parquet")
    assert_same(prepare(folder), plain)


def test_users_without_a_file_are_those_of_the_interactions(tmp_path: Path) -> None:
    tables = own_tables()
    del tables["users"]
    declaration = copy.deepcopy(DECLARATION) | {"users": {"user_id": {"role": "id"}}}
    said: list[str] = []
    found = prepare(write_own(tmp_path / "books", tables, declaration), said)
    assert list(found.users["user_id"]) == list(range(20))
    assert any("users: no file; its 20 ids are those of the interactions" in line for line in said)


def test_a_changed_part_of_a_folder_is_noticed(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "books")
    (folder / "interactions.parquet").unlink()
    frame = own_tables()["interactions"]
    _parts(frame, folder / "interactions")
    assert len(prepare(folder).interactions) == 240
    frame.iloc[120:200].to_parquet(folder / "interactions" / "part-1.parquet", index=False)
    assert len(prepare(folder).interactions) == 200


def _seconds(at: pd.Series) -> pd.Series:
    return at.astype("int64") // 10**9


TIMES: dict[str, tuple[Callable[[pd.Series], Any], dict[str, Any]]] = {
    "seconds": (_seconds, {"unit": "s"}),
    "seconds as floats": (lambda at: _seconds(at).astype("float64"), {"unit": "s"}),
    "milliseconds": (lambda at: _seconds(at) * 1_000, {"unit": "ms"}),
    "microseconds": (lambda at: _seconds(at) * 10**6, {"unit": "us"}),
    "nanoseconds": (lambda at: at.astype("int64"), {"unit": "ns"}),
    "seconds as decimals": (lambda at: [Decimal(int(s)) for s in _seconds(at)], {"unit": "s"}),
    "iso": (lambda at: at.dt.strftime("%Y-%m-%dT%H:%M:%SZ"), {}),
    "iso with an offset": (lambda at: at.dt.tz_convert("+02:00").map(pd.Timestamp.isoformat), {}),
    "iso with an offset of hours": (lambda at: at.dt.strftime("%Y-%m-%d %H:%M:%S+00"), {}),
    "iso without a zone": (lambda at: at.dt.strftime("%Y-%m-%d %H:%M:%S"), {}),
    "iso of Oslo": (
        lambda at: at.dt.tz_convert("Europe/Oslo").dt.strftime("%Y-%m-%d %H:%M"),
        {"timezone": "Europe/Oslo"},
    ),
    "instants of Oslo": (
        lambda at: at.dt.tz_convert("Europe/Oslo").dt.tz_localize(None),
        {"timezone": "Europe/Oslo"},
    ),
    "a pattern": (lambda at: at.dt.strftime("%d/%m/%Y %H.%M"), {"format": "%d/%m/%Y %H.%M"}),
    "a pattern with a zone": (
        lambda at: at.dt.strftime("%d %b %Y %H:%M +0000"),
        {"format": "%d %b %Y %H:%M %z"},
    ),
}


@pytest.mark.parametrize(("write", "keys"), TIMES.values(), ids=TIMES.keys())
def test_time_is_read_by_declaration(
    write: Callable[[pd.Series], Any], keys: dict[str, Any], plain: Prepared, tmp_path: Path
) -> None:
    tables = own_tables()
    tables["interactions"]["timestamp"] = write(tables["interactions"]["timestamp"])
    line = {"role": "timestamp"} | keys
    assert_same(prepare(write_own(tmp_path / "books", tables, declared(interactions__timestamp=line))), plain)


def test_dates_are_their_midnight(tmp_path: Path) -> None:
    tables = own_tables()
    tables["interactions"]["timestamp"] = tables["interactions"]["timestamp"].dt.date
    found = prepare(write_own(tmp_path / "books", tables))
    assert found.interactions["timestamp"].iloc[0] == pd.Timestamp("2025-03-01", tz="UTC")


LABELS: dict[str, tuple[Callable[[pd.Series], Any], dict[str, Any]]] = {
    "ratings": (lambda y: y * 3 + 2, {"positive": ">= 4"}),
    "counts": (lambda y: y * 7, {"positive": "> 0"}),
    "floats": (lambda y: y.astype("float64"), {}),
    "booleans": (lambda y: y == 1, {}),
    "words": (lambda y: y.map({0: "viewed", 1: "bought"}), {"positive": ["bought", "gifted"]}),
    "several numbers": (lambda y: y * 5, {"positive": [5, 6]}),
}


@pytest.mark.parametrize(("write", "keys"), LABELS.values(), ids=LABELS.keys())
def test_a_label_says_what_is_positive(
    write: Callable[[pd.Series], Any], keys: dict[str, Any], plain: Prepared, tmp_path: Path
) -> None:
    tables = own_tables()
    tables["interactions"]["is_bought"] = write(tables["interactions"]["is_bought"])
    line = {"role": "label"} | keys
    assert_same(prepare(write_own(tmp_path / "books", tables, declared(interactions__is_bought=line))), plain)


def test_a_null_label_stays_null_where_values_are_compared(tmp_path: Path) -> None:
    tables = own_tables()
    ratings = tables["interactions"]["is_bought"] * 5.0
    ratings[3] = np.nan
    tables["interactions"]["is_bought"] = ratings
    line = {"role": "label", "positive": ">= 4"}
    found = prepare(write_own(tmp_path / "books", tables, declared(interactions__is_bought=line)))
    assert found.interactions["is_bought"].isna().sum() == 1


def test_a_log_without_labels_counts_everything_as_chosen(tmp_path: Path) -> None:
    tables = own_tables()
    tables["interactions"] = tables["interactions"].drop(columns="is_bought")
    declaration = copy.deepcopy(DECLARATION)
    del declaration["interactions"]["is_bought"]
    said: list[str] = []
    found = prepare(write_own(tmp_path / "books", tables, declaration), said)
    assert found.dataset.labels == ("is_chosen",)
    assert (found.interactions["is_chosen"] == 1).all()
    assert any("no label" in line for line in said)


TIMELESS: dict[str, Callable[[Tables, dict[str, Any]], None]] = {
    "no column": lambda tables, declaration: (
        tables.update(interactions=tables["interactions"].drop(columns="timestamp")),
        declaration["interactions"].pop("timestamp"),
    )[0],
    "all null": lambda tables, _: tables.update(interactions=tables["interactions"].assign(timestamp=pd.NaT)),
    "one instant": lambda tables, _: tables.update(
        interactions=tables["interactions"].assign(timestamp=pd.Timestamp("2025-03-01", tz="UTC"))
    ),
    "two days": lambda tables, _: tables.update(
        interactions=tables["interactions"].assign(
            timestamp=tables["interactions"]["timestamp"].dt.floor("8D")
        )
    ),
}


@pytest.mark.parametrize("change", TIMELESS.values(), ids=TIMELESS.keys())
def test_without_a_time_the_last_rows_of_each_user_are_held_out(
    change: Callable[[Tables, dict[str, Any]], None], tmp_path: Path
) -> None:
    tables, declaration = own_tables(), copy.deepcopy(DECLARATION)
    before = tables["interactions"]
    change(tables, declaration)
    said: list[str] = []
    found = prepare(write_own(tmp_path / "books", tables, declaration), said)
    assert found.dataset.split_by is SplitBy.ROWS
    assert any("the last rows of each user are held out" in line for line in said)
    log, split = found.interactions, found.split
    assert log["timestamp"].is_monotonic_increasing
    test = log[log["timestamp"] >= split.validate_until]
    assert len(test) == pytest.approx(24, abs=2)
    for user, rows in before.groupby("user_id"):  # the order of a user's rows is as it was
        assert list(log[log["user_id"] == user]["item_id"]) == list(rows["item_id"])
    assert set(test["user_id"]) == set(range(20))  # the last of everybody's twelve


def test_rows_may_be_split_by_user_where_there_is_a_time(tmp_path: Path) -> None:
    found = prepare(write_own(tmp_path / "books", declaration=DECLARATION | {"split_by": "rows"}))
    assert found.dataset.split_by is SplitBy.ROWS
    assert found.dataset.as_of is not None
    assert (found.interactions["timestamp"] < found.dataset.as_of).all()


def test_plain_dates_split_at_midnight_utc(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "books")
    text = (folder / "dataset.yaml").read_text()
    split = "split: {train_until: 2025-03-08, validate_until: 2025-03-09, test_until: 2025-03-12}\n"
    (folder / "dataset.yaml").write_text(f"{text}{split}as_of: 2025-03-12\n")
    found = prepare(folder)
    assert found.split.train_until == pd.Timestamp("2025-03-08", tz="UTC")
    assert found.dataset.as_of == pd.Timestamp("2025-03-12", tz="UTC")


def test_lists_keep_what_they_hold(tmp_path: Path) -> None:
    tables = own_tables()
    tables["items"]["item_topics"] = [["sea", None], [], None, ["a"] * 5_000, *[["ships"]] * 11]
    said: list[str] = []
    found = prepare(write_own(tmp_path / "books", tables), said)
    lists = found.items["item_topics"]
    assert list(lists[0]) == ["sea"]
    assert list(lists[1]) == []
    assert lists[2] is None
    assert len(lists[3]) == 5_000
    assert any("holds 1 nulls within its lists; they are left out" in line for line in said)


def test_a_list_that_is_empty_in_every_row_is_left_out_and_told(tmp_path: Path) -> None:
    tables = own_tables()
    tables["items"]["item_topics"] = [[] for _ in range(15)]
    said: list[str] = []
    found = prepare(write_own(tmp_path / "books", tables), said)
    assert "item_topics" not in found.dataset.items
    assert any("item_topics is an empty list in all 15 rows; it is left out" in line for line in said)


def test_infinities_are_null_and_told(tmp_path: Path) -> None:
    tables = own_tables()
    tables["items"].loc[5:6, "item_price_usd"] = [np.inf, -np.inf]
    said: list[str] = []
    found = prepare(write_own(tmp_path / "books", tables), said)
    assert found.items["item_price_usd"].isna().sum() == 3
    assert any("item_price_usd is infinite in 2 rows" in line for line in said)


def test_a_number_whose_logarithm_is_taken_may_be_as_large_as_float32_holds(tmp_path: Path) -> None:
    tables = own_tables()
    tables["items"].loc[5, "item_price_usd"] = 1e32
    assert "beyond the range of float32 in 1 rows (such as 1e+32" in fault(write_own(tmp_path / "no", tables))
    line = DECLARATION["items"]["item_price_usd"] | {"is_log": True}
    found = prepare(write_own(tmp_path / "books", tables, declared(items__item_price_usd=line)))
    assert found.items["item_price_usd"].max() == np.float32(1e32)


# What is refused, and that the remedy which is named works.


def test_a_missing_column_names_the_likely_one(tmp_path: Path) -> None:
    tables = own_tables()
    tables["users"] = tables["users"].rename(columns={"user_city": "user city"})
    message = fault(write_own(tmp_path / "books", tables))
    assert "column user_city is missing (20 rows)" in message
    assert "`from: user city`" in message
    line = {"role": "categorical", "dtype": "string", "from": "user city"}
    prepare(write_own(tmp_path / "mended", tables, declared(users__user_city=line)))


def test_the_year_1_is_counted_and_clipped_on_demand(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "books")
    log = pa.Table.from_pandas(own_tables()["interactions"], preserve_index=False)
    at = log["timestamp"].cast(pa.timestamp("us"), safe=False).to_numpy().astype("int64")
    at[0] = -62_135_596_800_000_000
    log = log.set_column(2, "timestamp", pa.array(at).cast(pa.timestamp("us", tz="UTC")))
    pq.write_table(log, folder / "interactions.parquet")
    assert "outside of the years 1678 to 2261 in 1 rows (year 1)" in fault(folder)
    line = {"role": "timestamp", "clip": True}
    (folder / "dataset.yaml").write_text(
        yaml.safe_dump(declared(interactions__timestamp=line), sort_keys=False)
    )
    assert prepare(folder).interactions["timestamp"].min() == pd.Timestamp("2025-03-01 01:00", tz="UTC")


def test_a_wrong_unit_is_told_by_what_it_gives(tmp_path: Path) -> None:
    tables = own_tables()
    seconds = _seconds(tables["interactions"]["timestamp"])
    tables["interactions"]["timestamp"] = pd.to_datetime(seconds, unit="ns", utc=True)
    message = fault(write_own(tmp_path / "books", tables))
    assert "within a day of 1970-01-01 in all 240 rows" in message
    assert "likely a wrong unit" in message


def _of_every_unit(at: pd.Series) -> dict[str, pd.Series]:
    ns = at.astype("int64")
    return {"s": ns // 10**9, "ms": ns // 10**6, "us": ns // 10**3, "ns": ns}


@pytest.mark.parametrize("declared_unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("true_unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("kind", ["int64", "float64", "csv"])
def test_numbers_of_another_unit_than_the_declared_are_refused_with_theirs(
    declared_unit: str, true_unit: str, kind: str, plain: Prepared, tmp_path: Path
) -> None:
    log = own_tables()["interactions"]
    log["timestamp"] = _of_every_unit(log["timestamp"])[true_unit].astype(
        "float64" if kind == "float64" else "int64"
    )
    line = {"role": "timestamp", "unit": declared_unit}
    folder = write_own(tmp_path / "books", declaration=declared(interactions__timestamp=line))
    if kind == "csv":
        (folder / "interactions.parquet").unlink()
        log.to_csv(folder / "interactions.csv", index=False)
    else:
        log.to_parquet(folder / "interactions.parquet", index=False)
    if declared_unit == true_unit:
        assert list(prepare(folder).interactions["timestamp"].dt.floor("s")) == list(
            plain.interactions["timestamp"]
        )
        return
    message = fault(folder)
    assert f"by its unit, {declared_unit}, in all 240 rows" in message
    assert f"`unit: {true_unit}`, which makes them 2025-03-01 to 2025-03-10" in message


def test_a_zero_that_stands_for_no_time_hides_no_wrong_unit(tmp_path: Path) -> None:
    tables = own_tables()
    tables["interactions"]["timestamp"] = _seconds(tables["interactions"]["timestamp"]).where(
        lambda s: s.index > 4, 0
    )
    line = {"role": "timestamp", "unit": "ms"}
    message = fault(write_own(tmp_path / "books", tables, declared(interactions__timestamp=line)))
    assert "in all 235 rows that have a time" in message
    assert "`unit: s`" in message


OLD: dict[str, tuple[Callable[[pd.Series], Any], dict[str, Any], int]] = {
    "seconds of 1980": (lambda at: _seconds(at) - 14 * 10**8, {"unit": "s"}, 1980),
    "milliseconds of 1977": (lambda at: (_seconds(at) - 15 * 10**8) * 1000, {"unit": "ms"}, 1977),
    "milliseconds since the first": (
        lambda at: (_seconds(at) - _seconds(at)[0]) * 3000,
        {"unit": "ms"},
        1970,
    ),
    "text of january 1970": (
        lambda at: pd.to_datetime(_seconds(at), unit="ms").dt.strftime("%Y-%m-%d %H:%M:%S.%f"),
        {},
        1970,
    ),
}


@pytest.mark.parametrize(("write", "keys", "year"), OLD.values(), ids=OLD.keys())
def test_a_log_that_is_old_or_begins_at_0_is_read(
    write: Callable[[pd.Series], Any], keys: dict[str, Any], year: int, tmp_path: Path
) -> None:
    tables = own_tables()
    tables["interactions"]["timestamp"] = write(tables["interactions"]["timestamp"])
    line = {"role": "timestamp"} | keys
    found = prepare(write_own(tmp_path / "books", tables, declared(interactions__timestamp=line)))
    assert set(found.interactions["timestamp"].dt.year) == {year}


def test_a_wrong_unit_that_one_number_makes_possible_is_told(tmp_path: Path) -> None:
    tables = own_tables()
    tables["interactions"]["timestamp"] = _seconds(tables["interactions"]["timestamp"]).where(
        lambda s: s.index > 0, 5
    )
    line = {"role": "timestamp", "unit": "ms"}
    said: list[str] = []
    prepare(write_own(tmp_path / "books", tables, declared(interactions__timestamp=line)), said)
    assert any(
        "is before 1990 in 240 rows (from 1970-01-01); if they are later, say by `unit:`" in s for s in said
    )


@pytest.mark.parametrize(("scale", "unit"), [(1, "s"), (1_000, "ms")])
@pytest.mark.parametrize("keys", [{}, {"format": "%d/%m/%Y"}])
def test_text_that_holds_numbers_is_told_to_name_their_unit(
    scale: int, unit: str, keys: dict[str, Any], tmp_path: Path
) -> None:
    log = own_tables()["interactions"]
    log["timestamp"] = _seconds(log["timestamp"]) * scale
    line = {"role": "timestamp"} | keys
    folder = write_own(tmp_path / "books", declaration=declared(interactions__timestamp=line))
    (folder / "interactions.parquet").unlink()
    log.to_csv(folder / "interactions.csv", index=False)
    message = fault(folder)
    assert f"`unit: {unit}`, which makes them 2025-03-01 to 2025-03-10" in message
    assert ("in the place of its format" in message) == bool(keys)
    assert "such as `format" not in message


def test_clipping_is_no_remedy_where_not_one_instant_is_inside(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "books")
    log = pa.Table.from_pandas(own_tables()["interactions"], preserve_index=False)
    far = pa.array([1_740_787_200_000] * 240).cast(pa.timestamp("s", tz="UTC"))
    pq.write_table(log.set_column(2, "timestamp", far), folder / "interactions.parquet")
    message = fault(folder)
    assert "outside of the years 1678 to 2261 in 240 rows" in message
    assert "`clip: true`" not in message
    assert "`unit: ms`" in message


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("users__user_id", {"role": "id", "dtype": "float32"}, "dtype float32 does not go with role id"),
        (
            "items__item_is_in_stock",
            {"role": "availability", "dtype": "string"},
            "dtype string does not go with",
        ),
        ("interactions__timestamp", {"role": "timestamp", "dtype": "int64"}, "`unit: s`"),
        ("interactions__timestamp", {"role": "timestamp", "dtype": "string"}, "`format:`"),
        ("users__user_city", {"role": "categorical", "dtype": "timestamp"}, "write dtype: int64 or string"),
        (
            "users__user_city",
            {"role": "categorical", "dtype": "string", "is_filterable": True},
            "columns of items",
        ),
        (
            "items__item_title",
            {"role": "display_name", "is_affinity": True},
            "does not go with role display_name",
        ),
        ("items__item_title", {"role": "display_name", "max_length": 3}, "max_length does not go with role"),
        ("interactions__is_bought", {"role": "label", "positive": "four"}, "no comparison with a number"),
        ("interactions__is_bought", {"role": "label", "positive": []}, "name the values"),
        ("interactions__timestamp", {"role": "timestamp", "timezone": "Oslo"}, "IANA name"),
        (
            "interactions__timestamp",
            {"role": "timestamp", "unit": "s", "format": "%Y"},
            "keep the one that fits",
        ),
        ("interactions__second", {"role": "timestamp"}, "keep it on one of them"),
        ("users__city", {"role": "categorical"}, "`from: city`"),
    ],
)
def test_a_line_that_does_not_fit_its_role_is_refused_before_anything_is_read(
    key: str, value: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    folder = write_own(tmp_path / "books", {}, declared(**{key: value}))
    message = fault(folder)
    assert expected in message
    assert "dataset.yaml" in message


def test_a_split_outside_of_the_data_is_refused(tmp_path: Path) -> None:
    split = {"train_until": "2031-01-01", "validate_until": "2031-01-02", "test_until": "2031-01-03"}
    message = fault(write_own(tmp_path / "books", declaration=DECLARATION | {"split": split}))
    assert "goes from 2025-03-01 00:00 to 2025-03-10 23:00 UTC" in message
    assert "leaves validation without a row" in message


def test_a_clock_before_the_data_is_refused(tmp_path: Path) -> None:
    assert "as_of" in fault(write_own(tmp_path / "books", declaration=DECLARATION | {"as_of": "2020-01-01"}))


def test_the_same_table_in_two_kinds_is_refused_and_one_may_be_named(plain: Prepared, tmp_path: Path) -> None:
    folder = write_own(tmp_path / "books")
    _csv()(own_tables()["users"], folder / "users")
    assert "users is there several times (users.csv, users.parquet)" in fault(folder)
    chosen = DECLARATION | {"files": {"users": {"path": "users.csv"}}}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(chosen, sort_keys=False))
    assert_same(prepare(folder), plain)


def test_a_torn_csv_is_named(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "books")
    (folder / "users.parquet").unlink()
    (folder / "users.csv").write_text("user_id,user_city\n1,Oslo\n2,Oslo,Norway\n")
    message = fault(folder)
    assert "users.csv: not a table of text" in message
    assert "files.users.delimiter" in message


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "books")
    data = (folder / "users.parquet").read_bytes()
    (folder / "users.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(ProblemsError, match=r"users.parquet: not a parquet file"):
        prepare(folder)


def test_nothing_is_written_where_something_is_refused(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "books")
    shutil.rmtree(folder / "var", ignore_errors=True)
    (folder / "users.parquet").unlink()
    fault(folder)
    assert not (folder / "var").exists()
