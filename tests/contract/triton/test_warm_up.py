"""Warm before ready, on a real Redis: sample requests of every size ran, or it says that it is not warm."""

from __future__ import annotations

from pathlib import Path

from redis import Redis

from contract.environment import RedisUrl
from ensemble.bundle import LoadedBundle
from ensemble.publish.index import build_index
from ensemble.run.recommender import Recommender, redis_stores
from tests.builders.triton import make_settings, make_world


def test_it_gets_warm_once_redis_has_what_it_needs(redis: Redis, redis_url: RedisUrl, tmp_path: Path) -> None:
    world = make_world(tmp_path / "bundle")
    bundle = LoadedBundle.open(world.folder)
    settings = make_settings(redis_url=redis_url, redis_timeout_ms=5_000, head_items=0)
    recommender = Recommender(bundle, redis_stores(bundle, settings), settings)
    recommender.stores.items.load()
    assert not recommender.warm_up(), "there is no index yet"
    build_index(redis, world.folder, 2)
    redis.config_resetstat()
    assert recommender.warm_up()
    assert recommender.is_warm
    searches = int(redis.info("commandstats")["cmdstat_FT.SEARCH"]["calls"])
    assert searches >= 1 + 2 + 4 + 8 + 16 + 32
    assert recommender.counters.counts["requests", ()] == 0, "sample requests count for nobody"
    models_s, redis_s = recommender.outside_s()
    assert models_s > 0
    assert redis_s > 0
