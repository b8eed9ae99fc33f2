"""The gateway as a process: how it starts or says why not, how it answers alone, how it stops."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.builders.gateway import write_bundle
from tests.builders.triton_wire import fake_triton

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "service.main"]


def environment(bundle: Path, **settings: str) -> dict[str, str]:
    """What the gateway sees: none of the machine's own settings."""
    variables = {"BUNDLE_DIR": str(bundle), "PORT": "0", "LATENCY_BUDGET_MS": "8000"}
    variables |= {"REDIS_URL": "redis://127.0.0.1:1", "TRITON__ADDRESS": "127.0.0.1:1"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SHORTLIST_")}
    return inherited | {f"SHORTLIST_{name}": value for name, value in (variables | settings).items()}


class Gateway:
    """A running gateway, its address and what it has logged."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log: list[dict[str, Any]] = []
        self.url = ""

    async def follow(self) -> None:
        """JoinedReads the log until the end."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.log.append(json.loads(line))

    async def logged(self, event: str, **fields: Any) -> dict[str, Any]:
        """Waits for a log line."""
        for _ in range(400):
            for line in self.log:
                if line["event"] == event and fields.items() <= line.items():
                    return line
            await asyncio.sleep(0.05)
        raise AssertionError(f"no {event} {fields} in {self.log}")


@asynccontextmanager
async def running(bundle: Path, **settings: str) -> AsyncIterator[Gateway]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, cwd=ROOT, env=environment(bundle, **settings), stdout=asyncio.subprocess.PIPE
    )
    gateway = Gateway(process)
    following = asyncio.create_task(gateway.follow())
    try:
        gateway.url = (await gateway.logged("listening"))["url"]
        async with httpx.AsyncClient(base_url=gateway.url) as client:
            for _ in range(400):
                try:
                    await client.get("/healthz")
                    break
                except httpx.ConnectError:
                    await asyncio.sleep(0.05)
        yield gateway
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await following


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"LATENCY_BUDGET_MS": "soon"}, "SHORTLIST_LATENCY_BUDGET_MS: "),
        ({"BUNDLE_DIR": "/nowhere"}, "/nowhere/manifest.json: not found; run `make train promote`"),
        ({"HOST": "192.0.2.1", "ALLOW_ANONYMOUS": "true"}, "SHORTLIST_HOST: cannot listen"),
    ],
)
def test_a_start_that_cannot_be_says_why_in_one_line(
    tmp_path: Path, settings: dict[str, str], message: str
) -> None:
    done = subprocess.run(
        COMMAND, cwd=ROOT, env=environment(write_bundle(tmp_path), **settings), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_taken_port_is_named_with_its_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = subprocess.run(
            COMMAND,
            cwd=ROOT,
            env=environment(write_bundle(tmp_path), PORT=port),
            capture_output=True,
            text=True,
        )
    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stderr
    assert "SHORTLIST_PORT" in done.stderr
    assert done.stderr.count("\n") == 1


async def test_with_redis_and_triton_down_it_starts_and_answers_from_the_popular_list(tmp_path: Path) -> None:
    async with running(write_bundle(tmp_path)) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url) as client:
            headers = {"x-request-id": "find-me"}
            answer = await client.post("/v1/recommendations", json={"user_id": 7, "n": 3}, headers=headers)
            ready = await client.get("/readyz")
        line = await gateway.logged("request", request_id="find-me")
        await gateway.logged("dependency_not_ready", dependency="redis")
        await gateway.logged("dependency_not_ready", dependency="triton")
    assert answer.status_code == 200
    assert answer.json()["source"] == "popular"
    assert answer.json()["degraded"] == ["ensemble_unavailable", "seen"]
    assert len(answer.json()["items"]) == 3
    assert ready.status_code == 503
    assert (line["source"], line["user_id"], line["status"], line["n"]) == ("popular", 7, 200, 3)
    assert line["fallback"].startswith("triton: unavailable")
    assert line["ms"] > 0


async def test_a_triton_that_starts_later_is_used_without_a_restart(tmp_path: Path, unused_port: int) -> None:
    address = f"127.0.0.1:{unused_port}"
    settings = {"TRITON__ADDRESS": address}
    async with (
        running(write_bundle(tmp_path), **settings) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        first = (await client.post("/v1/recommendations", json={"user_id": 7})).json()
        async with fake_triton(unused_port):
            for _ in range(200):
                then = (await client.post("/v1/recommendations", json={"user_id": 7})).json()
                if then["source"] == "ensemble":
                    break
                await asyncio.sleep(0.05)
        after = (await client.post("/v1/recommendations", json={"user_id": 7})).json()
    assert [first["source"], then["source"], after["source"]] == ["popular", "ensemble", "popular"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_requests_in_flight_finish_before_it_stops(tmp_path: Path, number: signal.Signals) -> None:
    async with fake_triton() as triton:
        settings = {"TRITON__ADDRESS": f"127.0.0.1:{triton.port}"}
        async with (
            running(write_bundle(tmp_path), **settings) as gateway,
            httpx.AsyncClient(base_url=gateway.url, timeout=20) as client,
        ):
            await gateway.logged("dependency_ready", dependency="triton")
            triton.started.clear()
            triton.wait_s = 1.0
            asking = asyncio.create_task(client.post("/v1/recommendations", json={"user_id": 7, "n": 3}))
            await triton.started.wait()
            gateway.process.send_signal(number)
            answer = await asking
            code = await gateway.process.wait()
    assert answer.json()["source"] == "ensemble"
    assert len(answer.json()["items"]) == 3
    assert code == 0
