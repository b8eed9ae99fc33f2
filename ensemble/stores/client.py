"""How the chain connects to Redis."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import AuthenticationError

from contract.environment import AUTHENTICATION_FAILED, RedisUrl


class CountedPipeline(Pipeline):
    """Commands that make one round trip, whose time its client counts."""

    counted_by: CountedRedis

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Sends all commands at once and gives their replies."""
        started = time.perf_counter()
        try:
            replies: list[Any] = super().execute(raise_on_error)
        finally:
            self.counted_by.seconds += time.perf_counter() - started
        return replies


class CountedRedis(Redis):
    """A client that knows how many seconds its pipelines took, all together."""

    seconds = 0.0

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> CountedPipeline:
        """Collects commands that make one round trip together."""
        pipeline = CountedPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        pipeline.counted_by = self
        return pipeline


def connect(url: RedisUrl, timeout_ms: float, on_connect: Callable[[], None] | None = None) -> CountedRedis:
    """Takes where Redis is, gives a client that connects at its first command, and waits for a connection,
    and for each piece of a reply, `timeout_ms` at most.

    A connection that Redis closed meanwhile is made anew, so that a restarted Redis is used at once; one
    whose wait ended is closed, so that no late reply is taken for another's. `on_connect` is called for each
    new one.
    """

    def connected(connection: Any) -> None:
        try:
            connection.on_connect()
        except AuthenticationError:
            raise AuthenticationError(AUTHENTICATION_FAILED) from None
        if on_connect is not None:
            on_connect()

    return CountedRedis(
        **url.connection_kwargs(),
        socket_timeout=timeout_ms / 1000,
        socket_connect_timeout=timeout_ms / 1000,
        socket_keepalive=True,
        redis_connect_func=cast(Any, connected),
    )
