"""A Triton Python model that runs a SavedModel, in the place of Triton's TensorFlow backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tensorflow as tf
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Answers the calls that PredictTensorflow makes; inputs and outputs keep their names."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the SavedModel that the stock exporter wrote beside this file."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"] / "model.savedmodel"
        self.model = tf.saved_model.load(str(folder))
        self.signature = self.model.signatures["serving_default"]
        self.inputs = [tensor["name"] for tensor in config["input"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Runs the signature once per request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        tensors = {
            name: tf.convert_to_tensor(pb_utils.get_input_tensor_by_name(request, name).as_numpy())
            for name in self.inputs
        }
        outputs = self.signature(**tensors)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, tensor.numpy()) for name, tensor in outputs.items()]
        )
