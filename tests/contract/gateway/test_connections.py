"""What a caller may do over a real connection, served by uvicorn with the settings of `service.main`."""

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

from service.main import build_app, server_of
from tests.builders.gateway import make_settings, make_variant

pytestmark = pytest.mark.anyio

TIMEOUT_MS, BODY = 400, 5000
ASK = b"POST /v1/recommendations HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
GOOD = b'{"user_id": 7, "n": 1}'
WHOLE = ASK + b"content-length: %d\r\n\r\n" % len(GOOD) + GOOD
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: gateway\r\n"


@dataclass(frozen=True)
class Reply:
    """One answer of the app's."""

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
        """JoinedReads one answer."""
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers["content-length"]))
        return Reply(int(head[0].split()[1]), headers, json.loads(body))

    async def head(self) -> str:
        """Reads the head of an answer that may be of the server's own words."""
        async with asyncio.timeout(10):
            return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    async def is_hung_up(self) -> bool:
        """Waits until the gateway closes; what it sent before that is read and thrown away."""
        try:
            async with asyncio.timeout(10):
                await self.reader.read()
                return self.reader.at_eof()
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
        text = self.app.state.router.metrics.text().decode()
        rows = [line.split() for line in text.splitlines() if line.startswith("shortlist_refused_total")]
        return {name.split('"')[1]: float(value) for name, value in rows}


@asynccontextmanager
async def serving(folder: Path, **settings: Any) -> AsyncIterator[Gateway]:
    own_settings = make_settings(**({"receive_timeout_ms": TIMEOUT_MS, "max_body_bytes": BODY} | settings))
    app = build_app(own_settings, make_variant(folder, **settings))
    listener = socket.create_server(("127.0.0.1", 0))
    server = server_of(app, own_settings)
    config = server.config
    config.log_config = None
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
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        ASK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        ASK + b"content-length: -5\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused_and_the_connection_closed(gateway: Gateway, sent: bytes) -> None:
    async with gateway.caller() as caller:
        caller.write(sent)
        assert (await caller.head()).startswith("HTTP/1.1 400")
        assert await caller.is_hung_up()


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
async def test_a_body_that_cannot_be_is_refused_by_its_reason(
    gateway: Gateway, sent: bytes, status: int, detail: str, reason: str
) -> None:
    async with gateway.caller() as caller:
        caller.write(ASK + sent)
        reply = await caller.reply()
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


async def test_beyond_the_bound_of_connections_requests_are_told_503_until_some_are_gone(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, max_connections=2) as gateway:
        async with gateway.caller() as first, gateway.caller() as second:
            for caller in (first, second):
                caller.write(WHOLE)
                assert (await caller.reply()).status == 200
            async with gateway.caller() as third:
                third.write(WHOLE)
                assert (await third.head()).startswith("HTTP/1.1 503")
        statuses: list[str] = []
        while "200" not in statuses and len(statuses) < 100:  # until the gateway has seen the others go
            async with gateway.caller() as fourth:
                fourth.write(WHOLE)
                statuses.append((await fourth.head()).split()[1])
            await asyncio.sleep(0.05)
        assert statuses[-1] == "200"


async def test_a_connection_that_is_idle_after_an_answer_is_closed(tmp_path: Path) -> None:
    async with serving(tmp_path, idle_timeout_s=1) as gateway:
        async with gateway.caller() as served:
            served.write(WHOLE)
            assert (await served.reply()).status == 200
            assert await served.is_hung_up()
        assert gateway.refused() == {}


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
