"""Strangers with the newest items of known users."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.training.test_activity import START, days, prepared
from training.data.prepared import Prepared
from training.examples.split import HeldOut, all_user_ids, held_out
from training.examples.strangers import with_strangers

ROWS: list[tuple[int, int, float | None, int | None]] = [
    (0, 10, None, 1),
    (2, 10, 0.1, 1),
    (0, 11, 0.2, 0),
    (2, 11, 0.3, 0),
    (0, 12, 0.4, 1),
    (0, 13, 1.5, 1),
    (2, 14, 1.6, 1),
]


@pytest.fixture
def data() -> Prepared:
    return prepared(ROWS)


@pytest.fixture
def held(data: Prepared) -> HeldOut:
    return held_out(data, days(1)[0], days(3)[0])


@pytest.mark.parametrize(
    ("count", "known"), [(0, [[], []]), (2, [[11, 12], [10, 11]]), (9, [[10, 11, 12], [10, 11]])]
)
def test_a_stranger_did_the_newest_things_that_the_user_did_before(
    data: Prepared, held: HeldOut, count: int, known: list[list[int]]
) -> None:
    together, strangers = with_strangers(data, held, days(1)[0], count)
    log = together.interactions
    found = [log[log["user_id"] == user]["item_id"].tolist() for user in strangers.user_ids]
    assert found == known
    others = log[~log["user_id"].isin(strangers.user_ids)].reset_index(drop=True)
    assert others["item_id"].tolist() == data.interactions["item_id"].tolist()


def test_strangers_are_nobody_who_is_known_and_take_the_users_places(data: Prepared, held: HeldOut) -> None:
    together, strangers = with_strangers(data, held, START, 1)
    assert not np.isin(strangers.user_ids, all_user_ids(data)).any()
    assert all_user_ids(together)[strangers.user_rows].tolist() == strangers.user_ids.tolist()
    assert strangers.relevant is held.relevant
    assert together.users["user_id"].is_monotonic_increasing
    assert together.users.dtypes.equals(data.users.dtypes)
