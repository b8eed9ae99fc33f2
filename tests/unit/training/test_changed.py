"""Whose features changed is found by comparing what was written with what will be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from contract import names
from contract.keys import changed_users_key
from feature_repo.changed import changed_users
from training.features.tables import write_features

SCHEMA = pa.schema(
    [
        (names.USER_ID, pa.int64()),
        (names.EVENT_TIMESTAMP, pa.timestamp("us", tz="UTC")),
        ("user_age", pa.int64()),
        ("user_share", pa.float32()),
        ("user_tags", pa.list_(pa.int64())),
        ("user_names", pa.list_(pa.string())),
    ]
)
Row = tuple[int, int, Any, Any, Any, Any]
ROWS: list[Row] = [
    (1, 1, 20, 0.5, [1, 2], ["a"]),
    (1, 2, 21, 0.5, [1, 2], ["a"]),
    (2, 1, None, None, None, []),
    (3, 1, 30, 0.25, [], [None]),
]


def table(rows: list[Row]) -> pa.Table:
    columns: list[Any] = list(zip(*rows, strict=True)) if rows else [[] for _ in SCHEMA]
    day = pd.Timestamp("2026-01-01", tz="UTC")
    arrays = [
        pa.array(
            [day + pd.Timedelta(days=v) for v in values] if name == names.EVENT_TIMESTAMP else values, kind
        )
        for name, kind, values in zip(SCHEMA.names, SCHEMA.types, columns, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def tables(profile: list[Row], activity: list[Row] | None = None) -> dict[str, pa.Table]:
    return {names.USER_PROFILE: table(profile), names.USER_ACTIVITY: table(activity or [])}


def changed(folder: Path, before: list[Row], after: list[Row]) -> list[int]:
    write_features(folder, tables(before))
    found: list[int] = changed_users(folder, tables(after)).tolist()
    return found


def test_nobody_changed_where_nothing_did(tmp_path: Path) -> None:
    assert changed(tmp_path, ROWS, ROWS) == []


def test_a_later_row_of_the_same_is_no_change(tmp_path: Path) -> None:
    assert changed(tmp_path, ROWS, [*ROWS[:2], (1, 9, 21, 0.5, [1, 2], ["a"]), *ROWS[2:]]) == []


def test_an_earlier_row_does_not_count(tmp_path: Path) -> None:
    assert changed(tmp_path, ROWS, [(1, 1, 99, 0.5, [], []), *ROWS[1:]]) == []


@pytest.mark.parametrize(
    ("at", "row", "expected"),
    [
        (1, (1, 2, 22, 0.5, [1, 2], ["a"]), [1]),
        (1, (1, 2, 21, 0.75, [1, 2], ["a"]), [1]),
        (1, (1, 2, None, 0.5, [1, 2], ["a"]), [1]),
        (1, (1, 2, 21, 0.5, [2, 1], ["a"]), [1]),
        (1, (1, 2, 21, 0.5, [12], ["a"]), [1]),
        (1, (1, 2, 21, 0.5, None, ["a"]), [1]),
        (2, (2, 1, 0, None, None, []), [2]),
        (2, (2, 1, None, None, [], []), [2]),
        (3, (3, 1, 30, 0.25, [], []), [3]),
        (3, (3, 1, 30, 0.25, [], [""]), [3]),
        (3, (4, 1, 30, 0.25, [], [None]), [3, 4]),
    ],
)
def test_whose_last_row_differs_changed(tmp_path: Path, at: int, row: Row, expected: list[int]) -> None:
    assert changed(tmp_path, ROWS, [*ROWS[:at], row, *ROWS[at + 1 :]]) == expected


def test_any_view_counts(tmp_path: Path) -> None:
    write_features(tmp_path, tables(ROWS, ROWS))
    assert changed_users(tmp_path, tables(ROWS, ROWS[:3])).tolist() == [3]


def test_everyone_changed_where_nothing_was_written_or_a_column_came(tmp_path: Path) -> None:
    assert changed_users(tmp_path, tables(ROWS)).tolist() == [1, 2, 3]
    write_features(tmp_path, tables(ROWS))
    wider = tables(ROWS)
    wider[names.USER_PROFILE] = wider[names.USER_PROFILE].append_column("user_new", pa.array([1] * len(ROWS)))
    assert changed_users(tmp_path, wider).tolist() == [1, 2, 3]


def test_training_and_the_batch_job_mean_the_same_keys() -> None:
    assert changed_users_key("small") == changed_users_key("small")
