"""The ensemble, as the gateway sees it: one protocol, and the implementation that calls Triton over gRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import grpc
import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from ensemble import contract
from ensemble.contract import ErrorCode, StageError
from service.deadline import Deadline
from service.errors import DependencyUnavailable
from service.schemas import RecommendRequest
from service.tensors import Array, Slate, decode_slate, encode_request

TRITON = "triton"
_SLATE_OUTPUTS = (*contract.SLATE_TENSORS, *contract.ALWAYS_TENSORS, "propensities")
_DTYPES = {np.dtype(np.int64): "INT64", np.dtype(np.uint8): "UINT8", np.dtype(np.float32): "FP32"}
_CHANNEL = [
    (
        "grpc.keepalive_time_ms",
        10_000,
    ),  # a vanished host is noticed without a request that has to wait for it
    ("grpc.keepalive_timeout_ms", 2_000),
    (
        "grpc.initial_reconnect_backoff_ms",
        100,
    ),  # the default, up to two minutes, would outlive Triton's restart
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
]


@runtime_checkable
class Recommender(Protocol):
    """Makes slates. Tests put a fake here."""

    async def recommend(
        self, request: RecommendRequest, deadline: Deadline, seed: int, quality: float
    ) -> Slate:
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


class TritonRecommender:
    """Calls the ensemble inside Triton, over one gRPC channel that all requests share."""

    def __init__(
        self, address: str, model: str, bundle: str, context: Sequence[str], sample_user_id: int
    ) -> None:
        self._address, self._model, self._bundle, self._context = address, model, bundle, tuple(context)
        self._sample = RecommendRequest(user_id=sample_user_id, n=1)
        self._client: triton.InferenceServerClient | None = None
        self._outputs = [triton.InferRequestedOutput(name) for name in _SLATE_OUTPUTS]
        more = (name for name in contract.EXPLAIN_TENSORS if name not in _SLATE_OUTPUTS)
        self._explained = self._outputs + [triton.InferRequestedOutput(name) for name in more]

    async def open(self) -> None:
        """Makes the channel; it connects at the first call, and again whenever Triton comes back."""
        self._client = triton.InferenceServerClient(self._address, channel_args=_CHANNEL)

    async def close(self) -> None:
        """Closes the channel."""
        if self._client is not None:
            await self._client.close()

    async def recommend(
        self,
        request: RecommendRequest,
        deadline: Deadline,
        seed: int,
        quality: float = contract.FULL_QUALITY,
    ) -> Slate:
        """Makes the slate for one request, in one call."""
        left_s = deadline.left_s()
        if left_s <= 0:
            raise DependencyUnavailable(TRITON, "no time left", is_late=True)
        assert self._client is not None, "open() comes first"
        tensors = encode_request(request, self._context, deadline.unix_us(), seed, quality)
        try:
            result = await self._client.infer(
                self._model,
                [triton_input(name, tensor) for name, tensor in tensors.items()],
                outputs=self._explained if request.explain else self._outputs,
                client_timeout=left_s,
            )
        except InferenceServerException as error:
            raise triton_error(error.status() or "", error.message() or "") from None
        return decode_slate(_arrays(result), request.n, request.explain)

    async def check(self, deadline: Deadline) -> str:
        """Makes a real slate: Triton goes on calling a model ready whose process has died.

        Also compares the bundles: a slate of another bundle would be shown with this one's name.
        """
        assert self._client is not None, "open() comes first"
        try:
            ready = await self._client.is_model_ready(self._model, client_timeout=deadline.left_s())
            if not ready:
                raise DependencyUnavailable(TRITON, f"model {self._model} is not ready at {self._address}")
            described = await self._client.get_model_config(self._model, client_timeout=deadline.left_s())
        except InferenceServerException as error:
            raise triton_error(error.status() or "", error.message() or "") from None
        await self.recommend(self._sample, deadline, seed=0)
        served = described.config.parameters["bundle"].string_value
        if served not in ("", self._bundle):
            reason = f"serves bundle {served}, the gateway {self._bundle}: restart the one that is behind"
            raise DependencyUnavailable(TRITON, reason)
        return f"model {self._model} answers at {self._address}"


def triton_error(status: str, message: str) -> Exception:
    """Takes what a failed call says, gives the exception that the gateway acts on.

    A stage's own words win over the status. A request that Triton cannot understand is our bug, never hidden.
    """
    stage_error = StageError.parse(message)
    if stage_error is not None and stage_error.code is not ErrorCode.DEPENDENCY:
        return stage_error
    if stage_error is not None:
        return DependencyUnavailable(TRITON, f"{stage_error.stage}: {stage_error.message}")
    code = status.removeprefix("StatusCode.")
    if code == grpc.StatusCode.DEADLINE_EXCEEDED.name:
        return DependencyUnavailable(TRITON, "deadline exceeded", is_late=True)
    if code == grpc.StatusCode.INVALID_ARGUMENT.name:
        return StageError(ErrorCode.CONTRACT, contract.MODEL_NAME, message)
    return DependencyUnavailable(TRITON, f"{code.lower() or 'unknown'}: {message}")


def triton_input(name: str, tensor: Array) -> triton.InferInput:
    """Packs one tensor for the request."""
    holder = triton.InferInput(name, tensor.shape, _DTYPES[tensor.dtype])
    holder.set_data_from_numpy(tensor)
    return holder


def _arrays(result: Any) -> Mapping[str, Array]:
    """Reads every output; numpy views of the message's own bytes."""
    response = result.get_response()
    arrays: dict[str, Array] = {}
    for output, data in zip(response.outputs, response.raw_output_contents, strict=False):
        dtype = triton_to_np_dtype(output.datatype)
        if dtype is None or output.datatype == "BYTES":
            continue  # no output of ours; a missing one is reported by whoever needs it
        arrays[output.name] = np.frombuffer(data, dtype=dtype).reshape(tuple(output.shape))
    return arrays
