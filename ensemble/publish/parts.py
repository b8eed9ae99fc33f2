"""The parts of a bundle's index, one on each node that holds vectors of it: declared, waited for, dropped."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from contract.bundle import Manifest
from contract.filters import has_range
from contract.keys import TAG_SEPARATOR, index_name, item_vector_prefix, number_field
from ensemble.publish.places import Places, named
from ensemble.stores.index_watch import index_info, pause_s
from ensemble.stores.vectors import VECTOR_FIELD, number_alias, tags_alias

CHUNK = 1000
"""Keys that are deleted at a time."""
POLL_S = 0.05
PATIENCE_S = 600.0
"""Seconds without another item in the index, after which it is given up."""


class IndexBuildError(RuntimeError):
    """Says why the index was not built, and what to do."""


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


def are_parts_built(places: Places, patience_s: float = PATIENCE_S) -> bool:
    """Tells whether each node has indexed every item that it is to hold.

    A Redis that was restarted indexes its items anew, which is waited for while it gets on.
    """
    for node in places.placement.written:
        with _named(places, node):
            if not _is_built(places.clients.of(node), places.manifest, places.whole(node), patience_s):
                return False
    return True


def drop_part(redis: Redis, bundle: str) -> None:
    """Deletes what one node has of a bundle's index."""
    with contextlib.suppress(ResponseError):  # there was none
        _command(redis, "FT.DROPINDEX", index_name(bundle))
    unlink(redis, item_vector_prefix(bundle))


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


def _is_built(redis: Redis, manifest: Manifest, items: int, patience_s: float) -> bool:
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
    while (began := time.monotonic()) - added <= patience_s:
        info = index_info(redis, bundle)
        found = int(info["num_docs"])
        if found > most:
            most, added = found, began
        yield found, not float(info["indexing"]), int(info.get("hash_indexing_failures", 0))
        # Looking costs Redis' one thread: without a rest the items of a large graph came in at a fifth.
        time.sleep(pause_s(time.monotonic() - began, POLL_S))


def _named(places: Places, node: str) -> AbstractContextManager[None]:
    """Names a node that fails, where there are several."""
    return contextlib.nullcontext() if places.is_alone else named(node)


def unlink(redis: Redis, prefix: str) -> None:
    """Deletes all keys that begin so."""
    keys = iter(redis.scan_iter(match=f"{prefix}*", count=CHUNK))
    while chunk := [*islice(keys, CHUNK)]:
        redis.unlink(*chunk)


def _command(redis: Redis, *arguments: str | int) -> Any:
    run: Any = redis.execute_command
    return run(*arguments)
