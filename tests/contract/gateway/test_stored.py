"""Stored slates through the gateway over a real Redis: one that switches, goes away, hangs, or is damaged."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from contract.environment import RedisUrl
from contract.feast import AVAILABILITY_FIELD, UNAVAILABLE, feature_key
from contract.keys import batch_key, encode_seen, seen_key, slate_key
from contract.slates import Published
from service.failures import DependencyUnavailable
from service.store.redis_store import RedisStore
from tests.builders.gateway import BUNDLE, FakeEnsemble, client_of, make_app, make_stored

pytestmark = pytest.mark.anyio

DATASET = "synthetic"
DOWN = DependencyUnavailable("triton", "connection refused")
PATIENCE_S = 20.0


@asynccontextmanager
async def gateway(folder: Path, url: RedisUrl, timeout_s: float = 2.0) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway whose ensemble is down, over a Redis; it looks at the pointer and at items every time."""
    store = RedisStore(url, BUNDLE, timeout_s, 100, dataset=DATASET, pointer_s=0.0, availability_s=0.0)
    app = make_app(folder, FakeEnsemble(DOWN), store, store_timeout_ms=int(timeout_s * 1000))
    async with client_of(app) as client:
        yield client


async def ask(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post("/v1/recommendations", json={"user_id": 9, "n": 2, **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def store_slate(port: int, run: str, item_ids: list[int]) -> None:
    """Stores a slate for user 9 and publishes its run."""
    with redis.Redis(port=port) as client:
        client.set(slate_key(run, 9), make_stored(item_ids, run=run).encode())
        client.set(batch_key(DATASET), Published((run,)).encode())


async def test_a_newly_published_run_is_read_and_what_becomes_seen_or_unavailable_is_gone(
    tmp_path: Path, redis_process: Any
) -> None:
    async with gateway(tmp_path, redis_process.url) as client:
        assert (await ask(client, source="batch"))["degraded"][0] == "batch_missing"
        for run, item_ids in (("first", [300, 301, 302, 303]), ("second", [310, 311, 312, 313])):
            store_slate(redis_process.port, run, item_ids)
            answer = await ask(client, source="batch")
            assert (answer["source"], answer["run"]) == ("batch", run)
            assert [item["item_id"] for item in answer["items"]] == item_ids[:2]
        with redis.Redis(port=redis_process.port) as there:
            there.set(seen_key(DATASET, 9), encode_seen([310]))
            key = feature_key("item_id", 312, DATASET)
            there.hset(key, AVAILABILITY_FIELD, UNAVAILABLE)
        answer = await ask(client)
        assert [item["item_id"] for item in answer["items"]] == [311, 313]
        assert answer["degraded"] == ["ensemble_unavailable", "display"]  # there are no cards here


async def test_a_redis_that_goes_is_answered_without_and_one_that_comes_back_is_read_again(
    tmp_path: Path, redis_process: Any
) -> None:
    store_slate(redis_process.port, "run", [300, 301])
    async with gateway(tmp_path, redis_process.url) as client:
        assert (await ask(client, source="batch"))["source"] == "batch"
        redis_process.stop()
        for _ in range(10):  # enough to open the circuit
            answer = await ask(client, source="batch")
            assert answer["source"] == "popular"
            assert answer["degraded"] == ["batch_unavailable", "seen"]
            await asyncio.sleep(0.02)
        assert (await ask(client))["degraded"] == ["ensemble_unavailable", "batch_unavailable", "seen"]
        redis_process.start()
        store_slate(redis_process.port, "run", [300, 301])
        deadline = time.monotonic() + PATIENCE_S
        while (await ask(client, source="batch"))["source"] != "batch":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def test_a_redis_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = RedisUrl(f"redis://127.0.0.1:{silent.getsockname()[1]}")
        async with gateway(tmp_path, url, timeout_s=0.05) as client:
            started = time.monotonic()
            answer = await ask(client, source="batch")
            assert time.monotonic() - started < PATIENCE_S
    assert answer["source"] == "popular"
    assert answer["degraded"] == ["batch_late", "seen"]


@pytest.mark.parametrize(
    "damaged",
    [b"", b"\0", b"\x01" * 40, b"\xff" * 400, make_stored([300, 301]).encode()[:-1]],
    ids=["empty", "a zero", "ones", "all bits", "cut short"],
)
async def test_a_damaged_slate_or_pointer_is_no_error_of_the_callers_answer(
    tmp_path: Path, redis_process: Any, damaged: bytes
) -> None:
    store_slate(redis_process.port, "run", [300, 301])
    async with gateway(tmp_path, redis_process.url) as client:
        for key in (slate_key("run", 9), batch_key(DATASET)):
            with redis.Redis(port=redis_process.port) as there:
                there.set(key, damaged)
            answer = await ask(client, source="batch")
            assert (answer["source"], answer["degraded"]) == ("popular", ["batch_unavailable"])


async def test_an_item_whose_key_is_of_another_type_counts_as_available_and_harms_nobody(
    tmp_path: Path, redis_process: Any
) -> None:
    store_slate(redis_process.port, "run", [300, 301])
    with redis.Redis(port=redis_process.port) as there:
        there.set(feature_key("item_id", 300, DATASET), b"no hash")
    async with gateway(tmp_path, redis_process.url) as client:
        for _ in range(8):
            answer = await ask(client, source="batch")
            assert answer["source"] == "batch"
            assert [item["item_id"] for item in answer["items"]] == [300, 301]
