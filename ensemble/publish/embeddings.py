"""Brings the tables that a bundle has beside its models to the levels that serve them."""

from __future__ import annotations

import json
from typing import Any

from redis import Redis

from contract.keys import embedding_block_key, embedding_rows_key, embedding_updates_key
from ensemble.bundle import LoadedBundle
from ensemble.settings import EnsembleSettings
from ensemble.stores.embeddings.disk import EmbeddingDisk, TableRows
from ensemble.stores.embeddings.level import RowKeys
from ensemble.stores.embeddings.redis import PARTITIONS, RedisRows

CHUNK = 4_096
"""Rows that Redis is given at a time."""
COLUMNS = ("user_id", "item_id")


def build_embeddings(bundle: LoadedBundle, settings: EnsembleSettings) -> bool:
    """Writes a bundle's tables to the disk; False where it has none, or they are there.

    Raises:
        EmbeddingError: there is no room; what was there stays.
    """
    manifest, tables = bundle.manifest, {}
    for table in manifest.tables:
        mapped = bundle.embeddings.tables[table.column]
        ids, codes = mapped.known
        tables[table.column] = TableRows(ids, codes, mapped.rows)
    made_of = ",".join(manifest.checksums[table.file] for table in manifest.tables)
    return bool(tables) and EmbeddingDisk.build(settings.embeddings_of(manifest.bundle), tables, made_of)


def warm_redis(redis: Redis, bundle: LoadedBundle, settings: EnsembleSettings) -> int:
    """Gives Redis the rows of the most frequent ids, as many as it may hold; says how many.

    Raises:
        RedisError: Redis does not answer, or is full.
    """
    limit, count = settings.embeddings.redis_rows, 0
    for table in bundle.manifest.tables if limit else ():
        trained = bundle.embeddings.tables[table.column]
        ids, codes = trained.known
        rows = RedisRows(redis, bundle.manifest.bundle, table.column, table.width, limit)
        for start in range(0, min(limit, len(ids)), CHUNK):
            some = slice(start, min(start + CHUNK, limit))
            rows.write(RowKeys.trained(ids[some]), trained.rows[codes[some]])
            count += len(ids[some])
    return count


def drop_embeddings(redis: Redis, bundle: str) -> None:
    """Deletes what Redis holds of a bundle's tables and of their updates; nothing where there is nothing."""
    redis.unlink(*(embedding_rows_key(bundle, column, at) for column in COLUMNS for at in range(PARTITIONS)))
    sent: Any = redis.xrange(embedding_updates_key(bundle))
    for _, fields in sent:
        update = json.loads(fields[b"update"])
        redis.unlink(*(embedding_block_key(bundle, update["token"], at) for at in range(update["blocks"])))
    redis.unlink(embedding_updates_key(bundle))
