"""What the gateway reads from Redis: display fields of items, and what a user has seen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from ensemble import contract
from service.bundle import Card
from service.errors import DependencyUnavailable

REDIS = "redis"
_Reply = TypeVar("_Reply")


@runtime_checkable
class Store(Protocol):
    """Reads within a time limit, in one round trip each.

    Every method raises `DependencyUnavailable` where the store does not answer in `timeout_s` seconds.
    """

    async def seen(self, user_id: int, timeout_s: float) -> list[int]:
        """Items that the user has seen, newest first; empty for a user without any."""

    async def cards(self, item_ids: Sequence[int], timeout_s: float) -> dict[int, Card]:
        """Display fields of those of the items that have any."""

    async def check(self, timeout_s: float) -> str:
        """Says in a few words what was found."""


class MemoryStore:
    """The twin without a server, for tests and for trying the gateway alone."""

    def __init__(self, seen: Mapping[int, Sequence[int]], cards: Mapping[int, Card]) -> None:
        self._seen, self._cards = seen, cards

    async def seen(self, user_id: int, timeout_s: float) -> list[int]:  # noqa: ARG002  (memory is never late)
        """Copies the user's list."""
        return list(self._seen.get(user_id, ()))

    async def cards(self, item_ids: Sequence[int], timeout_s: float) -> dict[int, Card]:  # noqa: ARG002
        """Copies the cards that exist."""
        return {item_id: dict(self._cards[item_id]) for item_id in item_ids if item_id in self._cards}

    async def check(self, timeout_s: float) -> str:  # noqa: ARG002
        """Is always there."""
        return "in memory"


class RedisStore:
    """Reads what the materialisation and the bundle's publication wrote."""

    def __init__(self, address: str, bundle: str, max_connections: int = 64) -> None:
        self._address, self._bundle, self._max_connections = address, bundle, max_connections
        self._client: redis.Redis | None = None

    async def open(self) -> None:
        """Makes the pool; connections are made when needed, and made anew after Redis has been away."""
        host, _, port = self._address.rpartition(":")
        pool = redis.BlockingConnectionPool(
            host=host,
            port=int(port),
            max_connections=self._max_connections,
            timeout=1,  # seconds for a free connection; every call has its own, shorter limit
            socket_connect_timeout=1,
            socket_timeout=None,
            # One more try, at once: after a restart of Redis the pool's idle connections are dead.
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )
        self._client = redis.Redis.from_pool(pool)

    async def close(self) -> None:
        """Closes all connections."""
        if self._client is not None:
            await self._client.aclose()

    async def seen(self, user_id: int, timeout_s: float) -> list[int]:
        """Reads one key."""
        value: Any = await self._within(timeout_s, self._redis.get(contract.seen_key(user_id)))
        try:
            return [int(item_id) for item_id in contract.decode_seen(value)]
        except ValueError as error:
            raise DependencyUnavailable(REDIS, f"{contract.seen_key(user_id)}: {error}") from None

    async def cards(self, item_ids: Sequence[int], timeout_s: float) -> dict[int, Card]:
        """Reads all cards in one MGET."""
        if not item_ids:
            return {}
        keys = [contract.item_card_key(self._bundle, item_id) for item_id in item_ids]
        values: Any = await self._within(timeout_s, self._redis.mget(keys))
        try:
            return dict(_decoded(zip(item_ids, values, strict=True)))
        except ValueError as error:
            raise DependencyUnavailable(REDIS, f"{keys[0]} and others: {error}") from None

    async def check(self, timeout_s: float) -> str:
        """Sends PING."""
        await self._within(timeout_s, self._redis.ping())
        return f"answers at {self._address}"

    @property
    def _redis(self) -> redis.Redis:
        assert self._client is not None, "open() comes first"
        return self._client

    async def _within(self, timeout_s: float, reply: Awaitable[_Reply]) -> _Reply:
        try:
            async with asyncio.timeout(timeout_s):
                return await reply
        except TimeoutError:
            raise DependencyUnavailable(
                REDIS, f"no answer from {self._address} in time", is_late=True
            ) from None
        except (RedisError, OSError) as error:
            raise DependencyUnavailable(REDIS, f"{self._address}: {error}") from None


def _decoded(cards: Iterable[tuple[int, bytes | None]]) -> Iterable[tuple[int, Card]]:
    return ((item_id, contract.decode_card(value)) for item_id, value in cards if value is not None)
