"""A Triton of a few lines: the real wire, a made-up model. For the gateway's tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from contract.arrays import Array
from contract.slates import Degradation, degradation_mask
from contract.tensors import (
    ANSWER,
    ANSWER_TENSORS,
    EXPLAIN_TENSORS,
    OPTIONAL_FILL,
    OPTIONAL_TENSORS,
    PAD_ID,
    REQUEST,
    pack,
    request_layout,
    request_tensor,
    unpack,
)
from tests.builders.gateway import BUNDLE, CONTEXT, make_outputs

Inputs = dict[str, Array]


def read_inputs(request: Any) -> Inputs:
    """The request's tensors by name, as the ensemble would read them."""
    inputs = wire_inputs(request)
    return unpack(inputs.pop(REQUEST), request_layout(CONTEXT)) | inputs


def wire_inputs(request: Any) -> Inputs:
    """The request's tensors, as the ensemble would get them."""
    return {
        one.name: np.frombuffer(data, triton_to_np_dtype(one.datatype)).reshape(tuple(one.shape))
        for one, data in zip(request.inputs, request.raw_input_contents, strict=True)
    }


def answer(inputs: Inputs, bundle: str) -> dict[str, Array]:
    """The small world's output tensors for the request's rows."""
    nothing = np.full((len(inputs["user_id"]), 1), OPTIONAL_FILL["exclude_item_ids"])
    excluded = inputs.get("exclude_item_ids", nothing).tolist()
    rows = [
        make_outputs(
            int(user_id), int(n), [item_id for item_id in left_out if item_id != PAD_ID], bundle=bundle
        )
        for user_id, n, left_out in zip(inputs["user_id"][:, 0], inputs["n"][:, 0], excluded, strict=True)
    ]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers what the gateway asks; `fail` and `wait_s` make it misbehave, `requests` is what it got."""

    def __init__(self) -> None:
        self.port = 0
        self.is_ready = True
        self.bundle = BUNDLE
        self.fail: tuple[grpc.StatusCode, str] | None = None
        self.wait_s = 0.0
        self.cancelled = 0
        self.max_batch_size = 32
        self.left_out: set[str] = set()
        self.not_exported: set[str] = set()
        self.lacks: list[Degradation] = []
        self.requests: list[Any] = []
        self.started = asyncio.Event()

    async def ModelReady(self, _request: Any, _context: Any) -> Any:
        """Says what `is_ready` says."""
        return service_pb2.ModelReadyResponse(ready=self.is_ready)

    async def ModelConfig(self, _request: Any, _context: Any) -> Any:
        """Says whose bundle this is."""
        response = service_pb2.ModelConfigResponse()
        response.config.max_batch_size = self.max_batch_size
        response.config.parameters["bundle"].string_value = self.bundle
        for t in (request_tensor(CONTEXT), *OPTIONAL_TENSORS):
            response.config.input.add(name=t.name, dims=[t.width])
        for t in (ANSWER, *EXPLAIN_TENSORS):
            if t.name not in self.not_exported:
                response.config.output.add(name=t.name, dims=[t.width])
        return response

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """Answers with the outputs that the request asks for."""
        self.requests.append(request)
        self.started.set()
        try:
            await asyncio.sleep(self.wait_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.fail is not None:
            await context.abort(*self.fail)
        outputs = answer(read_inputs(request), self.bundle)
        outputs["degraded"] = np.bitwise_or(outputs["degraded"], degradation_mask(self.lacks))
        outputs[ANSWER.name] = pack(outputs, ANSWER_TENSORS)
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        for wanted in request.outputs:
            if wanted.name in self.left_out:
                continue
            tensor = outputs[wanted.name]
            response.outputs.add(
                name=wanted.name, datatype=np_to_triton_dtype(tensor.dtype), shape=list(tensor.shape)
            )
            response.raw_output_contents.append(tensor.tobytes())
        return response


@asynccontextmanager
async def fake_triton(port: int = 0) -> AsyncIterator[FakeTriton]:
    """Serves a fake Triton on a free port of this machine, or on the one given."""
    triton = FakeTriton()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    triton.port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield triton
    finally:
        await server.stop(grace=None)
