"""Redis as the gateway reaches it: within a time limit, behind a circuit, and joined with who else reads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from contract.environment import RedisUrl, explain_redis
from service.failures import DependencyUnavailable
from service.limits.circuits import Circuit

REDIS = "redis"

K = TypeVar("K")
V = TypeVar("V")

Value = bytes | None
Fields = tuple[bytes | str, ...]
"""Of a hash: its key, then the names of fields."""


class JoinedReads(Generic[K, V]):
    """Reads at once while nothing is under way; what is asked meanwhile goes together in the next command.

    Under load one command answers many readers, so a reader costs the less the more there are.
    """

    def __init__(self, read_many: Callable[[Sequence[K]], Awaitable[Sequence[V]]], dependency: str) -> None:
        self._read_many, self._dependency = read_many, dependency
        self._waiting: list[tuple[Sequence[K], asyncio.Future[Sequence[V]]]] = []
        self._task: asyncio.Task[None] | None = None

    async def get(self, keys: Sequence[K], timeout_s: float) -> Sequence[V]:
        """Reads these keys.

        Raises:
            DependencyUnavailable: they did not come in `timeout_s` seconds, or the read failed.
        """
        loop = asyncio.get_running_loop()
        values: asyncio.Future[Sequence[V]] = loop.create_future()
        self._waiting.append((keys, values))
        if self._task is None:
            self._task = loop.create_task(self._read_all())
        timer = loop.call_later(timeout_s, self._late, values)
        try:
            return await values
        finally:
            timer.cancel()

    def _late(self, values: asyncio.Future[Sequence[V]]) -> None:
        if not values.done():
            values.set_exception(DependencyUnavailable(self._dependency, "no answer in time", is_late=True))

    async def _read_all(self) -> None:
        """Reads until nobody waits; the first turn of the loop gathers who else asks in it."""
        try:
            await asyncio.sleep(0)
            while readers := [(keys, values) for keys, values in self._waiting if not values.done()]:
                self._waiting.clear()
                await self._read(readers)
        finally:
            self._task = None
            self._waiting.clear()

    async def _read(self, readers: Sequence[tuple[Sequence[K], asyncio.Future[Sequence[V]]]]) -> None:
        try:
            found = await self._read_many([key for keys, _ in readers for key in keys])
        except DependencyUnavailable as error:
            for _, values in readers:
                if not values.done():
                    values.set_exception(
                        DependencyUnavailable(error.dependency, error.reason, is_late=error.is_late)
                    )
            return
        except Exception as error:
            for _, values in readers:
                if not values.done():
                    values.set_exception(error)
            return
        start = 0
        for keys, values in readers:
            if not values.done():
                values.set_result(found[start : start + len(keys)])
            start += len(keys)


class RedisReader:
    """Reads keys in one MGET, and fields of hashes in one pipeline, for all who ask at the same time."""

    def __init__(self, url: RedisUrl, timeout_s: float) -> None:
        self._url, self._timeout_s = url, timeout_s
        self._client: redis.Redis | None = None
        self._keys = JoinedReads(self._mget, REDIS)
        self._hashes = JoinedReads(self._hmget, REDIS)
        self.circuit = Circuit(REDIS)

    async def open(self) -> None:
        """Makes the client; it connects when needed, and anew after Redis has been away."""
        self._client = redis.Redis(
            **self._url.connection_kwargs(),
            socket_connect_timeout=1,
            socket_timeout=None,  # every call has its own, shorter limit
            # One more try, at once: after a restart of Redis the idle connections are dead.
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )

    async def close(self) -> None:
        """Closes all connections."""
        if self._client is not None:
            await self._client.aclose()

    async def get(self, keys: Sequence[str], timeout_s: float) -> Sequence[Value]:
        """Reads these keys.

        Raises:
            DependencyUnavailable: they did not come in `timeout_s` seconds, or the read failed.
        """
        return await self._keys.get(keys, timeout_s)

    async def get_fields(self, hashes: Sequence[Fields], timeout_s: float) -> Sequence[Sequence[Value]]:
        """Reads these fields of these hashes; a key of another type has none, as MGET says of its keys.

        Raises:
            DependencyUnavailable: they did not come in `timeout_s` seconds, or the read failed.
        """
        return await self._hashes.get(hashes, timeout_s)

    async def between(self, key: str, above: float, most: float, timeout_s: float) -> list[bytes]:
        """Reads the members of a sorted set whose scores are above one and at most another. A failure does
        not count in the circuit.

        Raises:
            DependencyUnavailable: they did not come in `timeout_s` seconds, or the read failed.
        """
        found: list[bytes] = await self._within(timeout_s, self._redis.zrangebyscore(key, f"({above}", most))
        return found

    async def append(
        self, stream: str, entries: Sequence[Mapping[bytes, bytes]], most: int, timeout_s: float
    ) -> None:
        """Appends entries to a stream that holds about `most`. A failure does not count in the circuit, which
        is there for answers.

        Raises:
            DependencyUnavailable: Redis took them not all, or not in `timeout_s` seconds.
        """
        pipe: Any = self._redis.pipeline(transaction=False)
        for entry in entries:
            pipe.xadd(stream, entry, maxlen=most, approximate=True)
        await self._within(timeout_s, pipe.execute())

    async def pipelined(
        self, commands: Iterable[Sequence[Any]], timeout_s: float, *, raise_on_error: bool = True
    ) -> list[Any]:
        """Sends commands in one pipeline, gives their replies; those that Redis refuses, as its errors, where
        they are not to be raised. A failure does not count in the circuit.

        Raises:
            DependencyUnavailable: Redis refuses one, or does not answer in `timeout_s` seconds.
        """
        pipe: Any = self._redis.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        replies: list[Any] = await self._within(timeout_s, pipe.execute(raise_on_error=raise_on_error))
        return replies

    async def put_field(self, key: str, field: str, value: str, timeout_s: float) -> None:
        """Writes a field of a hash. A failure does not count in the circuit.

        Raises:
            DependencyUnavailable: Redis refuses it, or does not answer in `timeout_s` seconds.
        """
        command: Any = self._redis.hset
        await self._within(timeout_s, command(key, field, value))

    async def run(self, script: str, key: str, *arguments: str, timeout_s: float) -> Any:
        """Runs a script on one key. A failure does not count in the circuit.

        Raises:
            DependencyUnavailable: Redis refuses it, or does not answer in `timeout_s` seconds.
        """
        command: Any = self._redis.eval
        return await self._within(timeout_s, command(script, 1, key, *arguments))

    async def check(self, timeout_s: float) -> str:
        """Sends PING, whatever the circuit says."""
        await self._within(timeout_s, self._redis.ping())
        return f"answers at {self._url.address}"

    @property
    def _redis(self) -> redis.Redis:
        assert self._client is not None, "open() comes first"
        return self._client

    async def _mget(self, keys: Sequence[str]) -> Sequence[Value]:
        with self.circuit.guard():
            values: Sequence[Value] = await self._within(self._timeout_s, self._redis.mget(keys))
        return values

    async def _hmget(self, hashes: Sequence[Fields]) -> Sequence[Sequence[Value]]:
        commands = [("HMGET", *one) for one in hashes]
        with self.circuit.guard():
            replies = await self.pipelined(commands, self._timeout_s, raise_on_error=False)
            for reply in replies:
                if isinstance(reply, RedisError) and not str(reply).startswith("WRONGTYPE"):
                    raise DependencyUnavailable(REDIS, f"{self._url.address}: {reply}")
        return [
            [None] * (len(one) - 1) if isinstance(reply, RedisError) else reply
            for one, reply in zip(hashes, replies, strict=True)
        ]

    async def _within(self, timeout_s: float, reply: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(timeout_s):
                return await reply
        except TimeoutError:
            reason = f"no answer from {self._url.address} in time"
            raise DependencyUnavailable(REDIS, reason, is_late=True) from None
        except (RedisError, OSError) as error:
            raise DependencyUnavailable(REDIS, f"{self._url.address}: {explain_redis(error)}") from None
