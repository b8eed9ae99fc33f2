"""Candidates to learn from: clicks, and what else would have been retrieved, as of the snapshot."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from contract import names
from contract.encoders import OOV_CODE
from tests.builders.datasets import small_world
from tests.builders.encoded import encoders_of
from training.examples.candidates import NEGATIVES, SNAPSHOTS, _draw, candidate_rows
from training.examples.exposures import RankingTable
from training.examples.split import HeldOut, interaction_matrix, is_before
from training.features.activity import event_times


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> RankingTable:
    prepared = small_world(Path(tmp_path_factory.mktemp("world")))
    return RankingTable.of(prepared)


def test_rows_are_retrieved_and_clicked_or_never(table: RankingTable) -> None:
    prepared, until = table.prepared, table.prepared.split.train_until
    asked: list[datetime] = []

    def retrieve(held: HeldOut, instant: datetime) -> np.ndarray:
        asked.append(instant)
        lists = np.tile(np.arange(50, dtype=np.int64), (len(held.user_rows), 1))
        lists[:, -1] = -1
        return lists

    rows = candidate_rows(table, encoders_of(prepared), retrieve, until)
    assert rows is not None
    assert len(asked) == SNAPSHOTS
    assert max(asked) < pd.Timestamp(until)
    clicked = interaction_matrix(prepared, is_before(prepared, until), prepared.dataset.target)
    items = rows.columns[names.ITEM_ID] - OOV_CODE - 1
    users = rows.columns[names.USER_ID] - OOV_CODE - 1
    is_known = users >= 0
    ids = prepared.users[names.USER_ID].to_numpy()[users[is_known]]
    everyone = np.unique(np.concatenate([prepared.users.user_id, prepared.interactions.user_id]))
    did = np.asarray(clicked[np.searchsorted(everyone, ids), items[is_known]]).ravel() > 0
    np.testing.assert_array_equal(did, rows.labels[is_known] == 1)
    assert (items < 49).all()
    assert 0 < rows.sampled < 1
    assert (rows.labels == 0).sum() <= NEGATIVES * (rows.labels == 1).sum()


def test_a_train_part_within_one_snapshot_has_no_candidates(table: RankingTable) -> None:
    """Before its only snapshot nothing is known of anyone."""
    prepared = table.prepared
    until = pd.Timestamp(prepared.split.train_until)
    times = event_times(prepared.dataset, prepared.interactions)
    last_day = prepared.interactions[times >= until - pd.Timedelta(hours=12)].reset_index(drop=True)
    short = replace(prepared, interactions=last_day)
    rows = RankingTable.of(short)

    def retrieve(held: HeldOut, instant: datetime) -> np.ndarray:
        raise AssertionError(f"{len(held.user_ids)} users at {instant}")

    assert candidate_rows(rows, encoders_of(short), retrieve, short.split.train_until) is None


def test_a_log_of_choices_within_one_snapshot_is_asked_for_its_last_fifth(table: RankingTable) -> None:
    """Without candidates nothing would tell its ranker what was passed over."""
    prepared = table.prepared
    until = pd.Timestamp(prepared.split.train_until)
    times = event_times(prepared.dataset, prepared.interactions)
    last_day = prepared.interactions[times >= until - pd.Timedelta(hours=12)].reset_index(drop=True)
    last_day = last_day[last_day[prepared.dataset.target] == 1].reset_index(drop=True)
    short = replace(prepared, interactions=last_day)
    rows = RankingTable.of(short)
    asked: list[datetime] = []

    def retrieve(held: HeldOut, instant: datetime) -> np.ndarray:
        asked.append(instant)
        return np.tile(np.arange(50, dtype=np.int64), (len(held.user_rows), 1))

    found = candidate_rows(rows, encoders_of(short), retrieve, short.split.train_until)
    assert found is not None
    assert {0, 1} == set(found.labels.tolist())
    known = event_times(short.dataset, short.interactions)
    known = known[known < until]
    assert (known >= asked[0]).mean() == pytest.approx(0.2, abs=0.02)


def test_a_draw_has_no_repeats_and_stops_at_what_there_is() -> None:
    retrieved = np.array([[3, 1, 4, -1], [5, 9, 2, 6]])
    is_negative = np.array([[True, False, True, False], [True, True, True, True]])
    users, items = _draw(retrieved, is_negative, np.array([5, 2]), np.random.default_rng(0))
    assert users.tolist() == [0, 0, 1, 1]
    assert set(items[:2]) == {3, 4}
    assert len(set(items[2:])) == 2
