from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from contract.dataset import DatasetError
from tests.builders.datasets import DECLARATION, own_tables, quiet, write_own
from training.data.sources import catalog
from training.data.validate import ProblemsError

Tables = dict[str, pd.DataFrame]


def problems_of(tmp_path: Path, tables: Tables, declaration: dict[str, Any] | None = None) -> list[str]:
    """Prepares a folder that must not pass, and shows that nothing was written."""
    folder = write_own(tmp_path / "books", tables, declaration)
    with pytest.raises(ProblemsError) as failure:
        catalog.prepare(str(folder), tmp_path, tmp_path / "var", say=quiet)
    assert not (tmp_path / "var").exists()
    return failure.value.problems


def test_tables_in_order_pass(tmp_path: Path) -> None:
    prepared = catalog.prepare(str(write_own(tmp_path / "books")), tmp_path, tmp_path / "var", say=quiet)
    assert (len(prepared.users), len(prepared.items), len(prepared.interactions)) == (20, 15, 240)


def _without(table: str, column: str) -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        tables[table] = tables[table].drop(columns=column)

    return change


def _set(table: str, column: str, value: Callable[[pd.DataFrame], Any]) -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        tables[table][column] = value(tables[table])

    return change


def _first(table: str, rows: int) -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        tables[table] = tables[table].head(rows)

    return change


def _twice(table: str) -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        tables[table] = pd.concat([tables[table], tables[table].head(2)])

    return change


def _swapped(tables: Tables) -> None:
    rows = tables["interactions"]
    order = list(range(len(rows)))
    order[0], order[20] = order[20], order[0]  # both of user 0
    tables["interactions"] = rows.iloc[order]
    tables["interactions"].iloc[19, rows.columns.get_loc("timestamp")] = pd.NaT  # the only row of a history


CASES: dict[str, tuple[Callable[[Tables], None], tuple[str, ...]]] = {
    "missing column": (
        _without("items", "item_price_usd"),
        ("items.parquet", "item_price_usd", "is missing (15 rows)", "take its line out"),
    ),
    "text where numbers are declared": (
        _set("items", "item_price_usd", lambda t: ["cheap"] * len(t)),
        ("items.parquet", "item_price_usd", "string, not float32 (15 rows", "convert it"),
    ),
    "numbers where text is declared": (
        _set("users", "user_city", lambda t: range(len(t))),
        ("users.parquet", "user_city", "int64, not string (20 rows", "`{role: numeric}`"),
    ),
    "fractions where integers are declared": (
        _set("interactions", "context_shop", lambda t: [0.5] * len(t)),
        ("interactions.parquet", "context_shop", "double, not int64 (240 rows"),
    ),
    "unix seconds where a timestamp is declared": (
        _set("interactions", "timestamp", lambda t: range(len(t))),
        ("interactions.parquet", "timestamp", "int64, not timestamp (240 rows"),
    ),
    "a scalar where a list is declared": (
        _set("items", "item_topics", lambda t: ["sea"] * len(t)),
        ("items.parquet", "item_topics", "string, not a list of string (15 rows"),
    ),
    "ids that stand for null": (
        _set("users", "user_id", lambda t: [-(2**63), *range(1, len(t))]),
        ("users.parquet", "user_id", "in 1 rows", "write `dtype: string`"),
    ),
    "text ids that are not declared": (
        _set("users", "user_id", lambda t: [f"reader {i}" for i in range(len(t))]),
        ("users.parquet", "user_id", "text in 20 rows (such as reader 0", "write `dtype: string`"),
    ),
    "null ids": (
        _set("items", "item_id", lambda t: pd.array([None, *t["item_id"][1:]], dtype="Int64")),
        ("items.parquet", "item_id", "null in 1 rows", "drop them"),
    ),
    "duplicate ids": (
        _twice("users"),
        ("users.parquet", "user_id", "repeats an id in 2 rows (such as 0)", "keep one"),
    ),
    "unknown users": (
        _set("interactions", "user_id", lambda t: [999] * 24 + list(t["user_id"][24:])),
        ("interactions.parquet", "user_id", "24 rows (10.0%, such as 999)", "users.parquet", "add the rows"),
    ),
    "unknown items": (
        _set("interactions", "item_id", lambda t: [7] * 24 + list(t["item_id"][24:])),
        ("interactions.parquet", "item_id", "24 rows (10.0%, such as 7)", "items.parquet", "add the rows"),
    ),
    "no positive labels": (
        _set("interactions", "is_bought", lambda t: [0] * len(t)),
        ("interactions.parquet", "is_bought", "in none of 240 rows", "take its line out"),
    ),
    "a label that is a count": (
        _set("interactions", "is_bought", lambda t: [2] + [1] * (len(t) - 1)),
        ("interactions.parquet", "is_bought", "neither 0, 1 nor null in 1 rows"),
    ),
    "timestamps out of order": (
        _swapped,
        ("interactions.parquet", "timestamp", "out of order in 1 rows", "sort the file"),
    ),
    "timestamps in the future": (
        _set("interactions", "timestamp", lambda t: t["timestamp"] + pd.Timedelta(days=36_500)),
        ("interactions.parquet", "timestamp", "in the future in 240 rows", "correct or drop them"),
    ),
    "null timestamps": (
        _set("interactions", "timestamp", lambda t: t["timestamp"].where(t.index > 4)),
        ("interactions.parquet", "timestamp", "null in 5 rows", "history_until"),
    ),
    "all-null column": (
        _set("users", "user_city", lambda t: [None] * len(t)),
        ("users.parquet", "user_city", "null in all 20 rows", "take its line out"),
    ),
    "too few users": (
        _first("users", 3),
        ("users.parquet", "user_id", "3 rows, at least 10", "checks.min_users"),
    ),
    "too few items": (
        _first("items", 3),
        ("items.parquet", "item_id", "3 rows, at least 10", "checks.min_items"),
    ),
    "too few interactions": (
        _first("interactions", 30),
        ("interactions.parquet", "user_id", "30 rows, at least 100", "checks.min_interactions"),
    ),
    "large integers with nulls": (
        _set(
            "interactions", "context_shop", lambda t: pd.array([None, *[2**60] * (len(t) - 1)], dtype="Int64")
        ),
        ("interactions.parquet", "context_shop", "in 239 rows integers beyond 2^53", "as strings"),
    ),
}


@pytest.mark.parametrize(("change", "expected"), CASES.values(), ids=CASES.keys())
def test_a_problem_names_file_column_rows_and_remedy(
    change: Callable[[Tables], None], expected: tuple[str, ...], tmp_path: Path
) -> None:
    tables = own_tables()
    change(tables)
    found = [line for line in problems_of(tmp_path, tables) if all(part in line for part in expected)]
    assert len(found) == 1


OWN_NAMES = {"users": "people.jsonl", "items": "export/things.jsonl", "interactions": "orders.jsonl"}


@pytest.mark.parametrize(("change", "expected"), CASES.values(), ids=CASES.keys())
def test_a_problem_names_the_file_as_its_owner_does(
    change: Callable[[Tables], None], expected: tuple[str, ...], tmp_path: Path
) -> None:
    tables = own_tables()
    change(tables)
    files = {table: {"path": path} for table, path in OWN_NAMES.items()}
    folder = write_own(tmp_path / "books", {}, DECLARATION | {"files": files})
    (folder / "export").mkdir()
    for table, frame in tables.items():
        frame.to_json(folder / OWN_NAMES[table], orient="records", lines=True, date_format="iso")
    with pytest.raises(ProblemsError) as failure:
        catalog.prepare(str(folder), tmp_path, tmp_path / "var", say=quiet)
    assert ".parquet" not in str(failure.value)
    named = OWN_NAMES[expected[0].removesuffix(".parquet")]
    assert any(f"{named}: column {expected[1]}" in line for line in failure.value.problems)


ID_ALONE = {"users": {"user_id": {"role": "id"}}, "items": {"item_id": {"role": "id"}}}


FAULTS_OF_THE_LOG: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str, tuple[str, ...]]] = {
    "another name": (lambda log: log, "", ("not found (0 rows of interactions)", "there is orders.csv")),
    "a wrong path": (lambda log: log, "order.csv", ("order.csv: not found", "files.interactions.path")),
    "no column of users": (
        lambda log: log.rename(columns={"user_id": "buyer"}),
        "orders.csv",
        ("orders.csv: column user_id is missing (240 rows)",),
    ),
    "ids of text": (
        lambda log: log.assign(item_id=log["item_id"].map("B{}".format)),
        "orders.csv",
        ("orders.csv: column item_id is text in 240 rows", "`dtype: string`"),
    ),
    "null ids": (
        lambda log: log.assign(item_id=log["item_id"].where(log.index > 0).astype("Int64")),
        "orders.csv",
        ("orders.csv: column item_id is null in 1 rows",),
    ),
    "few users": (
        lambda log: log.assign(user_id=log["user_id"] % 3),
        "orders.csv",
        ("orders.csv: column user_id: 3 ids, at least 10 are needed", "checks.min_users"),
    ),
}


@pytest.mark.parametrize(
    ("change", "path", "expected"), FAULTS_OF_THE_LOG.values(), ids=FAULTS_OF_THE_LOG.keys()
)
def test_a_fault_of_the_interactions_is_told_once_where_nothing_else_is_needed(
    change: Callable[[pd.DataFrame], pd.DataFrame], path: str, expected: tuple[str, ...], tmp_path: Path
) -> None:
    files = {"files": {"interactions": {"path": path}}} if path else {}
    folder = write_own(tmp_path / "books", {}, DECLARATION | ID_ALONE | files)
    change(own_tables()["interactions"]).to_csv(folder / "orders.csv", index=False)
    with pytest.raises(ProblemsError) as failure:
        catalog.prepare(str(folder), tmp_path, tmp_path / "var", say=quiet)
    (problem,) = failure.value.problems
    assert all(part in problem for part in expected)


def test_missing_files_are_all_named(tmp_path: Path) -> None:
    tables = own_tables()
    del tables["users"], tables["items"]
    problems = problems_of(tmp_path, tables)
    assert [("users.parquet" in line, "items.parquet" in line) for line in problems] == [
        (True, False),
        (False, True),
    ]
    assert all("not found" in line and "write the table" in line for line in problems)


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "books")
    (folder / "users.parquet").write_text("user_id,user_city\n")
    with pytest.raises(ProblemsError, match=r"users.parquet: not a parquet file"):
        catalog.prepare(str(folder), tmp_path, tmp_path / "var", say=quiet)


def test_a_folder_without_dataset_yaml_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"dataset.yaml: not found; write it"):
        catalog.prepare(str(tmp_path), tmp_path, tmp_path / "var", say=quiet)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    tables = own_tables()
    for change in (_twice("users"), _without("users", "user_city"), _without("items", "item_title")):
        change(tables)
    tables["interactions"]["is_bought"] = 0
    text = "\n".join(problems_of(tmp_path, tables))
    assert "repeats an id" in text
    assert "user_city is missing" in text
    assert "item_title is missing" in text
    assert "in none of 240 rows" in text


def test_a_few_users_and_items_without_a_row_are_normal_and_counted(tmp_path: Path) -> None:
    tables = own_tables()
    tables["interactions"].loc[0, "user_id"] = 999
    tables["interactions"].loc[1, "item_id"] = 7
    said: list[str] = []
    folder = write_own(tmp_path / "books", tables)
    prepared = catalog.prepare(str(folder), tmp_path, tmp_path / "var", say=said.append)
    assert len(prepared.interactions) == 240
    assert any("users without a row in users.parquet in 1 rows" in line for line in said)
    assert any("items without a row in items.parquet in 1 rows" in line for line in said)


def test_the_share_without_a_row_is_a_setting(tmp_path: Path) -> None:
    tables = own_tables()
    tables["interactions"].loc[:23, "user_id"] = 999
    declaration = DECLARATION | {"checks": {"max_unknown_share": 0.2}}
    folder = write_own(tmp_path / "books", tables, declaration)
    assert len(catalog.prepare(str(folder), tmp_path, tmp_path / "var", say=quiet).interactions) == 240


def test_values_that_lose_nothing_are_converted(tmp_path: Path) -> None:
    tables = own_tables()
    tables["users"]["user_id"] = tables["users"]["user_id"].astype("int32")
    tables["users"]["user_city"] = tables["users"]["user_city"].astype("category")
    tables["items"]["item_price_usd"] = range(15)
    tables["interactions"]["is_bought"] = tables["interactions"]["is_bought"] == 1
    tables["interactions"]["context_shop"] = tables["interactions"]["context_shop"].astype("float64")
    tables["interactions"]["timestamp"] = tables["interactions"]["timestamp"].dt.tz_localize(None)
    folder = write_own(tmp_path / "books", tables)
    prepared = catalog.prepare(str(folder), tmp_path, tmp_path / "var", say=quiet)
    plain = catalog.prepare(str(write_own(tmp_path / "plain")), tmp_path, tmp_path / "other", say=quiet)
    pd.testing.assert_frame_equal(prepared.interactions, plain.interactions)
    pd.testing.assert_frame_equal(prepared.users, plain.users)


def test_history_rows_precede_the_timed_rows_of_their_user(tmp_path: Path) -> None:
    tables = own_tables()
    tables["interactions"].loc[:39, "timestamp"] = pd.NaT  # two rows of every user
    late = DECLARATION | {"history_until": "2025-03-04T00:00:00Z"}
    text = "\n".join(problems_of(tmp_path, tables, late))
    assert "before history_until" in text
    assert "in 32 rows" in text
    fitting = copy.deepcopy(DECLARATION) | {"history_until": "2025-03-02T00:00:00Z"}
    folder = write_own(tmp_path / "fits", tables, fitting)
    assert (
        catalog.prepare(str(folder), tmp_path, tmp_path / "var", say=quiet)
        .interactions["timestamp"]
        .isna()
        .sum()
        == 40
    )
