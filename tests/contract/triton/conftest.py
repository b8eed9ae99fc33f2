"""One real Redis for the contract tests of the triton role; every test starts with it empty."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis import Redis

from contract.environment import RedisUrl
from tests.builders.redis_fixtures import redis, redis_url  # noqa: F401
from tests.builders.site import Site


@pytest.fixture
def site(
    redis: Redis,  # noqa: F811
    redis_url: RedisUrl,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Site:
    """A bundle, `old`, whose features are in Redis and whose index is built."""
    monkeypatch.setenv("SHORTLIST_REDIS_URL", redis_url.get_secret_value())
    monkeypatch.setenv("SHORTLIST_K", "10")
    return Site.make(tmp_path, redis_url, redis)
