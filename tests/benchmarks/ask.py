"""Asks the three servers, times every answer and checks it: fast and wrong does not count."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import redis
from tritonclient import grpc

from ensemble import contract
from tests.benchmarks.servers import STOCK_MODEL, BenchError

CONTENT = {"content-type": "application/json"}
SLATE = (*contract.SLATE_TENSORS, *contract.ALWAYS_TENSORS)


@dataclass
class Timed:
    """Latencies of one series in milliseconds, and of its stages where the answers tell them.

    `popular` counts the answers that were the popular slate, which have a latency and no stages; `lacking`
    those of the ensemble without display fields.
    """

    ms: list[float] = field(default_factory=list)
    stages_ms: dict[str, list[float]] = field(default_factory=dict)
    popular: int = 0
    lacking: int = 0

    def percentiles(self) -> dict[str, float]:
        """p50, p95, p99 and max."""
        p50, p95, p99 = np.percentile(self.ms, [50, 95, 99])
        return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "max_ms": max(self.ms)}


def seen_items(redis_port: int, users: Sequence[int]) -> dict[int, set[int]]:
    """Reads what each user has seen, to hold the answers against."""
    with redis.Redis(port=redis_port) as client:
        values = client.mget([contract.seen_key(user) for user in users])
    return {u: set(contract.decode_seen(v).tolist()) for u, v in zip(users, values, strict=True)}


class Gateway:
    """One caller of `POST /v1/recommendations` on one kept connection."""

    def __init__(self, port: int, n: int, seen: Mapping[int, set[int]]) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self.n, self.seen = n, seen

    def ask(self, user: int, timed: Timed) -> None:
        """Asks for one user and checks the slate.

        Raises:
            BenchError: it is wrong, or lacks something.
        """
        body = json.dumps({"user_id": user, "n": self.n})
        started = time.perf_counter()
        self.connection.request("POST", "/v1/recommendations", body, CONTENT)
        response = self.connection.getresponse()
        data = response.read()
        timed.ms.append((time.perf_counter() - started) * 1e3)
        answer = json.loads(data)
        if response.status != 200:
            raise BenchError(f"user {user}: {response.status} {data[:300]!r}")
        if answer["source"] != contract.Source.ENSEMBLE:
            timed.popular += 1
            return
        check_slate([item["item_id"] for item in answer["items"]], self.n, user, self.seen[user])
        if set(answer["degraded"]) - {contract.Degradation.DISPLAY}:
            raise BenchError(f"user {user}: the answer lacks something: {answer['degraded']}")
        timed.lacking += bool(answer["degraded"])
        for stage, ms in {"caller": timed.ms[-1], **answer["timings_ms"]}.items():
            timed.stages_ms.setdefault(stage, []).append(ms)


class OurTriton:
    """One caller of our ensemble over gRPC."""

    def __init__(self, address: str, context: Sequence[str], n: int, seen: Mapping[int, set[int]]) -> None:
        self.client, self.context = grpc.InferenceServerClient(address), context
        self.n, self.seen = n, seen

    def ask(self, user: int, timed: Timed) -> None:
        """Asks for one user and checks the slate."""
        inputs = self._inputs(user)
        started = time.perf_counter()
        answer = self.client.infer(contract.MODEL_NAME, inputs, outputs=_outputs(SLATE))
        timed.ms.append((time.perf_counter() - started) * 1e3)
        ids = [i for i in answer.as_numpy("item_ids")[0].tolist() if i != contract.PAD_ID]
        check_slate(ids, self.n, user, self.seen[user])
        for stage, us in zip(contract.Stage, answer.as_numpy("stage_us")[0].tolist(), strict=True):
            timed.stages_ms.setdefault(str(stage), []).append(us / 1e3)

    def scores(self, user: int) -> dict[int, float]:
        """P(click) of every candidate of a user."""
        answer = self.client.infer(
            contract.MODEL_NAME, self._inputs(user), outputs=_outputs(("candidate_ids", "ranking_scores"))
        )
        ids, scores = answer.as_numpy("candidate_ids")[0], answer.as_numpy("ranking_scores")[0]
        return dict(zip(ids.tolist(), scores.tolist(), strict=True))

    def _inputs(self, user: int) -> list[grpc.InferInput]:
        scalars = {"user_id": user, "n": self.n, "seed": 0, "deadline_us": contract.NO_DEADLINE}
        scalars |= dict.fromkeys(self.context, contract.NO_CONTEXT)
        tensors: dict[str, npt.NDArray[Any]] = {n: np.array([[v]], np.int64) for n, v in scalars.items()}
        tensors["quality"] = np.array([[contract.FULL_QUALITY]], np.float32)
        tensors["exclude_item_ids"] = contract.encode_excluded([])
        tensors["filters"] = contract.encode_filters({})
        return [_input(name, array) for name, array in tensors.items()]


class StockTriton:
    """One caller of the stock ensemble over gRPC; `item_ids` translates the Categorify codes it answers."""

    def __init__(self, address: str, item_ids: npt.NDArray[np.int64], n: int) -> None:
        self.client, self.item_ids, self.n = grpc.InferenceServerClient(address), item_ids, n

    def ask(self, user: int, timed: Timed) -> dict[int, float]:
        """Asks for one user; gives the answered items' scores, of items that have a code of their own.

        It filters nothing, so seen items are fine.

        Raises:
            BenchError: the slate is short, or repeats an item.
        """
        inputs = [_input("user_id", np.array([user], np.int64))]
        started = time.perf_counter()
        answer = self.client.infer(STOCK_MODEL, inputs)
        timed.ms.append((time.perf_counter() - started) * 1e3)
        codes, scores = answer.as_numpy("ordered_ids").ravel(), answer.as_numpy("ordered_scores").ravel()
        named = {i: s for i, s in zip(self.item_ids[codes].tolist(), scores.tolist(), strict=True) if i >= 0}
        if len(codes) != self.n or len(named) != (self.item_ids[codes] >= 0).sum():
            raise BenchError(f"user {user}: a wrong slate of the stock ensemble: {codes}")
        return named

    def runs(self) -> dict[str, int]:
        """How often each of its models has run, by Triton's own count."""
        told = self.client.get_inference_statistics(as_json=True)["model_stats"]
        return {one["name"]: int(one.get("inference_count", 0)) for one in told}


def check_slate(ids: Sequence[int], n: int, user: int, seen: set[int]) -> None:
    """Holds a slate against what was asked.

    Raises:
        BenchError: it is short, repeats an item, or holds one that the user has seen.
    """
    if len(ids) != n or len(set(ids)) != n or seen & set(ids):
        raise BenchError(f"user {user}: a wrong slate: {ids}")


def together(callers: Sequence[Callable[[int], None]], users: Sequence[int], seconds: float) -> float:
    """Lets every caller ask one user after the other, all at once (closed loop); gives the seconds it took.

    Raises:
        BenchError: an answer was wrong.
    """
    until = time.monotonic() + seconds
    faults: list[BaseException] = []

    def work(caller: Callable[[int], None], at: int) -> None:
        try:
            while time.monotonic() < until and not faults:
                caller(users[at % len(users)])
                at += 1
        except BaseException as fault:  # told to the thread that waits
            faults.append(fault)

    started = time.monotonic()
    threads = [
        threading.Thread(target=work, args=(caller, position * 7)) for position, caller in enumerate(callers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise BenchError(str(faults[0])) from faults[0]
    return time.monotonic() - started


def _outputs(names: Sequence[str]) -> list[grpc.InferRequestedOutput]:
    return [grpc.InferRequestedOutput(name) for name in names]


def _input(name: str, array: npt.NDArray[Any]) -> grpc.InferInput:
    kinds = {np.dtype(np.int64): "INT64", np.dtype(np.uint8): "UINT8", np.dtype(np.float32): "FP32"}
    made = grpc.InferInput(name, list(array.shape), kinds[array.dtype])
    made.set_data_from_numpy(array)
    return made
