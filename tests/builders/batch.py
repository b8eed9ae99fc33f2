"""A small world for the batch job: a bundle of random models, users who have seen little and much, and a
Redis that holds what online requests read."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from redis import Redis

from batch.compute.job import BatchJob
from batch.settings import BatchSettings
from contract.dataset import DATASET_FILE
from contract.environment import RedisUrl
from contract.keys import encode_seen, seen_key, slate_prefix
from contract.names import USER_ID
from contract.slates import StoredSlate
from ensemble.publish.index import build_index
from ensemble.settings import EnsembleSettings
from tests.builders.feast_store import feast_repository, write_world
from tests.builders.triton import World, make_world

UNKNOWN_USERS = (7, 8, 9)
"""They have an interaction, and nothing else is known of them; so has user 100, the first of the world."""
FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
"""Each user of the world has one interaction, the i-th at this day plus i minutes."""


@dataclass(frozen=True)
class BatchWorld:
    """The run-time folder, the Redis that has its features, seen items and index, and what both hold."""

    var: Path
    url: RedisUrl
    redis: Redis
    world: World

    @property
    def user_ids(self) -> list[int]:
        """The users that a run for everyone computes, ascending."""
        return [*UNKNOWN_USERS, *self.world.user_ids]

    @property
    def chain(self) -> EnsembleSettings:
        """The chain's settings: small, and read from nowhere."""
        return EnsembleSettings(
            var_dir=self.var,
            redis_url=self.url,
            redis_timeout_ms=5000,
            k=40,
            max_overfetch=60,
            max_seen=190,
        )

    def batch(self, **changed: Any) -> BatchSettings:
        """The batch's settings: shards so small that there are several."""
        return BatchSettings(**{"n": 20, "shard_users": 64, "workers": 1, **changed})

    def job(self, progress: Any = lambda *_: None, **changed: Any) -> tuple[BatchJob, list[str]]:
        """Makes a job, and a list that gets what it says."""
        said: list[str] = []
        return BatchJob(self.chain, self.batch(**changed), said.append, progress), said

    def environment(self, **changed: Any) -> dict[str, str]:
        """The variables for a process that runs the same job."""
        chain = {
            name: str(getattr(self.chain, name))
            for name in ("var_dir", "redis_timeout_ms", "k", "max_overfetch", "max_seen")
        }
        chain["redis_url"] = self.url.get_secret_value()
        batch = self.batch(**changed).model_dump(mode="json", exclude_unset=True)
        given = chain | {f"batch_{name}": str(value) for name, value in batch.items()}
        return {f"SHORTLIST_{name.upper()}": value for name, value in given.items()}

    def list_users(self, name: str, values: Any) -> str:
        """Writes a list of users, gives its path."""
        path = self.var / name
        pq.write_table(pa.table({USER_ID: values}), path)
        return str(path)

    def slates(self, run: str) -> dict[int, StoredSlate]:
        """Reads every stored slate of a run."""
        redis: Any = self.redis
        keys = list(redis.scan_iter(f"{slate_prefix(run)}*", count=1000))
        values = redis.mget(keys) if keys else []
        return {
            int(key.rpartition(b":")[2]): StoredSlate.decode(v) for key, v in zip(keys, values, strict=True)
        }

    def forget(self) -> None:
        """Takes away every run, and what users changed."""
        redis: Any = self.redis
        redis.config_set("maxmemory", 0)
        for pattern in ("slate:*", "batch*", "changed_users:*", "removed_users:*"):
            if keys := list(redis.scan_iter(pattern, count=1000)):
                redis.unlink(*keys)
        shutil.rmtree(self.var / "batch", ignore_errors=True)
        self.promote(self.world.folder)

    def promote(self, folder: Path) -> None:
        """Makes a bundle the current one."""
        link = self.var / "bundles" / "current"
        link.unlink(missing_ok=True)
        link.symlink_to(folder)


def make_batch_world(var: Path, url: RedisUrl, redis: Redis, *, users: int, items: int = 200) -> BatchWorld:
    """Builds all of it. Every seventh user has seen two thirds of the items, every eleventh all but ten."""
    world = make_world(var / "bundles" / "tiny-1", users=users, items=items)
    rng = np.random.default_rng(1)
    for place, user_id in enumerate(world.user_ids[1:]):
        for share, every in ((2 * items // 3, 7), (items - 10, 11)):
            if place % every == 0:
                world.seen[user_id] = tuple(rng.permutation(world.item_ids)[:share].tolist())
    with pytest.MonkeyPatch.context() as monkeypatch:
        for feast in feast_repository(var, world.dataset, url, monkeypatch):
            write_world(feast, world.dataset, world)
    pipe: Any = redis.pipeline(transaction=False)
    for user_id, item_ids in world.seen.items():
        pipe.set(seen_key(world.dataset.name, user_id), encode_seen(item_ids))
    pipe.execute()
    build_index(redis, world.folder, keep=2)
    write_tables(var / "data" / world.dataset.name, world)
    made = BatchWorld(var, url, redis, world)
    made.promote(world.folder)
    return made


def write_tables(folder: Path, world: World) -> None:
    """Writes the prepared tables, as far as a run reads them: one user of the world has no interaction."""
    (folder / DATASET_FILE).write_text(yaml.safe_dump(world.dataset.model_dump(mode="json")))
    pq.write_table(pa.table({USER_ID: pa.array(world.user_ids)}), folder / "users.parquet")
    user_ids = [*world.user_ids[:-1], *UNKNOWN_USERS]
    times = [FIRST_DAY + timedelta(minutes=place) for place in range(len(user_ids))]
    stamps = pa.array(times, pa.timestamp("us", tz="UTC"))
    table = pa.table({USER_ID: pa.array(user_ids), "timestamp": stamps})
    pq.write_table(table, folder / "interactions.parquet")
