"""Runs the graph once for all requests that came together, and gives each its own answer or its own error."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from merlin.dag import Graph

from ensemble.bundle import Bundle
from ensemble.contract import (
    MAX_N,
    NO_DEADLINE,
    PAD_ID,
    ErrorCode,
    StageError,
    decode_filters,
    encode_excluded,
    encode_filters,
)
from ensemble.graph import Stores, recommend_graph, request_schema
from ensemble.runtime import ShortlistRuntime, line, to_table
from ensemble.settings import EnsembleSettings
from ensemble.stage import Array, Tensors, us_name
from ensemble.stores.client import Patience, connect
from ensemble.stores.features import FeatureStore, RedisFeatureStore
from ensemble.stores.items import ItemTable
from ensemble.stores.vectors import RedisVectorIndex, check_filters
from feature_repo.affinity import affinity_columns
from feature_repo.names import ITEM_ID

PADDING = {"exclude_item_ids": PAD_ID, "filters": 0}
"""What fills the inputs of one of a few widths, where requests of different widths come together."""


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
    vectors = RedisVectorIndex(redis, bundle.manifest.bundle, bundle.manifest.filters)
    return Stores(features, vectors, item_table(bundle, features, settings))


def item_table(bundle: Bundle, features: FeatureStore, settings: EnsembleSettings) -> ItemTable:
    """Makes the table of the bundle's catalogue, empty until it is started."""
    affinity = [name for name in affinity_columns(bundle.dataset) if name != ITEM_ID]
    return ItemTable(features, bundle.item_ids, bundle.encoders, affinity, settings.refresh_s)


class Recommender:
    """The built graph, ready for requests."""

    def __init__(
        self,
        bundle: Bundle,
        stores: Stores,
        settings: EnsembleSettings,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.bundle, self.stores, self.now_s = bundle, stores, now_s
        self.graph = Graph(recommend_graph(bundle, stores, settings))
        self.graph.construct_schema(request_schema(bundle))
        self.inputs = tuple(request_schema(bundle).column_names)
        self.stages = tuple(node.op.name for node in line(self.graph))
        self.runtime = ShortlistRuntime()

    def run(self, tensors: Mapping[str, Array]) -> Tensors:
        """Takes the request tensors of B users, gives every tensor of the chain, and `stage_us` (B,T).

        Raises:
            StageError: a stage failed.
        """
        table = self.runtime.transform(self.graph, to_table(tensors))
        answer: Tensors = {name: column.values for name, column in table.items()}
        answer["stage_us"] = np.concatenate([answer[us_name(stage)] for stage in self.stages], axis=1)
        return answer

    def warm_up(self) -> None:
        """Runs a request of nobody, so that the first real one finds everything in place; a failure is left
        to it."""
        request: dict[str, Array] = {name: np.ones((1, 1), dtype=np.int64) for name in self.inputs}
        request["quality"] = np.ones((1, 1), dtype=np.float32)
        request["deadline_us"] = np.array([[NO_DEADLINE]])
        self.answer([request | {"exclude_item_ids": encode_excluded(()), "filters": encode_filters({})}])

    def answer(self, requests: Sequence[Mapping[str, Array]]) -> list[Tensors | StageError]:
        """Answers requests of one or more users each, in one run; a wrong one fails alone."""
        answers: list[Tensors | StageError | None] = [self._complaint(request) for request in requests]
        good = [position for position, complaint in enumerate(answers) if complaint is None]
        found = self._run_together([requests[position] for position in good]) if good else []
        for position, answer in zip(good, found, strict=True):
            answers[position] = answer
        return [answer for answer in answers if answer is not None]

    def _run_together(self, requests: Sequence[Mapping[str, Array]]) -> list[Tensors | StageError]:
        try:
            answer = self.run({name: _stacked([r[name] for r in requests], name) for name in self.inputs})
        except StageError as error:
            # A dependency failed all of them; anything else may be the fault of one, so each is tried alone.
            if len(requests) == 1 or error.code is ErrorCode.DEPENDENCY:
                return [error] * len(requests)
            return [answer for request in requests for answer in self._run_together([request])]
        if len(requests) == 1:
            return [answer]
        ends = np.cumsum([len(request["user_id"]) for request in requests])
        return [
            {name: array[end - len(request["user_id"]) : end] for name, array in answer.items()}
            for request, end in zip(requests, ends, strict=True)
        ]

    def _complaint(self, request: Mapping[str, Array]) -> StageError | None:
        try:
            check_request(request, self.bundle.manifest.filters, self.now_s())
        except StageError as error:
            return error
        return None


def check_request(request: Mapping[str, Array], kinds: Mapping[str, str], now_s: float) -> None:
    """Checks the values of one request's tensors; Triton has checked their dtypes and shapes.

    Raises:
        StageError: `bad_request`, naming the field; `dependency`, the deadline has passed in the queue.
    """
    n, user_id = request["n"], request["user_id"]
    if n.min() < 1 or n.max() > MAX_N:
        raise StageError(
            ErrorCode.BAD_REQUEST, "request", f"n must be from 1 to {MAX_N}, got {n.ravel().tolist()}"
        )
    if user_id.min() < 0:
        raise StageError(
            ErrorCode.BAD_REQUEST, "request", f"user_id must be 0 or more, got {int(user_id.min())}"
        )
    for row in request["filters"]:
        check_filters(decode_filters(row), kinds)
    if request["deadline_us"].min() <= now_s * 1e6:
        raise StageError(ErrorCode.DEPENDENCY, "request", "the deadline passed before the request was run")


def _stacked(arrays: Sequence[Array], name: str) -> Array:
    if len(arrays) == 1:
        return arrays[0]
    width = max(array.shape[1] for array in arrays)
    fill = PADDING.get(name, 0)
    return np.concatenate(
        [np.pad(a, ((0, 0), (0, width - a.shape[1])), constant_values=fill) for a in arrays]
    )
