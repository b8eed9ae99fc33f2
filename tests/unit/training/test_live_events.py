"""What was archived of events is prepared as interactions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq

from contract.dataset import Dataset
from contract.event_archive import event_table, events_folder
from contract.events import Event, partition_of
from training.data.prepared import Prepared
from training.data.sources.catalog import prepare
from training.data.sources.synthetic import Size

SMALL = Size(users=40, items=60, days=15, interactions=4000)
AT = datetime(2026, 11, 28, 12, tzinfo=UTC)


def archive(var: Path, dataset: Dataset, events: list[Event], name: str = "0-1") -> None:
    folder = events_folder(var, dataset.name) / "2026-11-28T12"
    folder.mkdir(parents=True, exist_ok=True)
    table = event_table(dataset, events, [(1_795_867_200_000, n) for n in range(len(events))])
    pq.write_table(table, folder / f"{name}.parquet")


def click(user_id: int, item_id: int, number: int) -> Event:
    at_us = int((AT + timedelta(seconds=number)).timestamp() * 1e6)
    return Event(f"e{number}", user_id, item_id, at_us, {"is_click": 1}, {"context_hour": 12})


def made(var: Path, said: list[str]) -> Prepared:
    return prepare("synthetic", var, var, size=SMALL, say=said.append)


def test_archived_events_are_interactions_each_once_and_their_users_have_rows(tmp_path: Path) -> None:
    said: list[str] = []
    before = made(tmp_path, said)
    item = int(before.items["item_id"].iloc[0])
    known = int(before.users["user_id"].iloc[0])
    events = [click(known, item, 1), click(99_999, item, 2), click(99_999, 88_888, 3)]
    archive(tmp_path, before.dataset, events)
    archive(tmp_path, before.dataset, events[:1], "0-0")  # as after a crash
    after = made(tmp_path, said)
    assert len(after.interactions) == len(before.interactions) + 2
    (row,) = after.interactions[after.interactions["user_id"] == 99_999].to_dict("records")
    assert (row["item_id"], row["is_click"], row["context_hour"]) == (item, 1, 12)
    assert str(row["is_purchase"]) == "<NA>"
    assert row["timestamp"] == AT + timedelta(seconds=2)
    assert before.horizon == {}
    positions = enumerate(partition_of(int(one.user_id)) for one in events)
    assert after.horizon == {partition: (1_795_867_200_000, n) for n, partition in positions}
    assert len(after.users) == len(before.users) + 1
    assert after.users.dtypes.equals(before.users.dtypes)
    assert after.interactions.dtypes.equals(before.interactions.dtypes)
    assert "events left out, as their items are not in the items table: 1" in said
    made(tmp_path, said)
    assert said[-1].endswith("unchanged, reused")
