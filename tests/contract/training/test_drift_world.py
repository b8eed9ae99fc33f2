"""On the synthetic world the watch fires soon after fashions begin to drift, and not without that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from contract.arrays import Array, Ints
from contract.drift import Reference, numbers_of, watched
from contract.names import ITEM_ID, USER_ID, USER_RECENT_ITEM_IDS
from live.drift import DriftWindow
from live.settings import LiveSettings
from training.data.prepared import Prepared
from training.data.sources.catalog import prepare
from training.data.sources.synthetic import Size
from training.examples.snapshot import items_as_of, users_as_of
from training.examples.split import all_user_ids, rows_of

FIRES_WITHIN = 6_000
"""Events after the change."""
SIZE = Size(users=1500, items=600, days=30, interactions=60_000, seed=3, drift=0.0)
DAY, DAYS = pd.Timedelta(days=1), 4
LATEST = 3
"""Of the items that a user came across last, so many stand for what is served."""


def made(var: Path, drift: float) -> Prepared:
    """The world, whose users and items are the same at any drift."""
    return prepare("synthetic", var, var, size=replace(SIZE, drift=drift), say=lambda _: None)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return made(tmp_path_factory.mktemp("calm"), 0.0)


def during(prepared: Prepared, start: pd.Timestamp, end: pd.Timestamp) -> pd.DataFrame:
    times = prepared.interactions[prepared.dataset.timestamp]
    return prepared.interactions[(times >= start) & (times < end)]


def values_of(prepared: Prepared, asking: Ints, at: pd.Timestamp) -> dict[str, Array]:
    """What requests of these users are about: their features as of an instant, and items."""
    rows = rows_of(all_user_ids(prepared), asking)
    users = {name: values[rows] for name, values in users_as_of(prepared, at.to_pydatetime()).items()}
    latest = users[USER_RECENT_ITEM_IDS][:, :LATEST].ravel()
    places = rows_of(prepared.items[ITEM_ID].to_numpy(np.int64), latest)
    items = items_as_of(prepared, at.to_pydatetime())
    served = {name: values[places[places >= 0]] for name, values in items.items()}
    return watched(prepared.dataset, users, np.zeros((0, 1), np.float32), served, {}, None)


def fired_after(calm: Prepared, later: Prepared) -> tuple[int | None, int]:
    """Lets the calm world go on as another; gives after how many events it fired, and how many came."""
    live = LiveSettings()
    start = calm.interactions[calm.dataset.timestamp].max().ceil("D") - DAYS * DAY
    before = during(calm, start - DAYS * DAY, start)[USER_ID].to_numpy(np.int64)
    reference = Reference.of(values_of(calm, before, start), numbers_of(calm.dataset))
    window = DriftWindow(reference, live.drift_answers, live.drift_psi, live.drift_jensen_shannon)
    whole = pd.concat([during(calm, start - 60 * DAY, start), during(later, start, start + DAYS * DAY)])
    world = replace(calm, interactions=whole.reset_index(drop=True))
    events, fired = 0, None
    for day in range(DAYS):
        asking = during(world, start + day * DAY, start + (day + 1) * DAY)[USER_ID].to_numpy(np.int64)
        events += len(asking)
        window.add(len(asking), values_of(world, asking, start + (day + 1) * DAY))
        if fired is None and any(one.is_drifted for one in window.drift().values()):
            fired = events
    return fired, events


def test_it_fires_within_the_stated_number_of_events_after_a_change(calm: Prepared, tmp_path: Path) -> None:
    fired, _ = fired_after(calm, made(tmp_path, 3.0))
    assert fired is not None
    assert fired <= FIRES_WITHIN


def test_it_does_not_fire_once_in_as_many_events_without(calm: Prepared) -> None:
    fired, events = fired_after(calm, calm)
    assert events > FIRES_WITHIN
    assert fired is None
