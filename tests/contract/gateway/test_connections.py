"""What a stranger may do over a real connection: each limit is answered with a problem document."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from service.http.connections import bounded_protocol
from service.main import build_app
from tests.builders.gateway import FakeRecommender, make_bundle, make_settings, make_store

pytestmark = pytest.mark.anyio

TIMEOUT_MS, HEAD, BODY = 400, 2000, 5000
ASK = b"POST /v1/recommendations HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
GOOD = b'{"user_id": 7, "n": 1}'
WHOLE = ASK + b"content-length: %d\r\n\r\n" % len(GOOD) + GOOD
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: gateway\r\n"


@dataclass(frozen=True)
class Reply:
    """One answer, and whether the gateway then hung up."""

    status: int
    headers: dict[str, str]
    body: Any


class Caller:
    """A connection on which anything may be written."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def write(self, data: bytes) -> None:
        """Sends, whether or not it is welcome."""
        self.writer.write(data)

    async def reply(self) -> Reply:
        """Reads one answer."""
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers["content-length"]))
        return Reply(int(head[0].split()[1]), headers, json.loads(body))

    async def is_hung_up(self) -> bool:
        """Waits until the gateway closes."""
        try:
            async with asyncio.timeout(10):
                return await self.reader.read() == b""
        except ConnectionResetError:
            return True


class Gateway:
    """A gateway over fakes, served by uvicorn as in production."""

    def __init__(self, port: int, app: Any) -> None:
        self.port, self.app = port, app

    @asynccontextmanager
    async def caller(self) -> AsyncIterator[Caller]:
        """Opens a connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Caller(reader, writer)
        finally:
            writer.close()

    def refused(self) -> dict[str, float]:
        """Refusals so far, by reason."""
        text = self.app.state.answers.metrics.text().decode()
        rows = [line.split() for line in text.splitlines() if line.startswith("shortlist_refused_total")]
        return {name.split('"')[1]: float(value) for name, value in rows}


@asynccontextmanager
async def serving(folder: Path, **settings: Any) -> AsyncIterator[Gateway]:
    limits = {"receive_timeout_ms": TIMEOUT_MS, "max_head_bytes": HEAD, "max_body_bytes": BODY}
    told = make_settings(**(limits | settings))
    app = build_app(told, make_bundle(folder), FakeRecommender(), make_store())
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=bounded_protocol(told, app.state.answers.metrics.refused),
        ws="none",
        log_config=None,
        timeout_keep_alive=told.idle_timeout_s,
    )
    server = uvicorn.Server(config)
    serve = asyncio.create_task(server._serve(sockets=[listener]))  # without taking the process's signals
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield Gateway(listener.getsockname()[1], app)
    finally:
        server.should_exit = True
        await serve


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway with short times and small sizes."""
    async with serving(tmp_path) as running:
        yield running


def assert_problem(reply: Reply, status: int, detail: str) -> None:
    assert (reply.status, reply.body["status"]) == (status, status)
    assert reply.headers["content-type"] == "application/problem+json"
    assert detail in reply.body["detail"]


async def test_a_good_request_is_answered_in_pieces_or_whole_and_the_connection_stays(
    gateway: Gateway,
) -> None:
    async with gateway.caller() as caller:
        for data in (WHOLE, WHOLE):
            caller.write(data)
            assert (await caller.reply()).status == 200
        for byte in WHOLE:
            caller.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await caller.reply()).status == 200
        caller.write(WHOLE + WHOLE)
        assert [(await caller.reply()).status for _ in range(2)] == [200, 200]
    assert gateway.refused() == {}


@pytest.mark.parametrize(
    ("sent", "status", "detail", "reason"),
    [
        (HEALTH + b"a: " + b"b" * HEAD + b"\r\n\r\n", 431, "at most 2000 bytes", "head_too_long"),
        (HEALTH + b"a: b\r\n" * HEAD + b"\r\n", 431, "at most 2000 bytes", "head_too_long"),
        (b"GET /" + b"a" * HEAD + b" HTTP/1.1\r\n\r\n", 431, "at most 2000 bytes", "head_too_long"),
        (HEALTH + b"a: " + b"b" * HEAD, 431, "at most 2000 bytes", "head_too_long"),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400, "send HTTP/1.1", "request"),
        (b"GET / HTTP/9.9\r\n\r\n", 400, "send HTTP/1.1", "request"),
        (ASK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", 400, "send HTTP/1.1", "request"),
        (ASK + b"content-length: -5\r\n\r\n", 400, "send HTTP/1.1", "request"),
        (HEALTH, 408, "within 400 ms", "head_late"),
    ],
)
async def test_a_head_that_cannot_be_is_refused_and_the_connection_closed(
    gateway: Gateway, sent: bytes, status: int, detail: str, reason: str
) -> None:
    async with gateway.caller() as caller:
        caller.write(sent)
        reply = await caller.reply()
        assert await caller.is_hung_up()
    assert_problem(reply, status, detail)
    assert reply.headers["connection"] == "close"
    assert gateway.refused() == {reason: 1}


async def test_a_head_in_small_pieces_has_no_more_time_than_one_in_large_pieces(gateway: Gateway) -> None:
    async with gateway.caller() as caller:
        caller.write(HEALTH)
        drips = asyncio.create_task(_drip(caller, b"a: b\r\n"))
        assert_problem(await caller.reply(), 408, "within 400 ms")
        drips.cancel()
    assert gateway.refused() == {"head_late": 1}


async def test_a_head_as_long_as_is_allowed_may_have_a_body_beside_it(gateway: Gateway) -> None:
    head = ASK + b"content-length: %d\r\na: " % BODY
    head += b"b" * (HEAD - len(head) - 8) + b"\r\n\r\n"
    async with gateway.caller() as caller:
        caller.write(head + GOOD.ljust(BODY))
        assert (await caller.reply()).status == 200
    assert gateway.refused() == {}


@pytest.mark.parametrize(
    ("sent", "status", "detail", "reason"),
    [
        (b"content-length: 5001\r\n\r\n", 413, "at most 5000 bytes", "body_too_long"),
        (b"content-length: 99999999999999\r\n\r\n" + b" " * 100, 413, "at most 5000 bytes", "body_too_long"),
        (
            b"transfer-encoding: chunked\r\n\r\n" + b"400\r\n" + b" " * 1024 + b"\r\n",
            408,
            "within 400 ms",
            "body_late",
        ),
        (
            b"transfer-encoding: chunked\r\n\r\n" + (b"400\r\n" + b" " * 1024 + b"\r\n") * 9,
            413,
            "5000",
            "body_too_long",
        ),
        (b"content-length: 22\r\n\r\n{", 408, "within 400 ms", "body_late"),
        (
            b"content-length: 22\r\ncontent-encoding: gzip\r\n\r\n",
            415,
            "content-encoding",
            "content_encoding",
        ),
    ],
)
async def test_a_body_that_cannot_be_is_refused_and_the_connection_closed_after_a_while(
    gateway: Gateway, sent: bytes, status: int, detail: str, reason: str
) -> None:
    async with gateway.caller() as caller:
        caller.write(ASK + sent)
        reply = await caller.reply()
        assert await caller.is_hung_up()
    assert_problem(reply, status, detail)
    assert reply.headers["x-request-id"] in reply.body["instance"]
    assert gateway.refused() == {reason: 1}


async def test_a_body_in_small_pieces_has_no_more_time_than_one_in_large_pieces(gateway: Gateway) -> None:
    async with gateway.caller() as caller:
        caller.write(ASK + b"transfer-encoding: chunked\r\n\r\n")
        drips = asyncio.create_task(_drip(caller, b"1\r\n \r\n"))
        assert_problem(await caller.reply(), 408, "within 400 ms")
        drips.cancel()


async def test_a_refused_body_that_ends_soon_leaves_the_connection_usable(gateway: Gateway) -> None:
    async with gateway.caller() as caller:
        caller.write(ASK + b"content-length: 6000\r\n\r\n")
        assert (await caller.reply()).status == 413
        caller.write(b" " * 6000 + WHOLE)
        assert (await caller.reply()).status == 200


async def test_a_body_that_nobody_reads_is_cut_off(gateway: Gateway) -> None:
    async with gateway.caller() as caller:
        caller.write(HEALTH + b"transfer-encoding: chunked\r\n\r\n")
        assert (await caller.reply()).status == 200
        for _ in range(100):
            caller.write(b"400\r\n" + b" " * 1024 + b"\r\n")
        assert await caller.is_hung_up()


async def test_one_connection_too_many_is_told_so_and_may_come_back(tmp_path: Path) -> None:
    async with serving(tmp_path, max_connections=2) as gateway:
        async with gateway.caller() as first, gateway.caller() as second:
            for caller in (first, second):
                caller.write(WHOLE)
                assert (await caller.reply()).status == 200
            async with gateway.caller() as third:
                reply = await third.reply()
                assert await third.is_hung_up()
            assert_problem(reply, 503, "2 connections are open already")
            assert reply.headers["retry-after"] == "1"
        assert gateway.refused() == {"connections": 1}
        statuses: list[int] = []
        while 200 not in statuses and len(statuses) < 100:  # until the gateway has seen the others go
            async with gateway.caller() as fourth:
                fourth.write(WHOLE)
                statuses.append((await fourth.reply()).status)
            await asyncio.sleep(0.05)
        assert statuses[-1] == 200


async def test_an_idle_connection_is_closed(tmp_path: Path) -> None:
    async with serving(tmp_path, idle_timeout_s=1) as gateway:
        async with gateway.caller() as silent, gateway.caller() as served:
            served.write(WHOLE)
            assert (await served.reply()).status == 200
            assert await silent.is_hung_up()
            assert await served.is_hung_up()
        assert gateway.refused() == {}


async def test_a_caller_that_does_not_take_its_answers_is_hung_up_on(gateway: Gateway) -> None:
    explain = b'{"user_id": 7, "n": 20, "explain": true}'
    ask = ASK + b"content-length: %d\r\n\r\n" % len(explain) + explain
    loop = asyncio.get_running_loop()
    with socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.setblocking(False)
        await loop.sock_connect(stalled, ("127.0.0.1", gateway.port))
        for _ in range(4000):
            try:
                await asyncio.wait_for(loop.sock_sendall(stalled, ask), 1)
            except (TimeoutError, ConnectionError):
                break
        for _ in range(100):
            if gateway.refused():
                break
            await asyncio.sleep(0.05)
    assert gateway.refused() == {"reader_late": 1}


async def test_another_protocol_is_not_taken_up(gateway: Gateway) -> None:
    async with gateway.caller() as caller:
        caller.write(HEALTH + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n")
        assert (await caller.reply()).status == 200


async def _drip(caller: Caller, piece: bytes) -> None:
    while True:
        caller.write(piece)
        await asyncio.sleep(0.05)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a stranger does, no stack trace is logged."""
    yield
    assert not [record for record in caplog.records if record.exc_info]
