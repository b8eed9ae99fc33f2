"""A small world for the triton role's tests: a data set, a bundle of random models, features, stores,
requests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

from contract import bundle as files
from contract import names
from contract.affinity import user_item_feature_names
from contract.bundle import IndexSpec, Manifest, ModelSpec, OrderSpec, RankerSpec, SourceSpec, sha256
from contract.dataset import DATASET_FILE, Dataset
from contract.encoders import Encoders, Field, Scale, Vocabulary
from contract.errors import StageError
from contract.filters import Wanted, encode_filters, held_values
from contract.item_to_item import ItemToItem
from contract.tensors import FULL_QUALITY, NO_CONTEXT, NO_DEADLINE, PAD_ID, RULES_WIDTHS, encode_excluded
from contract.user_features import Given, encode_user_features
from ensemble.bundle import LoadedBundle
from ensemble.graph import Stores
from ensemble.run.recommender import Recommender, item_table
from ensemble.settings import EnsembleSettings
from ensemble.sources.source import Source
from ensemble.stores.catalogue import Catalogue
from ensemble.stores.embeddings.tiers import Embeddings
from ensemble.stores.features import MemoryFeatureStore
from ensemble.stores.graph import GraphVectorIndex, build_graph, open_graph
from ensemble.stores.vectors import MemoryVectorIndex
from training.export.tables import take_out
from training.ranking.graph import ranker_graph
from training.ranking.weights import DlrmWeights, Layer

NOW = datetime(2026, 1, 31, tzinfo=UTC)
WIDTH = 8
DATASET = """
name: {name}
as_of: 2026-01-31T00:00:00+00:00
ttl_s: {ttl_s}
activity: {{recent_items: 6}}
users:
  user_id: {{role: id}}
  user_age: {{role: categorical}}
  user_region: {{role: categorical, dtype: string}}
  user_tags: {{role: list, max_length: 3}}
items:
  item_id: {{role: id}}
  item_category: {{role: categorical, is_filterable: true, is_affinity: true}}
  item_brand: {{role: categorical, dtype: string, is_filterable: true, is_affinity: true}}
  item_tags: {{role: list, max_length: 4, is_filterable: true, is_affinity: true}}
  item_price: {{role: numeric, is_filterable: true}}
  item_name: {{role: display_name}}
  item_is_available: {{role: availability}}
interactions:
  user_id: {{role: id}}
  item_id: {{role: id}}
  timestamp: {{role: timestamp}}
  is_click: {{role: label}}
  context_surface: {{role: context}}
"""
BRANDS = ("acme", "Ärger & Söhne, Ltd.", "o'neil|{x}", "-1")


@dataclass
class World:
    """What was built: where the bundle lies, and what the feature store holds, by view and key."""

    folder: Path
    dataset: Dataset
    user_ids: tuple[int, ...]
    item_ids: tuple[int, ...]
    rows: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    seen: dict[int, tuple[int, ...]] = field(default_factory=dict)
    event_timestamp: datetime = NOW - timedelta(days=1)

    def memory_store(self, **options: Any) -> MemoryFeatureStore:
        """Fills the memory twin."""
        store = MemoryFeatureStore(self.dataset, lambda: NOW, **options)
        for (view, key), values in self.rows.items():
            store.put(view, key, values, self.event_timestamp)
        store.seen = dict(self.seen)
        return store


def make_world(
    folder: Path,
    *,
    items: int = 60,
    users: int = 20,
    bundle: str = "tiny-1",
    name: str = "tiny",
    ttl_s: str = "{}",
    seed: int = 0,
) -> World:
    """Writes a bundle of random models, and draws features with nulls. Item 0 and user 0 have no feature
    row."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    (folder / DATASET_FILE).write_text(DATASET.format(name=name, ttl_s=ttl_s))
    dataset = Dataset.load(folder)
    world = World(folder, dataset, tuple(range(100, 100 + users)), tuple(range(-11, -11 + 3 * items, 3)))
    _draw_features(world, rng)
    encoders = make_encoders(world)
    encoders.save(folder / files.ENCODERS_FILE)
    tower = _spec(encoders, "user_tower.onnx", "user_vector", [*_user_columns(dataset), names.USER_ID])
    item_tower = _spec(encoders, "item_tower.onnx", "item_vector", [names.ITEM_ID, "item_category"])
    for spec in (tower, item_tower):
        onnx.save(make_tower(spec, encoders, rng), str(folder / spec.file))
    ranker = ranker_spec(encoders, dataset)
    onnx.save(make_ranker(ranker, encoders, rng), str(folder / ranker.file))
    vectors = rng.normal(size=(items, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(folder / files.ITEM_IDS_FILE, np.array(world.item_ids))
    np.save(folder / files.ITEM_VECTORS_FILE, vectors)
    _write_item_table(world)
    manifest = Manifest(
        bundle=bundle,
        dataset=dataset.name,
        created_at="2026-01-31T00:00:00Z",
        git_commit="0" * 40,
        seed=seed,
        versions={},
        checksums={path.name: sha256(path) for path in sorted(folder.iterdir())},
        items=items,
        vector_width=WIDTH,
        score_range=(-1, 1),
        index=IndexSpec(kind="FLAT"),
        user_tower=tower,
        item_tower=item_tower,
        ranker=ranker,
        context=tuple(dataset.context),
        display=dataset.display,
        display_name=dataset.display_name,
        filters=dataset.filter_dtypes,
        user_features=dataset.user_features,
        sample_user_ids=world.user_ids[:3],
    )
    (folder / files.MANIFEST_FILE).write_text(manifest.model_dump_json())
    return world


def make_encoders(world: World) -> Encoders:
    """Encodes every column; the vocabularies lack some values, so that out-of-vocabulary happens."""
    dataset = world.dataset
    vocabularies = {
        names.USER_ID: _ints(world.user_ids[:-2]),
        names.ITEM_ID: _ints(world.item_ids[:-2]),
        "user_age": _ints(range(5)),
        "user_region": _texts(("north", "south")),
        "tags": _ints(range(9)),
        "item_category": _ints(range(4)),
        "item_brand": _texts(BRANDS[:3]),
        "context_surface": _ints(range(3)),
    }
    columns = {name: c for view in names.VIEWS for name, c in dataset.view_columns(view).items()}
    shared = {
        "user_tags": "tags",
        "item_tags": "tags",
        names.USER_RECENT_ITEM_IDS: names.ITEM_ID,
        names.USER_RECENT_POSITIVE_ITEM_IDS: names.ITEM_ID,
    }
    fields = {
        n: Field(n, "categorical", n, vocabularies[n].cardinality) for n in (names.USER_ID, names.ITEM_ID)
    }
    for name, column in columns.items():
        if column.role == "list":
            fields[name] = Field(
                name, "list", shared[name], vocabularies[shared[name]].cardinality, column.max_length
            )
        elif column.role == "numeric":
            fields[name] = Field(name, "numeric")
        elif column.role == "categorical":
            fields[name] = Field(name, "categorical", name, vocabularies[name].cardinality)
    fields["context_surface"] = Field("context_surface", "categorical", "context_surface", 6)
    fields |= {name: Field(name, "numeric") for name in user_item_feature_names(dataset)}
    scales = {
        name: Scale(1.0, 2.0, is_log=name.endswith("count"))
        for name, f in fields.items()
        if f.kind == "numeric"
    }
    return Encoders(fields, vocabularies, scales)


def make_tower(spec: ModelSpec, encoders: Encoders, rng: np.random.Generator) -> onnx.ModelProto:
    """Sums random embeddings and a random linear map; (rows, WIDTH) of unit norm."""
    width = WIDTH
    nodes, weights, parts = [], [], []

    def constant(name: str, array: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(array, name))
        return name

    def embedding(name: str) -> str:
        table = rng.normal(size=(encoders.fields[name].cardinality, width)).astype(np.float32)
        table[0] = 0
        return constant(f"{name}_table", table)

    inputs = []
    if spec.categorical:
        inputs.append(
            helper.make_tensor_value_info("categorical", TensorProto.INT64, [None, len(spec.categorical)])
        )
        for position, name in enumerate(spec.categorical):
            at = constant(f"{name}_at", np.array(position))
            nodes.append(helper.make_node("Gather", ["categorical", at], [f"{name}_code"], axis=1))
            nodes.append(helper.make_node("Gather", [embedding(name), f"{name}_code"], [f"{name}_part"]))
            parts.append(f"{name}_part")
    if spec.numeric:
        inputs.append(helper.make_tensor_value_info("numeric", TensorProto.FLOAT, [None, len(spec.numeric)]))
        linear = constant("linear", rng.normal(size=(len(spec.numeric), width)).astype(np.float32))
        nodes.append(helper.make_node("MatMul", ["numeric", linear], ["numeric_part"]))
        parts.append("numeric_part")
    axes = constant("axes", np.array([1]))
    for name, length in spec.lists.items():
        inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, [None, length]))
        nodes.append(helper.make_node("Gather", [embedding(name), name], [f"{name}_rows"]))
        nodes.append(helper.make_node("ReduceSum", [f"{name}_rows", axes], [f"{name}_part"], keepdims=0))
        parts.append(f"{name}_part")
    nodes.append(helper.make_node("Sum", parts, ["sum"]))
    nodes.append(helper.make_node("LpNormalization", ["sum"], [spec.output], axis=1, p=2))
    shape = [None, width]
    output = helper.make_tensor_value_info(spec.output, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "model", inputs, [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def ranker_spec(encoders: Encoders, dataset: Dataset) -> RankerSpec:
    """Gives the ranker every column: those of items and of user and item are the candidates'."""
    columns = [name for view in names.ITEM_VIEWS for name in dataset.view_columns(view)]
    of_candidates = {names.ITEM_ID, *columns, *user_item_feature_names(dataset)}
    user = _spec(encoders, "", "", [name for name in encoders.fields if name not in of_candidates])
    candidate = _spec(encoders, "", "", [name for name in encoders.fields if name in of_candidates])
    return RankerSpec(
        file="ranker.onnx",
        output="ranking_scores",
        user=user.model_dump(exclude={"file", "output"}),
        candidate=candidate.model_dump(exclude={"file", "output"}),
    )


def make_ranker(spec: RankerSpec, encoders: Encoders, rng: np.random.Generator) -> onnx.ModelProto:
    """Makes a DLRM of random weights."""
    fields = [encoders.fields[name] for name in spec.columns]
    embedded = [field for field in fields if field.kind != "numeric"]
    vectors = len(embedded) + 1

    def layer(inputs: int, outputs: int) -> Layer:
        kernel = rng.normal(scale=inputs**-0.5, size=(inputs, outputs))
        return Layer(kernel.astype(np.float32), rng.normal(size=outputs).astype(np.float32))

    weights = DlrmWeights(
        tables={f.name: rng.normal(size=(f.cardinality, WIDTH)).astype(np.float32) for f in embedded},
        bottom=(layer(len(fields) - len(embedded), WIDTH),),
        top=(layer(WIDTH + vectors * (vectors - 1) // 2, 8),),
        head=layer(8, 1),
    )
    return ranker_graph(spec, [weights])


def make_settings(**changed: Any) -> EnsembleSettings:
    """Takes what differs from a small K of 10."""
    return EnsembleSettings(**{"k": 10, "max_overfetch": 20, "max_seen": 32, **changed})


def make_recommender(
    world: World,
    spec: OrderSpec | None = None,
    sources: tuple[Source, ...] = (),
    embeddings: Embeddings | None = None,
    **changed: Any,
) -> Recommender:
    """Builds the chain on memory stores; with `spec` instead of the bundle's, more sources of candidates,
    embeddings from elsewhere than the bundle's files, and settings changed."""
    settings = make_settings(**changed)
    bundle = LoadedBundle.open(world.folder)
    if spec is not None:
        bundle = replace(bundle, manifest=bundle.manifest.model_copy(update={"order": spec}))
    features = world.memory_store(max_seen=settings.max_seen)
    items = item_table(bundle, features, settings)
    items.load()
    stores = Stores(features, memory_index(world, bundle), items, sources=sources, embeddings=embeddings)
    return Recommender(bundle, stores, settings, lambda: NOW.timestamp())


SOURCES = (
    SourceSpec(name="nearest", kind="nearest", share=0.4),
    SourceSpec(
        name="chain",
        kind="item_to_item",
        share=0.3,
        file="chain.npy",
        history="user_recent_item_ids",
        decay=0.8,
    ),
    SourceSpec(name="popular", kind="popular", share=0.2, file="popular.npy"),
    SourceSpec(name="fresh", kind="new", share=0.1, file="fresh.npy"),
    SourceSpec(name="similar", kind="item_to_item", share=0.5, file="similar.npy"),
)
"""One source of each kind, and one that is asked for the items like another."""


def add_sources(
    world: World, sources: Sequence[SourceSpec] = SOURCES, order: OrderSpec | None = None, seed: int = 5
) -> None:
    """Draws what the sources read into the bundle of a world, and names them in its manifest."""
    rng, items = np.random.default_rng(seed), len(world.item_ids)
    path = world.folder / files.MANIFEST_FILE
    manifest = Manifest.model_validate_json(path.read_text())
    checksums = dict(manifest.checksums)
    for spec in sources:
        if spec.file is None:
            continue
        if spec.kind == "item_to_item":
            gone_with = np.stack([rng.permutation(items)[:5] for _ in range(items)]).astype(np.int32)
            weights = (rng.integers(1, 8, size=gone_with.shape) / 4).astype(np.float32)
            ItemToItem(gone_with, weights).save(world.folder / spec.file)
        else:
            scores = rng.permutation(items).astype(np.float32) / items
            np.save(world.folder / spec.file, np.where(scores > 0.5, scores, np.float32(0)))
        checksums[spec.file] = sha256(world.folder / spec.file)
    changed = {"sources": tuple(sources), "checksums": checksums, "order": order or manifest.order}
    path.write_text(manifest.model_copy(update=changed).model_dump_json())


def put_beside(world: World, columns: Sequence[str] = (names.USER_ID, names.ITEM_ID)) -> None:
    """Takes tables of embeddings out of the models of a world's bundle, and names them in its manifest."""
    path = world.folder / files.MANIFEST_FILE
    manifest = Manifest.model_validate_json(path.read_text())
    fields = Encoders.load(world.folder / files.ENCODERS_FILE).fields
    tower, ranker, tables = take_out(world.folder, columns, fields, manifest.user_tower, manifest.ranker)
    changed = {"user_tower": tower, "ranker": ranker, "tables": tables}
    changed["checksums"] = {name: sha256(world.folder / name) for name in manifest.checksums} | {
        table.file: sha256(world.folder / table.file) for table in tables
    }
    path.write_text(manifest.model_copy(update=changed).model_dump_json())


def memory_index(world: World, bundle: LoadedBundle) -> MemoryVectorIndex:
    """Fills the memory twin with the bundle's vectors and filter columns."""
    rows = pq.read_table(world.folder / files.ITEM_TABLE_FILE).to_pylist()
    dtypes = bundle.manifest.filters.items()
    held = [{name: held_values(row[name], dtype) for name, dtype in dtypes} for row in rows]
    return MemoryVectorIndex(bundle.item_ids, bundle.item_vectors, held)


def process_index(bundle: LoadedBundle, folder: Path) -> GraphVectorIndex:
    """Builds a graph of the bundle's vectors in a folder, searched wherever it can be."""
    build_graph(bundle.item_vectors, folder / "graph", 16, 200, threads=1)
    graph, catalogue = open_graph(folder / "graph"), Catalogue(bundle.item_ids, bundle.item_vectors)
    beyond = len(bundle.item_ids)
    return GraphVectorIndex(graph, beyond, catalogue, lambda: bundle.attributes, exact_up_to=0)


def make_request(
    user_id: int = 100,
    n: int = 5,
    excluded: Sequence[int] = (),
    filters: Wanted | None = None,
    surface: int = NO_CONTEXT,
    seed: int = 0,
    deadline_us: int = NO_DEADLINE,
    quality: float = FULL_QUALITY,
    like: int = PAD_ID,
    features: Given | None = None,
    rules: Mapping[str, Any] | None = None,
    shown: int = 0,
) -> dict[str, np.ndarray]:
    """Makes one user's request tensors, each (1, width); the optional ones where they are given."""
    single = {
        "user_id": user_id,
        "n": n,
        "seed": seed,
        "deadline_us": deadline_us,
        "context_surface": surface,
        "like_item_id": like,
    }
    optional: dict[str, np.ndarray] = {}
    if features is not None:
        optional["user_features"] = encode_user_features(features)
    if rules is not None or shown:
        content = {} if rules is None else {"rules": rules}
        data = json.dumps(content | {"shown": shown}).encode()
        optional["rules"] = np.frombuffer(data.ljust(RULES_WIDTHS[0], b"\0"), dtype=np.uint8)[None]
    return (
        optional
        | {name: np.array([[value]], dtype=np.int64) for name, value in single.items()}
        | {
            "exclude_item_ids": encode_excluded(excluded),
            "filters": encode_filters(filters or {}),
            "quality": np.array([[quality]], dtype=np.float32),
        }
    )


def slate(answer: Any) -> list[int]:
    """Lists the item ids of an answer's first row, without the tail."""
    assert not isinstance(answer, StageError), answer
    return [int(i) for i in answer["item_ids"][0] if i != PAD_ID]


def _draw_features(world: World, rng: np.random.Generator) -> None:
    def maybe(value: Any) -> Any:
        return None if rng.random() < 0.1 else value

    def some_items(most: int) -> list[int]:
        return [int(i) for i in rng.permutation(world.item_ids)[: rng.integers(0, most + 1)]]

    for user_id in world.user_ids[1:]:
        world.rows[names.USER_PROFILE, user_id] = {
            "user_age": maybe(int(rng.integers(7))),
            "user_region": maybe(str(rng.choice(["north", "south", "mars"]))),
            "user_tags": maybe(rng.integers(0, 12, size=rng.integers(0, 4)).tolist()),
        }
        recent = some_items(6)
        world.rows[names.USER_ACTIVITY, user_id] = {
            names.USER_RECENT_ITEM_IDS: recent,
            names.USER_RECENT_POSITIVE_ITEM_IDS: maybe(recent[::2]),
            names.USER_EVENT_COUNT: float(len(recent)),
            "user_is_click_rate": maybe(float(np.float32(rng.random()))),
        }
        world.seen[user_id] = (*recent, *some_items(4))
    for item_id in world.item_ids[1:]:
        world.rows[names.ITEM_CATALOG, item_id] = {
            "item_category": maybe(int(rng.integers(5))),
            "item_brand": maybe(BRANDS[rng.integers(len(BRANDS))]),
            "item_tags": maybe(rng.integers(0, 12, size=rng.integers(0, 5)).tolist()),
            "item_price": maybe(float(np.float32(rng.integers(1, 4) / 2))),
            names.IS_AVAILABLE: maybe(bool(rng.random() < 0.85)),
        }
        world.rows[names.ITEM_ACTIVITY, item_id] = {
            names.ITEM_EVENT_COUNT: float(rng.integers(0, 50)),
            "item_is_click_rate": maybe(float(np.float32(rng.random()))),
        }


def _write_item_table(world: World) -> None:
    rows = [world.rows.get((names.ITEM_CATALOG, item_id), {}) for item_id in world.item_ids]
    table: dict[str, Any] = {"item_id": pa.array(world.item_ids, pa.int64())}
    types = {
        "item_category": pa.int64(),
        "item_brand": pa.string(),
        "item_tags": pa.list_(pa.int64()),
        "item_price": pa.float32(),
    }
    for name, kind in types.items():
        table[name] = pa.array([row.get(name) for row in rows], kind)
    table["item_name"] = pa.array([f"item {item_id}" for item_id in world.item_ids])
    table["item_is_available"] = pa.array([row.get(names.IS_AVAILABLE, True) for row in rows])
    pq.write_table(pa.table(table), world.folder / files.ITEM_TABLE_FILE)
    popular = [{"item_id": i, "score": 1.0, "item_name": f"item {i}"} for i in world.item_ids[:200]]
    (world.folder / files.POPULAR_FILE).write_text(json.dumps({"bundle": "tiny-1", "items": popular}))


def _user_columns(dataset: Dataset) -> list[str]:
    return [name for view in names.USER_VIEWS for name in dataset.view_columns(view)]


def _spec(encoders: Encoders, file: str, output: str, columns: Sequence[str]) -> ModelSpec:
    kinds = {name: encoders.fields[name].kind for name in columns}
    return ModelSpec(
        file=file,
        categorical=tuple(n for n, k in kinds.items() if k == "categorical"),
        numeric=tuple(n for n, k in kinds.items() if k == "numeric"),
        lists={n: encoders.fields[n].length for n, k in kinds.items() if k == "list"},
        output=output,
    )


def _ints(values: Sequence[int]) -> Vocabulary:
    return Vocabulary(np.array(sorted(values), dtype=np.int64), np.arange(3, 3 + len(values)))


def _texts(values: Sequence[str]) -> Vocabulary:
    return Vocabulary(np.array(sorted(values), dtype=object), np.arange(3, 3 + len(values)))
