"""`python -m ensemble.publish.index`: puts a bundle's item vectors and cards into Redis, beside those
that are serving."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
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
from contract.filters import has_range
from contract.keys import (
    TAG_SEPARATOR,
    bundles_key,
    encode_card,
    index_name,
    index_nodes_key,
    index_search_key,
    item_card_key,
    item_card_prefix,
    item_vector_prefix,
    number_field,
)
from contract.placement import IndexPlacement
from contract.routing import RoutingError
from ensemble.publish.embeddings import drop_embeddings
from ensemble.publish.features import FeaturesMissing, check_features
from ensemble.publish.fields import card_of, item_fields
from ensemble.publish.graph import drop_graphs, prepare_graph
from ensemble.publish.live_items import write_live_items
from ensemble.publish.places import SETTING, NodeFault, Places, check_nodes, named, placement_of
from ensemble.publish.recall import RecallError, choose_breadth
from ensemble.settings import IndexEngine, load_settings
from ensemble.stores.client import connect
from ensemble.stores.index_watch import IndexWatch, index_info, pause_s
from ensemble.stores.nodes import IndexNodes, NodeClients
from ensemble.stores.routing import read_routing
from ensemble.stores.vectors import VECTOR_FIELD, number_alias, tags_alias

CHUNK = 1000
POLL_S = 0.05
PATIENCE_S = 600.0
"""Seconds without another item in the index, after which it is given up."""
TIMEOUT_MS = 60_000


class IndexBuildError(RuntimeError):
    """Says why the index was not built, and what to do."""


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
    if is_built(places, patience_s):
        _check_moved(places, nodes)
        write_live_items(places, folder)  # whoever built it may have died before
        accept(manifest)
        return False
    drop_bundle(redis, manifest.bundle, clients)
    for node in nodes:  # one that was away may have kept something
        drop_part(clients.of(node), manifest.bundle)
    places.put(IndexPlacement(nodes))
    try:
        _write_items(places, folder)
        create_parts(places, nodes)
        wait_for_parts(places, nodes, patience_s)
    except ResponseError as error:
        drop_bundle(redis, manifest.bundle, clients)
        hint = "; start Redis with its search module" if "unknown command" in str(error).lower() else ""
        raise IndexBuildError(f"Redis refused the index of {manifest.bundle}: {error}{hint}") from error
    except (IndexBuildError, NodeFault):
        drop_bundle(redis, manifest.bundle, clients)
        raise
    built = bundles_key(manifest.dataset)
    newest: Any = redis.zrange(built, -1, -1, withscores=True)
    # A clock that was put back makes no bundle older than those before it.
    redis.zadd(built, {manifest.bundle: max([time.time(), *(at_s + 1 for _, at_s in newest)])})
    write_live_items(places, folder)
    accept(manifest)
    known = [name.decode() for name in _command(redis, "ZRANGE", built, 0, -1)]
    spare = [name for name in known if name not in {*served, manifest.bundle}]
    for old in spare[: max(0, min(len(spare), len(known) - keep))]:
        drop_bundle(redis, old, clients)
        redis.zrem(built, old)
    return True


def is_built(places: Places, patience_s: float = PATIENCE_S) -> bool:
    """Tells whether the bundle was built before and every item is still there.

    A Redis that was restarted indexes its items anew, which is waited for while it gets on.
    """
    manifest = places.manifest
    if places.home.zscore(bundles_key(manifest.dataset), manifest.bundle) is None:
        return False
    for node in places.placement.written:
        with _named(places, node):
            if not _is_part_built(places.clients.of(node), manifest, places.whole(node), patience_s):
                return False
    return True


def _is_part_built(redis: Redis, manifest: Manifest, items: int, patience_s: float) -> bool:
    try:
        declared = index_info(redis, manifest.bundle).get("attributes", ())
        known = {one for attribute in declared for one in attribute if isinstance(one, bytes)}
        if not known >= {name.encode() for name in _aliases(manifest)}:  # built by an earlier version
            return False
        for found, is_over, _ in _looks(redis, manifest.bundle, patience_s):
            if is_over:
                return found >= items
    except ResponseError:  # there is no such index
        pass
    return False


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


def create_parts(places: Places, nodes: Sequence[str]) -> None:
    """Declares the index on each of these nodes where it is not declared yet; they build it at the same time.

    Raises:
        NodeFault: one does not answer.
        ResponseError: one refuses it.
    """
    for node in nodes:
        redis = places.clients.of(node)
        with _named(places, node):
            try:
                index_info(redis, places.manifest.bundle)
            except ResponseError:  # there is none
                _command(redis, *create_command(places.manifest))


def wait_for_parts(places: Places, nodes: Sequence[str], patience_s: float = PATIENCE_S) -> None:
    """Waits until each of these nodes has indexed its items.

    Raises:
        NodeFault: one does not answer.
        IndexBuildError: one does not get on.
    """
    for node in nodes:
        with _named(places, node):
            _wait(places.clients.of(node), places.manifest, places.whole(node), patience_s)


def _named(places: Places, node: str) -> AbstractContextManager[None]:
    """Names a node that fails, where there are several."""
    return contextlib.nullcontext() if places.is_alone else named(node)


def create_command(manifest: Manifest) -> tuple[str | int, ...]:
    """Writes FT.CREATE: exact search (FLAT) or a graph (HNSW) over inner products, and the filterable
    columns."""
    spec = manifest.index
    vector: list[str | int] = ["TYPE", "FLOAT32", "DIM", manifest.vector_width, "DISTANCE_METRIC", "IP"]
    if spec.kind == "FLAT":
        vector += ["INITIAL_CAP", max(1, manifest.items)]
    else:
        vector += ["M", spec.m, "EF_CONSTRUCTION", spec.ef_construction, "EF_RUNTIME", spec.ef_runtime]
    fields: list[str | int] = [VECTOR_FIELD, "VECTOR", spec.kind, len(vector), *vector]
    for column, dtype in manifest.filters.items():
        fields += [column, "AS", tags_alias(manifest.filters, column), "TAG", "SEPARATOR", TAG_SEPARATOR]
        if has_range(dtype):
            fields += [number_field(column), "AS", number_alias(manifest.filters, column), "NUMERIC"]
    prefix = item_vector_prefix(manifest.bundle)
    create = ("FT.CREATE", index_name(manifest.bundle), "ON", "HASH", "PREFIX", 1, prefix)
    return (*create, "STOPWORDS", 0, "SCHEMA", *fields)


def _aliases(manifest: Manifest) -> Iterator[str]:
    for column, dtype in manifest.filters.items():
        yield tags_alias(manifest.filters, column)
        if has_range(dtype):
            yield number_alias(manifest.filters, column)


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
    _unlink(redis, item_card_prefix(bundle))


def drop_part(redis: Redis, bundle: str) -> None:
    """Deletes what one node has of a bundle's index."""
    with contextlib.suppress(ResponseError):  # there was none
        _command(redis, "FT.DROPINDEX", index_name(bundle))
    _unlink(redis, item_vector_prefix(bundle))


def _unlink(redis: Redis, *prefixes: str) -> None:
    for prefix in prefixes:
        keys = redis.scan_iter(match=f"{prefix}*", count=CHUNK)
        for chunk in _chunks(keys):
            redis.unlink(*chunk)


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


def _wait(redis: Redis, manifest: Manifest, items: int, patience_s: float) -> None:
    found = failures = 0
    for found, is_over, failures in _looks(redis, manifest.bundle, patience_s):
        if is_over and found >= items:
            return
        if is_over and failures:
            break
    raise IndexBuildError(
        f"{index_name(manifest.bundle)}: {found} of {items} items were indexed, {failures} "
        f"failed; compare vector_width in the manifest with item_vectors.npy, and train again"
    )


def _looks(redis: Redis, bundle: str, patience_s: float) -> Iterator[tuple[int, bool, int]]:
    """Looks at an index again and again: how many items it holds, whether indexing is over, and how many
    failed. Ends once nothing was added for `patience_s` seconds: a large graph takes hours, and gets on.

    Raises:
        ResponseError: there is no such index.
    """
    most, added = -1, time.monotonic()
    while (asked := time.monotonic()) - added <= patience_s:
        info = index_info(redis, bundle)
        found = int(info["num_docs"])
        if found > most:
            most, added = found, asked
        yield found, not float(info["indexing"]), int(info.get("hash_indexing_failures", 0))
        # Looking costs Redis' one thread: without a rest the items of a large graph came in at a fifth.
        time.sleep(pause_s(time.monotonic() - asked, POLL_S))


def _command(redis: Redis, *arguments: str | int) -> Any:
    run: Any = redis.execute_command
    return run(*arguments)


def _chunks(keys: Any) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    for key in keys:
        chunk.append(key)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _served(redis: Redis, current: Path) -> tuple[str, ...]:
    """Names the bundles that are served, or at hand for a rollback; none where nothing was promoted."""
    return read_routing(redis, current).routing.bundles if current.exists() else ()


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

        def accept(manifest: Manifest) -> None:
            if settings.index_engine is IndexEngine.USEARCH:
                prepare_graph(chosen.bundle, manifest, settings, _say)
                return
            k, target, head = settings.k, settings.recall_target, settings.head_items
            ids = np.load(chosen.bundle / bundle_files.ITEM_IDS_FILE, allow_pickle=False)
            watch = IndexWatch(redis, manifest.bundle, manifest.items)
            asked = (manifest.bundle, ids, watch, TIMEOUT_MS, bool(manifest.filters))
            nodes = IndexNodes(redis, settings.redis_url, *asked)
            choose_breadth(redis, chosen.bundle, manifest, k, target, _say, head, nodes)

        built = build_index(
            redis,
            chosen.bundle,
            chosen.keep,
            accept=accept,
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
    kept: Any = redis.zrange(bundles_key(manifest.dataset), 0, -1)
    drop_graphs(settings.var_dir, {name.decode() for name in kept})
    seconds = time.monotonic() - started
    done = f"{manifest.items} items indexed in {seconds:.1f} s" if built else "indexed already"
    sys.stdout.write(f"{manifest.bundle}: {done}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
