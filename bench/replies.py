"""Reads replies after the clock and holds each against what was asked: fast and wrong does not count."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import redis
from tritonclient.grpc import service_pb2 as triton

from bench.grpc_traffic import NOT_SENT
from bench.load.traffic import Exchange
from bench.servers import BenchError
from contract.environment import RedisUrl
from contract.ids import OwnId
from contract.keys import decode_seen, seen_key, seen_prefix
from contract.slates import SlateSource, degradations
from contract.tensors import ANSWER, ANSWER_TENSORS, PAD_ID, unpack


class Kind(StrEnum):
    """What came of a request."""

    FULL = "full"  # the whole ensemble's slate
    DEGRADED = "degraded"  # the ensemble's, which says what it lacks
    POPULAR = "popular"  # the popular slate
    REFUSED = "refused"  # 503, at once
    FAILED = "failed"  # no answer, an error, or not within the generator's patience
    NOT_SENT = "not sent"  # too many waited already


ANSWERED = frozenset({Kind.FULL, Kind.DEGRADED, Kind.POPULAR})


AnyId = TypeVar("AnyId", int, str)


@dataclass(frozen=True)
class World(Generic[AnyId]):
    """What answers are held against: the items that there are, and what each user has seen, as the Redis at
    `url` holds it; without one, seen items are not looked for."""

    url: RedisUrl | None
    dataset: str
    items: frozenset[AnyId]
    users: tuple[AnyId, ...]
    n: int

    @cached_property
    def seen(self) -> dict[OwnId, frozenset[int]]:
        """Reads every user's seen items."""
        if self.url is None:
            return dict.fromkeys(self.users, frozenset())
        with redis.Redis(**self.url.connection_kwargs()) as client:
            values = client.mget([seen_key(self.dataset, int(user)) for user in self.users])
        sets = (frozenset(decode_seen(value).tolist()) for value in values)
        return dict(zip(self.users, sets, strict=True))

    def check(self, ids: Sequence[Any], user: OwnId, *, hides_seen: bool) -> None:
        """Holds a slate against what was asked.

        Raises:
            BenchError: it is short, repeats an item, or holds one that is none or that the user has seen.
        """
        found = set(ids)
        is_wrong = len(ids) != self.n or len(found) != self.n or not found <= self.items
        if is_wrong or (hides_seen and found & self.seen[user]):
            raise BenchError(f"user {user}: a wrong slate: {ids}")


def seen_users(url: RedisUrl, dataset: str) -> tuple[int, ...]:
    """Lists the users of a data set who have seen something, as Redis holds them."""
    prefix = seen_prefix(dataset)
    with redis.Redis(**url.connection_kwargs()) as client:
        keys = client.scan_iter(match=f"{prefix}*", count=10_000)
        return tuple(sorted(int(key.decode().removeprefix(prefix)) for key in keys))


Judge = Callable[[Exchange], Kind]


def tensors_of(body: bytes) -> dict[str, npt.NDArray[Any]]:
    """Reads a reply of Triton: its tensors by name."""
    reply = triton.ModelInferResponse.FromString(body)
    kinds = {"INT64": np.int64, "INT32": np.int32, "FP32": np.float32, "FP64": np.float64}
    return {
        output.name: np.frombuffer(raw, kinds[output.datatype]).reshape(tuple(output.shape))
        for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }


def judge_ours(world: World[Any], pad_id: int = PAD_ID) -> Judge:
    """Judges replies of our ensemble; `pad_id` is what is no item to it."""

    def judge(exchange: Exchange) -> Kind:
        tensors = tensors_of(exchange.body)
        if ANSWER.name in tensors:  # one of before it answers in tensors of their own names
            tensors |= unpack(tensors[ANSWER.name], ANSWER_TENSORS)
        if degradations(int(tensors["degraded"].item())):
            return Kind.DEGRADED
        ids = tensors["item_ids"][0]
        world.check(ids[ids != pad_id].tolist(), exchange.user_id, hides_seen=True)
        return Kind.FULL

    return _answered(judge)


def judge_reference(world: World[Any]) -> Judge:
    """Judges replies of a reference, which filters nothing."""

    def judge(exchange: Exchange) -> Kind:
        ids = tensors_of(exchange.body)["ordered_ids"].ravel()
        world.check(ids.tolist(), exchange.user_id, hides_seen=False)
        return Kind.FULL

    return _answered(judge)


def judge_stock(world: World[Any], item_ids: npt.NDArray[np.int64]) -> Judge:
    """Judges replies of the stock ensemble: codes, which `item_ids` translates where one has an item."""

    def judge(exchange: Exchange) -> Kind:
        codes = tensors_of(exchange.body)["ordered_ids"].ravel()
        named = [i for i in item_ids[codes].tolist() if i >= 0]
        if len(codes) != world.n or len(set(named)) != len(named) or not set(named) <= world.items:
            raise BenchError(f"user {exchange.user_id}: a wrong slate of the stock ensemble: {codes}")
        return Kind.FULL

    return _answered(judge)


def judge_gateway(world: World[Any]) -> Judge:
    """Judges answers of the gateway; display fields that are missing count as a degradation."""

    def judge(exchange: Exchange) -> Kind:
        if exchange.status == 503:
            return Kind.REFUSED
        if exchange.status != 200:
            raise BenchError(f"user {exchange.user_id}: {exchange.status} {exchange.body[:300]!r}")
        answer = json.loads(exchange.body)
        ids = [item["item_id"] for item in answer["items"]]
        is_popular = answer["source"] == SlateSource.POPULAR
        if is_popular or not answer["degraded"]:
            world.check(ids, exchange.user_id, hides_seen=not is_popular)
        if is_popular:
            return Kind.POPULAR
        return Kind.DEGRADED if answer["degraded"] else Kind.FULL

    return _answered(judge)


def _answered(judge: Judge) -> Judge:
    def judged(exchange: Exchange) -> Kind:
        if exchange.status:
            return judge(exchange)
        return Kind.NOT_SENT if exchange.body == NOT_SENT else Kind.FAILED

    return judged


def why_failed(exchanges: Iterable[Exchange]) -> str:
    """Names the most common reason of requests without an answer."""
    reasons = Counter(e.body.decode(errors="replace")[:120] for e in exchanges if not e.status)
    reasons.pop(NOT_SENT.decode(), None)
    return reasons.most_common(1)[0][0] if reasons else ""
