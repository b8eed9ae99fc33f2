"""Real nodes for an index over several, and the chain on them as the model process holds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from redis import Redis

from contract.bundle import ITEM_VECTORS_FILE, read_manifest
from contract.environment import RedisUrl
from contract.errors import StageError
from contract.keys import item_vector_prefix
from contract.slates import Degradation, degradations
from ensemble.bundle import LoadedBundle
from ensemble.publish.index import build_index
from ensemble.publish.nodes import IndexMove
from ensemble.publish.places import Places
from ensemble.run.recommender import Recommender, redis_stores
from ensemble.stores.nodes import NodeClients
from tests.builders.search_redis import running_redis
from tests.builders.triton import World, make_request, make_settings


class Served:
    """The chain over one Redis, as the model process holds it."""

    def __init__(self, world: World, url: RedisUrl, **settings_of: Any) -> None:
        defaults = {"redis_url": url, "redis_timeout_ms": 5_000, "index_timeout_ms": 5_000, **settings_of}
        settings = make_settings(**defaults)
        bundle = LoadedBundle.open(world.folder)
        self.recommender = Recommender(bundle, redis_stores(bundle, settings), settings)
        self.recommender.stores.items.load()
        assert self.recommender.stores.watch is not None
        self.watch = self.recommender.stores.watch

    def start(self) -> None:
        """Connects, then looks, as the model process does before it is ready."""
        self.answer()
        self.watch.look()

    def answer(self, **request: Any) -> tuple[bool, list[int]] | None:
        """Gives whether one answer is marked, and what was retrieved; None where Redis does not answer."""
        (answer,) = self.recommender.answer([make_request(101, **request)])
        if isinstance(answer, StageError):
            return None
        flags = degradations(int(answer["degraded"][0, 0]))
        return Degradation.PARTIAL_INDEX in flags, answer["retrieved_ids"][0].tolist()

    def is_marked(self) -> bool | None:
        """Tells whether one answer is marked; None where there is none."""
        answer = self.answer()
        return None if answer is None else answer[0]

    def looked_and_marked(self) -> bool | None:
        """Looks, as the model process does every second, then tells whether one answer is marked."""
        self.watch.look()
        return self.is_marked()


class Cluster:
    """Redis, which holds everything else, and nodes beside it."""

    def __init__(self, redis: Redis, url: RedisUrl, nodes: list[RedisUrl]) -> None:
        self.redis, self.url = redis, url
        self.clients = NodeClients(redis, url, 5_000)
        self.nodes = tuple(node.address for node in nodes)
        for node in self.nodes:
            self.clients.of(node).flushall()

    @property
    def home(self) -> str:
        """The address of the first."""
        return self.url.address

    def build(self, world: World, nodes: tuple[str, ...], keep: int = 2) -> bool:
        """Builds a bundle's index on some of the nodes."""
        return build_index(self.redis, world.folder, keep, clients=self.clients, nodes=nodes)

    def move(self, world: World, grace_s: float = 0.0) -> IndexMove:
        """Gives what moves a bundle's index."""
        places = Places.found(self.clients, world.folder, read_manifest(world.folder))
        return IndexMove(places, np.load(world.folder / ITEM_VECTORS_FILE), grace_s)

    def held(self, node: str, bundle: str = "tiny-1") -> set[int]:
        """The items whose vectors a node has."""
        prefix, redis = item_vector_prefix(bundle), self.clients.of(node)
        keys = [key.decode() for key in redis.scan_iter(match=f"{prefix}*")]
        return {int(key[len(prefix) :]) for key in keys if redis.hexists(key, "vector")}


@contextmanager
def running_nodes(folder: Path, count: int) -> Iterator[list[RedisUrl]]:
    """Starts nodes with the search module."""
    with ExitStack() as stack:
        urls = []
        for number in range(count):
            own = folder / f"node-{number}"
            own.mkdir()
            urls.append(stack.enter_context(running_redis(own)))
        yield urls
