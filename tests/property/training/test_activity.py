"""Activity in one pass over the events is what a look at every snapshot finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from contract import names
from contract.activity import SMOOTHING, ActivityReducer, ActivityState
from contract.features import STATE
from tests.builders.activity import (
    events_before,
    item_activity,
    logged_events,
    overall_rates,
    user_activity,
    with_lists,
)
from tests.unit.training.test_activity import days, prepared
from training.data.prepared import Prepared
from training.examples.exposures import RankingTable
from training.features.activity import EntityLog, busy_instants, countable_labels, event_times
from training.features.states import activity_states

Row = tuple[int, int, float | None, int | None]
LABEL = st.sampled_from([0, 1, None])
LISTS = {names.USER_RECENT_ITEM_IDS: False, names.USER_RECENT_POSITIVE_ITEM_IDS: True}


@st.composite
def interactions(draw: st.DrawFn) -> Prepared:
    """Draws histories, then timed rows, of few users and items, some at one instant."""
    rows: list[Row] = []
    for days_later in (st.none(), st.integers(0, 12).map(lambda n: n / 3)):
        row = st.tuples(st.integers(1, 3), st.integers(10, 13), days_later, LABEL)
        drawn = draw(st.lists(row, min_size=len(rows) == 0, max_size=15))
        rows += sorted(drawn, key=lambda row: row[0] if row[2] is None else row[2])
    return prepared(rows)


def look(data: Prepared, entity: str, instant: pd.Timestamp) -> dict[int, dict[str, object]]:
    """Gives what a snapshot counts, per entity with rows before it, one row after the other."""
    log = data.interactions
    times = event_times(data.dataset, log)
    label = countable_labels(data)["is_click"]
    before = (times < instant).to_numpy()
    overall = np.float64(overall_rates(data)["is_click"])
    found: dict[int, dict[str, object]] = {}
    for key in sorted(log.loc[before, f"{entity}_id"].unique()):
        own = before & (log[f"{entity}_id"] == key).to_numpy()
        rated = label[own & ~np.isnan(label)]
        own_rows = log[own].assign(at=times[own], tie=log["item_id"].where(log["timestamp"].notna(), 0))
        newest = own_rows.sort_values(["at", "tie"], kind="stable").iloc[::-1]
        found[key] = {
            f"{entity}_event_count": float(own.sum()),
            f"{entity}_is_click_rate": np.float32(
                (rated.sum() + SMOOTHING * overall) / (len(rated) + SMOOTHING)
            ),
        }
        if entity == names.USER:
            for name, positives in LISTS.items():
                rows = newest[newest["is_click"] == 1] if positives else newest
                found[key][name] = rows["item_id"].tolist()[: data.dataset.activity.history_items]
    return found


@settings(deadline=None, max_examples=20)
@given(interactions(), st.booleans())
def test_one_pass_over_the_events_finds_what_a_look_at_every_snapshot_does(
    data: Prepared, are_busy: bool
) -> None:
    until = event_times(data.dataset, data.interactions).max()
    instants = busy_instants(data, until) if are_busy else days(0, 1, 3, 4)
    for entity, activity in ((names.USER, user_activity), (names.ITEM, item_activity)):
        table = activity(data, instants)
        expected: list[tuple[int, pd.Timestamp, dict[str, object]]] = []
        counts: dict[int, object] = {}
        for instant in instants:
            for key, row in look(data, entity, instant).items():
                if counts.get(key) != row[f"{entity}_event_count"]:
                    newest = event_times(data.dataset, data.interactions)[
                        data.interactions[f"{entity}_id"] == key
                    ]
                    since = newest[newest < instant].max() + pd.Timedelta(microseconds=1)
                    expected.append((key, since, row))
                counts[key] = row[f"{entity}_event_count"]
        assert table[f"{entity}_id"].tolist() == [key for key, _, _ in expected]
        assert table[names.EVENT_TIMESTAMP].tolist() == [since for _, since, _ in expected]
        for name in table.columns[2:]:
            wanted = [row[name] for _, _, row in expected]
            if name in LISTS:
                assert [list(items) for items in table[name]] == wanted
            else:
                np.testing.assert_array_equal(table[name].to_numpy(np.float32), np.array(wanted, np.float32))


@settings(deadline=None, max_examples=20)
@given(interactions())
def test_what_an_exposure_is_learned_with_is_the_fold_of_all_that_was_before_it(data: Prepared) -> None:
    until = event_times(data.dataset, data.interactions).max() + pd.Timedelta(seconds=1)
    log, rates = logged_events(data), overall_rates(data)
    rows = RankingTable.of(data).exposures(None, until.to_pydatetime())
    for entity, columns in (
        (names.USER, data.dataset.user_activity),
        (names.ITEM, data.dataset.item_activity),
    ):
        reducer = ActivityReducer.of(data.dataset, entity)
        for at, row in zip(rows.times, with_lists(rows).to_dict("records"), strict=True):
            state = reducer.fold(ActivityState(), *events_before(log, entity, row[f"{entity}_id"], at))
            known = reducer.features(state, rates) if state.count else {}
            for name, column in columns.items():
                expected: Any = known.get(name)
                if name in LISTS:
                    assert list(row[name]) == (expected or [])[: column.max_length]
                else:
                    value = np.float32(np.nan if expected is None else expected)
                    np.testing.assert_array_equal(row[name], value, err_msg=name)


@settings(deadline=None, max_examples=20)
@given(interactions())
def test_the_states_that_the_stream_goes_on_from_are_the_fold_of_the_log(data: Prepared) -> None:
    times = event_times(data.dataset, data.interactions)
    until, log = times.max(), logged_events(data)
    for entity in (names.USER, names.ITEM):
        reducer = ActivityReducer.of(data.dataset, entity)
        ids = sorted(data.interactions.loc[times < until, f"{entity}_id"].unique())
        folded = [
            reducer.fold(ActivityState(), *events_before(log, entity, one, until.value)).encode()
            for one in ids
        ]
        states = activity_states(EntityLog.of(data, entity), until.to_pydatetime())
        assert states.to_pydict() == {f"{entity}_id": ids, STATE: folded}
