"""A run-time folder with a bundle that is served from a real Redis, and a data set that changes meanwhile."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from redis import Redis

from contract.bundle import sha256
from contract.dataset import DATASET_FILE
from contract.environment import RedisUrl
from contract.errors import StageError
from contract.slates import degradations
from ensemble.bundle import LoadedBundle
from ensemble.publish.index import main as index
from ensemble.run.recommender import Recommender, redis_stores
from tests.builders.computed import load_world
from tests.builders.triton import World, make_request, make_settings, make_world, slate


@dataclass
class Site:
    """One run-time folder: a bundle that is served, and a data set that changes."""

    var: Path
    url: RedisUrl
    redis: Redis
    old: World

    @classmethod
    def make(cls, var: Path, url: RedisUrl, redis: Redis) -> Site:
        """Makes a bundle, `old`, brings its features to Redis and builds its index."""
        (var / "bundles").mkdir()
        made = cls(var, url, redis, make_world(var / "bundles" / "old", bundle="old"))
        made.promote("old")
        made.materialize(made.old)
        assert made.export() == 0
        return made

    def materialize(self, world: World) -> None:
        """Brings a world's features to Redis."""
        load_world(self.var, world.dataset, world, self.url)

    def promote(self, bundle: str) -> None:
        """Makes a bundle current."""
        (self.var / "bundles" / "current").unlink(missing_ok=True)
        (self.var / "bundles" / "current").symlink_to(bundle)

    def export(self, *given: str) -> int:
        """Indexes the current bundle; the command's exit status."""
        return index(["--bundle", str(self.var / "bundles" / "current"), *given])

    def trained(self, world: World, name: str) -> World:
        """Makes a bundle of the same models that was trained on a world of other columns."""
        folder = self.var / "bundles" / name
        shutil.copytree(self.old.folder, folder)
        (folder / DATASET_FILE).write_text(
            yaml.safe_dump(world.dataset.model_dump(mode="json"), sort_keys=False)
        )
        manifest = json.loads((folder / "manifest.json").read_text()) | {"bundle": name}
        manifest["checksums"][DATASET_FILE] = sha256(folder / DATASET_FILE)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return replace(world, folder=folder)

    @contextmanager
    def serving(self, world: World) -> Iterator[Recommender]:
        """The chain of a bundle, on Redis."""
        settings = make_settings(redis_url=self.url, redis_timeout_ms=2000, refresh_s=0.05)
        bundle = LoadedBundle.open(world.folder)
        recommender = Recommender(bundle, redis_stores(bundle, settings), settings)
        recommender.stores.items.start()
        try:
            yield recommender
        finally:
            recommender.stores.items.stop()


def answer(recommender: Recommender, user: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """What a user's answer lacks, and its items."""
    (reply,) = recommender.answer([make_request(user)])
    assert not isinstance(reply, StageError), reply
    return tuple(map(str, degradations(int(reply["degraded"][0, 0])))), tuple(slate(reply))
