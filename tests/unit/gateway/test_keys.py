"""API keys: how they are made, told apart, refused, and kept out of every log."""

from __future__ import annotations

import hmac
import io
import json
import logging
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import structlog

from service.api_keys import ApiKey, caller_of, digest_of, main, make_key, parse_keys
from service.logs import configure_logs
from service.schemas import Problem
from service.settings import WrongSettings, load_settings
from tests.builders.gateway import client_of, make_app

pytestmark = pytest.mark.anyio

WEB, SHOP, NEXT = "shortlist_web-key", "shortlist_shop-key", "shortlist_web-key-2"
KEYS = tuple(
    ApiKey(name, digest_of(key.encode())) for name, key in (("web", WEB), ("shop", SHOP), ("web", NEXT))
)
GUARDED = ("/v1/bundle", "/v1/users/7/seen")
OPEN = ("/healthz", "/readyz", "/metrics", "/", "/docs", "/openapi.json")


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_without_a_key_nothing_under_v1_is_answered_and_everything_else_is(tmp_path: Path) -> None:
    async with client_of(make_app(tmp_path, api_keys=KEYS)) as client:
        refused = [await client.get(path) for path in GUARDED]
        refused.append(await client.post("/v1/recommendations", json={"user_id": 7}))
        refused.append(await client.get("/v1/no-such-route"))
        answered = [await client.get(path) for path in OPEN]
    for response in refused:
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == 'Bearer realm="shortlist"'
        assert response.headers["content-type"] == "application/problem+json"
        assert "authorization: Bearer KEY" in Problem.model_validate(response.json()).detail
        assert response.headers["x-request-id"] in response.json()["instance"]
    assert [response.status_code for response in answered] == [200] * len(OPEN)


@pytest.mark.parametrize("key", [WEB, SHOP, NEXT])
async def test_each_key_of_each_caller_is_answered(tmp_path: Path, key: str) -> None:
    async with client_of(make_app(tmp_path, api_keys=KEYS)) as client:
        answer = await client.post("/v1/recommendations", json={"user_id": 7}, headers=bearer(key))
        assert (await client.get("/v1/bundle", headers=bearer(key))).status_code == 200
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "shown",
    [
        [f"Bearer {WEB}x"],
        [f"Bearer {WEB[:-1]}"],
        ["Bearer "],
        ["Bearer"],
        [f"Basic {WEB}"],
        [WEB],
        [f"Bearer {digest_of(WEB.encode())}"],  # who reads the settings cannot ask
        [f"Bearer {WEB}", f"Bearer {WEB}"],
        [f"Bearer {WEB}, Bearer {SHOP}"],
        ["Bearer \u00e9\u00ff"],
    ],
)
async def test_anything_else_is_refused(tmp_path: Path, shown: list[str]) -> None:
    headers = [(b"authorization", value.encode("latin-1")) for value in shown]
    async with client_of(make_app(tmp_path, api_keys=KEYS)) as client:
        response = await client.get("/v1/bundle", headers=headers)
    assert response.status_code == 401
    assert 'error="invalid_token"' in response.headers["www-authenticate"]


async def test_the_schemes_name_may_be_written_in_any_case(tmp_path: Path) -> None:
    async with client_of(make_app(tmp_path, api_keys=KEYS)) as client:
        response = await client.get("/v1/bundle", headers={"authorization": f"bEARER  {WEB} "})
    assert response.status_code == 200


async def test_without_keys_nobody_is_asked_for_one(tmp_path: Path) -> None:
    async with client_of(make_app(tmp_path)) as client:
        assert (await client.get("/v1/bundle")).status_code == 200
        assert (await client.get("/v1/bundle", headers=bearer("anything"))).status_code == 200


async def test_a_refused_request_is_not_read_and_reaches_no_ensemble(tmp_path: Path) -> None:
    async def parts() -> Any:
        raise AssertionError("the body was read")
        yield b""

    async with client_of(make_app(tmp_path, api_keys=KEYS)) as client:
        response = await client.post(
            "/v1/recommendations", content=parts(), headers={"content-type": "application/json"}
        )
    assert response.status_code == 401


async def test_metrics_say_who_asked_and_how_many_were_refused(tmp_path: Path) -> None:
    async with client_of(make_app(tmp_path, api_keys=KEYS)) as client:
        for key in (WEB, NEXT, SHOP, "wrong"):
            await client.get("/v1/bundle", headers=bearer(key))
        await client.get("/v1/bundle")
        text = (await client.get("/metrics")).text
    assert 'shortlist_calls_total{caller="web"} 2.0' in text
    assert 'shortlist_calls_total{caller="shop"} 1.0' in text
    assert 'shortlist_refused_total{reason="unknown_key"} 1.0' in text
    assert 'shortlist_refused_total{reason="no_key"} 1.0' in text


def test_every_hash_is_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []
    compare = hmac.compare_digest

    def counting(one: str, other: str) -> bool:
        compared.append(one)
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    for key, caller in ((WEB, "web"), (SHOP, "shop"), ("nobody", None)):
        compared.clear()
        assert caller_of(key.encode(), KEYS) == caller
        assert compared == [known.digest for known in KEYS]


def test_two_keys_are_never_the_same_and_their_hash_is_what_the_gateway_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert make_key() != make_key()
    assert main(["web"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    (key,) = [line for line in lines if line.startswith("shortlist_")]
    (entry,) = [line for line in lines if line.startswith("web:")]
    assert len(key) >= 50
    assert caller_of(key.encode(), parse_keys(entry)) == "web"


def test_the_settings_take_several_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORTLIST_API_KEYS", ", ".join(f"{one.caller}:{one.digest}" for one in KEYS) + ",")
    assert load_settings().api_keys == KEYS


@pytest.mark.parametrize(
    "value",
    [
        WEB,
        f"web:{WEB}",
        f"Web:{digest_of(b'')}",
        f":{digest_of(b'')}",
        f"web:{digest_of(b'')[:-1]}",
        f"a:{digest_of(b'')},b:{digest_of(b'')}",
    ],
)
def test_a_wrong_entry_is_named_but_never_repeated(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SHORTLIST_API_KEYS", value)
    with pytest.raises(WrongSettings) as error:
        load_settings()
    message = str(error.value)
    assert message.startswith("SHORTLIST_API_KEYS: ")
    assert value not in message
    assert WEB not in message
    assert digest_of(b"")[:-1] not in message


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gateway.example"])
def test_a_host_that_others_reach_needs_keys_or_the_word_that_it_needs_none(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("SHORTLIST_HOST", host)
    with pytest.raises(WrongSettings, match=r"SHORTLIST_API_KEYS: must be set .*SHORTLIST_ALLOW_ANONYMOUS"):
        load_settings()
    monkeypatch.setenv("SHORTLIST_ALLOW_ANONYMOUS", "true")
    assert load_settings().host == host
    monkeypatch.setenv("SHORTLIST_API_KEYS", f"web:{digest_of(b'')}")
    with pytest.raises(WrongSettings, match="SHORTLIST_ALLOW_ANONYMOUS: must be false"):
        load_settings()
    monkeypatch.delenv("SHORTLIST_ALLOW_ANONYMOUS")
    assert load_settings().host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_loopback_keys_may_be_left_out(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("SHORTLIST_HOST", host)
    assert load_settings().api_keys == ()


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that is logged at the most talkative level, ours and the libraries'."""
    was, handlers, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    text = io.StringIO()
    with redirect_stdout(text):
        configure_logs("debug")
        structlog.configure(cache_logger_on_first_use=False)
        yield text
    structlog.configure(**was)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


async def test_no_key_and_no_header_reaches_a_log_not_even_of_a_refusal_or_a_bug(
    tmp_path: Path, log: io.StringIO
) -> None:
    class Buggy:
        async def recommend(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("a bug")

        async def check(self, *_: Any, **__: Any) -> str:
            return ""

    async with client_of(make_app(tmp_path, Buggy(), api_keys=KEYS)) as client:
        statuses = []
        for key in (WEB, "shortlist_wrong-key"):
            response = await client.post("/v1/recommendations", json={"user_id": 7}, headers=bearer(key))
            statuses.append(response.status_code)
            assert key not in response.text
    assert statuses == [500, 401]
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line["caller"] for line in lines if line["event"] == "request" and line["status"] == 500] == [
        "web"
    ]
    assert any("a bug" in line.get("exception", "") for line in lines)
    logged = log.getvalue().lower()
    for secret in ("shortlist_", "bearer", "authorization", *(one.digest for one in KEYS)):
        assert secret not in logged, secret
