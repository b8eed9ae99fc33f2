"""Ranking rows hold what was known before the exposure, and nothing later."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from contract.dataset import Dataset
from tests.builders.activity import with_lists
from training.data.prepared import Prepared
from training.data.raw import all_columns
from training.examples.exposures import RankingRows, RankingTable, concatenate, take

START = pd.Timestamp("2022-04-25T00:00Z")


def at(day: float) -> pd.Timestamp:
    """Gives an instant, days after START."""
    return START + pd.Timedelta(days=day)


@pytest.fixture
def table() -> RankingTable:
    dataset = Dataset.model_validate(
        {
            "name": "small",
            "history_until": START,
            "activity": {"recent_items": 3, "history_items": 3},
            "label": "is_click",
            "users": {"user_id": {"role": "id"}, "user_age": {"role": "numeric"}},
            "items": {"item_id": {"role": "id"}, "item_kind": {"role": "categorical", "is_affinity": True}},
            "interactions": {
                "user_id": {"role": "id"},
                "item_id": {"role": "id"},
                "timestamp": {"role": "timestamp"},
                "is_click": {"role": "label"},
                "is_long": {"role": "label"},
                "context_tab": {"role": "context"},
            },
        }
    )
    users = pd.DataFrame({"user_id": [1, 2], "user_age": np.array([30, np.nan], dtype=np.float32)})
    items = pd.DataFrame({"item_id": [10, 11, 12, 13], "item_kind": pd.array([5, 5, 6, None], dtype="Int64")})
    rows = [
        (1, 10, pd.NaT, 1, 1, None),
        (1, 11, pd.NaT, None, 0, None),
        (1, 12, pd.NaT, None, 0, None),
        (1, 11, at(0.5), 0, 0, 7),
        (1, 10, at(1.2), 1, 1, 8),
        (3, 99, at(1.4), 0, 0, 7),
        (1, 13, at(2.5), 1, 0, 7),
    ]
    interactions = pd.DataFrame(rows, columns=list(dataset.interactions)).astype(
        {name: "Int64" for name in ("is_click", "is_long", "context_tab")}
    )
    interactions["timestamp"] = interactions["timestamp"].astype("datetime64[ns, UTC]")
    return RankingTable.of(Prepared(Path(), dataset, users, items, interactions))


def lists_of(rows: RankingRows) -> list[list[int]]:
    return [items.tolist() for items in with_lists(rows)["user_recent_item_ids"]]


def test_an_exposure_knows_all_that_was_before_it(table: RankingTable) -> None:
    rows = table.exposures(at(0), at(2))
    assert list(rows.raw(table.prepared.dataset)) == list(all_columns(table.prepared.dataset))
    assert lists_of(rows)[:2] == [[12, 11, 10], [11, 12, 11]]
    assert rows.frame["context_tab"].tolist() == [7, 8, 7]
    assert rows.labels.tolist() == [[0, 0], [1, 1], [0, 0]]
    assert rows.frame["user_item_kind_recent"].tolist() == [2, 2, 0]


def test_unknown_users_and_items_are_null_not_errors(table: RankingTable) -> None:
    stranger = table.exposures(at(1.3), at(1.5)).frame.iloc[0]
    assert pd.isna(stranger["user_age"])
    assert pd.isna(stranger["item_kind"])
    assert pd.isna(stranger["user_event_count"])


def test_features_of_a_test_stop_at_its_start(table: RankingTable) -> None:
    frozen = table.exposures(at(2), at(3), as_of=at(1)).frame
    fresh = table.exposures(at(2), at(3)).frame
    assert frozen["user_event_count"][0] == 4
    assert fresh["user_event_count"][0] == 5


def test_a_history_row_knows_only_its_prefix(table: RankingTable) -> None:
    rows = table.histories()
    assert rows.frame["item_id"].tolist() == [10, 11, 12]
    np.testing.assert_array_equal(rows.frame["user_event_count"], [np.nan, 1, 2])
    assert lists_of(rows) == [[], [10], [11, 10]]
    assert rows.frame["user_item_kind_positive"].tolist() == [0, 1, 0]
    assert rows.frame[["context_tab", "item_event_count", "item_is_long_rate"]].isna().all(axis=None)


def test_a_history_teaches_only_labels_that_tell(table: RankingTable) -> None:
    """Clicks are known by their positives alone there, long views on both sides."""
    labels = table.histories().labels
    assert np.isnan(labels[:, 0]).all()
    assert labels[:, 1].tolist() == [1, 0, 0]


def test_pairs_are_rows_without_context_as_serving_makes_them(table: RankingTable) -> None:
    pairs = table.pairs(np.array([1, 2]), np.array([13, 11]), at(1)).frame
    logged = table.exposures(at(1.1), at(1.3)).frame
    assert pairs["context_tab"].isna().all()
    users = [name for name in pairs if name.startswith("user_") and "item" not in name]
    pd.testing.assert_frame_equal(pairs.loc[:0, users], logged.loc[:0, users])


def test_rows_join_and_are_picked_in_order(table: RankingTable) -> None:
    both = concatenate([table.histories(), table.exposures(at(0), at(3))])
    assert len(both) == 3 + 4
    picked = take(both, np.array([4, 0]))
    assert picked.frame["item_id"].tolist() == [10, 10]
    assert picked.labels[0].tolist() == [1, 1]
    assert lists_of(picked) == [lists_of(both)[4], []]
