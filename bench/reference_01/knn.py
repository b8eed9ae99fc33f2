"""A Triton Python model: the K nearest items' ids, by Redis' vector search."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from redis import Redis
from redis.commands.search.query import Query


class TritonPythonModel:
    """Takes a user's vector, gives `candidate_ids`, nearest first."""

    def initialize(self, args: dict[str, str]) -> None:
        """Connects, and writes the query that every request sends."""
        parameters = json.loads(json.loads(args["model_config"])["parameters"]["told"]["string_value"])
        self.index = Redis.from_url(os.environ["SHORTLIST_REDIS_URL"]).ft(parameters["index"])
        k = parameters["k"]
        knn = Query(f"*=>[KNN {k} @vector $vector AS distance]").sort_by("distance").paging(0, k)
        self.query = knn.no_content().dialect(2)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Searches for one request after the other."""
        return [self._search(request) for request in requests]

    def _search(self, request: Any) -> Any:
        vector = pb_utils.get_input_tensor_by_name(request, "user_vector").as_numpy()
        found = self.index.search(self.query, query_params={"vector": vector.tobytes()}).docs
        ids = np.array([document.id.rpartition(":")[2] for document in found]).astype(np.int64)
        return pb_utils.InferenceResponse([pb_utils.Tensor("candidate_ids", ids)])
