"""A Triton Python model: runs one of the bundle's ONNX models, request after request.

It stands in for Triton's backend for SavedModels, which is not shipped any more; so is the one for ONNX.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Takes packed tensors, gives the model's output, (rows, width) or (rows,)."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens `model.onnx`, and reads of which tensors and columns each of its inputs is made."""
        config = json.loads(args["model_config"])
        parameters = json.loads(config["parameters"]["told"]["string_value"])
        folder = Path(args["model_repository"]) / args["model_version"]
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(str(folder / "model.onnx"), options)
        self.axes = {given.name: len(given.shape) for given in self.session.get_inputs()}
        self.sources, self.tensors = parameters["sources"], [tensor["name"] for tensor in config["input"]]
        (output,) = config["output"]
        self.output, self.shape = output["name"], [-1, *output["dims"][1:]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Runs once per request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        read = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.tensors}
        inputs = {}
        for name, (tensors, columns) in self.sources.items():
            given = np.concatenate([read[t] for t in tensors], axis=1) if tensors[1:] else read[tensors[0]]
            given = given[:, columns] if columns else given
            inputs[name] = given[:, None] if self.axes[name] == 3 else given  # one candidate per row
        (output,) = self.session.run(None, inputs)
        return pb_utils.InferenceResponse([pb_utils.Tensor(self.output, output.reshape(self.shape))])
