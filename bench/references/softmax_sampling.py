"""A Triton Python model: draws the slate in proportion to exp(temperature x score), without replacement.

Source: Merlin Systems 23.8, SoftmaxSampling: the greatest weights win, each divided by an exponential draw.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Takes K candidates and their scores, gives `n` of them and theirs."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads how many items make a slate, how random it is, and what the scores are called."""
        parameters = json.loads(json.loads(args["model_config"])["parameters"]["told"]["string_value"])
        self.n, self.temperature, self.score = parameters["n"], parameters["temperature"], parameters["score"]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Draws one slate after the other."""
        return [self._draw(request) for request in requests]

    def _draw(self, request: Any) -> Any:
        item_ids = pb_utils.get_input_tensor_by_name(request, "item_id_raw").as_numpy()
        scores = pb_utils.get_input_tensor_by_name(request, self.score).as_numpy()
        weights = np.exp(self.temperature * scores) / scores.sum()
        waits = np.random.exponential(size=len(scores)) / weights
        best = np.argsort(waits)[: self.n]
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("ordered_ids", item_ids[best]), pb_utils.Tensor("ordered_scores", scores[best])]
        )
