"""No skew: what the serving chain assembles for a logged exposure is the row that training learned from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from merlin.dag import Graph
from merlin.schema import Schema
from redis import Redis

from ensemble.runtime import ShortlistRuntime, to_table
from ensemble.stage import tensor
from ensemble.stages.lookup import LookupItemFeatures, LookupUserFeatures
from ensemble.stages.score import ScoreCandidates
from ensemble.stores.features import RedisFeatureStore
from ensemble.stores.items import ItemTable
from feature_repo import names
from feature_repo.affinity import affinity_columns
from feature_repo.dataset import Dataset
from tests.builders.feast_store import feast_repository
from training.datasets.catalog import prepare
from training.datasets.synthetic import Size
from training.encoders import Encoders
from training.features import feature_tables
from training.prepared import Prepared
from training.ranking import RankingTable, take
from training.raw import all_columns, raw_arrays

EXPOSURES = 1_000
SIZE = Size(users=300, items=240, days=20, interactions=12_000)


class NoRanker:
    """Stands for the ranker: takes no columns, so that nothing needs encoding."""

    features: tuple[str, ...] = ()
    rows = 0

    def open(self) -> None:
        """Nothing to load."""

    def __call__(self, user: Mapping[str, Any], candidate: Mapping[str, Any]) -> Any:
        assert not user
        assert not candidate
        return np.zeros((self.rows, 1), dtype=np.float32)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """Gives a synthetic world, prepared as any other data set."""
    return prepare("synthetic", tmp_path, tmp_path, size=SIZE)


@pytest.fixture
def feast(
    prepared: Prepared, redis: Redis, redis_address: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """Gives Feast's store of that world, with nothing in it yet."""
    del redis  # emptied
    yield from feast_repository(prepared.folder.parents[1], prepared.dataset, redis_address, monkeypatch)


def test_the_chains_row_of_a_logged_exposure_is_the_training_row(
    prepared: Prepared, feast: Any, redis: Redis
) -> None:
    dataset = prepared.dataset
    until = prepared.split.validate_until
    exposures = RankingTable.of(prepared, until).exposures(until - timedelta(days=5), until)
    chosen = np.sort(np.random.default_rng(0).choice(len(exposures), EXPOSURES, replace=False))
    rows = take(exposures, chosen)
    expected = raw_arrays(rows.frame, all_columns(dataset))
    tables = feature_tables(prepared, until)

    day = pd.Timedelta(hours=dataset.activity.snapshot_hours).value
    offset = pd.Timedelta(hours=dataset.activity.snapshot_offset_hours).value
    snapshots = (rows.times - offset) // day * day + offset
    assert len(np.unique(snapshots)) >= 4, "the features change between the exposures"
    for snapshot in np.unique(snapshots):
        materialize(feast, tables, pd.Timestamp(snapshot, tz="UTC"))
        at = snapshots == snapshot
        row = {name: column[at] for name, column in expected.items()}
        for name, column in assemble(prepared, redis, row).items():
            np.testing.assert_array_equal(column, row[name], err_msg=f"{name} as of {snapshot}")


def materialize(feast: Any, tables: dict[str, pa.Table], until: pd.Timestamp) -> None:
    """Writes each key's newest row before an instant, as `feast materialize` does."""
    for view, table in tables.items():
        frame = table.to_pandas()
        key = names.USER_ID if view in names.USER_VIEWS else names.ITEM_ID
        newest = frame[frame[names.EVENT_TIMESTAMP] < until].drop_duplicates(key, keep="last")
        feast.write_to_online_store(view, df=newest)


def assemble(prepared: Prepared, redis: Redis, row: dict[str, Any]) -> dict[str, Any]:
    """Runs the chain's own stages on users with one given candidate each; gives every raw column."""
    dataset = prepared.dataset
    store = RedisFeatureStore(redis, dataset, dataset.clock)
    compared = [c for c in affinity_columns(dataset) if c != names.ITEM_ID]
    catalogue = np.sort(prepared.items[names.ITEM_ID].to_numpy(np.int64))
    items = ItemTable(store, catalogue, Encoders({}, {}, {}), compared, 60)
    items.load()
    ranker = NoRanker()
    ranker.rows = len(row[names.USER_ID])
    graph = make_graph(dataset, store, items, ranker)
    table = ShortlistRuntime().transform(
        graph,
        to_table(
            {
                names.USER_ID: row[names.USER_ID][:, None],
                "candidate_ids": row[names.ITEM_ID][:, None],
                "candidate_mask": np.ones((ranker.rows, 1), dtype=np.bool_),
                **{name: row[name][:, None] for name in dataset.context},
            }
        ),
    )
    found = {name: column.values for name, column in table.items()} | {
        names.ITEM_ID: table["candidate_ids"].values
    }
    return {name: found[name].reshape(row[name].shape) for name in all_columns(dataset)}


def make_graph(dataset: Dataset, store: RedisFeatureStore, items: ItemTable, ranker: Any) -> Graph:
    """Chains the stages that assemble a row, with K = 1."""
    schema = Schema(
        [
            tensor(names.USER_ID, np.int64, 1),
            tensor("candidate_ids", np.int64, 1),
            tensor("candidate_mask", np.bool_, 1),
            *(tensor(name, np.int64, 1) for name in dataset.context),
        ]
    )
    graph = Graph(
        schema.column_names
        >> LookupUserFeatures(store, dataset, 1024)
        >> LookupItemFeatures(items, dataset, (), 1)
        >> ScoreCandidates(ranker, items.encoders, dataset, 1)
    )
    return graph.construct_schema(schema)
