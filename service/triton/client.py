"""The ensemble, as the gateway sees it: one protocol, and the implementation that calls Triton over gRPC."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from contract.arrays import Array
from contract.bundle import Manifest
from contract.errors import ErrorCode, StageError
from contract.slates import Degradation
from contract.tensors import (
    ANSWER,
    CHAIN,
    EXPLAIN_TENSORS,
    FULL_QUALITY,
    OPTIONAL_TENSORS,
    PAD_ID,
    bundle_id,
    pack_request,
    request_tensor,
)
from service.failures import DependencyUnavailable
from service.limits.deadline import Deadline
from service.schemas import RecommendRequest, SlateBody
from service.settings import TritonSettings
from service.slate import Slate
from service.triton.batcher import Batcher
from service.triton.tensors import RequestRow, decode_answer, decode_slate, encode_rows

TRITON = "triton"
QUEUE_TIMEOUT = "timeout"
"""Triton's own name for the microseconds that a request may wait in its queue."""
_QUEUED_TOO_LONG = "timeout expired"
"""Triton's words for a request that has waited in its queue for longer than it said it would."""
_UNLIKE = re.compile(
    r"unexpected inference (?:in|out)put|expected \d+ inputs but got|unexpected shape for input",
    re.IGNORECASE,
)
"""Triton's words for tensors that its model does not have."""
OTHER_VERSION = (
    "the exported model is of another version than the gateway: `make export`, then restart Triton"
)
GRACE_S = 5.0
"""Seconds that a call may take beyond the last of its rows' deadlines, where Triton does not move at all.

Callers do not wait for it; but where a call is cancelled, or its own deadline passes, Triton may crash.

Source: triton-inference-server/server, issues 7368 and 8034: a race in its gRPC front end.
"""
CLOSE_S = 1.0
"""Seconds that calls under way still have when the gateway ends."""
_SLATE_OUTPUTS = (ANSWER.name,)
_TOLD_OUTPUTS = (ANSWER.name, "source_item_ids")
"""Where it is told which source gave an item."""
_EXPLAINED_OUTPUTS = (ANSWER.name, *(t.name for t in EXPLAIN_TENSORS))
_DTYPES = {np.dtype(np.int64): "INT64", np.dtype(np.uint8): "UINT8"}
_NUMPY = {"INT64": np.int64, "FP32": np.float32, "INT8": np.int8}
_CHANNEL = [
    # A vanished host is noticed without a request that has to wait for it.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    # The default, up to two minutes, would outlive Triton's restart.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
]


@runtime_checkable
class EnsembleClient(Protocol):
    """Asks the ensemble for slates. Tests put a fake here."""

    async def recommend(self, request: SlateBody, deadline: Deadline, seed: int, quality: float) -> Slate:
        """Makes the slate for one request from the share `quality`, 0 to 1, of the candidates.

        Raises:
            DependencyUnavailable: it does not answer, or not before the deadline.
            StageError: the request is wrong (`bad_request`), or we are (`contract`).
        """

    async def check(self, deadline: Deadline) -> str:
        """Makes a real slate, and says in a few words what was found.

        Raises:
            DependencyUnavailable: it does not answer.
        """


class TritonClient:
    """Calls the ensemble inside Triton, over one gRPC channel that all requests share."""

    def __init__(self, settings: TritonSettings, manifest: Manifest) -> None:
        self._address, self._model, self._most_rows = settings.address, manifest.bundle, settings.most_rows
        self._manifest = manifest
        self._sample = RecommendRequest(user_id=next(iter(manifest.sample_users), 0), n=1)
        self._batcher = Batcher(self._infer, settings.most_rows, settings.most_calls)
        self._explained = Batcher(self._infer, 1, settings.most_calls)
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None
        self._described: dict[tuple[Any, ...], Any] = {}

    async def open(self) -> None:
        """Makes the channel; it connects at the first call, and again whenever Triton comes back."""
        self._channel = grpc.aio.insecure_channel(self._address, options=_CHANNEL)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def close(self) -> None:
        """Closes the channel; calls under way may end before."""
        if self._channel is not None:
            await self._channel.close(CLOSE_S)

    async def recommend(
        self,
        request: SlateBody,
        deadline: Deadline,
        seed: int,
        quality: float = FULL_QUALITY,
    ) -> Slate:
        """Makes the slate for one request, in one call, which it may share; an explained one goes alone."""
        if deadline.left_s() <= 0:
            raise DependencyUnavailable(TRITON, "no time left", is_late=True)
        row = RequestRow.of(request, deadline, seed, quality)
        return await (self._explained if request.explain else self._batcher).slate(row)

    async def check(self, deadline: Deadline) -> str:
        """Makes a real slate: Triton goes on calling a model ready whose process has died.

        A slate of another bundle is not shown, and an index that lacks items is not ready, though it answers.
        """
        is_ready = service_pb2.ModelReadyRequest(name=self._model)
        config = service_pb2.ModelConfigRequest(name=self._model)
        try:
            if not (await self._stub.ModelReady(is_ready, timeout=deadline.left_s())).ready:
                raise DependencyUnavailable(TRITON, f"model {self._model} is not ready at {self._address}")
            described = await self._stub.ModelConfig(config, timeout=deadline.left_s())
        except grpc.aio.AioRpcError as error:
            raise triton_error(error.code().name, error.details() or "") from None
        self._compare_tensors(described.config)
        slate = await self.recommend(self._sample, deadline, seed=0)
        ours = self._manifest.bundle
        if slate.bundle_id != bundle_id(ours):
            theirs = described.config.parameters["bundle"].string_value
            reason = f"serves bundle {theirs}, the gateway {ours}: restart the one that is behind"
            raise DependencyUnavailable(TRITON, reason)
        if Degradation.FEATURES in slate.degraded:
            reason = "features are missing in Redis, or of another type: `make materialize export` mends it"
            raise DependencyUnavailable(TRITON, reason)
        if Degradation.PARTIAL_INDEX in slate.degraded:
            reason = "the vector index does not hold every item: Redis is indexing them again, or evicts keys"
            raise DependencyUnavailable(TRITON, reason)
        if Degradation.SOURCES in slate.degraded:
            reason = "a source of candidates fails, and is left out: Triton's log says which, and why"
            raise DependencyUnavailable(TRITON, reason)
        most = described.config.max_batch_size
        if 0 < most < self._most_rows:
            reason = f"takes {most} rows a call, SHORTLIST_TRITON__MOST_ROWS is more: lower it"
            raise DependencyUnavailable(TRITON, reason)
        unranked = "" if self._manifest.is_ranked else "; its order gives the ranker no weight: not run"
        return f"model {self._model} answers at {self._address}{unranked}"

    def _compare_tensors(self, config: Any) -> None:
        """Compares the tensors of the exported model with those of this program.

        Raises:
            DependencyUnavailable: they are of another version.
        """
        if config.parameters["bundle"].string_value != self._manifest.bundle:
            return  # the slate will tell
        takes = (request_tensor(self._manifest.context), *OPTIONAL_TENSORS)
        gives = (ANSWER, *EXPLAIN_TENSORS)
        for ours, theirs in ((takes, config.input), (gives, config.output)):
            if {(t.name, (t.width,)) for t in ours} - {(one.name, tuple(one.dims)) for one in theirs}:
                raise DependencyUnavailable(TRITON, OTHER_VERSION)

    async def _infer(self, rows: Sequence[RequestRow]) -> list[Slate]:
        """Makes the slates of B rows in one call, which outlives the last of their deadlines."""
        left_s = max(row.deadline.left_s() for row in rows)
        is_explained = rows[0].request.explain
        names = [source.name for source in self._manifest.sources]
        are_told = [is_explained or row.request.like_item_id != PAD_ID for row in rows]
        context = self._manifest.context
        tensors = pack_request(encode_rows(rows, context), context)
        message = service_pb2.ModelInferRequest()
        message.CopyFrom(self._description(tensors, is_explained, any(are_told)))
        # Triton drops what has waited in its queue for so long: nobody would wait for the answer.
        message.parameters[QUEUE_TIMEOUT].int64_param = max(1, int(left_s * 1e6))
        message.raw_input_contents.extend([tensor.tobytes() for tensor in tensors.values()])
        try:
            response = await self._stub.ModelInfer(message, timeout=left_s + GRACE_S)
        except grpc.aio.AioRpcError as error:
            raise triton_error(error.code().name, error.details() or "") from None
        outputs = decode_answer(_arrays(response))
        return [
            decode_slate(
                outputs,
                row.request.n,
                is_explained,
                at,
                row.request.like_item_id == PAD_ID and self._manifest.is_ranked,
                names if is_told else (),
            )
            for at, (row, is_told) in enumerate(zip(rows, are_told, strict=True))
        ]

    def _description(self, tensors: Mapping[str, Array], is_explained: bool, are_told: bool) -> Any:
        """What a call says of its tensors: the same for every call of this shape, so it is kept."""
        shapes = (*tensors, *(tensor.shape for tensor in tensors.values()))
        described = self._described.get((shapes, is_explained, are_told))
        if described is None:
            described = service_pb2.ModelInferRequest(model_name=self._model)
            for name, tensor in tensors.items():
                described.inputs.add(name=name, datatype=_DTYPES[tensor.dtype], shape=tensor.shape)
            outputs = _TOLD_OUTPUTS if are_told else _SLATE_OUTPUTS
            for name in _EXPLAINED_OUTPUTS if is_explained else outputs:
                described.outputs.add(name=name)
            self._described[shapes, is_explained, are_told] = described
        return described


def triton_error(status: str, message: str) -> Exception:
    """Takes what a failed call says, gives the exception that the gateway acts on.

    A stage's own words win over the status. A request that Triton cannot understand is our bug, never hidden.
    """
    stage_error = StageError.parse(message)
    if stage_error is not None and stage_error.code is not ErrorCode.DEPENDENCY:
        return stage_error
    if stage_error is not None:
        is_late = "deadline" in stage_error.message
        return DependencyUnavailable(TRITON, f"{stage_error.stage}: {stage_error.message}", is_late=is_late)
    code = status.removeprefix("StatusCode.")
    if _UNLIKE.search(message):
        return DependencyUnavailable(TRITON, f"{OTHER_VERSION}: {message}")
    if code == grpc.StatusCode.DEADLINE_EXCEEDED.name:
        return DependencyUnavailable(TRITON, "deadline exceeded", is_late=True)
    if code == grpc.StatusCode.INVALID_ARGUMENT.name:
        return StageError(ErrorCode.CONTRACT, CHAIN, message)
    is_late = _QUEUED_TOO_LONG in message.lower()
    return DependencyUnavailable(TRITON, f"{code.lower() or 'unknown'}: {message}", is_late=is_late)


def _arrays(response: Any) -> Mapping[str, Array]:
    """Reads every output; numpy views of the message's own bytes.

    One of another dtype is left out: who needs it says that it is missing.
    """
    return {
        output.name: np.frombuffer(data, dtype=_NUMPY[output.datatype]).reshape(tuple(output.shape))
        for output, data in zip(response.outputs, response.raw_output_contents, strict=False)
        if output.datatype in _NUMPY
    }
