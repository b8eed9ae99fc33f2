"""The chain and the export with a Redis that asks for user and password, and over TLS."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from contract.environment import RedisUrl
from ensemble.bundle import LoadedBundle
from ensemble.publish import index
from ensemble.run.recommender import Recommender, redis_stores
from ensemble.stores.client import connect
from tests.builders.guarded_redis import PASSWORD, as_user, behind_tls, entered
from tests.builders.triton import make_settings, make_world


@pytest.fixture(params=["user", "tls"])
def entry(
    request: pytest.FixtureRequest, redis: Redis, redis_url: RedisUrl, tmp_path: Path
) -> Iterator[RedisUrl]:
    """The Redis of the other tests, as a user who may do what is documented and no more."""
    assert redis.ping()
    with entered(redis_url, tmp_path, request.param) as url:
        yield url


def test_the_bundle_is_indexed_and_served(
    entry: RedisUrl,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    world = make_world(tmp_path / "bundle")
    monkeypatch.setenv("SHORTLIST_REDIS_URL", entry.get_secret_value())
    monkeypatch.setenv("SHORTLIST_REDIS_TIMEOUT_MS", "5000")
    for again in (False, True):
        assert index.main(["--bundle", str(world.folder)]) == 0, capfd.readouterr().err
        assert ("indexed already" in capfd.readouterr().out) is again
    bundle = LoadedBundle.open(world.folder)
    settings = make_settings(redis_url=entry, redis_timeout_ms=5_000)
    recommender = Recommender(bundle, redis_stores(bundle, settings), settings)
    recommender.stores.items.load()
    assert recommender.warm_up()


def test_a_wrong_password_is_told_in_one_line_without_it(
    redis_url: RedisUrl,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    as_user(redis_url, "another")
    wrong = RedisUrl(f"redis://shortlist:wr0ng@{redis_url.address}")
    monkeypatch.setenv("SHORTLIST_REDIS_URL", wrong.get_secret_value())
    assert index.main(["--bundle", str(make_world(tmp_path / "bundle").folder)]) == 1
    said = capfd.readouterr().err
    expected = (
        f"Redis at {wrong.address}: authentication failed: look at user and password in SHORTLIST_REDIS_URL\n"
    )
    assert said == expected
    with pytest.raises(
        AuthenticationError, match="look at user and password in SHORTLIST_REDIS_URL"
    ) as error:
        connect(wrong, 1000).get("seen:1")
    assert "wr0ng" not in repr(error.value)


def test_a_server_of_an_unknown_authority_is_refused(redis_url: RedisUrl, tmp_path: Path) -> None:
    with behind_tls(redis_url, tmp_path) as secure:
        with pytest.raises(RedisError, match="CERTIFICATE_VERIFY_FAILED"):
            connect(RedisUrl(f"rediss://{secure.address}"), 2000).ping()
        other = RedisUrl(secure.get_secret_value().replace("127.0.0.1", "localhost"))
        with pytest.raises(RedisError, match=r"not valid for 'localhost'|[Hh]ostname mismatch"):
            connect(other, 2000).ping()


def test_a_silent_server_behind_tls_is_given_up_in_time(redis_url: RedisUrl, tmp_path: Path) -> None:
    with behind_tls(redis_url, tmp_path) as secure:
        client: Any = connect(secure, 200)
        assert client.ping()
        redis: Any = connect(redis_url, 5000)
        redis.client_pause(1500, all=True)
        started = time.monotonic()
        with pytest.raises(RedisTimeoutError):
            client.get("seen:1")
        assert time.monotonic() - started < 1.0
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = RedisUrl(f"rediss://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(RedisTimeoutError):
            connect(url, 200).get("seen:1")
        assert time.monotonic() - started < 2.0, "nor for a handshake"


def test_the_password_is_in_no_text_of_a_client(redis_url: RedisUrl) -> None:
    client = connect(as_user(redis_url), 1000)
    texts = [
        repr(client),
        repr(client.connection_pool),
        str(client),
        repr(make_settings(redis_url=as_user(redis_url))),
    ]
    assert not any(part in text for text in texts for part in (PASSWORD, "s3cr3t"))
