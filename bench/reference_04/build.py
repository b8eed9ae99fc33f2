"""Builds reference 04: users as hashes, items with features and vector in one index, the Triton repository.

Runs in the training environment: `python -m bench.reference_04.build --help`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from redis import Redis
from redis.commands.search.field import VectorField
from redis.commands.search.indexDefinition import IndexDefinition, IndexType

from bench.references.build import CANDIDATES, REQUEST, Given, arguments, finish, write_stages
from bench.references.repository import Stage
from bench.references.rows import Rows
from contract.bundle import ITEM_IDS_FILE, ITEM_VECTORS_FILE

HERE = Path(__file__).parent
USERS, ITEMS, INDEX = "reference_04:user:", "reference_04:item:", "reference_04:items"
CHUNK = 1000


def build(given: Given) -> None:
    """Writes everything into the target folder and Redis."""
    redis = Redis.from_url(os.environ["SHORTLIST_REDIS_URL"])
    _write(redis, USERS, _hashes(given.users))
    _write(redis, ITEMS, _items(given))
    _create_index(redis, given)

    write_stages(
        given,
        lookup=Stage(
            "query-user-features",
            HERE / "user_features.py",
            (REQUEST,),
            (*given.user_tensors, *given.raw_tensors),
            {"prefix": USERS},
        ),
        candidates=(
            Stage(
                "redis-vss-candidates",
                HERE / "knn.py",
                (given.vector,),
                (CANDIDATES, *given.item_tensors),
                {"index": INDEX, "k": given.k},
                instances=4,
            ),
        ),
    )
    finish(given)


def _create_index(redis: Redis, given: Given) -> None:
    """The same kind of index with the same settings as the bundle's own."""
    spec = given.manifest.index
    settings: dict[str, Any] = {
        "TYPE": "FLOAT32",
        "DIM": given.manifest.vector_width,
        "DISTANCE_METRIC": "IP",
    }
    if spec.kind == "HNSW":
        settings |= {"M": spec.m, "EF_CONSTRUCTION": spec.ef_construction, "EF_RUNTIME": spec.ef_runtime}
    definition = IndexDefinition(prefix=[ITEMS], index_type=IndexType.HASH)
    redis.ft(INDEX).create_index([VectorField("vector", spec.kind, settings)], definition=definition)


def _items(given: Given) -> Iterator[tuple[int, dict[str, Any]]]:
    vectors = np.load(given.bundle / ITEM_VECTORS_FILE).astype("<f4")
    vector_of = dict(zip(np.load(given.bundle / ITEM_IDS_FILE).tolist(), vectors, strict=True))
    for item_id, columns in _hashes(given.items):
        if item_id in vector_of:
            yield item_id, columns | {CANDIDATES.name: item_id, "vector": vector_of[item_id].tobytes()}


def _hashes(rows: Rows) -> Iterator[tuple[int, dict[str, Any]]]:
    """One field per tensor, as text: numbers with commas between."""
    for row, key in enumerate(rows.ids.tolist()):
        yield key, {name: ",".join(map(str, a[row].tolist())) for name, a in rows.tensors.items()}


def _write(redis: Redis, prefix: str, hashes: Iterator[tuple[int, dict[str, Any]]]) -> None:
    pipe = redis.pipeline(transaction=False)
    for count, (key, columns) in enumerate(hashes, start=1):
        mapping: dict[Any, Any] = columns
        pipe.hset(f"{prefix}{key}", mapping=mapping)
        if count % CHUNK == 0:
            pipe.execute()
    pipe.execute()


if __name__ == "__main__":
    build(arguments(__doc__))
