"""What `make status` says of a Redis that answers, and is short of memory."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from redis import Redis
from redis.exceptions import OutOfMemoryError

from deploy.local.programs import redis_warning
from tests.builders.redis_server import redis_server


def test_a_redis_at_its_limit_or_that_evicts_is_told_and_one_in_order_is_not(tmp_path: Path) -> None:
    with redis_server(tmp_path) as url, Redis(**url.connection_kwargs()) as redis:
        redis.mset({f"key:{i}": b"x" * 1024 for i in range(2000)})
        assert redis_warning(url) == ""
        used = redis.info("memory")["used_memory"]
        redis.config_set("maxmemory", used - 2**20)
        assert redis_warning(url).startswith("at its memory limit of ")
        assert "raise SHORTLIST_REDIS_MAXMEMORY_MB, then run `make materialize export`" in redis_warning(url)
        redis.config_set("maxmemory-policy", "allkeys-lru")
        with suppress(OutOfMemoryError):
            redis.set("one more", b"x")
        redis.config_set("maxmemory", 0)
        assert "keys (allkeys-lru): set maxmemory-policy noeviction, then run" in redis_warning(url)
        redis.config_set("maxmemory-policy", "noeviction")
        assert redis_warning(url) == ""
