"""A Triton Python model: reads the features of one view for the ids of a request, by the Feast SDK."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from feast import FeatureStore


class TritonPythonModel:
    """Takes ids, gives one tensor per feature of the view, and the ids again where they are asked for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the store, and reads which view, key and tensors this model has."""
        config = json.loads(args["model_config"])
        parameters = json.loads(config["parameters"]["told"]["string_value"])
        self.store = FeatureStore(parameters["repo"])
        self.key, self.ids = parameters["key"], config["input"][0]["name"]
        self.outputs = {o["name"]: pb_utils.triton_string_to_numpy(o["data_type"]) for o in config["output"]}
        self.features = [f"{parameters['view']}:{name}" for name in self.outputs if name != self.key]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Reads for one request after the other."""
        return [self._lookup(request) for request in requests]

    def _lookup(self, request: Any) -> Any:
        ids = pb_utils.get_input_tensor_by_name(request, self.ids).as_numpy()
        keys = [{self.key: key} for key in ids.tolist()]
        found = self.store.get_online_features(features=self.features, entity_rows=keys).to_dict()
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, np.array(found[name], dtype)) for name, dtype in self.outputs.items()]
        )
