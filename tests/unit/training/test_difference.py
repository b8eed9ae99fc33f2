"""What has to change in Redis is found by comparing what was loaded with what will be, and what is there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from contract import names
from feature_repo.computed import ids_of, last_rows
from feature_repo.difference import MISSING, Difference, Stored, difference, seconds_of

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
FOUND_AT = datetime(2026, 3, 1, 12, 30, 15, 500_000, tzinfo=UTC)
MIDNIGHT_S = 1_767_225_600  # of 2026-01-01
DAY_S = 86_400


def table(rows: list[Row]) -> pa.Table:
    """Builds the last row of every key; a row's second value is its day."""
    columns: list[Any] = list(zip(*rows, strict=True)) if rows else [[] for _ in SCHEMA]
    day = pd.Timestamp("2026-01-01", tz="UTC")
    arrays = [
        pa.array(
            [day + pd.Timedelta(days=v) for v in values] if name == names.EVENT_TIMESTAMP else values, kind
        )
        for name, kind, values in zip(SCHEMA.names, SCHEMA.types, columns, strict=True)
    ]
    return last_rows(pa.Table.from_arrays(arrays, schema=SCHEMA))


def stored(rows: pa.Table) -> Stored:
    return Stored(ids_of(rows), seconds_of(rows))


def find(
    before: pa.Table,
    after: pa.Table,
    view: str = names.USER_ACTIVITY,
    there: Stored | None = None,
    **more: Any,
) -> Difference:
    """Compares as after a load that went well, unless it is said what is there."""
    given: dict[str, Any] = {"is_known": True, "at": FOUND_AT} | more
    return difference(view, after, before, there or stored(before), **given)


def changed(before: list[Row], after: list[Row]) -> list[int]:
    found: list[int] = find(table(before), table(after)).changed.tolist()
    return found


def test_nothing_is_to_do_where_nothing_changed() -> None:
    assert find(table(ROWS), table(ROWS)).is_empty


def test_an_earlier_row_does_not_count() -> None:
    assert changed(ROWS, [(1, 1, 99, 0.5, [], []), *ROWS[1:]]) == []


def test_a_row_of_the_same_values_and_a_later_time_is_written() -> None:
    found = find(table(ROWS), table([*ROWS[:2], (1, 9, 21, 0.5, [1, 2], ["a"]), *ROWS[2:]]))
    assert ids_of(found.written).tolist() == [1]
    assert seconds_of(found.written).tolist() == [MIDNIGHT_S + 9 * DAY_S]
    assert not found.too_new.any()


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
def test_whose_last_row_differs_changed(at: int, row: Row, expected: list[int]) -> None:
    assert changed(ROWS, [*ROWS[:at], row, *ROWS[at + 1 :]]) == expected


def test_elements_that_moved_between_lists_are_seen() -> None:
    before: list[Row] = [(1, 1, 1, 0.0, [1, 2], []), (2, 1, 1, 0.0, [3], [])]
    assert changed(before, [(1, 1, 1, 0.0, [1], []), (2, 1, 1, 0.0, [2, 3], [])]) == [1, 2]


def test_equal_rows_in_other_chunks_are_equal() -> None:
    whole = table(ROWS)
    assert find(whole, pa.concat_tables([whole.slice(0, 1), whole.slice(1)])).is_empty


def test_a_changed_row_under_a_time_that_is_there_already_is_dated_back_first() -> None:
    found = find(table(ROWS), table([*ROWS[:1], (1, 2, 22, 0.5, [1, 2], ["a"]), *ROWS[2:]]))
    assert found.too_new.tolist() == found.is_written.tolist() == [True, False, False]


def test_changed_facts_hold_from_when_that_was_found_and_others_from_when_they_did() -> None:
    before, view = table(ROWS), names.USER_PROFILE
    first = find(before, table([*ROWS[:1], (1, 2, 22, 0.5, [1, 2], ["a"]), *ROWS[2:]]), view)
    assert ids_of(first.written).tolist() == [1]
    assert seconds_of(first.rows).tolist() == [int(FOUND_AT.timestamp()), *seconds_of(before)[1:]]
    again = find(first.rows, table([*ROWS[:1], (1, 2, 22, 0.5, [1, 2], ["a"]), *ROWS[2:]]), view)
    assert again.is_empty
    assert again.rows.equals(first.rows)


def test_new_facts_keep_their_own_time() -> None:
    found = find(table(ROWS[:3]), table(ROWS), names.USER_PROFILE)
    assert ids_of(found.written).tolist() == [3]
    assert seconds_of(found.written).tolist() == [MIDNIGHT_S + DAY_S]


def test_rows_that_are_not_there_or_of_another_time_are_written() -> None:
    rows = table(ROWS)
    there = Stored(np.array([1, 3]), np.array([MIDNIGHT_S + 2 * DAY_S, MIDNIGHT_S]))
    found = find(rows, rows, there=there)
    assert ids_of(found.written).tolist() == [2, 3]
    assert not found.too_new.any()
    nothing = Stored(np.array([], dtype=np.int64), np.array([], dtype=np.int64))
    assert ids_of(find(rows, rows, there=nothing).written).tolist() == [1, 2, 3]


def test_where_it_is_not_known_what_is_there_all_is_written_over_it() -> None:
    found = find(table(ROWS), table(ROWS), is_known=False)
    assert found.is_written.all()
    assert found.too_new.all()
    never = difference(names.USER_ACTIVITY, table(ROWS), None, stored(table([])), is_known=False, at=FOUND_AT)
    assert never.is_written.all()
    assert not never.too_new.any()


def test_a_column_that_came_or_changed_its_type_changes_every_row_and_one_that_went_is_named() -> None:
    rows = table(ROWS)
    wider = rows.append_column("user_new", pa.array([1] * len(rows)))
    assert find(rows, wider).changed.tolist() == [1, 2, 3]
    retyped = rows.set_column(2, "user_age", rows["user_age"].cast(pa.float32()))
    assert find(rows, retyped).changed.tolist() == [1, 2, 3]
    assert find(wider, rows).gone_columns == ["user_new"]
    assert find(wider, rows).changed.tolist() == [1, 2, 3]


def test_rows_without_a_source_are_gone() -> None:
    there = Stored(np.array([1, 2, 3, 8, 9]), np.array([5, 5, 5, MISSING, 7]))
    assert find(table(ROWS), table(ROWS[:3]), there=there).gone.tolist() == [3, 9]
