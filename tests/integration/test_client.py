"""The client and its command, against the real servers."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

import shortlist
from shortlist import AsyncClient, Client
from tests.builders.world import World


@pytest.fixture(scope="module")
def known_user(stack: World) -> int:
    return int(stack.manifest()["sample_user_ids"][0])


def test_it_asks_and_understands_the_gateway(stack: World, known_user: int) -> None:
    with Client(stack.url, timeout_s=30, transport=httpx.HTTPTransport()) as client:
        answer = client.recommend(known_user, n=7, explain=True, request_id="mine")
        assert (answer.request_id, answer.source, answer.degraded) == ("mine", "ensemble", ())
        assert answer.item_ids == [item["item_id"] for item in stack.recommend(known_user, n=7)["items"]]
        assert answer.explain is not None
        assert {trace.item_id for trace in answer.explain} > set(answer.item_ids)
        assert client.seen(known_user).total > 0
        column = next(iter(client.bundle().filters))
        with pytest.raises(shortlist.WrongRequest) as wrong:
            client.recommend(known_user, filters={f"not_{column}": [1]})
        assert column in wrong.value.fields[f"filters.not_{column}"]


def test_many_at_once_share_one_async_client(stack: World, known_user: int) -> None:
    async def ask() -> list[shortlist.Answer]:
        async with AsyncClient(stack.url, timeout_s=30, transport=httpx.AsyncHTTPTransport()) as client:
            return await asyncio.gather(*(client.recommend(known_user, n=n) for n in range(1, 17)))

    answers = asyncio.run(ask())
    assert [len(answer.items) for answer in answers] == list(range(1, 17))


def test_the_command_prints_what_the_gateway_answers(stack: World, known_user: int) -> None:
    asked = ("recommend", "--user", str(known_user), "-n", "3")
    command = ("-m", "service.client", "--url", stack.url, "--timeout", "30", *asked)
    whole, shown = stack.run("gateway", *command, "--json"), stack.run("gateway", *command)
    assert (whole.returncode, shown.returncode) == (0, 0), whole.stderr + shown.stderr
    item_ids = [item["item_id"] for item in json.loads(whole.stdout)["items"]]
    assert [int(line.split()[1]) for line in shown.stdout.splitlines()[:3]] == item_ids
    assert "ensemble, bundle" in shown.stdout


def test_nobody_at_the_address_is_told_within_the_time(stack: World) -> None:
    port = stack.ports["TRITON_GRPC_PORT"]  # listens, and speaks something else
    for url in (f"http://127.0.0.1:{port}", "http://127.0.0.1:1"):
        with (
            Client(url, timeout_s=2, transport=httpx.HTTPTransport()) as client,
            pytest.raises(shortlist.Unreachable) as failure,
        ):
            client.recommend(1)
        assert failure.value.attempts > 1
