"""Sends requests over raw sockets and keeps every answer as it came: about 0.06 ms of CPU per request.

A client that waits for each answer sends less when the server stalls, and so hides the stall (closed
loop: what a fixed number of callers get). At the instants of a schedule, a stall delays every request that
falls due in it (open loop: what independent users get; asyncio sends up to a millisecond late, and that
counts). Answers are judged after the clock, so that judging costs the server nothing.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from contract.ids import OwnId

HOST = "127.0.0.1"
PATH = "/v1/recommendations"
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
NO_FIELDS: Mapping[str, object] = MappingProxyType({})
MOST_CONNECTIONS = 1000
"""More callers than this at once are not opened: their requests fail as `no connection`."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and what came of it; instants in seconds from the start of the run.

    `status` is 0 where no answer came, and `body` then says why. `retry_after` is the header of that name.
    """

    user_id: OwnId
    due_s: float
    sent_s: float
    done_s: float
    status: int
    body: bytes
    retry_after: str = ""

    @property
    def latency_ms(self) -> float:
        """From the instant when it was due, in milliseconds."""
        return (self.done_s - self.due_s) * 1e3


@dataclass(slots=True)
class Run:
    """Every exchange in the order of its end, how long it all took, and what sending cost; `started_s` is its
    start by `time.perf_counter`."""

    exchanges: list[Exchange] = field(default_factory=list)
    seconds: float = 0.0
    cpu_s: float = 0.0
    started_s: float = 0.0


def schedule(rate: float, duration_s: float, seed: int) -> list[float]:
    """Draws arrival instants in seconds from the start; users are independent, so gaps are exponential."""
    random_gap, instants, now = random.Random(seed), [], 0.0
    while (now := now + random_gap.expovariate(rate)) < duration_s:
        instants.append(now)
    return instants


def request_bytes(
    user_id: OwnId,
    n: int,
    latency_budget_ms: int | None = None,
    headers: Mapping[str, str] = NO_HEADERS,
    fields: Mapping[str, object] = NO_FIELDS,
) -> bytes:
    """Writes one POST as it goes over the wire; `fields` are further ones of its body."""
    request = {"user_id": user_id, "n": n, **fields}
    if latency_budget_ms is not None:
        request["latency_budget_ms"] = latency_budget_ms
    body = json.dumps(request).encode()
    header_fields = {
        "host": HOST,
        "content-type": "application/json",
        "content-length": str(len(body)),
        **headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in header_fields.items())
    return f"POST {PATH} HTTP/1.1\r\n{head}\r\n".encode() + body


class Connection(asyncio.Protocol):
    """One kept connection that carries one request at a time."""

    def __init__(self, on_done: Callable[[Connection, int, bytes], None]) -> None:
        self.on_done = on_done
        self.is_open = False
        self.retry_after = ""
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._is_waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Is ready to send."""
        assert isinstance(transport, asyncio.Transport)
        self._transport, self.is_open = transport, True

    def send(self, data: bytes) -> None:
        """Sends one request; `on_done` is called once, whatever happens."""
        assert self._transport is not None
        self._is_waiting = True
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Takes what has come; an answer is whole when its body has its stated length."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        later = head.find(b"retry-after:")
        self.retry_after = head[later + 12 :].split(b"\r\n", 1)[0].strip().decode() if later >= 0 else ""
        if len(self._received) < end + 4 + length:
            return
        body = bytes(self._received[end + 4 : end + 4 + length])
        self._received.clear()
        if b"connection: close" in head:
            self.close()
        self._finish(int(head[9:12]), body)

    def connection_lost(self, error: Exception | None) -> None:
        """Ends a request that waits without its answer."""
        self.is_open = False
        self._finish(0, type(error).__name__.encode() if error else b"connection closed")

    def give_up(self) -> None:
        """Ends a request that waits too long, and the connection with it."""
        self.close()
        self._finish(0, b"timeout")

    def close(self) -> None:
        """Closes the connection."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def _finish(self, status: int, body: bytes) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self.on_done(self, status, body)


class _Sender:
    """Sends requests for users drawn at random, each on a connection of its own while it lasts."""

    def __init__(
        self,
        port: int,
        user_ids: Sequence[OwnId],
        n: int,
        seed: int,
        latency_budget_ms: int | None,
        timeout_s: float,
        headers: Mapping[str, str],
        fields: Mapping[str, object],
    ) -> None:
        self.port, self.user_ids, self.timeout_s = port, user_ids, timeout_s
        self.write = partial(
            request_bytes, n=n, latency_budget_ms=latency_budget_ms, headers=headers, fields=fields
        )
        self.draw = random.Random(seed)
        self.written: dict[OwnId, bytes] = {}
        self.run, self.idle = Run(), list[Connection]()
        self.open_connections = self.waiting = 0
        self.start = time.perf_counter()
        self.loop = asyncio.get_running_loop()

    def now(self) -> float:
        return time.perf_counter() - self.start

    async def send(self, due_s: float) -> asyncio.Future[Exchange]:
        """Sends one request; the future gives its exchange."""
        user_id = self.draw.choice(self.user_ids)
        data = self.written.get(user_id) or self.written.setdefault(user_id, self.write(user_id))
        ended: asyncio.Future[Exchange] = self.loop.create_future()
        self.waiting += 1
        connection = await self._connection()
        sent_s = self.now()
        if isinstance(connection, bytes):
            self._record(ended, Exchange(user_id, due_s, sent_s, self.now(), 0, connection))
            return ended
        timer = self.loop.call_later(self.timeout_s, connection.give_up)

        def done(on: Connection, status: int, body: bytes) -> None:
            timer.cancel()
            if on.is_open:
                self.idle.append(on)
            else:
                self.open_connections -= 1
            self._record(ended, Exchange(user_id, due_s, sent_s, self.now(), status, body, on.retry_after))

        connection.on_done = done
        connection.send(data)
        return ended

    def _record(self, ended: asyncio.Future[Exchange], exchange: Exchange) -> None:
        self.waiting -= 1
        self.run.exchanges.append(exchange)
        ended.set_result(exchange)

    async def _connection(self) -> Connection | bytes:
        while self.idle:
            connection = self.idle.pop()
            if connection.is_open:
                return connection
            self.open_connections -= 1
        if self.open_connections >= MOST_CONNECTIONS:
            return b"no connection"
        self.open_connections += 1
        try:
            async with asyncio.timeout(self.timeout_s):
                _, made = await self.loop.create_connection(
                    lambda: Connection(lambda *_: None), HOST, self.port
                )
        except (OSError, TimeoutError) as error:
            self.open_connections -= 1
            return type(error).__name__.encode()
        return made

    async def finish(self) -> None:
        """Waits for what is on its way, and closes every connection."""
        while self.waiting:
            await asyncio.sleep(0.005)
        for connection in self.idle:
            connection.close()


async def closed_loop(
    port: int,
    user_ids: Sequence[OwnId],
    *,
    clients: int,
    duration_s: float,
    n: int = 10,
    seed: int = 0,
    latency_budget_ms: int | None = None,
    timeout_s: float = 10.0,
    headers: Mapping[str, str] = NO_HEADERS,
    fields: Mapping[str, object] = NO_FIELDS,
) -> Run:
    """Lets `clients` callers ask one request after the other for `duration_s`."""
    sender = _Sender(port, user_ids, n, seed, latency_budget_ms, timeout_s, headers, fields)

    async def call() -> None:
        while (due_s := sender.now()) < duration_s:
            exchange = await (await sender.send(due_s))
            if not exchange.status:
                await asyncio.sleep(0.01)  # a server that is away is not asked in a tight loop

    with _measured(sender):
        await asyncio.gather(*(call() for _ in range(clients)))
        await sender.finish()
    return sender.run


async def open_loop(
    port: int,
    user_ids: Sequence[OwnId],
    *,
    rate: float,
    duration_s: float,
    n: int = 10,
    seed: int = 0,
    latency_budget_ms: int | None = None,
    timeout_s: float = 10.0,
    headers: Mapping[str, str] = NO_HEADERS,
    fields: Mapping[str, object] = NO_FIELDS,
) -> Run:
    """Sends `rate` requests per second for `duration_s`, whatever the server does; waits for the last answer.

    `seed` draws the instants and the users.
    """
    sender = _Sender(port, user_ids, n, seed, latency_budget_ms, timeout_s, headers, fields)
    tasks: set[asyncio.Task[asyncio.Future[Exchange]]] = set()
    with _measured(sender):
        for instant in schedule(rate, duration_s, seed):
            if (wait := instant - sender.now()) > 0:
                await asyncio.sleep(wait)
            task = sender.loop.create_task(sender.send(instant))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        await sender.finish()
    return sender.run


@contextmanager
def _measured(sender: _Sender) -> Iterator[None]:
    """Times the run; the collector stays off, as its pauses would read as the server's."""
    gc.collect()
    gc.disable()
    cpu, sender.start = time.process_time(), time.perf_counter()
    try:
        yield
    finally:
        sender.run.seconds, sender.run.cpu_s = sender.now(), time.process_time() - cpu
        sender.run.started_s = sender.start
        gc.enable()
