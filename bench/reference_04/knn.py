"""A Triton Python model: the K nearest items with their features, by one vector search of Redis."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import pandas as pd
import triton_python_backend_utils as pb_utils
from redis import Redis
from redis.commands.search.query import Query


class TritonPythonModel:
    """Takes a user's vector, gives one tensor per field of the items, nearest first."""

    def initialize(self, args: dict[str, str]) -> None:
        """Connects, and writes the query that every request sends."""
        config = json.loads(args["model_config"])
        parameters = json.loads(config["parameters"]["told"]["string_value"])
        redis = Redis.from_url(os.environ["SHORTLIST_REDIS_URL"], decode_responses=True)
        self.index = redis.ft(parameters["index"])
        self.outputs = [
            (o["name"], pb_utils.triton_string_to_numpy(o["data_type"]), o["dims"]) for o in config["output"]
        ]
        k = parameters["k"]
        knn = Query(f"*=>[KNN {k} @vector $vector AS distance]").sort_by("distance").paging(0, k)
        self.query = knn.return_fields(*(name for name, _, _ in self.outputs)).dialect(2)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Searches for one request after the other."""
        return [self._search(request) for request in requests]

    def _search(self, request: Any) -> Any:
        vector = pb_utils.get_input_tensor_by_name(request, "user_vector").as_numpy()
        found = self.index.search(self.query, query_params={"vector": vector.tobytes()}).docs
        frame = pd.DataFrame([vars(document) for document in found]).drop(["payload", "id"], axis=1)
        tensors = []
        for name, dtype, dims in self.outputs:
            numbers = np.fromstring(",".join(frame[name]), dtype, sep=",")
            tensors.append(pb_utils.Tensor(name, numbers.reshape(dims)))
        return pb_utils.InferenceResponse(tensors)
