"""The Triton model: builds the graph from the bundle beside it and runs it once for all requests of a batch.

Triton copies of this file live in the model repository; everything it needs comes from the installed package.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # idle threads spin: the same latency, 40 % of a core less

import google.protobuf  # noqa: F401  before Merlin, which forces the slow Python implementation on later ones

from contract.errors import ErrorCode, StageError
from contract.tensors import ANSWER, REQUEST, request_layout, unpack

LOG = logging.getLogger("ensemble.triton.model")


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the bundle, builds the graph, reads the item features, and answers sample requests: ready
        means warm. Where Redis is down, the model is ready without, and made warm in the background."""
        import triton_python_backend_utils as pb_utils

        from ensemble.triton.lean_merlin import import_lean_merlin

        import_lean_merlin()
        from ensemble.bundle import LoadedBundle
        from ensemble.run.metrics import EVERY_S, Publication
        from ensemble.run.recommender import Recommender, redis_stores
        from ensemble.settings import load_settings

        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        logging.getLogger("merlin").setLevel(logging.CRITICAL)
        self.pb_utils = pb_utils
        settings = load_settings()
        folder = Path(args["model_repository"]) / args["model_version"] / "bundle"
        bundle = LoadedBundle.open(folder, settings.provider, settings.ort_threads)
        stores = redis_stores(bundle, settings)
        self.recommender = Recommender(bundle, stores, settings)
        self.recommender.start()
        self.recommender.warm_up()
        if stores.watch is not None:
            stores.watch.look()
        gc.collect()
        gc.freeze()  # what lives for ever need not be walked again, in the middle of a request
        self.layout = request_layout(bundle.manifest.context)
        self.outputs = [output["name"] for output in json.loads(args["model_config"])["output"]]
        self.publication = Publication(pb_utils, args["model_instance_name"], self.recommender.counters)
        self._stop, self._every_s = threading.Event(), EVERY_S
        self._publish()
        self._background = threading.Thread(target=self._keep, name="publication", daemon=True)
        self._background.start()
        LOG.info(
            "bundle %s, %s items, provider %s, %s",
            bundle.manifest.bundle,
            bundle.manifest.items,
            settings.provider,
            "warm" if self.recommender.is_warm else "not warm: Redis did not answer",
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers every request: its requested outputs, or `code|stage|message`."""
        started, models_s, redis_s = time.perf_counter(), *self.recommender.outside_s()
        models_cpu_s = self.recommender.models_cpu_s()
        answers = self.recommender.answer([self._tensors(request) for request in requests])
        responses = [self._response(*pair) for pair in zip(requests, answers, strict=True)]
        self._count(time.perf_counter() - started, models_s, redis_s)
        used_s = self.recommender.models_cpu_s() - models_cpu_s
        self.recommender.counters.add("cpu_seconds", used_s, part="onnxruntime")
        return responses

    def finalize(self) -> None:
        """Ends what runs in the background."""
        self._stop.set()
        self._background.join()
        self.recommender.stop()

    def _keep(self) -> None:
        while not self._stop.wait(self._every_s):
            if not self.recommender.is_warm:
                self.recommender.warm_up()
            if self.recommender.stores.watch is not None:
                self.recommender.stores.watch.look()
            self._publish()

    def _publish(self) -> None:
        watch = self.recommender.stores.watch
        share, away = (1.0, 0) if watch is None else (watch.share, len(watch.away))
        gauges = {"warm": self.recommender.is_warm, "indexed_share": share, "index_nodes_away": away}
        if self.recommender.tables:
            gauges["embedding_hit_rate"] = min(table.hit_rate for table in self.recommender.tables)
        self.publication.publish(gauges)

    def _count(self, took_s: float, models_s: float, redis_s: float) -> None:
        models_now_s, redis_now_s = self.recommender.outside_s()
        models_s, redis_s = models_now_s - models_s, redis_now_s - redis_s
        add = self.recommender.counters.add
        add("seconds", models_s, part="onnxruntime")
        add("seconds", redis_s, part="redis")
        add("seconds", max(0.0, took_s - models_s - redis_s), part="python")

    def _tensors(self, request: Any) -> dict[str, Any]:
        """Gives the tensors of a request by name; Triton has checked their dtypes and shapes."""
        sent = {t.name(): t.as_numpy() for t in request.inputs()}
        return unpack(sent.pop(REQUEST), self.layout) | sent

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
        requested = request.requested_output_names()
        names = [name for name in self.outputs if name in requested]
        arrays = [answer.packed if name == ANSWER.name else answer[name] for name in names]
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(*pair) for pair in zip(names, arrays, strict=True)]
        )
