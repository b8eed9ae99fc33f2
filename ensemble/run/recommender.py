"""Runs the graph once for all requests that came together, and gives each its own answer or its own error."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from merlin.dag import Graph

from contract.affinity import affinity_columns, user_item_feature_names
from contract.errors import StageError
from contract.names import ITEM_ID
from ensemble.bundle import Bundle
from ensemble.graph import Stores, recommend_graph, request_schema
from ensemble.run.deadline import IsCancelled, Watch
from ensemble.run.line import line, run_line
from ensemble.run.metrics import Tally
from ensemble.run.pace import Pace
from ensemble.run.requests import Answer, Batch
from ensemble.run.run import AtOnce, Line, Run
from ensemble.run.warm_up import sample_batches
from ensemble.settings import EnsembleSettings
from ensemble.stage import Array, Tensors
from ensemble.stores.client import Patience, connect
from ensemble.stores.features import FeatureStore, RedisFeatureStore
from ensemble.stores.head import HeadedVectorIndex
from ensemble.stores.index_watch import IndexWatch
from ensemble.stores.items import ItemTable
from ensemble.stores.vectors import Catalogue, RedisVectorIndex, VectorIndex

LOG = logging.getLogger(__name__)
LOOK_MS = 5_000
"""Most milliseconds that a look at the index may take; beside the requests."""


def redis_stores(bundle: Bundle, settings: EnsembleSettings) -> Stores:
    """Connects the chain to Redis; nothing is read yet. The item table and the watch of the index, which read
    in the background, have clients of their own, so that their round trips count for nobody's request."""
    most_s, rest_s, probe_s = (
        ms / 1000 for ms in (settings.redis_timeout_ms, settings.redis_rest_ms, settings.redis_probe_ms)
    )
    patience = Patience(most_s, settings.redis_failures, rest_s, probe_s)
    redis = connect(settings.redis_address, settings.redis_timeout_ms, patience, notes_server=True)
    background = connect(settings.redis_address, settings.redis_timeout_ms)
    clock, max_seen = bundle.dataset.clock, settings.max_seen
    features = RedisFeatureStore(redis, bundle.dataset, clock, max_seen)
    items = item_table(bundle, RedisFeatureStore(background, bundle.dataset, clock, max_seen), settings)
    catalogue = Catalogue(bundle.item_ids, bundle.item_vectors)
    looking = connect(settings.redis_address, LOOK_MS)
    name, filters = bundle.manifest.bundle, bundle.manifest.filters
    watch = IndexWatch(looking, name, bundle.manifest.items, lambda: patience.server)
    vectors: VectorIndex = RedisVectorIndex(redis, name, filters, catalogue=catalogue, watch=watch)
    if bundle.manifest.index.kind == "HNSW":
        vectors = HeadedVectorIndex(vectors, bundle.head(settings.head_items))
    return Stores(features, vectors, items, patience, watch)


def item_table(bundle: Bundle, features: FeatureStore, settings: EnsembleSettings) -> ItemTable:
    """Makes the table of the bundle's catalogue, empty until it is started."""
    affinity = [name for name in affinity_columns(bundle.dataset) if name != ITEM_ID]
    of_items = bundle.ranker.spec.candidate.without(user_item_feature_names(bundle.dataset))
    return ItemTable(features, bundle.item_ids, bundle.encoders, of_items, affinity, settings.refresh_s)


class Recommender:
    """The built graph, ready for requests."""

    def __init__(
        self,
        bundle: Bundle,
        stores: Stores,
        settings: EnsembleSettings,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.bundle, self.stores, self.settings, self.now_s = bundle, stores, settings, now_s
        self.graph = Graph(recommend_graph(bundle, stores, settings))
        self.graph.construct_schema(request_schema(bundle))
        self.inputs = tuple(request_schema(bundle).column_names)
        self.line = Line(
            [node.op for node in line(self.graph)], settings.finish_ms / 1000, bundle.manifest.bundle
        )
        self.stages = self.line.names
        self.tally, self.asking, self.is_warm = Tally(), Pace(), False

    def run(self, tensors: Mapping[str, Array]) -> Tensors:
        """Takes the request tensors of B users, gives every tensor of the chain, and those that are
        added at the end.

        Raises:
            StageError: a stage failed.
        """
        return self.line.finished(run_line(self.line.stages, tensors))

    def warm_up(self) -> bool:
        """Answers sample requests of every size and width, so that the first real one finds everything in
        place; says whether it could. Without Redis it cannot, and is to be called again."""
        for requests in sample_batches(self.bundle, self.settings.max_batch_size):
            for answer in self._answer(requests)[0]:
                if isinstance(answer, StageError):
                    LOG.warning("not warm yet: %s", answer)
                    return False
        self.line.pace = Pace()  # the first runs are slower than those to come
        self.is_warm = True
        return True

    def models_cpu_s(self) -> float:
        """CPU seconds spent in ONNX Runtime since the start, by the threads that called it."""
        return self.bundle.user_tower.cpu_seconds + self.bundle.ranker.cpu_seconds

    def outside_s(self) -> tuple[float, float]:
        """Seconds spent in ONNX Runtime, and waiting for Redis, since the start."""
        models = self.bundle.user_tower.seconds + self.bundle.ranker.seconds
        return models, self.stores.patience.seconds if self.stores.patience else 0.0

    def answer(
        self,
        requests: Sequence[Mapping[str, Array]],
        is_cancelled: Sequence[IsCancelled] = (),
        at_once: AtOnce | None = None,
    ) -> list[Answer | StageError]:
        """Answers requests of one or more users each, in one run; a wrong one fails alone, and so does one
        whose deadline passes on the way, or whose caller has gone.

        `is_cancelled` tells of each request, when it is called, whether its caller has gone. `at_once` is
        given, as soon as they are ready, the answers that are not to wait for the ranker's run on others.
        """
        answers, run = self._answer(requests, is_cancelled, at_once)
        self.tally.batch(len(requests), run.watch, run.stage_us, run.tables)
        for answer in answers:
            if isinstance(answer, StageError):
                self.tally.add("failed_requests", code=str(answer.code))
        return answers

    def _answer(
        self,
        requests: Sequence[Mapping[str, Array]],
        is_cancelled: Sequence[IsCancelled] = (),
        at_once: AtOnce | None = None,
    ) -> tuple[list[Answer | StageError], Run]:
        batch = Batch(requests)
        deadlines_us = batch.tensors["deadline_us"][:, 0]
        watch = Watch(deadlines_us, batch.owners, is_cancelled, self.asking, self.now_s)
        for request, complaint in batch.complaints(self.bundle.manifest.filters).items():
            watch.stop(watch.owned_by([request]), complaint)
        run = Run(self.line, batch, watch, at_once)
        for place in run.start():
            (run.answers[place],), alone = self._answer([requests[place]], is_cancelled[place : place + 1])
            run.tables += alone.tables
        return [run.answers.get(place) or watch.stopped[place] for place in range(len(requests))], run
