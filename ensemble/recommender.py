"""Runs the graph once for all requests that came together, and gives each its own answer or its own error."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from merlin.dag import Graph

from ensemble.bundle import Bundle
from ensemble.contract import ErrorCode, StageError
from ensemble.deadline import IsCancelled, Watch
from ensemble.graph import Stores, recommend_graph, request_schema
from ensemble.metrics import Tally
from ensemble.pace import Pace
from ensemble.requests import Answer, Batch, take
from ensemble.runtime import line, run_line
from ensemble.settings import EnsembleSettings
from ensemble.stage import Array, Stage, Tensors, us_name
from ensemble.stores.client import Patience, connect, ending_by
from ensemble.stores.features import FeatureStore, RedisFeatureStore
from ensemble.stores.items import ItemTable
from ensemble.stores.vectors import Catalogue, RedisVectorIndex
from ensemble.warm_up import sample_batches
from feature_repo.affinity import affinity_columns, user_item_feature_names
from feature_repo.names import ITEM_ID

LOG = logging.getLogger(__name__)


def redis_stores(bundle: Bundle, settings: EnsembleSettings) -> Stores:
    """Connects the chain to Redis; nothing is read yet. The item table, which reads in the background, has a
    client of its own, so that its round trips count for nobody's request."""
    most_s, rest_s, probe_s = (
        ms / 1000 for ms in (settings.redis_timeout_ms, settings.redis_rest_ms, settings.redis_probe_ms)
    )
    patience = Patience(most_s, settings.redis_failures, rest_s, probe_s)
    redis = connect(settings.redis_address, settings.redis_timeout_ms, patience)
    background = connect(settings.redis_address, settings.redis_timeout_ms)
    clock, max_seen = bundle.dataset.clock, settings.max_seen
    features = RedisFeatureStore(redis, bundle.dataset, clock, max_seen)
    items = item_table(bundle, RedisFeatureStore(background, bundle.dataset, clock, max_seen), settings)
    catalogue = Catalogue(bundle.item_ids, bundle.item_vectors)
    vectors = RedisVectorIndex(redis, bundle.manifest.bundle, bundle.manifest.filters, catalogue=catalogue)
    return Stores(features, vectors, items, patience)


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
        self.line: list[Stage] = [node.op for node in line(self.graph)]
        self.stages = tuple(stage.name for stage in self.line)
        self.tally, self.asking, self.is_warm = Tally(), Pace(), False

    def run(self, tensors: Mapping[str, Array]) -> Tensors:
        """Takes the request tensors of B users, gives every tensor of the chain, and `stage_us` (B,T).

        Raises:
            StageError: a stage failed.
        """
        return self._timed(run_line(self.line, tensors))

    def warm_up(self) -> bool:
        """Answers sample requests of every size and width, so that the first real one finds everything in
        place; says whether it could. Without Redis it cannot, and is to be called again."""
        for requests in sample_batches(self.bundle, self.settings.max_batch_size):
            for answer in self._answer(requests, ())[0]:
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
        return models, self.stores.patience.seconds if self.stores.patience else 0.0

    def answer(
        self, requests: Sequence[Mapping[str, Array]], is_cancelled: Sequence[IsCancelled] = ()
    ) -> list[Answer | StageError]:
        """Answers requests of one or more users each, in one run; a wrong one fails alone, and so does one
        whose deadline passes on the way, or whose caller has gone.

        `is_cancelled` tells of each request, when it is called, whether its caller has gone.
        """
        answers, watch, table = self._answer(requests, is_cancelled)
        self.tally.batch(len(requests), watch, self.stages, table)
        for answer in answers:
            if isinstance(answer, StageError):
                self.tally.add("failed_requests", code=str(answer.code))
        return answers

    def _answer(
        self, requests: Sequence[Mapping[str, Array]], is_cancelled: Sequence[IsCancelled]
    ) -> tuple[list[Answer | StageError], Watch, Tensors]:
        batch = Batch(requests)
        deadlines_us = batch.tensors["deadline_us"][:, 0]
        watch = Watch(deadlines_us, batch.owners, is_cancelled, self.asking, self.now_s)
        answers: dict[int, Answer | StageError] = {}
        for request, complaint in batch.complaints(self.bundle.manifest.filters).items():
            watch.stop(watch.owned_by([request]), complaint)
        table: Tensors = {}
        try:
            table = self._run(batch, watch)
            answers |= batch.cut(table, watch.rows)
        except StageError as error:
            running = np.unique(batch.owners[watch.rows]).tolist()
            # A dependency failed all of them; anything else may be the fault of one, so each is tried alone.
            if len(running) == 1 or error.code is ErrorCode.DEPENDENCY:
                answers |= dict.fromkeys(running, error)
            else:
                alone = [self._answer([requests[r]], is_cancelled[r : r + 1])[0] for r in running]
                answers |= {r: answer for r, (answer,) in zip(running, alone, strict=True)}
        found = [answers[r] if r in answers else watch.stopped[r] for r in range(len(requests))]
        return found, watch, table

    def _run(self, batch: Batch, watch: Watch) -> Tensors:
        table = batch.tensors if len(watch.rows) == len(batch.owners) else take(batch.tensors, watch.rows)
        if not len(watch.rows):
            return {}

        def going_on(place: int, table: Tensors) -> Tensors | None:
            kept = watch.look(self.stages[place])
            if kept is None:
                return table
            return take(table, kept) if len(kept) else None

        with ending_by(time.monotonic() + watch.left_s() - self.settings.finish_ms / 1000):
            return self._timed(run_line(self.line, table, going_on))

    def _timed(self, table: Tensors) -> Tensors:
        if table:
            table["stage_us"] = np.concatenate([table[us_name(stage)] for stage in self.stages], axis=1)
        return table
