"""`python -m ensemble.publish.index`: puts a bundle's item vectors and cards into Redis, beside those
that are serving."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from contract import bundle as bundle_files
from contract.bundle import BundleError, Manifest, read_dataset, read_manifest
from contract.dataset import DatasetError
from contract.environment import LOCAL_REDIS, explain_redis
from contract.keys import (
    bundles_key,
    encode_card,
    index_nodes_key,
    index_search_key,
    item_card_key,
    item_card_prefix,
)
from contract.placement import IndexPlacement
from contract.routing import RoutingError
from ensemble.publish.embeddings import drop_embeddings
from ensemble.publish.features import FeaturesMissing, check_features
from ensemble.publish.fields import card_of, item_fields
from ensemble.publish.graph import drop_graphs, prepare_graph
from ensemble.publish.live_items import write_live_items
from ensemble.publish.parts import (
    PATIENCE_S,
    IndexBuildError,
    are_parts_built,
    create_parts,
    drop_part,
    unlink,
    wait_for_parts,
)
from ensemble.publish.places import SETTING, NodeFault, Places, check_nodes, placement_of
from ensemble.publish.recall import RecallError, choose_breadth
from ensemble.settings import EnsembleSettings, IndexEngine, load_settings
from ensemble.stores.client import CountedRedis, connect
from ensemble.stores.index_watch import IndexWatch
from ensemble.stores.nodes import IndexNodes, NodeClients
from ensemble.stores.routing import read_routing

CHUNK = 1000
TIMEOUT_MS = 60_000


def build_index(
    redis: Redis,
    folder: Path,
    keep: int,
    patience_s: float = PATIENCE_S,
    accept: Callable[[Manifest], None] = lambda _: None,
    served: Collection[str] = (),
    clients: NodeClients | None = None,
    nodes: Sequence[str] | None = None,
) -> bool:
    """Writes a bundle's vectors, filter columns and cards, builds its index, and drops all but the newest
    `keep`, none of those that are `served`, which count.

    Items that were put while other bundles served are written as well. The bundle counts as built only once
    every item is indexed, and older ones go only once `accept` did not raise. False where it was built
    before; then only what was put is written, and `accept` called. With `clients`, the vectors are spread
    over `nodes`, and the filter columns and cards are in `redis`; without a node, the vectors are in none.

    Raises:
        IndexBuildError: Redis lacks the search module or did not index every item; what was serving still
        serves.
        NodeFault: a node is away or unfit, or the bundle lies on others.
    """
    manifest = read_manifest(folder)
    clients = clients or NodeClients(redis, LOCAL_REDIS, TIMEOUT_MS)
    nodes = (clients.home,) if nodes is None else tuple(nodes)
    places = Places.found(clients, folder, manifest)
    if nodes != (clients.home,) or not places.is_alone:
        check_nodes(clients, nodes)
    is_built = redis.zscore(bundles_key(manifest.dataset), manifest.bundle) is not None
    if is_built and are_parts_built(places, patience_s):
        _check_moved(places, nodes)
        write_live_items(places, folder)  # whoever built it may have died before
        accept(manifest)
        return False
    _build(places, folder, nodes, patience_s)
    write_live_items(places, folder)
    accept(manifest)
    _drop_older(clients, manifest, keep, served)
    return True


def _build(places: Places, folder: Path, nodes: tuple[str, ...], patience_s: float) -> None:
    """Writes every item and has it indexed, then counts the bundle among those that are built; else nothing
    of it stays."""
    redis, manifest = places.home, places.manifest
    drop_bundle(redis, manifest.bundle, places.clients)
    for node in nodes:  # one that was away may have kept something
        drop_part(places.clients.of(node), manifest.bundle)
    places.put(IndexPlacement(nodes))
    try:
        _write_items(places, folder)
        create_parts(places, nodes)
        wait_for_parts(places, nodes, patience_s)
    except ResponseError as error:
        drop_bundle(redis, manifest.bundle, places.clients)
        hint = "; start Redis with its search module" if "unknown command" in str(error).lower() else ""
        raise IndexBuildError(f"Redis refused the index of {manifest.bundle}: {error}{hint}") from error
    except (IndexBuildError, NodeFault):
        drop_bundle(redis, manifest.bundle, places.clients)
        raise
    built = bundles_key(manifest.dataset)
    newest: Any = redis.zrange(built, -1, -1, withscores=True)
    # A clock that was put back makes no bundle older than those before it.
    redis.zadd(built, {manifest.bundle: max([time.time(), *(at_s + 1 for _, at_s in newest)])})


def _drop_older(clients: NodeClients, manifest: Manifest, keep: int, served: Collection[str]) -> None:
    """Drops all but the newest `keep` bundles of the data set, and none that is `served`, or this one."""
    built = bundles_key(manifest.dataset)
    found: Any = clients.redis.zrange(built, 0, -1)
    known = [name.decode() for name in found]
    spare = [name for name in known if name not in {*served, manifest.bundle}]
    for old in spare[: max(0, min(len(spare), len(known) - keep))]:
        drop_bundle(clients.redis, old, clients)
        clients.redis.zrem(built, old)


def _check_moved(places: Places, nodes: Sequence[str]) -> None:
    """Looks whether a bundle that is built lies where it shall.

    Raises:
        NodeFault: it lies on other nodes, or was not moved to the end.
    """
    placement = places.placement
    if not nodes:  # whatever serves from Redis goes on until it is told otherwise
        return
    if set(placement.nodes) != set(nodes) or placement.coming or placement.leaving:
        is_moving = " and is being moved" if placement.coming or placement.leaving else ""
        lies = ", ".join(placement.nodes) or "no node"
        raise NodeFault(
            f"{places.manifest.bundle}: lies on {lies}{is_moving}, and {SETTING} names "
            f"{', '.join(nodes)}; run `make nodes`, which moves it while it serves"
        )


def drop_bundle(redis: Redis, bundle: str, clients: NodeClients | None = None) -> None:
    """Deletes a bundle's index, on the nodes of these clients as well, how it is searched, its vectors,
    cards and embeddings; nothing where there are none. A node that does not answer keeps what it has."""
    if clients is not None:
        for node in placement_of(clients, bundle).all:
            if node != clients.home:
                with contextlib.suppress(RedisError):
                    drop_part(clients.of(node), bundle)
    redis.delete(index_search_key(bundle), index_nodes_key(bundle))
    drop_embeddings(redis, bundle)
    drop_part(redis, bundle)
    unlink(redis, item_card_prefix(bundle))


def _write_items(places: Places, folder: Path) -> None:
    """Writes each item's hash to its node, its filter columns and card to home."""
    ids, manifest = places.item_ids, places.manifest
    vectors = np.load(folder / bundle_files.ITEM_VECTORS_FILE, mmap_mode="r", allow_pickle=False)
    wanted = ["item_id", *dict.fromkeys((*manifest.filters, *manifest.display))]
    table = pq.read_table(folder / bundle_files.ITEM_TABLE_FILE, columns=wanted).sort_by("item_id")
    lies = np.searchsorted(table["item_id"].to_numpy(), [*ids[::CHUNK], np.iinfo(np.int64).max])
    for chunk, start in enumerate(range(0, len(ids), CHUNK)):
        some = table.slice(lies[chunk], lies[chunk + 1] - lies[chunk]).to_pylist()
        rows = {row["item_id"]: row for row in some}
        pipe = places.home.pipeline(transaction=False)
        blobs = np.ascontiguousarray(vectors[start : start + CHUNK], dtype="<f4")
        fields = {
            item_id: item_fields(rows.get(item_id, {}), vector, manifest.filters)
            for item_id, vector in zip(ids[start : start + CHUNK].tolist(), blobs, strict=True)
        }
        places.write(pipe, fields)
        for item_id in fields:
            card = card_of(rows.get(item_id, {}), manifest)
            pipe.set(item_card_key(manifest.bundle, item_id), encode_card(card))
        pipe.execute()


def _served(redis: Redis, current: Path) -> tuple[str, ...]:
    """Names the bundles that are served, or at hand for a rollback; none where nothing was promoted."""
    return read_routing(redis, current).routing.bundles if current.exists() else ()


def _fit_to_search(folder: Path, redis: CountedRedis, settings: EnsembleSettings, manifest: Manifest) -> None:
    """Makes the graph that is searched in the process, or chooses how broadly Redis looks."""
    if settings.index_engine is IndexEngine.USEARCH:
        prepare_graph(folder, manifest, settings, _say)
        return
    k, target, head = settings.k, settings.recall_target, settings.head_items
    ids = np.load(folder / bundle_files.ITEM_IDS_FILE, allow_pickle=False)
    watch = IndexWatch(redis, manifest.bundle, manifest.items)
    arguments = (manifest.bundle, ids, watch, TIMEOUT_MS, bool(manifest.filters))
    nodes = IndexNodes(redis, settings.redis_url, *arguments)
    choose_breadth(redis, folder, manifest, k, target, _say, head, nodes)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Indexes one bundle; 0, or 1 with one line that says what is wrong."""
    settings = load_settings()
    parser = argparse.ArgumentParser(prog="python -m ensemble.publish.index", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=settings.bundle, help="the bundle's folder")
    parser.add_argument(
        "--keep", type=int, default=settings.keep_bundles, help="bundles that stay, this one included"
    )
    parser.add_argument(
        "--force", action="store_true", help="even where Redis has not the features that the bundle reads"
    )
    chosen = parser.parse_args(arguments)
    if chosen.keep < 1:
        parser.error("--keep must be at least 1")
    started = time.monotonic()
    try:
        manifest = read_manifest(chosen.bundle, verify=False)
        redis = connect(settings.redis_url, TIMEOUT_MS)
        clients = NodeClients(redis, settings.redis_url, TIMEOUT_MS)
        is_new = redis.zscore(bundles_key(manifest.dataset), manifest.bundle) is None
        if is_new and not chosen.force:
            ids = np.load(chosen.bundle / bundle_files.ITEM_IDS_FILE, allow_pickle=False)
            check_features(redis, manifest, read_dataset(chosen.bundle), ids)
        built = build_index(
            redis,
            chosen.bundle,
            chosen.keep,
            accept=partial(_fit_to_search, chosen.bundle, redis, settings),
            served=_served(redis, settings.bundle),
            clients=clients,
            nodes=settings.nodes,
        )
    except (
        *(BundleError, DatasetError, FeaturesMissing),
        *(IndexBuildError, NodeFault, RecallError, RoutingError),
    ) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except RedisError as error:
        sys.stderr.write(f"Redis at {settings.redis_url.address}: {explain_redis(error)}\n")
        return 1
    indexed: Any = redis.zrange(bundles_key(manifest.dataset), 0, -1)
    drop_graphs(settings.var_dir, {name.decode() for name in indexed})
    seconds = time.monotonic() - started
    done = f"{manifest.items} items indexed in {seconds:.1f} s" if built else "indexed already"
    sys.stdout.write(f"{manifest.bundle}: {done}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
