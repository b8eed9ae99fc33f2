"""What the gateway reads from Redis: display fields of items, and what a user has seen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from ensemble import contract
from service.bundle import Card
from service.circuits import Circuit
from service.errors import DependencyUnavailable
from service.reads import Reads, Values

REDIS = "redis"


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
    """Reads what the materialisation and the bundle's publication wrote.

    Cards of a bundle never change, so those read last are kept.
    """

    def __init__(self, address: str, bundle: str, timeout_s: float, kept_cards: int) -> None:
        self._address, self._bundle = address, bundle
        self._timeout_s, self._kept_cards = timeout_s, kept_cards
        self._client: redis.Redis | None = None
        self._reads = Reads(self._mget, REDIS)
        self._cards: dict[int, Card] = {}
        self.circuit = Circuit(REDIS)

    async def open(self) -> None:
        """Makes the client; it connects when needed, and anew after Redis has been away."""
        host, _, port = self._address.rpartition(":")
        self._client = redis.Redis(
            host=host,
            port=int(port),
            socket_connect_timeout=1,
            socket_timeout=None,  # every call has its own, shorter limit
            # One more try, at once: after a restart of Redis the idle connections are dead.
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )

    async def close(self) -> None:
        """Closes all connections."""
        if self._client is not None:
            await self._client.aclose()

    async def seen(self, user_id: int, timeout_s: float) -> list[int]:
        """Reads one key."""
        key = contract.seen_key(user_id)
        (value,) = await self._reads.get([key], timeout_s)
        try:
            item_ids: list[int] = contract.decode_seen(value).tolist()
        except ValueError as error:
            raise DependencyUnavailable(REDIS, f"{key}: {error}") from None
        return item_ids

    async def cards(self, item_ids: Sequence[int], timeout_s: float) -> dict[int, Card]:
        """Reads in one MGET the cards that are not at hand."""
        kept = self._cards
        found = {item_id: kept[item_id] for item_id in item_ids if item_id in kept}
        missing = [item_id for item_id in item_ids if item_id not in found]
        if not missing:
            return found
        keys = [contract.item_card_key(self._bundle, item_id) for item_id in missing]
        values = await self._reads.get(keys, timeout_s)
        try:
            read = dict(_decoded(zip(missing, values, strict=True)))
        except ValueError as error:
            raise DependencyUnavailable(REDIS, f"{keys[0]} and others: {error}") from None
        self._keep(read)
        return found | read

    async def check(self, timeout_s: float) -> str:
        """Sends PING, whatever the circuit says."""
        await self._within(timeout_s, self._redis.ping())
        return f"answers at {self._address}"

    @property
    def _redis(self) -> redis.Redis:
        assert self._client is not None, "open() comes first"
        return self._client

    def _keep(self, cards: Mapping[int, Card]) -> None:
        """Keeps these; beyond the bound those that came first go, as a dict remembers their order."""
        self._cards.update(cards)
        for item_id in list(islice(self._cards, max(0, len(self._cards) - self._kept_cards))):
            del self._cards[item_id]

    async def _mget(self, keys: Sequence[str]) -> Values:
        with self.circuit.guard():
            values: Values = await self._within(self._timeout_s, self._redis.mget(keys))
        return values

    async def _within(self, timeout_s: float, reply: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(timeout_s):
                return await reply
        except TimeoutError:
            reason = f"no answer from {self._address} in time"
            raise DependencyUnavailable(REDIS, reason, is_late=True) from None
        except (RedisError, OSError) as error:
            raise DependencyUnavailable(REDIS, f"{self._address}: {error}") from None


def _decoded(cards: Iterable[tuple[int, bytes | None]]) -> Iterable[tuple[int, Card]]:
    return ((item_id, contract.decode_card(value)) for item_id, value in cards if value is not None)
