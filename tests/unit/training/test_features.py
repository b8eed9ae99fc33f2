from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contract import names
from tests.builders.datasets import DECLARATION, own_tables, quiet, small_world, write_own
from training.data.prepared import Prepared
from training.data.sources import catalog
from training.features.activity import item_activity, snapshot_instants, user_activity
from training.features.tables import busy_instants, digest, feature_tables, first_event, write_features


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return small_world(tmp_path_factory.mktemp("var"))


@pytest.fixture(scope="module")
def tables(world: Prepared) -> dict[str, pa.Table]:
    return feature_tables(world, world.dataset.clock())


def test_every_view_has_its_key_its_time_and_its_columns(
    world: Prepared, tables: dict[str, pa.Table]
) -> None:
    for view, table in tables.items():
        key = names.USER_ID if view in names.USER_VIEWS else names.ITEM_ID
        assert table.column_names == [key, names.EVENT_TIMESTAMP, *world.dataset.view_columns(view)]


def test_a_snapshot_is_loaded_by_a_run_that_ends_at_it(world: Prepared, tables: dict[str, pa.Table]) -> None:
    stamps = tables[names.USER_ACTIVITY][names.EVENT_TIMESTAMP].to_pandas()
    assert stamps.max() == pd.Timestamp(world.dataset.clock()) - pd.Timedelta(microseconds=1)
    assert stamps.min() >= pd.Timestamp(first_event(world))


def test_facts_hold_from_the_first_event_on(world: Prepared, tables: dict[str, pa.Table]) -> None:
    stamps = tables[names.ITEM_CATALOG][names.EVENT_TIMESTAMP].to_pandas()
    assert stamps.unique().tolist() == [pd.Timestamp(first_event(world))]
    assert stamps[0] <= world.interactions[world.dataset.timestamp].min()


def test_leaving_out_quiet_snapshots_changes_nothing(world: Prepared) -> None:
    gap = world.interactions["timestamp"].between(
        pd.Timestamp("2026-01-22", tz="UTC"), pd.Timestamp("2026-01-25", tz="UTC")
    )
    quiet_days = Prepared(world.folder, world.dataset, world.users, world.items, world.interactions[~gap])
    every = snapshot_instants(world.dataset, first_event(world), world.dataset.clock())
    busy = busy_instants(quiet_days, world.dataset.clock())
    assert len(busy) < len(every)
    for activity in (user_activity, item_activity):
        pd.testing.assert_frame_equal(activity(quiet_days, busy), activity(quiet_days, every))


def test_an_item_is_available_unless_a_column_says_no(tmp_path: Path) -> None:
    declaration = DECLARATION | {"as_of": "2025-04-01T00:00:00Z"}
    own = catalog.prepare(
        str(write_own(tmp_path / "a", None, declaration)), tmp_path, tmp_path / "v", say=quiet
    )
    table = feature_tables(own, own.dataset.clock())[names.ITEM_CATALOG]
    assert table[names.IS_AVAILABLE].to_pylist() == [i != 4 for i in range(15)]
    items = {name: column for name, column in DECLARATION["items"].items() if name != "item_is_in_stock"}
    folder = write_own(tmp_path / "b", own_tables(), declaration | {"items": items})
    plain = catalog.prepare(str(folder), tmp_path, tmp_path / "w", say=quiet)
    table = feature_tables(plain, plain.dataset.clock())[names.ITEM_CATALOG]
    assert table[names.IS_AVAILABLE].to_pylist() == [True] * 15


def test_the_digest_sees_changes_before_an_instant_only(world: Prepared, tables: dict[str, pa.Table]) -> None:
    as_of = world.dataset.clock()
    later = feature_tables(world, as_of + timedelta(days=1))
    for view, table in tables.items():
        assert digest(table, as_of) == digest(later[view], as_of)
        assert digest(table, as_of) != digest(table.drop([table.column_names[-1]]), as_of)
    activity = names.USER_ACTIVITY
    assert digest(tables[activity], as_of) != digest(tables[activity].slice(1), as_of)
    assert digest(tables[activity], as_of) == digest(tables[activity], datetime.now(UTC))


def test_the_digest_sees_elements_that_moved_between_lists() -> None:
    stamp = pa.array([datetime(2025, 1, 1, tzinfo=UTC)] * 2, pa.timestamp("us", tz="UTC"))
    first, second = (
        pa.table({names.EVENT_TIMESTAMP: stamp, "user_list": pa.array(lists, pa.list_(pa.int64()))})
        for lists in ([[1, 2], [3]], [[1], [2, 3]])
    )
    until = datetime(2025, 1, 2, tzinfo=UTC)
    assert digest(first, until) != digest(second, until)
    assert digest(first, until) == digest(pa.concat_tables([first.slice(0, 1), first.slice(1)]), until)


def test_files_are_replaced_whole(world: Prepared, tables: dict[str, pa.Table], tmp_path: Path) -> None:
    write_features(tmp_path, tables)
    write_features(tmp_path, {names.ITEM_CATALOG: tables[names.ITEM_CATALOG]})
    assert [path.name for path in tmp_path.iterdir()] == ["features"]
    assert [path.name for path in (tmp_path / "features").iterdir()] == [f"{names.ITEM_CATALOG}.parquet"]
    stored = pq.read_table(tmp_path / "features" / f"{names.ITEM_CATALOG}.parquet")
    assert stored.num_rows == len(world.items)
