from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from contract import names
from contract.columns import Column, Role
from contract.dataset import Dataset
from contract.features import SEEN_ITEM_IDS
from training.data.prepared import Prepared, to_numpy
from training.features.seen import seen_items

IDS = st.integers(-(2**63) + 1, 2**63 - 1)
START = datetime(2025, 1, 1, tzinfo=UTC)


@given(lists=st.lists(st.one_of(st.none(), st.lists(IDS, max_size=6)), max_size=8), width=st.integers(1, 5))
def test_a_padded_list_is_its_first_elements_then_null(lists: list[list[int] | None], width: int) -> None:
    values = pd.Series([None if v is None else np.array(v, dtype=np.int64) for v in lists], dtype=object)
    found = to_numpy(values, Column(role=Role.LIST, max_length=width))
    assert found.shape == (len(lists), width)
    for row, given_list in zip(found.tolist(), lists, strict=True):
        first = (given_list or [])[:width]
        assert row == first + [names.NULL_INT] * (width - len(first))


def prepared(rows: list[tuple[int, int, int | None, int]], seen_labels: str) -> Prepared:
    """Interactions (user, item, hour or None for a history row, label); the histories precede hour 0."""
    dataset = Dataset.model_validate(
        {
            "name": "small",
            "history_until": START,
            "seen_labels": seen_labels,
            "users": {"user_id": {"role": "id"}},
            "items": {"item_id": {"role": "id"}},
            "interactions": {
                "user_id": {"role": "id"},
                "item_id": {"role": "id"},
                "timestamp": {"role": "timestamp"},
                "is_click": {"role": "label"},
            },
        }
    )
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "hour", "is_click"])
    hours = pd.to_timedelta(pd.to_numeric(frame["hour"]), unit="h")
    frame["timestamp"] = pd.Timestamp(START) + hours
    frame["is_click"] = frame["is_click"].astype("Int64")
    frame = frame.sort_values("timestamp", kind="stable", na_position="first", ignore_index=True)
    return Prepared(Path(), dataset, pd.DataFrame(), pd.DataFrame(), frame)


ROW = st.tuples(
    st.integers(0, 3), st.integers(0, 6), st.one_of(st.none(), st.integers(0, 9)), st.sampled_from([0, 1])
)


@given(
    rows=st.lists(ROW, min_size=1, max_size=30),
    most=st.integers(1, 6),
    hour=st.integers(0, 10),
    clicks=st.booleans(),
)
def test_seen_is_newest_first_each_once_before_the_instant_and_bounded(
    rows: list[tuple[int, int, int | None, int]], most: int, hour: int, clicks: bool
) -> None:
    world = prepared(rows, "is_click" if clicks else "any")
    until = START + timedelta(hours=hour)
    found = seen_items(world, until, most)
    expected: dict[int, list[int]] = {}
    for row in world.interactions.iloc[::-1].itertuples():
        is_before = pd.isna(row.timestamp) or row.timestamp < until
        mine = expected.setdefault(row.user_id, [])
        if is_before and (row.is_click == 1 or not clicks) and row.item_id not in mine and len(mine) < most:
            mine.append(row.item_id)
    lists = dict(zip(found[names.USER_ID].to_pylist(), found[SEEN_ITEM_IDS].to_pylist(), strict=True))
    assert lists == {u: v for u, v in expected.items() if v}
    assert list(lists) == sorted(lists)
