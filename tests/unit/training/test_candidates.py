"""Candidates to learn from: clicks, and what else would have been retrieved, as of the snapshot."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from feature_repo import names
from tests.builders.datasets import small_world
from tests.builders.encoded import encoders_of
from training import learn
from training.candidates import NEGATIVES, SNAPSHOTS, _draw, candidate_rows, candidate_windows
from training.config import TrainingSettings
from training.fields import OOV_CODE
from training.heldout import HeldOut, held_out, interaction_matrix, is_before
from training.learn import EARLY_SHARE, Rows, early_examples, make_candidates
from training.prepared import Prepared
from training.ranking import RankingTable
from training.retrieval import RetrievalExamples, UserHistories, item_columns, retrieval_examples
from training.slates import Retrieval
from training.two_tower import TwoTower, fit_two_tower
from training.two_tower_config import TwoTowerConfig


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> RankingTable:
    prepared = small_world(Path(tmp_path_factory.mktemp("world")))
    return RankingTable.of(prepared, prepared.split.validate_until)


def test_rows_are_retrieved_and_clicked_or_never(table: RankingTable) -> None:
    prepared, until = table.prepared, table.prepared.split.train_until
    asked: list[datetime] = []

    def retrieve(held: HeldOut, instant: datetime) -> np.ndarray:
        asked.append(instant)
        lists = np.tile(np.arange(50, dtype=np.int64), (len(held.user_rows), 1))
        lists[:, -1] = -1
        return lists

    windows = candidate_windows(table, until)
    rows = candidate_rows(table, encoders_of(prepared), retrieve, windows)
    assert rows is not None
    assert len(asked) == SNAPSHOTS
    assert asked == [start for start, _ in windows]
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


def rows_of_part(table: RankingTable) -> Rows:
    """The parts that making candidates reads."""
    nothing = table.histories()
    return Rows(table, nothing, nothing, nothing, nothing)


TINY = TrainingSettings(two_tower=TwoTowerConfig(width=8, batch_size=64, steps=10, evaluations=1), k=60)


def test_towers_that_retrieve_them_have_learned_from_none_of_their_clicks(
    table: RankingTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tower that was trained on a click retrieves it because it remembers it; days to come are not so."""
    prepared, encoders = table.prepared, encoders_of(table.prepared)
    until = prepared.split.train_until
    histories, catalogue = UserHistories.of(prepared, encoders), item_columns(prepared, encoders)
    learned_from: dict[int, RetrievalExamples] = {}
    asked: list[int] = []

    def fit(fields: Any, examples: RetrievalExamples, *rest: Any) -> TwoTower:
        model = fit_two_tower(fields, examples, *rest)
        learned_from[id(model)] = examples
        return model

    def vectors(self: Retrieval, held: HeldOut, instant: datetime) -> Any:
        asked.append(id(self.two_tower))
        return vectors_of(self, held, instant)

    vectors_of = Retrieval.vectors
    monkeypatch.setattr(learn, "fit_two_tower", fit)
    monkeypatch.setattr(Retrieval, "vectors", vectors)
    every = retrieval_examples(prepared, histories, until)
    model = fit(encoders.fields, every, catalogue, TINY.two_tower, 0, lambda _: 1.0)
    served = Retrieval(model, histories, catalogue)
    assert make_candidates(prepared, encoders, rows_of_part(table), served, TINY, 0) is not None

    windows = candidate_windows(table, until)
    assert len(asked) == len(windows) == SNAPSHOTS
    clicks = set().union(*(pairs_of(held_out(prepared, start, end)) for start, end in windows))
    assert len(clicks) > 100
    for asked_model in asked:
        examples = learned_from[asked_model]
        assert clicks.isdisjoint(zip(examples.users.tolist(), examples.items.tolist(), strict=True))
    assert clicks <= set(zip(every.users.tolist(), every.items.tolist(), strict=True))


def pairs_of(held: HeldOut) -> set[tuple[int, int]]:
    """The clicks that a held-out part hopes to find, as rows of users and of items."""
    users, items = held.relevant.nonzero()
    return set(zip(held.user_rows[users].tolist(), items.tolist(), strict=True))


@pytest.mark.parametrize(
    ("days", "kept"),
    [(0.5, 0), (1.5, 0), (2.5, 1), (4.5, 2), (8.0, 3)],
    ids="{}".format,
)
def test_few_days_give_fewer_windows_and_one_day_none(table: RankingTable, days: float, kept: int) -> None:
    """Interactions spread evenly over so many days; half of them are left to the second towers."""
    prepared = squeezed(table.prepared, days)
    histories = UserHistories.of(prepared, encoders_of(prepared))
    rows = rows_of_part(RankingTable.of(prepared, prepared.split.validate_until))
    windows, examples = early_examples(prepared, rows, histories)
    assert len(windows) == kept
    every = retrieval_examples(prepared, histories, prepared.split.train_until)
    if windows:
        assert EARLY_SHARE * len(every) <= len(examples) < len(every)
    else:
        served = Retrieval(cast("TwoTower", None), histories, {})
        assert make_candidates(prepared, encoders_of(prepared), rows, served, TINY, 0) is None


def squeezed(prepared: Prepared, days: float) -> Prepared:
    """Spreads the train part's timed interactions evenly over the last days before it ends."""
    dataset, log = prepared.dataset, prepared.interactions
    until = pd.Timestamp(prepared.split.train_until)
    kept = log[log[dataset.timestamp].notna() & is_before(prepared, until)].sort_values(dataset.timestamp)
    share = np.linspace(0, 1, len(kept), endpoint=False)
    times = until - pd.Timedelta(days=days) * (1 - share)
    return replace(prepared, interactions=kept.assign(**{dataset.timestamp: times}).reset_index(drop=True))


def test_a_draw_has_no_repeats_and_stops_at_what_there_is() -> None:
    retrieved = np.array([[3, 1, 4, -1], [5, 9, 2, 6]])
    is_negative = np.array([[True, False, True, False], [True, True, True, True]])
    users, items = _draw(retrieved, is_negative, np.array([5, 2]), np.random.default_rng(0))
    assert users.tolist() == [0, 0, 1, 1]
    assert set(items[:2]) == {3, 4}
    assert len(set(items[2:])) == 2
