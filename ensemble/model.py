"""The Triton model: builds the graph from the bundle beside it and runs it once for all requests of a batch.

Triton copies of this file live in the model repository; everything it needs comes from the installed package.
"""

from __future__ import annotations

import gc
import json
import logging
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # idle threads spin: the same latency, 40 % of a core less

import google.protobuf  # noqa: F401  before Merlin, which forces the slow Python implementation on later ones

from ensemble.contract import ErrorCode, StageError

LOG = logging.getLogger("ensemble.model")


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the bundle, builds the graph, and reads the item features; Redis may still be down."""
        import triton_python_backend_utils as pb_utils

        from ensemble.bundle import Bundle
        from ensemble.recommender import Recommender, redis_stores
        from ensemble.settings import load_settings

        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        logging.getLogger("merlin").setLevel(logging.CRITICAL)
        self.pb_utils = pb_utils
        settings = load_settings()
        folder = Path(args["model_repository"]) / args["model_version"] / "bundle"
        bundle = Bundle.open(folder, settings.provider, settings.ort_threads)
        stores = redis_stores(bundle, settings)
        self.recommender = Recommender(bundle, stores, settings)
        stores.items.start()
        self.recommender.warm_up()
        gc.collect()
        gc.freeze()  # what lives for ever need not be walked again, in the middle of a request
        self.outputs = [output["name"] for output in json.loads(args["model_config"])["output"]]
        LOG.info(
            "bundle %s, %s items, provider %s",
            bundle.manifest.bundle,
            bundle.manifest.items,
            settings.provider,
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers every request: its requested outputs, or `code|stage|message`."""
        read = self.pb_utils.get_input_tensor_by_name
        tensors = [
            {name: read(request, name).as_numpy() for name in self.recommender.inputs} for request in requests
        ]
        answers = self.recommender.answer(tensors)
        return [self._response(request, answer) for request, answer in zip(requests, answers, strict=True)]

    def finalize(self) -> None:
        """Ends the refresh of the item features."""
        self.recommender.stores.items.stop()

    def _response(self, request: Any, answer: Any) -> Any:
        pb_utils = self.pb_utils
        if isinstance(answer, StageError):
            codes = {
                ErrorCode.BAD_REQUEST: pb_utils.TritonError.INVALID_ARG,
                ErrorCode.CONTRACT: pb_utils.TritonError.INTERNAL,
                ErrorCode.DEPENDENCY: pb_utils.TritonError.UNAVAILABLE,
            }
            if answer.code is not ErrorCode.BAD_REQUEST:
                LOG.warning("%s", answer)
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(answer), codes[answer.code]))
        asked = request.requested_output_names()
        kept = [name for name in self.outputs if name in asked]
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, answer[name]) for name in kept])
