from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contract import names
from contract.dataset import Dataset
from tests.builders.activity import user_activity
from tests.builders.encoded import RECENT, encoders_of
from training.data.prepared import Prepared, to_numpy
from training.examples.positives import UserHistories, retrieval_examples
from training.examples.split import held_out
from training.features.activity import snapshot_instants

START = datetime(2024, 1, 10, tzinfo=UTC)
DATASET = Dataset.model_validate(
    {
        "name": "tiny",
        "history_until": START,
        "activity": {"recent_items": 4, "snapshot_hours": 6},
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
ROW = st.tuples(
    st.integers(0, 3),  # user 3 has no row of features
    st.integers(10, 16),  # item 16 is not in the catalogue
    st.one_of(st.none(), st.integers(0, 47)),
    st.sampled_from([0, 1, None]),
)


def prepared_of(rows: list[tuple[int, int, int | None, int | None]]) -> Prepared:
    rows = sorted(rows, key=lambda row: (row[2] is not None, row[2] if row[2] is not None else row[0]))
    users, items, hours, clicks = zip(*rows, strict=True)
    stamps = [pd.NaT if h is None else pd.Timestamp(START) + pd.Timedelta(hours=h) for h in hours]
    interactions = pd.DataFrame(
        {
            "user_id": np.array(users, dtype=np.int64),
            "item_id": np.array(items, dtype=np.int64),
            "timestamp": pd.Series(stamps, dtype="datetime64[ns, UTC]"),
            "is_click": pd.array(clicks, dtype="Int64"),
        }
    )
    known = pd.DataFrame({"user_id": [0, 1, 2]}), pd.DataFrame({"item_id": range(10, 16)})
    return Prepared(Path(), DATASET, *known, interactions)


@given(st.lists(ROW, min_size=1, max_size=40), st.integers(0, 8))
@example([(1, 11, 0, 0), (1, 10, 0, 0)], 1)
def test_lists_at_an_instant_equal_the_activity_features(
    rows: list[tuple[int, int, int | None, int | None]], snapshot: int
) -> None:
    prepared = prepared_of(rows)
    instant = START + pd.Timedelta(hours=6 * snapshot)
    encoders = encoders_of(prepared)
    histories = UserHistories.of(prepared, encoders)
    ours = histories.as_of(np.arange(len(histories.user_ids)), instant)
    stored = user_activity(prepared, snapshot_instants(DATASET, instant, instant)).set_index("user_id")
    for name in RECENT:
        expected = np.zeros((len(histories.user_ids), 4), dtype=np.int64)
        for row, user in enumerate(histories.user_ids):
            if user in stored.index:
                raw = to_numpy(pd.Series([stored.loc[user, name]]), DATASET.user_activity[name])
                expected[row] = encoders.encode(name, raw)[0]
        np.testing.assert_array_equal(ours[name], expected)


@given(st.lists(ROW, min_size=1, max_size=40))
def test_an_example_is_trained_with_only_what_precedes_it(
    rows: list[tuple[int, int, int | None, int | None]],
) -> None:
    prepared = prepared_of(rows)
    histories = UserHistories.of(prepared, encoders_of(prepared))
    until = START + pd.Timedelta(hours=30)
    examples = retrieval_examples(prepared, histories, until)
    expected = sum(item != 16 and (hour is None or hour < 30) for _, item, hour, _ in rows)
    assert len(examples) == expected
    # A user's places are in order of time, so what precedes an example ends at or before its own place.
    sequence = np.flatnonzero(histories.times < pd.Timestamp(until).value)
    left = [place for place in sequence if histories.recent.items[place] != 2]
    assert (examples.ends <= np.array(left, dtype=np.int64)).all()
    own_times = histories.times[left]
    for row in range(len(examples)):
        start = histories.recent.starts[examples.users[row]]
        assert (histories.times[start : examples.ends[row]] <= own_times[row]).all()


@pytest.mark.parametrize("seen_labels", ["any", "is_click"])
def test_relevant_items_are_new_clicks_of_the_part(seen_labels: str) -> None:
    hour = [(0, 10, None, 1), (0, 11, 1, 0), (0, 12, 7, 1), (0, 10, 8, 1), (1, 11, 8, 1), (1, 16, 8, 1)]
    prepared = prepared_of([*hour, (0, 11, 9, 1), (2, 13, 9, 0), (3, 14, 9, 1), (0, 15, 20, 1)])
    dataset = DATASET.model_copy(update={"seen_labels": seen_labels})
    prepared = Prepared(Path(), dataset, prepared.users, prepared.items, prepared.interactions)
    start, until = START + pd.Timedelta(hours=6), START + pd.Timedelta(hours=12)
    part = held_out(prepared, start, until)
    assert part.user_ids.tolist() == [0, 1, 3]
    relevant = [(10 + np.flatnonzero(row)).tolist() for row in part.relevant.toarray()]
    # Item 11 was exposed to user 0 before, not clicked; item 16 is not in the catalogue.
    assert relevant == [[12] if seen_labels == "any" else [11, 12], [11], [14]]
    assert names.ITEM_ID in prepared.items
