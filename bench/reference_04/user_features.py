"""A Triton Python model: reads a user's hash from Redis."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from redis import Redis


class TritonPythonModel:
    """Takes a user's id, gives one tensor per field of the hash."""

    def initialize(self, args: dict[str, str]) -> None:
        """Connects, and reads which fields there are."""
        config = json.loads(args["model_config"])
        parameters = json.loads(config["parameters"]["told"]["string_value"])
        self.redis = Redis.from_url(os.environ["SHORTLIST_REDIS_URL"], decode_responses=True)
        self.prefix = parameters["prefix"]
        self.outputs = [
            (o["name"], pb_utils.triton_string_to_numpy(o["data_type"])) for o in config["output"]
        ]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Reads for one request after the other."""
        return [self._lookup(request) for request in requests]

    def _lookup(self, request: Any) -> Any:
        user_id = pb_utils.get_input_tensor_by_name(request, "user_id_raw").as_numpy().item()
        found: Any = self.redis.hgetall(f"{self.prefix}{user_id}")
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(name, np.fromstring(found[name], dtype, sep=",")[None])
                for name, dtype in self.outputs
            ]
        )
