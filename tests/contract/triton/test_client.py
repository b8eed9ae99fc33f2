"""The promise of the Redis client: a wait ends, and no reply is taken for another's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from contract.environment import RedisUrl
from ensemble.stores.client import connect
from tests.builders.silent_redis import SilentRedis, silent_redis


@pytest.fixture
def silent() -> Iterator[SilentRedis]:
    """Gives a server that accepts and never replies."""
    with silent_redis() as server:
        yield server


def read(redis: Redis, commands: int = 1) -> list[object]:
    pipe = redis.pipeline(transaction=False)
    for number in range(commands):
        pipe.get(f"key {number}")
    return list(pipe.execute())


def test_a_server_that_never_replies_is_waited_for_as_long_as_the_setting_says(silent: SilentRedis) -> None:
    client, started = connect(silent.url, 50), time.monotonic()
    with pytest.raises(RedisTimeoutError):
        read(client)
    assert 0.05 <= time.monotonic() - started < 10
    assert client.seconds >= 0.05, "what was waited for is counted"
    assert len(silent.received) == 1, "it is asked once"


def test_it_is_used_again_as_soon_as_it_answers(silent: SilentRedis) -> None:
    client = connect(silent.url, 50)
    with pytest.raises(RedisTimeoutError):
        read(client)
    silent.reply = b"+OK\r\n"
    assert read(client) == [b"OK"]


def test_a_late_reply_is_never_taken_for_the_reply_to_a_later_command(
    redis: Redis, redis_url: RedisUrl
) -> None:
    redis.set("key 0", "right")
    client = connect(redis_url, 50)
    slow: Any = client.pipeline(transaction=False)
    slow.execute_command("BLPOP", "nothing here", 0.3)  # answers, but late
    with pytest.raises(RedisTimeoutError):
        slow.execute()
    time.sleep(0.4)
    assert [read(client) for _ in range(3)] == [[b"right"]] * 3


def test_a_connection_that_redis_closed_is_made_anew_and_told_of(redis: Redis, redis_url: RedisUrl) -> None:
    redis.set("key 0", "here")
    connections: list[int] = []
    client = connect(redis_url, 5_000, on_connect=lambda: connections.append(1))
    assert [read(client), read(client)] == [[b"here"]] * 2
    assert len(connections) == 1
    redis.client_kill_filter(_type="normal", skipme=True)
    assert read(client) == [b"here"]
    assert len(connections) == 2


def test_a_connection_that_breaks_fails_its_request_alone(silent: SilentRedis) -> None:
    silent.hang_ups, silent.reply = 1, b"+OK\r\n"
    client = connect(silent.url, 5_000)
    with pytest.raises(RedisConnectionError):
        read(client)
    assert read(client) == [b"OK"]
