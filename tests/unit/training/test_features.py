from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from contract import names
from contract.features import FEATURE_SET_FILE, SEEN_FILE, FeatureSet, state_file, view_file
from tests.builders.activity import feature_tables, item_activity, user_activity
from tests.builders.datasets import DECLARATION, own_tables, quiet, small_world, write_own
from training.data.prepared import Prepared
from training.data.sources import catalog
from training.features import tables as tables_module
from training.features.activity import busy_instants, snapshot_instants
from training.features.tables import first_event, write_features


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


def test_a_run_that_ends_at_an_instant_loads_all_that_happened_before(world: Prepared) -> None:
    last = world.interactions["timestamp"].max()
    for ends, holds in ((1, 0), (5, 1)):
        until = (last + pd.Timedelta(microseconds=ends)).to_pydatetime()
        stamps = feature_tables(world, until)[names.USER_ACTIVITY][names.EVENT_TIMESTAMP].to_pandas()
        assert stamps.max() == last + pd.Timedelta(microseconds=holds)


def test_no_row_holds_before_the_first_event(world: Prepared, tables: dict[str, pa.Table]) -> None:
    stamps = tables[names.USER_ACTIVITY][names.EVENT_TIMESTAMP].to_pandas()
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


def test_rows_are_the_same_as_of_any_later_instant(world: Prepared, tables: dict[str, pa.Table]) -> None:
    as_of = world.dataset.clock()
    for view, later in feature_tables(world, as_of + timedelta(days=1)).items():
        is_before = pc.less(later[names.EVENT_TIMESTAMP], pa.scalar(as_of, pa.timestamp("us", tz="UTC")))
        assert later.filter(is_before).equals(tables[view])


def test_files_are_replaced_whole(world: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = replace(world, folder=tmp_path)
    made = write_features(elsewhere, "synthetic")
    assert [path.name for path in tmp_path.iterdir()] == ["features"]
    files = {path.name: path.read_bytes() for path in (tmp_path / "features").iterdir()}
    states = map(state_file, (names.USER_ACTIVITY, names.ITEM_ACTIVITY))
    assert sorted(files) == sorted([*map(view_file, names.VIEWS), *states, SEEN_FILE, FEATURE_SET_FILE])
    assert FeatureSet.read(tmp_path / "features") == made
    assert (made.dataset, made.data, made.as_of) == ("synthetic", "synthetic", world.dataset.clock())
    assert pq.read_table(tmp_path / "features" / view_file(names.ITEM_CATALOG)).num_rows == len(world.items)
    monkeypatch.setattr(tables_module, "seen_items", lambda *_: None)
    with pytest.raises(AttributeError):
        write_features(replace(elsewhere, items=world.items.head(5)), "synthetic")
    assert {path.name: path.read_bytes() for path in (tmp_path / "features").iterdir()} == files
    assert [path.name for path in tmp_path.iterdir()] == ["features"]
