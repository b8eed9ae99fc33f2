"""Activity features: what a snapshot counts, and what it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from contract.activity import SMOOTHING
from contract.dataset import Dataset
from tests.builders.activity import item_activity, overall_rates, user_activity
from training.data.prepared import Prepared, to_numpy
from training.features.activity import snapshot_instants

START = pd.Timestamp("2022-04-25T00:00Z")


def prepared(rows: list[tuple[int, int, float | None, int | None]], **declaration: Any) -> Prepared:
    """Makes interactions of (user, item, days since START or None for a history, label)."""
    dataset = Dataset.model_validate(
        {
            "name": "small",
            "history_until": START,
            "activity": {"recent_items": 3, "history_items": 3},
            "users": {"user_id": {"role": "id"}},
            "items": {"item_id": {"role": "id"}},
            "interactions": {
                "user_id": {"role": "id"},
                "item_id": {"role": "id"},
                "timestamp": {"role": "timestamp"},
                "is_click": {"role": "label"},
            },
            **declaration,
        }
    )
    users, items, days, labels = zip(*rows, strict=True)
    stamps = [pd.NaT if day is None else START + pd.Timedelta(days=day) for day in days]
    interactions = pd.DataFrame(
        {
            "user_id": users,
            "item_id": items,
            "timestamp": pd.Series(stamps, dtype="datetime64[ns, UTC]"),
            "is_click": pd.array(labels, dtype="Int64"),
        }
    )
    tables = [
        pd.DataFrame({name: sorted(set(ids))}) for name, ids in (("user_id", users), ("item_id", items))
    ]
    users_table, items_table = tables
    return Prepared(Path(), dataset, users_table, items_table, interactions)


def days(*numbers: int) -> pd.DatetimeIndex:
    """Gives the instants that many days after START."""
    return pd.DatetimeIndex([START + pd.Timedelta(days=n) for n in numbers])


def test_snapshots_are_daily_from_the_one_before_the_first_event() -> None:
    dataset = prepared([(1, 10, 0.0, 1)], activity={"snapshot_offset_hours": 16}).dataset
    found = snapshot_instants(dataset, START, START + pd.Timedelta(days=1, hours=16))
    assert [str(t) for t in found] == [
        "2022-04-24 16:00:00+00:00",
        "2022-04-25 16:00:00+00:00",
        "2022-04-26 16:00:00+00:00",
    ]


def test_a_snapshot_counts_what_is_strictly_before_it_newest_first() -> None:
    data = prepared([(1, 10, None, None), (1, 11, 0.5, 1), (1, 12, 0.6, 0), (1, 13, 1.0, 1)])
    table = user_activity(data, days(0, 1, 2))
    assert table["user_event_count"].tolist() == [1, 3, 4]
    newest = [START, *(START + pd.Timedelta(days=day, microseconds=1) for day in (0.6, 1.0))]
    assert table["event_timestamp"].tolist() == newest, "it holds from just after its newest event"
    assert [list(ids) for ids in table["user_recent_item_ids"]] == [[10], [12, 11, 10], [13, 12, 11]]
    assert [list(ids) for ids in table["user_recent_positive_item_ids"]] == [[], [11], [13, 11]]


def test_stored_lists_are_longer_than_those_that_models_read() -> None:
    data = prepared(
        [(1, item, item / 10, 1) for item in range(1, 6)], activity={"recent_items": 2, "history_items": 4}
    )
    stored = user_activity(data, days(1))["user_recent_positive_item_ids"]
    read = to_numpy(stored, data.dataset.user_activity["user_recent_positive_item_ids"])
    assert stored[0].tolist() == [5, 4, 3, 2]
    assert read.tolist() == [[5, 4]]


def test_a_row_is_written_only_where_something_is_new() -> None:
    data = prepared([(1, 10, 0.5, 1), (2, 10, 2.5, 0)])
    table = user_activity(data, days(0, 1, 2, 3))
    assert list(zip(table["user_id"], table["event_timestamp"], strict=True)) == [
        (1, START + pd.Timedelta(days=0.5, microseconds=1)),
        (2, START + pd.Timedelta(days=2.5, microseconds=1)),
    ]


def test_rates_are_smoothed_towards_the_overall_rate_of_the_train_part() -> None:
    data = prepared([(1, 10, 0.1, 1), (2, 10, 0.2, 0), (2, 11, 0.3, 0), (1, 11, 1.5, 1)])
    assert overall_rates(data) == {"is_click": 0.5}, (
        "of the first two: the last two are for validation and test"
    )
    table = item_activity(data, days(1, 2))["item_is_click_rate"]
    assert table.tolist() == pytest.approx(
        [
            (1 + SMOOTHING / 2) / (2 + SMOOTHING),
            (SMOOTHING / 2) / (1 + SMOOTHING),
            (1 + SMOOTHING / 2) / (2 + SMOOTHING),
        ]
    )


def test_where_train_tells_nothing_all_rows_do_and_where_they_neither_there_is_no_rate() -> None:
    rows: list[tuple[int, int, float | None, int | None]] = [
        (1, 10, 0.1, None),
        (1, 10, 0.2, None),
        (1, 11, 0.3, 1),
    ]
    assert overall_rates(prepared(rows)) == {"is_click": 1.0}
    data = prepared([(*row[:3], None) for row in rows])
    assert overall_rates(data) == {"is_click": None}
    assert np.isnan(user_activity(data, days(1))["user_is_click_rate"][0])


def test_a_history_known_by_its_positives_alone_does_not_count_in_rates() -> None:
    data = prepared([(1, 10, None, 1), (1, 11, None, None), (1, 12, 0.5, 0)])
    assert overall_rates(data) == {"is_click": 0}
    assert user_activity(data, days(0, 1))["user_is_click_rate"].tolist() == [0, 0]


def test_a_history_counts_in_rates_for_its_last_rows_where_they_tell() -> None:
    """`recent_items` is 3: the oldest row, kept for being a positive, would flatter the user."""
    data = prepared([(1, 9, None, 1), (1, 10, None, 1), (1, 11, None, 0), (1, 12, None, 0)])
    rate = user_activity(data, days(0))["user_is_click_rate"][0]
    assert rate == pytest.approx(1 / 3)
    assert user_activity(data, days(0))["user_event_count"][0] == 4
