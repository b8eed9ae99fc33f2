"""What is compared: an index in Redis, on one node or several, and one in the process."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from redis import Redis
from redis.exceptions import RedisError

from bench.nodes.vectors import SPEC, WIDTH, K, Vectors
from contract.bundle import Manifest
from contract.environment import RedisUrl
from contract.placement import IndexPlacement
from ensemble.publish.parts import create_parts, wait_for_parts
from ensemble.publish.places import Places
from ensemble.stores.client import connect
from ensemble.stores.graph import GraphVectorIndex, build_graph, open_graph
from ensemble.stores.index_watch import IndexWatch
from ensemble.stores.nodes import IndexNodes, NodeClients
from ensemble.stores.spread import SpreadVectorIndex
from ensemble.stores.vectors import VECTOR_FIELD, RedisVectorIndex, VectorIndex
from tests.builders.ports import free_port
from tests.builders.search_redis import redis_command

BUNDLE, CHUNK = "bench", 1000
PATIENCE_S, TIMEOUT_MS = 3600.0, 120_000


@dataclass(frozen=True)
class Opening:
    """How a process comes to the index."""

    kind: str
    where: str

    def index(self, vectors: Vectors, ef: int) -> VectorIndex:
        """Opens it, to be searched with an EF."""
        catalogue = vectors.catalogue
        if self.kind == "usearch":
            return GraphVectorIndex(open_graph(Path(self.where)), ef - K, catalogue, _nothing)
        url = RedisUrl(self.where)
        redis, items = connect(url, TIMEOUT_MS), len(vectors.items)
        watch = IndexWatch(redis, BUNDLE, items)
        nodes = IndexNodes(redis, url, BUNDLE, catalogue.bundle_ids, watch, TIMEOUT_MS, has_columns=False)
        part = RedisVectorIndex(redis, BUNDLE, {}, beyond=ef - K, catalogue=catalogue)
        return SpreadVectorIndex(part, nodes)


def _nothing() -> Any:
    raise AssertionError("nobody filters")


class Servers:
    """Some Redis servers of this run, persistent in a folder."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folders = [folder / f"node-{number}" for number in range(count)]
        self.urls = [RedisUrl(f"redis://127.0.0.1:{free_port()}") for _ in self.folders]
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where they are."""
        return tuple(url.address for url in self.urls)

    def start(self) -> None:
        """Starts them, and waits until all have read what they keep."""
        for folder, url in zip(self.folders, self.urls, strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            command = redis_command(folder, url.port, is_kept=True)
            command += ["--auto-aof-rewrite-percentage", "0"]
            self._processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        for url in self.urls:
            client = Redis(**url.connection_kwargs())
            while True:
                with suppress(RedisError):
                    client.ping()
                    break
                time.sleep(0.05)

    def stop(self) -> None:
        """Ends them."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait()
        self._processes.clear()

    def cpu_s(self) -> list[float]:
        """CPU seconds that each has used since it was started."""
        times = [psutil.Process(one.pid).cpu_times() for one in self._processes]
        return [one.user + one.system for one in times]

    def memory_mib(self) -> float:
        """What they hold, resident."""
        return float(sum(psutil.Process(one.pid).memory_info().rss for one in self._processes) / 2**20)


@contextmanager
def redis_nodes(folder: Path, count: int, vectors: Vectors) -> Iterator[dict[str, Any]]:
    """Builds the index on nodes, gives what was measured, and afterwards how long a restart took."""
    servers, manifest = Servers(folder, count), _manifest(len(vectors.items))
    figures: dict[str, Any] = {}
    try:
        servers.start()
        home = connect(servers.urls[0], TIMEOUT_MS)
        clients = NodeClients(home, servers.urls[0], TIMEOUT_MS)
        placement = IndexPlacement(servers.addresses)
        places = Places(clients, manifest, np.arange(len(vectors.items)), placement)
        started = time.monotonic()
        for start in range(0, len(vectors.items), CHUNK):
            pipe = home.pipeline(transaction=False)
            blobs = enumerate(vectors.items[start : start + CHUNK], start)
            places.write(pipe, {at: {VECTOR_FIELD: vector.tobytes()} for at, vector in blobs})
            pipe.execute()
        places.put(placement)
        create_parts(places, placement.nodes)
        wait_for_parts(places, placement.nodes, PATIENCE_S)
        figures |= {"build_s": time.monotonic() - started, "build_cpu_s": max(servers.cpu_s())}
        figures["memory_mib"] = servers.memory_mib()
        opening = Opening("redis", servers.urls[0].get_secret_value())
        figures["opens"], figures["cpu_s"] = opening, lambda: sum(servers.cpu_s())
        yield figures
        servers.stop()
        started = time.monotonic()
        servers.start()
        wait_for_parts(places, placement.nodes, PATIENCE_S)
        figures |= {"restart_s": time.monotonic() - started, "restart_cpu_s": max(servers.cpu_s())}
    finally:
        servers.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def usearch(folder: Path, vectors: Vectors) -> Iterator[dict[str, Any]]:
    """Builds the graph of the process, gives what was measured, and afterwards how long opening it took."""
    folder.mkdir(parents=True, exist_ok=True)
    path, figures = folder / "graph", dict[str, Any]()
    try:
        started, cpu_s = time.monotonic(), time.process_time()
        build_graph(vectors.items, path, SPEC.m, SPEC.ef_construction)
        figures |= {"build_s": time.monotonic() - started, "build_cpu_s": time.process_time() - cpu_s}
        figures["file_mib"] = path.stat().st_size / 2**20
        opening = figures["opens"] = Opening("usearch", str(path))
        figures["cpu_s"] = lambda: 0.0
        yield figures
        started, cpu_s = time.monotonic(), time.process_time()
        index = opening.index(vectors, K)
        index.search(vectors.users[:1], [K], [{}], K)
        figures |= {"restart_s": time.monotonic() - started, "restart_cpu_s": time.process_time() - cpu_s}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _manifest(items: int) -> Manifest:
    fields: Any = {"bundle": BUNDLE, "vector_width": WIDTH, "items": items, "filters": {}, "index": SPEC}
    return Manifest.model_construct(**fields)
