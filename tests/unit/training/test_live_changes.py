"""What came live is prepared: items that were put or taken out, and nothing of users who were forgotten."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contract import names
from contract.batch_files import MADE_AT
from contract.dataset import DatasetError
from contract.event_archive import event_table, events_folder
from contract.events import Event
from contract.items import check_row
from contract.live_catalogue import (
    FORGET,
    PUT,
    TAKE_OUT,
    Change,
    catalogue_folder,
    digest_of_user,
    write_changes,
)
from contract.shown import shown_folder
from training.data.live import forget_archived
from training.data.prepared import Prepared
from training.data.sources.catalog import prepare
from training.data.sources.synthetic import Size

SIZE = Size(users=100, items=60, days=12, interactions=3000)


def prepared(var: Path) -> Prepared:
    return prepare("synthetic", var, var, size=SIZE, say=lambda _: None)


def change(var: Path, kind: str, content: Any, at_ms: int = 1) -> None:
    write_changes(catalogue_folder(var, "synthetic"), [Change(f"{at_ms}-0", kind, content)])


def row_of(data: Prepared, item_id: int, **changed: Any) -> dict[str, Any]:
    """A row like that of the first item, as a caller sends it."""
    first = data.items.iloc[0]
    values = {name: first[name] for name in data.dataset.items} | {names.ITEM_ID: item_id} | changed
    plain = {n: v.tolist() if isinstance(v, np.ndarray | np.generic) else v for n, v in values.items()}
    known = {n: v for n, v in plain.items() if v is not None and v is not pd.NA}
    number, row = check_row(known, data.dataset)
    assert number == item_id
    return row


def test_items_that_were_put_or_taken_out_are_prepared_so(tmp_path: Path) -> None:
    before = prepared(tmp_path)
    known, gone = before.items[names.ITEM_ID].iloc[[1, 2]].tolist()
    feature = next(name for name, c in before.dataset.item_catalog.items() if c.role == "numeric")
    new = 10_000
    rows = {str(one): row_of(before, one, **{feature: 7.0}) for one in (known, new)}
    change(tmp_path, PUT, rows, 1)
    change(tmp_path, TAKE_OUT, str(gone), 2)
    after = prepared(tmp_path)
    items = after.items.set_index(names.ITEM_ID)
    assert (items.loc[known, feature], items.loc[new, feature]) == (7.0, 7.0)
    assert gone not in items.index
    assert items.index.is_monotonic_increasing
    assert len(items) == len(before.items)
    assert (after.items.dtypes == before.items.dtypes).all()


def test_nothing_is_prepared_anew_where_nothing_changed(tmp_path: Path) -> None:
    prepared(tmp_path)
    said: list[str] = []
    prepare("synthetic", tmp_path, tmp_path, size=SIZE, say=said.append)
    assert "unchanged" in said[0]


def test_a_row_that_does_not_fit_any_more_is_named(tmp_path: Path) -> None:
    data = prepared(tmp_path)
    feature = next(name for name, c in data.dataset.item_catalog.items() if c.role == "numeric")
    change(tmp_path, PUT, {"10000": {names.ITEM_ID: 10_000, feature: "many"}})
    with pytest.raises(DatasetError, match="put it again"):
        prepared(tmp_path)


def test_a_user_who_was_forgotten_is_in_no_table_nor_archive(tmp_path: Path) -> None:
    before = prepared(tmp_path)
    user, other = before.users[names.USER_ID].iloc[[3, 4]].tolist()
    last = before.interactions[before.dataset.timestamp].max()
    at_ms = int((last + timedelta(days=1)).timestamp() * 1000)
    events = [Event(str(i), u, 1, at_ms * 1000, {"is_click": 1}) for i, u in enumerate((user, other, user))]
    table = event_table(before.dataset, events, [(at_ms - 5, 0), (at_ms - 5, 1), (at_ms + 5, 0)])
    path = events_folder(tmp_path, "synthetic") / "2026-01-01T00" / "0-1-0.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(table, path)
    half = path.with_name(".0-1-0.parquet.1.2.tmp")
    half.write_bytes(path.read_bytes())
    os.utime(half, (0, 0))
    change(tmp_path, FORGET, digest_of_user(user), at_ms)
    after = prepared(tmp_path)
    assert not half.exists(), "nor in what was left of a file"
    assert user not in after.users[names.USER_ID].tolist()
    assert other in after.users[names.USER_ID].tolist()
    mine = after.interactions[after.interactions[names.USER_ID] == user]
    assert mine.empty, "what the user did before is gone"
    assert pq.read_table(path, partitioning=None)[names.USER_ID].to_pylist() == [other, user]
    assert forget_archived(tmp_path, "synthetic") == 0
    assert pa.types.is_integer(pq.read_table(path, partitioning=None)[names.USER_ID].type)


def test_a_user_is_forgotten_beside_answers_that_were_to_nobody(tmp_path: Path) -> None:
    at = pa.array([1, 1], pa.timestamp("us", tz="UTC"))
    path = shown_folder(tmp_path, "synthetic") / "2026-01-01T00" / "0-1-0.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({names.USER_ID: [names.NULL_INT, 7], "at": at}), path)
    change(tmp_path, FORGET, digest_of_user(7), 1)
    assert forget_archived(tmp_path, "synthetic") == 1
    assert pq.read_table(path, partitioning=None)[names.USER_ID].to_pylist() == [names.NULL_INT]


def test_a_user_who_came_back_is_known_by_what_came_since_alone(tmp_path: Path) -> None:
    before = prepared(tmp_path)
    user = before.users[names.USER_ID].iloc[3]
    at_ms = int((before.interactions[before.dataset.timestamp].max() + timedelta(days=1)).timestamp() * 1000)
    event = Event(
        "x", int(user), int(before.items[names.ITEM_ID].iloc[0]), (at_ms + 5000) * 1000, {"is_click": 1}
    )
    path = events_folder(tmp_path, "synthetic") / "2026-01-01T00" / "0-1-0.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(event_table(before.dataset, [event], [(at_ms + 6000, 0)]), path)
    change(tmp_path, FORGET, digest_of_user(int(user)), at_ms)
    after = prepared(tmp_path)
    mine = after.users[after.users[names.USER_ID] == user]
    assert len(mine) == 1
    assert mine.drop(columns=names.USER_ID).isna().all(axis=None), "no profile is left"
    assert len(after.interactions[after.interactions[names.USER_ID] == user]) == 1
    assert (after.users.dtypes == before.users.dtypes).all()


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_slates_of_a_user_who_was_forgotten_go_from_the_files_of_batch_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_elsewhere: bool
) -> None:
    before = prepared(tmp_path)
    user, other = before.users[names.USER_ID].iloc[[3, 4]].tolist()
    runs = tmp_path / ("runs" if is_elsewhere else "batch")
    if is_elsewhere:
        monkeypatch.setenv("SHORTLIST_BATCH_DIR", str(runs))
    path = runs / "synthetic" / "run" / "slates" / "part-0.parquet"
    path.parent.mkdir(parents=True)
    made = pa.table({names.USER_ID: [user, other, user], MADE_AT: [1, 1, 3]})
    pq.write_table(made, path)
    change(tmp_path, FORGET, digest_of_user(user), 2)
    assert forget_archived(tmp_path, "synthetic") == 1
    assert pq.read_table(path, partitioning=None).to_pydict() == {
        names.USER_ID: [other, user],
        MADE_AT: [1, 3],
    }
