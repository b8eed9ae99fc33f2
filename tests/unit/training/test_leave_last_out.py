"""Leave-last-out: who is asked for what, knowing what, and when."""

from __future__ import annotations

import pandas as pd
import pytest

from contract.dataset import DatasetError
from tests.unit.training.test_activity import START, prepared
from training.data.prepared import Prepared
from training.evaluation.protocols.leave_last_out import leave_last_out
from training.examples.split import held_out, is_before

DAY, HOUR = pd.Timedelta(days=1), pd.Timedelta(hours=1)
Row = tuple[int, int, float | None, int | None]
ROWS: list[Row] = [
    (1, 10, None, 1),  # a history
    (3, 11, 0.0, 1),  # has one positive alone
    (1, 11, 0.25, 0),
    (1, 12, 1.0, 1),
    (1, 13, 1.5, 1),  # validation of user 1
    (1, 12, 1.6, 1),  # not new
    (1, 14, 1.75, 0),
    (1, 15, 2.0, 1),  # test of user 1
    (1, 16, 2.5, 0),
    (2, 10, 7.0, 0),
    (2, 15, 8.0, 1),  # validation of user 2
    (2, 11, 400.0, 1),  # test of user 2
    (3, 16, 401.0, 0),
]


def found(data: Prepared, start: pd.Timestamp, until: pd.Timestamp) -> dict[int, list[int]]:
    """Gives what users are to find in a part, by their ids."""
    held, items = held_out(data, start, until), data.items["item_id"]
    return {
        int(user): items[row.indices].tolist() for user, row in zip(held.user_ids, held.relevant, strict=True)
    }


def test_every_user_is_to_find_the_last_new_positive_and_in_validation_the_one_before() -> None:
    divided = leave_last_out(prepared(ROWS))
    split = divided.split
    assert found(divided, split.train_until, split.validate_until) == {1: [13], 2: [15]}
    assert found(divided, split.validate_until, split.test_until) == {1: [15], 2: [11]}


def test_a_user_knows_what_came_before_and_nothing_that_came_after() -> None:
    divided = leave_last_out(prepared(ROWS))
    log = divided.interactions
    train = log[is_before(divided, divided.split.train_until)]
    before = log[is_before(divided, divided.split.validate_until)]
    assert train[train["user_id"] == 1]["item_id"].tolist() == [10, 11, 12]
    assert before[before["user_id"] == 1]["item_id"].tolist() == [10, 11, 12, 13, 12, 14]
    assert log[log["user_id"] == 1]["item_id"].tolist() == [10, 11, 12, 13, 12, 14, 15]
    assert train[train["user_id"] == 3]["item_id"].tolist() == [11, 16]


def test_a_user_is_asked_as_long_after_the_last_interaction_as_it_was() -> None:
    divided = leave_last_out(prepared(ROWS))
    split, log = divided.split, divided.interactions
    times = log["timestamp"]
    of_1 = times[log["user_id"] == 1].dropna()
    assert [(pd.Timestamp(split.train_until) - at) / HOUR for at in of_1[:2]] == [30, 12]
    known = of_1[of_1 < split.validate_until][2:]
    assert [(pd.Timestamp(split.validate_until) - at) / HOUR for at in known] == pytest.approx([12, 9.6, 6])
    assert pd.Timestamp(split.validate_until) - pd.Timestamp(split.train_until) == DAY


def test_the_parts_end_at_snapshots_after_everything_and_the_rows_stay_in_order() -> None:
    divided = leave_last_out(prepared(ROWS, activity={"snapshot_offset_hours": 5}))
    times = divided.interactions["timestamp"]
    assert pd.Timestamp(divided.split.train_until) > START + 401 * DAY
    assert pd.Timestamp(divided.split.train_until).hour == 5
    assert times.dropna().is_monotonic_increasing
    assert times.isna().tolist() == [True] + [False] * (len(times) - 1)
    assert divided.dataset.clock() == divided.split.validate_until


def test_what_was_done_several_times_at_one_instant_is_asked_for_once() -> None:
    cartons: list[Row] = [(2, 11, 400.0, 0), (2, 11, 400.0, 1), (2, 11, 400.0, 1)]
    divided = leave_last_out(prepared(ROWS + cartons, seen_labels="none"))
    log, split = divided.interactions, divided.split
    assert found(divided, split.train_until, split.validate_until)[2] == [15]
    assert found(divided, split.validate_until, split.test_until)[2] == [11]
    assert log[log["user_id"] == 2]["item_id"].tolist() == [10, 15, 11]


def test_which_of_the_items_of_one_instant_is_asked_for_is_drawn_always_alike() -> None:
    baskets: list[Row] = [(user, item, 500.0, 1) for user in range(20, 60) for item in (10, 11, 12, 13)]
    divided = leave_last_out(prepared(baskets))
    again = leave_last_out(prepared(baskets))
    asked = found(divided, divided.split.validate_until, divided.split.test_until)
    assert asked == found(again, again.split.validate_until, again.split.test_until)
    assert len(asked) == 40
    assert {item for (item,) in asked.values()} == {10, 11, 12, 13}


def test_what_may_be_answered_again_is_asked_for_again() -> None:
    divided = leave_last_out(prepared(ROWS, seen_labels="none"))
    split = divided.split
    assert found(divided, split.train_until, split.validate_until)[1] == [12]


def test_where_nobody_can_be_asked_it_says_so() -> None:
    with pytest.raises(DatasetError, match="small: nobody has two timed positives"):
        leave_last_out(prepared(ROWS[:4]))
