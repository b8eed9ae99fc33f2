"""Runs the graph once for all requests that came together, and gives each its own answer or its own error."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from merlin.dag import Graph

from contract.affinity import affinity_columns, user_item_feature_names
from contract.arrays import Array, Ids, filled
from contract.bundle import ITEM_VECTORS_FILE, BundleError
from contract.errors import ErrorCode, StageError
from contract.names import ITEM_ID
from contract.tensors import OPTIONAL_TENSORS, bundle_id
from ensemble.bundle import LoadedBundle
from ensemble.graph import Stores, offers_of, recommend_graph, request_schema
from ensemble.run.batch import Batch, Reply, unsent
from ensemble.run.chain import Before, chain_of, run_chain
from ensemble.run.deadlines import Deadlines
from ensemble.run.embeddings import tiered_embeddings
from ensemble.run.metrics import Counters
from ensemble.run.warm_up import sample_batches
from ensemble.settings import EnsembleSettings, IndexEngine
from ensemble.stage import Tensors, us_name
from ensemble.stores.catalogue import Catalogue, LiveItems
from ensemble.stores.client import connect
from ensemble.stores.embeddings.tiers import TieredEmbeddings, TieredTable
from ensemble.stores.features import FeatureStore, RedisFeatureStore
from ensemble.stores.graph import (
    GRAPH_FILE,
    GraphFacts,
    GraphVectorIndex,
    ProcessWatch,
    graph_folder,
    open_graph,
)
from ensemble.stores.head import HeadedVectorIndex
from ensemble.stores.index_watch import LOOK_MS, IndexState, IndexWatch
from ensemble.stores.items import ItemTable
from ensemble.stores.live_items import LiveItemsWatch
from ensemble.stores.nodes import IndexNodes
from ensemble.stores.spread import SpreadVectorIndex
from ensemble.stores.vectors import RedisVectorIndex, VectorIndex

LOG = logging.getLogger(__name__)
ADDED_AT_THE_END = ("stage_us", "bundle_id")
"""The tensors of an answer that no stage writes."""


def redis_stores(bundle: LoadedBundle, settings: EnsembleSettings) -> Stores:
    """Connects the chain to Redis; nothing is read yet. The item table and the watch of the index, which read
    in the background, have clients of their own, so that their round trips count for nobody's request."""
    name, dtypes = bundle.manifest.bundle, bundle.manifest.filters
    in_process = settings.index_engine is IndexEngine.USEARCH
    kind = ProcessWatch if in_process else IndexWatch
    watch = kind(connect(settings.redis_url, LOOK_MS), name, bundle.manifest.items)
    redis = connect(settings.redis_url, settings.redis_timeout_ms, on_connect=watch.doubt)
    background = connect(settings.redis_url, settings.redis_timeout_ms)
    clock, max_seen = bundle.dataset.clock, settings.max_seen
    features = RedisFeatureStore(redis, bundle.dataset, clock, max_seen)
    items = item_table(bundle, RedisFeatureStore(background, bundle.dataset, clock, max_seen), settings)
    catalogue = Catalogue(bundle.item_ids, bundle.item_vectors)
    state: IndexState = watch
    vectors: VectorIndex
    if isinstance(watch, ProcessWatch):
        vectors = graph_index(bundle, settings.var_dir, catalogue, watch)
    else:
        arguments = (name, bundle.item_ids, watch, settings.index_timeout_ms, bool(dtypes))
        state = nodes = IndexNodes(redis, settings.redis_url, *arguments)
        part = RedisVectorIndex(redis, name, dtypes, catalogue=catalogue, watch=watch)
        vectors = SpreadVectorIndex(part, nodes)
    is_small = bundle.manifest.items <= settings.head_items
    if is_small or bundle.manifest.index.kind == "HNSW":
        vectors = HeadedVectorIndex(vectors, bundle.head(settings.head_items), is_small)
    live = LiveItemsWatch(connect(settings.redis_url, LOOK_MS), bundle.dataset.name, name, catalogue, dtypes)
    embeddings, updates = None, None
    if bundle.manifest.tables:
        embeddings, updates = tiered_embeddings(bundle, settings)
    return Stores(features, vectors, items, redis, state, live, embeddings=embeddings, updates=updates)


def graph_index(
    bundle: LoadedBundle, var: Path, catalogue: Catalogue, watch: ProcessWatch | None = None
) -> GraphVectorIndex:
    """Makes the index of a bundle that is searched in the process; of a small catalogue there is no graph.
    `var` is the run-time folder.

    Raises:
        BundleError: its graph was not built.
    """
    graph, beyond = None, 0
    if bundle.manifest.index.kind == "HNSW":
        folder = graph_folder(bundle.folder, var, bundle.manifest.bundle)
        facts = GraphFacts.found(folder, bundle.manifest.checksums[ITEM_VECTORS_FILE])
        if facts is None:
            raise BundleError(
                f"{bundle.manifest.bundle}: has no {GRAPH_FILE} of its vectors; run `make export` with "
                "SHORTLIST_INDEX_ENGINE=usearch, or set it to redis"
            )
        graph, beyond = open_graph(folder / GRAPH_FILE), facts.beyond
    return GraphVectorIndex(graph, beyond, catalogue, lambda: bundle.attributes, watch)


def item_table(bundle: LoadedBundle, features: FeatureStore, settings: EnsembleSettings) -> ItemTable:
    """Makes the table of the bundle's catalogue, empty until it is started."""
    affinity = [name for name in affinity_columns(bundle.dataset) if name != ITEM_ID]
    made_here = {*user_item_feature_names(bundle.dataset), *bundle.manifest.beside}
    of_items = bundle.ranker_inputs[1].without(made_here)
    return ItemTable(features, bundle.item_ids, bundle.encoders, of_items, affinity, settings.refresh_s)


class Recommender:
    """The built graph, ready for requests."""

    def __init__(
        self,
        bundle: LoadedBundle,
        stores: Stores,
        settings: EnsembleSettings,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.bundle, self.stores, self.settings, self.now_s = bundle, stores, settings, now_s
        self.offers = offers_of(bundle, stores, settings)
        graph = Graph(recommend_graph(bundle, stores, settings, self.offers))
        graph.construct_schema(request_schema(bundle))
        self.chain = chain_of(graph)
        self.stages = tuple(node.op.name for node in self.chain)
        self.bundle_id, self.user_features = bundle_id(bundle.manifest.bundle), bundle.dataset.user_features
        self.sources = [source.spec.name for source in self.offers.current.panel.sources]
        self.counters, self.is_warm = Counters(), False
        for table in self.tables:
            table.count = self.counters.add

    @property
    def tables(self) -> tuple[TieredTable, ...]:
        """The tables of embeddings that lie in levels."""
        embeddings = self.stores.embeddings
        return tuple(embeddings.tables.values()) if isinstance(embeddings, TieredEmbeddings) else ()

    def start(self) -> None:
        """Begins to follow what changes: item features, items, embeddings."""
        self.stores.items.start()
        if self.stores.live is not None:
            self.stores.live.start(self.renew)
        if self.stores.updates is not None and isinstance(self.stores.embeddings, TieredEmbeddings):
            self.stores.updates.start(self.stores.embeddings.renew)

    def stop(self) -> None:
        """Ends what runs in the background."""
        for follower in (self.stores.updates, self.stores.live, self.stores.items, *self.tables):
            if follower is not None:
                follower.stop()

    def renew(self, item_ids: Ids, live: LiveItems) -> None:
        """Reads items anew that were put, changed or taken out, and from now on retrieves from what there
        is."""
        self.stores.items.take(item_ids)
        self.offers.renew(live)

    def run(self, tensors: Mapping[str, Array], before: Before | None = None) -> Tensors:
        """Takes the request tensors of B users, with or without the optional ones; gives every tensor of the
        chain, and those that are added at the end; none where `before` left no row.

        Raises:
            StageError: a stage failed.
        """
        rows = len(tensors["user_id"])
        unsents = {t.name: unsent(t.name, rows) for t in OPTIONAL_TENSORS if t.name not in tensors}
        table = run_chain(self.chain, {**tensors, **unsents}, before)
        if table:
            table["stage_us"] = np.concatenate([table[us_name(stage)] for stage in self.stages], axis=1)
            table["bundle_id"] = filled(table["user_id"].shape, self.bundle_id)
        return table

    def warm_up(self) -> bool:
        """Answers sample requests of every size and width, so that the first real one finds everything in
        place; says whether it could. Without Redis it cannot, and is to be called again."""
        uncounted = Counters()
        for requests in sample_batches(self.bundle, self.settings.max_batch_size):
            for answer in self._answer(requests, uncounted):
                if isinstance(answer, StageError):
                    LOG.warning("not warm yet: %s", answer)
                    return False
        self.is_warm = True
        return True

    def models_cpu_s(self) -> float:
        """CPU seconds spent in ONNX Runtime since the start, by the threads that called it."""
        return self.bundle.user_tower.cpu_seconds + self.bundle.ranker.cpu_seconds

    def outside_s(self) -> tuple[float, float]:
        """Seconds spent in ONNX Runtime, and waiting for Redis, since the start."""
        models = self.bundle.user_tower.seconds + self.bundle.ranker.seconds
        return models, self.stores.redis.seconds if self.stores.redis else 0.0

    def answer(self, requests: Sequence[Mapping[str, Array]]) -> list[Reply | StageError]:
        """Answers requests of one or more users each, in one run; a wrong one fails alone, and so does one
        whose deadline passes on the way."""
        answers = self._answer(requests, self.counters)
        self.counters.add("requests", len(requests))
        self.counters.add("rows", sum(len(request["user_id"]) for request in requests))
        self.counters.add("executions")
        for answer in answers:
            if isinstance(answer, StageError):
                self.counters.add("failed_requests", code=str(answer.code))
        return answers

    def _answer(
        self, requests: Sequence[Mapping[str, Array]], counters: Counters
    ) -> list[Reply | StageError]:
        batch, answers = Batch(requests), dict[int, Reply | StageError]()
        manifest = self.bundle.manifest
        deadlines = Deadlines(batch.tensors["deadline_us"][:, 0], batch.owners, self.now_s)
        for request, complaint in batch.complaints(
            manifest.filters, self.user_features, manifest.item_id_dtype
        ).items():
            deadlines.stop(deadlines.owners[deadlines.rows] == request, complaint)
        table: Tensors = {}
        try:
            if len(deadlines.rows):
                table = self.run(batch.table(deadlines.rows), deadlines.before)
            if table:
                answers |= batch.cut(table, deadlines.rows)
        except StageError as error:
            failed = deadlines.running()
            if len(failed) == 1 or error.code is ErrorCode.DEPENDENCY:
                answers |= dict.fromkeys(failed, error)
            else:  # one of them may have failed the others
                answers |= {place: self._answer([requests[place]], counters)[0] for place in failed}
        counters.run(deadlines, table, self.sources)
        return [answers.get(place) or deadlines.stopped[place] for place in range(len(requests))]
