"""Runs the graph once for all requests that came together, and gives each its own answer or its own error."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from merlin.dag import Graph

from ensemble.bundle import Bundle
from ensemble.contract import NO_DEADLINE, ErrorCode, StageError, encode_excluded, encode_filters
from ensemble.deadline import IsCancelled, Watch
from ensemble.graph import Stores, recommend_graph, request_schema
from ensemble.requests import Answer, Batch, take
from ensemble.runtime import line, run_line
from ensemble.settings import EnsembleSettings
from ensemble.stage import Array, Stage, Tensors, us_name
from ensemble.stores.client import Patience, connect, ending_by
from ensemble.stores.features import FeatureStore, RedisFeatureStore
from ensemble.stores.items import ItemTable
from ensemble.stores.vectors import Catalogue, RedisVectorIndex
from feature_repo.affinity import affinity_columns, user_item_feature_names
from feature_repo.names import ITEM_ID


def redis_stores(bundle: Bundle, settings: EnsembleSettings) -> Stores:
    """Connects the chain to Redis; nothing is read yet."""
    timeout_ms, rest_ms, probe_ms = (
        settings.redis_timeout_ms,
        settings.redis_rest_ms,
        settings.redis_probe_ms,
    )
    patience = Patience(timeout_ms / 1000, settings.redis_failures, rest_ms / 1000, probe_ms / 1000)
    redis = connect(settings.redis_address, timeout_ms, patience)
    features = RedisFeatureStore(redis, bundle.dataset, bundle.dataset.clock, settings.max_seen)
    catalogue = Catalogue(bundle.item_ids, bundle.item_vectors)
    vectors = RedisVectorIndex(redis, bundle.manifest.bundle, bundle.manifest.filters, catalogue=catalogue)
    return Stores(features, vectors, item_table(bundle, features, settings))


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

    def run(self, tensors: Mapping[str, Array]) -> Tensors:
        """Takes the request tensors of B users, gives every tensor of the chain, and `stage_us` (B,T).

        Raises:
            StageError: a stage failed.
        """
        return self._timed(run_line(self.line, tensors))

    def warm_up(self) -> None:
        """Runs a request of nobody, so that the first real one finds everything in place; a failure is left
        to it."""
        request: dict[str, Array] = {name: np.ones((1, 1), dtype=np.int64) for name in self.inputs}
        request["quality"] = np.ones((1, 1), dtype=np.float32)
        request["deadline_us"] = np.array([[NO_DEADLINE]])
        self.answer([request | {"exclude_item_ids": encode_excluded(()), "filters": encode_filters({})}])

    def answer(
        self, requests: Sequence[Mapping[str, Array]], is_cancelled: Sequence[IsCancelled] = ()
    ) -> list[Answer | StageError]:
        """Answers requests of one or more users each, in one run; a wrong one fails alone, and so does one
        whose deadline passes on the way, or whose caller has gone.

        `is_cancelled` tells of each request, when it is called, whether its caller has gone.
        """
        batch = Batch(requests)
        watch = Watch(batch.tensors["deadline_us"][:, 0], batch.owners, is_cancelled, self.now_s)
        answers: dict[int, Answer | StageError] = {}
        for request, complaint in batch.complaints(self.bundle.manifest.filters).items():
            watch.stop(watch.owned_by([request]), complaint)
        try:
            answers |= batch.cut(self._run(batch, watch), watch.rows)
        except StageError as error:
            running = np.unique(batch.owners[watch.rows]).tolist()
            # A dependency failed all of them; anything else may be the fault of one, so each is tried alone.
            if len(running) == 1 or error.code is ErrorCode.DEPENDENCY:
                answers |= dict.fromkeys(running, error)
            else:
                alone = [self.answer([requests[r]], is_cancelled[r : r + 1]) for r in running]
                answers |= {r: answer for r, (answer,) in zip(running, alone, strict=True)}
        return [answers[r] if r in answers else watch.stopped[r] for r in range(len(requests))]

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
