"""The promise of the Redis client: no round trip outlasts its time, and no reply is taken for another's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from contract.environment import RedisUrl
from ensemble.stores.client import Patience, TimedRedis, connect, ending_by
from tests.builders.silent_redis import SilentRedis, silent_redis

LONG_S = 30.0
"""A setting so long that whatever ends sooner was ended by something else."""


@pytest.fixture
def silent() -> Iterator[SilentRedis]:
    """Gives a server that accepts and never replies."""
    with silent_redis() as server:
        yield server


def patient(server: SilentRedis, most_s: float = 0.05, **circuit: float) -> TimedRedis:
    """Gives a client of the silent server; its circuit never opens unless a test says so."""
    options = {"failures": 10**6, **circuit}
    return connect(server.url, LONG_S * 1000, Patience(most_s, **options))  # type: ignore[arg-type]


def read(redis: Redis, commands: int = 1) -> list[object]:
    pipe = redis.pipeline(transaction=False)
    for number in range(commands):
        pipe.get(f"key {number}")
    return list(pipe.execute())


def test_a_server_that_never_replies_is_waited_for_as_long_as_the_setting_says(silent: SilentRedis) -> None:
    with pytest.raises(RedisTimeoutError):
        read(patient(silent))


def test_a_server_that_never_replies_is_waited_for_no_longer_than_what_is_left(silent: SilentRedis) -> None:
    started = time.monotonic()
    with pytest.raises(RedisTimeoutError), ending_by(started + 0.05):
        read(patient(silent, most_s=LONG_S))
    assert time.monotonic() - started < LONG_S / 3


def test_pieces_of_a_reply_do_not_prolong_the_wait(silent: SilentRedis) -> None:
    silent.trickle_s = 0.01
    started = time.monotonic()
    with pytest.raises(RedisTimeoutError), ending_by(started + 0.1):
        read(patient(silent, most_s=LONG_S))
    assert time.monotonic() - started < LONG_S / 3


def test_with_nothing_left_redis_is_not_asked(silent: SilentRedis) -> None:
    with pytest.raises(RedisTimeoutError), ending_by(time.monotonic() - 1):
        read(patient(silent))
    assert silent.received == []


def test_an_outer_limit_is_not_widened_by_an_inner_one(silent: SilentRedis) -> None:
    started = time.monotonic()
    with pytest.raises(RedisTimeoutError), ending_by(started + 0.05), ending_by(started + LONG_S):
        read(patient(silent, most_s=LONG_S))
    assert time.monotonic() - started < LONG_S / 3


def test_the_limit_ends_with_its_block(redis: Redis) -> None:
    with ending_by(time.monotonic() + 0.001):
        time.sleep(0.002)
    assert read(redis) == [None]


def test_a_late_reply_is_never_taken_for_the_reply_to_a_later_command(redis: Redis) -> None:
    redis.set("key 0", "right")
    slow: Any = redis.pipeline(transaction=False)
    slow.execute_command("BLPOP", "nothing here", 0.3)  # answers, but late
    with pytest.raises(RedisTimeoutError), ending_by(time.monotonic() + 0.05):
        slow.execute()
    time.sleep(0.4)
    assert [read(redis) for _ in range(3)] == [[b"right"]] * 3


def test_a_connection_that_redis_closed_is_made_anew(redis: Redis) -> None:
    redis.set("key 0", "here")
    redis.client_kill_filter(_type="normal", skipme=False)
    assert read(redis) == [b"here"]


def test_a_broken_connection_is_tried_once_more_within_the_same_time(silent: SilentRedis) -> None:
    silent.hang_ups = 1
    silent.reply = b"+OK\r\n"
    assert read(patient(silent)) == [b"OK"]
    silent.hang_ups, silent.reply = 1, None
    started = time.monotonic()
    with pytest.raises(RedisTimeoutError), ending_by(started + 0.1):
        read(patient(silent, most_s=LONG_S))
    assert time.monotonic() - started < LONG_S / 3


def test_after_some_failures_redis_is_not_asked(silent: SilentRedis) -> None:
    client = patient(silent, failures=2, rest_s=LONG_S)
    for _ in range(2):
        with pytest.raises(RedisTimeoutError):
            read(client)
    asked = len(silent.received)
    for _ in range(50):
        with pytest.raises(RedisConnectionError, match="did not answer 2 times in a row"):
            read(client)
    assert len(silent.received) == asked


def test_a_silent_redis_is_probed_with_a_ping_and_used_again_when_it_answers(silent: SilentRedis) -> None:
    client = patient(silent, failures=2, rest_s=0.01, probe_s=0.04)
    for _ in range(2):
        with pytest.raises(RedisTimeoutError):
            read(client)
    time.sleep(0.02)
    silent.received.clear()
    with pytest.raises(RedisTimeoutError):
        read(client)
    assert [b"PING" in data for data in silent.received] == [True], "no request is staked on it"
    time.sleep(0.02)
    silent.reply = b"+OK\r\n"
    assert read(client) == [b"OK"]
    assert client.patience.circuit.closed


def test_a_round_trip_without_time_to_spare_proves_nothing(silent: SilentRedis) -> None:
    client = patient(silent, most_s=LONG_S, failures=1, rest_s=LONG_S, probe_s=0.2)
    for _ in range(3):
        with pytest.raises(RedisTimeoutError), ending_by(time.monotonic() + 0.02):
            read(client)
    assert client.patience.circuit.closed


def test_an_error_that_redis_answers_is_an_answer(redis_url: RedisUrl) -> None:
    client: Any = connect(redis_url, 5000, Patience(5, failures=1))
    for _ in range(3):
        with pytest.raises(ResponseError):
            client.execute_command("NO SUCH COMMAND")
    assert client.patience.circuit.closed
