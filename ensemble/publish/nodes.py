"""`python -m ensemble.publish.nodes`: moves the indexes of a data set's bundles to the nodes that
SHORTLIST_INDEX_NODES names, while they serve.

Items are written to their new places first, then the chains are told, and what is left behind goes last: at
each instant the nodes that are asked hold every item. Rendezvous hashing moves what has to move alone.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from redis.exceptions import RedisError, ResponseError

from contract import bundle as bundle_files
from contract.arrays import Floats, Ids
from contract.bundle import BundleError, Manifest, read_manifest
from contract.bundles import bundles_folder
from contract.environment import explain_redis
from contract.filters import has_range
from contract.keys import bundles_key, index_name, item_vector_prefix, live_version_key, number_field
from ensemble.publish.live_items import live_rows
from ensemble.publish.parts import IndexBuildError, create_parts, drop_part, wait_for_parts
from ensemble.publish.places import NodeFault, Places, check_nodes, named
from ensemble.settings import load_settings
from ensemble.stores.client import connect
from ensemble.stores.graph import GraphFacts, graphs_folder
from ensemble.stores.nodes import STALE_S, NodeClients
from ensemble.stores.vectors import VECTOR_FIELD

CHUNK = 100
"""Items moved at a time: a node that takes them answers searches in between."""
GRACE_S = 1.5 * STALE_S
"""Seconds until what was left behind is deleted: by then each chain asks the new nodes, or says of its
answers that they lack items."""
TIMEOUT_MS = 60_000


class IndexMove:
    """Moves one bundle's index."""

    def __init__(self, places: Places, vectors: Floats, grace_s: float) -> None:
        """Takes where it lies, the vectors of its items (I,D), in their order, and how long what was left
        behind stays."""
        self._places, self._vectors, self._grace_s = places, vectors, grace_s
        self._prefix = item_vector_prefix(places.manifest.bundle)

    def run(self, nodes: tuple[str, ...]) -> int:
        """Moves it, and ends first what was begun and not ended; gives the number of items that moved.

        Raises:
            NodeFault: a node does not answer; what served goes on, and the next run goes on from there.
            IndexBuildError: a node does not index what it was given.
        """
        places, moved = self._places, 0
        if places.placement.coming and set(places.placement.coming) != set(nodes):
            # Another move was begun, and is not wanted any more.
            places.put(replace(places.placement, coming=(), leaving=places.placement.all))
            self._tidy()
        if set(places.placement.nodes) != set(nodes):
            places.put(replace(places.placement, coming=nodes))
            create_parts(places, nodes)
            moved = self._copy(nodes)
            wait_for_parts(places, nodes)
            places.put(replace(places.placement, nodes=nodes, coming=(), leaving=places.placement.all))
        if places.placement.leaving:
            time.sleep(self._grace_s)
            self._tidy()
        return moved

    def _copy(self, nodes: tuple[str, ...]) -> int:
        """Writes to each node what it is to have and has not; gives the number of items."""
        places = self._places
        before = replace(places.placement, coming=())
        ids, copied = self._all_ids(), 0
        for node in nodes:
            missing = ids[replace(before, nodes=nodes).holds(node, ids) & ~before.holds(node, ids)]
            for start in range(0, len(missing), CHUNK):
                self._copy_some(node, missing[start : start + CHUNK])
            copied += len(missing)
        return copied

    def _copy_some(self, node: str, ids: Ids) -> None:
        """Copies until nothing changed meanwhile. Who changes an item writes it to its nodes before it tells,
        and does so again where the record of the places was written in between: so each is seen by one of
        both."""
        places = self._places
        version = live_version_key(places.manifest.dataset)
        while True:
            before: Any = places.home.get(version)
            hashes = self._hashes(ids)
            with named(node):
                pipe: Any = places.clients.of(node).pipeline(transaction=False)
                for item_id, fields in hashes:
                    for command in self._commands(node, item_id, fields):
                        pipe.execute_command(*command)
                pipe.execute()
            places.put(replace(places.placement, moved=places.placement.moved + 1))
            if places.home.get(version) == before:
                return

    def _hashes(self, ids: Ids) -> Iterator[tuple[int, dict[bytes, bytes]]]:
        """Reads what items hold now, with their vectors: home has that of each that changed, and of its own;
        nothing of those that are gone."""
        pipe: Any = self._places.home.pipeline(transaction=False)
        for item_id in ids.tolist():
            pipe.hgetall(f"{self._prefix}{item_id}")
        own = self._places.item_ids
        at = np.searchsorted(own, ids)
        is_own = own.take(at, mode="clip") == ids
        for row, (item_id, fields) in enumerate(zip(ids.tolist(), pipe.execute(), strict=True)):
            if is_own[row] and VECTOR_FIELD.encode() not in fields:
                fields[VECTOR_FIELD.encode()] = np.asarray(self._vectors[at[row]], dtype="<f4").tobytes()
            yield item_id, fields

    def _commands(self, node: str, item_id: int, fields: dict[bytes, bytes]) -> Iterator[tuple[Any, ...]]:
        key, filters = f"{self._prefix}{item_id}", self._places.manifest.filters
        if VECTOR_FIELD.encode() not in fields:
            yield ("UNLINK", key)
            return
        if node == self._places.clients.home:  # which has the rest
            yield ("HSET", key, VECTOR_FIELD, fields[VECTOR_FIELD.encode()])
            return
        ranges = [number_field(column) for column, dtype in filters.items() if has_range(dtype)]
        gone = [name for name in ranges if name.encode() not in fields]
        if gone:
            yield ("HDEL", key, *gone)
        yield ("HSET", key, *(part for pair in fields.items() for part in pair))

    def _all_ids(self) -> Ids:
        """The items of the bundle's files, and those that were put, or taken out, while it served."""
        return np.union1d(self._places.item_ids, self._live_ids())

    def _live_ids(self) -> Ids:
        return np.array([*live_rows(self._places.home, self._places.manifest.dataset)], dtype=np.int64)

    def _tidy(self) -> None:
        """Deletes from every node what lies elsewhere."""
        places, bundle = self._places, self._places.manifest.bundle
        placement = replace(places.placement, leaving=())
        ids = self._all_ids()
        for node in places.placement.all:
            redis: Any = places.clients.of(node)
            if node == places.clients.home:
                if node not in placement.nodes:
                    with contextlib.suppress(ResponseError):  # there was none
                        redis.execute_command("FT.DROPINDEX", index_name(bundle))
                own = places.item_ids[~placement.holds(node, places.item_ids)]
                own = np.setdiff1d(own, self._live_ids())  # of these it says where they stand now
                self._each(redis, own, lambda pipe, key: pipe.hdel(key, VECTOR_FIELD))
                continue
            try:
                with named(node):
                    if node not in placement.nodes:
                        drop_part(redis, bundle)
                    else:
                        self._each(
                            redis, ids[~placement.holds(node, ids)], lambda pipe, key: pipe.unlink(key)
                        )
            except NodeFault:
                if node in placement.nodes:
                    raise
                # A node that left for good is not waited for.
        places.put(placement)

    def _each(self, redis: Any, ids: Ids, do: Callable[[Any, str], None]) -> None:
        for start in range(0, len(ids), CHUNK):
            pipe = redis.pipeline(transaction=False)
            for item_id in ids[start : start + CHUNK].tolist():
                do(pipe, f"{self._prefix}{item_id}")
            pipe.execute()


def check_graph(var: Path, manifest: Manifest) -> None:
    """Looks whether the model process can do without the index in Redis.

    Raises:
        NodeFault: it cannot: a large catalogue has no graph.
    """
    made, checksum = graphs_folder(var) / manifest.bundle, manifest.checksums[bundle_files.ITEM_VECTORS_FILE]
    if manifest.index.kind == "HNSW" and GraphFacts.found(made, checksum) is None:
        raise NodeFault(f"{manifest.bundle}: has no graph in a file; run `make export` for it first")


def main(arguments: list[str] | None = None) -> int:
    """Moves every indexed bundle of the current one's data set; 0, or 1 with one line that says what is
    wrong."""
    settings = load_settings()
    argparse.ArgumentParser(prog="python -m ensemble.publish.nodes", description=__doc__).parse_args(
        arguments
    )
    try:
        dataset = read_manifest(settings.bundle, verify=False).dataset
        redis = connect(settings.redis_url, TIMEOUT_MS)
        clients = NodeClients(redis, settings.redis_url, TIMEOUT_MS)
        check_nodes(clients, settings.nodes)
        known: Any = redis.zrange(bundles_key(dataset), 0, -1)
        for name in known:
            folder = bundles_folder(settings.var_dir) / name.decode()
            manifest = read_manifest(folder, verify=False)
            if not settings.nodes:
                check_graph(settings.var_dir, manifest)
            places = Places.found(clients, folder, manifest)
            vectors = np.load(folder / bundle_files.ITEM_VECTORS_FILE, mmap_mode="r", allow_pickle=False)
            started = time.monotonic()
            moved = IndexMove(places, vectors, GRACE_S).run(settings.nodes)
            outcome = f"{moved} of {len(places.item_ids)} items moved in {time.monotonic() - started:.1f} s"
            where = ", ".join(settings.nodes) or "no node"
            sys.stdout.write(f"{name.decode()}: on {where}; {outcome}\n")
        if not known:
            sys.stdout.write(f"{dataset}: nothing is indexed; run `make export`\n")
    except (BundleError, IndexBuildError, NodeFault) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error}: a bundle's file cannot be read; run `make export`\n")
        return 1
    except RedisError as error:
        sys.stderr.write(f"Redis at {settings.redis_url.address}: {explain_redis(error)}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
