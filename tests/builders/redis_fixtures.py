"""Fixtures of the contract tests that need a real Redis: one for the run, empty for every test."""

from __future__ import annotations

from collections.abc import Iterator

import google.protobuf  # noqa: F401  before Merlin, which forces the slow Python implementation on later ones
import pytest
from redis import Redis

from contract.environment import RedisUrl
from ensemble.stores.client import connect
from tests.builders.search_redis import running_redis


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisUrl]:
    """Gives the URL of a Redis with the search module."""
    with running_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def redis(redis_url: RedisUrl) -> Iterator[Redis]:
    """Gives a client of an empty Redis without a limit of its memory."""
    client = connect(redis_url, 5000)
    client.config_set("maxmemory", 0)
    client.flushall()
    yield client
    client.config_set("maxmemory", 0)
    client.close()
