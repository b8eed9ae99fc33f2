"""Sends requests straight to Triton over gRPC and keeps every reply as it came: about 0.2 ms of CPU each.

As `bench.load.traffic` does over HTTP, whose exchanges it gives. Messages are written before the clock and
read after it; in between they are bytes.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count

import grpc

from bench.load.traffic import Exchange, Run, schedule

METHOD = "/inference.GRPCInferenceService/ModelInfer"
CHANNELS = 4
OK, NOT_SENT = 200, b"not sent"
MOST_IN_FLIGHT = 64
"""Requests of an open loop that wait at once. One that falls due beyond them is not sent, and counted."""
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))


class _Sender:
    def __init__(
        self,
        address: str,
        messages: Mapping[int, bytes],
        user_ids: Sequence[int],
        seed: int,
        timeout_s: float,
    ) -> None:
        self.channels = [grpc.aio.insecure_channel(address, options=_OPTIONS) for _ in range(CHANNELS)]
        self.calls = [channel.unary_unary(METHOD) for channel in self.channels]
        self.messages, self.user_ids, self.timeout_s = messages, user_ids, timeout_s
        self.draw, self.turn, self.run = random.Random(seed), count(), Run()
        self.start = 0.0

    def now(self) -> float:
        return time.perf_counter() - self.start

    async def send(self, due_s: float) -> Exchange:
        user_id, call = self.draw.choice(self.user_ids), self.calls[next(self.turn) % CHANNELS]
        sent_s = self.now()
        try:
            status, body = OK, await call(self.messages[user_id], timeout=self.timeout_s)
        except grpc.aio.AioRpcError as error:
            status, body = 0, f"{error.code().name}: {error.details()}".encode()
        exchange = Exchange(user_id, due_s, sent_s, self.now(), status, body)
        self.run.exchanges.append(exchange)
        return exchange

    @asynccontextmanager
    async def measured(self) -> AsyncIterator[None]:
        """Connects, then times the run; the collector stays off, as its pauses would read as the server's."""
        await asyncio.gather(*(channel.channel_ready() for channel in self.channels))
        gc.collect()
        gc.disable()
        cpu, self.start = time.process_time(), time.perf_counter()
        try:
            yield
        finally:
            self.run.seconds, self.run.cpu_s = self.now(), time.process_time() - cpu
            self.run.started_s = self.start
            gc.enable()
            await asyncio.gather(*(channel.close() for channel in self.channels))


async def closed_loop(
    address: str,
    messages: Mapping[int, bytes],
    user_ids: Sequence[int],
    *,
    clients: int,
    duration_s: float,
    seed: int = 0,
    timeout_s: float = 60.0,
) -> Run:
    """Lets `clients` callers ask for one user after the other for `duration_s`; waits for the last answer."""
    sender = _Sender(address, messages, user_ids, seed, timeout_s)

    async def call() -> None:
        while (due_s := sender.now()) < duration_s:
            if not (await sender.send(due_s)).status:
                await asyncio.sleep(0.01)  # a server that is away is not asked in a tight loop

    async with sender.measured():
        await asyncio.gather(*(call() for _ in range(clients)))
    return sender.run


async def open_loop(
    address: str,
    messages: Mapping[int, bytes],
    user_ids: Sequence[int],
    *,
    rate: float,
    duration_s: float,
    seed: int = 0,
    timeout_s: float = 60.0,
) -> Run:
    """Sends `rate` requests per second for `duration_s`, but never waits for more than `MOST_IN_FLIGHT`."""
    sender = _Sender(address, messages, user_ids, seed, timeout_s)
    waiting: set[asyncio.Task[Exchange]] = set()
    async with sender.measured():
        for instant in schedule(rate, duration_s, seed):
            if (wait := instant - sender.now()) > 0:
                await asyncio.sleep(wait)
            if len(waiting) >= MOST_IN_FLIGHT:
                sender.run.exchanges.append(Exchange(-1, instant, instant, instant, 0, NOT_SENT))
                continue
            task = asyncio.create_task(sender.send(instant))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
        await asyncio.gather(*waiting)
    return sender.run
