"""No skew: what the serving chain assembles for a logged exposure is the row that training learned from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from merlin.dag import Graph
from merlin.schema import Schema
from redis import Redis

from contract import names
from contract.activity import ActivityReducer, ActivityState
from contract.affinity import affinity_columns, user_item_feature_names
from contract.bundle import Inputs, RankerSpec
from contract.dataset import Dataset
from contract.encoders import Encoders, Field, Scale, Vocabulary
from contract.environment import RedisUrl
from contract.feast import feature_key
from contract.tensors import OPTIONAL_TENSORS, PAD_ID
from ensemble.run.batch import unsent
from ensemble.run.chain import chain_of, run_chain
from ensemble.stage import tensor
from ensemble.stages.beside import BesideTables
from ensemble.stages.encode import EncodeUser
from ensemble.stages.lookup import LookupItemFeatures, LookupUserFeatures
from ensemble.stages.score import ScoreCandidates
from ensemble.stores.catalogue import Catalogue
from ensemble.stores.embeddings.mapped import MappedEmbeddings
from ensemble.stores.features import RedisFeatureStore
from ensemble.stores.items import ItemTable
from tests.builders.activity import events_before, feature_tables, logged_events, overall_rates
from tests.builders.feast_store import feast_repository
from training.data.prepared import Prepared
from training.data.raw import all_columns
from training.data.sources.catalog import prepare
from training.data.sources.synthetic import Size
from training.examples.exposures import RankingTable, take

EXPOSURES = 150
SIZE = Size(users=300, items=240, days=20, interactions=12_000)


class Recorder:
    """Stands for the ranker: keeps what it is fed."""

    def __init__(self, spec: RankerSpec) -> None:
        self.spec, self.inputs = spec, dict[str, Any]()

    def open(self) -> None:
        """Nothing to load."""

    def run(self, inputs: Mapping[str, Any]) -> Any:
        self.inputs = dict(inputs)
        return np.zeros((len(inputs["user_categorical"]), 1), dtype=np.float32)


class NoTower:
    """Stands for the user tower: takes no columns."""

    features: tuple[str, ...] = ()

    def open(self) -> None:
        """Nothing to load."""

    def __call__(self, columns: Mapping[str, Any]) -> Any:
        return np.zeros((len(next(iter(columns.values()))), 1), dtype=np.float32)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """Gives a synthetic world, prepared as any other data set."""
    return prepare("synthetic", tmp_path, tmp_path, size=SIZE)


@pytest.fixture
def feast(
    prepared: Prepared, redis: Redis, redis_url: RedisUrl, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """Gives Feast's store of that world, with nothing in it yet."""
    del redis  # emptied
    yield from feast_repository(prepared.folder.parents[1], prepared.dataset, redis_url, monkeypatch)


def test_the_chains_row_of_a_logged_exposure_is_the_training_row(
    prepared: Prepared, feast: Any, redis: Redis
) -> None:
    """Facts lie in Redis as Feast writes them, and activity as the stream does: of what was before it."""
    dataset = prepared.dataset
    until = prepared.split.validate_until
    exposures = RankingTable.of(prepared).exposures(until - timedelta(days=5), until)
    chosen = np.sort(np.random.default_rng(0).choice(len(exposures), EXPOSURES, replace=False))
    rows = take(exposures, chosen)
    expected = rows.raw(dataset)
    encoders = make_encoders(dataset, expected)
    tables = feature_tables(prepared, until)
    for view in (names.USER_PROFILE, names.ITEM_CATALOG):
        feast.write_to_online_store(view, df=tables[view].to_pandas())
    log, rates = logged_events(prepared), overall_rates(prepared)
    for at, instant in enumerate(rows.times.tolist()):
        row = {name: column[at : at + 1] for name, column in expected.items()}
        for entity, key in ((names.USER, names.USER_ID), (names.ITEM, names.ITEM_ID)):
            one, reducer = int(row[key][0]), ActivityReducer.of(dataset, entity)
            events = events_before(log, entity, one, instant)
            if events:
                fields: Any = reducer.fields(reducer.fold(ActivityState(), *events), rates)
                redis.hset(feature_key(key, one, dataset.name), mapping=fields)
        raw, coded = assemble(prepared, redis, row, encoders)
        assert set(raw) | set(user_item_feature_names(dataset)) == set(coded) == set(expected)
        for name, column in raw.items():
            np.testing.assert_array_equal(column, row[name], err_msg=f"{name} of {at}")
        for name, column in coded.items():
            code = encoders.encode(name, row[name])
            np.testing.assert_array_equal(column, code, err_msg=f"encoded {name} of {at}")


def make_encoders(dataset: Dataset, columns: Mapping[str, Any]) -> Encoders:
    """Gives every value of every column a code of its own; numerics stay what they are."""
    fields, vocabularies, scales = {}, {}, {}
    for name, column in all_columns(dataset).items():
        values = columns[name]
        if values.dtype == np.float32:
            fields[name], scales[name] = Field(name, "numeric"), Scale(0.0, 1.0)
            continue
        known = {v for v in values.ravel().tolist() if v not in (None, names.NULL_INT)}
        dtype = object if column.dtype == "string" else np.int64
        vocabularies[name] = Vocabulary(np.array(sorted(known), dtype=dtype), np.arange(3, 3 + len(known)))
        is_list = values.ndim > 1
        length = values.shape[1] if is_list else 1
        kind: Any = "list" if is_list else "categorical"
        fields[name] = Field(name, kind, name, vocabularies[name].cardinality, length)
    return Encoders(fields, vocabularies, scales)


def make_spec(dataset: Dataset, encoders: Encoders) -> RankerSpec:
    """Takes every column."""
    of_items = {names.ITEM_ID, *dataset.item_catalog, *dataset.item_activity}
    of_items |= set(user_item_feature_names(dataset))

    def inputs(selected: Mapping[str, Field]) -> Inputs:
        return Inputs(
            categorical=tuple(n for n, f in selected.items() if f.kind == "categorical"),
            numeric=tuple(n for n, f in selected.items() if f.kind == "numeric"),
            lists={n: f.length for n, f in selected.items() if f.kind == "list"},
        )

    user = inputs({n: f for n, f in encoders.fields.items() if n not in of_items})
    candidate = inputs({n: f for n, f in encoders.fields.items() if n in of_items})
    return RankerSpec(file="", output="", user=user, candidate=candidate)


def assemble(
    prepared: Prepared, redis: Redis, row: dict[str, Any], encoders: Encoders
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Runs the chain's own stages on users with one given candidate each; gives every raw column that was
    read, and every column as the ranker is fed it."""
    dataset = prepared.dataset
    store = RedisFeatureStore(redis, dataset, dataset.clock)
    compared = [c for c in affinity_columns(dataset) if c != names.ITEM_ID]
    catalogue = np.sort(prepared.items[names.ITEM_ID].to_numpy(np.int64))
    ranker = Recorder(make_spec(dataset, encoders))
    of_items = ranker.spec.candidate.without(user_item_feature_names(dataset))
    items = ItemTable(store, catalogue, encoders, of_items, compared, 60)
    items.load()
    rows = len(row[names.USER_ID])
    graph = make_graph(dataset, store, items, ranker)
    found = run_chain(
        chain_of(graph),
        {
            names.USER_ID: row[names.USER_ID][:, None],
            "candidate_ids": row[names.ITEM_ID][:, None],
            "candidate_mask": np.ones((rows, 1), dtype=np.bool_),
            "quality": np.ones((rows, 1), dtype=np.float32),
            "like_item_id": np.full((rows, 1), PAD_ID),
            **{tensor.name: unsent(tensor.name, rows) for tensor in OPTIONAL_TENSORS},
            **{name: row[name][:, None] for name in dataset.context},
        },
    )
    found |= {names.ITEM_ID: row[names.ITEM_ID]} | store.read_items(row[names.ITEM_ID]).columns
    known = [name for name in all_columns(dataset) if name not in user_item_feature_names(dataset)]
    fed = ranker.spec.user.unpack(ranker.inputs, "user_")
    fed |= ranker.spec.candidate.unpack(ranker.inputs, "candidate_")
    # More of a user's newest items is stored than a model reads.
    found |= {name: found[name][:, : row[name].shape[1]] for name in names.COMPARED}
    return (
        {name: found[name].reshape(row[name].shape) for name in known},
        {name: column.reshape(row[name].shape) for name, column in fed.items()},
    )


def make_graph(dataset: Dataset, store: RedisFeatureStore, items: ItemTable, ranker: Any) -> Graph:
    """Chains the stages that assemble a row, with K = 1."""
    schema = Schema(
        [
            tensor(names.USER_ID, np.int64, 1),
            tensor("candidate_ids", np.int64, 1),
            tensor("candidate_mask", np.bool_, 1),
            tensor("quality", np.float32, 1),
            tensor("like_item_id", np.int64, 1),
            *(tensor(t.name, t.dtype, 1) for t in OPTIONAL_TENSORS),
            *(tensor(name, np.int64, 1) for name in dataset.context),
        ]
    )
    no_tables = BesideTables((), MappedEmbeddings({}))
    nothing = Catalogue(items.item_ids, np.zeros((len(items.item_ids), 1), dtype=np.float32))
    graph = Graph(
        schema.column_names
        >> LookupUserFeatures(store, dataset, (), 1024)
        >> EncodeUser(
            NoTower(),  # type: ignore[arg-type]
            ranker.spec.user,
            items.encoders,
            lambda: nothing,
            no_tables,
        )
        >> LookupItemFeatures(items, ranker.spec.candidate, dataset, 1)
        >> ScoreCandidates(ranker, 1, no_tables)
    )
    return graph.construct_schema(schema)
