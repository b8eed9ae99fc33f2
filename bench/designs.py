"""The designs that are compared: how each is asked, which processes it has, how its replies are judged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2 as triton

from bench import grpc_traffic
from bench.load import traffic
from bench.load.traffic import Run
from bench.processes import Processes
from bench.replies import Judge
from contract.filters import encode_filters
from contract.tensors import (
    ANSWER,
    EXCLUDE_WIDTHS,
    PAD_ID,
    REQUEST,
    pack_request,
    plain_request,
)

OURS, GATEWAY = "ours, gRPC", "ours, gateway"
STOCK, REFERENCE_01, REFERENCE_04 = "stock", "reference 01", "reference 04"
NAMES = (STOCK, REFERENCE_01, REFERENCE_04, OURS, GATEWAY)


class Caller(Protocol):
    """Asks a design, every user drawn at random."""

    def closed(self, clients: int, duration_s: float, seed: int) -> Run:
        """Lets `clients` ask one after the other."""
        ...

    def open(self, rate: float, duration_s: float, seed: int) -> Run:
        """Asks `rate` times per second, whatever comes back."""
        ...


@dataclass(frozen=True)
class Design:
    """One design, answering."""

    name: str
    caller: Caller
    processes: Processes
    judge: Judge


@dataclass(frozen=True)
class GrpcCaller:
    """Asks a model of a Triton; one written message per user."""

    address: str
    messages: Mapping[int, bytes]

    def closed(self, clients: int, duration_s: float, seed: int) -> Run:
        """Lets `clients` ask one after the other."""
        users = tuple(self.messages)
        return _run(
            grpc_traffic.closed_loop(
                self.address, self.messages, users, clients=clients, duration_s=duration_s, seed=seed
            )
        )

    def open(self, rate: float, duration_s: float, seed: int) -> Run:
        """Asks `rate` times per second, with a bound on those that wait."""
        users = tuple(self.messages)
        return _run(
            grpc_traffic.open_loop(
                self.address, self.messages, users, rate=rate, duration_s=duration_s, seed=seed
            )
        )


@dataclass(frozen=True)
class HttpCaller:
    """Asks the gateway."""

    port: int
    users: Sequence[int]
    n: int

    def closed(self, clients: int, duration_s: float, seed: int) -> Run:
        """Lets `clients` ask one after the other."""
        return _run(
            traffic.closed_loop(
                self.port, self.users, clients=clients, duration_s=duration_s, n=self.n, seed=seed
            )
        )

    def open(self, rate: float, duration_s: float, seed: int) -> Run:
        """Asks `rate` times per second, whatever comes back."""
        return _run(
            traffic.open_loop(self.port, self.users, rate=rate, duration_s=duration_s, n=self.n, seed=seed)
        )


def _run(series: Coroutine[Any, Any, Run]) -> Run:
    return asyncio.run(series)


def our_messages(
    model: str,
    users: Sequence[int],
    context: Sequence[str],
    n: int,
    outputs: Sequence[str] = (ANSWER.name,),
    inputs: Collection[str] = (REQUEST,),
    pad_id: int = PAD_ID,
) -> dict[int, bytes]:
    """Writes requests of our ensemble, without a deadline, as the other designs have none. For an older one,
    `inputs` are the tensors that it takes, each by its own name, and `pad_id` what is no item to it."""

    def tensors(user: int) -> Mapping[str, npt.NDArray[Any]]:
        named = plain_request(np.array([user], np.int64), n, context)
        if REQUEST in inputs:
            return pack_request(named, context)
        named["exclude_item_ids"] = np.full((1, EXCLUDE_WIDTHS[0]), pad_id, np.int64)
        named["filters"] = encode_filters({})
        del named["like_item_id"]  # an optional one
        return {name: array for name, array in named.items() if name in inputs}

    return written(model, users, tensors, outputs)


def one_id_messages(
    model: str, tensor: str, users: Sequence[int], outputs: Sequence[str]
) -> dict[int, bytes]:
    """Writes requests of a model that takes a user's id alone."""
    return written(model, users, lambda user: {tensor: np.array([user], np.int64)}, outputs)


def written(
    model: str,
    users: Sequence[int],
    tensors: Callable[[int], Mapping[str, npt.NDArray[Any]]],
    outputs: Sequence[str],
) -> dict[int, bytes]:
    """Writes one message per user, as it goes over the wire."""
    kinds = {np.dtype(np.int64): "INT64", np.dtype(np.uint8): "UINT8", np.dtype(np.float32): "FP32"}
    messages = {}
    for user in users:
        message = triton.ModelInferRequest(model_name=model)
        for name, array in tensors(user).items():
            message.inputs.add(name=name, datatype=kinds[array.dtype], shape=array.shape)
            message.raw_input_contents.append(array.tobytes())
        for name in outputs:
            message.outputs.add(name=name)
        messages[user] = message.SerializeToString()
    return messages
